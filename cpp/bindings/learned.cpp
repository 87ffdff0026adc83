#include "bindings/learned.h"

#include <optional>
#include <utility>
#include <vector>

namespace dflash::bindings {

namespace {

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
  using Learned = std::optional<std::pair<Costs, std::vector<double>>>;
  const Learned learned = handle.read([](const Session& session) {
    const Controller* controller = session.controller();
    if (controller == nullptr) return Learned();
    return Learned(std::in_place, controller->costs(), controller->chances().usual());
  });
  if (!learned) return {};
  const auto& [costs, accepted] = *learned;
  py::dict out = to_dict(costs.known());
  py::list contexts;
  for (const KnownCosts& known : costs.all_known()) contexts.append(to_dict(known));
  out["contexts"] = contexts;
  out["accepted"] = accepted;
  return out;
}

void restore(Handle& handle, const std::vector<py::dict>& contexts,
             const std::vector<double>& accepted) {
  std::vector<KnownCosts> costs;
  for (const py::dict& context : contexts) costs.push_back(to_costs(context));
  handle.run([&](Session& session) { session.restore(costs, accepted); });
}

}  // namespace

void register_learned(py::class_<Handle>& session) {
  session.def("learned", &learned)
      .def("restore", &restore, py::kw_only(), py::arg("contexts"), py::arg("accepted"));
}

}  // namespace dflash::bindings
