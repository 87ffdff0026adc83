#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>

#include "llama/api.h"

namespace dflash::bindings {

/// Whoever works in a context has it alone: all sessions over one context share its owner. Others
/// wait, first come, first served.
class Owner {
 public:
  /// The owner of a context, the same as long as anybody holds it.
  static std::shared_ptr<Owner> of(const llama_context* context);

  /// The context is the caller's while it lives. Waits without a time limit, so not with the GIL.
  /// Throws BackendError in a thread that has the context already: a signal handler inside a call.
  class Turn {
   public:
    explicit Turn(Owner& owner);
    ~Turn();
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

   private:
    Owner& owner_;
  };

  /// Whether the calling thread has the context.
  bool mine() const { return worker_.load() == std::this_thread::get_id(); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t next_ticket_ = 0;
  uint64_t serving_ = 0;
  std::atomic<std::thread::id> worker_{};
};

}  // namespace dflash::bindings
