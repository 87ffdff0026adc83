#include "core/features.h"

#include <algorithm>
#include <cstring>

#include "core/clock.h"
#include "core/errors.h"

namespace dflash {

namespace {

constexpr int32_t kFew = 8;     // rows that are taken in at about the price of one
constexpr int32_t kIdle = 256;  // tokens without a block that promised to pay
constexpr int32_t kPieces = 8;  // a window's share that is dropped at once

// What is saved begins with this and the number of positions that the drafter had forgotten; what
// earlier versions saved has neither, and begins at position 0.
constexpr std::string_view kStateMark = "DFLASH1\n";

}  // namespace

SavedFeatures SavedFeatures::parse(std::string_view state) {
  if (state.substr(0, kStateMark.size()) != kStateMark) return {0, state};
  state.remove_prefix(kStateMark.size());
  int32_t n_forgotten = -1;
  if (state.size() >= sizeof n_forgotten) {
    std::memcpy(&n_forgotten, state.data(), sizeof n_forgotten);
  }
  if (n_forgotten < 0) throw BackendError("the drafter's state is damaged: its head is not whole");
  return {n_forgotten, state.substr(sizeof n_forgotten)};
}

Features::Features(Pair& pair, size_t most_bytes, Account& account)
    : verifier_(pair.verifier()),
      drafter_(pair.drafter()),
      account_(account),
      row_(std::max<size_t>(1, static_cast<size_t>(verifier_.n_features()))),
      most_waiting_(
          static_cast<int32_t>(std::max<size_t>(1, most_bytes / (row_ * sizeof(float))))) {}

// ---- from the verifier ---------------------------------------------------------------------

void Features::tap(bool on) {
  tapped_ = on;
  if (drafter_ != nullptr) verifier_.tap(on);
}

void Features::take(int32_t n, int32_t n_expected) {
  if (drafter_ == nullptr) return;
  if (!tapped_) untold_from_ = std::min(untold_from_, n_forgotten_);
  const int32_t n_skipped = n_unneeded(n, n_expected);
  if (n_skipped > 0) forget(end_ + n_skipped);
  for (int32_t row = n_skipped; row < n;) {
    if (n_waiting() >= most_waiting_) make_room();
    const int32_t n_now = std::min(most_waiting_ - n_waiting(), n - row);
    gather(row, n_now);
    end_ += n_now;
    row += n_now;
  }
}

// Of the next n rows so many, the first ones, that no block will be drafted from: they have none,
// or will have been dropped when the prompt has been read.
int32_t Features::n_unneeded(int32_t n, int32_t n_expected) const {
  if (!tapped_) return n;
  const int32_t n_unseen = n_expected - drafter_->n_ctx() - end_;
  const int32_t n_too_many = idle() ? n - most_waiting_ : 0;
  return std::clamp(std::max(n_unseen, n_too_many), 0, n);
}

void Features::gather(int32_t row, int32_t n) {
  const size_t before = waiting_.size();
  waiting_.resize(before + static_cast<size_t>(n) * row_);
  try {
    verifier_.features(row, n, waiting_.data() + before);
  } catch (...) {
    waiting_.resize(before);
    throw;
  }
}

int32_t Features::take_untold(int32_t n_prompt) {
  const int32_t first = std::max(untold_from_, n_prompt - drafter_->n_ctx());
  untold_from_ = kNowhere;
  return first;
}

// ---- to the drafter ------------------------------------------------------------------------

void Features::inject() {
  if (waiting_.empty()) return;
  fit_drafter();
  const Stopwatch watch = account_.watch(&Stats::seconds_inject);
  const int32_t n = n_waiting();
  const int32_t first = end_ - n;
  for (int32_t row = 0; row < n; row += drafter_->max_inject()) {
    const int32_t n_now = std::min(n - row, drafter_->max_inject());
    drafter_->inject(waiting_.data() + static_cast<size_t>(row) * row_, n_now, first + row);
  }
  // Few are timed with the block that follows, which a device need not be held up for.
  if (n > kFew) drafter_->wait();
  waiting_.clear();
}

int32_t Features::n_behind() const {
  const int32_t n = std::min(n_waiting(), drafter_->n_ctx());
  return n > kFew ? n : 0;
}

void Features::catch_up(Costs& costs) {
  fit_drafter();
  const int32_t n = n_waiting();
  if (n > kFew) costs.caught_up(n, seconds_of([&] { inject(); }));
}

void Features::stepped(int32_t n_emitted, bool promised) {
  tokens_idle_ = promised ? 0 : std::min(kIdle, tokens_idle_ + n_emitted);
}

// Drafting has not paid for long: what waits is not worth the drafter's time.
bool Features::idle() const {
  return tokens_idle_ >= kIdle;
}

// ---- what is dropped -----------------------------------------------------------------------

// Of the rows that wait for a block that nobody may draft the oldest go; else all are taken in.
void Features::make_room() {
  if (idle() || n_waiting() >= drafter_->n_ctx()) {
    forget(n_injected() + std::max(1, most_waiting_ / kPieces));
  } else {
    inject();
  }
}

// What the drafter has no room for goes before it is taken in: the oldest, a good piece at once.
void Features::fit_drafter() {
  const int32_t most = drafter_->n_ctx();
  const int32_t n_excess = end_ - n_forgotten_ - most;
  if (n_excess > 0) forget(n_forgotten_ + std::max(n_excess, most / kPieces));
}

// Those of the first n positions are dropped, read or not. Where rows that wait are among them the
// drafter's memory is empty afterwards.
void Features::forget(int32_t n) {
  const bool in_memory = n_injected() > n_forgotten_;
  const int32_t n_dropped = std::clamp(n - n_injected(), 0, n_waiting());
  const auto end = static_cast<std::ptrdiff_t>(static_cast<size_t>(n_dropped) * row_);
  waiting_.erase(waiting_.begin(), waiting_.begin() + end);
  end_ = std::max(end_, n);
  n_forgotten_ = n;
  if (in_memory) drafter_->forget(n);
}

void Features::keep(int32_t n) {
  if (drafter_ == nullptr) return;
  const int32_t n_in_memory = std::min(n_injected(), n);
  end_ = std::min(end_, n);
  n_forgotten_ = std::min(n_forgotten_, n);
  if (untold_from_ >= n) untold_from_ = kNowhere;
  waiting_.resize(static_cast<size_t>(end_ - n_in_memory) * row_);
}

void Features::trim(int32_t n) {
  if (drafter_ == nullptr) return;
  keep(n);
  drafter_->trim(n_injected());
  if (n_forgotten_ > 0) drafter_->forget(n_forgotten_);
}

// ---- saved and loaded ----------------------------------------------------------------------

std::string Features::save() const {
  std::string state(kStateMark);
  state.append(reinterpret_cast<const char*>(&n_forgotten_), sizeof n_forgotten_);
  return state.append(drafter_->save());
}

void Features::clear() {
  end_ = 0;
  n_forgotten_ = 0;
  untold_from_ = kNowhere;
  waiting_.clear();
}

void Features::load(const SavedFeatures& saved, int32_t n) {
  drafter_->load(saved.memory);
  drafter_->trim(n);
  end_ = n;
  n_forgotten_ = std::min(saved.n_forgotten, n);
  fit_drafter();
}

}  // namespace dflash
