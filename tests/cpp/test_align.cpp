// What others put into the memory, or took out of it, behind the session's back.

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

void check_answer(Rig& rig, int32_t n = 25) {
  const Tokens before = rig.session.tokens();
  const Tokens text = rig.answer(n);
  CHECK_EQUAL(text, rig.expected(before, text.size()));
}

}  // namespace

TEST(align_with_what_the_session_knows_is_a_rewind) {
  for (int32_t n = 0; n <= 20; ++n) {
    Rig rig;
    rig.session.sync(prompt(20));
    check_answer(rig, 8);
    const Tokens held = head(rig.session.tokens(), static_cast<size_t>(n));
    rig.verifier.write(held);
    rig.session.align(held);
    rig.check_agreement();
    CHECK_EQUAL(rig.session.tokens(), held);
    CHECK(!rig.session.features_missing());
    if (n > 0) check_answer(rig);
  }
}

TEST(align_with_the_same_tokens_keeps_live_logits) {
  Rig rig;
  rig.session.sync(prompt(20));
  rig.session.align(prompt(20));
  CHECK(rig.session.logits_live());
  check_answer(rig);
}

TEST(align_with_tokens_of_somebody_else_decodes_plainly) {
  for (const int32_t n_shared : {0, 3, 20}) {
    for (const int32_t state : {0, 1, 2}) {
      Rig rig;
      rig.session.sync(prompt(20));
      if (state > 0) rig.session.step(rig.sampler);
      if (state > 1) rig.session.propose();
      const Tokens held = joined(prompt(n_shared), prompt(11, 99));
      rig.verifier.write(held);
      rig.session.align(held);
      rig.check_agreement();
      CHECK_EQUAL(rig.session.tokens(), held);
      CHECK_EQUAL(rig.session.n_features(), n_shared);
      CHECK(rig.session.features_missing());
      CHECK(!rig.session.logits_live());
      CHECK_THROWS(std::logic_error, rig.session.commit({1}));
      const int32_t n_drafts = rig.drafter.n_drafts;
      check_answer(rig);
      CHECK_EQUAL(rig.drafter.n_drafts, n_drafts);
      CHECK_EQUAL(rig.session.n_features(), n_shared);
    }
  }
}

TEST(drafting_resumes_with_a_prompt_that_leaves_the_gap) {
  Rig rig;
  rig.session.sync(prompt(20));
  const Tokens held = joined(prompt(20), prompt(11, 99));
  rig.verifier.write(held);
  rig.session.align(held);
  check_answer(rig);
  CHECK_EQUAL(rig.drafter.n_drafts, 0);
  rig.session.sync(joined(prompt(20), prompt(3, 55)));  // shares what has features
  CHECK(!rig.session.features_missing());
  CHECK_EQUAL(rig.session.n_features(), 23);
  check_answer(rig);
  CHECK(rig.drafter.n_drafts > 0);
}

TEST(align_drops_a_block_that_was_proposed) {
  Rig rig;
  rig.session.sync(prompt(20));
  rig.session.step(rig.sampler);
  rig.session.propose();
  // The caller counts the anchor as read: it is, the drafts behind it are not.
  rig.session.align(rig.session.tokens());
  rig.check_agreement();
  CHECK_THROWS(std::logic_error, rig.session.commit({1}));
  check_answer(rig);
}

// As after Ctrl-C, when the session has gone back and its caller does not know yet.
TEST(align_with_more_than_the_memory_holds_keeps_what_is_there) {
  for (const Memory memory : {Memory::any_part, Memory::all_or_nothing}) {
    RigOptions options;
    options.verifier.memory = memory;
    Rig rig(options);
    rig.session.sync(prompt(20));
    const int32_t reached = rig.session.rewind(8);
    rig.session.align(prompt(20));
    rig.check_agreement();
    CHECK_EQUAL(rig.session.tokens(), prompt(reached));
    CHECK(!rig.session.features_missing());
    rig.session.sync(prompt(20));
    rig.check_agreement();
  }
}

TEST(align_beyond_the_context_is_refused) {
  RigOptions options;
  options.verifier.n_ctx = 16;
  Rig rig(options);
  rig.session.sync(prompt(8));
  CHECK_THROWS(ContextError, rig.session.align(prompt(17)));
  CHECK_EQUAL(rig.session.tokens(), prompt(8));
  rig.check_agreement();
  check_answer(rig);
}
