#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace dflash {

/// Counts and seconds of the speculative loop, of one answer or of a session.
struct Stats {
  int64_t n_prompt = 0;       ///< prompt tokens decoded (reused ones are not)
  int64_t n_tokens = 0;       ///< tokens emitted, the first of an answer included
  int64_t n_steps = 0;        ///< verify steps, those without a draft included
  int64_t n_step_tokens = 0;  ///< tokens emitted by verify steps
  int64_t n_blocks = 0;       ///< verify steps that had a draft to verify
  int64_t n_drafted = 0;
  int64_t n_accepted = 0;
  std::vector<int64_t> accepted_at;  ///< [k]: blocks in which at least k + 1 drafts were accepted

  std::vector<int64_t> drafted_at;   ///< [b]: steps for which b tokens were drafted
  std::vector<int64_t> verified_at;  ///< [w]: steps in which w of them were verified

  double seconds_prefill = 0;
  double seconds_inject = 0;
  double seconds_draft = 0;
  double seconds_verify = 0;
  double seconds_sample = 0;

  /// Tokens emitted per verify step, correction or bonus included; 0 before the first step.
  double acceptance_length() const { return ratio(n_step_tokens, n_steps); }
  /// Accepted over drafted; comparable at one width only.
  double acceptance_rate() const { return ratio(n_accepted, n_drafted); }

  /// Of `block` tokens drafted so many were verified, `accepted` of them, and so many emitted.
  void count_step(int32_t block, int32_t drafted, int32_t accepted, int32_t emitted) {
    n_steps += 1;
    n_tokens += emitted;
    n_step_tokens += emitted;
    count(drafted_at, block);
    count(verified_at, drafted);
    if (drafted == 0) return;
    n_blocks += 1;
    n_drafted += drafted;
    n_accepted += accepted;
    if (accepted_at.size() < static_cast<size_t>(drafted)) accepted_at.resize(drafted);
    for (int32_t k = 0; k < accepted; ++k) accepted_at[k] += 1;
  }

 private:
  static void count(std::vector<int64_t>& at, int32_t width) {
    if (at.size() <= static_cast<size_t>(width)) at.resize(static_cast<size_t>(width) + 1);
    at[static_cast<size_t>(width)] += 1;
  }
  static double ratio(int64_t part, int64_t whole) {
    return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
  }
};

/// Adds the seconds of its own life to one figure of both statistics.
class Stopwatch {
 public:
  Stopwatch(double& last, double& total) : last_(last), total_(total) {}
  ~Stopwatch() {
    const std::chrono::duration<double> elapsed = Clock::now() - start_;
    last_ += elapsed.count();
    total_ += elapsed.count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  using Clock = std::chrono::steady_clock;
  double& last_;
  double& total_;
  Clock::time_point start_ = Clock::now();
};

}  // namespace dflash
