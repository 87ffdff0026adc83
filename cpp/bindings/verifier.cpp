#include "llama/verifier.h"

#include <pybind11/numpy.h>

#include <sstream>

#include "bindings/bindings.h"

namespace dflash::bindings {

namespace {

std::string repr(const LlamaVerifier& verifier) {
  std::ostringstream out;
  out << "Verifier(n_ctx=" << verifier.n_ctx() << ", n_batch=" << verifier.n_batch()
      << ", max_rows=" << verifier.max_rows() << ", n_features=" << verifier.n_features() << ')';
  return out.str();
}

}  // namespace

void register_verifier(py::module_& module) {
  py::class_<LlamaVerifier>(module, "Verifier")
      .def(
          py::init([](std::uintptr_t context, int32_t max_rows, std::vector<int32_t> feature_layers,
                      int32_t sequence, NodeWatch* watch, std::string node) {
            return LlamaVerifier(
                from_address<llama_context>(context),
                {max_rows, std::move(feature_layers), sequence, watch, std::move(node)});
          }),
          py::arg("context"), py::kw_only(), py::arg("max_rows"), py::arg("feature_layers"),
          py::arg("sequence") = VerifierOptions{}.sequence, py::arg("watch") = py::none(),
          py::arg("node") = "", py::keep_alive<1, 6>())
      .def_property_readonly("n_ctx", &LlamaVerifier::n_ctx)
      .def_property_readonly("n_batch", &LlamaVerifier::n_batch)
      .def_property_readonly("n_vocab", &LlamaVerifier::n_vocab)
      .def_property_readonly("n_features", &LlamaVerifier::n_features)
      .def_property_readonly("max_rows", &LlamaVerifier::max_rows)
      .def_property_readonly("backend_seconds", &LlamaVerifier::backend_seconds)
      .def("__repr__", &repr);
}

}  // namespace dflash::bindings
