#pragma once

#include <cstdint>
#include <vector>

namespace dflash {

/// Seconds by width (verify: drafts beside the anchor; draft: tokens of a block beside the anchor),
/// learned from the steps themselves. Time is noisy upwards and a machine changes its speed, so an
/// observation far off moves an estimate little, and all widths follow what the others show.
class Costs {
 public:
  explicit Costs(int32_t max_width);

  int32_t max_width() const { return static_cast<int32_t>(verify_.size()) - 1; }

  void verified(int32_t width, double seconds) {
    n_verified_ += 1;
    observe(verify_, width, seconds);
  }
  void drafted(int32_t width, double seconds) { observe(draft_, width, seconds); }

  /// Of one decode of the verifier; widths never seen are a little cheaper than their neighbours
  /// suggest, so that they are tried. 0 while nothing is known.
  double verify(int32_t width) const { return estimate(verify_, width); }
  /// Of one block of the drafter, what it has to take in before included.
  double draft(int32_t width) const { return width == 0 ? 0.0 : estimate(draft_, width); }

  /// Whether it is long ago that the verifier decoded at this width, or it has hardly ever: what is
  /// known may be wrong.
  bool verify_is_stale(int32_t width) const;

  /// The drafter took in so many rows of features at once.
  void caught_up(int32_t n_rows, double seconds);
  double catch_up(int32_t n_rows) const { return n_rows * row_seconds_ * slowness_; }

  /// Relative to each other, to be kept and given back: a line of seconds each, 0 where unknown.
  std::vector<double> verify_table() const { return table(verify_); }
  std::vector<double> draft_table() const { return table(draft_); }
  /// What was known from an earlier time; counts as one observation of each width.
  void restore(const std::vector<double>& verify, const std::vector<double>& draft);

 private:
  struct Cost {
    double seconds = 0;  // at the usual speed
    int32_t n = 0;
    int64_t seen_at = 0;  // decodes of the verifier then
  };
  using Table = std::vector<Cost>;

  void observe(Table& table, int32_t width, double seconds);
  double estimate(const Table& table, int32_t width) const;
  std::vector<double> table(const Table& table) const;

  Table verify_;
  Table draft_;
  int64_t n_verified_ = 0;
  double row_seconds_ = 0;  // of features taken in, at the usual speed
  double slowness_ = 1;     // of the machine at present
};

}  // namespace dflash
