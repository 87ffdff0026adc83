#include "core/plain_rows.h"

#include <chrono>
#include <memory>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/owner.h"
#include "llama/node_hashes.h"
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

std::optional<PlainRows> plain_rows(LlamaVerifier& verifier, NodeHashes& hashes, int32_t n_read,
                                    int32_t widest, bool repeats, bool drops, double seconds) {
  const ProbeText text{n_read, widest, repeats, drops};
  check_room(verifier, text);
  return alone(verifier,
               [&] { return PlainRows::of({verifier, hashes}, text, for_seconds(seconds)); });
}

std::optional<std::vector<int32_t>> equal_widths(const PlainRows& plain, LlamaVerifier& verifier,
                                                 NodeHashes& hashes,
                                                 const std::vector<int32_t>& widths,
                                                 double seconds) {
  if (verifier.n_vocab() != plain.n_vocab()) throw py::value_error("another verifier's rows");
  check_room(verifier, plain.text());
  for (const int32_t width : widths) {
    if (width >= 0 && width <= plain.text().widest && width < verifier.max_rows()) continue;
    throw py::value_error("the text or the context has no rows for width " + std::to_string(width));
  }
  return alone(verifier, [&] {
    return plain.equal_widths({verifier, hashes}, widths, for_seconds(seconds));
  });
}

}  // namespace

void register_plain_rows(py::module_& module) {
  py::class_<PlainRows>(module, "PlainRows")
      .def("equal_widths", &equal_widths, py::arg("verifier"), py::arg("hashes"), py::arg("widths"),
           py::kw_only(), py::arg("seconds"));
  module.def("plain_rows", &plain_rows, py::arg("verifier"), py::arg("hashes"), py::kw_only(),
             py::arg("n_read"), py::arg("widest"), py::arg("repeats") = false,
             py::arg("drops") = false, py::arg("seconds"));
}

}  // namespace dflash::bindings
