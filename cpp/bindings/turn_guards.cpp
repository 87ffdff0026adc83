// Turns as Python sees them: context managers.

#include <utility>

#include "bindings/turns.h"
#include "core/errors.h"

namespace dflash::bindings {

namespace {

/// A context manager that leaves once, also where Ctrl-C keeps its `__exit__` from being called.
class Guard {
 public:
  explicit Guard(std::shared_ptr<Turns> turns) : turns_(std::move(turns)) {}
  virtual ~Guard() = default;
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 protected:
  void leave_unseen() {
    if (!inside_) return;
    const py::error_scope kept;
    try {
      leave();
    } catch (py::error_already_set& error) {
      error.discard_as_unraisable("the end of a call");
    }
  }
  virtual void leave() = 0;

  std::shared_ptr<Turns> turns_;
  bool inside_ = false;
};

class Alone : public Guard {
 public:
  Alone(std::shared_ptr<Turns> turns, std::shared_ptr<Turn> turn, bool reading)
      : Guard(std::move(turns)), turn_(std::move(turn)), reading_(reading) {}
  ~Alone() override { leave_unseen(); }

  void enter() {
    turns_->enter(turn_, reading_);
    inside_ = true;
  }

  /// A decode of llama_cpp's own that was cut short is told by its number only.
  void exit(const py::object& /*type*/, const py::object& error, const py::object& /*traceback*/) {
    const bool was_cancelled = turns_->was_cancelled();
    leave();
    if (!was_cancelled || !py::isinstance(error, PyExc_RuntimeError)) return;
    const auto errors = py::module_::import("dflash_local.errors");
    if (py::isinstance(error, errors.attr("DFlashError"))) return;
    const py::object cancelled = errors.attr("Cancelled")("the call was cancelled");
    PyException_SetCause(cancelled.ptr(), py::object(error).release().ptr());
    py::set_error(errors.attr("Cancelled"), cancelled);
    throw py::error_already_set();
  }

 private:
  void leave() override {
    inside_ = false;
    turns_->leave();
  }

  std::shared_ptr<Turn> turn_;
  bool reading_;
};

/// An answer has its turn, also while nobody is inside.
class Answer : public Guard {
 public:
  explicit Answer(std::shared_ptr<Turns> turns) : Guard(std::move(turns)) {}
  ~Answer() override { leave_unseen(); }

  std::shared_ptr<Turn> enter() {
    turns_->enter(nullptr, false);
    turns_->begin(turn_);
    inside_ = true;
    turns_->leave();
    return turn_;
  }
  void exit(const py::args& /*error*/) { leave(); }

 private:
  void leave() override {
    inside_ = false;
    turns_->end(turn_);
  }

  std::shared_ptr<Turn> turn_ = std::make_shared<Turn>();
};

class IfStill : public Guard {
 public:
  IfStill(std::shared_ptr<Turns> turns, std::shared_ptr<Turn> turn)
      : Guard(std::move(turns)), turn_(std::move(turn)) {}
  ~IfStill() override { leave_unseen(); }

  bool enter() { return inside_ = turns_->enter_if_still(turn_); }
  void exit(const py::args& /*error*/) {
    if (inside_) leave();
  }

 private:
  void leave() override {
    inside_ = false;
    turns_->leave();
  }

  std::shared_ptr<Turn> turn_;
};

class Holding : public Guard {
 public:
  explicit Holding(std::shared_ptr<Turns> turns) : Guard(std::move(turns)) {}
  ~Holding() override { leave_unseen(); }

  void enter() {
    thread_ = turns_->hold();
    inside_ = true;
  }
  void exit(const py::args& /*error*/) { leave(); }

 private:
  void leave() override {
    inside_ = false;
    turns_->let_go(thread_);
  }

  uint64_t thread_ = 0;
};

void register_guards(py::module_& module) {
  py::class_<Alone>(module, "Alone")
      .def("__enter__", &Alone::enter)
      .def("__exit__", &Alone::exit, py::arg("kind"), py::arg("error"), py::arg("traceback"));
  py::class_<Answer>(module, "Answer")
      .def("__enter__", &Answer::enter)
      .def("__exit__", &Answer::exit);
  py::class_<IfStill>(module, "IfStill")
      .def("__enter__", &IfStill::enter)
      .def("__exit__", &IfStill::exit);
  py::class_<Holding>(module, "Holding")
      .def("__enter__", &Holding::enter)
      .def("__exit__", &Holding::exit);
}

}  // namespace

void register_turns(py::module_& module) {
  py::class_<Turn, std::shared_ptr<Turn>>(module, "Turn");
  register_guards(module);
  using Shared = std::shared_ptr<Turns>;
  using Request = std::shared_ptr<Turn>;
  py::class_<Turns, Shared>(module, "Turns")
      .def(py::init<std::shared_ptr<Stop>, std::optional<double>>(), py::arg("stop"),
           py::arg("timeout").none(true) = py::none())
      .def_readwrite("timeout", &Turns::timeout)
      .def(
          "alone",
          [](const Shared& turns, const Request& turn, bool reading) {
            return std::make_unique<Alone>(turns, turn, reading);
          },
          py::arg("turn").none(true) = py::none(), py::kw_only(), py::arg("reading") = false)
      .def("answer", [](const Shared& turns) { return std::make_unique<Answer>(turns); })
      .def(
          "if_still",
          [](const Shared& turns, const Request& turn) {
            return std::make_unique<IfStill>(turns, turn);
          },
          py::arg("turn"))
      .def("holding", [](const Shared& turns) { return std::make_unique<Holding>(turns); })
      .def("check_cancelled", &Turns::check_cancelled)
      .def("begin", [](Turns& turns) { turns.begin(); })
      .def("cancel", &Turns::cancel)
      .def("wait_for_end", &Turns::wait_for_end, py::arg("visit"),
           py::arg("timeout").none(true) = py::none())
      .def("close", &Turns::close, py::arg("free"), py::kw_only(), py::arg("wait") = true)
      .def_property_readonly("at_work", &Turns::at_work)
      .def_property_readonly("answering", &Turns::answering)
      .def_property_readonly("n_waiting", &Turns::n_waiting);
}

}  // namespace dflash::bindings
