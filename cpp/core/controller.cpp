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
constexpr double kMostBudget = 5;      // plain steps that the budget may hold
constexpr double kLookShare = 0.008;   // of all time, for looks at what widths cost
constexpr double kMostLooks = 3;       // plain steps that may be put by for them
constexpr double kLongestPause = 16;   // tokens between two such blocks, with little budget left
constexpr double kShortestPause = 3;   // and with much
constexpr int32_t kFirstWidest = 4;    // blocks between two of the widest, at first
constexpr int32_t kMostWidest = 500;   // and in the end
constexpr double kHope = 2;            // standard deviations that a cost may well be lower
constexpr double kSure = 0.08;         // doubt that is none
constexpr int32_t kPlainLooks = 4;     // steps between two looks at what a plain one costs
constexpr double kChangeShare = 1;     // of the price of another width, that a step has to earn
constexpr size_t kMostOpen = 4;

}  // namespace

Controller::Controller(Terms& terms)
    : terms_(&terms),
      chances_(terms.costs.max_width()),
      gains_(static_cast<size_t>(terms.costs.max_width()) + 1) {}

void Controller::enter(int32_t n_past) {
  n_past_ = n_past;
  costs().enter(n_past);
}

// Tokens a second: what is reached at present, and no less than plain decoding.
double Controller::rate() const {
  const double plain = 1 / costs().verify(0);
  return recent_seconds_ > 0 ? std::max(plain, recent_tokens_ / recent_seconds_) : plain;
}

Plan Controller::choose(int32_t room, const Lookup& lookup, double catch_up) {
  lookup_ = lookup;
  look_ = {};
  if (room < 1 || !costs().knows_plain()) return {};
  set_prices();
  const double rate_now = rate();
  const Choice copy = best_verify(chances_of(lookup), room, rate_now);
  const Choice block = best_block(room, rate_now, catch_up);
  const Choice& best = copy.tokens > block.tokens ? copy : block;
  if (best.tokens > kMargin && plain_may_be_better(best, rate_now)) return {};
  if (copy.tokens > std::max(kMargin, block.tokens)) return {copy.width, 0, false};
  if (block.tokens > kMargin) {
    pause_ = 1;
    return {0, wider(look_at_block(block, room, rate_now, catch_up), room), false};
  }
  const Choice hope = best_block(room, rate_now, catch_up, View::hopeful);
  const double hoped_price = hoped_.draft[static_cast<size_t>(hope.width)] / costs().verify(0);
  if (hope.tokens > kMargin && looks_ > hoped_price) {
    looks_ -= hoped_price;
    tokens_since_probe_ = 0;
    return {0, hope.width, true};
  }
  if (!may_probe(costs().draft(block.width) + catch_up / kCatchUpBlocks)) return {};
  return {0, block.width, true};
}

// By how much the logarithm of a cost may well be lower; nothing where a look would tell no more.
double Controller::hope_of(double doubt) const {
  return doubt > std::max(kSure, costs().noise()) ? kHope * doubt : 0;
}

// Of the next decode: another width than the last is dearer. How low it may be is bounded by a
// plain step.
double Controller::verify(int32_t width, double hope) const {
  const double change = width == costs().width_before() ? 0 : kChangeShare * costs().change();
  return std::max(costs().verify(0), costs().verify(width) * std::exp(-hope)) * (1 + change);
}

void Controller::set_prices() {
  likely_ = hoped_ = {};
  for (int32_t width = 0; width <= costs().max_width(); ++width) {
    likely_.verify.push_back(verify(width));
    hoped_.verify.push_back(verify(width, hope_of(costs().verify_doubt(width))));
    const double draft = costs().draft(width);
    likely_.draft.push_back(draft);
    hoped_.draft.push_back(draft * std::exp(-hope_of(costs().draft_doubt(width))));
  }
}

// What is won is measured by what a plain step costs: that has to be known well.
bool Controller::plain_may_be_better(const Choice& best, double rate) const {
  if (steps_since_plain_ < kPlainLooks) return false;
  const double less = 1 - std::exp(-hope_of(costs().verify_doubt(best.width)));
  return best.tokens < rate * costs().verify(0) * less;
}

