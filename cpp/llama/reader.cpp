#include "llama/reader.h"

#include <algorithm>

#include "llama/top_k.h"

namespace dflash {

Reading read_text(LlamaVerifier& verifier, const Token* tokens, int32_t n, int32_t k) {
  Reading reading;
  const auto width = static_cast<size_t>(verifier.n_features());
  const auto best = static_cast<size_t>(k);
  reading.features.resize(static_cast<size_t>(n) * width);
  reading.ids.resize(static_cast<size_t>(n) * best);
  reading.log_probs.resize(static_cast<size_t>(n) * best);
  verifier.trim(0);
  const int32_t chunk =
      k > 0 ? std::min(verifier.n_batch(), verifier.max_rows()) : verifier.n_batch();
  for (int32_t first = 0; first < n; first += chunk) {
    const int32_t count = std::min(chunk, n - first);
    verifier.decode(tokens + first, count, first, k > 0 ? Rows::all : Rows::last);
    if (width > 0) {
      verifier.features(0, count, reading.features.data() + static_cast<size_t>(first) * width);
    }
    for (int32_t i = 0; k > 0 && i < count; ++i) {
      const size_t at = static_cast<size_t>(first + i) * best;
      top_k(verifier.logits(i), verifier.n_vocab(), k, &reading.ids[at], &reading.log_probs[at]);
    }
  }
  return reading;
}

}  // namespace dflash
