#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/chances.h"
#include "core/lookup.h"
#include "core/models.h"
#include "core/terms.h"

namespace dflash {

/// What a step did.
struct StepSeen {
  const Draft& draft;  ///< the drafter's, also what was not verified; empty where it drafted none
  int32_t n_verified;  ///< drafts decoded beside the anchor
  const std::vector<Token>& emitted;
  double draft_seconds;
  double verify_seconds;
};

/// What to do in a step: copy from the text, draft a block, or, with both 0, decode plainly.
struct Plan {
  int32_t copy = 0;    ///< tokens of the lookup to verify
  int32_t block = 0;   ///< tokens to ask of the drafter
  bool probe = false;  ///< a block that is likely to lose, drafted to see whether that is still so
};

/// How much of what to verify.
struct Verdict {
  int32_t width = 0;
  bool copy = false;  ///< of the lookup, not of the draft
};

/// Decides how wide to draft and how much of a draft to verify, for the most tokens a second of one
/// text. What decodes cost is the pair's and shared; what the text makes of drafts is its own.
///
/// Time is worth tokens: those that the present rate would emit in it. A verify of w drafts gains
/// the tokens it is likely to emit less the worth of its time; a block is drafted when what such
/// blocks gained of late, over a plain step, exceeds the worth of the time that drafting takes.
/// Where nothing is to be gained it decodes plainly, and drafts a block now and then from a budget,
/// a small share of the time that has passed; what the text then says tells whether it was right,
/// verified or not.
///
/// Widths whose rows are plain decoding's to the bit are preferred by a little, or the only ones.
class Controller {
 public:
  /// `terms` must outlive it; it learns what decodes cost.
  explicit Controller(Terms& terms);

  /// The coming decodes stand in a context of so many tokens.
  void enter(int32_t n_past);

  /// What to do in the coming step. `room`: drafts that may be verified; `lookup`: what the text
  /// itself proposes; `catch_up`: seconds that the drafter needs to take in what it has not seen.
  Plan choose(int32_t room, const Lookup& lookup = {}, double catch_up = 0);
  /// How much to verify of a block that was drafted, or of the lookup of its plan.
  Verdict choose_verify(const Draft& draft, int32_t room);
  /// Learns from a step, whoever chose its widths.
  void stepped(const StepSeen& step);
  /// What comes next is another text, or an earlier place of this one: old drafts say nothing of
  /// it.
  void text_changed() { open_.clear(); }

  Costs& costs() { return terms_->costs; }
  const Costs& costs() const { return terms_->costs; }
  Chances& chances() { return chances_; }
  const Chances& chances() const { return chances_; }

 private:
  /// Costs as they are believed to be, or as low as they may well be.
  enum class View { likely, hopeful };
  /// What a block brings over a plain step, in tokens, the time of drafting not counted.
  struct Gain {
    double tokens = 0;
    double hoped = 0;
    double weight = 0;  // blocks it is the mean of
  };
  /// A draft that the text has not contradicted yet.
  struct Open {
    Draft draft;
    size_t next = 0;
  };
  struct Choice {
    int32_t width = 0;
    double tokens = 0;
  };
  /// A width that is verified to see what it costs.
  struct Look {
    int32_t width = 0;
    double tokens = 0;   // that it is likely to emit beside the anchor's
    double instead = 0;  // what the best width was likely to gain
  };

  /// What the coming decodes cost, in seconds, by width.
  struct Prices {
    std::vector<double> verify;
    std::vector<double> draft;
  };

  double rate() const;
  void set_prices();
  double hope_of(double doubt) const;
  const Prices& prices(View view) const { return view == View::likely ? likely_ : hoped_; }
  double verify(int32_t width, double hope = 0) const;
  Choice best_block(int32_t room, double rate, double catch_up, View view = View::likely) const;
  bool plain_may_be_better(const Choice& best, double rate) const;
  int32_t look_at_block(const Choice& best, int32_t room, double rate, double catch_up);
  bool may_probe(double seconds);
  double worth(int32_t block, int32_t room, double rate, View view) const;
  std::vector<double> chances_of(const Draft& draft, int32_t block) const;
  std::vector<double> chances_of(const Lookup& lookup) const;
  Choice best_verify(const std::vector<double>& chances, int32_t room, double rate,
                     View view = View::likely) const;
  double gain(Choice verified, double seconds, double rate) const;
  int32_t wider(int32_t block, int32_t room);
  int32_t look(const Choice& best, const std::vector<double>& chances, int32_t room, double rate);
  void pay_look(double change);
  void judge(Token token);

  Terms* terms_;
  int32_t n_past_ = 0;
  Prices likely_;
  Prices hoped_;
  Chances chances_;
  std::vector<Gain> gains_;  // by width of the block
  std::vector<Open> open_;
  Copies copies_;
  Lookup lookup_;  // of the step at work
  double recent_tokens_ = 0;
  double recent_seconds_ = 0;
  int32_t n_widest_ = 0;
  int32_t blocks_since_widest_ = 0;
  Look look_;  // of the step at work
  int32_t steps_since_plain_ = 0;
  double pause_ = 1;  // tokens between two blocks that are likely to lose
  double tokens_since_probe_ = 0;
  double budget_ = 0;  // plain steps that blocks may lose which are likely to
  double looks_ = 1;   // and looks at what widths cost
};

}  // namespace dflash
