#include "llama/sampler.h"

namespace dflash {

int32_t argmax(const float* values, int32_t n) {
  // Blocks small enough to stay in cache: a maximum without branches, which compilers vectorise,
  // then one look for its place.
  constexpr int32_t kLanes = 16;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, values[0]);
  int32_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int32_t j = 0; j < kLanes; ++j) {
      lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
    }
  }
  float best = *std::max_element(lanes, lanes + kLanes);
  for (; i < n; ++i) best = values[i] > best ? values[i] : best;
  const float* found = std::find(values, values + n, best);
  return found == values + n ? 0 : static_cast<int32_t>(found - values);
}

namespace {

bool is_greedy(llama_sampler* chain) {
  if (!is_chain(chain)) return false;
  const int32_t last = api().llama_sampler_chain_n(chain) - 1;
  if (last < 0 || name_in(chain, last) != "greedy") return false;
  for (int32_t i = 0; i < last; ++i) {
    if (is_active(chain, i)) return false;
  }
  return true;
}

}  // namespace

ChainSampler::ChainSampler(const LlamaVerifier& verifier, llama_sampler* chain)
    : verifier_(verifier),
      chain_(chain),
      shaping_(chain, verifier.n_vocab(), Shaping::Wanted::choice),
      greedy_(is_greedy(chain)) {}

size_t ChainSampler::n_possible(const std::vector<Token>& drafts) const {
  return shaping_.n_allowed(drafts, [&](Token token) { return verifier_.is_eog(token); });
}

Token ChainSampler::sample(int32_t row) {
  const float* logits = verifier_.logits(row);  // llama_sampler_sample asserts that they are there
  if (!greedy_ && !shaping_.has_grammar() && !shaping_.is_quick()) {
    return api().llama_sampler_sample(chain_, verifier_.context(), row);
  }
  const Token token = greedy_ ? argmax(logits, verifier_.n_vocab()) : choose(logits);
  api().llama_sampler_accept(chain_, token);
  return token;
}

Token ChainSampler::choose(const float* logits) {
  llama_token_data_array candidates = shaping_.shape(logits);
  return shaping_.choose(candidates);
}

}  // namespace dflash
