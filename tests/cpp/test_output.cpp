// What a session emits: with a drafter the text of plain decoding, whatever the drafts are worth.

#include "core/accept.h"
#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

void check_text(const RigOptions& options, uint32_t seed) {
  Rig rig(options);
  const Tokens question = prompt(1 + static_cast<int32_t>(seed % 41), seed);
  rig.session.sync(question);
  rig.check_agreement();
  const Tokens text = rig.answer(150);
  CHECK(text.size() >= 150);
  CHECK_EQUAL(text, rig.expected(question, text.size(), options.noise));
  CHECK_EQUAL(rig.session.tokens(), joined(question, text));
  CHECK_EQUAL(rig.sampler.sampled, text);
}

std::vector<FakeDrafter::Right> patterns(uint32_t seed) {
  return {right::none,           right::all,      right::some(50, seed), right::some(90, seed),
          right::some(20, seed), right::first(1), right::first(2),       right::first(3)};
}

}  // namespace

TEST(output_with_a_drafter_equals_plain_output) {
  uint32_t seed = 0;
  for (const int32_t block_size : {2, 3, 5, 8, 16}) {
    for (const int32_t width : {-1, 0, 1, 2, 4, 7, 40}) {
      for (const auto& right : patterns(seed)) {
        RigOptions options;
        options.block_size = block_size;
        options.width = width;
        options.right = right;
        check_text(options, ++seed);
      }
    }
  }
}

TEST(output_does_not_depend_on_the_sizes_of_batches) {
  uint32_t seed = 500;
  for (const int32_t n_batch : {1, 2, 3, 7}) {
    for (const int32_t max_rows : {1, 2, 5}) {
      for (const auto& right : patterns(seed)) {
        RigOptions options;
        options.verifier.n_batch = n_batch;
        options.verifier.max_rows = max_rows;
        options.right = right;
        check_text(options, ++seed);
      }
    }
  }
}

TEST(a_memory_that_drops_only_rejected_drafts_is_enough) {
  uint32_t seed = 900;
  for (const auto& right : patterns(seed)) {
    RigOptions options;
    options.verifier.memory = Memory::last_rows;
    options.right = right;
    check_text(options, ++seed);
  }
}

TEST(a_sampler_with_a_state_draws_once_a_token_and_in_order) {
  uint32_t seed = 1000;
  for (const int32_t noise : {1, 2, 3, 5}) {
    for (const auto& right : patterns(seed)) {
      RigOptions options;
      options.noise = noise;
      options.right = right;
      check_text(options, ++seed);
    }
  }
}

TEST(accepted_drafts_save_decodes) {
  RigOptions options;
  options.right = right::all;
  options.block_size = 8;
  Rig rig(options);
  rig.session.sync(prompt(10));
  const auto before = rig.verifier.decodes.size();
  const Tokens text = rig.answer(1 + 5 * 8);
  CHECK_EQUAL(text.size(), 1U + 5U * 8U);
  CHECK_EQUAL(rig.verifier.decodes.size() - before, 5U);
}

TEST(without_a_drafter_a_step_emits_one_token) {
  RigOptions options;
  options.has_drafter = false;
  Rig rig(options);
  rig.session.sync(prompt(9));
  for (int32_t i = 0; i < 20; ++i) CHECK_EQUAL(rig.session.step(rig.sampler).tokens.size(), 1U);
  CHECK_EQUAL(rig.sampler.sampled, rig.expected(prompt(9), 20));
  CHECK(!rig.session.features_missing());
}

TEST(nothing_follows_the_end_of_generation) {
  for (const auto& right : patterns(77)) {
    for (int32_t at = 0; at < 20; ++at) {
      RigOptions options;
      options.right = right;
      Rig rig(options);
      const Tokens question = prompt(11, static_cast<uint32_t>(at));
      rig.law.fixed[11 + at] = Law::kEog;
      rig.session.sync(question);
      StepResult last;
      Tokens text;
      while (last.finish == Finish::none) {
        last = rig.session.step(rig.sampler);
        rig.check_agreement();
        text = joined(text, last.tokens);
      }
      CHECK(last.finish == Finish::end_of_generation);
      CHECK_EQUAL(text.size(), static_cast<size_t>(at + 1));
      CHECK_EQUAL(text, rig.expected(question, 100));
      CHECK_EQUAL(rig.sampler.sampled, text);

      const Tokens turn = joined(joined(question, text), prompt(5, 3));
      rig.session.sync(turn);
      rig.check_agreement();
      const Tokens second = rig.answer(30);
      CHECK_EQUAL(second, rig.expected(turn, second.size()));
    }
  }
}

