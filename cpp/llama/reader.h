#pragma once

#include <vector>

#include "llama/verifier.h"

namespace dflash {

/// What a verifier makes of a text: what a drafter learns from.
struct Reading {
  /// [n, n_features]: the features of every token, as a session injects them.
  std::vector<float> features;
  /// [n, k]: the most likely tokens to follow each token, best first, and their log probabilities.
  std::vector<Token> ids;
  std::vector<float> log_probs;
};

/// Reads a text from its beginning. The verifier's sequence holds it afterwards.
/// Throws ContextError for more tokens than the context has room for.
Reading read_text(LlamaVerifier& verifier, const Token* tokens, int32_t n, int32_t k);

}  // namespace dflash
