#include "core/session.h"

#include <algorithm>

#include "core/accept.h"
#include "core/errors.h"
#include "core/width.h"

namespace dflash {

namespace {

int32_t size_of(const std::vector<Token>& tokens) {
  return static_cast<int32_t>(tokens.size());
}

int32_t common_prefix(const std::vector<Token>& a, const std::vector<Token>& b) {
  const size_t n = std::min(a.size(), b.size());
  const auto end = a.begin() + static_cast<std::ptrdiff_t>(n);
  return static_cast<int32_t>(std::mismatch(a.begin(), end, b.begin()).first - a.begin());
}

void check_limit(std::optional<int32_t> max_tokens) {
  if (max_tokens && *max_tokens < 1) throw std::invalid_argument("max_tokens must be at least 1");
}

}  // namespace

Session::Session(Verifier& verifier, Drafter* drafter, SessionOptions options)
    : verifier_(verifier), drafter_(drafter), options_(options) {
  if (drafter_ != nullptr && drafter_->n_features() != verifier_.n_features()) {
    throw std::invalid_argument(
        "the drafter takes rows of " + std::to_string(drafter_->n_features()) +
        " features, the verifier gives " + std::to_string(verifier_.n_features()) +
        ": its feature_layers are not the drafter's target layers");
  }
}

// ---- reading -------------------------------------------------------------------------------

void Session::sync(const std::vector<Token>& prompt, const Progress& progress) {
  const int32_t kept = keep_prefix(prompt);
  extend(prompt.data() + kept, size_of(prompt) - kept, Rows::last, progress);
}

int32_t Session::keep_prefix(const std::vector<Token>& prompt) {
  if (prompt.empty()) throw std::invalid_argument("the prompt is empty: it needs a token");
  int32_t keep = std::min(common_prefix(tokens_, prompt), n_past_);
  const bool logits_at_hand = logits_live_ && n_past_ == keep;
  if (keep == size_of(prompt) && !logits_at_hand) keep -= 1;
  return rewind(keep);
}

void Session::extend(const Token* tokens, int32_t n, Rows rows, const Progress& progress) {
  cancelled_ = false;
  if (n == 0) return;
  const int32_t after = n_past_;
  if (rewind(after) < after) {
    throw BackendError(
        "the step that was discarded took the timeline with it, the verifier's memory cannot drop "
        "a part: sync() the whole prompt");
  }
  if (n > verifier_.n_ctx() - n_past_) {
    throw ContextError("no room for " + std::to_string(n) + " tokens after " +
                       std::to_string(n_past_) + " in a context of " +
                       std::to_string(verifier_.n_ctx()) + ": shorten the prompt or raise n_ctx");
  }
  const int32_t chunk =
      rows == Rows::all ? std::min(verifier_.n_batch(), verifier_.max_rows()) : verifier_.n_batch();
  for (int32_t done = 0; done < n;) {
    if (progress && done > 0) progress();
    if (cancelled_.exchange(false)) throw Cancelled("cancelled while reading the prompt");
    const int32_t n_now = std::min(chunk, n - done);
    guarded([&] { read_chunk(tokens + done, n_now, rows); });
    done += n_now;
  }
}

void Session::read_chunk(const Token* tokens, int32_t n, Rows rows) {
  logits_live_ = false;
  {
    const Stopwatch watch(last_.seconds_prefill, total_.seconds_prefill);
    verifier_.decode(tokens, n, n_past_, rows);
  }
  inject_rows(n);
  tokens_.insert(tokens_.end(), tokens, tokens + n);
  n_past_ += n;
  logits_live_ = true;
  last_.n_prompt += n;
  total_.n_prompt += n;
}

// Features of the first n rows of the last decode, which stand at n_past_. Over a gap there is
// nothing to inject: the drafter's memory has to be contiguous from position 0.
void Session::inject_rows(int32_t n) {
  if (drafter_ == nullptr || features_missing()) return;
  const Stopwatch watch(last_.seconds_inject, total_.seconds_inject);
  const int32_t chunk = std::min(n, drafter_->max_inject());
  features_.resize(static_cast<size_t>(chunk) * static_cast<size_t>(verifier_.n_features()));
  for (int32_t row = 0; row < n; row += chunk) {
    const int32_t n_now = std::min(chunk, n - row);
    verifier_.features(row, n_now, features_.data());
    drafter_->inject(features_.data(), n_now, n_past_ + row);
  }
  n_features_ += n;
}

int32_t Session::rewind(int32_t n_tokens) {
  if (n_tokens < 0 || n_tokens > n_past_) {
    throw std::invalid_argument("rewind to " + std::to_string(n_tokens) + ": the session holds " +
                                std::to_string(n_past_) + " tokens");
  }
  discard();
  tokens_.resize(static_cast<size_t>(n_past_));  // a pending anchor goes
  if (n_tokens >= n_past_) return n_past_;
  tokens_.resize(static_cast<size_t>(n_tokens));
  n_past_ = n_tokens;
  logits_live_ = false;
  trim_memories();
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
  tokens_ = tokens;
  n_past_ = size_of(tokens_);
  n_features_ = std::min(n_features_, n_agreed);
  logits_live_ = false;
  proposed_ = false;
  draft_.clear();
  trim_memories();
}

// ---- stepping ------------------------------------------------------------------------------

StepResult Session::step(Sampler& sampler, std::optional<int32_t> max_tokens,
                         const std::optional<std::vector<Token>>& draft) {
  check_limit(max_tokens);
  discard();
  if (!anchored() && logits_live_) return first_step(sampler);
  propose(draft, max_tokens);
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
  last_.n_tokens += 1;
  total_.n_tokens += 1;
}

const Draft& Session::propose(const std::optional<std::vector<Token>>& draft,
                              std::optional<int32_t> max_tokens) {
  discard();
  if (!anchored()) anchor_last();
  const int32_t n_room = room(max_tokens);
  guarded([&] {
    make_draft(draft, n_room);
    decode_block();
  });
  proposed_ = true;
  ahead_ = true;
  return draft_;
}

// After a read whose logits are gone the last token is the anchor: a step decodes it again.
void Session::anchor_last() {
  if (tokens_.empty()) throw std::invalid_argument("nothing to go on from: sync() a prompt first");
  if (logits_live_) throw std::logic_error("propose() needs an anchor: step() or anchor() first");
  n_past_ -= 1;
  trim_memories();
  if (!anchored()) {
    throw BackendError(
        "the verifier's memory cannot drop the last token to give its logits again: sync() the "
        "whole prompt");
  }
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

void Session::make_draft(const std::optional<std::vector<Token>>& given, int32_t n_room) {
  draft_.clear();
  if (given) {
    const auto n = std::min(given->size(), static_cast<size_t>(n_room));
    draft_.tokens.assign(given->begin(), given->begin() + static_cast<std::ptrdiff_t>(n));
    return;
  }
  if (drafter_ == nullptr || n_room == 0) return;
  // The caller's limit cuts the draft, not the block: with fewer masks in it the drafter would
  // propose other tokens.
  const int32_t width =
      choose_width({options_.width, drafter_->max_width(), room({}), !features_missing()});
  if (width == 0) return;
  const Stopwatch watch(last_.seconds_draft, total_.seconds_draft);
  drafter_->draft(tokens_.back(), n_past_, width, draft_);
  draft_.cut(static_cast<size_t>(n_room));
}

void Session::decode_block() {
  block_.assign(1, tokens_.back());
  block_.insert(block_.end(), draft_.tokens.begin(), draft_.tokens.end());
  logits_live_ = false;
  const Stopwatch watch(last_.seconds_verify, total_.seconds_verify);
  verifier_.decode(block_.data(), size_of(block_), n_past_, Rows::all);
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
    inject_rows(n_kept);
    drop_rejected(n_kept);
    tokens_.insert(tokens_.end(), emitted.begin(), emitted.end());
  });
  n_past_ += n_kept;
  proposed_ = false;
  ahead_ = false;
  last_.count_step(result.n_drafted, result.n_accepted, n_kept);
  total_.count_step(result.n_drafted, result.n_accepted, n_kept);
  result.finish = finish_after(result.tokens.back());
  return result;
}

