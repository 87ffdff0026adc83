#include "core/calibration.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/clock.h"
#include "core/errors.h"

namespace dflash {

namespace {

constexpr int32_t kRounds = 3;
constexpr double kOneLook = 8;  // a decode counts as such a part of the time at most
constexpr double kLongest = 3;  // times the time that all may take
constexpr double kAlone = 0.3;  // doubt of a width that was seen once, of its logarithm
constexpr double kMostDoubt = 1;

struct Quickest {
  double seconds;
  double doubt;
};

std::optional<Quickest> quickest(std::vector<double> times) {
  if (times.empty()) return {};
  std::sort(times.begin(), times.end());
  const double off = times.size() > 1 ? std::log(times[1] / times[0]) : kAlone;
  return Quickest{times[0], std::min(off, kMostDoubt)};
}

/// Of one decode of each model.
struct Seconds {
  double verify = 0;
  double draft = 0;
};

// Of tokens that differ, as those of a text do: a mixture of experts takes longer over them.
Seconds time_decodes(Verifier& verifier, Drafter& drafter, int32_t width,
                     std::minstd_rand& random) {
  std::uniform_int_distribution<Token> any(0, verifier.n_vocab() - 1);
  std::vector<Token> tokens(static_cast<size_t>(width) + 1);
  for (Token& token : tokens) token = any(random);
  Seconds took;
  took.verify = seconds_of([&] { verifier.decode(tokens.data(), width + 1, 0, Rows::all); });
  if (width > 0) {
    Draft draft;
    took.draft = seconds_of([&] { drafter.draft(tokens[0], 0, width, draft); });
  }
  if (!verifier.trim(0)) throw BackendError("the verifier's memory could not be emptied");
  return took;
}

}  // namespace

std::optional<int32_t> Calibration::next() {
  const bool over = counted_ >= seconds_ || spent_ >= kLongest * seconds_;
  if (coming_.empty() && n_rounds_ < kRounds) begin_round();
  if (over || coming_.empty()) return {};
  return coming_.back();
}

// The ends first: what is between can be guessed. They are decoded twice in a row, which tells what
// a change of width takes.
void Calibration::begin_round() {
  n_rounds_ += 1;
  for (int32_t width = 1; width < widest_; ++width) coming_.push_back(width);
  std::shuffle(coming_.begin(), coming_.end(), random_);
  if (widest_ > 0) coming_.insert(coming_.end(), 2, widest_);
  coming_.insert(coming_.end(), 2, 0);
}

void Calibration::took(double verify_seconds, double draft_seconds) {
  const int32_t width = coming_.back();
  coming_.pop_back();
  looks_.push_back({width, width != before_, verify_seconds, draft_seconds});
  before_ = width;
  const double both = verify_seconds + draft_seconds;
  spent_ += both;
  counted_ += std::min(both, seconds_ / kOneLook);
}

void Calibration::tell(Costs& costs) const {
  for (int32_t width = 0; width <= widest_; ++width) {
    for (const bool changed : {true, false}) {
      const std::optional<Quickest> seen = quickest(times(width, changed));
      if (seen) costs.verified(width, seen->seconds, seen->doubt);
    }
    const std::optional<Quickest> drafted = quickest(draft_times(width));
    if (drafted) costs.drafted(width, drafted->seconds, drafted->doubt);
  }
}

std::vector<double> Calibration::times(int32_t width, bool changed) const {
  std::vector<double> found;
  for (const Look& look : looks_) {
    if (look.width == width && look.changed == changed) found.push_back(look.verify);
  }
  return found;
}

std::vector<double> Calibration::draft_times(int32_t width) const {
  std::vector<double> found;
  for (const Look& look : looks_) {
    if (look.width == width && width > 0) found.push_back(look.draft);
  }
  return found;
}

void calibrate(Verifier& verifier, Drafter& drafter, int32_t widest, double seconds, Costs& costs) {
  std::minstd_rand random;
  // The first decode is slower than those that follow.
  const double first = time_decodes(verifier, drafter, 0, random).verify;
  Calibration calibration(widest, seconds, first);
  while (const std::optional<int32_t> width = calibration.next()) {
    const Seconds took = time_decodes(verifier, drafter, *width, random);
    calibration.took(took.verify, took.draft);
  }
  calibration.tell(costs);
}

}  // namespace dflash
