// The strong guarantee: whatever call fails, the memories agree and the text goes on as if not.

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

using How = Calls::How;

struct Op {
  std::function<void(Rig&)> run;
  bool is_step = false;
};

RigOptions options_of(Memory memory) {
  RigOptions options;
  options.verifier.n_batch = 5;
  options.verifier.memory = memory;
  options.block_size = 4;
  return options;
}

Tokens sample_rows(Rig& rig, const Tokens& draft) {
  Tokens emitted;
  do {
    emitted.push_back(rig.sampler.sample(static_cast<int32_t>(emitted.size())));
  } while (emitted.size() <= draft.size() && emitted.back() == draft[emitted.size() - 1]);
  return emitted;
}

void step_by_row(Rig& rig) {
  const Tokens draft = rig.session.propose().tokens;
  Tokens emitted;
  try {
    emitted = sample_rows(rig, draft);
  } catch (const Failure&) {
    rig.session.discard();  // the caller's own failure, the caller's own step
    throw;
  }
  rig.session.commit(emitted);
}

/// Two turns, a rewind, a drafter saved and restored, both forms of a step.
std::vector<Op> conversation() {
  const Op step = {[](Rig& rig) { rig.session.step(rig.sampler); }, true};
  const Op rows = {step_by_row, true};
  return {{[](Rig& rig) { rig.session.sync(prompt(12)); }},
          step,
          step,
          rows,
          step,
          rows,
          {[](Rig& rig) { rig.saved = rig.session.save_drafter(); }},
          {[](Rig& rig) { rig.session.sync(joined(prompt(11), prompt(9, 3))); }},
          step,
          step,
          rows,
          {[](Rig& rig) { rig.session.rewind(11); }},
          {[](Rig& rig) { rig.session.load_drafter(rig.saved, 11); }},
          step,
          step,
          rows};
}

/// Does `op` again until nothing fails. After a failure the memories agree, and a step that
/// failed has emitted nothing. Where a memory could not be trimmed, the next call repairs that.
void insist(Rig& rig, const Op& op, bool repaired_at_once) {
  for (int32_t n_tries = 0; n_tries < 20; ++n_tries) {
    const Tokens before = rig.session.tokens();
    try {
      op.run(rig);
      return;
    } catch (const Failure&) {
      if (op.is_step) CHECK_EQUAL(rig.session.tokens(), before);
      if (!repaired_at_once) continue;
      if (rig.calls.failed_in_trim()) rig.session.discard();
      rig.check_agreement();
    }
  }
  CHECK(!"20 tries");
}

/// Lets the k-th call fail and the n - 1 after it, for every k there is.
void fail_everywhere(int32_t n, How how, const RigOptions& options) {
  Rig undisturbed(options);
  for (const Op& op : conversation()) op.run(undisturbed);
  int32_t k = 1;
  for (;; ++k) {
    Rig rig(options);
    rig.calls.fail(k, how, n);
    for (const Op& op : conversation()) {
      // A failure that goes on hits the repair too.
      insist(rig, op, n == 1);
      rig.check_agreement();
    }
    CHECK_EQUAL(rig.session.tokens(), undisturbed.session.tokens());
    CHECK_EQUAL(rig.session.n_features(), undisturbed.session.n_features());
    if (!rig.calls.failed()) break;
  }
  CHECK(k > 60);
}

}  // namespace

TEST(a_failure_of_any_one_call_changes_nothing) {
  fail_everywhere(1, How::before, options_of(Memory::any_part));
  fail_everywhere(1, How::halfway, options_of(Memory::any_part));
}

TEST(a_failure_that_lasts_while_it_is_repaired_changes_nothing) {
  for (int32_t n = 2; n <= 5; ++n) {
    fail_everywhere(n, How::before, options_of(Memory::any_part));
    fail_everywhere(n, How::halfway, options_of(Memory::any_part));
  }
}

TEST(a_failure_while_the_oldest_features_are_dropped_changes_nothing) {
  RigOptions options = options_of(Memory::any_part);
  options.drafter_ctx = 8;
  options.most_waiting = 3;
  for (int32_t n = 1; n <= 5; ++n) {
    fail_everywhere(n, How::before, options);
    fail_everywhere(n, How::halfway, options);
  }
}

