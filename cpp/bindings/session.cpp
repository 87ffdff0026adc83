#include <pybind11/numpy.h>

#include <sstream>

#include "bindings/arguments.h"
#include "bindings/handle.h"
#include "bindings/learned.h"
#include "llama/rejection.h"
#include "llama/sampler.h"

namespace dflash::bindings {

namespace {

StepResult step(Handle& handle, const py::object& sampler, std::optional<int32_t> max_tokens,
                const std::optional<std::vector<Token>>& draft, bool rejection) {
  llama_sampler* chain = sampler_address(sampler);
  return handle.run([&](Session& session) {
    if (chain == nullptr) {
      GreedySampler greedy(handle.verifier());
      return session.step(greedy, max_tokens, draft);
    }
    if (rejection && RejectionSampler::applies(handle.drafter(), chain)) {
      RejectionSampler sampling(handle.verifier(), *handle.drafter(), chain);
      return session.step(sampling, max_tokens, draft);
    }
    ChainSampler sampling(handle.verifier(), chain);
    return session.step(sampling, max_tokens, draft);
  });
}

/// Without a turn of its own: the step that it is a part of is open, and samplers made in Python
/// may call the session.
Token sample(Handle& handle, int32_t row, const py::object& sampler) {
  llama_sampler* chain = sampler_address(sampler);
  if (handle.closed()) throw BackendError("the session is closed");
  const Unlocked unlocked;
  if (chain == nullptr) return GreedySampler(handle.verifier()).sample(row);
  return ChainSampler(handle.verifier(), chain).sample(row);
}

/// The draft of a step that is taken row by row.
Draft propose(Handle& handle, const std::optional<std::vector<Token>>& draft,
              std::optional<int32_t> max_tokens, const py::object& sampler) {
  llama_sampler* chain = sampler_address(sampler);
  return handle.run([&](Session& session) {
    if (chain == nullptr) return Draft(session.propose(draft, max_tokens));
    ChainSampler sampling(handle.verifier(), chain);
    return Draft(session.propose(draft, max_tokens, &sampling));
  });
}

/// A copy of a row of logits, [n_vocab], made while the session is the caller's alone.
template <class Row>
py::array_t<float> copy_row(Handle& handle, int32_t n_vocab, Row find_row) {
  py::array_t<float> out(n_vocab);
  float* to = out.mutable_data();
  handle.run([&](Session&) {
    const float* from = find_row();
    std::copy(from, from + n_vocab, to);
  });
  return out;
}

py::array_t<float> logits(Handle& handle, int32_t row) {
  const LlamaVerifier& verifier = handle.verifier();
  return copy_row(handle, verifier.n_vocab(), [&] { return verifier.logits(row); });
}

py::array_t<float> draft_logits(Handle& handle, int32_t row) {
  const LlamaDrafter* drafter = handle.drafter();
  if (drafter == nullptr) throw py::value_error("a session without a drafter has none");
  return copy_row(handle, drafter->n_vocab(), [&] { return drafter->logits(row); });
}

/// None: decided step by step.
SessionOptions with_width(std::optional<int32_t> width) {
  if (width && *width < 0) throw py::value_error("width must be 0 or more, or None");
  SessionOptions options;
  options.width = width.value_or(SessionOptions::kAdaptive);
  return options;
}

std::optional<int32_t> width_of(const SessionOptions& options) {
  if (options.width == SessionOptions::kAdaptive) return {};
  return options.width;
}

void set_exact(Handle& handle, const std::vector<int32_t>& widths, int32_t up_to, bool only) {
  handle.run([&](Session& session) { session.set_exact(ExactWidths(widths, up_to, only)); });
}

std::string repr(Handle& handle) {
  return handle.read([](const Session& session) {
    std::ostringstream out;
    out << "Session(n_past=" << session.n_past() << ", n_features=" << session.n_features()
        << ", width=";
    const std::optional<int32_t> width = width_of(session.options());
    if (width) {
      out << *width << ')';
    } else {
      out << "None)";
    }
    return out.str();
  });
}

template <class Field>
auto field(Field get) {
  return [get](Handle& handle) { return handle.read(get); };
}

void register_reading(py::class_<Handle>& session) {
  session
      .def(
          "sync",
          [](Handle& handle, const py::object& tokens) {
            const auto prompt = to_vector(tokens);
            handle.run([&](Session& s) { s.sync(prompt, [&] { handle.progress(); }); });
          },
          py::arg("tokens"))
      .def(
          "keep_prefix",
          [](Handle& handle, const py::object& tokens) {
            const auto prompt = to_vector(tokens);
            return handle.run([&](Session& s) { return s.keep_prefix(prompt); });
          },
          py::arg("tokens"))
      .def(
          "extend",
          [](Handle& handle, const py::object& tokens, bool all_rows) {
            const auto added = to_vector(tokens);
            handle.run([&](Session& s) {
              s.extend(added.data(), static_cast<int32_t>(added.size()),
                       all_rows ? Rows::all : Rows::last, [&] { handle.progress(); });
            });
          },
          py::arg("tokens"), py::kw_only(), py::arg("all_rows") = false)
      .def(
          "rewind",
          [](Handle& handle, int32_t n_tokens) {
            return handle.run([&](Session& s) { return s.rewind(n_tokens); });
          },
          py::arg("n_tokens"))
      .def(
          "align",
          [](Handle& handle, const py::object& tokens) {
            const auto held = to_vector(tokens);
            handle.run([&](Session& s) { s.align(held); });
          },
          py::arg("tokens"));
}

void register_stepping(py::class_<Handle>& session) {
  session
      .def("step", &step, py::arg("sampler") = py::none(), py::kw_only(),
           py::arg("max_tokens") = py::none(), py::arg("draft") = py::none(),
           py::arg("rejection") = false)
      .def("propose", &propose, py::arg("draft") = py::none(), py::kw_only(),
           py::arg("max_tokens") = py::none(), py::arg("sampler") = py::none())
      .def("sample", &sample, py::arg("row"), py::arg("sampler") = py::none())
      .def(
          "commit",
          [](Handle& handle, const std::vector<Token>& emitted) {
            return handle.run([&](Session& s) { return s.commit(emitted); });
          },
          py::arg("emitted"))
      .def("discard", [](Handle& handle) { handle.run([](Session& s) { s.discard(); }); })
      .def(
          "anchor",
          [](Handle& handle, Token token) { handle.run([&](Session& s) { s.anchor(token); }); },
          py::arg("token"))
      .def(
          "withhold",
          [](Handle& handle, int32_t n) { handle.run([&](Session& s) { s.withhold(n); }); },
          py::arg("n"))
      .def("logits", &logits, py::arg("row"))
      .def("draft_logits", &draft_logits, py::arg("row"));
}

void register_state(py::class_<Handle>& session) {
  session
      .def("save_drafter",
           [](Handle& handle) {
             return py::bytes(handle.run([](Session& s) { return s.save_drafter(); }));
           })
      .def(
          "load_drafter",
          [](Handle& handle, const std::string& state, int32_t n_features) {
            handle.run([&](Session& s) { s.load_drafter(state, n_features); });
          },
          py::arg("state"), py::arg("n_features"))
      .def(
          "calibrate",
          [](Handle& handle, double seconds) {
            handle.run([&](Session& s) { s.calibrate(seconds); });
          },
          py::arg("seconds"))
      .def("set_exact", &set_exact, py::arg("widths"), py::kw_only(), py::arg("up_to"),
           py::arg("only"))
      .def("start_answer", [](Handle& handle) { handle.run([](Session& s) { s.start_answer(); }); })
      .def("cancel", &Handle::cancel)
      .def("close", &Handle::close)
      .def_property_readonly("closed", &Handle::closed);
}

void register_fields(py::class_<Handle>& session) {
  session.def_property_readonly("verifier", &Handle::verifier, py::return_value_policy::reference)
      .def_property_readonly("drafter", &Handle::drafter, py::return_value_policy::reference)
      .def_property_readonly("tokens", field([](const Session& s) { return s.tokens(); }))
      .def_property_readonly("n_past", field([](const Session& s) { return s.n_past(); }))
      .def_property_readonly("n_features", field([](const Session& s) { return s.n_features(); }))
      .def_property_readonly("n_forgotten", field([](const Session& s) { return s.n_forgotten(); }))
      .def_property_readonly("anchored", field([](const Session& s) { return s.anchored(); }))
      .def_property_readonly("logits_live", field([](const Session& s) { return s.logits_live(); }))
      .def_property_readonly("features_missing",
                             field([](const Session& s) { return s.features_missing(); }))
      .def_property_readonly("draft", field([](const Session& s) { return Draft(s.draft()); }))
      .def_property_readonly("last_stats", &Handle::last_stats)
      .def_property_readonly("total_stats", &Handle::total_stats)
      .def_property("width", field([](const Session& s) { return width_of(s.options()); }),
                    [](Handle& handle, std::optional<int32_t> width) {
                      const SessionOptions options = with_width(width);
                      handle.run([&](Session& s) { s.set_width(options.width); });
                    })
      .def("__repr__", &repr);
}

}  // namespace

void register_session(py::module_& module) {
  py::class_<Handle> session(module, "Session");
  session.def(py::init([](LlamaVerifier& verifier, LlamaDrafter* drafter,
                          std::optional<int32_t> width, std::shared_ptr<Stop> stop) {
                if (stop == nullptr) stop = std::make_shared<Stop>();
                return std::make_unique<Handle>(verifier, drafter, with_width(width),
                                                std::move(stop));
              }),
              py::arg("verifier"), py::arg("drafter").none(true) = py::none(), py::kw_only(),
              py::arg("width") = py::none(), py::arg("stop").none(true) = py::none(),
              py::keep_alive<1, 2>(), py::keep_alive<1, 3>());
  register_reading(session);
  register_stepping(session);
  register_state(session);
  register_learned(session);
  register_fields(session);
}

}  // namespace dflash::bindings
