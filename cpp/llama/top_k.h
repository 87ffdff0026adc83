#pragma once

#include <cstdint>
#include <vector>

namespace dflash {

/// The k most likely tokens of a row of logits, best first; 1 <= k <= n. Of equal logits the first
/// is the better, as in llama.cpp's greedy sampler.
std::vector<int32_t> top_k(const float* logits, int32_t n, int32_t k);

/// The same with their log probabilities, into ids and log_probs [k].
void top_k(const float* logits, int32_t n, int32_t k, int32_t* ids, float* log_probs);

/// The most likely token of a row, and how likely it is.
struct Likeliest {
  int32_t id;
  float probability;
};

Likeliest likeliest(const float* logits, int32_t n);

}  // namespace dflash
