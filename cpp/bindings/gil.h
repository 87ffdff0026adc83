#pragma once

#include <pybind11/pybind11.h>

namespace dflash::bindings {

/// Gives up the GIL for its life.
///
/// Python ends, in the middle of whatever C++ it runs, a thread that asks for the GIL while the
/// interpreter finalizes, and the process with it. After prepare_exit() other threads therefore
/// sleep here instead of asking.
class Unlocked {
 public:
  Unlocked();
  ~Unlocked();
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;

 private:
  PyThreadState* state_;
};

/// Takes the GIL for its life, in a callback; not after prepare_exit(): it is false then.
class Locked {
 public:
  Locked();
  ~Locked();
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

  explicit operator bool() const { return held_; }

 private:
  bool held_;
  PyGILState_STATE state_{};
};

/// Ctrl-C ends work that lasts, between two decodes. Called without the GIL.
void check_signals();

/// While it is entered, the calling thread is among those that prepare_exit() waits for:
/// llama_cpp's own calls work for it, without the GIL. After prepare_exit() other threads sleep
/// here instead.
class InLibrary {
 public:
  InLibrary() = default;
  ~InLibrary() { exit(); }
  InLibrary(const InLibrary&) = delete;
  InLibrary& operator=(const InLibrary&) = delete;

  void enter();
  void exit();

 private:
  bool inside_ = false;
};

/// From here on the calling thread, which ends the interpreter, is the only one that gets the GIL
/// here. Work of others is told to stop and waited for, `seconds` at most.
void prepare_exit(double seconds);

}  // namespace dflash::bindings
