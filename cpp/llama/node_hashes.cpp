#include "llama/node_hashes.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace dflash {

namespace {

// What attention, a recurrent part and a layer give: [.., n_rows], a row by itself each. libllama's
// graphs name their nodes so, and append the layer. Not more: threads meet after each of them.
constexpr std::array<std::string_view, 5> kNames = {"kqv_out", "l_out", "linear_attn_out",
                                                    "mamba_out", "mamba2_y_add_d"};

}  // namespace

void NodeHashes::begin(int32_t n_rows) {
  rows_.assign(static_cast<size_t>(n_rows), Row());
  n_taken_.clear();
}

uint64_t NodeHashes::seen(int32_t row) const {
  watch_.rethrow();
  return rows_.at(static_cast<size_t>(row)).hash;
}

bool NodeHashes::wants(const ggml_tensor* node) const {
  if (rows_.empty()) return false;
  const std::string_view name = watch_.functions().get_name(node);
  const size_t end = name.rfind('-');
  if (end == std::string_view::npos) return false;
  const bool known = std::find(kNames.begin(), kNames.end(), name.substr(0, end)) != kNames.end();
  return known && watch_.functions().is_contiguous(node);
}

// A decode comes in micro-batches: the rows of a node that were not taken yet follow.
void NodeHashes::take(const ggml_tensor* node) {
  const std::string name = watch_.functions().get_name(node);
  bytes_.resize(watch_.functions().nbytes(node));
  watch_.functions().backend_tensor_get(node, bytes_.data(), 0, bytes_.size());
  size_t& n_bytes = row_bytes_[name];
  if (rows_.size() == 1) n_bytes = bytes_.size();
  if (n_bytes == 0) return;
  size_t& n_taken = n_taken_[name];
  const size_t n = std::min(bytes_.size() / n_bytes, rows_.size() - n_taken);
  for (size_t i = 0; i < n; ++i) {
    Row& row = rows_[n_taken++];
    row.hash = hash_of(&bytes_[i * n_bytes], n_bytes, row.hash);
    row.n_nodes += 1;
  }
}

}  // namespace dflash
