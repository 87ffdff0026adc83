#pragma once

#include <algorithm>
#include <cstdint>

namespace dflash {

/// What the width of a draft is decided from.
struct WidthInputs {
  int32_t wanted;       ///< the option: drafts a step, negative for as many as the drafter gives
  int32_t max_width;    ///< what the drafter can give
  int32_t room;         ///< what context, batch and the caller's limit leave room for
  bool features_valid;  ///< whether the drafter has seen everything before the anchor
};

/// The one place that decides how many tokens to draft; 0 is plain decoding.
inline int32_t choose_width(const WidthInputs& in) {
  if (!in.features_valid) return 0;
  const int32_t wanted = in.wanted < 0 ? in.max_width : std::min(in.wanted, in.max_width);
  return std::clamp(wanted, 0, std::max(in.room, 0));
}

}  // namespace dflash
