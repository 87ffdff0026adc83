#include "core/stop.h"

#include <memory>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "llama/api.h"

namespace dflash::bindings {

namespace {

/// libllama asks it while it loads a model.
bool goes_on(float /*progress*/, void* /*user_data*/) {
  return !Stop::everything();
}

}  // namespace

void register_stop(py::module_& module) {
  py::class_<Stop, std::shared_ptr<Stop>>(module, "Stop")
      .def(py::init<>())
      .def("request", &Stop::request)
      .def("clear", &Stop::clear)
      .def_property_readonly("requested", &Stop::requested)
      .def(
          "watch",
          [](const Stop& stop, std::uintptr_t context) {
            api().llama_set_abort_callback(from_address<llama_context>(context), &Stop::asked,
                                           stop.flag());
          },
          py::arg("context"));
  module.def("load_progress_callback", [] { return reinterpret_cast<std::uintptr_t>(&goes_on); });
  py::class_<InLibrary>(module, "InLibrary")
      .def(py::init<>())
      .def("__enter__", &InLibrary::enter)
      .def("__exit__", [](InLibrary& call, const py::args& /*error*/) { call.exit(); });
  module.def("prepare_exit", &prepare_exit, py::arg("seconds"));
}

}  // namespace dflash::bindings
