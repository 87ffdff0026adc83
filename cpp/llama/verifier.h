#pragma once

#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "core/models.h"
#include "llama/api.h"
#include "llama/batch.h"
#include "llama/node_watch.h"
#include "llama/tap.h"

namespace dflash {

struct VerifierOptions {
  /// Rows of logits that the context can hold (its n_outputs_max).
  int32_t max_rows = 1;
  /// Layers whose inputs are the features, in the drafter's order (GGUF dflash.target_layers).
  std::vector<int32_t> feature_layers;
  /// The sequence of the context that the session owns.
  int32_t sequence = 0;
  /// Of the callback tap: the context's cb_eval, and how its graph names the outputs of layers.
  /// Without it features come by the native tap.
  NodeWatch* watch = nullptr;
  std::string node;
};

/// A llama_context as a verifier.
class LlamaVerifier : public Verifier {
 public:
  /// `context` and the watch must outlive the verifier. Without a watch its architecture's graph
  /// must fill layer inputs.
  LlamaVerifier(llama_context* context, VerifierOptions options);

  int32_t n_ctx() const override { return n_ctx_; }
  int32_t n_batch() const override { return n_batch_; }
  int32_t max_rows() const override { return options_.max_rows; }
  int32_t n_features() const override {
    return static_cast<int32_t>(options_.feature_layers.size()) * n_embd_;
  }

  void tap(bool on) override;
  void decode(const Token* tokens, int32_t n, int32_t pos, Rows rows) override;
  void features(int32_t first, int32_t n, float* out) override;
  int32_t n_held() const override;
  bool trim(int32_t pos) override;
  bool can_trim(int32_t pos) const override;
  bool trims_once() const override { return has_snapshots_; }
  void watch(const Stop& stop) override;
  bool is_eog(Token token) const override { return api().llama_vocab_is_eog(vocab_, token); }

  const float* logits(int32_t row) const override;
  int32_t n_vocab() const override { return n_vocab_; }
  llama_context* context() const { return context_; }
  const VerifierOptions& options() const { return options_; }
  /// Seconds spent inside libllama so far.
  double backend_seconds() const { return backend_seconds_; }

 private:
  static constexpr int32_t kNoSnapshot = std::numeric_limits<int32_t>::max();

  void check_layers(int32_t n_layer) const;
  void check_tokens(const Token* tokens, int32_t n) const;
  void listen(int32_t n_rows) const;
  void failed(int code);

  llama_context* context_;
  llama_memory_i* memory_;
  const llama_vocab* vocab_;
  VerifierOptions options_;
  std::unique_ptr<Tap> tap_;
  Batch batch_;
  int32_t n_ctx_;
  int32_t n_batch_;
  int32_t n_embd_;
  int32_t n_vocab_;
  bool tapped_ = false;
  int32_t n_decoded_ = 0;  // rows of features at hand
  bool recurrent_;         // a part of the memory is a state, which is overwritten in place
  bool has_snapshots_;     // and it drops rows by going back to a snapshot of that state
  int32_t n_snapshots_;
  bool undefined_ = false;                 // a decode broke off in such a memory
  int32_t oldest_snapshot_ = kNoSnapshot;  // position whose token is the last it knows
  void* stop_flag_ = nullptr;
  double backend_seconds_ = 0;
};

}  // namespace dflash
