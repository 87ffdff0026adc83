#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "replay.h"

// Texts and machines made up for the controller, from seeds.

namespace dflash::traces {

/// What drafters say of their drafts.
enum class Confidence { none, fair, boasting };

struct World {
  std::string name;
  Pair pair;
  /// Chance that the first draft is right, by position of the text.
  std::function<double(int64_t)> predictability;
  Confidence confidence = Confidence::fair;
  double fading = 0.9;  ///< of the chance, a place within a block
  double variety = 1;   ///< of the log odds between positions
  /// What is left of the chance in a block of this width.
  std::function<double(int32_t)> shortening = [](int32_t) { return 1.0; };
  /// What a decode costs more, by share of the text.
  std::function<double(double)> slowness = [](double) { return 1.0; };
};

/// A text of n tokens, with widths that a controller chooses.
Outcome run(const World& world, uint64_t seed, int32_t n, Controller& controller);

/// The controller is new for each seed, and has measured what decodes cost where `calibrated`.
Comparison compare(const World& world, int32_t n, int32_t n_seeds, bool calibrated = true);

}  // namespace dflash::traces
