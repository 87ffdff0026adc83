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
  Noise noise = {};
  int64_t n_context = 0;  ///< tokens of context at first
};

/// A text of so many tokens.
Outcome run(const World& world, uint64_t seed, Span span, const Strategy& strategy);
/// With widths that a controller chooses.
Outcome run(const World& world, uint64_t seed, Span span, Controller& controller);

/// What a new controller knows before the first token.
using Begin = std::function<void(const World&, uint64_t seed, Costs&)>;
/// It has measured what decodes cost, on the machine as it is at first.
void calibrated(const World& world, uint64_t seed, Costs& costs);
/// Nothing.
void from_nothing(const World& world, uint64_t seed, Costs& costs);

/// Of a fixed width, or with kAdaptive of a new controller.
double seconds_a_token(const World& world, uint64_t seed, Span span, int32_t width,
                       const Begin& begin = calibrated);

/// The controller is new for each seed.
Comparison compare(const World& world, Span span, int32_t n_seeds, const Begin& begin = calibrated);

}  // namespace dflash::traces
