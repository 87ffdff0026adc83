#pragma once

#include <cstdint>

#include "core/costs.h"
#include "core/exact_widths.h"

namespace dflash {

/// What drafting has to reckon with, whatever the text: what decodes of a pair cost, and which of
/// them are exact. All sequences over the pair share it.
struct Terms {
  explicit Terms(int32_t max_width) : costs(max_width) {}

  Costs costs;
  ExactWidths exact;
};

}  // namespace dflash
