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

/// Sees what a verifier computes on the way to its logits. Logits alone hide much: where the input
/// of a product is quantised, two inputs that hardly differ become one.
class Witness {
 public:
  virtual ~Witness() = default;
  /// The next decode has so many rows that are looked at; 0: none of them.
  virtual void begin(int32_t n_rows) = 0;
  /// A hash of all that was seen of a row of it.
  virtual uint64_t seen(int32_t row) const = 0;
};

/// A verifier whose rows are compared, and who sees them.
struct Observed {
  Verifier& verifier;
  Witness& witness;
};

/// What plain decoding makes of a text, row by row, for a comparison to the bit: by hashes of 64.
class PlainRows {
 public:
  /// Asked between two decodes. False: there is no time for another.
  using KeepOn = std::function<bool()>;

  /// Decodes the text with a verifier as plain decoding has it: no taps, no snapshots. Its memory
  /// is empty before and after. Nothing where the time was over.
  static std::optional<PlainRows> of(Observed plain, const ProbeText& text, const KeepOn& keep_on);

  const ProbeText& text() const { return text_; }
  int32_t n_vocab() const { return n_vocab_; }

  /// Those of the widths at which a verifier, as it decodes for a drafter, gives the same: the
  /// prompt is read, a block of so many drafts is decoded, some of its rows are dropped, and the
  /// row that follows reads what the others left in the memory. Width 0 is the row by itself.
  /// Its memory is empty before and after. Nothing where the time was over.
  std::optional<std::vector<int32_t>> equal_widths(Observed other,
                                                   const std::vector<int32_t>& widths,
                                                   const KeepOn& keep_on) const;

 private:
  PlainRows(const ProbeText& text, int32_t n_vocab);

  bool read(Observed observed, const KeepOn& keep_on) const;
  bool go_back(Observed observed, const KeepOn& keep_on) const;
  void decode(Observed observed, int32_t n, int32_t pos) const;
  std::optional<bool> is_equal(Observed observed, int32_t width, const KeepOn& keep_on) const;
  uint64_t hash_of_row(Observed observed, int32_t row) const;
  int32_t n_kept(int32_t width) const;

  ProbeText text_;
  int32_t n_vocab_;
  std::vector<Token> tokens_;
  std::vector<uint64_t> rows_;  // [i]: what was seen of token n_read + i, and its logits
};

}  // namespace dflash
