#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

namespace dflash {

/// Tokens that came of one step, or of the logits that a prompt left behind.
struct Emission {
  int32_t n_tokens = 0;
  int32_t n_accepted = 0;  ///< drafts among them, the first ones
  bool by_step = true;
};

/// Counts and seconds of the speculative loop, of one answer or of a session.
///
/// Tokens, and drafts that were accepted among them, count when they are handed out: an answer that
/// ends inside a block counts those before its end. Work counts whole: steps, drafts, seconds.
struct Stats {
  int64_t n_prompt = 0;              ///< prompt tokens decoded (reused ones are not)
  int64_t n_tokens = 0;              ///< tokens handed out, the first of an answer included
  int64_t n_steps = 0;               ///< verify steps, those without a draft included
  int64_t n_step_tokens = 0;         ///< those of them that verify steps emitted
  int64_t n_blocks = 0;              ///< verify steps that had a draft to verify
  int64_t n_drafted = 0;             ///< drafts verified, those past an answer's end included
  int64_t n_accepted = 0;            ///< drafts accepted and handed out
  std::vector<int64_t> accepted_at;  ///< [k]: blocks of which at least k + 1 drafts count so

  std::vector<int64_t> drafted_at;   ///< [b]: steps for which b tokens were drafted
  std::vector<int64_t> verified_at;  ///< [w]: steps in which w of them were verified

  double seconds_prefill = 0;
  double seconds_inject = 0;
  double seconds_draft = 0;
  double seconds_verify = 0;
  double seconds_sample = 0;

  /// Tokens per verify step, correction or bonus included; 0 before the first step.
  double acceptance_length() const { return ratio(n_step_tokens, n_steps); }
  /// Accepted over drafted; comparable at one width only.
  double acceptance_rate() const { return ratio(n_accepted, n_drafted); }

  /// Of `block` tokens drafted so many were verified, `accepted` of them, and so many emitted.
  void count_step(int32_t block, int32_t drafted, int32_t accepted, int32_t emitted) {
    n_steps += 1;
    count(drafted_at, block);
    count(verified_at, drafted);
    if (drafted > 0) {
      n_blocks += 1;
      n_drafted += drafted;
      if (accepted_at.size() < static_cast<size_t>(drafted)) accepted_at.resize(drafted);
    }
    count_tokens({emitted, accepted, true}, 0, emitted);
  }

  /// Of the tokens emitted the first `before` were counted; the first `now` of them are to be.
  void count_tokens(const Emission& emitted, int32_t before, int32_t now) {
    n_tokens += now - before;
    if (!emitted.by_step) return;
    n_step_tokens += now - before;
    const int32_t were = std::min(before, emitted.n_accepted);
    const int32_t are = std::min(now, emitted.n_accepted);
    n_accepted += are - were;
    for (int32_t k = were; k < are; ++k) accepted_at[static_cast<size_t>(k)] += 1;
    for (int32_t k = are; k < were; ++k) accepted_at[static_cast<size_t>(k)] -= 1;
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

/// What a session counts: in the answer at work and in all of them, which differ in where they
/// began only.
class Account {
 public:
  const Stats& last() const { return last_; }
  const Stats& total() const { return total_; }

  /// Counts the seconds of the watch's life.
  Stopwatch watch(double Stats::* seconds) { return {last_.*seconds, total_.*seconds}; }

  void start_answer() {
    last_ = Stats{};
    emission_ = {};
    n_withheld_ = 0;
  }
  void count_prompt(int32_t n_read) {
    for (Stats* stats : {&last_, &total_}) stats->n_prompt += n_read;
  }
  /// A token that was sampled from the logits of a prompt.
  void count_first() {
    emission_ = {1, 0, false};
    n_withheld_ = 0;
    for (Stats* stats : {&last_, &total_}) stats->count_tokens(emission_, 0, 1);
  }
  void count_step(int32_t block, int32_t drafted, int32_t accepted, int32_t emitted) {
    emission_ = {emitted, accepted, true};
    n_withheld_ = 0;
    for (Stats* stats : {&last_, &total_}) {
      stats->count_step(block, drafted, accepted, emitted);
    }
  }

  /// Tokens that the last step emitted.
  int32_t n_emitted() const { return emission_.n_tokens; }
  /// Of these the last `n` are not handed out, or not yet; without a word all of them are.
  void withhold(int32_t n) {
    const int32_t n_emitted = emission_.n_tokens;
    for (Stats* stats : {&last_, &total_}) {
      stats->count_tokens(emission_, n_emitted - n_withheld_, n_emitted - n);
    }
    n_withheld_ = n;
  }

 private:
  Stats last_;
  Stats total_;
  Emission emission_;  // of the last step
  int32_t n_withheld_ = 0;
};

}  // namespace dflash
