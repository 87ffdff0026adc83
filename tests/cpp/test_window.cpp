// What the drafter knows where it does not know all: no features at width 0, a memory that is
// smaller than the text, rows that wait for a block that is never drafted.

#include <chrono>
#include <thread>

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

RigOptions options_of(int32_t drafter_ctx, int32_t most_waiting = 1 << 20) {
  RigOptions options;
  options.drafter_ctx = drafter_ctx;
  options.most_waiting = most_waiting;
  return options;
}

Tokens check_answer(Rig& rig, int32_t n = 25) {
  const Tokens before = rig.session.tokens();
  const Tokens text = rig.answer(n);
  CHECK_EQUAL(text, rig.expected(before, text.size()));
  return text;
}

int32_t n_waiting(const Rig& rig) {
  return rig.session.n_features() - rig.session.n_injected();
}

int64_t n_accepted(const Rig& rig) {
  return rig.session.total_stats().n_accepted;
}

/// Adaptive widths, and blocks of the drafter that cost so many seconds.
void price_blocks(Rig& rig, double seconds) {
  const auto n = static_cast<size_t>(rig.drafter.max_width()) + 1;
  rig.session.set_width(SessionOptions::kAdaptive);
  const std::vector<double> doubt(n, 0.1);
  rig.session.controller()->costs().restore(
      {{std::vector<double>(n, 1e-4), std::vector<double>(n, seconds), doubt, doubt}});
}

/// A session in which no block has been drafted for long.
void let_idle(Rig& rig) {
  price_blocks(rig, 1e6);
  check_answer(rig, 300);
  CHECK_EQUAL(rig.drafter.n_drafts, 0);
}

}  // namespace

// ---- width 0 -------------------------------------------------------------------------------

TEST(at_width_0_no_features_are_read_and_none_are_missing) {
  RigOptions options;
  options.width = 0;
  Rig rig(options);
  rig.session.sync(prompt(30));
  check_answer(rig, 100);
  CHECK(!rig.verifier.tapped);
  CHECK_EQUAL(rig.verifier.n_gathered, 0);
  CHECK_EQUAL(rig.drafter.n_injected, 0);
  CHECK(!rig.session.features_missing());
  CHECK_EQUAL(rig.session.n_features(), rig.session.n_past());
  CHECK_EQUAL(rig.session.n_forgotten(), rig.session.n_past());
}

TEST(drafts_begin_with_what_is_emitted_after_width_0_and_the_next_prompt_is_read_anew) {
  RigOptions options;
  options.width = 0;
  options.right = right::all;
  Rig rig(options);
  rig.session.sync(prompt(30));
  check_answer(rig, 20);
  const int32_t n_unknown = rig.session.n_past();
  rig.session.set_width(5);
  check_answer(rig, 30);
  CHECK_EQUAL(rig.session.n_forgotten(), n_unknown);
  CHECK(n_accepted(rig) > 20);
  const Tokens turn = joined(rig.session.tokens(), prompt(10, 3));
  int32_t n_decoded = rig.verifier.n_decoded;
  rig.session.sync(turn);
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_forgotten(), 0);
  CHECK_EQUAL(rig.verifier.n_decoded - n_decoded, static_cast<int32_t>(turn.size()));
  n_decoded = rig.verifier.n_decoded;
  rig.session.sync(joined(turn, prompt(7, 4)));  // once is enough
  CHECK_EQUAL(rig.verifier.n_decoded - n_decoded, 7);
  check_answer(rig);
}

TEST(a_prompt_read_at_width_0_is_read_anew_as_far_back_as_the_drafter_sees) {
  RigOptions options = options_of(16);
  Rig rig(options);
  rig.session.sync(prompt(40));
  check_answer(rig, 20);
  const int32_t n_forgotten = rig.session.n_forgotten();
  CHECK(n_forgotten > 0);
  rig.session.set_width(0);
  check_answer(rig, 40);
  const Tokens all = rig.session.tokens();
  rig.session.sync(joined(all, prompt(4, 3)));  // still at width 0
  CHECK_EQUAL(rig.verifier.decodes.back(), 5);
  rig.session.set_width(5);
  rig.session.sync(joined(all, prompt(4, 3)));
  CHECK_EQUAL(rig.verifier.decodes.back(), 16);
  check_answer(rig);
  // A prompt that leaves what was read at width 0 has nothing to be read anew.
  rig.session.set_width(0);
  check_answer(rig, 20);
  rig.session.rewind(30);
  rig.session.set_width(5);
  rig.session.sync(joined(prompt(30), prompt(9, 8)));
  CHECK_EQUAL(rig.verifier.decodes.back(), 9);
  check_answer(rig);
  // Nor has one that is so long that the drafter sees nothing of it.
  rig.session.set_width(0);
  check_answer(rig, 20);
  rig.session.set_width(5);
  const Tokens before = rig.session.tokens();
  rig.session.sync(joined(before, prompt(60, 8)));
  CHECK_EQUAL(rig.verifier.decodes.back(), 61);  // the anchor too
  check_answer(rig);
}

