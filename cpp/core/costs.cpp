#include "core/costs.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <string>

namespace dflash {

namespace {

constexpr int32_t kWarmUp = 3;       // first observations, of which the quickest counts
constexpr double kFarOff = 0.3;      // of a logarithm; what is farther off counts as this
constexpr double kSpeedRate = 0.1;   // how fast all widths follow one
constexpr double kWidthRate = 0.02;  // how fast a width goes its own way, in the end
constexpr double kWidthBegin = 0.3;  // and at first
constexpr int64_t kStale = 200;      // decodes after which a cost may be another, ...
constexpr int64_t kStaleFirst = 4;   // ... or so many for each time that it was seen
constexpr double kCurious = 0.9;     // a width never seen costs this share of what is likely
constexpr double kARow = 0.1;        // of a decode's time, that one more row is taken to cost

}  // namespace

Costs::Costs(int32_t max_width)
    : verify_(static_cast<size_t>(max_width) + 1), draft_(static_cast<size_t>(max_width) + 1) {}

void Costs::observe(Table& table, int32_t width, double seconds) {
  Cost& cost = table.at(static_cast<size_t>(width));
  if (!(seconds > 0)) return;  // a clock without the resolution
  cost.seen_at = n_verified_;
  if (cost.n < kWarmUp) {
    const double now = seconds / slowness_;
    cost.seconds = cost.n == 0 ? now : std::min(cost.seconds, now);
    cost.n += 1;
    return;
  }
  const double off = std::log(seconds / (cost.seconds * slowness_));
  const double step = std::clamp(off, -kFarOff, kFarOff);
  slowness_ *= std::exp(kSpeedRate * step);
  cost.n += 1;
  cost.seconds *= std::exp(std::max(kWidthRate, kWidthBegin / cost.n) * step);
}

bool Costs::verify_is_stale(int32_t width) const {
  const Cost& cost = verify_.at(static_cast<size_t>(width));
  return n_verified_ - cost.seen_at > std::min(kStale, kStaleFirst * cost.n);
}

void Costs::caught_up(int32_t n_rows, double seconds) {
  const double now = seconds / n_rows / slowness_;
  row_seconds_ = row_seconds_ > 0 ? std::min(now, row_seconds_ * std::exp(kFarOff)) : now;
}

double Costs::estimate(const Table& table, int32_t width) const {
  const auto at = static_cast<size_t>(width);
  if (table.at(at).n > 0) return table[at].seconds * slowness_;
  const auto seen = [](const Cost& cost) { return cost.n > 0; };
  const auto middle = table.begin() + width;
  const auto right = std::find_if(middle, table.end(), seen);
  const auto left = std::find_if(std::make_reverse_iterator(middle), table.rend(), seen);
  const bool has_left = left != table.rend();
  if (!has_left && right == table.end()) return 0;
  double likely = 0;
  if (has_left && right != table.end()) {
    const auto below = static_cast<double>(left.base() - 1 - table.begin());
    const auto above = static_cast<double>(right - table.begin());
    const double share = (width - below) / (above - below);
    likely = left->seconds + share * (right->seconds - left->seconds);
  } else if (has_left) {
    const auto below = static_cast<double>(left.base() - 1 - table.begin());
    likely = left->seconds * (1 + kARow * (width - below));
  } else {
    likely = right->seconds;
  }
  return kCurious * likely * slowness_;
}

std::vector<double> Costs::table(const Table& table) const {
  std::vector<double> seconds;
  for (const Cost& cost : table) seconds.push_back(cost.n > 0 ? cost.seconds * slowness_ : 0.0);
  return seconds;
}

void Costs::restore(const std::vector<double>& verify, const std::vector<double>& draft) {
  if (verify.size() != verify_.size() || draft.size() != draft_.size()) {
    throw std::invalid_argument(
        "costs of another width: expected " + std::to_string(verify_.size()) +
        " verify and draft seconds, found " + std::to_string(verify.size()) + " and " +
        std::to_string(draft.size()));
  }
  for (const std::vector<double>* table : {&verify, &draft}) {
    for (const double seconds : *table) {
      if (!std::isfinite(seconds) || seconds < 0) {
        throw std::invalid_argument("costs are seconds, 0 where unknown");
      }
    }
  }
  slowness_ = 1;
  for (size_t i = 0; i < verify.size(); ++i) {
    verify_[i] = {verify[i], verify[i] > 0 ? 1 : 0};
    draft_[i] = {draft[i], draft[i] > 0 ? 1 : 0};
  }
}

}  // namespace dflash
