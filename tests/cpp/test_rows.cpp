// The same step taken row by row: propose, sample, commit.

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

/// Samples rows as a caller does, at most n of them.
Tokens sample_rows(Rig& rig, const Draft& draft, size_t n = 1000) {
  Tokens emitted;
  for (size_t row = 0; emitted.size() < n; ++row) {
    emitted.push_back(rig.sampler.sample(static_cast<int32_t>(row)));
    if (row >= draft.tokens.size() || emitted.back() != draft.tokens[row]) break;
  }
  return emitted;
}

void start(Rig& rig, int32_t n = 12) {
  rig.session.sync(prompt(n));
  rig.session.anchor(rig.sampler.sample(-1));
}

}  // namespace

TEST(steps_by_row_emit_what_whole_steps_emit) {
  for (const auto& right : {FakeDrafter::Right(right::none), FakeDrafter::Right(right::all),
                            right::some(60), right::first(2)}) {
    RigOptions options;
    options.right = right;
    Rig rig(options);
    Rig whole(options);
    start(rig);
    whole.session.sync(prompt(12));
    whole.session.step(whole.sampler);
    for (int32_t i = 0; i < 40; ++i) {
      const Draft draft = rig.session.propose();
      const StepResult by_row = rig.session.commit(sample_rows(rig, draft));
      const StepResult by_step = whole.session.step(whole.sampler);
      rig.check_agreement();
      CHECK_EQUAL(by_row.tokens, by_step.tokens);
      CHECK_EQUAL(by_row.n_drafted, by_step.n_drafted);
      CHECK_EQUAL(by_row.n_accepted, by_step.n_accepted);
      CHECK_EQUAL(rig.session.tokens(), whole.session.tokens());
    }
  }
}

TEST(a_step_may_be_committed_after_any_of_its_rows) {
  for (size_t n_rows = 1; n_rows <= 6; ++n_rows) {
    RigOptions options;
    options.right = right::all;
    Rig rig(options);
    start(rig);
    for (int32_t i = 0; i < 5; ++i) {
      const Draft draft = rig.session.propose();
      const StepResult result = rig.session.commit(sample_rows(rig, draft, n_rows));
      rig.check_agreement();
      CHECK_EQUAL(result.tokens.size(), n_rows);
      CHECK_EQUAL(result.n_accepted, static_cast<int32_t>(std::min<size_t>(n_rows, 5)));
    }
    CHECK_EQUAL(rig.session.tokens(), joined(prompt(12), rig.sampler.sampled));
    CHECK_EQUAL(rig.sampler.sampled, rig.expected(prompt(12), 1 + 5 * n_rows));
  }
}

TEST(a_caller_may_end_a_step_with_a_token_of_its_own) {
  Rig rig;
  start(rig);
  const Draft draft = rig.session.propose();
  const Token own = 1 + draft.tokens[0] % (Law::kVocab - 1);
  const Tokens before = rig.session.tokens();
  rig.session.commit({own});
  rig.check_agreement();
  CHECK_EQUAL(rig.session.tokens(), joined(before, {own}));
  const Tokens text = rig.answer(20);
  CHECK_EQUAL(text, rig.expected(joined(before, {own}), text.size()));
}

TEST(propose_takes_the_callers_draft_and_limit) {
  Rig rig;
  start(rig);
  CHECK_EQUAL(rig.session.propose(Tokens{3, 4, 5, 6}).tokens, (Tokens{3, 4, 5, 6}));
  CHECK_EQUAL(rig.session.propose(Tokens{3, 4, 5, 6}, 3).tokens, (Tokens{3, 4}));
  CHECK_EQUAL(rig.session.propose({}, 2).tokens.size(), 1U);
  CHECK_EQUAL(rig.session.propose({}, 1).tokens.size(), 0U);
  CHECK_EQUAL(rig.session.propose().tokens.size(), 5U);
  CHECK_EQUAL(rig.session.draft().tokens.size(), 5U);
  rig.session.discard();
  rig.check_agreement();
}

TEST(what_the_sampler_cannot_sample_is_not_verified) {
  for (size_t possible = 0; possible <= 6; ++possible) {
    RigOptions options;
    options.right = right::all;
    Rig rig(options);
    start(rig);
    rig.sampler.most_possible = possible;
    const auto n = static_cast<int32_t>(std::min<size_t>(possible, 5));
    const StepResult drafted = rig.session.step(rig.sampler);
    CHECK_EQUAL(drafted.n_drafted, n);
    CHECK_EQUAL(drafted.tokens.size(), static_cast<size_t>(n) + 1);
    CHECK_EQUAL(rig.verifier.decodes.back(), n + 1);
    const StepResult given = rig.session.step(rig.sampler, {}, Tokens{3, 4, 5, 6, 7});
    CHECK_EQUAL(given.n_drafted, n);
    CHECK_EQUAL(rig.session.propose(Tokens{3, 4}, {}, &rig.sampler).tokens.size(),
                std::min<size_t>(possible, 2));
    rig.session.discard();
    rig.check_agreement();
    CHECK_EQUAL(rig.session.tokens(), joined(prompt(12), rig.sampler.sampled));
  }
}