TEST(width_0_in_between_leaves_nothing_of_before_in_the_drafters_memory) {
  Rig rig;
  rig.session.sync(prompt(30));
  check_answer(rig);
  CHECK(!rig.drafter.memory().empty());
  rig.session.set_width(0);
  check_answer(rig, 1);
  CHECK(rig.drafter.memory().empty());
  const int32_t n_trims = rig.calls.n_trims();
  check_answer(rig);
  CHECK_EQUAL(rig.calls.n_trims(), n_trims);  // once is enough
  rig.session.set_width(5);
  check_answer(rig);
}

TEST(the_width_may_change_to_and_from_0_within_a_step) {
  for (const int32_t width : {0, 3}) {
    RigOptions options;
    options.width = 3 - width;
    Rig rig(options);
    rig.session.sync(prompt(30));
    rig.session.step(rig.sampler);
    const Tokens before = rig.session.tokens();
    rig.session.propose(rig.expected(before, 2));
    rig.session.set_width(width);
    rig.session.commit(rig.expected(before, 2));
    rig.check_agreement();
    CHECK(!rig.session.features_missing());
    check_answer(rig, 40);
    CHECK_EQUAL(rig.drafter.n_drafts > 0, width == 3);
  }
}

// ---- a memory smaller than the text --------------------------------------------------------

TEST(a_drafter_with_little_room_drafts_from_the_last_positions) {
  for (const int32_t room : {1, 2, 7, 16, 40}) {
    for (const int32_t most_waiting : {1, 3, 1000}) {
      RigOptions options = options_of(room, most_waiting);
      options.right = right::some(80);
      Rig rig(options);
      rig.session.sync(prompt(50));
      check_answer(rig, 200);  // checks after each step that the memory is no larger
      CHECK(n_accepted(rig) > 80);
      CHECK(!rig.session.features_missing());
      CHECK(rig.session.n_past() - rig.session.n_forgotten() >= room - room / 8 - 6);
    }
  }
}

TEST(the_oldest_positions_go_in_good_pieces) {
  Rig rig(options_of(80));
  rig.session.sync(prompt(80));
  int32_t n_drops = 0;
  for (int32_t i = 0; i < 100; ++i) {
    const int32_t before = rig.session.n_forgotten();
    rig.session.step(rig.sampler);
    rig.check_agreement();
    n_drops += rig.session.n_forgotten() > before ? 1 : 0;
  }
  CHECK(n_drops > 0);
  CHECK(n_drops <= rig.session.n_past() / 10);
}

TEST(a_drafter_with_room_for_all_drops_nothing) {
  RigOptions options = options_of(64);
  options.verifier.n_ctx = 64;
  Rig rig(options);
  rig.session.sync(prompt(20));
  rig.answer(1000);
  CHECK_EQUAL(rig.session.n_past(), 64);
  CHECK_EQUAL(rig.session.n_forgotten(), 0);
}

TEST(what_of_a_long_prompt_will_be_dropped_is_never_taken_in) {
  for (const bool in_pieces : {false, true}) {
    for (const int32_t most_waiting : {3, 1000}) {
      RigOptions options = options_of(24, most_waiting);
      options.verifier.n_batch = 10;
      Rig rig(options);
      const Tokens question = prompt(105);
      if (in_pieces) {
        const int32_t kept = rig.session.keep_prefix(question);
        for (int32_t i = kept; i < 105; i += 5) {
          rig.session.extend(question.data() + i, 5);
          rig.check_agreement();
        }
      } else {
        rig.session.sync(question);
      }
      rig.check_agreement();
      CHECK_EQUAL(rig.verifier.n_gathered, 24);
      CHECK_EQUAL(rig.session.n_forgotten(), 105 - 24);
      check_answer(rig, 40);
      CHECK(rig.drafter.n_drafts > 0);
    }
  }
}

TEST(a_prompt_that_was_announced_and_not_read_costs_no_features_later) {
  Rig rig(options_of(24));
  rig.session.sync(prompt(10));
  rig.session.step(rig.sampler);
  rig.session.keep_prefix(joined(prompt(10), prompt(300, 4)));
  rig.session.step(rig.sampler);
  check_answer(rig, 10);
  CHECK_EQUAL(rig.session.n_forgotten(), 0);
}

TEST(a_rewind_to_before_what_the_drafter_knows_begins_anew) {
  for (const int32_t to : {0, 1, 30, 60, 79}) {
    RigOptions options = options_of(16);
    options.right = right::all;
    Rig rig(options);
    rig.session.sync(prompt(80));
    check_answer(rig, 40);
    CHECK(rig.session.n_forgotten() >= 80);
    rig.session.rewind(to);
    rig.check_agreement();
    CHECK_EQUAL(rig.session.n_features(), to);
    CHECK_EQUAL(rig.session.n_forgotten(), to);
    CHECK(!rig.session.features_missing());
    rig.session.sync(joined(prompt(to), prompt(10, 7)));
    rig.check_agreement();
    CHECK_EQUAL(rig.session.n_forgotten(), to);
    const int64_t before = n_accepted(rig);
    check_answer(rig, 30);
    CHECK(n_accepted(rig) - before > 20);
  }
}

