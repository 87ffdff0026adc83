#include "core/chances.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace dflash {

namespace {

constexpr double kForget = 0.995;  // a share is the mean of about 200 of its last observations
constexpr double kExpected = 4;    // observations that what was expected counts for
constexpr double kRestored = 16;   // those that an earlier time counts for
constexpr double kMoodRate = 0.08;
constexpr double kPlaceMoodRate = 0.05;  // of places alone, which tell less
constexpr double kMoodTokens = 50;
constexpr double kCopyRate = 0.3;  // of what is copied from the text
constexpr int32_t kTelling = 2;    // alike tokens of a copy that tells how copying goes
// A block's shift is taken to be small until many drafts say otherwise.
constexpr double kBlockDoubt = 40;
constexpr double kBlockWeight = 0.2;  // of a draft: what it tells
constexpr int32_t kBlockMost = 600;

double log_odds(double chance) {
  constexpr double kSure = 1e-4;
  const double c = std::clamp(chance, kSure, 1 - kSure);
  return std::log(c / (1 - c));
}

/// Broken weights make probabilities that are no numbers.
bool is_known(float probability) {
  return probability >= 0 && probability <= 1;
}

double chance_of(double odds) {
  return 1 / (1 + std::exp(-odds));
}

}  // namespace

void Share::observe(bool hit) {
  hits_ = kForget * hits_ + (hit ? 1 : 0);
  tries_ = kForget * tries_ + 1;
}

size_t Copies::bucket(const Lookup& lookup, int32_t index) {
  const int32_t matched = std::clamp(lookup.matched + index, 1, kMost);
  return static_cast<size_t>(lookup.others) * kMost + static_cast<size_t>(matched - 1);
}

// Before anything was seen: the more alike, the likelier; another place counts for much.
double Copies::usual(const Lookup& lookup, int32_t index) const {
  constexpr std::array<double, kOthers> kHalf = {8, 3, 20};  // alike tokens for an even chance
  const double matched = lookup.matched + index;
  const double expected = matched / (matched + kHalf[static_cast<size_t>(lookup.others)]);
  return shares_[bucket(lookup, index)].mean(expected, kExpected);
}

double Copies::chance(const Lookup& lookup, int32_t index) const {
  return chance_of(log_odds(usual(lookup, index)) + mood_);
}

void Copies::observe(const Lookup& lookup, bool right) {
  if (lookup.matched >= kTelling) mood_ += kCopyRate * ((right ? 1 : 0) - chance(lookup, 0));
  shares_[bucket(lookup, 0)].observe(right);
}

void Copies::passed(double n_tokens) {
  mood_ *= std::exp(-n_tokens / kMoodTokens);
}

// Log odds from -3 to 5, in steps of 2/3.
size_t Chances::bucket(float probability) {
  const double at = (log_odds(probability) + 3) * 1.5;
  return static_cast<size_t>(std::clamp(at, 0.0, static_cast<double>(kBuckets - 1)));
}

// A place not seen yet is taken to be like the one before it.
double Chances::usual_at(int32_t index) const {
  double mean = 0.5;
  for (int32_t i = 0; i <= index; ++i) mean = by_index_.at(static_cast<size_t>(i)).mean(mean, 1);
  return mean;
}

double Chances::by_place(Place place) const {
  const double shift = blocks_.at(static_cast<size_t>(place.block)).shift;
  return chance_of(log_odds(usual_at(place.index)) + mood_of_places_ + shift);
}

double Chances::by_probability(float probability) const {
  const double mean = by_probability_[bucket(probability)].mean(probability, kExpected);
  return chance_of(log_odds(mean) + mood_of_probabilities_);
}

double Chances::of(Place place, float probability) const {
  return is_known(probability) ? by_probability(probability) : by_place(place);
}

double Chances::elsewhere(double chance, int32_t block, int32_t other) const {
  if (block == other) return chance;
  const double more =
      blocks_.at(static_cast<size_t>(other)).shift - blocks_.at(static_cast<size_t>(block)).shift;
  return chance_of(log_odds(chance) + more);
}

void Chances::observe(Place place, float probability, bool accepted) {
  const double hit = accepted ? 1 : 0;
  // What the drafter says of a draft tells more of its block than how one draft ended.
  const double likely = is_known(probability) ? by_probability(probability) : hit;
  Block& block = blocks_.at(static_cast<size_t>(place.block));
  block.n = std::min(block.n + 1, kBlockMost);
  block.shift += (likely - by_place(place)) / (kBlockDoubt + kBlockWeight * block.n);
  mood_of_places_ += kPlaceMoodRate * (hit - by_place(place));
  if (is_known(probability)) {
    mood_of_probabilities_ += kMoodRate * (hit - by_probability(probability));
    by_probability_[bucket(probability)].observe(accepted);
  }
  by_index_.at(static_cast<size_t>(place.index)).observe(accepted);
}

void Chances::passed(double n_tokens) {
  const double kept = std::exp(-n_tokens / kMoodTokens);
  mood_of_places_ *= kept;
  mood_of_probabilities_ *= kept;
}

std::vector<double> Chances::usual() const {
  std::vector<double> means;
  for (size_t i = 0; i < by_index_.size() && by_index_[i].is_known(); ++i) {
    means.push_back(usual_at(static_cast<int32_t>(i)));
  }
  return means;
}

void Chances::restore(const std::vector<double>& usual) {
  if (usual.size() > by_index_.size()) {
    throw std::invalid_argument("chances of another width: expected at most " +
                                std::to_string(by_index_.size()) + ", found " +
                                std::to_string(usual.size()));
  }
  for (const double mean : usual) {
    if (!(mean >= 0 && mean <= 1)) throw std::invalid_argument("a chance is from 0 to 1");
  }
  for (size_t i = 0; i < usual.size(); ++i) by_index_[i] = {usual[i], kRestored};
}

}  // namespace dflash