// The width of a block that is likely to bring most, its drafting counted; it may be a loss.
Controller::Choice Controller::best_block(int32_t room, double rate, double catch_up,
                                          View view) const {
  Choice best;
  for (int32_t block = 1; block <= costs().max_width(); ++block) {
    const double drafting = prices(view).draft[static_cast<size_t>(block)];
    const double price = drafting + catch_up / kCatchUpBlocks;
    const double tokens = worth(block, room, rate, view) - rate * price;
    if (best.width == 0 || tokens > best.tokens) best = {block, tokens};
  }
  return best;
}

// A block that may well be better than the best is drafted, if what that is likely to lose is in
// the budget.
int32_t Controller::look_at_block(const Choice& best, int32_t room, double rate, double catch_up) {
  Choice most = {best.width, best.tokens + kMargin};
  double price = 0;
  for (int32_t block = 1; block <= costs().max_width(); ++block) {
    const double doubt = costs().draft_doubt(block, best.width);
    const double drafting = likely_.draft[static_cast<size_t>(block)];
    const double tokens = worth(block, room, rate, View::likely) - rate * catch_up / kCatchUpBlocks;
    const double hoped = tokens - rate * drafting * std::exp(-hope_of(doubt));
    const double loss = best.tokens - tokens + rate * drafting * std::exp(-hope_of(doubt) / 2);
    const double steps = std::max(0.0, loss) / (rate * costs().verify(0));
    if (block == best.width || hoped < most.tokens || steps > looks_) continue;
    most = {block, hoped};
    price = steps;
  }
  looks_ -= price;
  return most.width;
}

bool Controller::may_probe(double seconds) {
  const double price = seconds / costs().verify(0);
  if (budget_ < price || tokens_since_probe_ < pause_) return false;
  budget_ -= price;
  tokens_since_probe_ = 0;
  // What drafting has won lately allows to look more often whether it would win again.
  const double left = budget_ / kMostBudget;
  pause_ = std::min(2 * pause_, std::max(kShortestPause, kLongestPause * (1 - left)));
  return true;
}

// A block may be narrow because wide ones were not tried: now and then the widest is, less and less
// often, for what width does to a drafter does not change with the text.
int32_t Controller::wider(int32_t block, int32_t room) {
  const int32_t widest = costs().max_width();
  if (room < widest) return block;
  blocks_since_widest_ += 1;
  if (block != widest && blocks_since_widest_ < kFirstWidest + n_widest_) return block;
  blocks_since_widest_ = 0;
  n_widest_ = std::min(n_widest_ + 1, kMostWidest);
  return widest;
}

