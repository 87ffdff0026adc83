#pragma once

#include <chrono>
#include <string>

#include "core/errors.h"

namespace dflash {

/// Runs a call into libllama and adds its seconds to `seconds`.
template <class Call>
auto timed(double& seconds, Call call) {
  struct Watch {
    explicit Watch(double& s) : seconds(s) {}
    ~Watch() {
      const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
      seconds += elapsed.count();
    }
    double& seconds;
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  } watch(seconds);
  return call();
}

/// What llama_decode's codes mean, as an exception; 0 is success.
inline void check_decode(int code, const char* who) {
  if (code == 0) return;
  const std::string what =
      std::string("llama_decode of the ") + who + " gave " + std::to_string(code);
  if (code == 1) throw ContextError(what + ": no room left in its memory; raise n_ctx");
  if (code == 2) throw Cancelled(std::string("cancelled in a decode of the ") + who);
  throw BackendError(what + (code == -2   ? ": out of memory"
                             : code == -3 ? ": the computation failed"
                                          : ": invalid batch"));
}

}  // namespace dflash
