#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/drafting.h"
#include "core/features.h"
#include "core/models.h"
#include "core/pair.h"
#include "core/stats.h"

namespace dflash {

struct SessionOptions {
  static constexpr int32_t kAdaptive = -1;
  static constexpr int32_t kWidest = std::numeric_limits<int32_t>::max();
  /// Drafts a step, at most as many as the drafter gives (block_size - 1). 0: plain decoding.
  /// kAdaptive: decided step by step, for the most tokens a second; not all of a block need be
  /// verified then, and a draft may be copied from the text instead.
  int32_t width = kAdaptive;
  /// Bytes of features that may wait until a block is drafted.
  size_t most_waiting = 32 << 20;
};

/// Why the answer cannot go on after a step.
enum class Finish { none, end_of_generation, context_full };

struct StepResult {
  std::vector<Token> tokens;  ///< emitted: accepted drafts, then the correction or the bonus
  int32_t n_drafted = 0;
  int32_t n_accepted = 0;
  Finish finish = Finish::none;
};

/// One timeline over a pair: draft, verify, keep the longest valid prefix. What belongs to a
/// sequence is in here, what sequences share is the pair's.
///
/// The transcript is `tokens()`. The verifier's memory holds the first `n_past()` of them, the
/// drafter's, or rows that wait for it, the features of the first `n_features()` but for the oldest
/// `n_forgotten()` (see Features). At width 0 no features are read: once the width is another,
/// drafts begin after what is emitted from then on, and keep_prefix() gives back what the drafter
/// has not seen of the next prompt, to be read again. Between two calls one of these holds:
///
///   read      n_past == tokens.size(). If logits_live(), the logits after the last token are at
///             hand and the next step samples from them; else it takes the last token as anchor.
///   anchored  n_past == tokens.size() - 1. The last token was emitted and is the anchor: the next
///             step drafts after it and decodes it together with the draft.
///   proposed  anchored, and anchor and draft are decoded: rows wait for commit() or discard().
///
/// A verifier's memory that goes back only once (Verifier::trims_once) may hold rejected drafts
/// past n_past() until the next call that decodes: the caller may still go further back.
///
/// Strong guarantee: when a call throws, the session is back in its last read or anchored state
/// (a long read keeps the chunks that were done, a rewind stays done), and both memories agree with
/// it; where trimming a memory failed too, the next call does that first. A verifier whose memory
/// cannot drop a part of a sequence may lose the whole timeline instead: n_past() is 0 then, and
/// the next prompt is read from the start.
class Session {
 public:
  /// Called between two chunks of a long read; what it throws ends the read.
  using Progress = std::function<void()>;

  /// The pair must outlive the session. Without a drafter it decodes plainly. `stop` ends its work;
  /// one of its own without.
  Session(Pair& pair, SessionOptions options,
          std::shared_ptr<Stop> stop = std::make_shared<Stop>());
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  /// Makes the timeline exactly `prompt`: keeps the common prefix, reads the rest.
  void sync(const std::vector<Token>& prompt, const Progress& progress = {});
  /// The first half of sync(): keeps what `prompt` and the timeline share, gives its length. At
  /// least one token is left to read, unless the logits after the whole prompt are at hand; more
  /// where some of it was read at width 0, and the drafter is to see it now.
  int32_t keep_prefix(const std::vector<Token>& prompt);
  /// Reads tokens after the timeline (a pending anchor is dropped).
  void extend(const Token* tokens, int32_t n, Rows rows = Rows::last,
              const Progress& progress = {});
  /// Goes back to the first `n_tokens` tokens, n_tokens <= n_past(); gives the length reached: less
  /// (0) only with a verifier whose memory cannot drop a part of a sequence.
  int32_t rewind(int32_t n_tokens);
  /// Brings the timeline in line with what the caller knows the verifier's memory to hold. Fewer
  /// tokens are a rewind. Others were put there by somebody else, without features: steps are
  /// plain then, see features_missing().
  void align(const std::vector<Token>& tokens);

  /// One step, all in here: emits between 1 and width + 1 tokens, at most `max_tokens`. The
  /// caller's own `draft`, if given, takes the place of the drafter's.
  StepResult step(Sampler& sampler, std::optional<int32_t> max_tokens = {},
                  const std::optional<std::vector<Token>>& draft = {});

