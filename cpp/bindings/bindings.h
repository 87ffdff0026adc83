#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace dflash::bindings {

namespace py = pybind11;

void register_errors(py::module_& module);
void register_log(py::module_& module);
void register_stop(py::module_& module);
void register_results(py::module_& module);
void register_node_watch(py::module_& module);
void register_verifier(py::module_& module);
void register_drafter(py::module_& module);
void register_plain_rows(py::module_& module);
void register_session(py::module_& module);
void register_turns(py::module_& module);
void register_training(py::module_& module);

/// Pointers cross the border as integers, as ctypes gives them.
template <class T>
T* from_address(std::uintptr_t address) {
  if (address == 0) throw py::value_error("the address of a llama.cpp object is 0: was it freed?");
  return reinterpret_cast<T*>(address);
}

}  // namespace dflash::bindings
