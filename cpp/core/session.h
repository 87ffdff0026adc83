#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/controller.h"
#include "core/exact_widths.h"
#include "core/models.h"
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

/// One timeline over a verifier and a drafter: draft, verify, keep the longest valid prefix.
///
/// The transcript is `tokens()`. The verifier's memory holds the first `n_past()` of them, the
/// drafter's, or rows that wait for it, the features of the first `n_features()` but for the oldest
/// `n_forgotten()`: they are injected before a block is drafted, so that plain decoding costs
/// nothing more. The oldest are dropped where the drafter has no room for them; and, with the
/// drafter's whole memory, where too many wait and drafting has not paid for long. At width 0 no
/// features are read: once the width is another, drafts begin after what is emitted from then on,
/// and keep_prefix() gives back what the drafter has not seen of the next prompt, to be read again.
/// Between two calls one of these holds:
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

  /// Both models must outlive the session. Without a drafter it decodes plainly. `stop` ends its
  /// work; one of its own without.
  Session(Verifier& verifier, Drafter* drafter, SessionOptions options,
          std::shared_ptr<Stop> stop = std::make_shared<Stop>());

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
  /// What is known of costs and acceptance; nothing without a drafter.
  const Controller* controller() const { return controller_ ? &*controller_ : nullptr; }
  Controller* controller() { return controller_ ? &*controller_ : nullptr; }
  /// Goes on with what was known earlier.
  void restore(Controller known);
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
    last_ = Stats{};
    emission_ = {};
    n_withheld_ = 0;
    stop_->clear();
  }

  const std::vector<Token>& tokens() const { return tokens_; }
  int32_t n_past() const { return n_past_; }
  int32_t n_features() const { return n_features_; }
  /// Positions at the beginning that the drafter knows nothing of any more.
  int32_t n_forgotten() const { return n_forgotten_; }
  /// Positions up to which the drafter has taken features in.
  int32_t n_injected() const { return drafter_ == nullptr ? 0 : n_features_ - n_waiting(); }
  bool logits_live() const { return logits_live_; }
  bool anchored() const { return static_cast<int32_t>(tokens_.size()) == n_past_ + 1; }
  /// Whether the drafter lacks features of tokens that the verifier holds: steps are plain then.
  bool features_missing() const { return drafter_ != nullptr && n_features_ < n_past_; }
  const SessionOptions& options() const { return options_; }
  void set_width(int32_t width) { options_.width = width; }
  const Draft& draft() const { return draft_; }
  const Stats& last_stats() const { return last_; }
  const Stats& total_stats() const { return total_; }

 private:
  /// Of one decode of each model.
  struct Seconds {
    double verify = 0;
    double draft = 0;
  };

  /// Positions that were decoded at once.
  struct Piece {
    int32_t begin = 0;
    int32_t end = 0;
  };

  StepResult first_step(Sampler& sampler);
  Seconds time_decode(int32_t width, std::minstd_rand& random);
  void anchor_last();
  int32_t kept_by_plain(int32_t keep, bool is_whole) const;
  void adopt(const std::vector<Token>& tokens, int32_t n_agreed);
  void read_chunk(const Token* tokens, int32_t n, Rows rows);
  bool wants_features() const;
  void decode(const Token* tokens, int32_t n, Rows rows);
  void take_features(int32_t n);
  int32_t n_unneeded(int32_t n) const;
  void free_waiting();
  void inject_waiting();
  void catch_up();
  void fit_drafter();
  void forget(int32_t n);
  bool idle() const;
  int32_t n_waiting() const;
  int32_t most_waiting() const;
  void keep_features(int32_t n);
  int32_t room(std::optional<int32_t> max_tokens) const;
  Plan make_plan(int32_t n_room, const Sampler* sampler);
  void copy_draft(int32_t n);
  void cut_to_exact();
  void make_draft(const std::optional<std::vector<Token>>& given, int32_t room, Sampler* sampler);
  void decode_block();
  void check_emitted(const std::vector<Token>& emitted) const;
  void count_idle(int32_t n_emitted);
  void drop_rejected(int32_t n_kept);
  void end_step();
  void trim_memories();
  void trim_drafter();
  template <class Work>
  void guarded(Work work);
  void go_back();
  Finish finish_after(Token token) const;

  Verifier& verifier_;
  Drafter* drafter_;
  SessionOptions options_;
  std::vector<Token> tokens_;
  int32_t n_past_ = 0;
  int32_t n_features_ = 0;
  int32_t n_forgotten_ = 0;
  static constexpr int32_t kNowhere = std::numeric_limits<int32_t>::max();
  int32_t untold_from_ = kNowhere;  // position from which on width 0 told the drafter nothing
  int32_t n_expected_ = 0;          // tokens of the prompt that is being read
  Piece last_read_;                 // what was read last, while all of it is held
  int32_t tokens_idle_ = 0;         // emitted since a block was drafted that promised to pay
  bool tapped_ = false;             // the last decode gave features
  bool logits_live_ = false;
  bool proposed_ = false;
  // The memories hold, or may hold, more than the timeline: at first what others left there.
  bool ahead_ = true;
  Draft draft_;
  Plan plan_;  // of the step at work
  Lookup lookup_;
  Draft drafted_;             // the same before it was cut to what is verified
  bool measured_ = false;     // the step is one that the controller learns from
  double draft_seconds_ = 0;  // of the step at work
  double verify_seconds_ = 0;
  std::vector<Token> block_;    // anchor and draft, as they are decoded
  std::vector<float> waiting_;  // features that the drafter has not taken in, rows of n_features
  std::optional<Controller> controller_;
  ExactWidths exact_;
  std::shared_ptr<Stop> stop_;
  Stats last_;
  Stats total_;
  Emission emission_;  // of the last step
  int32_t n_withheld_ = 0;
};

}  // namespace dflash
