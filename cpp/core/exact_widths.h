#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace dflash {

/// The widths at which a verify gives plain decoding's logits to the bit, as far as that was
/// checked (plain_rows.h), and what is made of it.
class ExactWidths {
 public:
  /// Tokens that another width has to bring more, as a share of those that its step emits.
  static constexpr double kWorth = 0.02;

  /// Nothing is known: all widths are alike.
  ExactWidths() = default;
  /// `up_to`: positions of context in which they are exact. `only`: no other width is verified.
  ExactWidths(const std::vector<int32_t>& widths, int32_t up_to, bool only)
      : up_to_(up_to), only_(only) {
    for (const int32_t width : widths) {
      if (width < 1) continue;
      const auto at = static_cast<size_t>(width);
      if (exact_.size() <= at) exact_.resize(at + 1);
      exact_[at] = true;
    }
  }

  bool only() const { return only_; }

  /// Whether a verify of so many drafts after `n_past` tokens is plain decoding's; 0 drafts are.
  bool is_exact(int32_t width, int32_t n_past) const {
    const auto at = static_cast<size_t>(width);
    return width == 0 || (at < exact_.size() && exact_[at] && n_past + width < up_to_);
  }

  /// The widest of them that has no more than `width` drafts.
  int32_t widest(int32_t width, int32_t n_past) const {
    while (!is_exact(width, n_past)) --width;
    return width;
  }

  /// What a width that is not exact costs beside its time, as a share of the tokens it emits.
  double price(int32_t width, int32_t n_past) const {
    if (is_exact(width, n_past)) return 0;
    if (only_) return std::numeric_limits<double>::infinity();
    return exact_.empty() ? 0 : kWorth;
  }

 private:
  std::vector<bool> exact_;  // by width
  int32_t up_to_ = 0;
  bool only_ = false;
};

}  // namespace dflash
