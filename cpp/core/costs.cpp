#include "core/costs.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace dflash {

namespace {

// Before anything was seen, over a plain step, and how far off that may be (of a logarithm).
constexpr double kARow = 0.1;     // that one more row takes to verify
constexpr double kABlock = 0.2;   // that a block takes, ...
constexpr double kADraft = 0.02;  // ... and each of its drafts
constexpr double kVerifyOff = 0.5;
constexpr double kDraftOff = 0.8;
constexpr double kPlainOff = 0.3;
constexpr double kChange = 0.02;  // that a change of width takes more
constexpr double kChangeOff = 0.06;
constexpr double kAnySpeed = 20;

constexpr double kNearVerify = 0.8;  // how much a width tells of the next one
constexpr double kNearDraft = 0.95;

// What may have become different with each decode of the verifier.
constexpr double kSpeedDrift = 0.01;  // of a logarithm
constexpr double kOwnDrift = 0.008;   // of the doubts before anything was seen

constexpr double kNoise = 0.07;  // of one time, at first
constexpr double kLeastNoise = 0.02;
constexpr double kMostNoise = 0.5;
constexpr double kNoiseRate = 0.02;
constexpr double kAccident = 2.5;      // standard deviations that are none of the noise
constexpr double kSpeedChanged = 0.3;  // of an accident: doubts that it leaves
constexpr double kOwnChanged = 0.15;
constexpr double kAccidentOff = 0.2;  // of it too: a time that is too long twice may be one still

// Of the doubts before anything was seen, those of ...
constexpr double kRestoredOff = 1.0;  // ... what was kept, ...
constexpr double kContextOff = 0.4;   // ... and of what was seen at half the length of the context.
constexpr double kContextSpeed = 0.1;  // of a logarithm, of the machine there
constexpr int64_t kShortContext = 512;
constexpr double kMostARow = 1.25;  // of a plain step

double square(double x) {
  return x * x;
}

// Lengths of context are counted in octaves, what is short is one.
int32_t piece_of(int64_t n_context) {
  int32_t piece = 0;
  for (int64_t length = kShortContext; length <= n_context; length *= 2) ++piece;
  return piece;
}

int64_t shortest_of(int32_t piece) {
  return piece == 0 ? 0 : kShortContext << (piece - 1);
}

// Plain steps that rows beside an anchor can cost at most: those of decodes by themselves.
double most_rows(int32_t width) {
  return kMostARow * (1 + width);
}

}  // namespace

Costs::Costs(int32_t max_width)
    : max_width_(max_width),
      belief_(static_cast<size_t>(2 * max_width + 2)),
      was_slow_(static_cast<size_t>(2 * max_width + 2)),
      noise_(square(kNoise)) {
  const size_t n = change_at() + 1;
  for (size_t i = 0; i < n; ++i) {
    belief_.set_mean(i, usual_mean(i));
    for (size_t j = 0; j < n; ++j) {
      usual_doubts_.push_back(usual_doubt(i) * usual_doubt(j) * nearness(i, j));
    }
  }
  belief_.doubt(usual_doubts_, 1);
  belief_.doubt_along(speed(kAnySpeed));
}

double Costs::usual_mean(size_t i) const {
  if (i == change_at()) return kChange;
  const auto width = static_cast<double>(is_draft(i) ? i - draft_at(0) : i);
  return std::log(is_draft(i) ? kABlock + kADraft * width : 1 + kARow * width);
}

double Costs::usual_doubt(size_t i) const {
  if (i == change_at()) return kChangeOff;
  if (i == verify_at(0)) return kPlainOff;
  return is_draft(i) ? kDraftOff : kVerifyOff;
}

// Widths that are near each other cost about the same.
double Costs::nearness(size_t i, size_t j) const {
  if (i == j) return 1;
  const size_t first = std::min(i, j);
  const size_t last = std::max(i, j);
  if (first == verify_at(0) || last == change_at() || is_draft(first) != is_draft(last)) return 0;
  return std::pow(is_draft(i) ? kNearDraft : kNearVerify, static_cast<double>(last - first));
}

