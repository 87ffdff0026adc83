#include "bindings/turns.h"

#include <algorithm>
#include <chrono>
#include <sstream>
#include <utility>

#include "bindings/gil.h"
#include "core/errors.h"

namespace dflash::bindings {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kSignals(20);  // between two looks for signals

/// Who one is. The system gives the numbers of threads that ended to others.
uint64_t this_thread() {
  static std::atomic<uint64_t> last{0};
  thread_local const uint64_t number = ++last;
  return number;
}

void run_signal_handlers() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

std::string still_at_work(double seconds) {
  std::ostringstream text;
  text << "the model is at work in another thread, and was for " << seconds
       << " s: wait longer (turn_timeout), or stop it with cancel()";
  return text.str();
}

}  // namespace

/// A place in the queue.
class Turns::Ticket {
 public:
  explicit Ticket(Turns& turns) : turns_(turns) {
    const std::lock_guard<std::mutex> lock(turns_.mutex_);
    number_ = turns_.next_ticket_++;
    turns_.waiting_.push_back(number_);
  }
  ~Ticket() {
    const std::lock_guard<std::mutex> lock(turns_.mutex_);
    auto& queue = turns_.waiting_;
    queue.erase(std::find(queue.begin(), queue.end(), number_));
    turns_.changed_.notify_all();
  }
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  uint64_t number() const { return number_; }

 private:
  Turns& turns_;
  uint64_t number_;
};

// ---- inside ----------------------------------------------------------------------------------

void Turns::enter(const std::shared_ptr<Turn>& turn, bool reading) {
  const uint64_t me = this_thread();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    check(turn.get());
  }
  const Ticket ticket(*this);
  const auto ready = [&] { return closed_ || is_free(me, ticket.number(), turn.get(), reading); };
  const auto claim = [&] {
    check(turn.get());
    if (depth_ == 0) {
      cancellable_ = !reading;
      if (turn == nullptr && answer_ == nullptr) stop_->clear();  // what was cancelled has ended
    }
    if (turn != nullptr) answer_thread_ = me;
    step_in(me);
  };
  const std::optional<double> most = timeout;
  if (!wait(ready, claim, most)) throw BackendError(still_at_work(*most));
}

bool Turns::enter_if_still(const std::shared_ptr<Turn>& turn) {
  const uint64_t me = this_thread();
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool mine = current_ == turn && (worker_ == kNobody || worker_ == me) && !closed_;
  if (mine) step_in(me);
  return mine;
}

void Turns::leave() {
  py::object free;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (depth_ == 1 && holds_.empty()) std::swap(free, when_free_);
    if (!free) {
      step_out();
      return;
    }
  }
  struct Out {
    Turns& turns;
    ~Out() {
      const std::lock_guard<std::mutex> lock(turns.mutex_);
      turns.step_out();
    }
  };
  const Out at_the_end{*this};
  free();
}

void Turns::hold() {
  const uint64_t me = this_thread();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_inside(me)) check(nullptr);
  holds_[me] += 1;
}

void Turns::let_go(uint64_t thread) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = holds_.find(thread);
    if (--found->second == 0) {
      holds_.erase(found);
      changed_.notify_all();
    }
    if (worker_ != kNobody || !holds_.empty() || !when_free_) return;
    step_in(thread);
  }
  leave();
}

bool Turns::was_cancelled() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return current_->cancelled;
}

void Turns::check_cancelled() {
  if (was_cancelled()) throw Cancelled("the call was cancelled");
}

void Turns::begin(std::shared_ptr<Turn> answer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  current_ = answer ? answer : std::make_shared<Turn>();
  stop_->clear();
  answer_ = std::move(answer);
  answer_thread_ = this_thread();
}

void Turns::end(const std::shared_ptr<Turn>& turn) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (answer_ != turn) return;
  answer_ = nullptr;
  changed_.notify_all();
}

// ---- from outside ----------------------------------------------------------------------------

uint64_t Turns::cancel() {
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool inside = worker_ != kNobody && cancellable_;
  if (inside || answer_ != nullptr) {
    current_->cancelled = true;
    answer_ = nullptr;
    changed_.notify_all();
  }
  if (inside) stop_->request();
  return visit_;
}

bool Turns::wait_for_end(uint64_t visit, std::optional<double> seconds) {
  const uint64_t me = this_thread();
  const auto ended = [&] { return worker_ == kNobody || worker_ == me || visit_ != visit; };
  return wait(ended, [] {}, seconds);
}

void Turns::close(py::object free, bool wait_for_others) {
  const uint64_t me = this_thread();
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    closed_ = true;
    answer_ = nullptr;
    if (worker_ != kNobody) {
      current_->cancelled = true;
      stop_->request();
    }
    changed_.notify_all();
    if (wait_for_others && is_inside(me)) {
      std::swap(when_free_, free);  // what is dropped is dropped without the lock
      return;
    }
  }
  const auto over = [&] { return !wait_for_others || (worker_ == kNobody && holds_.empty()); };
  wait(over, [&] { step_in(me); }, {});
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::swap(when_free_, free);
  }
  leave();
}

bool Turns::at_work() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return worker_ != kNobody;
}

bool Turns::answering() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return answer_ != nullptr;
}

size_t Turns::n_waiting() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return waiting_.size();
}

// ---- under the lock --------------------------------------------------------------------------

/// Waits until `ready`, and calls `claim` in the same moment; gives whether that came in time.
/// Signal handlers run meanwhile, and may throw.
template <class Ready, class Claim>
bool Turns::wait(Ready ready, Claim claim, std::optional<double> seconds) {
  const auto start = Clock::now();
  const auto time_is_up = [&] {
    return seconds && Clock::now() - start >= std::chrono::duration<double>(*seconds);
  };
  while (true) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (ready()) {
        claim();
        return true;
      }
    }
    if (time_is_up()) return false;
    {
      const Unlocked unlocked;
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, kSignals, ready);
    }
    run_signal_handlers();
  }
}

void Turns::check(const Turn* turn) const {
  if (closed_) throw BackendError("the model is closed");
  if (turn == nullptr) return;
  if (turn->cancelled) throw Cancelled("the answer was cancelled");
  if (turn != current_.get()) {
    throw BackendError(
        "the model was used for something else while this generator was running: "
        "finish or close a generator before the next call");
  }
}

bool Turns::is_free(uint64_t me, uint64_t ticket, const Turn* turn, bool reading) const {
  if (worker_ != kNobody) return worker_ == me;
  if (turn != nullptr || reading) return true;
  if (answer_ != nullptr) return answer_thread_ == me;
  return waiting_.front() == ticket;
}

bool Turns::is_inside(uint64_t thread) const {
  return worker_ == thread || holds_.count(thread) > 0;
}

void Turns::step_in(uint64_t thread) {
  visit_ += depth_ == 0 ? 1 : 0;
  worker_ = thread;
  depth_ += 1;
}

void Turns::step_out() {
  depth_ -= 1;
  if (depth_ > 0) return;
  worker_ = kNobody;
  changed_.notify_all();
}

// ---- for Python ------------------------------------------------------------------------------

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
    turns_->hold();
    thread_ = this_thread();
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
