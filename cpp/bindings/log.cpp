#include <cstdint>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "llama/api.h"

namespace dflash::bindings {

namespace {

// Who gets what libllama logs. Never freed: libllama logs until the process ends.
py::object* receiver = nullptr;

// libllama calls it from any thread, also in the middle of a call that Python made.
void receive(int level, const char* text, void* /*user_data*/) {
  const Locked locked;
  if (!locked || receiver == nullptr) return;
  const py::error_scope kept;
  try {
    (*receiver)(level, py::bytes(text));
  } catch (py::error_already_set& error) {
    if (error.matches(PyExc_KeyboardInterrupt)) {
      PyErr_SetInterrupt();  // it comes again, where somebody can catch it
    } else {
      error.discard_as_unraisable("dflash_local's log");
    }
  } catch (...) {  // nothing may pass through libllama
  }
}

void install_log(const py::object& callable) {
  if (receiver == nullptr) receiver = new py::object();
  *receiver = callable;
  api().llama_log_set(&receive, nullptr);
}

std::uintptr_t log_callback() {
  return reinterpret_cast<std::uintptr_t>(&receive);
}

}  // namespace

void register_log(py::module_& module) {
  module.def("install_log", &install_log, py::arg("receiver"));
  module.def("log_callback", &log_callback);
}

}  // namespace dflash::bindings
