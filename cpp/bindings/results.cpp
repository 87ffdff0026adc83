#include <pybind11/native_enum.h>

#include <sstream>

#include "bindings/bindings.h"
#include "core/session.h"

namespace dflash::bindings {

namespace {

template <class T>
std::string list(const std::vector<T>& values) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < values.size(); ++i) out << (i ? ", " : "") << values[i];
  out << ']';
  return out.str();
}

const char* name_of(Finish finish) {
  switch (finish) {
    case Finish::end_of_generation:
      return "end_of_generation";
    case Finish::context_full:
      return "context_full";
    default:
      return "none";
  }
}

std::string repr(const StepResult& result) {
  std::ostringstream out;
  out << "StepResult(tokens=" << list(result.tokens) << ", n_drafted=" << result.n_drafted
      << ", n_accepted=" << result.n_accepted << ", finish=Finish." << name_of(result.finish)
      << ')';
  return out.str();
}

std::string repr(const Draft& draft) {
  return "Draft(tokens=" + list(draft.tokens) + ", confidence=" + list(draft.confidence) + ")";
}

std::string repr(const Stats& stats) {
  std::ostringstream out;
  out << "Stats(n_tokens=" << stats.n_tokens << ", n_steps=" << stats.n_steps
      << ", n_drafted=" << stats.n_drafted << ", n_accepted=" << stats.n_accepted
      << ", acceptance_length=" << stats.acceptance_length()
      << ", acceptance_rate=" << stats.acceptance_rate() << ')';
  return out.str();
}

py::dict as_dict(const Stats& stats) {
  py::dict seconds;
  seconds["prefill"] = stats.seconds_prefill;
  seconds["inject"] = stats.seconds_inject;
  seconds["draft"] = stats.seconds_draft;
  seconds["verify"] = stats.seconds_verify;
  seconds["sample"] = stats.seconds_sample;
  py::dict out;
  out["n_prompt"] = stats.n_prompt;
  out["n_tokens"] = stats.n_tokens;
  out["n_steps"] = stats.n_steps;
  out["n_blocks"] = stats.n_blocks;
  out["n_drafted"] = stats.n_drafted;
  out["n_accepted"] = stats.n_accepted;
  out["acceptance_length"] = stats.acceptance_length();
  out["acceptance_rate"] = stats.acceptance_rate();
  out["accepted_per_position"] = stats.accepted_at;
  out["drafted_per_width"] = stats.drafted_at;
  out["verified_per_width"] = stats.verified_at;
  out["seconds"] = seconds;
  return out;
}

void register_stats(py::module_& module) {
  py::class_<Stats>(module, "Stats")
      .def(py::init<>())
      .def_readonly("n_prompt", &Stats::n_prompt)
      .def_readonly("n_tokens", &Stats::n_tokens)
      .def_readonly("n_steps", &Stats::n_steps)
      .def_readonly("n_blocks", &Stats::n_blocks)
      .def_readonly("n_drafted", &Stats::n_drafted)
      .def_readonly("n_accepted", &Stats::n_accepted)
      .def_readonly("accepted_per_position", &Stats::accepted_at)
      .def_readonly("drafted_per_width", &Stats::drafted_at)
      .def_readonly("verified_per_width", &Stats::verified_at)
      .def_property_readonly("acceptance_length", &Stats::acceptance_length)
      .def_property_readonly("acceptance_rate", &Stats::acceptance_rate)
      .def_readonly("seconds_prefill", &Stats::seconds_prefill)
      .def_readonly("seconds_inject", &Stats::seconds_inject)
      .def_readonly("seconds_draft", &Stats::seconds_draft)
      .def_readonly("seconds_verify", &Stats::seconds_verify)
      .def_readonly("seconds_sample", &Stats::seconds_sample)
      .def("as_dict", &as_dict)
      .def("__repr__", [](const Stats& stats) { return repr(stats); });
}

}  // namespace

void register_results(py::module_& module) {
  py::native_enum<Finish>(module, "Finish", "enum.Enum")
      .value("none", Finish::none)
      .value("end_of_generation", Finish::end_of_generation)
      .value("context_full", Finish::context_full)
      .finalize();
  py::class_<StepResult>(module, "StepResult")
      .def_readonly("tokens", &StepResult::tokens)
      .def_readonly("n_drafted", &StepResult::n_drafted)
      .def_readonly("n_accepted", &StepResult::n_accepted)
      .def_readonly("finish", &StepResult::finish)
      .def("__repr__", [](const StepResult& result) { return repr(result); });
  py::class_<Draft>(module, "Draft")
      .def_readonly("tokens", &Draft::tokens)
      .def_readonly("confidence", &Draft::confidence)
      .def("__repr__", [](const Draft& draft) { return repr(draft); });
  register_stats(module);
}

}  // namespace dflash::bindings
