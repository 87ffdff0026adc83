#include "llama/node_watch.h"

#include <memory>

#include "bindings/bindings.h"
#include "llama/node_hashes.h"

namespace dflash::bindings {

namespace {

template <class Function>
void find(Function& function, std::uintptr_t address) {
  function = reinterpret_cast<Function>(from_address<void>(address));
}

std::unique_ptr<NodeWatch> node_watch(std::uintptr_t get_name, std::uintptr_t nbytes,
                                      std::uintptr_t is_contiguous,
                                      std::uintptr_t backend_tensor_get) {
  TensorFunctions functions;
  find(functions.get_name, get_name);
  find(functions.nbytes, nbytes);
  find(functions.is_contiguous, is_contiguous);
  find(functions.backend_tensor_get, backend_tensor_get);
  return std::make_unique<NodeWatch>(functions);
}

std::uintptr_t callback(const NodeWatch& /*watch*/) {
  return reinterpret_cast<std::uintptr_t>(&NodeWatch::on_node);
}

std::uintptr_t address(const NodeWatch& watch) {
  return reinterpret_cast<std::uintptr_t>(&watch);
}

}  // namespace

void register_node_watch(py::module_& module) {
  py::class_<NodeWatch>(module, "NodeWatch")
      .def(py::init(&node_watch), py::kw_only(), py::arg("get_name"), py::arg("nbytes"),
           py::arg("is_contiguous"), py::arg("backend_tensor_get"))
      .def_property_readonly("callback", &callback)
      .def_property_readonly("address", &address);
  py::class_<NodeHashes>(module, "NodeHashes")
      .def(py::init<NodeWatch&>(), py::arg("watch"), py::keep_alive<1, 2>())
      .def_property_readonly("watch", &NodeHashes::watch)
      .def_property_readonly("n_nodes", &NodeHashes::n_nodes);
}

}  // namespace dflash::bindings
