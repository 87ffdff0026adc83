#pragma once

#include <vector>

#include "core/models.h"

namespace dflash {

/// Longest valid prefix: samples row after row while the token sampled is the one drafted.
///
/// Row i holds the verifier's logits after draft[0 .. i-1]. Gives the tokens to emit: the accepted
/// drafts, then the correction, or the bonus when all were accepted. Ends early, and without a
/// correction, on an accepted draft that `is_eog`: nothing may follow it.
template <class SampleRow, class IsEog>
std::vector<Token> longest_valid_prefix(const std::vector<Token>& draft, SampleRow sample_row,
                                        IsEog is_eog) {
  std::vector<Token> emitted;
  emitted.reserve(draft.size() + 1);
  for (size_t row = 0;; ++row) {
    const Token token = sample_row(static_cast<int32_t>(row));
    emitted.push_back(token);
    const bool accepted = row < draft.size() && token == draft[row];
    if (!accepted || is_eog(token)) return emitted;
  }
}

/// How many of `emitted` are accepted drafts: their common prefix.
inline int32_t count_accepted(const std::vector<Token>& draft, const std::vector<Token>& emitted) {
  size_t n = 0;
  while (n < draft.size() && n < emitted.size() && draft[n] == emitted[n]) ++n;
  return static_cast<int32_t>(n);
}

}  // namespace dflash
