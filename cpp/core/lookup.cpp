#include "core/lookup.h"

#include <algorithm>

namespace dflash {

namespace {

// Tokens before `end` that are alike those at the end of the text.
int32_t matched_before(const std::vector<Token>& text, int32_t end) {
  const auto n = static_cast<int32_t>(text.size());
  const int32_t most = std::min(end, Lookup::kMostMatched);
  int32_t matched = 0;
  while (matched < most && text[static_cast<size_t>(end - 1 - matched)] ==
                               text[static_cast<size_t>(n - 1 - matched)]) {
    ++matched;
  }
  return matched;
}

}  // namespace

Lookup look_up(const std::vector<Token>& text, int32_t width) {
  constexpr int32_t kAlike = 3;  // matched tokens that make another place worth hearing
  Lookup found;
  const auto n = static_cast<int32_t>(text.size());
  int32_t after = 0;
  int32_t other = 0;
  for (int32_t end = n - 1; end > 0; --end) {
    const int32_t matched = matched_before(text, end);
    if (matched > found.matched) {
      if (found.matched >= kAlike && other == 0) other = after;
      found.matched = matched;
      after = end;
    } else if (matched > 0 && matched >= std::min(found.matched, kAlike) && other == 0) {
      other = end;
    }
  }
  if (found.matched == 0) return found;
  const auto begin = text.begin() + after;
  found.tokens.assign(begin, begin + std::min(width, n - after));
  if (other > 0) {
    const bool agrees = text[static_cast<size_t>(other)] == found.tokens[0];
    found.others = agrees ? Lookup::Others::agree : Lookup::Others::differ;
  }
  return found;
}

}  // namespace dflash
