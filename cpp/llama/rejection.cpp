#include "llama/rejection.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "core/errors.h"
#include "llama/sampler.h"

namespace dflash {

namespace {

// Any q is right: what is less likely for the drafter is not worth the sorting.
constexpr int32_t kCandidates = DeviceTopK::kMost;

// Sharper than the drafter's own distribution: a weak drafter's likeliest token is right more often
// than it says, and a good one's loses little. Any sharpness leaves the answers' distribution.
constexpr float kSharpness = 1.5F;

// Of the samplers that give a distribution its shape, those that look at nothing but the row:
// penalties and grammars know the text up to the anchor, not up to a draft's place.
bool knows_no_text(std::string_view name) {
  constexpr std::array<std::string_view, 6> kNames = {"top-k", "top-p",    "min-p",
                                                      "temp",  "temp-ext", "top-n-sigma"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

llama_token_data_array array_of(std::vector<llama_token_data>& candidates, bool sorted) {
  return {candidates.data(), candidates.size(), -1, sorted};
}

void normalize(llama_token_data_array& candidates) {
  float best = candidates.data[0].logit;
  for (size_t i = 1; i < candidates.size; ++i) best = std::max(best, candidates.data[i].logit);
  double sum = 0;
  for (size_t i = 0; i < candidates.size; ++i) {
    candidates.data[i].p = std::exp(candidates.data[i].logit - best);
    sum += candidates.data[i].p;
  }
  for (size_t i = 0; i < candidates.size; ++i) {
    candidates.data[i].p = static_cast<float>(candidates.data[i].p / sum);
  }
}

template <class Candidates>
float probability(const Candidates& begin, const Candidates& end, Token token) {
  const auto found =
      std::find_if(begin, end, [=](const llama_token_data& c) { return c.id == token; });
  return found == end ? 0.0F : found->p;
}

}  // namespace

bool RejectionSampler::applies(const LlamaDrafter* drafter, llama_sampler* chain) {
  if (drafter == nullptr || drafter->options().kind == DrafterKind::dflash2) return false;
  if (!is_chain(chain)) return false;
  const int32_t n = api().llama_sampler_chain_n(chain);
  return n > 0 && name_in(chain, n - 1) == "dist";
}

RejectionSampler::RejectionSampler(const LlamaVerifier& verifier, const LlamaDrafter& drafter,
                                   llama_sampler* chain)
    : verifier_(verifier),
      drafter_(drafter),
      chain_(chain),
      shaping_(chain, verifier.n_vocab(), Shaping::Wanted::distribution),
      n_shaping_(api().llama_sampler_chain_n(chain) - 1) {}

size_t RejectionSampler::n_possible(const std::vector<Token>& drafts) const {
  return shaping_.n_allowed(drafts, [&](Token token) { return verifier_.is_eog(token); });
}

void RejectionSampler::redraw(Draft& draft) {
  for (size_t row = 0; row < draft.tokens.size(); ++row) {
    drafter_.likeliest_of(static_cast<int32_t>(row), kCandidates, candidates_);
    llama_token_data_array candidates = array_of(candidates_, /*sorted=*/true);
    for (int32_t i = 0; i < n_shaping_; ++i) {
      if (!knows_no_text(name_in(chain_, i))) continue;
      api().llama_sampler_apply(api().llama_sampler_chain_get(chain_, i), &candidates);
    }
    for (size_t i = 0; i < candidates.size; ++i) candidates.data[i].logit *= kSharpness;
    draft.tokens[row] = shaping_.choose(candidates);
    proposals_.push_back({draft.tokens[row], {candidates.data, candidates.data + candidates.size}});
  }
}

Token RejectionSampler::sample(int32_t row) {
  llama_token_data_array candidates = shaping_.shape(verifier_.logits(row));
  if (candidates.size == 0) throw BackendError("the sampler chain left no token to choose from");
  const bool proposed = row >= 0 && static_cast<size_t>(row) < proposals_.size();
  const Token token = proposed ? verify(candidates, proposals_[static_cast<size_t>(row)])
                               : shaping_.choose(candidates);
  api().llama_sampler_accept(chain_, token);
  return token;
}

Token RejectionSampler::verify(llama_token_data_array& p, const Proposal& proposal) const {
  const auto& q = proposal.q;
  normalize(p);
  const double chance = static_cast<double>(probability(p.data, p.data + p.size, proposal.token)) /
                        probability(q.begin(), q.end(), proposal.token);
  if (happens(chance)) return proposal.token;
  size_t n_left = 0;
  for (size_t i = 0; i < p.size; ++i) {
    const float left = p.data[i].p - probability(q.begin(), q.end(), p.data[i].id);
    if (left > 0) p.data[n_left++] = {p.data[i].id, std::log(left), 0.0F};
  }
  // None is left where p and q are the same but for rounding: then a draw from p is one from q.
  if (n_left > 0) p.size = n_left;
  p.sorted = false;
  return shaping_.choose(p);
}

// The chain's own generator draws, so that the caller's seed decides.
bool RejectionSampler::happens(double chance) const {
  if (chance >= 1) return true;
  std::array<llama_token_data, 2> outcomes = {{{1, static_cast<float>(std::log(chance)), 0.0F},
                                               {0, static_cast<float>(std::log1p(-chance)), 0.0F}}};
  llama_token_data_array candidates = {outcomes.data(), outcomes.size(), -1, false};
  return shaping_.choose(candidates) == 1;
}

}  // namespace dflash
