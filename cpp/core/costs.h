#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "core/belief.h"

namespace dflash {

/// What was known at an earlier time of costs in contexts of a length, a line each by width:
/// seconds, 0 where unknown, and the doubt of each, of its logarithm.
struct KnownCosts {
  std::vector<double> verify;
  std::vector<double> draft;
  std::vector<double> verify_doubt = {};
  std::vector<double> draft_doubt = {};
  int64_t n_context = 0;  ///< tokens of the shortest such context
};

/// Seconds by width (verify: drafts beside the anchor; draft: tokens of a block beside the anchor),
/// learned from the steps themselves, each with its doubt.
///
/// What is believed is logarithms, so that a machine that becomes slower moves all of them alike,
/// plain decoding too; besides, each goes its own way, near widths together. A time that is far
/// too long was an accident at first, and moves little; but it leaves doubts, and what is seen next
/// says whether the machine, this width or nothing has changed. A time that is far too short is no
/// accident. How rows compare with plain decoding depends on the length of the context, and is
/// learned piece by piece.
class Costs {
 public:
  explicit Costs(int32_t max_width);

  int32_t max_width() const { return max_width_; }

  /// The context that the coming decodes stand in.
  void enter(int64_t n_past);
  /// A decode took so long; `doubt` of the logarithm, beside the usual noise.
  void verified(int32_t width, double seconds, double doubt = 0);
  void drafted(int32_t width, double seconds, double doubt = 0);

  /// Of a decode of the verifier among others of its width. No fewer than plain decoding, and no
  /// more than rows by themselves: what was seen beyond that was an accident. 0 while nothing is
  /// known.
  double verify(int32_t width) const;
  /// Of one block of the drafter, what it has to take in before included.
  double draft(int32_t width) const;
  /// What a decode of another width than the last costs more, as a share: a graph is built anew.
  double change() const;
  int32_t width_before() const { return width_before_; }

  /// Whether a plain step was seen in such a context; all else is measured by it.
  bool knows_plain() const { return knows_plain_; }
  /// How far off they may be beside another width, or plain decoding: of the logarithm of the
  /// ratio.
  double verify_doubt(int32_t width, int32_t beside = 0) const;
  double draft_doubt(int32_t width) const;
  double draft_doubt(int32_t width, int32_t beside) const;
  /// Of one time: a look leaves about as much doubt.
  double noise() const;

  /// The drafter took in so many rows of features at once.
  void caught_up(int32_t n_rows, double seconds);
  double catch_up(int32_t n_rows) const { return n_rows * row_ * verify(0); }

  /// In contexts as the present one.
  KnownCosts known() const;
  /// To be kept and given back: of all contexts in which a plain step was seen.
  std::vector<KnownCosts> all_known() const;
  /// Its ratios are believed again, with some doubt more; its speed is not.
  void restore(const std::vector<KnownCosts>& all);

 private:
  /// The costs of contexts of a length.
  struct Piece {
    Belief belief;
    int64_t seen_at = 0;  // decodes of the verifier then
    bool knows_plain = false;
  };

  size_t verify_at(int32_t width) const { return static_cast<size_t>(width); }
  size_t draft_at(int32_t width) const { return static_cast<size_t>(max_width_ + width); }
  size_t change_at() const { return static_cast<size_t>(2 * max_width_ + 1); }
  bool is_draft(size_t i) const { return i > static_cast<size_t>(max_width_); }

  double usual_mean(size_t i) const;
  double usual_doubt(size_t i) const;
  double nearness(size_t i, size_t j) const;
  Belief::Direction only(size_t i, double times = 1) const;
  Belief::Direction speed(double times) const;
  Belief::Direction bump(size_t i, double times) const;
  double doubt_of_ratio(size_t i, size_t j) const;
  void observe(Belief::Direction what, size_t i, double seconds, double doubt);
  void time_passes();
  const std::pair<const int32_t, Piece>& nearest(int32_t piece) const;
  void check(const KnownCosts& known) const;
  Belief restored(const KnownCosts& known) const;

  int32_t max_width_;
  std::vector<double> usual_doubts_;  // covariances before anything was seen, the speed apart
  Belief belief_;
  std::map<int32_t, Piece> pieces_;  // by logarithm of the length; not the present one
  int32_t piece_ = 0;
  std::vector<bool> was_slow_;  // beyond the noise, when it was last seen
  bool last_was_slow_ = false;  // the one seen last
  bool knows_plain_ = false;    // in contexts of this length
  bool known_ = false;          // whether anything was timed
  int64_t n_seen_ = 0;
  int32_t width_before_ = 0;
  double noise_;    // variance of a logarithm
  double row_ = 0;  // of features taken in, in plain steps
};

}  // namespace dflash
