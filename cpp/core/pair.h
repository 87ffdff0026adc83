#pragma once

#include "core/models.h"
#include "core/terms.h"

namespace dflash {

/// A verifier, its drafter if it has one, and what was learned of their decodes: all that sequences
/// have in common.
class Pair {
 public:
  /// Both models must outlive the pair. Throws std::invalid_argument where the drafter takes other
  /// features than the verifier gives.
  Pair(Verifier& verifier, Drafter* drafter);

  Verifier& verifier() const { return verifier_; }
  /// Null: decoding is plain.
  Drafter* drafter() const { return drafter_; }
  Terms& terms() { return terms_; }
  const Terms& terms() const { return terms_; }

  /// Drafts that fit beside an anchor at position `n_past`; throws ContextError where it does not.
  int32_t room(int32_t n_past) const;
  /// Drafts of the widest block there.
  int32_t widest_block(int32_t n_past) const;

  /// `stop` ends the decodes of both.
  void watch(const Stop& stop);
  /// Measures what decodes cost by width; takes about so long, and needs memories that are empty,
  /// as it leaves them. Nothing without a drafter.
  void calibrate(double seconds);

 private:
  Verifier& verifier_;
  Drafter* drafter_;
  Terms terms_;
};

}  // namespace dflash
