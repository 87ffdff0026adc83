// What a session does between steps: it reads, goes back, and takes over what others read.

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/errors.h"
#include "core/session.h"
#include "core/tokens.h"

namespace dflash {

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
  const bool exact_only = pair_.terms().exact.only();
  if (exact_only) {
    keep = kept_by_plain(keep, is_whole);
  } else if (is_whole) {
    keep -= 1;
  }
  if (wants_features() && !exact_only) {
    // What was read at width 0 is read again, as far back as the drafter sees.
    keep = std::min(keep, features_.take_untold(size_of(prompt)));
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
    const Stopwatch watch = account_.watch(&Stats::seconds_prefill);
    decode(tokens, n, rows);
  }
  take_features(n);
  tokens_.insert(tokens_.end(), tokens, tokens + n);
  last_read_ = {n_past_, n_past_ + n};
  n_past_ += n;
  logits_live_ = true;
  account_.count_prompt(n);
}

int32_t Session::rewind(int32_t n_tokens) {
  if (n_tokens < 0 || n_tokens > n_past_) {
    throw std::invalid_argument("rewind to " + std::to_string(n_tokens) + ": the session holds " +
                                std::to_string(n_past_) + " tokens");
  }
  end_step();
  text_changed();
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
    features_.trim(n_past_);  // the verifier's turn comes when it is known how far back it goes
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
  features_.keep(n_agreed);
  text_changed();
  tokens_ = tokens;
  n_past_ = size_of(tokens_);
  n_expected_ = 0;
  last_read_ = {};
  logits_live_ = false;
  end_step();
  trim_memories();
}

}  // namespace dflash
