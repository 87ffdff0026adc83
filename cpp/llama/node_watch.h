#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/hash.h"
#include "core/plain_rows.h"

struct ggml_tensor;

namespace dflash {

/// The functions of ggml that a watch needs: they lie in a library that libllama's own handle does
/// not always reach.
struct TensorFunctions {
  const char* (*get_name)(const ggml_tensor*) = nullptr;
  size_t (*nbytes)(const ggml_tensor*) = nullptr;
  bool (*is_contiguous)(const ggml_tensor*) = nullptr;
  void (*backend_tensor_get)(const ggml_tensor*, void*, size_t, size_t) = nullptr;
};

/// Sees what attention and layers give, row by row, as the graph computes it. A context calls it
/// that was made with `on_node` as its cb_eval, and the watch as its user data.
class NodeWatch : public Witness {
 public:
  explicit NodeWatch(TensorFunctions functions) : functions_(functions) {}

  void begin(int32_t n_rows) override;
  uint64_t seen(int32_t row) const override { return rows_.at(static_cast<size_t>(row)).hash; }

  /// Nodes seen of the first row of the last decode.
  int32_t n_nodes() const { return rows_.empty() ? 0 : rows_[0].n_nodes; }

  static bool on_node(ggml_tensor* node, bool ask, void* watch);

 private:
  struct Row {
    uint64_t hash = kNoBytes;
    int32_t n_nodes = 0;
  };

  bool wants(const ggml_tensor* node) const;
  void take(const ggml_tensor* node);

  TensorFunctions functions_;
  std::vector<Row> rows_;
  std::map<std::string, size_t> row_bytes_;  // of each node, from decodes of one row
  std::map<std::string, size_t> n_taken_;    // rows of each, of the decode at work
  std::vector<char> bytes_;
};

}  // namespace dflash
