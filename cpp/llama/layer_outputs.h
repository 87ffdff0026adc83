#pragma once

#include <string>
#include <vector>

#include "llama/node_watch.h"
#include "llama/tap.h"

namespace dflash {

/// The callback tap: a layer's input is read from the graph as the output of the layer before it.
///
/// libllama computes a batch in micro-batches, each with a graph of its own, and their rows follow
/// one another here. It sorts rows by sequence where it splits equally, but those of one sequence
/// stay in the batch's order in each of its splits (llama-batch.cpp: split_simple, split_equal,
/// split_seq), so a decode of one sequence needs no sorting.
class LayerOutputs : public Tap, public NodeReader {
 public:
  /// `watch` outlives the tap. `node` is how the graph names a layer's output, before "-" and the
  /// layer. Layers count from 1: the input of layer 0 is no layer's output.
  LayerOutputs(NodeWatch& watch, const std::string& node, const std::vector<int32_t>& layers,
               int32_t n_embd);

  void set(bool on) override { on_ = on; }
  void begin(int32_t n_rows) override;
  void end() override { watch_.remove(*this); }
  const float* rows(size_t k) override;

  bool wants(const ggml_tensor* node) const override;
  void take(const ggml_tensor* node) override;

 private:
  struct Output {
    std::string node;
    std::vector<float> values;  // [n_rows, n_embd]
    size_t n_bytes = 0;         // that the graph gave
  };

  NodeWatch& watch_;
  std::vector<Output> outputs_;
  size_t row_bytes_;
  size_t n_rows_ = 0;
  bool on_ = false;
};

}  // namespace dflash
