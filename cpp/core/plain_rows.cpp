#include "core/plain_rows.h"

#include <algorithm>
#include <cstddef>
#include <random>

#include "core/errors.h"
#include "core/hash.h"

namespace dflash {

namespace {

constexpr int32_t kPiece = 64;  // tokens of a prompt that are read at once: the time is looked at

void empty(Verifier& verifier) {
  if (!verifier.trim(0)) throw BackendError("the verifier's memory could not be emptied");
}

/// The memory is left empty, whatever happens.
class Emptied {
 public:
  explicit Emptied(Verifier& verifier) : verifier_(verifier) { empty(verifier_); }
  ~Emptied() { verifier_.trim(0); }
  Emptied(const Emptied&) = delete;
  Emptied& operator=(const Emptied&) = delete;

 private:
  Verifier& verifier_;
};

}  // namespace

PlainRows::PlainRows(const ProbeText& text, int32_t n_vocab) : text_(text), n_vocab_(n_vocab) {
  std::minstd_rand random;
  std::uniform_int_distribution<Token> any(0, n_vocab - 1);
  tokens_.resize(static_cast<size_t>(text.n_read + text.widest) + 2);
  for (Token& token : tokens_) token = any(random);
  if (text.repeats) std::fill(tokens_.begin(), tokens_.end(), tokens_[0]);
}

std::optional<PlainRows> PlainRows::of(Observed plain, const ProbeText& text,
                                       const KeepOn& keep_on) {
  PlainRows made(text, plain.verifier.n_vocab());
  const Emptied emptied(plain.verifier);
  if (!made.read(plain, keep_on)) return {};
  const auto n = static_cast<int32_t>(made.tokens_.size());
  for (int32_t pos = text.n_read; pos < n; ++pos) {
    if (!keep_on()) return {};
    made.decode(plain, 1, pos);
    made.rows_.push_back(made.hash_of_row(plain, 0));
  }
  return made;
}

std::optional<std::vector<int32_t>> PlainRows::equal_widths(Observed other,
                                                            const std::vector<int32_t>& widths,
                                                            const KeepOn& keep_on) const {
  const Emptied emptied(other.verifier);
  if (!read(other, keep_on)) return {};
  std::vector<int32_t> equal;
  for (const int32_t width : widths) {
    if (!go_back(other, keep_on)) return {};
    const std::optional<bool> same = is_equal(other, width, keep_on);
    if (!same) return {};
    if (*same) equal.push_back(width);
  }
  return equal;
}

bool PlainRows::read(Observed observed, const KeepOn& keep_on) const {
  observed.witness.begin(0);
  const int32_t piece = std::min(kPiece, observed.verifier.n_batch());
  for (int32_t pos = 0; pos < text_.n_read; pos += piece) {
    if (!keep_on()) return false;
    const int32_t n = std::min(piece, text_.n_read - pos);
    observed.verifier.decode(&tokens_[static_cast<size_t>(pos)], n, pos, Rows::last);
  }
  return true;
}

// A memory that cannot go back so far reads the prompt anew.
bool PlainRows::go_back(Observed observed, const KeepOn& keep_on) const {
  if (observed.verifier.trim(text_.n_read)) return true;
  empty(observed.verifier);
  return read(observed, keep_on);
}

void PlainRows::decode(Observed observed, int32_t n, int32_t pos) const {
  observed.witness.begin(n);
  observed.verifier.decode(&tokens_[static_cast<size_t>(pos)], n, pos, Rows::all);
}

std::optional<bool> PlainRows::is_equal(Observed observed, int32_t width,
                                        const KeepOn& keep_on) const {
  if (!keep_on()) return {};
  decode(observed, width + 1, text_.n_read);
  for (int32_t i = 0; i <= width; ++i) {
    if (hash_of_row(observed, i) != rows_[static_cast<size_t>(i)]) return false;
  }
  const int32_t kept = n_kept(width);
  const int32_t next = text_.n_read + kept;
  if (!observed.verifier.trim(next)) {
    throw BackendError("the verifier's memory cannot drop drafts");
  }
  if (!keep_on()) return {};
  decode(observed, 1, next);
  return hash_of_row(observed, 0) == rows_[static_cast<size_t>(kept)];
}

uint64_t PlainRows::hash_of_row(Observed observed, int32_t row) const {
  const size_t n_bytes = static_cast<size_t>(n_vocab_) * sizeof(float);
  return hash_of(observed.verifier.logits(row), n_bytes, observed.witness.seen(row));
}

int32_t PlainRows::n_kept(int32_t width) const {
  return text_.drops ? width + 1 - (width + 1) / 2 : width + 1;
}

}  // namespace dflash
