#pragma once

#include <algorithm>
#include <cstdint>

#include "core/models.h"
#include "llama/shaping.h"
#include "llama/verifier.h"

namespace dflash {

/// Index of the largest of n values, the first of equals, as llama.cpp's greedy sampler.
int32_t argmax(const float* values, int32_t n);

/// Takes the most likely token.
class GreedySampler : public Sampler {
 public:
  explicit GreedySampler(const LlamaVerifier& verifier) : verifier_(verifier) {}
  Token sample(int32_t row) override { return argmax(verifier_.logits(row), verifier_.n_vocab()); }

 private:
  const LlamaVerifier& verifier_;
};

/// The caller's own llama_sampler chain: it accepts the tokens that are emitted, and no others.
class ChainSampler : public Sampler {
 public:
  ChainSampler(const LlamaVerifier& verifier, llama_sampler* chain);

  size_t n_possible(const std::vector<Token>& drafts) const override;
  Token sample(int32_t row) override;

 private:
  Token choose(const float* logits);

  const LlamaVerifier& verifier_;
  llama_sampler* chain_;
  Shaping shaping_;
  bool greedy_;  ///< it takes the most likely token, whatever came before
};

}  // namespace dflash
