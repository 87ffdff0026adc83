#pragma once

#include <cstdint>
#include <vector>

namespace dflash {

/// Where a context's features come from: the inputs of some of its layers.
class Tap {
 public:
  virtual ~Tap() = default;
  /// Whether decodes from here on give rows; at first they do not. A change is not for each step.
  virtual void set(bool on) = 0;
  /// A decode of so many rows, all of one sequence, begins; and it has ended, well or not.
  virtual void begin(int32_t n_rows) { (void)n_rows; }
  virtual void end() {}
  /// The inputs of the k-th of the layers in the last decode, [n_rows, n_embd], in the batch's
  /// order. Throws BackendError where libllama did not give them.
  virtual const float* rows(size_t k) = 0;
};

}  // namespace dflash