Belief::Direction Costs::only(size_t i, double times) const {
  Belief::Direction direction(change_at() + 1);
  direction[i] = times;
  return direction;
}

// The machine: all but the share that a change takes.
Belief::Direction Costs::speed(double times) const {
  Belief::Direction direction(change_at() + 1, times);
  direction[change_at()] = 0;
  return direction;
}

// A width, and those near it.
Belief::Direction Costs::bump(size_t i, double times) const {
  Belief::Direction direction;
  for (size_t j = 0; j <= change_at(); ++j) direction.push_back(times * nearness(i, j));
  return direction;
}

void Costs::enter(int64_t n_past) {
  const int32_t piece = piece_of(n_past);
  if (piece == piece_) return;
  pieces_.insert_or_assign(piece_, Piece{belief_, n_seen_, knows_plain_});
  const auto& [where, known] = nearest(piece);
  const double octaves = std::sqrt(std::abs(piece - where));
  const double passed = std::sqrt(static_cast<double>(n_seen_ - known.seen_at));
  belief_ = known.belief;
  belief_.doubt(usual_doubts_, std::min(kContextOff, kOwnDrift * passed));
  belief_.doubt_along(speed(std::min(1.0, kSpeedDrift * passed)));
  belief_.doubt(usual_doubts_, kContextOff * octaves);
  belief_.doubt_along(speed(kContextSpeed * octaves));
  knows_plain_ = known.knows_plain && piece == where;
  piece_ = piece;
}

// Of two that are as near, the present one.
const std::pair<const int32_t, Costs::Piece>& Costs::nearest(int32_t piece) const {
  auto best = pieces_.find(piece_);
  for (auto it = pieces_.begin(); it != pieces_.end(); ++it) {
    if (std::abs(it->first - piece) < std::abs(best->first - piece)) best = it;
  }
  return *best;
}

void Costs::verified(int32_t width, double seconds, double doubt) {
  if (width > max_width_) return;
  Belief::Direction what = only(verify_at(width));
  if (width != width_before_) what[change_at()] = 1;
  width_before_ = width;
  knows_plain_ = knows_plain_ || width == 0;
  n_seen_ += 1;
  time_passes();
  observe(std::move(what), verify_at(width), seconds, doubt);
}

void Costs::drafted(int32_t width, double seconds, double doubt) {
  observe(only(draft_at(width)), draft_at(width), seconds, doubt);
}

// All may have become a little different.
void Costs::time_passes() {
  belief_.doubt(usual_doubts_, kOwnDrift);
  belief_.doubt_along(speed(kSpeedDrift));
}

void Costs::observe(Belief::Direction what, size_t i, double seconds, double doubt) {
  if (!(seconds > 0)) return;  // a clock without the resolution
  known_ = true;
  const double off = std::log(seconds) - belief_.mean(what);
  const double noise = noise_ + square(doubt);
  const double expected = std::sqrt(belief_.variance(what) + noise);
  const double most = kAccident * expected;
  const bool again = was_slow_[i] || last_was_slow_;
  was_slow_[i] = last_was_slow_ = off > most;
  if (off > most && !again) return;
  if (std::abs(off) > most) {
    belief_.doubt_along(speed(kSpeedChanged * std::abs(off)));
    belief_.doubt_along(bump(i, kOwnChanged * std::abs(off)));
  }
  belief_.learn(what, off, off > most ? noise + square(kAccidentOff * off) : noise);
  const double seen = square(std::clamp(off, -most, most)) - square(expected);
  noise_ = std::clamp(noise_ + kNoiseRate * seen, square(kLeastNoise), square(kMostNoise));
}

double Costs::verify(int32_t width) const {
  if (!known_) return 0;
  const double plain = std::exp(belief_.mean(verify_at(0)));
  const double rows = std::exp(belief_.mean(verify_at(width)));
  if (width == 0 || !knows_plain_) return rows;
  return std::clamp(rows, plain, most_rows(width) * plain);
}

double Costs::draft(int32_t width) const {
  if (width == 0 || !known_) return 0;
  return std::exp(belief_.mean(draft_at(width)));
}

double Costs::change() const {
  return std::max(0.0, std::expm1(belief_.mean(change_at())));
}

