#include "core/session.h"

#include <algorithm>

#include "core/accept.h"
#include "core/clock.h"
#include "core/errors.h"
#include "core/tokens.h"

namespace dflash {

namespace {

constexpr const char* kNothing = "nothing to go on from: sync() a prompt first";

void check_limit(std::optional<int32_t> max_tokens) {
  if (max_tokens && *max_tokens < 1) throw std::invalid_argument("max_tokens must be at least 1");
}

}  // namespace

Session::Session(Pair& pair, SessionOptions options, std::shared_ptr<Stop> stop)
    : pair_(pair),
      verifier_(pair.verifier()),
      options_(options),
      stop_(std::move(stop)),
      features_(pair, options.most_waiting, account_),
      drafting_(pair, features_, account_) {
  pair_.watch(*stop_);
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
  const Draft& proposed = propose(draft, max_tokens, &sampler);
  std::vector<Token> emitted;
  guarded([&] {
    const Stopwatch watch = account_.watch(&Stats::seconds_sample);
    emitted = longest_valid_prefix(
        proposed.tokens, [&](int32_t row) { return sampler.sample(row); },
        [&](Token token) { return verifier_.is_eog(token); });
  });
  return commit(emitted);
}

// The first token of an answer comes from the logits the prompt left behind: no decode, no draft.
StepResult Session::first_step(Sampler& sampler) {
  Token token = 0;
  {
    const Stopwatch watch = account_.watch(&Stats::seconds_sample);
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
  account_.count_first();
}

void Session::withhold(int32_t n) {
  if (n < 0 || n > account_.n_emitted()) {
    throw std::invalid_argument("withhold(" + std::to_string(n) + "): the last step emitted " +
                                std::to_string(account_.n_emitted()) + " tokens");
  }
  account_.withhold(n);
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
  const StepStart start = step_start(max_tokens);
  guarded([&] {
    n_expected_ = 0;
    drafting_.make(start, draft, sampler);
    decode_block();
  });
  proposed_ = true;
  ahead_ = true;
  return drafting_.draft();
}

// After a read whose logits are gone the last token is the anchor: a step decodes it again.
void Session::anchor_last() {
  if (tokens_.empty()) throw std::invalid_argument(kNothing);
  if (logits_live_) throw std::logic_error("propose() needs an anchor: step() or anchor() first");
  n_past_ -= 1;
  ahead_ = true;
}

StepStart Session::step_start(std::optional<int32_t> max_tokens) const {
  check_limit(max_tokens);
  const int32_t room = pair_.room(n_past_);
  const bool adaptive = options_.width == SessionOptions::kAdaptive;
  return {tokens_, n_past_, max_tokens ? std::min(room, *max_tokens - 1) : room,
          adaptive ? std::optional<int32_t>() : options_.width};
}

// At width 0 nobody asks for them.
bool Session::wants_features() const {
  return pair_.drafter() != nullptr && options_.width != 0;
}

void Session::decode(const Token* tokens, int32_t n, Rows rows) {
  features_.tap(wants_features());
  verifier_.decode(tokens, n, n_past_, rows);
}

// Features of the first n rows of the last decode, which stand at n_past_. Over a gap there is
// nothing to take: the positions in the drafter's memory have to follow one another.
void Session::take_features(int32_t n) {
  if (!features_missing()) features_.take(n, n_expected_);
}

void Session::decode_block() {
  block_.assign(1, tokens_.back());
  block_.insert(block_.end(), draft().tokens.begin(), draft().tokens.end());
  logits_live_ = false;
  verify_seconds_ = seconds_of([&] {
    const Stopwatch watch = account_.watch(&Stats::seconds_verify);
    decode(block_.data(), size_of(block_), Rows::all);
  });
}

StepResult Session::commit(const std::vector<Token>& emitted) {
  check_emitted(emitted);
  StepResult result;
  result.tokens = emitted;
  result.n_drafted = size_of(draft().tokens);
  result.n_accepted = count_accepted(draft().tokens, emitted);
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
  drafting_.stepped(emitted, verify_seconds_);
  account_.count_step(drafting_.n_block(), result.n_drafted, result.n_accepted, n_kept);
  result.finish = finish_after(result.tokens.back());
  return result;
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
  const int32_t n_accepted = count_accepted(draft().tokens, emitted);
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
  drafting_.drop();
}

// Another text comes, or an earlier place of this one.
void Session::text_changed() {
  if (controller() != nullptr) controller()->text_changed();
}

Finish Session::finish_after(Token token) const {
  if (verifier_.is_eog(token)) return Finish::end_of_generation;
  return n_past_ >= verifier_.n_ctx() ? Finish::context_full : Finish::none;
}

// ---- what decodes cost, and which are plain decoding's to the bit ---------------------------

void Session::set_exact(const ExactWidths& exact) {
  pair_.terms().exact = exact;
}

void Session::restore(const std::vector<KnownCosts>& costs, const std::vector<double>& accepted) {
  if (controller() == nullptr) return;
  Costs known(pair_.terms().costs.max_width());
  known.restore(costs);
  Controller begun(pair_.terms());
  begun.chances().restore(accepted);
  pair_.terms().costs = std::move(known);
  drafting_.set_controller(std::move(begun));
}

void Session::calibrate(double seconds) {
  if (!tokens_.empty()) throw std::logic_error("calibrate() comes before the first prompt");
  if (pair_.drafter() == nullptr) return;
  discard();  // what others left in the memories
  ahead_ = true;
  guarded([&] { pair_.calibrate(seconds); });
  discard();
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
  features_.trim(n_past_);
  ahead_ = false;
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
  if (pair_.drafter() == nullptr) return {};
  const Stop::Pause pause(*stop_);  // it comes between two steps of an answer: they are to stop
  guarded([&] { features_.inject(); });
  return features_.save();
}

void Session::load_drafter(const std::string& state, int32_t n_features) {
  discard();
  if (pair_.drafter() == nullptr) return;
  if (n_features < 0 || n_features > n_past_) {
    throw std::invalid_argument("a drafter state of " + std::to_string(n_features) +
                                " positions does not fit a timeline of " + std::to_string(n_past_));
  }
  const SavedFeatures saved = SavedFeatures::parse(state);
  features_.clear();
  guarded([&] { features_.load(saved, n_features); });
}

}  // namespace dflash
