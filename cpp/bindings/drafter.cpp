#include "llama/drafter.h"

#include <pybind11/native_enum.h>

#include <sstream>

#include "bindings/bindings.h"

namespace dflash::bindings {

namespace {

const char* name_of(DrafterKind kind) {
  switch (kind) {
    case DrafterKind::dflash2:
      return "dflash2";
    case DrafterKind::dspark:
      return "dspark";
    default:
      return "dflash";
  }
}

std::string repr(const DrafterOptions& options) {
  std::ostringstream out;
  out << std::boolalpha << "DrafterOptions(kind=DrafterKind." << name_of(options.kind)
      << ", block_size=" << options.block_size << ", mask_token=" << options.mask_token
      << ", causal=" << options.causal << ", sample_from_anchor=" << options.sample_from_anchor
      << ", has_confidence=" << options.has_confidence << ", n_ctx=" << options.n_ctx
      << ", device_top_k=" << options.device_top_k << ", sequence=" << options.sequence << ')';
  return out.str();
}

std::string repr(const LlamaDrafter& drafter) {
  std::ostringstream out;
  out << "Drafter(kind=DrafterKind." << name_of(drafter.options().kind)
      << ", block_size=" << drafter.options().block_size << ", max_width=" << drafter.max_width()
      << ')';
  return out.str();
}

}  // namespace

void register_drafter(py::module_& module) {
  py::native_enum<DrafterKind>(module, "DrafterKind", "enum.Enum")
      .value("dflash", DrafterKind::dflash)
      .value("dflash2", DrafterKind::dflash2)
      .value("dspark", DrafterKind::dspark)
      .finalize();
  py::class_<DrafterOptions>(module, "DrafterOptions")
      .def(py::init<>())
      .def_readwrite("kind", &DrafterOptions::kind)
      .def_readwrite("block_size", &DrafterOptions::block_size)
      .def_readwrite("mask_token", &DrafterOptions::mask_token)
      .def_readwrite("causal", &DrafterOptions::causal)
      .def_readwrite("sample_from_anchor", &DrafterOptions::sample_from_anchor)
      .def_readwrite("has_confidence", &DrafterOptions::has_confidence)
      .def_readwrite("n_ctx", &DrafterOptions::n_ctx)
      .def_readwrite("device_top_k", &DrafterOptions::device_top_k)
      .def_readwrite("sequence", &DrafterOptions::sequence)
      .def("__repr__", [](const DrafterOptions& options) { return repr(options); });
  py::class_<LlamaDrafter>(module, "Drafter")
      .def(py::init([](std::uintptr_t context, const DrafterOptions& options) {
             return LlamaDrafter(from_address<llama_context>(context), options);
           }),
           py::arg("context"), py::arg("options"))
      .def("try_out", &LlamaDrafter::try_out, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("max_width", &LlamaDrafter::max_width)
      .def_property_readonly("n_ctx", &LlamaDrafter::n_ctx)
      .def_property_readonly("on_device", &LlamaDrafter::on_device)
      .def_property_readonly("options", &LlamaDrafter::options)
      .def_property_readonly("backend_seconds", &LlamaDrafter::backend_seconds)
      .def("__repr__", [](const LlamaDrafter& drafter) { return repr(drafter); });
}

}  // namespace dflash::bindings
