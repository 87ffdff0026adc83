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

}  // namespace dflash