  /// The same step row by row. propose() drafts (or takes the caller's draft), decodes anchor and
  /// draft, and gives the draft; rows 0 .. size are then the verifier's. A sampler has its say in
  /// what is drafted; it samples nothing.
  const Draft& propose(const std::optional<std::vector<Token>>& draft = {},
                       std::optional<int32_t> max_tokens = {}, Sampler* sampler = nullptr);
  /// Ends the step with the tokens that were emitted: a prefix of the draft, then one more.
  StepResult commit(const std::vector<Token>& emitted);
  /// Ends the step as if it had not begun (see the guarantee above).
  void discard();
  /// Makes `token`, sampled by the caller from the live logits, the anchor.
  void anchor(Token token);

  /// Of the tokens that the last step emitted, or of the anchor, the last `n` are not handed out,
  /// or not yet: statistics leave them out. Without a word all of them are.
  void withhold(int32_t n);

  /// Measures what decodes cost by width, on a session that has read nothing yet; takes about so
  /// long. Without it costs are learned as widths are tried.
  void calibrate(double seconds);
  /// What is known of costs and acceptance; null without a drafter.
  const Controller* controller() const { return drafting_.controller(); }
  Controller* controller() { return drafting_.controller(); }
  /// Goes on with what was known earlier, and nothing else: Costs::restore(), Chances::restore().
  void restore(const std::vector<KnownCosts>& costs, const std::vector<double>& accepted);
  /// Which widths are exact. Where no others are verified, prompts are read as plain decoding reads
  /// them: nothing is read again that it would not read again, and in the same pieces.
  void set_exact(const ExactWidths& exact);

  /// The drafter's memory as bytes, and back; load_drafter() makes `n_features` of them valid.
  std::string save_drafter();
  void load_drafter(const std::string& state, int32_t n_features);

  /// Ends the call that decodes, in another thread, with Cancelled; where none does, the next step
  /// or read of this answer. sync() and start_answer() begin anew.
  void cancel() { stop_->request(); }
  /// Statistics of an answer begin here, and what was cancelled before does not reach it.
  void start_answer() {
    account_.start_answer();
    stop_->clear();
  }

  const std::vector<Token>& tokens() const { return tokens_; }
  int32_t n_past() const { return n_past_; }
  int32_t n_features() const { return features_.end(); }
  /// Positions at the beginning that the drafter knows nothing of any more.
  int32_t n_forgotten() const { return features_.n_forgotten(); }
  /// Positions up to which the drafter has taken features in.
  int32_t n_injected() const { return features_.n_injected(); }
  bool logits_live() const { return logits_live_; }
  bool anchored() const { return static_cast<int32_t>(tokens_.size()) == n_past_ + 1; }
  /// Whether the drafter lacks features of tokens that the verifier holds: steps are plain then.
  bool features_missing() const { return features_.missing(n_past_); }
  const SessionOptions& options() const { return options_; }
  void set_width(int32_t width) { options_.width = width; }
  const Draft& draft() const { return drafting_.draft(); }
  const Stats& last_stats() const { return account_.last(); }
  const Stats& total_stats() const { return account_.total(); }

 private:
  /// Positions that were decoded at once.
  struct Piece {
    int32_t begin = 0;
    int32_t end = 0;
  };

  StepResult first_step(Sampler& sampler);
  void anchor_last();
  int32_t kept_by_plain(int32_t keep, bool is_whole) const;
  void adopt(const std::vector<Token>& tokens, int32_t n_agreed);
  void read_chunk(const Token* tokens, int32_t n, Rows rows);
  bool wants_features() const;
  void decode(const Token* tokens, int32_t n, Rows rows);
  void take_features(int32_t n);
  StepStart step_start(std::optional<int32_t> max_tokens) const;
  void decode_block();
  void check_emitted(const std::vector<Token>& emitted) const;
  void drop_rejected(int32_t n_kept);
  void end_step();
  void text_changed();
  void trim_memories();
  template <class Work>
  void guarded(Work work);
  void go_back();
  Finish finish_after(Token token) const;

  Pair& pair_;
  Verifier& verifier_;
  SessionOptions options_;
  std::shared_ptr<Stop> stop_;
  Account account_;
  Features features_;
  Drafting drafting_;

  std::vector<Token> tokens_;
  int32_t n_past_ = 0;
  int32_t n_expected_ = 0;  // tokens of the prompt that is being read
  Piece last_read_;         // what was read last, while all of it is held
  bool logits_live_ = false;
  bool proposed_ = false;
  // The memories hold, or may hold, more than the timeline: at first what others left there.
  bool ahead_ = true;
  // Of the step at work:
  std::vector<Token> block_;  // anchor and draft, as they are decoded
  double verify_seconds_ = 0;
};

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

}  // namespace dflash
