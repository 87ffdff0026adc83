#pragma once

#include <memory>
#include <vector>

#include "llama/api.h"

namespace dflash {

/// The likeliest tokens of every row that a context decodes, chosen by the device that computes the
/// logits: n_vocab floats a row stay there, instead of being copied to the host and looked through.
///
/// libllama lets a device run samplers within its graph. Its own top-k gives logits without their
/// sum; here it works on the probabilities that its "dist" computes to draw from.
class DeviceTopK {
 public:
  static constexpr int32_t kMost = 64;

  /// Takes effect with the next decode; the context has to be made with n_outputs_max_per_seq of as
  /// many rows as a decode asks for. Nothing where this libllama or the device cannot do it.
  static std::unique_ptr<DeviceTopK> attach(llama_context* context, llama_seq_id sequence);

  /// The likeliest of a row of the last decode, with the logarithms of their probabilities over the
  /// whole vocabulary as logits: best first, of equal ones the lower id, kMost at most.
  void read(int32_t row, std::vector<llama_token_data>& out) const;

 private:
  // The context is freed before its drafter is: what it holds of the chain goes with it.
  using Chain = std::unique_ptr<llama_sampler, void (*)(llama_sampler*)>;

  DeviceTopK(llama_context* context, Chain chain) : context_(context), chain_(std::move(chain)) {}

  llama_context* context_;
  Chain chain_;
};

}  // namespace dflash
