// Statistics, what a calibration takes, and a pair that does not fit.

#include <chrono>
#include <thread>

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

template <class Count>
int64_t sum(const std::vector<Count>& counts) {
  int64_t total = 0;
  for (const Count count : counts) total += count;
  return total;
}

}  // namespace

TEST(statistics_add_up) {
  Rig rig;
  rig.session.start_answer();
  rig.session.sync(prompt(30));
  Stats expected;
  Tokens text;
  for (int32_t i = 0; i < 80; ++i) {
    if (i % 9 == 8) rig.session.set_width(i % 4);
    const StepResult result = rig.session.step(rig.sampler);
    text = joined(text, result.tokens);
    if (i == 0) continue;
    expected.n_steps += 1;
    expected.n_step_tokens += static_cast<int64_t>(result.tokens.size());
    expected.n_blocks += result.n_drafted > 0 ? 1 : 0;
    expected.n_drafted += result.n_drafted;
    expected.n_accepted += result.n_accepted;
  }
  const Stats& stats = rig.session.last_stats();
  CHECK_EQUAL(stats.n_prompt, 30);
  CHECK_EQUAL(stats.n_tokens, static_cast<int64_t>(text.size()));
  CHECK_EQUAL(stats.n_steps, expected.n_steps);
  CHECK_EQUAL(stats.n_step_tokens, expected.n_step_tokens);
  CHECK_EQUAL(stats.n_blocks, expected.n_blocks);
  CHECK_EQUAL(stats.n_drafted, expected.n_drafted);
  CHECK_EQUAL(stats.n_accepted, expected.n_accepted);
  CHECK(stats.n_accepted > 0 && stats.n_accepted < stats.n_drafted);
  // A step emits its accepted drafts and one token more (no answer ended here).
  CHECK_EQUAL(stats.n_step_tokens, stats.n_accepted + stats.n_steps);
  CHECK_EQUAL(sum(stats.accepted_at), stats.n_accepted);
  CHECK(std::is_sorted(stats.accepted_at.rbegin(), stats.accepted_at.rend()));
  CHECK(stats.accepted_at.size() == 5 && stats.accepted_at[0] <= stats.n_blocks);
  CHECK(stats.acceptance_length() == double(stats.n_step_tokens) / double(stats.n_steps));
  CHECK(stats.acceptance_rate() == double(stats.n_accepted) / double(stats.n_drafted));
  CHECK(stats.seconds_prefill > 0 && stats.seconds_inject > 0 && stats.seconds_draft > 0);
  CHECK(stats.seconds_verify > 0 && stats.seconds_sample > 0);
}

TEST(statistics_of_an_answer_begin_anew_and_those_of_the_session_go_on) {
  Rig rig;
  int64_t n_tokens = 0;
  int64_t n_drafted = 0;
  for (uint32_t turn = 0; turn < 4; ++turn) {
    rig.session.start_answer();
    CHECK_EQUAL(rig.session.last_stats().n_tokens, 0);
    CHECK(rig.session.last_stats().accepted_at.empty());
    rig.session.sync(joined(rig.session.tokens(), prompt(6, turn)));
    const auto n = static_cast<int64_t>(rig.answer(20).size());
    CHECK_EQUAL(rig.session.last_stats().n_tokens, n);
    CHECK_EQUAL(rig.session.last_stats().n_prompt, turn == 0 ? 6 : 7);  // the last anchor too
    n_tokens += n;
    n_drafted += rig.session.last_stats().n_drafted;
    CHECK_EQUAL(rig.session.total_stats().n_tokens, n_tokens);
    CHECK_EQUAL(rig.session.total_stats().n_drafted, n_drafted);
  }
}

TEST(a_step_that_failed_or_was_discarded_is_not_counted) {
  Rig rig;
  rig.session.sync(prompt(9));
  rig.session.step(rig.sampler);
  rig.session.propose();
  rig.session.discard();
  for (int32_t k = 1; k <= 3; ++k) {
    rig.calls.fail(k, Calls::How::before);
    CHECK_THROWS(Failure, rig.session.step(rig.sampler));
  }
  rig.calls.heal();
  CHECK_EQUAL(rig.session.total_stats().n_steps, 0);
  CHECK_EQUAL(rig.session.total_stats().n_drafted, 0);
  CHECK_EQUAL(rig.session.total_stats().n_tokens, 1);
}

TEST(before_any_step_all_ratios_are_zero) {
  const Stats stats;
  CHECK(stats.acceptance_length() == 0 && stats.acceptance_rate() == 0);
}

