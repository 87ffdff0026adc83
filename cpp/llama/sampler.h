#pragma once

#include <algorithm>
#include <cstdint>

#include "core/models.h"
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
  ChainSampler(const LlamaVerifier& verifier, llama_sampler* chain)
      : verifier_(verifier), chain_(chain) {}

  Token sample(int32_t row) override {
    verifier_.logits(row);  // llama_sampler_sample asserts that they are there
    return api().llama_sampler_sample(chain_, verifier_.context(), row);
  }

 private:
  const LlamaVerifier& verifier_;
  llama_sampler* chain_;
};

}  // namespace dflash
