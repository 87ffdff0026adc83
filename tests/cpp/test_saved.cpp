// A drafter's memory that is saved and given back.

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

RigOptions options_of(int32_t drafter_ctx) {
  RigOptions options;
  options.drafter_ctx = drafter_ctx;
  return options;
}

void check_answer(Rig& rig, int32_t n = 25) {
  const Tokens before = rig.session.tokens();
  const Tokens text = rig.answer(n);
  CHECK_EQUAL(text, rig.expected(before, text.size()));
}

int64_t n_accepted(const Rig& rig) {
  return rig.session.total_stats().n_accepted;
}

}  // namespace

TEST(a_restored_chat_keeps_drafting) {
  Rig first;
  first.session.sync(prompt(20));
  first.answer(15);
  const Tokens held = head(first.session.tokens(), static_cast<size_t>(first.session.n_past()));
  const std::string state = first.session.save_drafter();

  Rig second;
  second.session.sync(prompt(6, 5));
  second.verifier.write(held);
  second.session.align(held);
  CHECK(second.session.features_missing());
  second.session.load_drafter(state, first.session.n_features());
  second.check_agreement();
  CHECK(!second.session.features_missing());
  const Tokens text = second.answer(20);
  CHECK_EQUAL(text, second.expected(held, text.size()));
  CHECK(second.drafter.n_drafts > 0);
}

TEST(a_part_of_a_saved_memory_can_be_made_valid) {
  Rig rig;
  rig.session.sync(prompt(20));
  const std::string state = rig.session.save_drafter();
  rig.session.load_drafter(state, 8);
  CHECK_EQUAL(rig.session.n_features(), 8);
  rig.check_agreement();
  const Tokens text = rig.answer(10);
  CHECK_EQUAL(text, rig.expected(prompt(20), text.size()));
}

TEST(a_state_of_more_positions_than_the_timeline_is_refused) {
  Rig rig;
  rig.session.sync(prompt(20));
  const std::string state = rig.session.save_drafter();
  rig.session.rewind(10);
  CHECK_THROWS(std::invalid_argument, rig.session.load_drafter(state, 11));
  CHECK_THROWS(std::invalid_argument, rig.session.load_drafter(state, -1));
  CHECK_EQUAL(rig.session.n_features(), 10);
  rig.check_agreement();
}

TEST(a_state_that_cannot_be_loaded_leaves_plain_decoding) {
  Rig rig;
  rig.session.sync(prompt(20));
  CHECK_THROWS(std::runtime_error, rig.session.load_drafter("garbage", 20));
  rig.check_agreement();
  CHECK(rig.session.features_missing());
  const Tokens text = rig.answer(10);
  CHECK_EQUAL(text, rig.expected(prompt(20), text.size()));
  CHECK_EQUAL(rig.drafter.n_drafts, 0);
}

TEST(saving_does_not_end_a_proposed_step) {
  Rig rig;
  rig.session.sync(prompt(20));
  rig.session.step(rig.sampler);
  const Tokens draft = rig.session.propose().tokens;
  const std::string state = rig.session.save_drafter();
  rig.session.commit(head(draft, 1));
  rig.check_agreement();
  rig.session.rewind(20);
  rig.session.load_drafter(state, 20);
  rig.check_agreement();
}

TEST(without_a_drafter_there_is_nothing_to_save) {
  RigOptions options;
  options.has_drafter = false;
  Rig rig(options);
  rig.session.sync(prompt(20));
  CHECK(rig.session.save_drafter().empty());
  rig.session.load_drafter("anything", 20);
  CHECK_EQUAL(rig.session.n_features(), 0);
}

TEST(a_restored_memory_begins_where_it_began) {
  RigOptions options = options_of(24);
  options.right = right::all;
  Rig first(options);
  first.session.sync(prompt(80));
  check_answer(first, 40);
  const auto n_past = static_cast<size_t>(first.session.n_past());
  const Tokens held = head(first.session.tokens(), n_past);
  const std::string state = first.session.save_drafter();

  for (const int32_t room : {8, 24, 100}) {
    Rig second(options_of(room));
    second.verifier.write(held);
    second.session.align(held);
    second.session.load_drafter(state, first.session.n_features());
    second.check_agreement();
    CHECK(!second.session.features_missing());
    CHECK(second.session.n_forgotten() >= first.session.n_forgotten());
    CHECK(!second.drafter.memory().empty());
    check_answer(second, 40);
    CHECK(n_accepted(second) > 0);
  }
}

TEST(a_state_of_positions_before_those_that_were_kept_is_empty) {
  Rig rig(options_of(16));
  rig.session.sync(prompt(80));
  const std::string state = rig.session.save_drafter();
  rig.session.rewind(30);
  rig.session.load_drafter(state, 30);
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_forgotten(), 30);
  CHECK(!rig.session.features_missing());
  check_answer(rig);
}

TEST(a_state_saved_at_width_0_is_empty_and_drafts_begin_after_it) {
  RigOptions options;
  options.width = 0;
  Rig first(options);
  first.session.sync(prompt(40));
  const std::string state = first.session.save_drafter();
  RigOptions wide;
  wide.right = right::all;
  Rig second(wide);
  second.session.sync(prompt(40));
  second.session.load_drafter(state, first.session.n_features());
  second.check_agreement();
  CHECK_EQUAL(second.session.n_forgotten(), 40);
  check_answer(second, 30);
  CHECK(n_accepted(second) > 10);
}

TEST(a_state_of_the_first_version_begins_at_position_0) {
  Rig rig;
  rig.session.sync(prompt(40));
  rig.session.save_drafter();  // takes in what waits
  const std::string state = rig.drafter.save();
  rig.session.rewind(35);
  rig.session.load_drafter(state, 35);
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_forgotten(), 0);
  CHECK_EQUAL(rig.session.n_features(), 35);
  check_answer(rig);
}

TEST(a_state_that_ends_in_its_head_is_refused_and_changes_nothing) {
  Rig rig;
  rig.session.sync(prompt(40));
  const std::string state = rig.session.save_drafter();
  CHECK_THROWS(BackendError, rig.session.load_drafter(state.substr(0, 9), 40));
  rig.check_agreement();
  CHECK_EQUAL(rig.session.n_features(), 40);
  check_answer(rig);
}
