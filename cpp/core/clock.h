#pragma once

#include <chrono>

namespace dflash {

/// What a piece of work takes.
template <class Work>
double seconds_of(Work work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace dflash