TEST(a_rewind_to_where_the_drafter_knows_a_part_keeps_it) {
  Rig rig(options_of(40));
  rig.session.sync(prompt(80));
  check_answer(rig, 3);
  const int32_t n_forgotten = rig.session.n_forgotten();
  rig.session.rewind(60);
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_forgotten(), n_forgotten);
  CHECK_EQUAL(rig.session.n_features(), 60);
  check_answer(rig);
}

// ---- rows that nobody drafts from ----------------------------------------------------------

TEST(rows_of_a_prompt_that_may_be_drafted_for_are_taken_in_when_too_many_wait) {
  Rig rig(options_of(4096, 10));
  rig.session.sync(prompt(95));
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_forgotten(), 0);
  CHECK(n_waiting(rig) <= 10);
  CHECK_EQUAL(rig.session.n_injected(), 95 - n_waiting(rig));
}

TEST(where_drafting_never_pays_nothing_is_taken_in_and_little_waits) {
  Rig rig(options_of(4096, 64));
  rig.session.sync(prompt(20));
  let_idle(rig);
  const int32_t n_injected = rig.drafter.n_injected;
  for (int32_t i = 0; i < 300; ++i) {
    rig.session.step(rig.sampler);
    rig.check_agreement();
    CHECK(n_waiting(rig) <= 64 && n_waiting(rig) >= 50);
  }
  CHECK_EQUAL(rig.drafter.n_injected, n_injected);
  CHECK(rig.drafter.memory().empty());
  CHECK(!rig.session.features_missing());
}

TEST(where_drafting_never_pays_a_prompt_leaves_its_end) {
  Rig rig(options_of(4096, 16));
  rig.session.sync(prompt(20));
  let_idle(rig);
  const int32_t n_gathered = rig.verifier.n_gathered;
  const int32_t n_injected = rig.drafter.n_injected;
  rig.session.sync(prompt(500, 3));
  rig.check_agreement();
  CHECK_EQUAL(rig.verifier.n_gathered - n_gathered, 16);
  CHECK_EQUAL(rig.session.n_forgotten(), 484);
  CHECK_EQUAL(rig.drafter.n_injected, n_injected);
}

TEST(drafting_that_pays_again_begins_with_the_rows_that_wait) {
  RigOptions options = options_of(4096, 64);
  options.right = right::all;
  Rig rig(options);
  rig.session.sync(prompt(20));
  let_idle(rig);
  check_answer(rig, 200);
  const int32_t n_forgotten = rig.session.n_forgotten();
  CHECK(n_forgotten > 0);
  price_blocks(rig, 1e-9);
  check_answer(rig, 200);
  CHECK(n_accepted(rig) > 50);
  CHECK_EQUAL(rig.session.n_forgotten(), n_forgotten);
  // And now that it pays, a prompt is taken in whole.
  rig.session.sync(prompt(500, 3));
  CHECK_EQUAL(rig.session.n_forgotten(), 0);
  check_answer(rig);
}

// ---- devices -------------------------------------------------------------------------------

// A device goes on taking rows in after the call has returned.
TEST(many_rows_are_waited_for_before_a_block_is_timed_and_few_are_not) {
  RigOptions options = options_of(4096, 20);
  options.right = right::all;
  Rig rig(options);
  rig.drafter.before_draft = [](const FakeDrafter& drafter) { CHECK(drafter.n_unwaited <= 8); };
  rig.session.sync(prompt(95));
  check_answer(rig, 1);
  const int32_t n_waits = rig.drafter.n_waits;  // the prompt was taken in as it was read
  CHECK(n_waits > 0);
  CHECK_EQUAL(rig.drafter.n_unwaited, 0);
  rig.session.step(rig.sampler);
  CHECK_EQUAL(rig.drafter.n_waits, n_waits + 1);  // what had waited
  check_answer(rig, 30);
  CHECK_EQUAL(rig.drafter.n_waits, n_waits + 1);
}

TEST(what_taking_rows_in_costs_is_timed_until_they_are_in) {
  Rig rig(options_of(4096));
  price_blocks(rig, 1e-4);
  constexpr std::chrono::milliseconds kDevice(30);
  rig.drafter.while_waiting = [&] { std::this_thread::sleep_for(kDevice); };
  rig.session.sync(prompt(100));
  rig.session.step(rig.sampler);
  rig.session.step(rig.sampler);
  CHECK_EQUAL(rig.drafter.n_drafts, 1);
  CHECK(rig.session.last_stats().seconds_inject >= 0.03);
  CHECK(rig.session.last_stats().seconds_draft < 0.03);
  const Costs& costs = rig.session.controller()->costs();
  CHECK(costs.catch_up(100) / costs.verify(0) > 100);  // 30 ms, of steps of 0.1 ms
}
