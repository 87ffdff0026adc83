#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "checks.h"
#include "core/calibration.h"
#include "core/controller.h"
#include "traces.h"

namespace {

using namespace dflash;
using namespace dflash::traces;

constexpr int32_t kTokens = 5000;
constexpr int32_t kSeeds = 3;

const std::vector<Pair>& kPairs = pairs();
const std::vector<Confidence> kAll = {Confidence::none, Confidence::fair, Confidence::boasting};

World world(const Pair& pair, double predictability, Confidence confidence = Confidence::fair) {
  World made{pair.name + ", " + std::to_string(predictability) + ", confidence " +
                 std::to_string(static_cast<int>(confidence)),
             pair, [=](int64_t) { return predictability; }, confidence};
  return made;
}

/// `length` tokens that can hardly be foreseen, then as many that can, and so on.
World bursts(const Pair& pair, int32_t length, Confidence confidence = Confidence::fair) {
  World made = world(pair, 0, confidence);
  made.name = pair.name + ", bursts of " + std::to_string(length);
  made.predictability = [=](int64_t position) { return position / length % 2 == 0 ? 0.03 : 0.93; };
  return made;
}

/// A text of which its drafter knows nothing.
class Unforeseen : public KnownText {
 public:
  using KnownText::KnownText;
  void draft(int64_t, int32_t block, Draft& out) const override {
    out.tokens.assign(static_cast<size_t>(block), -1);
    out.confidence.assign(static_cast<size_t>(block), 0.01F);
  }
};

void check_near(double found, double least, const World& world, const char* what) {
  if (found < least) {
    checks::fail(__FILE__, __LINE__,
                 world.name + ": " + std::to_string(found) + " of " + what + ", expected " +
                     std::to_string(least));
  }
  ++checks::n_checks;
}

}  // namespace

TEST(on_steady_texts_it_comes_near_the_best_fixed_width) {
  for (const Pair& pair : kPairs) {
    for (const double predictability : {0.02, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97}) {
      for (const Confidence confidence : kAll) {
        const World steady = world(pair, predictability, confidence);
        const Comparison found = compare(steady, {kTokens}, kSeeds);
        // A drafter that says nothing of its drafts: near break-even more is left to chance.
        const double least = confidence == Confidence::none ? 0.94 : 0.97;
        check_near(found.best / found.adaptive, least, steady, "the best fixed width");
      }
    }
  }
}

TEST(it_finds_out_what_decodes_cost_by_itself) {
  for (const Pair& pair : kPairs) {
    for (const double predictability : {0.2, 0.8}) {
      const World steady = world(pair, predictability);
      const Comparison found = compare(steady, {2 * kTokens}, kSeeds, from_nothing);
      check_near(found.best / found.adaptive, 0.97, steady, "the best fixed width");
    }
  }
}

TEST(on_texts_that_change_it_is_ahead_of_every_fixed_width) {
  for (const Pair& pair : {kPairs[0], kPairs[2], kPairs[3]}) {
    // Three rows at the price of one: plain decoding wins little where drafting does not pay.
    const double least = pair.name == "cliff" ? 0.97 : 1.0;
    for (const int32_t length : {50, 200, 1000}) {
      const World changing = bursts(pair, length);
      const Comparison found = compare(changing, {kTokens}, kSeeds);
      check_near(found.best / found.adaptive, least, changing, "the best fixed width");
    }
    World decaying = world(pair, 0);
    decaying.name = pair.name + ", decaying";
    decaying.predictability = [](int64_t position) {
      return 0.95 - 0.93 * static_cast<double>(position) / (kTokens + kWidest);
    };
    const Comparison found = compare(decaying, {kTokens}, kSeeds);
    check_near(found.best / found.adaptive, least, decaying, "the best fixed width");
  }
}

TEST(on_hopeless_texts_it_is_hardly_behind_plain_decoding) {
  for (const Pair& pair : kPairs) {
    for (const Confidence confidence : kAll) {
      const World hopeless = world(pair, 0.01, confidence);
      const Comparison found = compare(hopeless, {kTokens}, kSeeds);
      check_near(found.plain / found.adaptive, 0.98, hopeless, "plain decoding");
    }
  }
}

TEST(a_short_hopeless_answer_is_hardly_behind_plain_decoding) {
  for (const Pair& pair : kPairs) {
    const World hopeless = world(pair, 0.01);
    const Comparison found = compare(hopeless, {64}, 100);
    check_near(found.plain / found.adaptive, 0.98, hopeless, "plain decoding");
  }
}

// Right after a few tokens of each kind: nothing it saw last is true of what comes.
TEST(a_text_that_turns_against_it_costs_little) {
  for (const Pair& pair : kPairs) {
    for (const int32_t length : {3, 7, 12, 25}) {
      const World against = bursts(pair, length);
      const Comparison found = compare(against, {kTokens}, kSeeds);
      check_near(found.plain / found.adaptive, 0.98, against, "plain decoding");
      check_near(found.best / found.adaptive, 0.93, against, "the best fixed width");
    }
  }
}