TEST(commit_refuses_what_is_no_prefix_and_can_be_called_again) {
  Rig rig;
  start(rig);
  const Tokens draft = rig.session.propose().tokens;
  Tokens wrong = draft;
  wrong[1] = 1 + wrong[1] % (Law::kVocab - 1);
  CHECK_THROWS(std::invalid_argument, rig.session.commit({}));
  CHECK_THROWS(std::invalid_argument, rig.session.commit(wrong));
  CHECK_THROWS(std::invalid_argument, rig.session.commit(head(wrong, 3)));
  CHECK_THROWS(std::invalid_argument, rig.session.commit(joined(draft, {1, 1})));
  const StepResult result = rig.session.commit(head(wrong, 2));
  CHECK_EQUAL(result.n_accepted, 1);
  rig.check_agreement();
}

TEST(commit_of_the_draft_itself_leaves_its_last_token_as_anchor) {
  Rig rig;
  start(rig);
  const int32_t n_past = rig.session.n_past();
  const StepResult result = rig.session.commit(rig.session.propose().tokens);
  CHECK_EQUAL(result.tokens.size(), 5U);
  CHECK_EQUAL(result.n_accepted, 5);
  CHECK_EQUAL(rig.session.n_past(), n_past + 5);
  rig.check_agreement();
}

TEST(commit_and_anchor_and_propose_are_refused_out_of_turn) {
  Rig rig;
  CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler));
  CHECK_THROWS(std::invalid_argument, rig.session.propose());
  CHECK_THROWS(std::logic_error, rig.session.commit({1}));
  CHECK_THROWS(std::logic_error, rig.session.anchor(1));
  rig.session.sync(prompt(6));
  CHECK_THROWS(std::logic_error, rig.session.propose());
  CHECK_THROWS(std::logic_error, rig.session.commit({1}));
  rig.session.anchor(3);
  CHECK_THROWS(std::logic_error, rig.session.anchor(3));
  CHECK_THROWS(std::logic_error, rig.session.commit({1}));
  rig.session.propose();
  CHECK_THROWS(std::logic_error, rig.session.anchor(3));
  rig.session.commit({3});
  CHECK_THROWS(std::logic_error, rig.session.commit({3}));
  CHECK_THROWS(std::logic_error, rig.session.anchor(3));
  rig.session.rewind(4);
  CHECK_THROWS(std::logic_error, rig.session.anchor(3));
  CHECK_THROWS(std::logic_error, rig.session.commit({3}));
  rig.check_agreement();
}

TEST(propose_without_live_logits_decodes_the_last_token_again) {
  Rig rig;
  rig.session.sync(prompt(12));
  rig.session.rewind(9);
  const Draft draft = rig.session.propose();
  CHECK_EQUAL(draft.tokens.size(), 5U);
  const StepResult result = rig.session.commit(sample_rows(rig, draft));
  rig.check_agreement();
  CHECK_EQUAL(result.tokens, rig.expected(prompt(9), result.tokens.size()));
}

TEST(a_discarded_step_leaves_no_trace) {
  Rig rig;
  start(rig);
  const Tokens tokens = rig.session.tokens();
  for (int32_t i = 0; i < 3; ++i) {
    rig.session.propose();
    rig.session.discard();
    rig.check_agreement();
    CHECK_EQUAL(rig.session.tokens(), tokens);
    CHECK(rig.session.anchored());
    CHECK_THROWS(std::logic_error, rig.session.commit({1}));
  }
  rig.session.discard();
  CHECK_EQUAL(rig.session.total_stats().n_steps, 0);
  const Tokens text = rig.answer(20);
  CHECK_EQUAL(text, rig.expected(tokens, text.size()));
}

TEST(a_proposed_step_gives_way_to_any_other_call) {
  const std::vector<std::function<void(Rig&)>> others = {
      [](Rig& rig) { rig.session.step(rig.sampler); },
      [](Rig& rig) { rig.session.propose(); },
      [](Rig& rig) { rig.session.rewind(3); },
      [](Rig& rig) { rig.session.sync(prompt(15)); },
      [](Rig& rig) { rig.session.sync(prompt(9, 3)); },
      [](Rig& rig) { rig.session.keep_prefix(prompt(11)); },
      [](Rig& rig) { rig.session.align(prompt(5)); },
      [](Rig& rig) { rig.session.load_drafter(rig.session.save_drafter(), 12); },
  };
  for (const auto& other : others) {
    Rig rig;
    start(rig);
    rig.session.propose();
    other(rig);
    rig.session.discard();
    rig.check_agreement();
    const Tokens before = rig.session.tokens();
    const Tokens text = rig.answer(12);
    CHECK_EQUAL(text, rig.expected(before, text.size()));
  }
}
