#include "core/pair.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "core/calibration.h"
#include "core/errors.h"

namespace dflash {

Pair::Pair(Verifier& verifier, Drafter* drafter)
    : verifier_(verifier),
      drafter_(drafter),
      terms_(drafter == nullptr ? 0 : drafter->max_width()) {
  if (drafter_ != nullptr && drafter_->n_features() != verifier_.n_features()) {
    throw std::invalid_argument(
        "the drafter takes rows of " + std::to_string(drafter_->n_features()) +
        " features, the verifier gives " + std::to_string(verifier_.n_features()) +
        ": its feature_layers are not the drafter's target layers");
  }
}

int32_t Pair::room(int32_t n_past) const {
  const int32_t rows =
      std::min({verifier_.n_ctx() - n_past, verifier_.n_batch(), verifier_.max_rows()});
  if (rows < 1) {
    throw ContextError("the context of " + std::to_string(verifier_.n_ctx()) +
                       " tokens is full: raise n_ctx or start a shorter conversation");
  }
  return rows - 1;
}

int32_t Pair::widest_block(int32_t n_past) const {
  return std::min(drafter_->max_width(), room(n_past));
}

void Pair::watch(const Stop& stop) {
  verifier_.watch(stop);
  if (drafter_ != nullptr) drafter_->watch(stop);
}

void Pair::calibrate(double seconds) {
  if (drafter_ == nullptr) return;
  dflash::calibrate(verifier_, *drafter_, widest_block(0), seconds, terms_.costs);
}

}  // namespace dflash
