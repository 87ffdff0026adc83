// Widths whose rows are plain decoding's to the bit: preferred, or the only ones.

#include <algorithm>
#include <limits>
#include <numeric>

#include "rig.h"
#include "traces.h"

using namespace dflash;
using namespace dflash::fakes;

// ---- preferred -----------------------------------------------------------------------------

namespace {

using namespace dflash::traces;

constexpr int32_t kAnywhere = std::numeric_limits<int32_t>::max();
constexpr double kPlain = 1e-2;

/// Three drafts cost little more than a plain step, four cost `four`, all others far more.
traces::Pair three_or_four(double four) {
  const auto verify = [=](int32_t width) {
    return width == 0 ? kPlain : width == 3 ? 1.15 * kPlain : width == 4 ? four : 5 * kPlain;
  };
  return traces::pair("three or four", verify, [](int32_t) { return 1e-3; }, 0);
}

/// Steps by drafts verified.
struct Verified {
  std::vector<int32_t> steps = std::vector<int32_t>(kWidest + 1);

  double share(const std::vector<int32_t>& widths) const {
    int32_t n = 0;
    for (const int32_t width : widths) n += steps[static_cast<size_t>(width)];
    return static_cast<double>(n) / std::accumulate(steps.begin(), steps.end(), 0);
  }
};

/// A text of which nine drafts of ten are right, by a machine whose costs are known.
Verified verified(const traces::Pair& pair, const ExactWidths& exact, int64_t n_context = 0) {
  World world = {"", pair, [](int64_t) { return 0.9; }};
  world.n_context = n_context;
  Terms terms(kWidest);
  Controller controller(terms);
  calibrated(world, 1, controller.costs());
  terms.exact = exact;
  Strategy strategy = adaptive(controller);
  Verified found;
  const auto stepped = strategy.stepped;
  strategy.stepped = [&](const StepSeen& step) {
    found.steps[static_cast<size_t>(step.n_verified)] += 1;
    stepped(step);
  };
  run(world, 1, {3000}, strategy);
  return found;
}

/// What is verified of a block by a controller that knows these costs well.
int32_t chosen(const traces::Pair& pair, const ExactWidths& exact) {
  Terms terms(kWidest);
  Controller controller(terms);
  for (int32_t round = 0; round < 20; ++round) {
    for (int32_t width = 0; width <= kWidest; ++width) {
      controller.costs().verified(width, pair.verify({width}));
      if (width > 0) controller.costs().drafted(width, pair.draft(width));
    }
  }
  terms.exact = exact;
  const Draft draft = {Tokens(kWidest, 1), std::vector<float>(kWidest, 0.9F)};
  return controller.choose_verify(draft, kWidest).width;
}

/// The least cost of four drafts, in plain steps, at which three are verified instead.
double turning_point(const ExactWidths& exact) {
  double four = 1.2 * kPlain;
  while (chosen(three_or_four(four), exact) == 4) four += 1e-3 * kPlain;
  CHECK_EQUAL(chosen(three_or_four(four), exact), 3);
  return four / kPlain;
}

const std::vector<int32_t> kEven = {2, 4, 6};
const std::vector<int32_t> kOdd = {1, 3, 5, 7};

}  // namespace

TEST(only_exact_widths_are_verified_where_no_others_are_wanted) {
  for (const traces::Pair& pair : traces::pairs()) {
    for (const std::vector<int32_t>& widths : {kEven, kOdd, {3}, {7}, {}}) {
      const Verified found = verified(pair, ExactWidths(widths, kAnywhere, true));
      std::vector<int32_t> with_plain = widths;
      with_plain.push_back(0);
      CHECK_EQUAL(found.share(with_plain), 1.0);
    }
  }
}

TEST(among_them_the_best_are_chosen) {
  for (const traces::Pair& pair : traces::pairs()) {
    const Verified all = verified(pair, ExactWidths());
    const Verified found = verified(pair, ExactWidths({1, 2, 3, 4, 5, 6, 7}, kAnywhere, true));
    CHECK_EQUAL(found.steps, all.steps);
  }
}

TEST(beyond_the_context_that_was_checked_no_width_is_exact) {
  const Verified near = verified(three_or_four(1.2e-2), ExactWidths(kEven, 1 << 20, true), 1000);
  CHECK(near.share(kEven) > 0.8);
  const Verified beyond = verified(three_or_four(1.2e-2), ExactWidths(kEven, 1000, true), 1000);
  CHECK_EQUAL(beyond.share({0}), 1.0);
}

TEST(exact_widths_are_preferred_where_others_are_better_by_less_than_two_percent) {
  const double free = turning_point(ExactWidths());
  CHECK_EQUAL(turning_point(ExactWidths({3, 4}, kAnywhere, false)), free);
  // Such a step emits between 3 and 4.5 tokens.
  const double less = free - turning_point(ExactWidths({3}, kAnywhere, false));
  const double more = turning_point(ExactWidths({4}, kAnywhere, false)) - free;
  CHECK(less > 0.06 && less < 0.09);
  CHECK(more > 0.06 && more < 0.09);
}

TEST(widths_that_are_much_better_are_verified_all_the_same) {
  const ExactWidths narrow({1, 2, 3}, kAnywhere, false);
  CHECK_EQUAL(chosen(three_or_four(1.2 * kPlain), narrow), 4);
}

TEST(where_none_is_exact_none_is_preferred) {
  for (const traces::Pair& pair : traces::pairs()) {
    const Verified all = verified(pair, ExactWidths());
    CHECK_EQUAL(verified(pair, ExactWidths({}, kAnywhere, false)).steps, all.steps);
  }
}

