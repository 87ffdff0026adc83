#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "core/costs.h"
#include "core/models.h"

namespace dflash {

/// Measures what decodes cost before there is a text: which width to decode next, and what the
/// times say. Widths come in mixed order, so that a machine that is busy for a while disturbs all
/// of them; of the looks at a width the quickest counts, and how far the next is from it is how
/// far it may be off. A machine that is slow or busy takes up to three times as long as was asked
/// for, and the decode that is running then.
class Calibration {
 public:
  /// It may take so many seconds, of which some are spent.
  Calibration(int32_t widest, double seconds, double spent = 0)
      : widest_(widest), seconds_(seconds), spent_(spent) {}

  /// Drafts of the next decode; none once the time is over.
  std::optional<int32_t> next();
  /// What that took.
  void took(double verify_seconds, double draft_seconds);
  void tell(Costs& costs) const;

 private:
  struct Look {
    int32_t width;
    bool changed;  // another width than the decode before
    double verify;
    double draft;
  };

  void begin_round();
  std::vector<double> times(int32_t width, bool changed) const;
  std::vector<double> draft_times(int32_t width) const;

  int32_t widest_;
  double seconds_;
  double spent_;
  double counted_ = 0;
  int32_t n_rounds_ = 0;
  std::vector<int32_t> coming_;  // the last is next
  std::vector<Look> looks_;
  int32_t before_ = -1;
  std::minstd_rand random_;
};

/// Measures decodes of up to `widest` drafts for about so long, and tells `costs`. The memories are
/// empty before and after.
void calibrate(Verifier& verifier, Drafter& drafter, int32_t widest, double seconds, Costs& costs);

}  // namespace dflash
