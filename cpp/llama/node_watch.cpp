#include "llama/node_watch.h"

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

void NodeWatch::begin(int32_t n_rows) {
  rows_.assign(static_cast<size_t>(n_rows), Row());
  n_taken_.clear();
}

bool NodeWatch::on_node(ggml_tensor* node, bool ask, void* watch) {
  auto& self = *static_cast<NodeWatch*>(watch);
  if (ask) return self.wants(node);
  self.take(node);
  return true;  // go on
}

bool NodeWatch::wants(const ggml_tensor* node) const {
  if (rows_.empty()) return false;
  const std::string_view name = functions_.get_name(node);
  const size_t end = name.rfind('-');
  if (end == std::string_view::npos) return false;
  const bool known = std::find(kNames.begin(), kNames.end(), name.substr(0, end)) != kNames.end();
  return known && functions_.is_contiguous(node);
}

// A decode comes in micro-batches: the rows of a node that were not taken yet follow.
void NodeWatch::take(const ggml_tensor* node) {
  const std::string name = functions_.get_name(node);
  bytes_.resize(functions_.nbytes(node));
  functions_.backend_tensor_get(node, bytes_.data(), 0, bytes_.size());
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
