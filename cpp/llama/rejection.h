#pragma once

#include <vector>

#include "core/models.h"
#include "llama/drafter.h"
#include "llama/shaping.h"
#include "llama/verifier.h"

namespace dflash {

/// Speculative rejection sampling: drafts are drawn from the drafter's distribution q, and one is
/// accepted with the chance min(1, p / q) under the verifier's p, as the caller's own chain of
/// llama_samplers makes it; else the token is drawn from what p has more than q. The answer is
/// distributed as plain sampling (Leviathan et al., 2023, arXiv:2211.17192, theorem 1), but a seed
/// gives other tokens.
///
/// For one step. Rows whose draft was not drawn by redraw() are sampled as ever.
class RejectionSampler : public Sampler {
 public:
  /// Whether the chain ends in a draw from its distribution: greedy and mirostat do not. DFlash2
  /// has no logits to draw from.
  static bool applies(const LlamaDrafter* drafter, llama_sampler* chain);

  RejectionSampler(const LlamaVerifier& verifier, const LlamaDrafter& drafter,
                   llama_sampler* chain);

  void redraw(Draft& draft) override;
  bool redraws() const override { return true; }
  size_t n_possible(const std::vector<Token>& drafts) const override;
  Token sample(int32_t row) override;

 private:
  struct Proposal {
    Token token;
    std::vector<llama_token_data> q;  ///< the candidates it was drawn from, .p adds up to 1
  };

  Token verify(llama_token_data_array& p, const Proposal& proposal) const;
  bool happens(double chance) const;

  const LlamaVerifier& verifier_;
  const LlamaDrafter& drafter_;
  llama_sampler* chain_;
  Shaping shaping_;
  int32_t n_shaping_;  ///< samplers of the chain before the one that draws
  std::vector<Proposal> proposals_;
  std::vector<llama_token_data> candidates_;
};

}  // namespace dflash
