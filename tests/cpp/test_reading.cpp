// Reading prompts: prefix reuse, rewinding and cancellation.

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

struct Enough : std::runtime_error {
  using std::runtime_error::runtime_error;
};

RigOptions small_batches(int32_t n_batch) {
  RigOptions options;
  options.verifier.n_batch = n_batch;
  return options;
}

void check_answer(Rig& rig, int32_t n = 25) {
  const Tokens before = rig.session.tokens();
  const Tokens text = rig.answer(n);
  CHECK_EQUAL(text, rig.expected(before, text.size()));
}

}  // namespace

// ---- prefix reuse --------------------------------------------------------------------------

TEST(turns_of_a_chat_read_only_what_is_new) {
  for (const bool has_drafter : {true, false}) {
    RigOptions options;
    options.has_drafter = has_drafter;
    Rig rig(options);
    Tokens chat;
    for (uint32_t turn = 0; turn < 8; ++turn) {
      const Tokens question = joined(chat, prompt(6, turn));
      const int32_t n_past = rig.session.n_past();
      const int32_t n_decoded = rig.verifier.n_decoded;
      rig.session.sync(question);
      rig.check_agreement();
      CHECK_EQUAL(rig.verifier.n_decoded - n_decoded,
                  static_cast<int32_t>(question.size()) - n_past);
      check_answer(rig);
      chat = rig.session.tokens();
    }
  }
}

TEST(a_second_turn_that_differs_earlier_rewinds_to_there) {
  Rig rig;
  rig.session.sync(prompt(20));
  check_answer(rig);
  Tokens other = head(rig.session.tokens(), 30);
  other[13] = 1 + other[13] % (Law::kVocab - 1);
  const int32_t n_decoded = rig.verifier.n_decoded;
  rig.session.sync(other);
  rig.check_agreement();
  CHECK_EQUAL(rig.verifier.n_decoded - n_decoded, 30 - 13);
  CHECK_EQUAL(rig.session.n_features(), 30);
  check_answer(rig);
}

TEST(the_same_prompt_with_live_logits_decodes_nothing) {
  Rig rig;
  rig.session.sync(prompt(20));
  CHECK_EQUAL(rig.verifier.n_decoded, 20);
  rig.session.sync(prompt(20));
  CHECK_EQUAL(rig.verifier.n_decoded, 20);
  check_answer(rig, 1);  // the anchor that it leaves has not been decoded
  rig.session.sync(prompt(20));
  CHECK_EQUAL(rig.verifier.n_decoded, 20);
  CHECK_EQUAL(rig.session.tokens(), prompt(20));
  check_answer(rig);
}

TEST(the_same_prompt_without_live_logits_reads_one_token_again) {
  Rig rig;
  rig.session.sync(prompt(20));
  check_answer(rig);
  const int32_t n_decoded = rig.verifier.n_decoded;
  rig.session.sync(prompt(20));
  CHECK_EQUAL(rig.verifier.n_decoded - n_decoded, 1);
  rig.check_agreement();
  check_answer(rig);
}

TEST(a_shorter_prompt_reads_its_last_token_again) {
  for (int32_t n = 1; n < 20; ++n) {
    Rig rig;
    rig.session.sync(prompt(20));
    rig.session.sync(prompt(n));
    rig.check_agreement();
    CHECK_EQUAL(rig.verifier.n_decoded, 21);
    CHECK_EQUAL(rig.session.tokens(), prompt(n));
    check_answer(rig);
  }
}

TEST(a_prompt_that_contains_the_anchor_decodes_it) {
  Rig rig;
  rig.session.sync(prompt(10));
  rig.session.step(rig.sampler);
  const Tokens tokens = rig.session.tokens();
  CHECK(rig.session.anchored());
  rig.session.sync(tokens);
  CHECK(!rig.session.anchored());
  CHECK_EQUAL(rig.verifier.n_decoded, 11);
  check_answer(rig);
}

TEST(keep_prefix_keeps_what_is_shared_and_gives_its_length) {
  Rig rig;
  rig.session.sync(prompt(10));
  CHECK_EQUAL(rig.session.keep_prefix(prompt(10)), 10);
  CHECK_EQUAL(rig.session.keep_prefix(prompt(7)), 6);
  CHECK_EQUAL(rig.session.keep_prefix(prompt(7)), 6);
  CHECK_EQUAL(rig.session.keep_prefix(prompt(7, 9)), 0);
  rig.check_agreement();
  CHECK(rig.verifier.memory().empty());
}

TEST(an_empty_prompt_is_refused) {
  Rig rig;
  CHECK_THROWS(std::invalid_argument, rig.session.sync({}));
  rig.session.sync(prompt(4));
  CHECK_THROWS(std::invalid_argument, rig.session.keep_prefix({}));
  CHECK_EQUAL(rig.session.tokens(), prompt(4));
  check_answer(rig);
}