void Session::drop_rejected(int32_t n_kept) {
  if (n_kept == size_of(block_) || verifier_.trim(n_past_ + n_kept)) return;
  throw BackendError(
      "the verifier's memory cannot drop rejected drafts: its context needs n_rs_seq of at least "
      "the width");
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
  proposed_ = false;
  draft_.clear();
  trim_memories();
}

Finish Session::finish_after(Token token) const {
  if (verifier_.is_eog(token)) return Finish::end_of_generation;
  return n_past_ >= verifier_.n_ctx() ? Finish::context_full : Finish::none;
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
  n_features_ = std::min(n_features_, n_past_);
  if (drafter_ != nullptr) drafter_->trim(n_features_);
  ahead_ = false;
}

// What a failed call may have left in the memories past the timeline goes.
template <class Work>
void Session::guarded(Work work) {
  try {
    work();
  } catch (...) {
    ahead_ = true;
    try {
      discard();
    } catch (...) {  // the first failure is the one to tell
    }
    throw;
  }
}

std::string Session::save_drafter() {
  return drafter_ == nullptr ? std::string() : drafter_->save();
}

void Session::load_drafter(const std::string& state, int32_t n_features) {
  discard();
  if (drafter_ == nullptr) return;
  if (n_features < 0 || n_features > n_past_) {
    throw std::invalid_argument("a drafter state of " + std::to_string(n_features) +
                                " positions does not fit a timeline of " + std::to_string(n_past_));
  }
  n_features_ = 0;
  guarded([&] {
    drafter_->load(state);
    drafter_->trim(n_features);
  });
  n_features_ = n_features;
}

}  // namespace dflash
