#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/stop.h"

namespace dflash {

using Token = int32_t;

/// Which rows of a decode get logits.
enum class Rows { last, all };

/// The large model's side of one sequence: it holds the tokens at positions 0, 1, ...
class Verifier {
 public:
  virtual ~Verifier() = default;

  /// Positions there is room for.
  virtual int32_t n_ctx() const = 0;
  /// Tokens one decode takes at most.
  virtual int32_t n_batch() const = 0;
  /// Rows of logits one decode gives at most.
  virtual int32_t max_rows() const = 0;
  /// Tokens there are.
  virtual int32_t n_vocab() const = 0;
  /// Floats in a row of features; 0 without a tap.
  virtual int32_t n_features() const = 0;

  /// Whether decodes from here on give features; at first they do. A change is not for each step.
  virtual void tap(bool on) = 0;
  /// Decodes `n` tokens at positions `pos`, `pos + 1`, ...
  virtual void decode(const Token* tokens, int32_t n, int32_t pos, Rows rows) = 0;
  /// Copies the features of rows `first` .. `first + n - 1` of the last decode: [n, n_features()].
  /// The tap was on when it began.
  virtual void features(int32_t first, int32_t n, float* out) = 0;
  /// The logits of a row of the last decode, [n_vocab()]; -1 is the last row.
  virtual const float* logits(int32_t row) const = 0;
  /// Positions that the memory holds, whoever wrote them.
  virtual int32_t n_held() const = 0;
  /// Forgets the positions from `pos` on. False where the memory cannot drop a part of a sequence;
  /// it is unchanged then.
  virtual bool trim(int32_t pos) = 0;
  /// Whether trim() would be able to.
  virtual bool can_trim(int32_t pos) const = 0;
  /// Whether the memory drops a part of what one decode wrote, but only once: a recurrent state
  /// with snapshots. Such a memory is trimmed as late as possible.
  virtual bool trims_once() const { return false; }
  /// A decode that is running ends early, with Cancelled, where the device allows it.
  virtual void watch(const Stop& stop) { (void)stop; }
  /// Whether the token ends the generation.
  virtual bool is_eog(Token token) const = 0;
};

/// What a drafter proposes to follow the anchor.
struct Draft {
  std::vector<Token> tokens;
  /// The drafter's own estimate, a position, that the token is accepted: of its confidence head, or
  /// the token's probability. Empty where it has none.
  std::vector<float> confidence;

  void clear() {
    tokens.clear();
    confidence.clear();
  }

  /// Keeps the first `n` drafts at most.
  void cut(size_t n) {
    tokens.resize(std::min(tokens.size(), n));
    confidence.resize(std::min(confidence.size(), n));
  }
};

/// The small model's side of the same sequence: it holds features of positions that follow one
/// another, from 0 on or, where the oldest were dropped, from a later one.
class Drafter {
 public:
  virtual ~Drafter() = default;

  /// Floats in a row of features that it takes in.
  virtual int32_t n_features() const = 0;
  /// Drafts one block gives at most.
  virtual int32_t max_width() const = 0;
  /// Rows of features one injection takes at most.
  virtual int32_t max_inject() const = 0;
  /// Positions there is room for, beside a block that ends where the verifier's context does.
  virtual int32_t n_ctx() const = 0;

  /// Takes in features [n, Verifier::n_features()] of positions `pos`, `pos + 1`, ...: those that
  /// follow the ones it holds, or any where it holds none.
  virtual void inject(const float* features, int32_t n, int32_t pos) = 0;
  /// Waits until what it took in is taken in: a device may go on by itself.
  virtual void wait() {}
  /// Drafts up to `width` tokens to follow `anchor`, the token at `pos`, whose features it lacks.
  virtual void draft(Token anchor, int32_t pos, int32_t width, Draft& out) = 0;
  /// Forgets the positions from `pos` on.
  virtual void trim(int32_t pos) = 0;
  /// As the verifier's.
  virtual void watch(const Stop& stop) { (void)stop; }
  /// Forgets the positions before `pos`.
  virtual void forget(int32_t pos) = 0;
  /// The memory as bytes, and back.
  virtual std::string save() = 0;
  virtual void load(std::string_view state) = 0;
};

/// Draws the verifier's tokens, one row of logits of its last decode at a time.
class Sampler {
 public:
  virtual ~Sampler() = default;
  /// May put other tokens in the places of a drafter's block, once it is decided how much of it is
  /// verified: a decision that knew these tokens would change how answers are distributed.
  virtual void redraw(Draft& draft) { (void)draft; }
  /// Whether redraw() does: what is possible is known afterwards only.
  virtual bool redraws() const { return false; }
  /// How many of the drafts it could sample one after the other: the rest is not verified. Where
  /// it says fewer, the row after the last of them is sampled as if the rest were there.
  virtual size_t n_possible(const std::vector<Token>& drafts) const { return drafts.size(); }
  /// Samples from `row` (-1: the last one) and takes the token as emitted.
  virtual Token sample(int32_t row) = 0;
};

}  // namespace dflash
