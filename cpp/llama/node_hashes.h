#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/hash.h"
#include "core/plain_rows.h"
#include "llama/node_watch.h"

namespace dflash {

/// Sees what attention and layers give, row by row, as the graph computes it.
class NodeHashes : public Witness, public NodeReader {
 public:
  /// The watch outlives it.
  explicit NodeHashes(NodeWatch& watch) : watch_(watch) { watch_.add(*this); }
  ~NodeHashes() override { watch_.remove(*this); }
  NodeHashes(const NodeHashes&) = delete;
  NodeHashes& operator=(const NodeHashes&) = delete;

  void begin(int32_t n_rows) override;
  uint64_t seen(int32_t row) const override;

  NodeWatch& watch() const { return watch_; }

  /// Nodes seen of the first row of the last decode.
  int32_t n_nodes() const { return rows_.empty() ? 0 : rows_[0].n_nodes; }

  bool wants(const ggml_tensor* node) const override;
  void take(const ggml_tensor* node) override;

 private:
  struct Row {
    uint64_t hash = kNoBytes;
    int32_t n_nodes = 0;
  };

  NodeWatch& watch_;
  std::vector<Row> rows_;
  std::map<std::string, size_t> row_bytes_;  // of each node, from decodes of one row
  std::map<std::string, size_t> n_taken_;    // rows of each, of the decode at work
  std::vector<char> bytes_;
};

}  // namespace dflash
