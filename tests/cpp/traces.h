#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/controller.h"

// Texts and machines made up for the controller: what every draft at every place of a text would
// have been worth is known, so that all widths can be run over the same text and compared.

namespace dflash::traces {

/// What drafters say of their drafts.
enum class Confidence { none, fair, boasting };

struct World {
  std::string name;
  /// Seconds of a decode of the verifier with w drafts, and of a block of the drafter.
  std::function<double(int32_t)> verify;
  std::function<double(int32_t)> draft;
  /// Chance that the first draft is right, by position of the text.
  std::function<double(int64_t)> predictability;
  Confidence confidence = Confidence::fair;
  double fading = 0.9;  ///< of the chance, a place within a block
  double variety = 1;   ///< of the log odds between positions
  /// What is left of the chance in a block of this width.
  std::function<double(int32_t)> shortening = [](int32_t) { return 1.0; };
  /// What a decode costs more, by share of the text.
  std::function<double(double)> slowness = [](double) { return 1.0; };
  double noise = 0.05;
};

constexpr int32_t kWidest = 7;

struct Outcome {
  double seconds_a_token;
};

/// A text of n tokens, with widths that a controller chooses.
Outcome run(const World& world, uint64_t seed, int32_t n, Controller& controller);
/// The same with a fixed width.
Outcome run(const World& world, uint64_t seed, int32_t n, int32_t width);

/// Means over some seeds; the controller is new for each, and has measured what decodes cost where
/// `calibrated`.
struct Comparison {
  double plain;
  double best;  ///< of all fixed widths, 0 included
  int32_t best_width;
  double adaptive;
};

Comparison compare(const World& world, int32_t n, int32_t n_seeds, bool calibrated = true);

}  // namespace dflash::traces