double Costs::doubt_of_ratio(size_t i, size_t j) const {
  Belief::Direction ratio = only(i);
  ratio[j] -= 1;
  return std::sqrt(std::max(0.0, belief_.variance(ratio)));
}

double Costs::verify_doubt(int32_t width, int32_t beside) const {
  return doubt_of_ratio(verify_at(width), verify_at(beside));
}

double Costs::draft_doubt(int32_t width) const {
  return width == 0 ? 0 : doubt_of_ratio(draft_at(width), verify_at(0));
}

double Costs::draft_doubt(int32_t width, int32_t beside) const {
  return doubt_of_ratio(draft_at(width), draft_at(beside));
}

double Costs::noise() const {
  return std::sqrt(noise_);
}

void Costs::caught_up(int32_t n_rows, double seconds) {
  constexpr double kMuch = 1.35;  // times that a row may have become dearer
  if (!known_) return;
  const double now = seconds / n_rows / verify(0);
  row_ = row_ > 0 ? std::min(now, row_ * kMuch) : now;
}

KnownCosts Costs::known() const {
  KnownCosts known;
  known.n_context = shortest_of(piece_);
  for (int32_t width = 0; width <= max_width_; ++width) {
    known.verify.push_back(verify(width));
    known.draft.push_back(draft(width));
    known.verify_doubt.push_back(verify_doubt(width));
    known.draft_doubt.push_back(draft_doubt(width));
  }
  return known;
}

std::vector<KnownCosts> Costs::all_known() const {
  std::vector<KnownCosts> all;
  std::map<int32_t, Piece> pieces = pieces_;
  pieces.insert_or_assign(piece_, Piece{belief_, n_seen_, knows_plain_});
  Costs there = *this;
  for (const auto& [piece, known] : pieces) {
    if (!known.knows_plain) continue;
    there.enter(shortest_of(piece));
    all.push_back(there.known());
  }
  return all;
}

void Costs::restore(const std::vector<KnownCosts>& all) {
  for (const KnownCosts& known : all) check(known);
  *this = Costs(max_width_);
  for (const KnownCosts& known : all) {
    if (!(known.verify[0] > 0)) continue;
    pieces_.insert_or_assign(piece_of(known.n_context), Piece{restored(known), 0, true});
  }
  if (pieces_.empty()) return;
  piece_ = pieces_.begin()->first;
  belief_ = pieces_.begin()->second.belief;
  known_ = knows_plain_ = true;
}

void Costs::check(const KnownCosts& known) const {
  const auto n = static_cast<size_t>(max_width_ + 1);
  for (const std::vector<double>* line :
       {&known.verify, &known.draft, &known.verify_doubt, &known.draft_doubt}) {
    if (line->size() != n) {
      throw std::invalid_argument("costs of another width: expected " + std::to_string(n) +
                                  " seconds and doubts a line, found " +
                                  std::to_string(line->size()));
    }
    for (const double number : *line) {
      if (!std::isfinite(number) || number < 0) {
        throw std::invalid_argument("costs and doubts are numbers, 0 where unknown");
      }
    }
  }
}

Belief Costs::restored(const KnownCosts& known) const {
  Belief belief(change_at() + 1);
  belief.doubt(usual_doubts_, kRestoredOff);
  belief.doubt_along(speed(kAnySpeed));
  belief.set_mean(change_at(), kChange);
  const double plain = known.verify[0];
  const auto take = [&](size_t i, double seconds, double doubt) {
    const bool is_known = seconds > 0;
    belief.set_mean(i, is_known ? std::log(seconds) : std::log(plain) + usual_mean(i));
    belief.doubt_along(only(i, is_known ? doubt : usual_doubt(i)));
  };
  for (int32_t width = 0; width <= max_width_; ++width) {
    const auto w = static_cast<size_t>(width);
    const double rows = std::clamp(known.verify[w], plain, most_rows(width) * plain);
    take(verify_at(width), rows, known.verify_doubt[w]);
    if (width > 0) take(draft_at(width), known.draft[w], known.draft_doubt[w]);
  }
  return belief;
}

}  // namespace dflash
