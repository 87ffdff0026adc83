#include "core/session.h"

#include <pybind11/numpy.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <sstream>

#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "bindings/owner.h"
#include "core/errors.h"
#include "llama/drafter.h"
#include "llama/rejection.h"
#include "llama/sampler.h"
#include "llama/verifier.h"

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

/// Token ids from a list or an array of integers; nothing is rounded or cut to fit.
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

/// A llama_sampler from None (greedy), an address, or llama_cpp's LlamaSampler.
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

/// A session, one caller at a time, that can be closed before its contexts are freed.
class Handle {
 public:
  Handle(LlamaVerifier& verifier, LlamaDrafter* drafter, SessionOptions options,
         std::shared_ptr<Stop> stop)
      : verifier_(verifier),
        drafter_(drafter),
        owner_(Owner::of(verifier.context())),
        stop_(std::move(stop)),
        session_(verifier, drafter, options, stop_) {}

  /// Runs `work` on the session without the GIL, alone, after those who came before.
  template <class Work>
  auto run(Work work) {
    const Unlocked unlocked;
    const Owner::Turn turn(*owner_);
    check_open();
    const Published at_the_end(*this);
    return work(session_);
  }

  /// Between two chunks of a read: shows how far it is, and lets Ctrl-C end it.
  void progress() {
    publish();
    check_signals();
  }

  /// Reads of plain fields, which a closed session still has.
  template <class Read>
  auto read(Read read_field) {
    const Unlocked unlocked;
    const Owner::Turn turn(*owner_);
    return read_field(session_);
  }

  /// Statistics as of the last call that ended, or chunk that was read: at any time, in any thread.
  Stats last_stats() {
    const std::lock_guard<std::mutex> alone(stats_mutex_);
    return last_;
  }
  Stats total_stats() {
    const std::lock_guard<std::mutex> alone(stats_mutex_);
    return total_;
  }

  void cancel() { stop_->request(); }

  void close() {
    const Unlocked unlocked;
    closed_ = true;
    stop_->request();
    // A signal handler between two chunks of a read: that ends before it decodes again.
    if (owner_->mine()) return;
    const Owner::Turn turn(*owner_);
    stop_->clear();
  }

  bool closed() const { return closed_; }
  LlamaVerifier& verifier() const { return verifier_; }
  LlamaDrafter* drafter() const { return drafter_; }

 private:
  struct Published {
    explicit Published(Handle& h) : handle(h) {}
    ~Published() { handle.publish(); }
    Handle& handle;
  };

  void publish() {
    const std::lock_guard<std::mutex> publishing(stats_mutex_);
    last_ = session_.last_stats();
    total_ = session_.total_stats();
  }

  void check_open() const {
    if (closed_) throw BackendError("the session is closed");
  }

  LlamaVerifier& verifier_;
  LlamaDrafter* drafter_;
  std::shared_ptr<Owner> owner_;
  std::shared_ptr<Stop> stop_;
  Session session_;
  std::mutex stats_mutex_;
  Stats last_;
  Stats total_;
  std::atomic<bool> closed_{false};
};

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

/// Costs in contexts of a length.
py::dict to_dict(const KnownCosts& costs) {
  py::dict out;
  out["n_context"] = costs.n_context;
  out["verify"] = costs.verify;
  out["draft"] = costs.draft;
  out["verify_doubt"] = costs.verify_doubt;
  out["draft_doubt"] = costs.draft_doubt;
  return out;
}

KnownCosts to_costs(const py::dict& costs) {
  const auto line = [&](const char* name) { return costs[name].cast<std::vector<double>>(); };
  try {
    return {line("verify"), line("draft"), line("verify_doubt"), line("draft_doubt"),
            costs["n_context"].cast<int64_t>()};
  } catch (const py::cast_error&) {
    throw py::value_error("costs and doubts are lists of numbers, n_context is a whole number");
  }
}

/// What was learned of a pair, or nothing without a drafter.
std::optional<py::dict> learned(Handle& handle) {
  using Controls = std::optional<Controller>;
  const Controls controls = handle.read([](const Session& session) {
    const Controller* controller = session.controller();
    return controller == nullptr ? Controls() : Controls(*controller);
  });
  if (!controls) return {};
  py::dict out = to_dict(controls->costs().known());
  py::list contexts;
  for (const KnownCosts& costs : controls->costs().all_known()) contexts.append(to_dict(costs));
  out["contexts"] = contexts;
  out["accepted"] = controls->chances().usual();
  return out;
}

void restore(Handle& handle, const std::vector<py::dict>& contexts,
             const std::vector<double>& accepted) {
  std::vector<KnownCosts> costs;
  for (const py::dict& context : contexts) costs.push_back(to_costs(context));
  handle.run([&](Session& session) {
    if (session.controller() == nullptr) return;
    Controller begun(session.controller()->costs().max_width());
    begun.costs().restore(costs);
    begun.chances().restore(accepted);
    session.restore(std::move(begun));
  });
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
      .def("learned", &learned)
      .def("restore", &restore, py::kw_only(), py::arg("contexts"), py::arg("accepted"))
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
  register_fields(session);
}

}  // namespace dflash::bindings
