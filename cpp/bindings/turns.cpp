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

uint64_t Turns::hold() {
  const uint64_t me = this_thread();
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_inside(me)) check(nullptr);
  holds_[me] += 1;
  return me;
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

}  // namespace dflash::bindings
