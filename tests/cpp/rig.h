#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "checks.h"
#include "core/errors.h"
#include "core/session.h"
#include "fakes.h"

namespace dflash::fakes {

using Tokens = std::vector<Token>;

/// Which drafts are right.
namespace right {
inline bool none(int32_t, int32_t) {
  return false;
}
inline bool all(int32_t, int32_t) {
  return true;
}
/// About `percent` of them, by position.
inline FakeDrafter::Right some(uint32_t percent, uint32_t seed = 0) {
  return [percent, seed](int32_t pos, int32_t i) {
    return Law::after(Law::after(seed, pos), i) % 100 < percent;
  };
}
/// The first n of each block.
inline FakeDrafter::Right first(int32_t n) {
  return [n](int32_t, int32_t i) { return i < n; };
}
}  // namespace right

struct RigOptions {
  FakeVerifier::Size verifier;
  FakeDrafter::Right right = right::some(60);
  int32_t block_size = 6;
  int32_t width = SessionOptions::kWidest;
  int32_t noise = 0;
  bool has_drafter = true;
  int32_t drafter_ctx = 4096;      ///< positions that the drafter has room for
  int32_t most_waiting = 1 << 20;  ///< rows of features that may wait
};

/// A session over fakes.
struct Rig {
  explicit Rig(const RigOptions& options = {})
      : verifier(law, calls, options.verifier),
        drafter(law, calls, options.block_size, options.right),
        sampler(verifier, calls, options.noise),
        pair(verifier, options.has_drafter ? &drafter : nullptr),
        session(pair, {options.width, static_cast<size_t>(options.most_waiting) *
                                          FakeVerifier::kFeatures * sizeof(float)}),
        n_ctx(options.verifier.n_ctx),
        has_drafter(options.has_drafter) {
    drafter.n_ctx_wanted = options.drafter_ctx;
  }

  /// Transcript, verifier and drafter agree.
  void check_agreement() const {
    const auto& tokens = session.tokens();
    const auto n_past = static_cast<size_t>(session.n_past());
    CHECK(tokens.size() == n_past || tokens.size() == n_past + 1);
    if (tokens.size() < n_past) return;
    const auto begin = tokens.begin();
    Tokens held = verifier.memory();
    // A memory that goes back once keeps rejected drafts until the next decode.
    if (verifier.trims_once() && held.size() > n_past) held.resize(n_past);
    CHECK_EQUAL(held, Tokens(begin, begin + static_cast<std::ptrdiff_t>(n_past)));
    CHECK(session.n_forgotten() <= session.n_injected() || !has_drafter);
    CHECK(session.n_injected() <= session.n_features());
    CHECK(session.n_features() <= session.n_past());
    check_drafter();
  }

  /// The drafter's memory holds the features of the positions that the session says.
  void check_drafter() const {
    if (!has_drafter) return;
    const auto first = static_cast<size_t>(session.n_forgotten());
    const auto end = static_cast<size_t>(session.n_injected());
    CHECK_EQUAL(drafter.memory().size(), end - first);
    CHECK(static_cast<int32_t>(drafter.memory().size()) <= drafter.n_ctx());
    uint32_t hash = Law::kNothing;
    for (size_t pos = 0; pos < std::min(end, session.tokens().size()); ++pos) {
      hash = Law::after(hash, session.tokens()[pos]);
      if (pos < first || pos - first >= drafter.memory().size()) continue;
      const FakeDrafter::Row& row = drafter.memory()[pos - first];
      CHECK_EQUAL(row.pos, static_cast<int32_t>(pos));
      CHECK_EQUAL(row.token, session.tokens()[pos]);
      CHECK_EQUAL(row.hash, hash);
    }
  }

  /// Steps until at least n tokens are out or the answer ends.
  Tokens answer(int32_t n) {
    Tokens text;
    while (static_cast<int32_t>(text.size()) < n) {
      const StepResult result = session.step(sampler);
      check_agreement();
      text.insert(text.end(), result.tokens.begin(), result.tokens.end());
      if (result.finish != Finish::none) break;
    }
    return text;
  }

  /// What plain decoding gives after the timeline, in as many tokens as `text` has.
  Tokens expected(const Tokens& prompt, size_t n, int32_t noise = 0) const {
    return law.text(prompt, static_cast<int32_t>(n), n_ctx, noise);
  }

  Law law;
  Calls calls;
  FakeVerifier verifier;
  FakeDrafter drafter;
  FakeSampler sampler;
  Pair pair;
  Session session;
  int32_t n_ctx;
  bool has_drafter;
  std::string saved;  ///< a drafter's state that a test keeps
};

/// n tokens, none of which ends a generation.
inline Tokens prompt(int32_t n, uint32_t seed = 0) {
  Tokens tokens;
  for (int32_t i = 0; i < n; ++i) {
    tokens.push_back(1 + static_cast<Token>(Law::after(seed, i) % (Law::kVocab - 1)));
  }
  return tokens;
}

inline Tokens joined(Tokens tokens, const Tokens& more) {
  tokens.insert(tokens.end(), more.begin(), more.end());
  return tokens;
}

inline Tokens head(const Tokens& tokens, size_t n) {
  return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(std::min(n, tokens.size()))};
}

}  // namespace dflash::fakes
