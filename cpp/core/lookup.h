#pragma once

#include <cstdint>
#include <vector>

#include "core/models.h"

namespace dflash {

/// The text so far as a drafter: what followed the last time that its end stood there before
/// (prompt lookup). It costs next to nothing, and quoting and editing repeat a lot.
struct Lookup {
  /// What another such place says of the next token.
  enum class Others { none, agree, differ };

  int32_t matched = 0;        ///< tokens at the end that stood there before, kMostMatched at most
  std::vector<Token> tokens;  ///< what followed them; empty where nothing matched

  Others others = Others::none;

  static constexpr int32_t kMostMatched = 8;
};

/// Looks for the longest such place, of equally long ones the last; up to `width` tokens.
Lookup look_up(const std::vector<Token>& text, int32_t width);

}  // namespace dflash