TEST(a_prompt_longer_than_the_context_is_refused_and_the_next_one_works) {
  RigOptions options;
  options.verifier.n_ctx = 16;
  Rig rig(options);
  CHECK_THROWS(ContextError, rig.session.sync(prompt(17)));
  rig.check_agreement();
  rig.session.sync(prompt(12));
  CHECK_THROWS(ContextError, rig.session.sync(prompt(30)));
  rig.check_agreement();
  CHECK_EQUAL(rig.session.tokens(), prompt(12));
  rig.session.sync(prompt(16));
  check_answer(rig);
}

// ---- chunks --------------------------------------------------------------------------------

TEST(a_long_prompt_is_read_and_injected_in_chunks) {
  for (const int32_t n_batch : {1, 2, 3, 8}) {
    for (const int32_t max_inject : {1, 2, 5, 100}) {
      Rig rig(small_batches(n_batch));
      rig.drafter.max_inject_wanted = max_inject;
      rig.session.sync(prompt(21));
      rig.check_agreement();
      CHECK_EQUAL(rig.session.n_features(), 21);
      CHECK_EQUAL(rig.verifier.decodes.size(), static_cast<size_t>((21 + n_batch - 1) / n_batch));
      check_answer(rig);
    }
  }
}

TEST(reading_with_all_rows_keeps_to_the_rows_there_are) {
  RigOptions options;
  options.verifier.n_batch = 8;
  options.verifier.max_rows = 3;
  Rig rig(options);
  const Tokens tokens = prompt(10);
  rig.session.extend(tokens.data(), 10, Rows::all);
  CHECK_EQUAL(rig.verifier.decodes, (std::vector<int32_t>{3, 3, 3, 1}));
  rig.check_agreement();
  check_answer(rig);
}

TEST(a_progress_callback_runs_between_chunks_and_may_end_the_read) {
  for (int32_t n_calls = 1; n_calls <= 4; ++n_calls) {
    Rig rig(small_batches(5));
    int32_t n = 0;
    const auto progress = [&] {
      rig.check_agreement();
      if (++n == n_calls) throw Enough("enough");
    };
    CHECK_THROWS(Enough, rig.session.sync(prompt(25), progress));
    rig.check_agreement();
    CHECK_EQUAL(rig.session.tokens(), prompt(5 * n_calls));
    rig.session.sync(prompt(25));
    CHECK_EQUAL(rig.verifier.n_decoded, 25);  // the chunks that were done were kept
    check_answer(rig);
  }
  Rig rig(small_batches(5));
  int32_t n = 0;
  rig.session.sync(prompt(25), [&] { ++n; });
  CHECK_EQUAL(n, 4);
}

TEST(cancel_in_a_progress_callback_ends_the_read_at_once) {
  Rig rig(small_batches(5));
  CHECK_THROWS(Cancelled, rig.session.sync(prompt(25), [&] { rig.session.cancel(); }));
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_past(), 5);
  rig.session.sync(prompt(25));
  check_answer(rig);
}

TEST(cancel_while_a_chunk_is_decoded_ends_the_read_after_it) {
  for (int32_t at = 1; at <= 4; ++at) {
    Rig rig(small_batches(5));
    int32_t n = 0;
    rig.verifier.while_decoding = [&] {
      if (++n == at) rig.session.cancel();
    };
    CHECK_THROWS(Cancelled, rig.session.sync(prompt(25)));
    rig.check_agreement();
    CHECK_EQUAL(rig.session.n_past(), 5 * at);
    rig.session.sync(prompt(25));
    CHECK_EQUAL(rig.verifier.n_decoded, 25);
    check_answer(rig);
  }
}

TEST(a_cancel_that_comes_too_late_does_not_reach_the_next_read) {
  Rig rig(small_batches(5));
  rig.session.cancel();
  rig.session.sync(prompt(25));
  rig.verifier.while_decoding = [&] { rig.session.cancel(); };
  rig.session.step(rig.sampler);
  rig.session.step(rig.sampler);
  rig.verifier.while_decoding = {};
  rig.session.sync(prompt(40, 3));
  check_answer(rig);
}

TEST(cancel_ends_an_answer_between_two_steps_and_is_told_once) {
  Rig rig;
  rig.session.sync(prompt(9));
  const Tokens begun = rig.answer(5);
  rig.session.cancel();
  CHECK_THROWS(Cancelled, rig.session.step(rig.sampler));
  rig.check_agreement();
  const Tokens whole = joined(begun, rig.answer(10));
  CHECK_EQUAL(whole, rig.expected(prompt(9), whole.size()));
  rig.session.cancel();
  CHECK_THROWS(Cancelled, rig.session.propose());
  rig.check_agreement();
}

