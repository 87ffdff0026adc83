#include <pybind11/numpy.h>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/owner.h"
#include "core/errors.h"
#include "llama/answers.h"
#include "llama/reader.h"

namespace dflash::bindings {

namespace {

using Tokens = py::array_t<int32_t, py::array::c_style | py::array::forcecast>;

/// An array [rows, columns] that takes the values over, without a copy.
template <class T>
py::array_t<T> matrix(std::vector<T>&& values, py::ssize_t rows) {
  auto* kept = new std::vector<T>(std::move(values));
  const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<T>*>(p); });
  const auto columns = rows ? static_cast<py::ssize_t>(kept->size()) / rows : 0;
  return py::array_t<T>({rows, columns}, kept->data(), owner);
}

py::tuple read(LlamaVerifier& verifier, const Tokens& tokens, int32_t top_k) {
  if (tokens.ndim() != 1 || tokens.size() == 0) throw py::value_error("expected a row of tokens");
  if (top_k < 0 || top_k > verifier.n_vocab()) throw py::value_error("top_k: 0 to n_vocab");
  const auto n = static_cast<int32_t>(tokens.size());
  if (n > verifier.n_ctx()) {
    throw ContextError(std::to_string(n) + " tokens do not fit a context of " +
                       std::to_string(verifier.n_ctx()));
  }
  Reading reading;
  {
    const Unlocked unlocked;
    const auto owner = Owner::of(verifier.context());
    const Owner::Turn turn(*owner);
    reading = read_text(verifier, tokens.data(), n, top_k);
  }
  return py::make_tuple(matrix(std::move(reading.features), n), matrix(std::move(reading.ids), n),
                        matrix(std::move(reading.log_probs), n));
}

/// Calls a method of the answers without the GIL, alone in their context.
template <class Result, class Class, class... Arguments>
auto alone(Result (Class::*method)(Arguments...)) {
  return [method](Answers& answers, Arguments... arguments) {
    const Unlocked unlocked;
    const auto owner = Owner::of(answers.context());
    const Owner::Turn turn(*owner);
    return (answers.*method)(std::move(arguments)...);
  };
}

void start(Answers& answers, int32_t slot, std::vector<Token> prompt, int32_t max_tokens,
           std::uintptr_t sampler, int32_t top_k) {
  auto* chain = reinterpret_cast<llama_sampler*>(sampler);
  alone (&Answers::start)(answers, slot, std::move(prompt), max_tokens, chain, top_k);
}

}  // namespace

void register_training(py::module_& module) {
  module.def("read", &read, py::arg("verifier"), py::arg("tokens"), py::arg("top_k"));
  py::class_<Answers>(module, "Answers")
      .def(py::init([](std::uintptr_t context, int32_t n_slots) {
             return Answers(from_address<llama_context>(context), n_slots);
           }),
           py::arg("context"), py::arg("n_slots"))
      .def("start", &start, py::arg("slot"), py::arg("prompt"), py::arg("max_tokens"),
           py::kw_only(), py::arg("sampler") = 0, py::arg("top_k") = 0)
      .def("run", alone(&Answers::run), py::arg("n_steps"))
      .def("answer", &Answers::answer, py::arg("slot"))
      .def("free", alone(&Answers::free), py::arg("slot"))
      .def_property_readonly("backend_seconds", &Answers::backend_seconds);
}

}  // namespace dflash::bindings
