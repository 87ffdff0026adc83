#include <stdexcept>

#include "bindings/bindings.h"
#include "core/errors.h"
#include "llama/api.h"

namespace dflash::bindings {

namespace {

void raise(const char* name, const char* what) {
  py::set_error(py::module_::import("dflash_local.errors").attr(name), what);
}

void bind(std::uintptr_t library, const Layouts& layouts) {
  try {
    bind_api(from_address<void>(library), layouts);
  } catch (const std::runtime_error& error) {
    throw py::import_error(error.what());
  }
}

}  // namespace

void register_errors(py::module_& /*module*/) {
  // Local: the exceptions of other modules stay theirs.
  py::register_local_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const ContextError& error) {
      raise("ContextError", error.what());
    } catch (const BackendError& error) {
      raise("BackendError", error.what());
    } catch (const Cancelled& error) {
      raise("Cancelled", error.what());
    } catch (const std::logic_error& error) {
      // Also std::invalid_argument: a call that the state or the arguments do not allow.
      py::set_error(PyExc_ValueError, error.what());
    }
  });
}

}  // namespace dflash::bindings

PYBIND11_MODULE(_core, module) {
  namespace bindings = dflash::bindings;
  module.doc() = "The speculative loop over llama.cpp contexts.";
  module.def("bind", &bindings::bind, bindings::py::arg("library"), bindings::py::arg("layouts"));
  bindings::register_errors(module);
  bindings::register_log(module);
  bindings::register_stop(module);
  bindings::register_results(module);
  bindings::register_node_watch(module);
  bindings::register_verifier(module);
  bindings::register_drafter(module);
  bindings::register_plain_rows(module);
  bindings::register_session(module);
  bindings::register_turns(module);
  bindings::register_training(module);
}
