#pragma once

#include "llama/api.h"
#include "llama/tap.h"

namespace dflash {

/// The native tap: libllama keeps the inputs of layers. llama.cpp asserts in a decode where the
/// architecture's graph does not fill them.
class LayerInputs : public Tap {
 public:
  LayerInputs(llama_context* context, std::vector<int32_t> layers)
      : context_(context), layers_(std::move(layers)) {}

  void set(bool on) override;
  const float* rows(size_t k) override;

 private:
  llama_context* context_;
  std::vector<int32_t> layers_;
};

}  // namespace dflash
