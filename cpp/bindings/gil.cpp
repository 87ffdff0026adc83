#include "bindings/gil.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "core/stop.h"

namespace dflash::bindings {

namespace {

std::atomic<int> inside{0};             // threads that hold, or wait for, the GIL through this file
std::atomic<std::thread::id> ending{};  // the thread that ends the interpreter

bool barred() {
  const std::thread::id id = ending.load();
  return id != std::thread::id() && id != std::this_thread::get_id();
}

[[noreturn]] void sleep_for_ever() {
  --inside;
  while (true) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace

Unlocked::Unlocked() {
  ++inside;
  state_ = PyEval_SaveThread();
  if (barred()) sleep_for_ever();
}

Unlocked::~Unlocked() {
  if (barred()) sleep_for_ever();
  PyEval_RestoreThread(state_);
  --inside;
}

Locked::Locked() {
  ++inside;
  held_ = !barred() && Py_IsInitialized() != 0;
  if (held_) state_ = PyGILState_Ensure();
}

Locked::~Locked() {
  if (held_) PyGILState_Release(state_);
  --inside;
}

void enter_library() {
  ++inside;
  if (!barred()) return;
  PyEval_SaveThread();
  sleep_for_ever();
}

void leave_library() {
  --inside;
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
