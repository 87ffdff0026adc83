#include "core/plain_rows.h"

#include <chrono>
#include <memory>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/owner.h"
#include "llama/node_watch.h"
#include "llama/verifier.h"

namespace dflash::bindings {

namespace {

/// Until so many seconds are over; Ctrl-C ends it too.
PlainRows::KeepOn for_seconds(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  return [end] {
    check_signals();
    return Clock::now() < end;
  };
}

/// Runs `work` on a verifier without the GIL, alone in its context.
template <class Work>
auto alone(const LlamaVerifier& verifier, Work work) {
  const Unlocked unlocked;
  const auto owner = Owner::of(verifier.context());
  const Owner::Turn turn(*owner);
  return work();
}

void check_room(const LlamaVerifier& verifier, const ProbeText& text) {
  if (text.n_read < 1 || text.widest < 0) throw py::value_error("n_read: from 1, widest: from 0");
  const int32_t n = text.n_read + text.widest + 2;
  if (n > verifier.n_ctx()) {
    throw py::value_error("a text of " + std::to_string(n) + " tokens does not fit a context of " +
                          std::to_string(verifier.n_ctx()));
  }
}

std::optional<PlainRows> plain_rows(LlamaVerifier& verifier, NodeWatch& watch, int32_t n_read,
                                    int32_t widest, bool repeats, bool drops, double seconds) {
  const ProbeText text{n_read, widest, repeats, drops};
  check_room(verifier, text);
  return alone(verifier,
               [&] { return PlainRows::of({verifier, watch}, text, for_seconds(seconds)); });
}

std::optional<std::vector<int32_t>> equal_widths(const PlainRows& plain, LlamaVerifier& verifier,
                                                 NodeWatch& watch,
                                                 const std::vector<int32_t>& widths,
                                                 double seconds) {
  if (verifier.n_vocab() != plain.n_vocab()) throw py::value_error("another verifier's rows");
  check_room(verifier, plain.text());
  for (const int32_t width : widths) {
    if (width >= 0 && width <= plain.text().widest && width < verifier.max_rows()) continue;
    throw py::value_error("the text or the context has no rows for width " + std::to_string(width));
  }
  return alone(verifier,
               [&] { return plain.equal_widths({verifier, watch}, widths, for_seconds(seconds)); });
}

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

void register_node_watch(py::module_& module) {
  py::class_<NodeWatch>(module, "NodeWatch")
      .def(py::init(&node_watch), py::kw_only(), py::arg("get_name"), py::arg("nbytes"),
           py::arg("is_contiguous"), py::arg("backend_tensor_get"))
      .def_property_readonly("callback",
                             [](const NodeWatch& /*watch*/) {
                               return reinterpret_cast<std::uintptr_t>(&NodeWatch::on_node);
                             })
      .def_property_readonly(
          "address",
          [](const NodeWatch& watch) { return reinterpret_cast<std::uintptr_t>(&watch); })
      .def_property_readonly("n_nodes", &NodeWatch::n_nodes);
}

}  // namespace

void register_plain_rows(py::module_& module) {
  register_node_watch(module);
  py::class_<PlainRows>(module, "PlainRows")
      .def("equal_widths", &equal_widths, py::arg("verifier"), py::arg("watch"), py::arg("widths"),
           py::kw_only(), py::arg("seconds"));
  module.def("plain_rows", &plain_rows, py::arg("verifier"), py::arg("watch"), py::kw_only(),
             py::arg("n_read"), py::arg("widest"), py::arg("repeats") = false,
             py::arg("drops") = false, py::arg("seconds"));
}

}  // namespace dflash::bindings
