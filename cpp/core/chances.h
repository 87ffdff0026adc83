#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/lookup.h"

namespace dflash {

/// A share that forgets: the mean of its last few hundred observations.
class Share {
 public:
  Share() = default;
  /// As if `weight` observations had had this mean.
  Share(double mean, double weight) : hits_(mean * weight), tries_(weight) {}

  /// With so many observations of what was expected.
  double mean(double expected, double weight) const {
    return (hits_ + weight * expected) / (tries_ + weight);
  }
  void observe(bool hit);
  bool is_known() const { return tries_ > kKnown; }

 private:
  static constexpr double kKnown = 3.5;  // observations
  double hits_ = 0;
  double tries_ = 0;
};

/// The chance that a token copied from the text is right: by how many before it were alike there,
/// by what another such place says, and by how copying went of late.
class Copies {
 public:
  /// Of token `index` of a lookup, were all before it right.
  double chance(const Lookup& lookup, int32_t index) const;
  /// What became of its first token.
  void observe(const Lookup& lookup, bool right);
  void passed(double n_tokens);

 private:
  static constexpr int32_t kMost = 16;
  static constexpr size_t kOthers = 3;

  double usual(const Lookup& lookup, int32_t index) const;
  static size_t bucket(const Lookup& lookup, int32_t index);

  std::array<Share, kMost * kOthers> shares_;
  double mood_ = 0;  // added to the log odds
};

/// Where a draft stands.
struct Place {
  int32_t block;  ///< drafts that were asked of the drafter
  int32_t index;  ///< 0: right after the anchor
};

/// The chance that a draft is accepted, were all before it: from the drafter's own probability
/// where it gives one, else from its place; corrected by what became of such drafts, and by how
/// this text goes at present. A drafter may do worse in blocks shorter than those it was trained
/// on; what that costs is learned too.
class Chances {
 public:
  explicit Chances(int32_t max_width)
      : by_index_(static_cast<size_t>(max_width)), blocks_(static_cast<size_t>(max_width) + 1) {}

  /// A negative probability: none is known.
  double of(Place place, float probability = -1) const;
  /// What a chance in one block would be in another.
  double elsewhere(double chance, int32_t block, int32_t other) const;
  /// What became of a draft.
  void observe(Place place, float probability, bool accepted);

  /// The text has gone on: how it went before tells less.
  void passed(double n_tokens);

  /// By index, as far as drafts were judged, to be kept and given back.
  std::vector<double> usual() const;
  void restore(const std::vector<double>& usual);

 private:
  /// What a block's width adds to the log odds of its drafts.
  struct Block {
    double shift = 0;
    int32_t n = 0;
  };
  static constexpr size_t kBuckets = 12;

  static size_t bucket(float probability);
  double usual_at(int32_t index) const;
  double by_place(Place place) const;
  double by_probability(float probability) const;

  std::vector<Share> by_index_;
  std::vector<Block> blocks_;
  std::array<Share, kBuckets> by_probability_;
  // Added to the log odds: how this text goes.
  double mood_of_places_ = 0;
  double mood_of_probabilities_ = 0;
};

}  // namespace dflash