TEST(an_answer_may_go_on_after_the_end_of_generation) {
  Rig rig;
  rig.law.fixed[12] = Law::kEog;
  rig.session.sync(prompt(10));
  while (rig.session.step(rig.sampler).finish == Finish::none) {
  }
  const Tokens tokens = rig.session.tokens();
  const Tokens text = rig.answer(20);
  CHECK_EQUAL(text, rig.expected(tokens, text.size()));
}

TEST(an_answer_ends_exactly_at_the_end_of_the_context) {
  for (const auto& right : patterns(5)) {
    for (int32_t n_prompt = 1; n_prompt <= 24; ++n_prompt) {
      RigOptions options;
      options.verifier.n_ctx = 24;
      options.right = right;
      Rig rig(options);
      rig.session.sync(prompt(n_prompt));
      const Tokens text = rig.answer(1000);
      // The last token is sampled from the last position; it has no place in the memory.
      CHECK_EQUAL(text.size(), static_cast<size_t>(24 - n_prompt + 1));
      CHECK_EQUAL(text, rig.expected(prompt(n_prompt), 1000));
      CHECK_EQUAL(rig.session.n_past(), 24);

      CHECK_THROWS(ContextError, rig.session.step(rig.sampler));
      CHECK_THROWS(ContextError, rig.session.propose());
      CHECK_EQUAL(rig.session.tokens(), joined(prompt(n_prompt), text));
      rig.check_agreement();

      rig.session.rewind(n_prompt);
      rig.check_agreement();
      const Tokens again = rig.answer(1000);
      CHECK_EQUAL(again, text);
    }
  }
}

TEST(a_step_with_room_for_no_draft_is_a_plain_step) {
  RigOptions options;
  options.verifier.n_ctx = 12;
  options.right = right::all;
  Rig rig(options);
  rig.session.sync(prompt(11));
  CHECK(rig.session.step(rig.sampler).finish == Finish::none);
  const StepResult last = rig.session.step(rig.sampler);
  CHECK_EQUAL(last.n_drafted, 0);
  CHECK_EQUAL(last.tokens.size(), 1U);
  CHECK(last.finish == Finish::context_full);
  CHECK_EQUAL(rig.drafter.n_drafts, 0);
}

TEST(max_tokens_bounds_what_a_step_emits) {
  for (int32_t max_tokens = 1; max_tokens <= 8; ++max_tokens) {
    RigOptions options;
    options.right = right::all;
    Rig rig(options);
    rig.session.sync(prompt(7));
    Tokens text;
    for (int32_t i = 0; i < 12; ++i) {
      const StepResult result = rig.session.step(rig.sampler, max_tokens);
      rig.check_agreement();
      if (i > 0) {
        CHECK_EQUAL(result.tokens.size(), static_cast<size_t>(std::min(max_tokens, 6)));
      }
      text = joined(text, result.tokens);
    }
    CHECK_EQUAL(text, rig.expected(prompt(7), text.size()));
  }
}

TEST(max_tokens_cuts_the_draft_and_not_the_drafters_block) {
  Rig rig;
  rig.session.sync(prompt(7));
  rig.session.step(rig.sampler);
  CHECK_EQUAL(rig.session.step(rig.sampler, 3).n_drafted, 2);
  CHECK_EQUAL(rig.drafter.widths, (std::vector<int32_t>{5}));
  CHECK_EQUAL(rig.session.step(rig.sampler, 1).n_drafted, 0);
  CHECK_EQUAL(rig.drafter.widths.size(), 1U);  // nothing to cut: nothing is drafted
}

TEST(a_step_trims_only_what_was_rejected) {
  for (const bool accepted : {true, false}) {
    RigOptions options;
    options.right = accepted ? FakeDrafter::Right(right::all) : FakeDrafter::Right(right::none);
    Rig rig(options);
    rig.session.sync(prompt(7));
    const auto before = rig.calls.n_trims();  // what others left in the memories goes at first
    for (int32_t i = 0; i < 9; ++i) rig.session.step(rig.sampler);
    CHECK_EQUAL(rig.calls.n_trims() - before, accepted ? 0 : 8);
    const size_t n_draft = rig.session.draft().tokens.size();
    rig.session.discard();  // of a step that was committed: nothing
    CHECK_EQUAL(rig.calls.n_trims() - before, accepted ? 0 : 8);
    CHECK_EQUAL(rig.session.draft().tokens.size(), n_draft);
  }
}

