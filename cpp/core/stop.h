#pragma once

#include <atomic>

#include "core/errors.h"

namespace dflash {

/// A request to stop, made from any thread. It ends the work that looks at it, once.
class Stop {
 public:
  Stop() = default;
  Stop(const Stop&) = delete;
  Stop& operator=(const Stop&) = delete;

  void request() { flag_ = true; }
  void clear() { flag_ = false; }
  bool requested() const { return flag_; }

  /// Throws Cancelled where a request was made, and takes the request back.
  void check() {
    if (flag_.exchange(false) || everything()) throw Cancelled("cancelled");
  }

  /// A request made before is not seen while this lives, and is as before afterwards.
  class Pause {
   public:
    explicit Pause(Stop& stop) : stop_(stop), requested_(stop.flag_.exchange(false)) {}
    ~Pause() {
      if (requested_) stop_.request();
    }
    Pause(const Pause&) = delete;
    Pause& operator=(const Pause&) = delete;

   private:
    Stop& stop_;
    bool requested_;
  };

  /// While it is true, all work in the process is to stop.
  static std::atomic<bool>& everything() {
    static std::atomic<bool> flag{false};
    return flag;
  }

  /// For C: whether a request was made on the flag at `flag`.
  static bool asked(void* flag) {
    return static_cast<std::atomic<bool>*>(flag)->load() || everything();
  }
  void* flag() const { return &flag_; }

 private:
  // A context may outlive whoever told it to look here, so the flag is never freed: a few bytes for
  // each model that is loaded.
  std::atomic<bool>& flag_ = *new std::atomic<bool>(false);
};

}  // namespace dflash
