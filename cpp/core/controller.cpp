#include "core/controller.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace dflash {

namespace {

constexpr double kRecentSteps = 0.97;  // weight of the past in the present rate, a step
constexpr double kRecentTokens = 48;   // after so many tokens a gain counts for a third
constexpr double kMostBlocks = 6;      // blocks that a gain is the mean of
constexpr double kUsualBlocks = 2;     // blocks that what is usual counts for
constexpr double kMargin = 0.04;       // tokens that it has to be better than plain decoding
constexpr double kCatchUpBlocks = 16;  // blocks that share the price of taking in what waited
constexpr double kProbeShare = 0.006;  // of all time, for blocks that are likely to lose
constexpr double kGainShare = 0.2;     // of the time that drafting has won
constexpr double kMostProbes = 12;     // blocks the budget may hold
constexpr double kLongestPause = 16;   // tokens between two such blocks, with little budget left
constexpr double kShortestPause = 3;   // and with much
constexpr int32_t kFirstWidest = 4;    // blocks between two of the widest, at first
constexpr int32_t kMostWidest = 500;   // and in the end
constexpr int32_t kLooks = 16;         // blocks between two looks at what a width costs
constexpr double kLikely = 0.3;        // chance of a draft that is worth such a look
constexpr size_t kMostOpen = 4;

}  // namespace

Controller::Controller(int32_t max_width)
    : costs_(max_width), chances_(max_width), gains_(static_cast<size_t>(max_width) + 1) {}

// Tokens a second: what is reached at present, and no less than plain decoding.
double Controller::rate() const {
  const double plain = 1 / costs_.verify(0);
  return recent_seconds_ > 0 ? std::max(plain, recent_tokens_ / recent_seconds_) : plain;
}

Plan Controller::choose(int32_t room, const Lookup& lookup, double catch_up) {
  lookup_ = lookup;
  // All is measured by what a plain step costs: that has to be known, and known well.
  if (room < 1 || costs_.verify(0) <= 0 || costs_.verify_is_stale(0)) return {};
  const double rate_now = rate();
  const Choice copy = best_verify(chances_of(lookup), room, rate_now);
  const Choice block = best_block(room, rate_now, catch_up);
  if (copy.tokens > std::max(kMargin, block.tokens)) return {copy.width, 0, false};
  if (block.tokens > kMargin) {
    pause_ = 1;
    return {0, wider(block.width), false};
  }
  if (!may_probe(costs_.draft(block.width) + catch_up / kCatchUpBlocks)) return {};
  return {0, block.width, true};
}

// The width of a block that is likely to bring most, its drafting counted; it may be a loss.
Controller::Choice Controller::best_block(int32_t room, double rate, double catch_up) const {
  Choice best;
  for (int32_t block = 1; block <= costs_.max_width(); ++block) {
    const double price = costs_.draft(block) + catch_up / kCatchUpBlocks;
    const double tokens = worth(block, room, rate) - rate * price;
    if (best.width == 0 || tokens > best.tokens) best = {block, tokens};
  }
  return best;
}

bool Controller::may_probe(double price) {
  if (budget_ < price || tokens_since_probe_ < pause_) return false;
  budget_ -= price;
  tokens_since_probe_ = 0;
  // What drafting has won lately allows to look more often whether it would win again.
  const double left = budget_ / (kMostProbes * costs_.draft(costs_.max_width()));
  pause_ = std::min(2 * pause_, std::max(kShortestPause, kLongestPause * (1 - left)));
  return true;
}

// A block may be narrow because wide ones were not tried: now and then the widest is, less and less
// often, for what width does to a drafter does not change with the text.
int32_t Controller::wider(int32_t block) {
  const int32_t widest = costs_.max_width();
  blocks_since_widest_ += 1;
  if (block != widest && blocks_since_widest_ < kFirstWidest + n_widest_) return block;
  blocks_since_widest_ = 0;
  n_widest_ = std::min(n_widest_ + 1, kMostWidest);
  return widest;
}

// What such a block is likely to bring, going by the last ones and by what is usual.
double Controller::worth(int32_t block, int32_t room, double rate) const {
  const Gain& gain = gains_[static_cast<size_t>(block)];
  const double usual = best_verify(chances_of({}, block), room, rate).tokens;
  return (gain.weight * gain.tokens + kUsualBlocks * usual) / (gain.weight + kUsualBlocks);
}

// [block] what the chances of a draft would be, had it been a block of another width; beyond its
// own end, what is usual.
std::vector<double> Controller::chances_of(const Draft& draft, int32_t block) const {
  const auto drafted = static_cast<int32_t>(draft.tokens.size());
  std::vector<double> chances;
  for (int32_t i = 0; i < block; ++i) {
    if (i >= drafted) {
      chances.push_back(chances_.of({block, i}));
      continue;
    }
    const float probability =
        draft.confidence.empty() ? -1.0F : draft.confidence[static_cast<size_t>(i)];
    const double chance = chances_.of({drafted, i}, probability);
    chances.push_back(chances_.elsewhere(chance, drafted, block));
  }
  return chances;
}

