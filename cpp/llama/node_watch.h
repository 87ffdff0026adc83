#pragma once

#include <cstddef>
#include <exception>
#include <vector>

struct ggml_tensor;

namespace dflash {

/// The functions of ggml that reading a node takes: they lie in a library that libllama's own
/// handle does not always reach.
struct TensorFunctions {
  const char* (*get_name)(const ggml_tensor*) = nullptr;
  size_t (*nbytes)(const ggml_tensor*) = nullptr;
  bool (*is_contiguous)(const ggml_tensor*) = nullptr;
  void (*backend_tensor_get)(const ggml_tensor*, void*, size_t, size_t) = nullptr;
};

/// Reads nodes of a graph as it is computed, in the thread that decodes.
class NodeReader {
 public:
  virtual ~NodeReader() = default;
  /// Whether take() shall get the node; the graph stops after it until that is done.
  virtual bool wants(const ggml_tensor* node) const = 0;
  /// The node has its values now.
  virtual void take(const ggml_tensor* node) = 0;
};

/// The cb_eval of a context, with the watch as its user data: it shows the nodes to readers.
/// A context takes it when it is made, and the watch outlives it. Readers come and go between
/// decodes.
class NodeWatch {
 public:
  explicit NodeWatch(TensorFunctions functions) : functions_(functions) {}

  const TensorFunctions& functions() const { return functions_; }
  void add(NodeReader& reader) { readers_.push_back(&reader); }
  void remove(NodeReader& reader);
  /// Throws what a reader threw since this was last asked: nothing may be thrown through ggml.
  void rethrow();

  static bool on_node(ggml_tensor* node, bool ask, void* watch) noexcept;

 private:
  bool show(const ggml_tensor* node, bool ask);

  TensorFunctions functions_;
  std::vector<NodeReader*> readers_;
  std::exception_ptr thrown_;
};

}  // namespace dflash
