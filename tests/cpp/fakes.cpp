#include "fakes.h"

#include <algorithm>
#include <cstring>

#include "checks.h"

namespace dflash::fakes {

namespace {

template <class T>
int32_t size_of(const std::vector<T>& items) {
  return static_cast<int32_t>(items.size());
}

constexpr Token kNoLogits = -1;

}  // namespace

// ---- calls ---------------------------------------------------------------------------------

void Calls::fail(int32_t k, How how, int32_t n) {
  count_ = 0;
  first_ = k;
  n_ = n;
  how_ = how;
}

bool Calls::next(Kind kind) {
  ++count_;
  if (kind == Kind::trim) ++n_trims_;
  const bool fails = count_ >= first_ && count_ < first_ + n_;
  if (fails) failed_in_trim_ = kind == Kind::trim;
  if (fails && how_ == How::before) throw Failure("told to fail");
  return fails;
}

// ---- law -----------------------------------------------------------------------------------

uint32_t Law::after(uint32_t prefix, Token token) {
  uint32_t hash = (prefix + 0x9E3779B9U) * 2654435761U ^ static_cast<uint32_t>(token + 1) * 40503U;
  hash ^= hash >> 15U;
  hash *= 2246822519U;
  return (hash ^ hash >> 13U) & 0xFFFFFFU;
}

uint32_t Law::hash(const std::vector<Token>& tokens) {
  uint32_t hash = kNothing;
  for (const Token token : tokens) hash = after(hash, token);
  return hash;
}

Token Law::next(uint32_t prefix, int32_t pos) const {
  const auto found = fixed.find(pos);
  if (found != fixed.end()) return found->second;
  return 1 + static_cast<Token>(prefix % (kVocab - 1));
}

std::vector<Token> Law::text(std::vector<Token> prompt, int32_t n, int32_t n_ctx,
                             int32_t noise) const {
  std::vector<Token> emitted;
  while (size_of(emitted) < n && size_of(prompt) <= n_ctx) {
    const Token best = next(hash(prompt), size_of(prompt));
    const Token token = FakeSampler::choose(best, size_of(emitted), noise);
    emitted.push_back(token);
    prompt.push_back(token);
    if (token == kEog) break;
  }
  return emitted;
}

// ---- verifier ------------------------------------------------------------------------------

void FakeVerifier::append(Token token, float off) {
  off_.push_back((off_.empty() ? 0 : off_.back()) + off);
  hashes_.push_back(Law::after(hashes_.empty() ? Law::kNothing : hashes_.back(), token));
  memory_.push_back(token);
}

void FakeVerifier::write(const std::vector<Token>& tokens) {
  memory_.clear();
  hashes_.clear();
  off_.clear();
  for (const Token token : tokens) append(token);
  dropped_ = true;
}

void FakeVerifier::decode(const Token* tokens, int32_t n, int32_t pos, Rows rows) {
  CHECK(n >= 1 && n <= size_.n_batch);
  CHECK(pos + n <= size_.n_ctx);
  CHECK(rows == Rows::last || n <= size_.max_rows);
  CHECK_EQUAL(pos, size_of(memory_));
  best_.clear();
  logits_.clear();
  has_features_ = tapped;
  const bool fails = calls_.next();
  if (while_decoding) while_decoding();
  const bool aborted = size_.aborts && stop_->requested();
  first_row_ = pos;
  dropped_ = false;
  for (int32_t i = 0; i < n; ++i) {
    if ((fails || aborted) && i >= (n + 1) / 2) break;
    const float off = off_.empty() ? 0 : off_.back();
    append(tokens[i], memory_off(n, i));
    logits_.push_back(row_of(off + logits_off(n, i)));
    const bool wanted = rows == Rows::all || i == n - 1;
    best_.push_back(wanted ? law_.next(hashes_.back(), pos + i + 1) : kNoLogits);
  }
  if (fails) Calls::fail_now();
  if (aborted) throw Cancelled("told to stop");
  n_decoded += n;
  decodes.push_back(n);
}

std::vector<float> FakeVerifier::row_of(float off) const {
  std::vector<float> row(Law::kVocab, static_cast<float>(hashes_.back()));
  row.back() = off;
  return row;
}

const float* FakeVerifier::logits(int32_t row) const {
  const size_t i = row < 0 ? logits_.size() - 1 : static_cast<size_t>(row);
  return logits_.at(i).data();
}

void FakeVerifier::features(int32_t first, int32_t n, float* out) {
  const bool fails = calls_.next();
  CHECK(has_features_);  // libllama ends the process
  CHECK(first >= 0 && first + n <= size_of(best_));
  n_gathered += n;
  for (int32_t i = 0; i < n; ++i) {
    const int32_t pos = first_row_ + first + i;
    if (fails && i >= n / 2) Calls::fail_now();
    *out++ = static_cast<float>(memory_.at(static_cast<size_t>(pos)));
    *out++ = static_cast<float>(pos);
    *out++ = static_cast<float>(hashes_.at(static_cast<size_t>(pos)));
  }
}

bool FakeVerifier::can_trim(int32_t pos) const {
  if (pos == 0 || pos >= size_of(memory_)) return true;
  switch (size_.memory) {
    case Memory::all_or_nothing:
      return false;
    case Memory::last_rows:
      return pos > first_row_ && !dropped_;
    default:
      return true;
  }
}

bool FakeVerifier::trim(int32_t pos) {
  const bool fails = calls_.next(Calls::Kind::trim);
  CHECK(pos >= 0);
  if (!can_trim(pos)) return false;
  if (pos < size_of(memory_)) {
    memory_.resize(static_cast<size_t>(pos));
    hashes_.resize(static_cast<size_t>(pos));
    off_.resize(static_cast<size_t>(pos));
    dropped_ = true;
  }
  if (fails) Calls::fail_now();
  return true;
}

Token FakeVerifier::best(int32_t row) const {
  const int32_t i = row < 0 ? size_of(best_) - 1 : row;
  const bool has_logits =
      i >= 0 && i < size_of(best_) && best_[static_cast<size_t>(i)] != kNoLogits;
  CHECK(has_logits);
  return has_logits ? best_[static_cast<size_t>(i)] : Law::kEog;
}

// ---- drafter -------------------------------------------------------------------------------

void FakeDrafter::inject(const float* features, int32_t n, int32_t pos) {
  const bool fails = calls_.next();
  CHECK(n >= 1 && n <= max_inject());
  CHECK(memory_.empty() || memory_.back().pos + 1 == pos);
  CHECK(size_of(memory_) + n <= n_ctx());
  n_injected += n;
  n_unwaited += n;
  for (int32_t i = 0; i < n; ++i, features += FakeVerifier::kFeatures) {
    if (fails && i >= (n + 1) / 2) break;
    CHECK_EQUAL(features[1], static_cast<float>(pos + i));
    memory_.push_back({static_cast<Token>(features[0]), static_cast<int32_t>(features[1]),
                       static_cast<uint32_t>(features[2])});
  }
  if (fails) Calls::fail_now();
}

void FakeDrafter::draft(Token anchor, int32_t pos, int32_t width, Draft& out) {
  const bool fails = calls_.next();
  CHECK(width >= 1 && width <= max_width());
  CHECK(memory_.empty() || memory_.back().pos + 1 == pos);  // all features before the anchor
  if (before_draft) before_draft(*this);
  n_unwaited = 0;  // what it drafts is read, and with it all is done
  ++n_drafts;
  widths.push_back(width);
  out.clear();
  uint32_t hash = Law::after(memory_.empty() ? Law::kNothing : memory_.back().hash, anchor);
  for (int32_t i = 0; i < width; ++i) {
    if (fails && i >= width / 2) {
      memory_.push_back({anchor, pos, hash});  // a block that was not taken back
      Calls::fail_now();
    }
    const Token true_token = law_.next(hash, pos + 1 + i);
    const Token token = right_(pos, i) ? true_token : (true_token + 1) % Law::kVocab;
    out.tokens.push_back(token);
    out.confidence.push_back(0.5F);
    hash = Law::after(hash, token);
  }
}

void FakeDrafter::wait() {
  if (while_waiting) while_waiting();
  ++n_waits;
  n_unwaited = 0;
}

void FakeDrafter::trim(int32_t pos) {
  const bool fails = calls_.next(Calls::Kind::trim);
  CHECK(pos >= 0);
  while (!memory_.empty() && memory_.back().pos >= pos) memory_.pop_back();
  if (fails) Calls::fail_now();
}

void FakeDrafter::forget(int32_t pos) {
  const bool fails = calls_.next(Calls::Kind::trim);
  CHECK(pos >= 0);
  const auto old = [&](const Row& row) { return row.pos < pos; };
  memory_.erase(memory_.begin(), std::find_if_not(memory_.begin(), memory_.end(), old));
  if (fails) Calls::fail_now();
}

std::string FakeDrafter::save() {
  if (calls_.next()) Calls::fail_now();
  return {reinterpret_cast<const char*>(memory_.data()), memory_.size() * sizeof(Row)};
}

void FakeDrafter::load(std::string_view state) {
  const bool fails = calls_.next();
  memory_.clear();
  if (state.size() % sizeof(Row) != 0) throw std::runtime_error("not a state of this drafter");
  memory_.resize(state.size() / sizeof(Row));
  if (!state.empty()) std::memcpy(memory_.data(), state.data(), state.size());
  if (fails) Calls::fail_now();
}

// ---- sampler -------------------------------------------------------------------------------

Token FakeSampler::choose(Token best, int32_t n, int32_t noise) {
  return noise > 0 && n % noise == noise - 1 ? 1 + best % (Law::kVocab - 1) : best;
}

Token FakeSampler::sample(int32_t row) {
  if (calls_.next()) Calls::fail_now();
  const auto n = static_cast<int32_t>(sampled.size());
  sampled.push_back(choose(verifier_.best(row), n, noise_));
  return sampled.back();
}

}  // namespace dflash::fakes