std::vector<double> Controller::chances_of(const Lookup& lookup) const {
  std::vector<double> chances;
  for (size_t i = 0; i < lookup.tokens.size(); ++i) {
    chances.push_back(copies_.chance(lookup, static_cast<int32_t>(i)));
  }
  return chances;
}

// The width that brings most over a plain step, 0 where none does.
Controller::Choice Controller::best_verify(const std::vector<double>& chances, int32_t room,
                                           double rate) const {
  Choice best;
  double tokens = 0;
  double reached = 1;
  const auto n = std::min(static_cast<int32_t>(chances.size()), room);
  for (int32_t width = 1; width <= n; ++width) {
    reached *= chances[static_cast<size_t>(width - 1)];
    tokens += reached;
    const double won = tokens - rate * (costs_.verify(width) - costs_.verify(0));
    if (won > best.tokens) best = {width, won};
  }
  return best;
}

Verdict Controller::choose_verify(const Draft& draft, int32_t room) {
  const double rate_now = rate();
  for (int32_t block = 1; block <= costs_.max_width(); ++block) {
    Gain& gain = gains_[static_cast<size_t>(block)];
    const double tokens = best_verify(chances_of(draft, block), room, rate_now).tokens;
    gain.tokens = (gain.tokens * gain.weight + tokens) / (gain.weight + 1);
    gain.weight = std::min(gain.weight + 1, kMostBlocks);
  }
  const auto drafted = static_cast<int32_t>(draft.tokens.size());
  const std::vector<double> chances = chances_of(draft, drafted);
  const Choice best = best_verify(chances, room, rate_now);
  const Choice copy = best_verify(chances_of(lookup_), room, rate_now);
  if (copy.tokens > best.tokens) return {copy.width, true};
  return {look_again(best.width, chances, room), false};
}

// A width once taken to be dear would never be tried again: now and then a draft that is likely to
// be right buys another look at what the next width costs.
int32_t Controller::look_again(int32_t width, const std::vector<double>& chances, int32_t room) {
  steps_since_look_ += 1;
  if (steps_since_look_ < kLooks) return width;
  double reached = 1;
  const auto n = std::min(static_cast<int32_t>(chances.size()), room);
  for (int32_t wider = 1; wider <= n; ++wider) {
    reached *= chances[static_cast<size_t>(wider - 1)];
    if (reached < kLikely) return width;
    if (wider <= width || !costs_.verify_is_stale(wider)) continue;
    steps_since_look_ = 0;
    return wider;
  }
  return width;
}

void Controller::stepped(const StepSeen& step) {
  const auto n_drafted = static_cast<int32_t>(step.draft.tokens.size());
  costs_.verified(step.n_verified, step.verify_seconds);
  if (n_drafted > 0) {
    costs_.drafted(n_drafted, step.draft_seconds);
    if (open_.size() == kMostOpen) open_.erase(open_.begin());
    open_.push_back({step.draft, 0});
  }
  if (!lookup_.tokens.empty()) {
    copies_.observe(lookup_, lookup_.tokens[0] == step.emitted[0]);
  }
  lookup_ = {};
  for (const Token token : step.emitted) judge(token);
  const auto n_emitted = static_cast<double>(step.emitted.size());
  const double seconds = costs_.verify(step.n_verified) + costs_.draft(n_drafted);
  const double won = n_emitted * costs_.verify(0) - seconds;  // over plain decoding
  budget_ += kProbeShare * seconds + kGainShare * std::max(0.0, won);
  const double most = kMostProbes * costs_.draft(costs_.max_width());
  if (most > 0) budget_ = std::min(budget_, most);
  recent_tokens_ = kRecentSteps * recent_tokens_ + n_emitted;
  recent_seconds_ = kRecentSteps * recent_seconds_ + seconds;
  chances_.passed(n_emitted);
  copies_.passed(n_emitted);
  tokens_since_probe_ += n_emitted;
  const double kept = std::exp(-n_emitted / kRecentTokens);
  for (Gain& gain : gains_) gain.weight *= kept;
}

// The text goes on with a token: right for the drafts that foresaw it, the end of the others.
void Controller::judge(Token token) {
  std::vector<Open> still;
  for (Open& open : open_) {
    const bool hit = open.draft.tokens[open.next] == token;
    const float probability =
        open.draft.confidence.empty() ? -1.0F : open.draft.confidence[open.next];
    const Place place = {static_cast<int32_t>(open.draft.tokens.size()),
                         static_cast<int32_t>(open.next)};
    chances_.observe(place, probability, hit);
    open.next += 1;
    if (hit && open.next < open.draft.tokens.size()) still.push_back(std::move(open));
  }
  open_ = std::move(still);
}

}  // namespace dflash
