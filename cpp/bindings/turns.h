#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "bindings/bindings.h"
#include "core/stop.h"

namespace dflash::bindings {

/// One request: an answer, from its prompt to its last token, or a single call.
struct Turn {
  std::atomic<bool> cancelled{false};
};

/// Lets one thread in at a time, in the order in which they came.
///
/// An answer keeps its turn between its tokens, while the caller holds its generator. Calls from
/// other threads wait until it ends. A call from the thread that took the last token can only mean
/// that the answer is given up: it takes over, since waiting would be waiting for itself.
///
/// Python delivers Ctrl-C and runs signal handlers between two instructions of its own, never
/// within one of these functions: each takes effect as a whole or not at all. All are called with
/// the GIL, and give it up while they wait.
class Turns {
 public:
  /// `stop` ends the work inside the sessions and libllama; `timeout` is how many seconds a call
  /// waits for its turn.
  Turns(std::shared_ptr<Stop> stop, std::optional<double> timeout)
      : timeout(timeout), stop_(std::move(stop)) {}

  std::optional<double> timeout;

  void check_cancelled();
  void begin(std::shared_ptr<Turn> answer = nullptr);
  void end(const std::shared_ptr<Turn>& turn);
  uint64_t cancel();
  bool wait_for_end(uint64_t visit, std::optional<double> seconds);
  void close(py::object free, bool wait);

  bool at_work();
  bool answering();
  size_t n_waiting();

  // ---- what the guards below do ----
  void enter(const std::shared_ptr<Turn>& turn, bool reading);
  bool enter_if_still(const std::shared_ptr<Turn>& turn);
  void leave();
  /// Gives the thread that let_go() is told.
  uint64_t hold();
  void let_go(uint64_t thread);
  bool was_cancelled();

 private:
  static constexpr uint64_t kNobody = 0;
  class Ticket;

  template <class Ready, class Claim>
  bool wait(Ready ready, Claim claim, std::optional<double> seconds);
  void check(const Turn* turn) const;
  bool is_free(uint64_t me, uint64_t ticket, const Turn* turn, bool reading) const;
  bool is_inside(uint64_t thread) const;
  void step_in(uint64_t thread);
  void step_out();

  std::shared_ptr<Stop> stop_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<uint64_t> waiting_;
  uint64_t next_ticket_ = 0;
  uint64_t worker_ = kNobody;  // the thread that is inside, so many calls deep
  int depth_ = 0;
  std::shared_ptr<Turn> current_ = std::make_shared<Turn>();
  std::shared_ptr<Turn> answer_;      // begun, and not ended
  uint64_t answer_thread_ = kNobody;  // that went on with it last
  uint64_t visit_ = 0;                // counts the times that a thread came in
  bool cancellable_ = false;          // the call that is inside
  bool closed_ = false;
  std::map<uint64_t, int> holds_;  // by thread
  py::object when_free_;
};

}  // namespace dflash::bindings
