#pragma once

#include <optional>
#include <string>
#include <vector>

#include "replay.h"

namespace dflash::traces {

/// A greedy answer of a real verifier, with all that a real drafter would have drafted in it.
class RecordedAnswer : public KnownText {
 public:
  struct Place {
    bool right;
    float probability;
  };
  /// [anchor][block - 1][place]
  using Blocks = std::vector<std::vector<std::vector<Place>>>;

  RecordedAnswer(std::vector<Token> tokens, size_t n_prompt, Blocks blocks)
      : KnownText(std::move(tokens), n_prompt), blocks_(std::move(blocks)) {}

  void draft(int64_t anchor, int32_t block, Draft& out) const override;

 private:
  Blocks blocks_;
};

/// The answers of one session.
struct Recording {
  std::vector<RecordedAnswer> answers;
  std::optional<Pair> pair;  ///< where its costs were measured
};

/// A file of `recorded/`, written by benchmarks/record_trace.py, which describes the format.
Recording read_recording(const std::string& name);

}  // namespace dflash::traces