TEST(a_cancel_before_an_answer_begins_does_not_reach_it) {
  Rig rig;
  rig.session.sync(prompt(9));
  rig.session.cancel();
  rig.session.start_answer();
  check_answer(rig);
}

TEST(cancel_cuts_a_decode_short_where_the_device_allows_it) {
  for (const Memory memory : {Memory::any_part, Memory::last_rows, Memory::all_or_nothing}) {
    for (int32_t at = 1; at <= 5; ++at) {
      RigOptions options = small_batches(8);
      options.verifier.aborts = true;
      options.verifier.memory = memory;
      options.right = right::all;
      Rig rig(options);
      int32_t n = 0;
      rig.verifier.while_decoding = [&] {
        if (++n == at) rig.session.cancel();
      };
      CHECK_THROWS(Cancelled, [&] {
        rig.session.sync(prompt(16));
        rig.answer(50);
      }());
      rig.check_agreement();
      CHECK_EQUAL(n, at);
      rig.session.sync(prompt(16));
      check_answer(rig);
    }
  }
}

// ---- rewinding -----------------------------------------------------------------------------

TEST(rewind_goes_back_to_any_length_from_any_state) {
  for (int32_t n = 0; n <= 20; ++n) {
    for (const int32_t state : {0, 1, 2}) {
      Rig rig;
      rig.session.sync(prompt(20));
      if (state > 0) rig.session.step(rig.sampler);
      if (state > 1) rig.session.propose();
      CHECK_EQUAL(rig.session.rewind(n), n);
      rig.check_agreement();
      CHECK_EQUAL(rig.session.tokens(), prompt(n));
      if (n == 0) {
        CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler));
      } else {
        check_answer(rig);
      }
    }
  }
}

TEST(rewind_beyond_the_timeline_is_refused) {
  Rig rig;
  rig.session.sync(prompt(5));
  CHECK_THROWS(std::invalid_argument, rig.session.rewind(6));
  CHECK_THROWS(std::invalid_argument, rig.session.rewind(-1));
  CHECK_EQUAL(rig.session.tokens(), prompt(5));
  CHECK(rig.session.logits_live());
}

TEST(after_a_step_without_rejected_drafts_its_last_logits_are_at_hand) {
  for (const bool all_right : {true, false}) {
    RigOptions options;
    options.right = all_right ? right::all : right::none;
    Rig rig(options);
    rig.session.sync(prompt(20));
    rig.answer(3);
    Tokens text = rig.session.tokens();
    const Token anchor = text.back();
    text.pop_back();
    const int32_t n_decoded = rig.verifier.n_decoded;
    rig.session.sync(text);
    CHECK_EQUAL(rig.verifier.n_decoded, all_right ? n_decoded : n_decoded + 1);
    CHECK_EQUAL(rig.session.step(rig.sampler).tokens, Tokens{anchor});
    rig.check_agreement();
  }
}

TEST(a_step_without_live_logits_decodes_the_last_token_again) {
  RigOptions options;
  options.right = right::none;
  Rig rig(options);
  rig.session.sync(prompt(20));
  check_answer(rig);
  rig.session.rewind(rig.session.n_past());
  CHECK(!rig.session.anchored() && !rig.session.logits_live());
  const int32_t n_past = rig.session.n_past();
  const Tokens before = rig.session.tokens();
  const StepResult result = rig.session.step(rig.sampler);
  rig.check_agreement();
  CHECK_EQUAL(result.tokens, rig.expected(before, result.tokens.size()));
  CHECK_EQUAL(rig.session.tokens(), joined(before, result.tokens));
  CHECK(rig.session.n_past() >= n_past);
  check_answer(rig);
}

TEST(a_step_on_one_token_whose_logits_are_gone_works_too) {
  Rig rig;
  rig.session.sync(prompt(5));
  rig.session.rewind(1);
  check_answer(rig);
}

TEST(extend_appends_to_the_timeline_and_drops_the_anchor) {
  Rig rig;
  rig.session.sync(prompt(5));
  const Tokens more = prompt(4, 8);
  rig.session.extend(more.data(), 4);
  CHECK_EQUAL(rig.session.tokens(), joined(prompt(5), more));
  rig.session.step(rig.sampler);
  rig.session.extend(more.data(), 4);
  CHECK_EQUAL(rig.session.tokens(), joined(joined(prompt(5), more), more));
  rig.session.step(rig.sampler);
  rig.session.propose();
  rig.session.extend(more.data(), 4);
  CHECK_EQUAL(rig.session.n_past(), 17);
  rig.check_agreement();
  check_answer(rig);
}
