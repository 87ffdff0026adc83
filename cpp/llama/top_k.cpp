#include "llama/top_k.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace dflash {

namespace {

// Most blocks of a vocabulary hold nothing that belongs to the best: a look at their maximum,
// which compilers vectorise, is all they cost.
constexpr int32_t kBlock = 64;

float largest(const float* values, int32_t n) {
  float best = values[0];
  for (int32_t i = 1; i < n; ++i) best = values[i] > best ? values[i] : best;
  return best;
}

double log_sum_exp(const float* values, int32_t n, float maximum) {
  double sum = 0;
  for (int32_t first = 0; first < n; first += kBlock) {
    float part = 0;
    const int32_t end = std::min(n, first + kBlock);
    for (int32_t i = first; i < end; ++i) part += std::exp(values[i] - maximum);
    sum += part;
  }
  return maximum + std::log(sum);
}

// What is so far below the best adds nothing to a sum that matters.
constexpr float kNegligible = 12.0F;

}  // namespace

Likeliest likeliest(const float* logits, int32_t n) {
  std::vector<float> maxima;  // of blocks
  maxima.reserve(static_cast<size_t>(n / kBlock + 1));
  for (int32_t first = 0; first < n; first += kBlock) {
    maxima.push_back(largest(logits + first, std::min(kBlock, n - first)));
  }
  const auto best = std::max_element(maxima.begin(), maxima.end());
  const auto in_block = static_cast<int32_t>(best - maxima.begin()) * kBlock;
  const float* found = std::find(logits + in_block, logits + n, *best);
  if (found == logits + n) return {0, 0.0F};  // nothing but NaN
  float sum = 0;
  for (size_t block = 0; block < maxima.size(); ++block) {
    if (maxima[block] < *best - kNegligible) continue;
    const auto first = static_cast<int32_t>(block) * kBlock;
    const int32_t end = std::min(n, first + kBlock);
    for (int32_t i = first; i < end; ++i) sum += std::exp(logits[i] - *best);
  }
  return {static_cast<int32_t>(found - logits), 1 / sum};
}

std::vector<int32_t> top_k(const float* logits, int32_t n, int32_t k) {
  const auto better = [&](int32_t a, int32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  std::vector<int32_t> heap(static_cast<size_t>(k));  // the worst of the best on top
  std::iota(heap.begin(), heap.end(), 0);
  std::make_heap(heap.begin(), heap.end(), better);
  for (int32_t first = k; first < n; first += kBlock) {
    const int32_t end = std::min(n, first + kBlock);
    if (largest(logits + first, end - first) <= logits[heap.front()]) continue;
    for (int32_t i = first; i < end; ++i) {
      if (logits[i] <= logits[heap.front()]) continue;
      std::pop_heap(heap.begin(), heap.end(), better);
      heap.back() = i;
      std::push_heap(heap.begin(), heap.end(), better);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), better);
  return heap;
}

void top_k(const float* logits, int32_t n, int32_t k, int32_t* ids, float* log_probs) {
  const std::vector<int32_t> best = top_k(logits, n, k);
  const double total = log_sum_exp(logits, n, logits[best.front()]);
  for (const int32_t id : best) {
    *ids++ = id;
    *log_probs++ = static_cast<float>(logits[id] - total);
  }
}

}  // namespace dflash