TEST(a_machine_that_changes_its_speed_does_not_confuse_it) {
  for (const Pair& pair : {kPairs[0], kPairs[2]}) {
    World moody = world(pair, 0.8);
    moody.name += ", changing speed";
    moody.slowness = [](double share) { return share < 0.3 ? 1 : share < 0.6 ? 2.5 : 0.8; };
    const Comparison found = compare(moody, {kTokens}, kSeeds);
    check_near(found.best / found.adaptive, 0.97, moody, "the best fixed width");
  }
}

TEST(where_short_blocks_are_worse_it_drafts_long_ones_and_verifies_less) {
  World trained = world(kPairs[0], 0.85);
  trained.name += ", worse in short blocks";
  trained.shortening = [](int32_t block) { return 0.5 + 0.5 * block / kWidest; };
  const Comparison found = compare(trained, {2 * kTokens}, kSeeds);
  check_near(found.best / found.adaptive, 1.02, trained, "the best fixed width");
}

TEST(it_verifies_what_its_drafter_is_sure_of) {
  Terms terms(4);
  Controller controller(terms);
  for (int32_t round = 0; round < 3; ++round) {
    for (int32_t width = 0; width <= 4; ++width) {
      controller.costs().verified(width, 1.0 + 0.2 * width);
      if (width > 0) controller.costs().drafted(width, 0.1);
    }
  }
  CHECK_EQUAL(controller.choose_verify({{1, 2, 3, 4}, {0.9F, 0.9F, 0.9F, 0.9F}}, 4).width, 4);
  CHECK_EQUAL(controller.choose_verify({{1, 2, 3, 4}, {0.9F, 0.9F, 0.05F, 0.9F}}, 4).width, 2);
  CHECK_EQUAL(controller.choose_verify({{1, 2, 3, 4}, {0.05F, 0.9F, 0.9F, 0.9F}}, 4).width, 0);
  CHECK_EQUAL(controller.choose_verify({{1, 2, 3, 4}, {0.9F, 0.9F, 0.9F, 0.9F}}, 3).width, 3);
  CHECK_EQUAL(controller.choose(0).block, 0);
}

// The end of a short answer, of which few tokens are left.
TEST(little_room_says_nothing_of_what_drafts_are_worth_where_there_is_more) {
  const auto choices = [](int32_t room) {
    Terms terms(kWidest);
    Controller controller(terms);
    const Pair& pair = kPairs[2];
    for (int32_t width = 0; width <= kWidest; ++width) {
      controller.costs().verified(width, pair.verify({width}));
      if (width > 0) controller.costs().drafted(width, pair.draft(width));
    }
    controller.costs().verified(0, pair.verify({0}));
    Draft sure;
    sure.tokens.assign(kWidest, 1);
    sure.confidence.assign(kWidest, 0.95F);
    for (int32_t i = 0; i < 6; ++i) controller.choose_verify(sure, room);
    return std::make_pair(controller.choose(kWidest).block, controller.choose(1).block);
  };
  CHECK(choices(kWidest).first > 4);
  CHECK(choices(1) == choices(kWidest));
  CHECK(choices(kWidest).second < 4);
}

// A machine that was busy when it was measured, or a file of an earlier time.
TEST(costs_that_were_taken_to_be_too_high_are_seen_through) {
  const World good = world(kPairs[2], 0.85);
  Terms terms(kWidest);
  Controller controller(terms);
  std::vector<double> verify(kWidest + 1, 0.4);
  std::vector<double> draft(kWidest + 1, 0.01);
  const std::vector<double> sure(kWidest + 1, 0.02);
  verify[0] = 0.1;
  controller.costs().restore({{verify, draft, sure, sure}});
  const Outcome outcome = run(good, 1, {kTokens}, controller);
  CHECK(controller.costs().verify(3) < 0.15);
  CHECK(outcome.seconds_a_token() < 0.7 * good.pair.verify({0}));
}

TEST(a_plain_step_that_was_taken_to_be_dear_is_measured_again) {
  const World hopeless = world(kPairs[0], 0.05);
  Terms terms(kWidest);
  Controller controller(terms);
  const std::vector<double> verify(kWidest + 1, 0.1);
  const std::vector<double> draft(kWidest + 1, 0.001);
  const std::vector<double> sure(kWidest + 1, 0.02);
  controller.costs().restore({{verify, draft, sure, sure}});
  const Outcome outcome = run(hopeless, 1, {kTokens}, controller);
  CHECK(outcome.seconds_a_token() < 1.05 * hopeless.pair.verify({0}));
}

// ---- copying from the text -----------------------------------------------------------------

