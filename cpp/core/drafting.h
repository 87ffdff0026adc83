#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/controller.h"
#include "core/features.h"
#include "core/models.h"
#include "core/pair.h"
#include "core/stats.h"

namespace dflash {

/// Where a step of a sequence begins.
struct StepStart {
  const std::vector<Token>& tokens;  ///< the last one is the anchor
  int32_t n_past;                    ///< those before it
  int32_t n_room;                    ///< drafts that may be verified
  std::optional<int32_t> width;      ///< drafts of the block; none: it is to be decided
};

/// Makes what is verified in the steps of a sequence: of the caller's draft, of what its text
/// repeats, or of a block of the drafter. What became of it teaches the controller.
class Drafting {
 public:
  /// All must outlive it.
  Drafting(Pair& pair, Features& features, Account& account);

  /// The draft of a step. What the caller drafts himself takes the place of all else.
  const Draft& make(const StepStart& start, const std::optional<std::vector<Token>>& given,
                    Sampler* sampler);
  /// The draft of the step at work.
  const Draft& draft() const { return draft_; }
  /// Tokens of the drafter's block that it was cut from.
  int32_t n_block() const { return static_cast<int32_t>(block_.tokens.size()); }
  /// The step that it was made for is over, or given up.
  void drop() { draft_.clear(); }
  /// That step emitted tokens; nothing was dropped yet.
  void stepped(const std::vector<Token>& emitted, double verify_seconds);

  /// Null without a drafter.
  Controller* controller() { return controller_ ? &*controller_ : nullptr; }
  const Controller* controller() const { return controller_ ? &*controller_ : nullptr; }
  void set_controller(Controller controller) { controller_ = std::move(controller); }

 private:
  void begin(bool measured);
  Plan make_plan(const StepStart& start, const Sampler* sampler);
  Plan choose(const StepStart& start, int32_t widest, const Sampler* sampler);
  void draft_block(const StepStart& start);
  void cut_block(const StepStart& start, Sampler* sampler);
  void copy(int32_t n);

  Pair& pair_;
  Features& features_;
  Account& account_;
  std::optional<Controller> controller_;
  // Of the step at work:
  Plan plan_;
  Lookup lookup_;
  Draft block_;  // the drafter's, whole
  Draft draft_;
  bool measured_ = false;  // the controller learns from it
  double draft_seconds_ = 0;
};

}  // namespace dflash
