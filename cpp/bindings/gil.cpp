#include "bindings/gil.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "core/errors.h"
#include "core/stop.h"

namespace dflash::bindings {

namespace {

std::atomic<int> inside{0};             // visits of all threads that prepare_exit() waits for
thread_local int own = 0;               // those of the calling thread, one in another
std::atomic<std::thread::id> ending{};  // the thread that ends the interpreter

bool barred() {
  const std::thread::id id = ending.load();
  return id != std::thread::id() && id != std::this_thread::get_id();
}

void enter() {
  ++own;
  ++inside;
}

void leave() {
  --own;
  --inside;
}

[[noreturn]] void sleep_for_ever() {
  inside -= own;
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace

Unlocked::Unlocked() {
  enter();
  state_ = PyEval_SaveThread();
  if (barred()) sleep_for_ever();
}

Unlocked::~Unlocked() {
  if (barred()) sleep_for_ever();
  PyEval_RestoreThread(state_);
  leave();
}

Locked::Locked() {
  enter();
  held_ = !barred() && Py_IsInitialized() != 0;
  if (held_) state_ = PyGILState_Ensure();
}

Locked::~Locked() {
  if (held_) PyGILState_Release(state_);
  leave();
}

void check_signals() {
  const Locked locked;
  if (!locked) throw Cancelled("the interpreter ends");
  if (PyErr_CheckSignals() != 0) throw pybind11::error_already_set();
}

void InLibrary::enter() {
  dflash::bindings::enter();
  inside_ = true;
  if (!barred()) return;
  PyEval_SaveThread();
  sleep_for_ever();
}

void InLibrary::exit() {
  if (!inside_) return;
  inside_ = false;
  leave();
}

void prepare_exit(double seconds) {
  ending = std::this_thread::get_id();
  Stop::everything() = true;
  PyThreadState* state = PyEval_SaveThread();
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (inside.load() > 0 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  PyEval_RestoreThread(state);
  Stop::everything() = false;
}

}  // namespace dflash::bindings
