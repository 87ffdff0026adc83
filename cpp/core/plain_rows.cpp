#include "core/plain_rows.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <random>

#include "core/errors.h"

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

std::optional<PlainRows> PlainRows::of(Verifier& plain, const ProbeText& text,
                                       const KeepOn& keep_on) {
  PlainRows made(text, plain.n_vocab());
  const Emptied emptied(plain);
  if (!made.read(plain, keep_on)) return {};
  const auto n = static_cast<int32_t>(made.tokens_.size());
  for (int32_t pos = text.n_read; pos < n; ++pos) {
    if (!keep_on()) return {};
    plain.decode(&made.tokens_[static_cast<size_t>(pos)], 1, pos, Rows::all);
    const float* logits = plain.logits(0);
    made.rows_.emplace_back(logits, logits + made.n_vocab_);
  }
  return made;
}

std::optional<std::vector<int32_t>> PlainRows::equal_widths(Verifier& verifier,
                                                            const std::vector<int32_t>& widths,
                                                            const KeepOn& keep_on) const {
  const Emptied emptied(verifier);
  if (!read(verifier, keep_on)) return {};
  std::vector<int32_t> equal;
  for (const int32_t width : widths) {
    if (!go_back(verifier, keep_on)) return {};
    const std::optional<bool> same = is_equal(verifier, width, keep_on);
    if (!same) return {};
    if (*same) equal.push_back(width);
  }
  return equal;
}

bool PlainRows::read(Verifier& verifier, const KeepOn& keep_on) const {
  const int32_t piece = std::min(kPiece, verifier.n_batch());
  for (int32_t pos = 0; pos < text_.n_read; pos += piece) {
    if (!keep_on()) return false;
    const int32_t n = std::min(piece, text_.n_read - pos);
    verifier.decode(&tokens_[static_cast<size_t>(pos)], n, pos, Rows::last);
  }
  return true;
}

// A memory that cannot go back so far reads the prompt anew.
bool PlainRows::go_back(Verifier& verifier, const KeepOn& keep_on) const {
  if (verifier.trim(text_.n_read)) return true;
  empty(verifier);
  return read(verifier, keep_on);
}

std::optional<bool> PlainRows::is_equal(Verifier& verifier, int32_t width,
                                        const KeepOn& keep_on) const {
  if (!keep_on()) return {};
  verifier.decode(&tokens_[static_cast<size_t>(text_.n_read)], width + 1, text_.n_read, Rows::all);
  for (int32_t i = 0; i <= width; ++i) {
    if (!same_row(verifier, i, i)) return false;
  }
  const int32_t kept = n_kept(width);
  const int32_t next = text_.n_read + kept;
  if (!verifier.trim(next)) throw BackendError("the verifier's memory cannot drop drafts");
  if (!keep_on()) return {};
  verifier.decode(&tokens_[static_cast<size_t>(next)], 1, next, Rows::all);
  return same_row(verifier, 0, kept);
}

bool PlainRows::same_row(const Verifier& verifier, int32_t row, int32_t i) const {
  const size_t n_bytes = static_cast<size_t>(n_vocab_) * sizeof(float);
  return std::memcmp(verifier.logits(row), rows_[static_cast<size_t>(i)].data(), n_bytes) == 0;
}

int32_t PlainRows::n_kept(int32_t width) const {
  return text_.drops ? width + 1 - (width + 1) / 2 : width + 1;
}

}  // namespace dflash