// A sampler that fails leaves its own state behind: the caller makes a new one.
TEST(a_step_whose_sampler_fails_can_be_taken_again) {
  for (int32_t k = 1; k <= 40; ++k) {
    RigOptions options;
    options.right = right::all;
    Rig rig(options);
    rig.session.sync(prompt(8));
    rig.session.step(rig.sampler);
    const Tokens before = rig.session.tokens();
    rig.calls.fail(k, How::before);
    Tokens emitted;
    while (!rig.calls.failed()) {
      try {
        emitted = joined(emitted, rig.session.step(rig.sampler).tokens);
      } catch (const Failure&) {
        rig.check_agreement();
      }
    }
    emitted = joined(emitted, rig.session.step(rig.sampler).tokens);
    CHECK_EQUAL(rig.session.tokens(), joined(before, emitted));
    CHECK_EQUAL(emitted, rig.expected(before, emitted.size()));
  }
}

// ---- memories that cannot drop a part ------------------------------------------------------

TEST(a_memory_that_forgets_everything_is_read_again) {
  for (const Memory memory : {Memory::all_or_nothing, Memory::last_rows}) {
    Rig rig(options_of(memory));
    rig.session.sync(prompt(12));
    CHECK_EQUAL(rig.session.rewind(7), 0);
    rig.check_agreement();
    CHECK(rig.session.tokens().empty());
    CHECK_EQUAL(rig.session.n_features(), 0);
    CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler));
    rig.session.sync(prompt(12));
    CHECK_EQUAL(rig.session.keep_prefix(prompt(6)), 0);
    rig.check_agreement();
    rig.session.sync(prompt(6));
    CHECK_EQUAL(rig.session.n_features(), 6);
    const Tokens text = rig.answer(memory == Memory::last_rows ? 20 : 1);
    CHECK_EQUAL(text, rig.expected(prompt(6), text.size()));
  }
}

TEST(a_chat_goes_on_after_an_answer_that_ends_inside_a_block_with_a_rejected_draft) {
  for (int32_t back = 0; back <= 2; ++back) {
    RigOptions options = options_of(Memory::last_rows);
    options.right = right::first(3);
    Rig rig(options);
    rig.session.sync(prompt(12));
    rig.session.step(rig.sampler);
    rig.session.step(rig.sampler);  // five rows, three drafts kept
    // A stop string ends the answer among the tokens of that block; the next turn shares even less.
    const int32_t n_past = rig.session.n_past();
    CHECK_EQUAL(rig.session.rewind(n_past - back), n_past - back);
    rig.check_agreement();
    const Tokens turn = joined(head(rig.session.tokens(), n_past - 3), prompt(4, 9));
    const int32_t n_decoded = rig.verifier.n_decoded;
    rig.session.sync(turn);
    CHECK_EQUAL(rig.verifier.n_decoded - n_decoded, 4);
    const Tokens text = rig.answer(20);
    CHECK_EQUAL(text, rig.expected(turn, text.size()));
  }
}

TEST(a_growing_chat_is_not_read_again_by_a_memory_that_drops_nothing) {
  RigOptions options = options_of(Memory::all_or_nothing);
  options.width = 0;
  Rig rig(options);
  rig.session.sync(prompt(12));
  rig.answer(10);
  const Tokens turn = joined(rig.session.tokens(), prompt(5, 4));
  const int32_t n_past = rig.session.n_past();
  const int32_t n_decoded = rig.verifier.n_decoded;
  rig.session.sync(turn);
  CHECK_EQUAL(rig.verifier.n_decoded - n_decoded, static_cast<int32_t>(turn.size()) - n_past);
  const Tokens text = rig.answer(10);
  CHECK_EQUAL(text, rig.expected(turn, text.size()));
}