TEST(a_lookup_gives_what_followed_the_longest_match) {
  const auto found = [](const std::vector<Token>& text, int32_t width) {
    const Lookup lookup = look_up(text, width);
    return std::make_pair(lookup.matched, lookup.tokens);
  };
  using Found = std::pair<int32_t, std::vector<Token>>;
  CHECK(found({1, 2, 3, 9, 1, 2, 3, 8, 4, 2, 3}, 3) == Found(2, {8, 4, 2}));  // the last of two
  CHECK(found({1, 2, 3, 9, 7, 2, 3, 8, 1, 2, 3}, 2) == Found(3, {9, 7}));     // the longer one
  CHECK(found({5, 5, 5}, 4) == Found(2, {5}));
  CHECK(found({1, 2, 3}, 4) == Found(0, {}));
  CHECK(found({1}, 4) == Found(0, {}));
  CHECK(found({}, 4) == Found(0, {}));
  std::vector<Token> twice;
  for (Token i = 0; i < 60; ++i) twice.push_back(i % 30);
  CHECK(found(twice, 2) == Found(Lookup::kMostMatched, {0, 1}));
}

TEST(a_text_that_repeats_itself_is_copied_and_one_that_does_not_is_not) {
  for (const bool repeats : {true, false}) {
    std::mt19937 random(1);
    std::vector<Token> truth(1500);
    for (Token& token : truth) token = static_cast<Token>(random() % 50);
    for (size_t k = 100; repeats && k < truth.size(); ++k) truth[k] = truth[k % 100];
    const Unforeseen text(truth, 0);
    Terms terms(kWidest);
    Controller controller(terms);
    const auto outcome_of = [&](const Strategy& strategy) {
      Machine machine(1, Noise{0});
      return replay(text, {text.end()}, kPairs[0], machine, strategy);
    };
    const Outcome outcome = outcome_of(adaptive(controller));
    const double speed_up = outcome_of(fixed(0)).seconds / outcome.seconds;
    CHECK(repeats ? speed_up > 2.0 : speed_up > 0.975);
    CHECK(repeats == (outcome.n_copied > 500));
  }
}

// ---- chances -------------------------------------------------------------------------------

TEST(chances_become_what_happens) {
  Chances chances(3);
  for (int32_t i = 0; i < 2000; ++i) {
    chances.observe({3, 0}, 0.9F, i % 2 == 0);  // said 0.9, is 0.5
    chances.observe({3, 1}, 0.2F, i % 5 == 0);  // said 0.2, is 0.2
  }
  CHECK(std::abs(chances.of({3, 0}, 0.9F) - 0.5) < 0.1);
  CHECK(std::abs(chances.of({3, 1}, 0.2F) - 0.2) < 0.1);
  CHECK(std::abs(chances.of({3, 0}) - 0.5) < 0.1);
  CHECK(std::abs(chances.of({3, 1}) - 0.2) < 0.1);
  CHECK_EQUAL(chances.usual().size(), 2U);  // nothing is known of the third
  Chances restored(3);
  restored.restore(chances.usual());
  CHECK(std::abs(restored.of({3, 1}) - 0.2) < 0.1);
  CHECK_THROWS(std::invalid_argument, restored.restore({0.5, 0.5, 0.5, 0.5}));
}

TEST(probabilities_that_are_no_numbers_are_as_good_as_none) {
  Chances chances(2);
  for (const float broken : {std::nanf(""), INFINITY, -INFINITY, 7.0F}) {
    chances.observe({2, 0}, broken, true);
    CHECK(chances.of({2, 0}, broken) == chances.of({2, 0}));
    CHECK(chances.of({2, 0}, 0.5F) > 0 && chances.of({2, 0}, 0.5F) < 1);
  }
  CHECK_THROWS(std::invalid_argument, chances.restore({std::nan("")}));
  const std::vector<double> known(3, 0.1);
  CHECK_THROWS(std::invalid_argument,
               Costs(2).restore({{{0.1, INFINITY, 0.1}, known, known, known}}));
  CHECK_THROWS(std::invalid_argument,
               Costs(2).restore({{known, {0.0, std::nan(""), 0.1}, known, known}}));
}

TEST(a_text_that_goes_badly_lowers_all_chances_at_once) {
  Chances chances(2);
  for (int32_t i = 0; i < 500; ++i) chances.observe({2, 0}, 0.8F, i % 5 != 0);
  CHECK(chances.of({2, 0}, 0.9F) > 0.85);
  for (int32_t i = 0; i < 10; ++i) chances.observe({2, 0}, 0.3F, false);
  for (int32_t i = 0; i < 10; ++i) chances.observe({2, 0}, 0.8F, false);
  CHECK(chances.of({2, 0}, 0.9F) < 0.85);
  chances.passed(500);
  CHECK(chances.of({2, 0}, 0.9F) > 0.85);
}
