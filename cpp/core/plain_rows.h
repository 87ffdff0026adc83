#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "core/models.h"

namespace dflash {

/// A text that nobody wrote, on which ways to decode are compared.
struct ProbeText {
  int32_t n_read = 16;   ///< tokens at its beginning that are read as a prompt is
  int32_t widest = 7;    ///< drafts of the widest block that is decoded after them
  bool repeats = false;  ///< one token all along: rows then choose the same experts
  bool drops = false;    ///< the last half of a block's rows are dropped, as rejected drafts are
};

/// What plain decoding makes of a text, row by row, for a comparison to the bit.
class PlainRows {
 public:
  /// Asked between two decodes. False: there is no time for another.
  using KeepOn = std::function<bool()>;

  /// Decodes the text with a verifier as plain decoding has it: no taps, no snapshots. Its memory
  /// is empty before and after. Nothing where the time was over.
  static std::optional<PlainRows> of(Verifier& plain, const ProbeText& text, const KeepOn& keep_on);

  const ProbeText& text() const { return text_; }
  int32_t n_vocab() const { return n_vocab_; }

  /// Those of the widths at which `verifier`, as it decodes for a drafter, gives the same: the
  /// prompt is read, a block of so many drafts is decoded, some of its rows are dropped, and the
  /// row that follows reads what the others left in the memory. Width 0 is the row by itself.
  /// Its memory is empty before and after. Nothing where the time was over.
  std::optional<std::vector<int32_t>> equal_widths(Verifier& verifier,
                                                   const std::vector<int32_t>& widths,
                                                   const KeepOn& keep_on) const;

 private:
  PlainRows(const ProbeText& text, int32_t n_vocab);

  bool read(Verifier& verifier, const KeepOn& keep_on) const;
  bool go_back(Verifier& verifier, const KeepOn& keep_on) const;
  std::optional<bool> is_equal(Verifier& verifier, int32_t width, const KeepOn& keep_on) const;
  bool same_row(const Verifier& verifier, int32_t row, int32_t i) const;
  int32_t n_kept(int32_t width) const;

  ProbeText text_;
  int32_t n_vocab_;
  std::vector<Token> tokens_;
  std::vector<std::vector<float>> rows_;  // [i][n_vocab]: after token n_read + i
};

}  // namespace dflash
