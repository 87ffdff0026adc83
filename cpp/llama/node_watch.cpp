#include "llama/node_watch.h"

#include <algorithm>
#include <utility>

namespace dflash {

void NodeWatch::remove(NodeReader& reader) {
  readers_.erase(std::remove(readers_.begin(), readers_.end(), &reader), readers_.end());
}

void NodeWatch::rethrow() {
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

bool NodeWatch::on_node(ggml_tensor* node, bool ask, void* watch) noexcept {
  auto& self = *static_cast<NodeWatch*>(watch);
  try {
    return self.show(node, ask);
  } catch (...) {
    self.thrown_ = std::current_exception();
    return !ask;  // go on: a graph that is stopped counts as computed
  }
}

bool NodeWatch::show(const ggml_tensor* node, bool ask) {
  bool wanted = false;
  for (NodeReader* reader : readers_) {
    if (!reader->wants(node)) continue;
    wanted = true;
    if (!ask) reader->take(node);
  }
  return wanted || !ask;
}

}  // namespace dflash
