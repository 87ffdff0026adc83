#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "llama/api.h"

namespace dflash {

/// A llama_batch of one sequence, its arrays kept from call to call.
class Batch {
 public:
  explicit Batch(llama_seq_id sequence) : sequence_(sequence) {}

  /// Tokens at positions pos, pos + 1, ...
  llama_batch tokens(const int32_t* tokens, int32_t n, int32_t pos, bool all_rows, bool last_row) {
    tokens_.assign(tokens, tokens + n);
    reserve_rows(n);
    fill_positions(n, pos, 1);
    logits_.assign(static_cast<size_t>(n), all_rows ? 1 : 0);
    if (last_row) logits_.back() = 1;
    return {n,
            tokens_.data(),
            nullptr,
            positions_.data(),
            ones_.data(),
            sequences_.data(),
            logits_.data()};
  }

  /// Rows of embeddings, without outputs. M-RoPE models take four positions a row, [4, n].
  llama_batch embeddings(const float* rows, int32_t n, int32_t pos, bool mrope) {
    reserve_rows(n);
    fill_positions(n, pos, mrope ? 4 : 1);
    if (mrope) std::fill(positions_.begin() + 3 * n, positions_.end(), 0);
    logits_.assign(static_cast<size_t>(n), 0);
    return {n,
            nullptr,
            const_cast<float*>(rows),
            positions_.data(),
            ones_.data(),
            sequences_.data(),
            logits_.data()};
  }

 private:
  void reserve_rows(int32_t n) {
    ones_.assign(static_cast<size_t>(n), 1);
    sequences_.assign(static_cast<size_t>(n), &sequence_);
  }

  void fill_positions(int32_t n, int32_t pos, int32_t axes) {
    positions_.clear();
    for (int32_t axis = 0; axis < axes; ++axis) {
      for (int32_t i = 0; i < n; ++i) positions_.push_back(pos + i);
    }
  }

  llama_seq_id sequence_;
  std::vector<llama_token> tokens_;
  std::vector<llama_pos> positions_;
  std::vector<int32_t> ones_;
  std::vector<llama_seq_id*> sequences_;
  std::vector<int8_t> logits_;
};

}  // namespace dflash
