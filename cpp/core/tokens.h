#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/models.h"

namespace dflash {

inline int32_t size_of(const std::vector<Token>& tokens) {
  return static_cast<int32_t>(tokens.size());
}

/// How many tokens both begin with.
inline int32_t common_prefix(const std::vector<Token>& a, const std::vector<Token>& b) {
  const size_t n = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(n);
  return static_cast<int32_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

}  // namespace dflash