// ---- the only ones -------------------------------------------------------------------------

namespace {

const ExactWidths kFew({2, 4}, kAnywhere, true);

/// Sizes of the decodes from the n-th on.
std::vector<int32_t> since(const Rig& rig, size_t n) {
  const std::vector<int32_t>& all = rig.verifier.decodes;
  return {all.begin() + static_cast<std::ptrdiff_t>(n), all.end()};
}

void check_sizes(const std::vector<int32_t>& decodes, const std::vector<int32_t>& allowed) {
  for (const int32_t n : decodes) {
    CHECK(std::find(allowed.begin(), allowed.end(), n) != allowed.end());
  }
}

}  // namespace

TEST(whatever_proposes_drafts_only_exact_widths_are_decoded) {
  for (const int32_t width : {SessionOptions::kAdaptive, 1, 3, 5}) {
    for (const size_t most : {size_t{1}, size_t{3}, size_t{9}}) {
      RigOptions options;
      options.width = width;
      options.right = right::all;
      Rig rig(options);
      rig.sampler.most_possible = most;
      rig.session.set_exact(kFew);
      rig.session.sync(prompt(12));
      Tokens text = rig.session.step(rig.sampler).tokens;
      const size_t before = rig.verifier.decodes.size();
      while (text.size() < 60) {
        const Tokens own(text.size() % 6, text.back());
        const StepResult result = text.size() % 2 == 0
                                      ? rig.session.step(rig.sampler)
                                      : rig.session.step(rig.sampler, 1 + text.size() % 7, own);
        rig.check_agreement();
        text.insert(text.end(), result.tokens.begin(), result.tokens.end());
        if (result.finish != Finish::none) break;
      }
      CHECK_EQUAL(text, rig.expected(prompt(12), text.size()));
      check_sizes(since(rig, before), {1, 3, 5});
    }
  }
}

TEST(near_the_end_of_what_was_checked_and_beyond_it_steps_are_exact_too) {
  RigOptions options;
  options.right = right::all;
  Rig rig(options);
  rig.session.set_exact(ExactWidths({2, 4}, 30, true));
  rig.session.sync(prompt(12));
  (void)rig.session.step(rig.sampler);
  while (rig.session.n_past() < 50) {
    const int32_t n_past = rig.session.n_past();
    const StepResult result = rig.session.step(rig.sampler);
    if (n_past + result.n_drafted + 1 > 30) CHECK_EQUAL(result.n_drafted, 0);
    if (result.finish != Finish::none) break;
  }
  CHECK(rig.session.total_stats().n_drafted > 0);
}

// ---- the prompt is read as plain decoding reads it ------------------------------------------

TEST(a_prompt_whose_logits_a_step_took_with_it_is_read_in_the_same_pieces) {
  for (const bool only : {false, true}) {
    RigOptions options;
    options.verifier.n_batch = 8;
    options.verifier.max_rows = 8;
    Rig rig(options);
    rig.session.set_exact(ExactWidths({2}, kAnywhere, only));
    rig.session.sync(prompt(20));
    (void)rig.session.step(rig.sampler);
    rig.verifier.while_decoding = [] { throw Failure("in the middle of a block"); };
    CHECK_THROWS(Failure, (void)rig.session.step(rig.sampler));
    rig.verifier.while_decoding = {};
    const size_t before = rig.verifier.decodes.size();
    rig.session.sync(prompt(20));
    rig.check_agreement();
    // 8, 8 and 4 tokens: plain decoding has the logits that came of the last 4.
    CHECK_EQUAL(since(rig, before), std::vector<int32_t>{only ? 4 : 1});
  }
}

TEST(a_prompt_that_was_answered_gives_its_last_token_again_by_itself) {
  Rig rig;
  rig.session.set_exact(ExactWidths({2}, kAnywhere, true));
  rig.session.sync(prompt(20));
  (void)rig.answer(6);
  const size_t before = rig.verifier.decodes.size();
  rig.session.sync(prompt(20));
  CHECK_EQUAL(since(rig, before), std::vector<int32_t>{1});
}

TEST(a_prompt_that_was_read_without_drafts_is_not_read_again_for_the_drafter) {
  for (const bool only : {false, true}) {
    RigOptions options;
    options.width = 0;
    Rig rig(options);
    rig.session.set_exact(ExactWidths({2}, kAnywhere, only));
    rig.session.sync(prompt(20));
    rig.session.set_width(2);
    const size_t before = rig.verifier.decodes.size();
    rig.session.sync(prompt(24));
    CHECK_EQUAL(since(rig, before), std::vector<int32_t>{only ? 4 : 24});
    (void)rig.answer(20);
    CHECK(rig.session.total_stats().n_drafted > 0);
  }
}

TEST(a_memory_without_snapshots_would_read_all_again_and_so_does_this_one) {
  for (const bool only : {false, true}) {
    RigOptions options;
    options.verifier.memory = Memory::last_rows;
    options.right = right::all;
    Rig rig(options);
    rig.session.set_exact(ExactWidths({4}, kAnywhere, only));
    rig.session.sync(prompt(20));
    (void)rig.session.step(rig.sampler);
    (void)rig.session.step(rig.sampler);
    const Tokens& tokens = rig.session.tokens();
    const Tokens next = joined(head(tokens, tokens.size() - 3), {1, 2});
    const size_t before = rig.verifier.decodes.size();
    rig.session.sync(next);
    rig.check_agreement();
    CHECK_EQUAL(since(rig, before),
                std::vector<int32_t>{only ? static_cast<int32_t>(next.size()) : 2});
  }
}
