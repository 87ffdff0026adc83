#include "llama/layer_outputs.h"

#include <string_view>

#include "core/errors.h"

namespace dflash {

LayerOutputs::LayerOutputs(NodeWatch& watch, const std::string& node,
                           const std::vector<int32_t>& layers, int32_t n_embd)
    : watch_(watch), row_bytes_(static_cast<size_t>(n_embd) * sizeof(float)) {
  for (const int32_t layer : layers) {
    outputs_.push_back({node + "-" + std::to_string(layer - 1), {}, 0});
  }
}

void LayerOutputs::begin(int32_t n_rows) {
  if (!on_) return;
  n_rows_ = static_cast<size_t>(n_rows);
  const size_t n_values = n_rows_ * row_bytes_ / sizeof(float);
  for (Output& output : outputs_) {
    if (output.values.size() < n_values) output.values.resize(n_values);
    output.n_bytes = 0;
  }
  watch_.add(*this);
}

bool LayerOutputs::wants(const ggml_tensor* node) const {
  const std::string_view name = watch_.functions().get_name(node);
  for (const Output& output : outputs_) {
    if (name == output.node) return watch_.functions().is_contiguous(node);
  }
  return false;
}

void LayerOutputs::take(const ggml_tensor* node) {
  const std::string_view name = watch_.functions().get_name(node);
  const size_t n_bytes = watch_.functions().nbytes(node);
  for (Output& output : outputs_) {
    if (name != output.node) continue;
    const size_t at = output.n_bytes;
    output.n_bytes += n_bytes;
    if (output.n_bytes > n_rows_ * row_bytes_) continue;  // rows() tells of it
    auto* to = reinterpret_cast<char*>(output.values.data()) + at;
    watch_.functions().backend_tensor_get(node, to, 0, n_bytes);
  }
}

const float* LayerOutputs::rows(size_t k) {
  watch_.rethrow();
  const Output& output = outputs_[k];
  if (output.n_bytes != n_rows_ * row_bytes_) {
    throw BackendError("the graph's node " + output.node + " gave " +
                       std::to_string(output.n_bytes) + " bytes in a decode of " +
                       std::to_string(n_rows_) + " rows of " + std::to_string(row_bytes_) +
                       ": this libllama names the outputs of layers otherwise");
  }
  return output.values.data();
}

}  // namespace dflash
