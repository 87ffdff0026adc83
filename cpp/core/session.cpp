#include "core/session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string_view>

#include "core/accept.h"
#include "core/calibration.h"
#include "core/errors.h"

namespace dflash {

namespace {

constexpr const char* kNothing = "nothing to go on from: sync() a prompt first";
constexpr int32_t kFew = 8;     // rows that are taken in at about the price of one
constexpr int32_t kIdle = 256;  // tokens without a block that promised to pay
constexpr int32_t kPieces = 8;  // a window's share that is dropped at once

// A saved drafter's memory begins with this and the number of positions that it had forgotten; the
// memories of earlier versions have neither, and begin at position 0.
constexpr std::string_view kStateMark = "DFLASH1\n";

int32_t size_of(const std::vector<Token>& tokens) {
  return static_cast<int32_t>(tokens.size());
}

int32_t common_prefix(const std::vector<Token>& a, const std::vector<Token>& b) {
  const size_t n = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(n);
  return static_cast<int32_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

template <class Work>
double seconds_of(Work work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  work();
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct SavedDrafter {
  int32_t n_forgotten = 0;
  std::string_view memory;
};

SavedDrafter parse_saved(std::string_view state) {
  if (state.substr(0, kStateMark.size()) != kStateMark) return {0, state};
  state.remove_prefix(kStateMark.size());
  int32_t n_forgotten = -1;
  if (state.size() >= sizeof n_forgotten) {
    std::memcpy(&n_forgotten, state.data(), sizeof n_forgotten);
  }
  if (n_forgotten < 0) throw BackendError("the drafter's state is damaged: its head is not whole");
  return {n_forgotten, state.substr(sizeof n_forgotten)};
}

// Of drafts those that may come one after the other, as far as the sampler knows.
int32_t n_possible(const Sampler* sampler, const std::vector<Token>& drafts) {
  return sampler == nullptr ? size_of(drafts) : static_cast<int32_t>(sampler->n_possible(drafts));
}

bool redraws(const Sampler* sampler) {
  return sampler != nullptr && sampler->redraws();
}

void check_limit(std::optional<int32_t> max_tokens) {
  if (max_tokens && *max_tokens < 1) throw std::invalid_argument("max_tokens must be at least 1");
}

}  // namespace

Session::Session(Verifier& verifier, Drafter* drafter, SessionOptions options,
                 std::shared_ptr<Stop> stop)
    : verifier_(verifier), drafter_(drafter), options_(options), stop_(std::move(stop)) {
  if (drafter_ != nullptr && drafter_->n_features() != verifier_.n_features()) {
    throw std::invalid_argument(
        "the drafter takes rows of " + std::to_string(drafter_->n_features()) +
        " features, the verifier gives " + std::to_string(verifier_.n_features()) +
        ": its feature_layers are not the drafter's target layers");
  }
  verifier_.watch(*stop_);
  if (drafter_ == nullptr) return;
  drafter_->watch(*stop_);
  controller_.emplace(drafter_->max_width());
}

// ---- reading -------------------------------------------------------------------------------

void Session::sync(const std::vector<Token>& prompt, const Progress& progress) {
  stop_->clear();
  const int32_t kept = keep_prefix(prompt);
  extend(prompt.data() + kept, size_of(prompt) - kept, Rows::last, progress);
}

int32_t Session::keep_prefix(const std::vector<Token>& prompt) {
  if (prompt.empty()) throw std::invalid_argument("the prompt is empty: it needs a token");
  int32_t keep = std::min(common_prefix(tokens_, prompt), n_past_);
  const bool logits_at_hand = logits_live_ && n_past_ == keep;
  const bool is_whole = keep == size_of(prompt) && !logits_at_hand;
  if (exact_.only()) {
    keep = kept_by_plain(keep, is_whole);
  } else if (is_whole) {
    keep -= 1;
  }
  if (wants_features() && !exact_.only()) {
    // What was read at width 0 is read again, as far back as the drafter sees.
    keep = std::min(keep, std::max(untold_from_, size_of(prompt) - drafter_->n_ctx()));
    untold_from_ = kNowhere;
  }
  const int32_t reached = rewind(keep);
  n_expected_ = size_of(prompt);
  return reached;
}

// Tokens give other bits when others are read together with them. A step that failed may have taken
// the logits of a prompt with it, which plain decoding has at hand: they come of the same piece
// again. And where plain decoding has no snapshots to go back to, it begins anew.
int32_t Session::kept_by_plain(int32_t keep, bool is_whole) const {
  if (verifier_.trims_once() && keep < n_past_) return 0;
  if (!is_whole) return keep;
  return keep == n_past_ && keep == last_read_.end ? last_read_.begin : keep - 1;
}

void Session::extend(const Token* tokens, int32_t n, Rows rows, const Progress& progress) {
  if (n == 0) return;
  const int32_t after = n_past_;
  rewind(after);
  discard();
  if (n_past_ < after) {
    throw BackendError(
        "the step that was discarded took the timeline with it, the verifier's memory cannot drop "
        "a part: sync() the whole prompt");
  }
  if (n > verifier_.n_ctx() - n_past_) {
    throw ContextError("no room for " + std::to_string(n) + " tokens after " +
                       std::to_string(n_past_) + " in a context of " +
                       std::to_string(verifier_.n_ctx()) + ": shorten the prompt or raise n_ctx");
  }
  n_expected_ = std::max(n_expected_, n_past_ + n);
  const int32_t chunk =
      rows == Rows::all ? std::min(verifier_.n_batch(), verifier_.max_rows()) : verifier_.n_batch();
  for (int32_t done = 0; done < n;) {
    if (progress && done > 0) progress();
    stop_->check();
    const int32_t n_now = std::min(chunk, n - done);
    guarded([&] { read_chunk(tokens + done, n_now, rows); });
    done += n_now;
  }
}

void Session::read_chunk(const Token* tokens, int32_t n, Rows rows) {
  logits_live_ = false;
  {
    const Stopwatch watch(last_.seconds_prefill, total_.seconds_prefill);
    decode(tokens, n, rows);
  }
  take_features(n);
  tokens_.insert(tokens_.end(), tokens, tokens + n);
  last_read_ = {n_past_, n_past_ + n};
  n_past_ += n;
  logits_live_ = true;
  last_.n_prompt += n;
  total_.n_prompt += n;
}

// At width 0 nobody asks for them.
bool Session::wants_features() const {
  return drafter_ != nullptr && options_.width != 0;
}

void Session::decode(const Token* tokens, int32_t n, Rows rows) {
  tapped_ = wants_features();
  if (drafter_ != nullptr) verifier_.tap(tapped_);
  verifier_.decode(tokens, n, n_past_, rows);
}

// Features of the first n rows of the last decode, which stand at n_past_. Over a gap there is
// nothing to take: the positions in the drafter's memory have to follow one another.
void Session::take_features(int32_t n) {
  if (drafter_ == nullptr || features_missing()) return;
  const auto width = static_cast<size_t>(verifier_.n_features());
  if (!tapped_) untold_from_ = std::min(untold_from_, n_forgotten_);
  const int32_t n_skipped = n_unneeded(n);
  if (n_skipped > 0) forget(n_features_ + n_skipped);
  for (int32_t row = n_skipped; row < n;) {
    if (n_waiting() >= most_waiting()) free_waiting();
    const int32_t n_now = std::min(most_waiting() - n_waiting(), n - row);
    const size_t before = waiting_.size();
    waiting_.resize(before + static_cast<size_t>(n_now) * width);
    try {
      verifier_.features(row, n_now, waiting_.data() + before);
    } catch (...) {
      waiting_.resize(before);
      throw;
    }
    n_features_ += n_now;
    row += n_now;
  }
}

// Of the next n rows so many, the first ones, that no block will be drafted from: they have none,
// or will have been dropped when the prompt has been read.
int32_t Session::n_unneeded(int32_t n) const {
  if (!tapped_) return n;
  const int32_t n_unseen = n_expected_ - drafter_->n_ctx() - n_features_;
  const int32_t n_too_many = idle() ? n - most_waiting() : 0;
  return std::clamp(std::max(n_unseen, n_too_many), 0, n);
}

// Drafting has not paid for long: what waits is not worth the drafter's time.
bool Session::idle() const {
  return tokens_idle_ >= kIdle;
}

int32_t Session::n_waiting() const {
  return static_cast<int32_t>(waiting_.size() / static_cast<size_t>(verifier_.n_features()));
}

int32_t Session::most_waiting() const {
  const size_t row = static_cast<size_t>(verifier_.n_features()) * sizeof(float);
  return static_cast<int32_t>(std::max<size_t>(1, options_.most_waiting / row));
}

// Those of the first n positions.
void Session::keep_features(int32_t n) {
  const int32_t n_injected = std::min(n_features_ - n_waiting(), n);
  n_features_ = std::min(n_features_, n);
  n_forgotten_ = std::min(n_forgotten_, n);
  if (untold_from_ >= n) untold_from_ = kNowhere;
  waiting_.resize(static_cast<size_t>(n_features_ - n_injected) *
                  static_cast<size_t>(verifier_.n_features()));
}

// Those of the first n positions are dropped, read or not. Where rows that wait are among them the
// drafter's memory is empty afterwards.
void Session::forget(int32_t n) {
  const bool in_memory = n_injected() > n_forgotten_;
  const int32_t n_dropped = std::clamp(n - n_injected(), 0, n_waiting());
  const auto end = static_cast<std::ptrdiff_t>(n_dropped) * verifier_.n_features();
  waiting_.erase(waiting_.begin(), waiting_.begin() + end);
  n_features_ = std::max(n_features_, n);
  n_forgotten_ = n;
  if (in_memory) drafter_->forget(n);
}

// Of the rows that wait for a block that nobody may draft the oldest go; else all are taken in.
void Session::free_waiting() {
  if (idle() || n_waiting() >= drafter_->n_ctx()) {
    forget(n_injected() + std::max(1, most_waiting() / kPieces));
  } else {
    inject_waiting();
  }
}

// What the drafter has no room for goes before it is taken in: the oldest, a good piece at once.
void Session::fit_drafter() {
  const int32_t most = drafter_->n_ctx();
  const int32_t n_excess = n_features_ - n_forgotten_ - most;
  if (n_excess > 0) forget(n_forgotten_ + std::max(n_excess, most / kPieces));
}

void Session::inject_waiting() {
  if (waiting_.empty()) return;
  fit_drafter();
  const Stopwatch watch(last_.seconds_inject, total_.seconds_inject);
  const int32_t n = n_waiting();
  const int32_t first = n_features_ - n;
  for (int32_t row = 0; row < n; row += drafter_->max_inject()) {
    const int32_t n_now = std::min(n - row, drafter_->max_inject());
    const size_t at = static_cast<size_t>(row) * static_cast<size_t>(verifier_.n_features());
    drafter_->inject(waiting_.data() + at, n_now, first + row);
  }
  // Few are timed with the block that follows, which a device need not be held up for.
  if (n > kFew) drafter_->wait();
  waiting_.clear();
}

int32_t Session::rewind(int32_t n_tokens) {
  if (n_tokens < 0 || n_tokens > n_past_) {
    throw std::invalid_argument("rewind to " + std::to_string(n_tokens) + ": the session holds " +
                                std::to_string(n_past_) + " tokens");
  }
  end_step();
  if (controller_) controller_->text_changed();
  tokens_.resize(static_cast<size_t>(n_past_));  // a pending anchor goes
  if (n_tokens < n_past_) {
    tokens_.resize(static_cast<size_t>(n_tokens));
    n_past_ = n_tokens;
    n_expected_ = 0;
    if (n_tokens < last_read_.end) last_read_ = {};
    logits_live_ = false;
    ahead_ = true;
  }
  if (!ahead_) return n_past_;
  if (verifier_.trims_once() && verifier_.can_trim(n_past_)) {
    trim_drafter();  // the verifier's turn comes when it is known how far back it goes
  } else {
    trim_memories();
  }
  return n_past_;
}

void Session::align(const std::vector<Token>& tokens) {
  const int32_t n_agreed = std::min(common_prefix(tokens_, tokens), n_past_);
  if (n_agreed == size_of(tokens)) {
    rewind(n_agreed);
  } else {
    adopt(tokens, n_agreed);
  }
}

void Session::adopt(const std::vector<Token>& tokens, int32_t n_agreed) {
  if (size_of(tokens) > verifier_.n_ctx()) {
    throw ContextError("a timeline of " + std::to_string(tokens.size()) +
                       " tokens does not fit a context of " + std::to_string(verifier_.n_ctx()));
  }
  if (verifier_.n_held() < size_of(tokens)) {
    // Nobody read them: the caller was interrupted while the timeline became shorter.
    rewind(n_agreed);
    return;
  }
  if (drafter_ != nullptr) {
    keep_features(n_agreed);
    controller_->text_changed();
  }
  tokens_ = tokens;
  n_past_ = size_of(tokens_);
  n_expected_ = 0;
  last_read_ = {};
  logits_live_ = false;
  end_step();
  trim_memories();
}

// ---- stepping ------------------------------------------------------------------------------

StepResult Session::step(Sampler& sampler, std::optional<int32_t> max_tokens,
                         const std::optional<std::vector<Token>>& draft) {
  check_limit(max_tokens);
  stop_->check();
  if (!anchored() && logits_live_) {
    discard();
    return first_step(sampler);
  }
  propose(draft, max_tokens, &sampler);
  std::vector<Token> emitted;
  guarded([&] {
    const Stopwatch watch(last_.seconds_sample, total_.seconds_sample);
    emitted = longest_valid_prefix(
        draft_.tokens, [&](int32_t row) { return sampler.sample(row); },
        [&](Token token) { return verifier_.is_eog(token); });
  });
  return commit(emitted);
}

// The first token of an answer comes from the logits the prompt left behind: no decode, no draft.
StepResult Session::first_step(Sampler& sampler) {
  Token token = 0;
  {
    const Stopwatch watch(last_.seconds_sample, total_.seconds_sample);
    token = sampler.sample(-1);
  }
  anchor(token);
  return {{token}, 0, 0, finish_after(token)};
}

void Session::anchor(Token token) {
  if (anchored() || !logits_live_) {
    throw std::logic_error("anchor() follows a read: there are no logits to have sampled from");
  }
  tokens_.push_back(token);
  emission_ = {1, 0, false};
  n_withheld_ = 0;
  for (Stats* stats : {&last_, &total_}) stats->count_tokens(emission_, 0, 1);
}

void Session::withhold(int32_t n) {
  if (n < 0 || n > emission_.n_tokens) {
    throw std::invalid_argument("withhold(" + std::to_string(n) + "): the last step emitted " +
                                std::to_string(emission_.n_tokens) + " tokens");
  }
  const int32_t n_emitted = emission_.n_tokens;
  for (Stats* stats : {&last_, &total_}) {
    stats->count_tokens(emission_, n_emitted - n_withheld_, n_emitted - n);
  }
  n_withheld_ = n;
}

const Draft& Session::propose(const std::optional<std::vector<Token>>& draft,
                              std::optional<int32_t> max_tokens, Sampler* sampler) {
  stop_->check();
  end_step();
  const bool goes_back = !anchored();
  if (goes_back) anchor_last();
  discard();
  if (goes_back && !anchored()) {
    throw BackendError(
        "the verifier's memory cannot drop the last token to give its logits again: sync() the "
        "whole prompt");
  }
  if (!anchored()) throw std::invalid_argument(kNothing);  // the step that was discarded took it
  const int32_t n_room = room(max_tokens);
  guarded([&] {
    make_draft(draft, n_room, sampler);
    // Blocks and copies are cut already, before it is decided how much of them is verified.
    if (draft || redraws(sampler)) {
      draft_.cut(static_cast<size_t>(n_possible(sampler, draft_.tokens)));
    }
    if (exact_.only()) cut_to_exact();
    decode_block();
  });
  proposed_ = true;
  ahead_ = true;
  return draft_;
}

// After a read whose logits are gone the last token is the anchor: a step decodes it again.
void Session::anchor_last() {
  if (tokens_.empty()) throw std::invalid_argument(kNothing);
  if (logits_live_) throw std::logic_error("propose() needs an anchor: step() or anchor() first");
  n_past_ -= 1;
  ahead_ = true;
}

// Drafts that fit beside the anchor.
int32_t Session::room(std::optional<int32_t> max_tokens) const {
  check_limit(max_tokens);
  const int32_t rows =
      std::min({verifier_.n_ctx() - n_past_, verifier_.n_batch(), verifier_.max_rows()});
  if (rows < 1) {
    throw ContextError("the context of " + std::to_string(verifier_.n_ctx()) +
                       " tokens is full: raise n_ctx or start a shorter conversation");
  }
  return max_tokens ? std::min(rows, *max_tokens) - 1 : rows - 1;
}

void Session::make_draft(const std::optional<std::vector<Token>>& given, int32_t n_room,
                         Sampler* sampler) {
  draft_.clear();
  drafted_.clear();
  plan_ = {};
  n_expected_ = 0;
  draft_seconds_ = 0;
  measured_ = controller_.has_value() && !given && !features_missing();
  if (given) {
    const auto n = std::min(given->size(), static_cast<size_t>(n_room));
    draft_.tokens.assign(given->begin(), given->begin() + static_cast<std::ptrdiff_t>(n));
    return;
  }
  plan_ = make_plan(n_room, sampler);
  if (plan_.copy > 0) {
    copy_draft(plan_.copy);
    return;
  }
  if (plan_.block == 0) return;
  catch_up();
  draft_seconds_ = seconds_of([&] {
    inject_waiting();
    const Stopwatch watch(last_.seconds_draft, total_.seconds_draft);
    drafter_->draft(tokens_.back(), n_past_, plan_.block, draft_);
  });
  drafted_ = draft_;
  const bool adaptive = options_.width == SessionOptions::kAdaptive;
  const int32_t n_most =
      redraws(sampler) ? n_room : std::min(n_room, n_possible(sampler, draft_.tokens));
  const Verdict verdict =
      adaptive ? controller_->choose_verify(draft_, n_most) : Verdict{n_most, false};
  if (verdict.copy) {
    copy_draft(verdict.width);
  } else {
    draft_.cut(static_cast<size_t>(verdict.width));
    if (sampler != nullptr) sampler->redraw(draft_);
    std::copy(draft_.tokens.begin(), draft_.tokens.end(), drafted_.tokens.begin());
  }
}

// Rows that are more than a block adds are taken in, and timed, by themselves.
void Session::catch_up() {
  fit_drafter();
  const int32_t n_behind = n_waiting();
  if (n_behind <= kFew) return;
  controller_->costs().caught_up(n_behind, seconds_of([&] { inject_waiting(); }));
}

void Session::cut_to_exact() {
  draft_.cut(static_cast<size_t>(exact_.widest(size_of(draft_.tokens), n_past_)));
}

void Session::copy_draft(int32_t n) {
  draft_.clear();
  draft_.tokens.assign(lookup_.tokens.begin(), lookup_.tokens.begin() + n);
}

// The caller's limit cuts the draft, not the block: with fewer masks in it the drafter would
// propose other tokens.
Plan Session::make_plan(int32_t n_room, const Sampler* sampler) {
  if (drafter_ == nullptr || n_room == 0 || features_missing()) return {};
  const int32_t widest = std::min(drafter_->max_width(), room({}));
  if (exact_.only() && exact_.widest(n_room, n_past_) == 0) return {};
  if (options_.width != SessionOptions::kAdaptive) {
    return {0, std::min(options_.width, widest), false};
  }
  controller_->enter(n_past_);
  const int32_t n_behind = std::min(n_waiting(), drafter_->n_ctx());
  const double catch_up = n_behind > kFew ? controller_->costs().catch_up(n_behind) : 0.0;
  const int32_t n = std::min(n_room, widest);
  lookup_ = look_up(tokens_, n);
  lookup_.tokens.resize(static_cast<size_t>(n_possible(sampler, lookup_.tokens)));
  const Plan plan = controller_->choose(n, lookup_, catch_up);
  return {plan.copy, std::min(plan.block, widest), plan.probe};
}

void Session::decode_block() {
  block_.assign(1, tokens_.back());
  block_.insert(block_.end(), draft_.tokens.begin(), draft_.tokens.end());
  logits_live_ = false;
  verify_seconds_ = seconds_of([&] {
    const Stopwatch watch(last_.seconds_verify, total_.seconds_verify);
    decode(block_.data(), size_of(block_), Rows::all);
  });
}

StepResult Session::commit(const std::vector<Token>& emitted) {
  check_emitted(emitted);
  StepResult result;
  result.tokens = emitted;
  result.n_drafted = size_of(draft_.tokens);
  result.n_accepted = count_accepted(draft_.tokens, emitted);
  // The last token emitted stays out of the memories: it is the next anchor.
  const int32_t n_kept = size_of(emitted);
  guarded([&] {
    take_features(n_kept);
    drop_rejected(n_kept);
    tokens_.insert(tokens_.end(), emitted.begin(), emitted.end());
  });
  n_past_ += n_kept;
  proposed_ = false;
  logits_live_ = n_kept == size_of(block_);  // should the anchor be dropped
  count_idle(n_kept);
  const auto n_block = size_of(drafted_.tokens);
  if (measured_) {
    controller_->stepped({drafted_, result.n_drafted, emitted, draft_seconds_, verify_seconds_});
  }
  for (Stats* stats : {&last_, &total_}) {
    stats->count_step(n_block, result.n_drafted, result.n_accepted, n_kept);
  }
  emission_ = {n_kept, result.n_accepted, true};
  n_withheld_ = 0;
  result.finish = finish_after(result.tokens.back());
  return result;
}

// Copies say nothing of blocks.
void Session::count_idle(int32_t n_emitted) {
  if (plan_.copy > 0) return;
  tokens_idle_ = plan_.block > 0 && !plan_.probe ? 0 : std::min(kIdle, tokens_idle_ + n_emitted);
}

void Session::drop_rejected(int32_t n_kept) {
  const int32_t end = n_past_ + n_kept;
  const bool rejected = n_kept < size_of(block_);
  const bool later = verifier_.trims_once();
  if (rejected && !(later ? verifier_.can_trim(end) : verifier_.trim(end))) {
    throw BackendError(
        "the verifier's memory cannot drop rejected drafts: its context needs n_rs_seq of at "
        "least the width");
  }
  ahead_ = rejected && later;
}

void Session::check_emitted(const std::vector<Token>& emitted) const {
  if (!proposed_) throw std::logic_error("commit() follows propose()");
  const int32_t n = size_of(emitted);
  const int32_t n_accepted = count_accepted(draft_.tokens, emitted);
  if (n < 1 || n_accepted < n - 1) {
    throw std::invalid_argument("commit() takes a prefix of the draft and one token more");
  }
}

void Session::discard() {
  if (!ahead_) return;
  end_step();
  trim_memories();
}

void Session::end_step() {
  proposed_ = false;
  draft_.clear();
}

Finish Session::finish_after(Token token) const {
  if (verifier_.is_eog(token)) return Finish::end_of_generation;
  return n_past_ >= verifier_.n_ctx() ? Finish::context_full : Finish::none;
}

// ---- what decodes cost, and which are plain decoding's to the bit ---------------------------

void Session::set_exact(const ExactWidths& exact) {
  exact_ = exact;
  if (controller_) controller_->set_exact(exact_);
}

void Session::restore(Controller known) {
  if (!controller_) return;
  controller_ = std::move(known);
  controller_->set_exact(exact_);
}

void Session::calibrate(double seconds) {
  if (!tokens_.empty()) throw std::logic_error("calibrate() comes before the first prompt");
  if (drafter_ == nullptr) return;
  discard();  // what others left in the memories
  const int32_t widest = std::min(drafter_->max_width(), room({}));
  std::minstd_rand random;
  ahead_ = true;
  guarded([&] {
    const Seconds first = time_decode(0, random);  // slower than those that follow
    Calibration calibration(widest, seconds, first.verify);
    while (const std::optional<int32_t> width = calibration.next()) {
      const Seconds took = time_decode(*width, random);
      calibration.took(took.verify, took.draft);
    }
    calibration.tell(controller_->costs());
  });
  discard();
}

// Of tokens that differ, as those of a text do: a mixture of experts takes longer over them.
Session::Seconds Session::time_decode(int32_t width, std::minstd_rand& random) {
  std::uniform_int_distribution<Token> any(0, verifier_.n_vocab() - 1);
  std::vector<Token> tokens(static_cast<size_t>(width) + 1);
  for (Token& token : tokens) token = any(random);
  Seconds took;
  took.verify = seconds_of([&] { verifier_.decode(tokens.data(), width + 1, 0, Rows::all); });
  if (width > 0) {
    took.draft = seconds_of([&] { drafter_->draft(tokens[0], 0, width, draft_); });
  }
  if (!verifier_.trim(0)) throw BackendError("the verifier's memory could not be emptied");
  return took;
}

// ---- keeping the memories in agreement -----------------------------------------------------

// Both memories end where the timeline ends. One that drops all or nothing is emptied, and the
// timeline with it: the next request reads its prompt from the start.
void Session::trim_memories() {
  ahead_ = true;  // until all went well: else the next call tries again
  if (!verifier_.trim(n_past_)) {
    tokens_.clear();
    n_past_ = 0;
    logits_live_ = false;
    if (!verifier_.trim(0)) throw BackendError("the verifier's memory could not be emptied");
  }
  trim_drafter();
  ahead_ = false;
}

void Session::trim_drafter() {
  if (drafter_ == nullptr) return;
  keep_features(n_past_);
  drafter_->trim(n_injected());
  if (n_forgotten_ > 0) drafter_->forget(n_forgotten_);
}

// What a failed call may have left in the memories past the timeline goes.
template <class Work>
void Session::guarded(Work work) {
  try {
    work();
  } catch (const Cancelled&) {
    stop_->clear();  // it is told once
    go_back();
    throw;
  } catch (...) {
    go_back();
    throw;
  }
}

void Session::go_back() {
  ahead_ = true;
  try {
    discard();
  } catch (...) {  // the first failure is the one to tell
  }
}

std::string Session::save_drafter() {
  if (!proposed_) discard();
  if (drafter_ == nullptr) return {};
  const Stop::Pause pause(*stop_);  // it comes between two steps of an answer: they are to stop
  guarded([&] { inject_waiting(); });
  std::string state(kStateMark);
  state.append(reinterpret_cast<const char*>(&n_forgotten_), sizeof n_forgotten_);
  return state.append(drafter_->save());
}

void Session::load_drafter(const std::string& state, int32_t n_features) {
  discard();
  if (drafter_ == nullptr) return;
  if (n_features < 0 || n_features > n_past_) {
    throw std::invalid_argument("a drafter state of " + std::to_string(n_features) +
                                " positions does not fit a timeline of " + std::to_string(n_past_));
  }
  const SavedDrafter saved = parse_saved(state);
  n_features_ = 0;
  n_forgotten_ = 0;
  untold_from_ = kNowhere;
  waiting_.clear();
  guarded([&] {
    drafter_->load(saved.memory);
    drafter_->trim(n_features);
    n_features_ = n_features;
    n_forgotten_ = std::min(saved.n_forgotten, n_features);
    fit_drafter();
  });
}

}  // namespace dflash