// What such a block is likely to bring, going by the last ones and by what is usual. Where there is
// less room it is verified as a narrower one.
double Controller::worth(int32_t block, int32_t room, double rate, View view) const {
  const Gain& gain = gains_[static_cast<size_t>(std::min(block, room))];
  const double usual = best_verify(chances_of({}, block), room, rate, view).tokens;
  const double last = view == View::likely ? gain.tokens : gain.hoped;
  return (gain.weight * last + kUsualBlocks * usual) / (gain.weight + kUsualBlocks);
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

// What a verify brings over a plain step, where its drafts emit so many tokens.
double Controller::gain(Choice verified, double seconds, double rate) const {
  const double price = terms_->exact.price(verified.width, n_past_) * (1 + verified.tokens);
  return verified.tokens - price - rate * (seconds - likely_.verify[0]);
}

// The width that brings most, 0 where none does.
Controller::Choice Controller::best_verify(const std::vector<double>& chances, int32_t room,
                                           double rate, View view) const {
  Choice best;
  double tokens = 0;
  double reached = 1;
  const auto n = std::min(static_cast<int32_t>(chances.size()), room);
  for (int32_t width = 1; width <= n; ++width) {
    reached *= chances[static_cast<size_t>(width - 1)];
    tokens += reached;
    const double seconds = prices(view).verify[static_cast<size_t>(width)];
    const double won = gain({width, tokens}, seconds, rate);
    if (won > best.tokens) best = {width, won};
  }
  return best;
}

Verdict Controller::choose_verify(const Draft& draft, int32_t room) {
  set_prices();
  const double rate_now = rate();
  for (int32_t block = 1; block <= costs().max_width(); ++block) {
    Gain& gain = gains_[static_cast<size_t>(block)];
    const std::vector<double> chances = chances_of(draft, block);
    const double tokens = best_verify(chances, block, rate_now).tokens;
    const double hoped = best_verify(chances, block, rate_now, View::hopeful).tokens;
    gain.tokens = (gain.tokens * gain.weight + tokens) / (gain.weight + 1);
    gain.hoped = (gain.hoped * gain.weight + hoped) / (gain.weight + 1);
    gain.weight = std::min(gain.weight + 1, kMostBlocks);
  }
  const auto drafted = static_cast<int32_t>(draft.tokens.size());
  const std::vector<double> chances = chances_of(draft, drafted);
  const Choice best = best_verify(chances, room, rate_now);
  const Choice copy = best_verify(chances_of(lookup_), room, rate_now);
  if (copy.tokens > best.tokens) return {copy.width, true};
  return {look(best, chances, room, rate_now), false};
}

// A width that may well be better than the best is looked at, if what that is likely to lose is in
// the budget.
int32_t Controller::look(const Choice& best, const std::vector<double>& chances, int32_t room,
                         double rate) {
  double most = best.tokens + kMargin;
  double tokens = 0;
  double reached = 1;
  const auto n = std::min(static_cast<int32_t>(chances.size()), room);
  for (int32_t width = 1; width <= n; ++width) {
    reached *= chances[static_cast<size_t>(width - 1)];
    tokens += reached;
    const double hope = hope_of(costs().verify_doubt(width, best.width));
    const double hoped = gain({width, tokens}, verify(width, hope), rate);
    const double loss = best.tokens - gain({width, tokens}, verify(width, hope / 2), rate);
    const double budget = rate * costs().verify(0) * looks_;
    if (width == best.width || hoped < most || loss > budget) continue;
    most = hoped;
    look_ = {width, tokens, best.tokens};
  }
  return look_.width > 0 ? look_.width : best.width;
}

// What a look cost is known afterwards; the way back is a change of width too.
void Controller::pay_look(double change) {
  if (look_.width == 0) return;
  const double rate_now = rate();
  const double seconds = (1 + 2 * change) * costs().verify(look_.width);
  const double loss = look_.instead - gain({look_.width, look_.tokens}, seconds, rate_now);
  looks_ -= std::max(0.0, loss) / (rate_now * costs().verify(0));
  look_ = {};
}

void Controller::stepped(const StepSeen& step) {
  const auto n_drafted = static_cast<int32_t>(step.draft.tokens.size());
  const double change = step.n_verified == costs().width_before() ? 0 : costs().change();
  costs().verified(step.n_verified, step.verify_seconds);
  if (n_drafted > 0) {
    costs().drafted(n_drafted, step.draft_seconds);
    if (open_.size() == kMostOpen) open_.erase(open_.begin());
    open_.push_back({step.draft, 0});
  }
  pay_look(change);
  steps_since_plain_ = step.n_verified == 0 ? 0 : steps_since_plain_ + 1;
  if (!lookup_.tokens.empty()) {
    copies_.observe(lookup_, lookup_.tokens[0] == step.emitted[0]);
  }
  lookup_ = {};
  for (const Token token : step.emitted) judge(token);
  const auto n_emitted = static_cast<double>(step.emitted.size());
  const double verifying = (1 + change) * costs().verify(step.n_verified);
  const double seconds = verifying + costs().draft(n_drafted);
  const double plain_steps = seconds / costs().verify(0);
  const double won = n_emitted - plain_steps;
  budget_ += kProbeShare * plain_steps + kGainShare * std::max(0.0, won);
  budget_ = std::min(budget_, kMostBudget);
  looks_ = std::min(looks_ + kLookShare * plain_steps, kMostLooks);
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