TEST(rejected_drafts_that_cannot_be_dropped_are_an_error_and_the_next_prompt_works) {
  RigOptions options = options_of(Memory::all_or_nothing);
  options.right = right::none;
  Rig rig(options);
  rig.session.sync(prompt(12));
  rig.session.step(rig.sampler);
  CHECK_THROWS(BackendError, rig.session.step(rig.sampler));
  rig.check_agreement();
  CHECK(rig.session.tokens().empty());
  CHECK_EQUAL(rig.session.total_stats().n_steps, 0);
  rig.session.set_width(0);
  rig.session.sync(prompt(12));
  const Tokens text = rig.answer(20);
  CHECK_EQUAL(text, rig.expected(prompt(12), text.size()));
}

TEST(accepted_drafts_need_nothing_dropped) {
  RigOptions options = options_of(Memory::all_or_nothing);
  options.right = right::all;
  Rig rig(options);
  rig.session.sync(prompt(12));
  const Tokens text = rig.answer(30);
  CHECK_EQUAL(text, rig.expected(prompt(12), text.size()));
}

TEST(a_discarded_step_that_cannot_be_dropped_loses_the_timeline_and_nothing_else) {
  for (const Memory memory : {Memory::all_or_nothing, Memory::last_rows}) {
    Rig rig(options_of(memory));
    const auto propose = [&] {
      rig.session.sync(prompt(12));
      rig.session.step(rig.sampler);
      rig.session.propose();
    };
    propose();
    rig.session.discard();
    rig.check_agreement();
    CHECK_EQUAL(rig.session.n_past(), 0);

    propose();
    CHECK_EQUAL(rig.session.rewind(5), 0);  // not five tokens that nobody gave
    rig.check_agreement();
    CHECK(rig.session.tokens().empty());

    propose();
    const Tokens more = prompt(3, 7);
    CHECK_THROWS(BackendError, rig.session.extend(more.data(), 3));
    rig.check_agreement();
    CHECK(rig.session.tokens().empty());

    propose();
    CHECK_THROWS(std::invalid_argument, rig.session.step(rig.sampler));
    propose();
    rig.session.sync(joined(prompt(12), more));
    rig.check_agreement();
    CHECK_EQUAL(rig.session.tokens(), joined(prompt(12), more));
  }
}

TEST(a_step_that_would_have_to_go_back_one_token_is_an_error_where_that_is_impossible) {
  for (const bool by_row : {false, true}) {
    Rig rig(options_of(Memory::all_or_nothing));
    rig.session.sync(prompt(12));
    rig.session.step(rig.sampler);
    rig.verifier.write(prompt(15, 5));
    rig.session.align(prompt(15, 5));  // a state that somebody loaded: no logits
    rig.check_agreement();
    CHECK_EQUAL(rig.session.n_past(), 15);
    if (by_row) {
      CHECK_THROWS(BackendError, rig.session.propose());
    } else {
      CHECK_THROWS(BackendError, rig.session.step(rig.sampler));
    }
    rig.check_agreement();
    rig.session.sync(prompt(15, 5));
    const Tokens text = rig.answer(1);
    CHECK_EQUAL(text, rig.expected(prompt(15, 5), 1));
  }
}

TEST(a_failure_in_a_memory_that_drops_nothing_leaves_agreement) {
  for (const Memory memory : {Memory::all_or_nothing, Memory::last_rows}) {
    for (const How how : {How::before, How::halfway}) {
      int32_t k = 1;
      for (;; ++k) {
        RigOptions options = options_of(memory);
        options.right = memory == Memory::last_rows ? right::some(60) : right::all;
        Rig rig(options);
        rig.calls.fail(k, how);
        Tokens text;
        while (text.size() < 30) {
          try {
            const Tokens so_far = joined(prompt(12), text);
            if (rig.session.tokens() != so_far) rig.session.sync(so_far);
            text = joined(text, rig.session.step(rig.sampler).tokens);
          } catch (const Failure&) {
            if (rig.calls.failed_in_trim()) rig.session.discard();
          }
          rig.check_agreement();
        }
        CHECK_EQUAL(text, rig.expected(prompt(12), text.size()));
        if (!rig.calls.failed()) break;
      }
      CHECK(k > 30);
    }
  }
}
