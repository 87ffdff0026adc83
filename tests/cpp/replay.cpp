#include "replay.h"

#include <optional>

#include "core/calibration.h"

namespace dflash::traces {

namespace {

constexpr int32_t kFew = 8;  // as in core/features.cpp

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

Pair pair(std::string name, const Seconds& verify, Seconds draft, double inject) {
  return {std::move(name), [=](const Decode& decode) { return verify(decode.width); },
          std::move(draft), inject};
}

const std::vector<Pair>& pairs() {
  const auto cliff = [](int32_t width) { return width < 4 ? 0.1 : 0.2; };
  static const std::vector<Pair> all = {
      pair("bf16", of({10.7, 13.1, 15.0, 16.4, 17.2, 20.5, 24.0, 26.1}), line(2.5, 0.35), 2e-5),
      pair("q8", of({9.1, 20.3, 26.4, 30.2, 36.2, 39.0, 38.0, 36.9}), line(2.5, 0.35), 2e-5),
      pair("large", line(100, 2), line(8, 0.5), 6e-5), pair("cliff", cliff, line(8, 0.5), 6e-5)};
  return all;
}

Lookup KnownText::lookup(int64_t anchor) const {
  const auto n = static_cast<std::ptrdiff_t>(n_prompt_) + anchor + 1;
  return look_up({tokens_.begin(), tokens_.begin() + n}, kWidest);
}

Strategy fixed(int32_t width) {
  return {[=](const Lookup&, double, int64_t) { return Plan{0, width}; },
          [=](const Draft&) { return Verdict{width, false}; }};
}

Strategy adaptive(Controller& controller) {
  const int32_t widest = controller.costs().max_width();
  return {[=, &controller](const Lookup& lookup, double catch_up, int64_t n_past) {
            controller.enter(static_cast<int32_t>(n_past));
            return controller.choose(widest, lookup, catch_up);
          },
          [=, &controller](const Draft& draft) { return controller.choose_verify(draft, widest); },
          [&](const StepSeen& step) { controller.stepped(step); },
          [&](int32_t n_rows, double seconds) { controller.costs().caught_up(n_rows, seconds); },
          [&](int32_t n_rows) { return controller.costs().catch_up(n_rows); }};
}

// As Drafting::make(), and decode_block() and commit() of core/session.cpp.
Outcome replay(const Text& text, Span span, const Pair& pair, Machine& machine,
               const Strategy& strategy, const std::function<void(double)>& before_step) {
  Outcome outcome;
  int64_t position = 0;
  int32_t n_waiting = text.n_prompt();
  int64_t n_before = 0;
  while (position < span.n && position + 1 < text.end()) {
    const double share = static_cast<double>(position) / static_cast<double>(span.n);
    if (before_step) before_step(share);
    if (position < span.from) {
      outcome = {};
      n_before = position;
    }
    const int64_t n_past = text.n_context() + position;
    const Lookup lookup = text.lookup(position);
    const double catch_up = n_waiting > kFew ? strategy.catch_up(n_waiting) : 0;
    const Plan plan = strategy.plan(lookup, catch_up, n_past);
    Draft draft;
    double drafting = 0;
    Verdict verdict{plan.copy, plan.copy > 0};
    if (plan.copy == 0 && plan.block > 0) {
      if (n_waiting > kFew) {
        const double injecting = machine.time(n_waiting * pair.inject);
        outcome.seconds += injecting;
        strategy.caught_up(n_waiting, injecting);
        n_waiting = 0;
      }
      drafting = machine.time(pair.draft(plan.block) + n_waiting * pair.inject);
      outcome.seconds += drafting;
      n_waiting = 0;
      text.draft(position, plan.block, draft);
      verdict = strategy.verify(draft);
    }
    const std::vector<Token>& proposed = verdict.copy ? lookup.tokens : draft.tokens;
    const std::vector<Token> verified(proposed.begin(), proposed.begin() + verdict.width);
    const Decode decode = {verdict.width, machine.width_before, n_past, share};
    const double verifying = machine.time(pair.verify(decode));
    machine.width_before = verdict.width;
    const std::vector<Token> emitted = emitted_by(text, position, verified);
    const auto n_emitted = static_cast<int32_t>(emitted.size());
    strategy.stepped({draft, verdict.width, emitted, drafting, verifying});
    outcome.seconds += verifying;
    outcome.n_copied += verdict.copy ? n_emitted - 1 : 0;
    position += n_emitted;
    n_waiting += n_emitted;
  }
  outcome.n_tokens = position - n_before;
  return outcome;
}

void calibrate(const Pair& pair, Machine& machine, Costs& costs) {
  constexpr double kDecodes = 40;  // there is time for about so many
  Calibration calibration(pair.widest, kDecodes * pair.verify({pair.widest, pair.widest}));
  while (const std::optional<int32_t> width = calibration.next()) {
    const double verify = machine.time(pair.verify({*width, machine.width_before}));
    calibration.took(verify, *width > 0 ? machine.time(pair.draft(*width)) : 0);
    machine.width_before = *width;
  }
  calibration.tell(costs);
}

Comparison compare(const std::function<double(int32_t width, uint64_t seed)>& seconds_a_token,
                   int32_t n_seeds, int32_t widest) {
  const auto mean = [&](int32_t width) {
    double sum = 0;
    for (int32_t seed = 1; seed <= n_seeds; ++seed) {
      sum += seconds_a_token(width, static_cast<uint64_t>(seed));
    }
    return sum / n_seeds;
  };
  const double plain = mean(0);
  Comparison result{plain, plain, 0, mean(kAdaptive)};
  for (int32_t width = 1; width <= widest; ++width) {
    const double seconds = mean(width);
    if (seconds < result.best) {
      result.best = seconds;
      result.best_width = width;
    }
  }
  return result;
}

}  // namespace dflash::traces
