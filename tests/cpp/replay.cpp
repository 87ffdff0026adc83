#include "replay.h"

namespace dflash::traces {

namespace {

constexpr int32_t kFew = 8;  // as in core/session.cpp

Seconds of(std::vector<double> milliseconds) {
  return [=](int32_t width) { return milliseconds.at(static_cast<size_t>(width)) * 1e-3; };
}

Seconds line(double milliseconds, double slope) {
  return [=](int32_t width) { return (milliseconds + slope * width) * 1e-3; };
}

/// Tokens from after an anchor on: drafts as far as they are right, then one more.
std::vector<Token> emitted_by(const Text& text, int64_t anchor, const std::vector<Token>& drafts) {
  std::vector<Token> emitted;
  for (int64_t at = anchor + 1; at < text.end(); ++at) {
    const size_t i = emitted.size();
    emitted.push_back(text.token(at));
    if (i >= drafts.size() || drafts[i] != emitted.back()) break;
  }
  return emitted;
}

}  // namespace

const std::vector<Pair>& pairs() {
  static const std::vector<Pair> all = {
      {"bf16", of({10.7, 13.1, 15.0, 16.4, 17.2, 20.5, 24.0, 26.1}), line(2.5, 0.35), 2e-5},
      {"q8", of({9.1, 20.3, 26.4, 30.2, 36.2, 39.0, 38.0, 36.9}), line(2.5, 0.35), 2e-5},
      {"large", line(100, 2), line(8, 0.5), 6e-5},
      {"cliff", [](int32_t width) { return width < 4 ? 0.1 : 0.2; }, line(8, 0.5), 6e-5}};
  return all;
}

Lookup KnownText::lookup(int64_t anchor) const {
  const auto n = static_cast<std::ptrdiff_t>(n_prompt_) + anchor + 1;
  return look_up({tokens_.begin(), tokens_.begin() + n}, kWidest);
}

Strategy fixed(int32_t width) {
  return {[=](const Lookup&, double) { return Plan{0, width}; },
          [=](const Draft&) { return Verdict{width, false}; }};
}

Strategy adaptive(Controller& controller) {
  return {[&](const Lookup& lookup, double catch_up) {
            return controller.choose(kWidest, lookup, catch_up);
          },
          [&](const Draft& draft) { return controller.choose_verify(draft, kWidest); },
          [&](const StepSeen& step) { controller.stepped(step); },
          [&](int32_t n_rows, double seconds) { controller.costs().caught_up(n_rows, seconds); },
          [&](int32_t n_rows) { return controller.costs().catch_up(n_rows); }};
}

// As make_plan(), make_draft(), decode_block() and commit() of core/session.cpp.
Outcome replay(const Text& text, int64_t n, const Pair& pair, Machine& machine,
               const Strategy& strategy, const std::function<void(double)>& before_step) {
  Outcome outcome;
  int64_t position = 0;
  int32_t n_waiting = text.n_prompt();
  while (position < n && position + 1 < text.end()) {
    if (before_step) before_step(static_cast<double>(position) / static_cast<double>(n));
    const Lookup lookup = text.lookup(position);
    const Plan plan = strategy.plan(lookup, n_waiting > kFew ? strategy.catch_up(n_waiting) : 0);
    Draft draft;
    double drafting = 0;
    Verdict verdict{plan.copy, plan.copy > 0};
    if (plan.copy == 0 && plan.block > 0) {
      const double injecting = n_waiting * pair.inject;
      if (n_waiting > kFew) {
        const double seconds = machine.time(injecting);
        strategy.caught_up(n_waiting, seconds);
        outcome.seconds += seconds;
        drafting = machine.time(pair.draft(plan.block));
      } else {
        drafting = machine.time(pair.draft(plan.block) + injecting);
      }
      n_waiting = 0;
      text.draft(position, plan.block, draft);
      verdict = strategy.verify(draft);
    }
    const std::vector<Token>& proposed = verdict.copy ? lookup.tokens : draft.tokens;
    const std::vector<Token> verified(proposed.begin(), proposed.begin() + verdict.width);
    const double verifying = machine.time(pair.verify(verdict.width));
    const std::vector<Token> emitted = emitted_by(text, position, verified);
    const auto n_emitted = static_cast<int32_t>(emitted.size());
    strategy.stepped({draft, verdict.width, emitted, drafting, verifying});
    outcome.seconds += drafting + verifying;
    outcome.n_copied += verdict.copy ? n_emitted - 1 : 0;
    position += n_emitted;
    n_waiting += n_emitted;
  }
  outcome.n_tokens = position;
  return outcome;
}

void calibrate(const Pair& pair, Machine& machine, Costs& costs) {
  for (int32_t round = 0; round < 3; ++round) {
    for (int32_t width = 0; width <= kWidest; ++width) {
      costs.verified(width, machine.time(pair.verify(width)));
      if (width > 0) costs.drafted(width, machine.time(pair.draft(width)));
    }
  }
}

Comparison compare(const std::function<double(int32_t width, uint64_t seed)>& seconds_a_token,
                   int32_t n_seeds) {
  const auto mean = [&](int32_t width) {
    double sum = 0;
    for (int32_t seed = 1; seed <= n_seeds; ++seed) {
      sum += seconds_a_token(width, static_cast<uint64_t>(seed));
    }
    return sum / n_seeds;
  };
  const double plain = mean(0);
  Comparison result{plain, plain, 0, mean(kAdaptive)};
  for (int32_t width = 1; width <= kWidest; ++width) {
    const double seconds = mean(width);
    if (seconds < result.best) {
      result.best = seconds;
      result.best_width = width;
    }
  }
  return result;
}

}  // namespace dflash::traces
