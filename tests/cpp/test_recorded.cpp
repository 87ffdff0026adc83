#include <string>

#include "checks.h"
#include "recorded.h"

namespace {

using namespace dflash;
using namespace dflash::traces;

constexpr int32_t kSeeds = 20;
constexpr int64_t kSession = 600;  // tokens; a shorter recording is asked again
const std::vector<std::string> kFiles = {"general-chat.txt", "python-classes.txt"};

/// In a session of n tokens or a little more, with a new controller.
double seconds_a_token(const Recording& recording, const Pair& pair, int64_t n, int32_t width,
                       uint64_t seed) {
  Terms terms(kWidest);
  Controller controller(terms);
  Machine machine(seed);
  calibrate(pair, machine, controller.costs());
  const Strategy strategy = width == kAdaptive ? adaptive(controller) : fixed(width);
  Outcome whole;
  while (whole.n_tokens < n) {
    for (const RecordedAnswer& answer : recording.answers) {
      controller.text_changed();
      const Outcome outcome = replay(answer, {answer.end()}, pair, machine, strategy);
      whole.seconds += outcome.seconds;
      whole.n_tokens += outcome.n_tokens;
    }
  }
  return whole.seconds_a_token();
}

Comparison compare(const Recording& recording, const Pair& pair, int64_t n) {
  const auto seconds = [&](int32_t width, uint64_t seed) {
    return seconds_a_token(recording, pair, n, width, seed);
  };
  return traces::compare(seconds, kSeeds);
}

/// The tables of the seeded traces, and what was measured with the recording.
std::vector<Pair> pairs_of(const Recording& recording) {
  std::vector<Pair> all = pairs();
  if (recording.pair) all.push_back(*recording.pair);
  return all;
}

void check_least(double found, double least, const std::string& what) {
  ++checks::n_checks;
  if (found >= least) return;
  checks::fail(__FILE__, __LINE__,
               what + ": " + std::to_string(found) + ", expected " + std::to_string(least));
}

}  // namespace

TEST(on_recorded_texts_it_comes_near_the_best_fixed_width) {
  for (const std::string& name : kFiles) {
    const Recording recording = read_recording(name);
    for (const Pair& pair : pairs_of(recording)) {
      // Three rows at the price of one: there is little to win over the fixed width that takes
      // them.
      const double least = pair.name == "cliff" ? 0.96 : 0.97;
      const Comparison found = compare(recording, pair, kSession);
      check_least(found.best / found.adaptive, least,
                  name + ", " + pair.name + ", of the best fixed width");
      check_least(found.plain / found.adaptive, 0.98, name + ", " + pair.name + ", of plain");
    }
  }
}

TEST(the_first_recorded_answers_are_hardly_behind_plain_decoding) {
  for (const std::string& name : kFiles) {
    const Recording recording = read_recording(name);
    for (const Pair& pair : pairs_of(recording)) {
      const Comparison found = compare(recording, pair, 1);
      check_least(found.plain / found.adaptive, 0.98, name + ", " + pair.name + ", of plain");
    }
  }
}

// Else the two above would say nothing.
TEST(recordings_hold_a_text_that_is_worth_drafting_and_one_that_is_not) {
  const Pair& bf16 = pairs()[0];
  CHECK_EQUAL(compare(read_recording("general-chat.txt"), bf16, 1).best_width, 0);
  const Comparison classes = compare(read_recording("python-classes.txt"), bf16, 1);
  CHECK(classes.best < 0.65 * classes.plain);
}
