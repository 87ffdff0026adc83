#include "llama/layer_inputs.h"

#include "core/errors.h"

namespace dflash {

// libllama reserves its graphs anew after each of these calls, switched or not.
void LayerInputs::set(bool on) {
  for (const int32_t layer : layers_) {
    api().llama_set_embeddings_layer_inp(context_, static_cast<uint32_t>(layer), on);
  }
}

const float* LayerInputs::rows(size_t k) {
  const auto layer = static_cast<uint32_t>(layers_[k]);
  const float* rows = api().llama_get_embeddings_layer_inp(context_, layer);
  if (rows == nullptr) throw BackendError("libllama gave no input of a feature layer");
  return rows;
}

}  // namespace dflash
