#include "core/drafting.h"

#include <algorithm>

#include "core/clock.h"
#include "core/tokens.h"

namespace dflash {

namespace {

// Of drafts those that may come one after the other, as far as the sampler knows.
int32_t n_possible(const Sampler* sampler, const std::vector<Token>& drafts) {
  return sampler == nullptr ? size_of(drafts) : static_cast<int32_t>(sampler->n_possible(drafts));
}

bool redraws(const Sampler* sampler) {
  return sampler != nullptr && sampler->redraws();
}

void copy_first(const std::vector<Token>& from, int32_t n, Draft& to) {
  to.clear();
  to.tokens.assign(from.begin(), from.begin() + n);
}

}  // namespace

Drafting::Drafting(Pair& pair, Features& features, Account& account)
    : pair_(pair), features_(features), account_(account) {
  if (pair.drafter() != nullptr) controller_.emplace(pair.terms());
}

const Draft& Drafting::make(const StepStart& start, const std::optional<std::vector<Token>>& given,
                            Sampler* sampler) {
  begin(controller_ && !given && !features_.missing(start.n_past));
  if (given) {
    copy_first(*given, std::min(size_of(*given), start.n_room), draft_);
  } else {
    plan_ = make_plan(start, sampler);
    if (plan_.copy > 0) {
      copy(plan_.copy);
    } else if (plan_.block > 0) {
      draft_block(start);
      cut_block(start, sampler);
    }
  }
  // Blocks and copies are cut already, before it is decided how much of them is verified.
  if (given || redraws(sampler)) {
    draft_.cut(static_cast<size_t>(n_possible(sampler, draft_.tokens)));
  }
  const ExactWidths& exact = pair_.terms().exact;
  if (exact.only()) {
    const int32_t n = size_of(draft_.tokens);
    draft_.cut(static_cast<size_t>(exact.widest(n, start.n_past)));
  }
  return draft_;
}

void Drafting::begin(bool measured) {
  plan_ = {};
  block_.clear();
  draft_.clear();
  measured_ = measured;
  draft_seconds_ = 0;
}

// ---- what to draft -------------------------------------------------------------------------

// The caller's limit cuts the draft, not the block: with fewer masks in it the drafter would
// propose other tokens.
Plan Drafting::make_plan(const StepStart& start, const Sampler* sampler) {
  if (!controller_ || start.n_room == 0 || features_.missing(start.n_past)) return {};
  const int32_t widest = pair_.widest_block(start.n_past);
  const ExactWidths& exact = pair_.terms().exact;
  if (exact.only() && exact.widest(start.n_room, start.n_past) == 0) return {};
  if (start.width) return {0, std::min(*start.width, widest), false};
  return choose(start, widest, sampler);
}

Plan Drafting::choose(const StepStart& start, int32_t widest, const Sampler* sampler) {
  controller_->enter(start.n_past);
  const int32_t n_behind = features_.n_behind();
  const double catch_up = n_behind > 0 ? controller_->costs().catch_up(n_behind) : 0.0;
  const int32_t n = std::min(start.n_room, widest);
  lookup_ = look_up(start.tokens, n);
  lookup_.tokens.resize(static_cast<size_t>(n_possible(sampler, lookup_.tokens)));
  const Plan plan = controller_->choose(n, lookup_, catch_up);
  return {plan.copy, std::min(plan.block, widest), plan.probe};
}

// ---- making it -----------------------------------------------------------------------------

void Drafting::draft_block(const StepStart& start) {
  features_.catch_up(controller_->costs());
  draft_seconds_ = seconds_of([&] {
    features_.inject();
    const Stopwatch watch = account_.watch(&Stats::seconds_draft);
    pair_.drafter()->draft(start.tokens.back(), start.n_past, plan_.block, draft_);
  });
  block_ = draft_;
}

// How much of the block is verified; a copy may be better, now that the block is known.
void Drafting::cut_block(const StepStart& start, Sampler* sampler) {
  const int32_t n_most =
      redraws(sampler) ? start.n_room : std::min(start.n_room, n_possible(sampler, draft_.tokens));
  const Verdict verdict =
      start.width ? Verdict{n_most, false} : controller_->choose_verify(draft_, n_most);
  if (verdict.copy) {
    copy(verdict.width);
    return;
  }
  draft_.cut(static_cast<size_t>(verdict.width));
  if (sampler != nullptr) sampler->redraw(draft_);
  std::copy(draft_.tokens.begin(), draft_.tokens.end(), block_.tokens.begin());
}

void Drafting::copy(int32_t n) {
  copy_first(lookup_.tokens, n, draft_);
}

// ---- learning from it ----------------------------------------------------------------------

void Drafting::stepped(const std::vector<Token>& emitted, double verify_seconds) {
  // Copies say nothing of blocks.
  if (plan_.copy == 0) {
    features_.stepped(size_of(emitted), plan_.block > 0 && !plan_.probe);
  }
  if (!measured_) return;
  const int32_t n_verified = size_of(draft_.tokens);
  controller_->stepped({block_, n_verified, emitted, draft_seconds_, verify_seconds});
}

}  // namespace dflash
