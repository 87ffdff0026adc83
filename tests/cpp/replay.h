#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/controller.h"

// Texts of which is known what every draft at every place would have been worth, so that all widths
// can be run over the same text and compared; and the machines they are run on.

namespace dflash::traces {

constexpr int32_t kWidest = 7;

using Seconds = std::function<double(int32_t)>;

/// All that the time of a decode may depend on.
struct Decode {
  int32_t width;
  int32_t before = 0;  ///< the width of the decode before
  int64_t n_past = 0;  ///< tokens of context
  double share = 0;    ///< of the text that is done
};

/// What a verifier and a drafter cost.
struct Pair {
  std::string name;
  std::function<double(const Decode&)> verify;  ///< an anchor and w drafts
  Seconds draft;                                ///< a block of w drafts
  double inject = 0;                            ///< a row of features that the drafter takes in
  int32_t widest = kWidest;
};

Pair pair(std::string name, const Seconds& verify, Seconds draft, double inject);

/// bf16, q8: SmolLM2-135M on two cores of a server CPU; large: a large model, whose weights are
/// read once for all rows of a decode; cliff: a GPU whose kernel has a cliff.
const std::vector<Pair>& pairs();

class Text {
 public:
  virtual ~Text() = default;
  /// The first position at which there is no token any more.
  virtual int64_t end() const { return std::numeric_limits<int64_t>::max(); }
  virtual Token token(int64_t position) const = 0;
  /// What would be drafted after an anchor; wrong drafts are -1.
  virtual void draft(int64_t anchor, int32_t block, Draft& out) const = 0;
  /// What the text up to an anchor itself proposes.
  virtual Lookup lookup(int64_t /*anchor*/) const { return {}; }
  /// Rows of features that wait for the drafter at first.
  virtual int32_t n_prompt() const { return 0; }
  /// Tokens of context before position 0.
  virtual int64_t n_context() const { return n_prompt(); }
};

/// A text given by its tokens: a prompt, then an answer, whose first token has position 0.
class KnownText : public Text {
 public:
  KnownText(std::vector<Token> tokens, size_t n_prompt)
      : tokens_(std::move(tokens)), n_prompt_(n_prompt) {}

  int64_t end() const override { return static_cast<int64_t>(tokens_.size() - n_prompt_); }
  Token token(int64_t position) const override {
    return tokens_.at(n_prompt_ + static_cast<size_t>(position));
  }
  Lookup lookup(int64_t anchor) const override;
  int32_t n_prompt() const override { return static_cast<int32_t>(n_prompt_); }

 private:
  std::vector<Token> tokens_;
  size_t n_prompt_;
};

/// How times waver.
struct Noise {
  double spread = 0.05;     ///< of their logarithm
  double disturbed = 0.01;  ///< share of decodes that something else held up ...
  double most = 3;          ///< ... so many times as long, at most
  double least = 3;         ///< and at least
};

/// Times decodes: noise on all, and some that were disturbed.
class Machine {
 public:
  explicit Machine(uint64_t seed, Noise noise = {}) : noise_(noise), random_(seed) {}

  double time(double seconds) {
    const double noise = std::exp(noise_.spread * normal_(random_));
    const bool disturbed = uniform_(random_) < noise_.disturbed;
    return seconds * slowness * noise * (disturbed ? disturbance() : 1);
  }

  double slowness = 1;
  int32_t width_before = 0;  ///< of the decode of the verifier that was the last

 private:
  double disturbance() {
    if (noise_.most == noise_.least) return noise_.most;
    return noise_.least * std::pow(noise_.most / noise_.least, uniform_(random_));
  }

  Noise noise_;
  std::mt19937_64 random_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
};

/// What is chosen for a step, and learned from it.
struct Strategy {
  std::function<Plan(const Lookup&, double catch_up, int64_t n_past)> plan;
  std::function<Verdict(const Draft&)> verify;
  std::function<void(const StepSeen&)> stepped = [](const StepSeen&) {};
  std::function<void(int32_t n_rows, double seconds)> caught_up = [](int32_t, double) {};
  std::function<double(int32_t n_rows)> catch_up = [](int32_t) { return 0.0; };
};

Strategy fixed(int32_t width);
Strategy adaptive(Controller& controller);

struct Outcome {
  double seconds = 0;
  int64_t n_tokens = 0;
  int64_t n_copied = 0;

  double seconds_a_token() const { return seconds / static_cast<double>(n_tokens); }
};

/// What of a text is replayed.
struct Span {
  int64_t n;         ///< tokens after position 0, at least, or all there are
  int64_t from = 0;  ///< the position from which on the outcome counts
};

/// Emits tokens as Session steps. `before_step` is told the share of them that is done.
Outcome replay(const Text& text, Span span, const Pair& pair, Machine& machine,
               const Strategy& strategy, const std::function<void(double)>& before_step = {});

/// Measures what decodes cost, as Session::calibrate.
void calibrate(const Pair& pair, Machine& machine, Costs& costs);

/// Seconds a token.
struct Comparison {
  double plain;
  double best;  ///< of all fixed widths, 0 included
  int32_t best_width;
  double adaptive;
};

constexpr int32_t kAdaptive = -1;

/// Means over some seeds of what `seconds_a_token` says of a width.
Comparison compare(const std::function<double(int32_t width, uint64_t seed)>& seconds_a_token,
                   int32_t n_seeds, int32_t widest = kWidest);

}  // namespace dflash::traces
