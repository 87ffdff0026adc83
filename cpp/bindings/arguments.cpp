#include "bindings/arguments.h"

#include <pybind11/numpy.h>

#include <string>

namespace dflash::bindings {

namespace {

/// numpy's array of an object. An interrupt that comes meanwhile is no mistake of the object's.
template <class Array>
Array array_of(const py::object& values) {
  try {
    return Array(values);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    throw py::value_error("tokens must be a flat list of integers");
  }
}

}  // namespace

std::vector<Token> to_vector(const py::object& tokens) {
  const auto given = array_of<py::array>(tokens);
  if (given.ndim() != 1) throw py::value_error("tokens must be a flat list of integers");
  if (given.size() == 0) return {};
  const char kind = given.dtype().kind();
  if (kind != 'i' && kind != 'u') throw py::type_error("tokens must be integers");
  const auto wide =
      array_of<py::array_t<int64_t, py::array::c_style | py::array::forcecast>>(given);
  std::vector<Token> ids(static_cast<size_t>(wide.size()));
  for (py::ssize_t i = 0; i < wide.size(); ++i) {
    const int64_t id = wide.at(i);
    if (id != static_cast<Token>(id)) {
      throw py::value_error(std::to_string(id) + " is no token: ids have 32 bits");
    }
    ids[static_cast<size_t>(i)] = static_cast<Token>(id);
  }
  return ids;
}

llama_sampler* sampler_address(const py::object& sampler) {
  if (sampler.is_none()) return nullptr;
  if (py::isinstance<py::int_>(sampler)) {
    return from_address<llama_sampler>(sampler.cast<std::uintptr_t>());
  }
  const auto ctypes = py::module_::import("ctypes");
  const py::object address =
      ctypes.attr("cast")(sampler.attr("sampler"), ctypes.attr("c_void_p")).attr("value");
  if (address.is_none()) throw py::value_error("the sampler was closed");
  return from_address<llama_sampler>(address.cast<std::uintptr_t>());
}

}  // namespace dflash::bindings
