#pragma once

#include <cstdint>

namespace dflash {

/// The k most likely tokens of a row of logits, best first, with their log probabilities.
/// 1 <= k <= n; of equal logits the first is the better, as in llama.cpp's greedy sampler.
void top_k(const float* logits, int32_t n, int32_t k, int32_t* ids, float* log_probs);

/// The most likely token of a row, and how likely it is.
struct Likeliest {
  int32_t id;
  float probability;
};

Likeliest likeliest(const float* logits, int32_t n);

}  // namespace dflash