TEST(plain_steps_count_no_block) {
  Stats stats;
  stats.count_step(0, 0, 0, 1);
  stats.count_step(3, 3, 2, 3);
  stats.count_step(7, 5, 5, 6);
  CHECK_EQUAL(stats.n_blocks, 2);
  CHECK_EQUAL(stats.accepted_at, (std::vector<int64_t>{2, 2, 1, 1, 1}));
  CHECK_EQUAL(stats.n_tokens, 10);
}

TEST(tokens_that_are_withheld_are_not_counted_and_work_is) {
  Stats stats;
  stats.count_step(7, 5, 4, 5);
  stats.count_step(7, 5, 5, 6);
  stats.count_tokens({6, 5, true}, 6, 2);
  CHECK_EQUAL(stats.n_tokens, 7);
  CHECK_EQUAL(stats.n_step_tokens, 7);
  CHECK_EQUAL(stats.n_accepted, 6);
  CHECK_EQUAL(stats.accepted_at, (std::vector<int64_t>{2, 2, 1, 1, 0}));
  CHECK_EQUAL(stats.n_drafted, 10);
  CHECK_EQUAL(stats.n_steps, 2);
  stats.count_tokens({6, 5, true}, 2, 6);  // handed out after all
  CHECK_EQUAL(stats.n_accepted, 9);
  CHECK_EQUAL(stats.accepted_at, (std::vector<int64_t>{2, 2, 2, 2, 1}));
}

TEST(a_correction_that_is_withheld_takes_no_accepted_draft_with_it) {
  Stats stats;
  stats.count_step(5, 5, 2, 3);
  stats.count_tokens({3, 2, true}, 3, 2);
  CHECK_EQUAL(stats.n_tokens, 2);
  CHECK_EQUAL(stats.n_accepted, 2);
}

TEST(an_answer_that_ends_inside_a_block_counts_what_was_handed_out) {
  for (int32_t n_out = 0; n_out <= 6; ++n_out) {
    RigOptions options;
    options.right = right::all;
    Rig rig(options);
    rig.session.sync(prompt(20));
    rig.session.start_answer();
    CHECK_EQUAL(rig.session.step(rig.sampler).tokens.size(), 1U);
    CHECK_EQUAL(rig.session.step(rig.sampler).tokens.size(), 6U);
    rig.session.withhold(6 - n_out);
    const Stats& last = rig.session.last_stats();
    CHECK_EQUAL(last.n_tokens, 1 + n_out);
    CHECK_EQUAL(last.n_accepted, std::min(n_out, 5));
    CHECK_EQUAL(last.n_drafted, 5);
    CHECK(last.acceptance_length() == n_out);
    CHECK_EQUAL(rig.session.total_stats().n_tokens, 1 + n_out);
    CHECK_THROWS(std::invalid_argument, rig.session.withhold(7));
    CHECK_THROWS(std::invalid_argument, rig.session.withhold(-1));
    CHECK_EQUAL(last.n_tokens, 1 + n_out);
    rig.session.step(rig.sampler);  // all of it counts, and nothing more of the one before
    CHECK_EQUAL(last.n_tokens, 1 + n_out + 6);
  }
}

TEST(the_first_token_of_an_answer_is_of_no_step) {
  Rig rig;
  rig.session.sync(prompt(20));
  rig.session.start_answer();
  CHECK_THROWS(std::invalid_argument, rig.session.withhold(1));  // nothing was emitted yet
  rig.session.step(rig.sampler);
  rig.session.withhold(1);
  CHECK_EQUAL(rig.session.last_stats().n_tokens, 0);
  CHECK_EQUAL(rig.session.last_stats().n_step_tokens, 0);
  rig.session.withhold(0);
  CHECK_EQUAL(rig.session.last_stats().n_tokens, 1);
  rig.session.start_answer();
  CHECK_THROWS(std::invalid_argument, rig.session.withhold(1));
}

// ---- calibration ---------------------------------------------------------------------------

TEST(a_machine_that_is_slow_is_not_measured_for_long) {
  Rig rig;
  rig.verifier.while_decoding = [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  rig.session.calibrate(0.02);
  CHECK(rig.verifier.decodes.size() <= 3);
  CHECK_EQUAL(rig.verifier.decodes.front(), 1);
  CHECK_EQUAL(rig.verifier.memory().size(), 0U);
}

TEST(a_drafter_that_wants_other_features_is_refused) {
  Rig rig;
  rig.drafter.n_features_wanted = FakeVerifier::kFeatures + 1;
  CHECK_THROWS(std::invalid_argument, Pair(rig.verifier, &rig.drafter));
}
