// Random calls in random order: after each the memories agree, and every token obeys the law.

#include <random>

#include "rig.h"

using namespace dflash;
using namespace dflash::fakes;

namespace {

class Player {
 public:
  Player(const RigOptions& options, uint32_t seed, bool with_failures)
      : rig_(options), random_(seed), with_failures_(with_failures) {}

  void play(int32_t n_calls) {
    for (int32_t i = 0; i < n_calls; ++i) {
      if (with_failures_ && below(4) == 0) fail_soon();
      try {
        call();
      } catch (const Failure&) {
      } catch (const ContextError&) {
        rig_.session.rewind(below(rig_.session.n_past() + 1));
      }
      settle();
      rig_.check_agreement();
    }
  }

  int64_t n_accepted() const { return rig_.session.total_stats().n_accepted; }

 private:
  int32_t below(int32_t n) { return std::uniform_int_distribution<int32_t>(0, n - 1)(random_); }

  void fail_soon() {
    rig_.calls.fail(1 + below(12), below(2) == 0 ? Calls::How::before : Calls::How::halfway,
                    1 + below(3));
  }

  // What failures left behind is repaired by the next call that works.
  void settle() {
    rig_.calls.heal();
    rig_.session.discard();
  }

  void call() {
    Session& session = rig_.session;
    switch (below(12)) {
      case 0:
        return session.sync(some_prompt());
      case 1:
        session.rewind(below(session.n_past() + 1));
        return;
      case 2:
        return extend();
      case 3:
        return align();
      case 4:
        return save_and_load();
      case 5:
        session.set_width(below(8) - 1);
        return;
      case 6:
      case 7:
      case 8:
        return step_by_row();
      default:
        return step();
    }
  }

  // Often what is there already and a little more.
  Tokens some_prompt() {
    Tokens tokens;
    if (below(3) > 0) {
      const auto n = static_cast<int32_t>(rig_.session.tokens().size());
      tokens = head(rig_.session.tokens(), static_cast<size_t>(below(n + 1)));
      if (below(2) == 0) tokens = rig_.session.tokens();
    }
    return joined(tokens, prompt(1 + below(9), static_cast<uint32_t>(below(5))));
  }

  void extend() {
    const Tokens more = prompt(1 + below(7), static_cast<uint32_t>(below(5)));
    const Rows rows = below(2) == 0 ? Rows::all : Rows::last;
    rig_.session.extend(more.data(), static_cast<int32_t>(more.size()), rows);
  }

  void align() {
    Tokens held = some_prompt();
    if (static_cast<int32_t>(held.size()) > rig_.n_ctx) return;
    settle();  // somebody who writes into a memory does so between calls that worked
    rig_.verifier.write(held);
    rig_.session.align(held);
  }

  void save_and_load() {
    const std::string state = rig_.session.save_drafter();
    const int32_t n = rig_.session.n_features();
    rig_.session.load_drafter(state, n == 0 ? 0 : below(n) + 1);
  }

  void step() {
    const Tokens before = rig_.session.tokens();
    if (before.empty()) return;
    const std::optional<int32_t> limit =
        below(3) == 0 ? std::optional<int32_t>(1 + below(5)) : std::nullopt;
    const StepResult result = rig_.session.step(rig_.sampler, limit);
    check_text(before, result.tokens);
    CHECK(!limit || static_cast<int32_t>(result.tokens.size()) <= *limit);
  }

  void step_by_row() {
    Session& session = rig_.session;
    const Tokens before = session.tokens();
    if (before.empty()) return;
    if (!session.anchored() && session.logits_live()) {
      const Token token = rig_.sampler.sample(-1);
      session.anchor(token);
      return check_text(before, {token});
    }
    std::optional<Tokens> own;
    if (below(3) == 0) {
      own = rig_.expected(before, 4);
      own->at(static_cast<size_t>(below(static_cast<int32_t>(own->size())))) = 1;
    }
    const Tokens draft = session.propose(own).tokens;
    const size_t n_rows = 1 + static_cast<size_t>(below(7));
    Tokens emitted;
    do {
      emitted.push_back(rig_.sampler.sample(static_cast<int32_t>(emitted.size())));
    } while (emitted.size() < n_rows && emitted.size() <= draft.size() &&
             emitted.back() == draft[emitted.size() - 1]);
    if (below(5) == 0) return session.discard();
    session.commit(emitted);
    check_text(before, emitted);
  }

  void check_text(const Tokens& before, const Tokens& emitted) {
    CHECK_EQUAL(rig_.session.tokens(), joined(before, emitted));
    CHECK_EQUAL(emitted, rig_.expected(before, emitted.size()));
  }

  Rig rig_;
  std::mt19937 random_;
  bool with_failures_;
};

RigOptions options_of(uint32_t seed) {
  RigOptions options;
  options.verifier.n_ctx = 40 + static_cast<int32_t>(seed % 3) * 100;
  options.verifier.n_batch = 1 + static_cast<int32_t>(seed % 9);
  options.verifier.max_rows = 1 + static_cast<int32_t>(seed % 6);
  options.block_size = 2 + static_cast<int32_t>(seed % 7);
  options.right = right::some(75, seed);
  if (seed % 2 == 0) options.drafter_ctx = 1 + static_cast<int32_t>(seed % 31);
  if (seed % 3 == 0) options.most_waiting = 1 + static_cast<int32_t>(seed % 11);
  return options;
}

}  // namespace

TEST(random_calls_leave_the_memories_in_agreement) {
  int64_t n_accepted = 0;
  for (uint32_t seed = 1; seed <= 120; ++seed) {
    Player player(options_of(seed), seed, /*with_failures=*/false);
    player.play(150);
    n_accepted += player.n_accepted();
  }
  CHECK(n_accepted > 1000);
}

TEST(random_calls_with_random_failures_leave_the_memories_in_agreement) {
  int64_t n_accepted = 0;
  for (uint32_t seed = 1; seed <= 120; ++seed) {
    Player player(options_of(seed), seed, /*with_failures=*/true);
    player.play(150);
    n_accepted += player.n_accepted();
  }
  CHECK(n_accepted > 1000);
}
