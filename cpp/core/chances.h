#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dflash {

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

  /// [max_width] by index, to be kept and given back.
  std::vector<double> usual() const;
  void restore(const std::vector<double>& usual);

 private:
  /// A share that forgets: the mean of its last few hundred observations.
  struct Share {
    double hits = 0;
    double tries = 0;
    double mean(double expected, double weight) const;
    void observe(bool hit);
  };
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