TEST(max_tokens_below_one_is_refused_in_every_state) {
  Rig rig;
  rig.session.sync(prompt(7));
  CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler, 0));
  CHECK(rig.sampler.sampled.empty());
  rig.session.step(rig.sampler);
  CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler, 0));
  CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler, -3));
  CHECK_THROWS(std::invalid_argument, rig.session.propose({}, 0));
  rig.check_agreement();
  const Tokens before = rig.session.tokens();
  const Tokens text = rig.answer(9);
  CHECK_EQUAL(text, rig.expected(before, text.size()));
}

TEST(a_callers_draft_takes_the_place_of_the_drafters) {
  Rig rig;
  rig.session.sync(prompt(7));
  rig.session.step(rig.sampler);
  Tokens draft = rig.expected(rig.session.tokens(), 4);
  draft[3] = 1 + draft[3] % (Law::kVocab - 1);
  const StepResult result = rig.session.step(rig.sampler, {}, draft);
  CHECK_EQUAL(rig.drafter.n_drafts, 0);
  CHECK_EQUAL(result.n_drafted, 4);
  CHECK_EQUAL(result.n_accepted, 3);
  const StepResult plain = rig.session.step(rig.sampler, {}, Tokens{});
  CHECK_EQUAL(plain.n_drafted, 0);
  CHECK_EQUAL(plain.tokens.size(), 1U);
  rig.check_agreement();
  CHECK_EQUAL(rig.sampler.sampled, rig.expected(prompt(7), rig.sampler.sampled.size()));
}

TEST(a_callers_draft_is_cut_to_the_room_there_is) {
  RigOptions options;
  options.verifier.n_ctx = 20;
  options.verifier.max_rows = 4;
  Rig rig(options);
  rig.session.sync(prompt(7));
  rig.session.step(rig.sampler);
  CHECK_EQUAL(rig.session.step(rig.sampler, {}, Tokens(30, 1)).n_drafted, 3);
  CHECK_EQUAL(rig.session.step(rig.sampler, 2, Tokens(30, 1)).n_drafted, 1);
  rig.check_agreement();
}

TEST(a_width_may_change_between_steps) {
  Rig rig;
  rig.session.sync(prompt(7));
  Tokens text;
  for (int32_t i = 0; i < 60; ++i) {
    rig.session.set_width(i % 8 == 0 ? SessionOptions::kWidest : i % 8 - 1);
    const StepResult result = rig.session.step(rig.sampler);
    if (i > 0) {
      CHECK_EQUAL(result.n_drafted, i % 8 == 0 ? 5 : std::min(i % 8 - 1, 5));
    }
    text = joined(text, result.tokens);
  }
  CHECK_EQUAL(text, rig.expected(prompt(7), text.size()));
}

TEST(the_longest_valid_prefix_ends_at_the_first_difference) {
  const Tokens rows = {4, 5, 6, 7};
  const auto sample = [&](int32_t row) { return rows.at(static_cast<size_t>(row)); };
  const auto never = [](Token) { return false; };
  CHECK_EQUAL(longest_valid_prefix({}, sample, never), Tokens{4});
  CHECK_EQUAL(longest_valid_prefix({9, 5, 6}, sample, never), Tokens{4});
  CHECK_EQUAL(longest_valid_prefix({4, 9, 6}, sample, never), (Tokens{4, 5}));
  CHECK_EQUAL(longest_valid_prefix({4, 5, 6}, sample, never), (Tokens{4, 5, 6, 7}));
  const auto ends = [](Token token) { return token == 5; };
  CHECK_EQUAL(longest_valid_prefix({4, 5, 6}, sample, ends), (Tokens{4, 5}));
  CHECK_EQUAL(longest_valid_prefix({4, 9, 6}, sample, ends), (Tokens{4, 5}));
  CHECK_EQUAL(count_accepted({4, 5, 6}, {4, 5, 7}), 2);
  CHECK_EQUAL(count_accepted({4, 5}, {4, 5, 7}), 2);
  CHECK_EQUAL(count_accepted({}, {4}), 0);
}
