#pragma once

#include <memory>
#include <vector>

#include "core/models.h"
#include "llama/api.h"
#include "llama/batch.h"
#include "llama/device_top_k.h"
#include "llama/top_k.h"

namespace dflash {

enum class DrafterKind { dflash, dflash2, dspark };

/// What the loop has to know of a drafter's file.
struct DrafterOptions {
  DrafterKind kind = DrafterKind::dflash;
  int32_t block_size = 16;          ///< tokens of the trained block, anchor included
  int32_t mask_token = 0;           ///< stands for every token to be drafted
  bool causal = false;              ///< attention within the block
  bool sample_from_anchor = false;  ///< DSpark: the anchor's row predicts too
  bool has_confidence = false;      ///< DSpark: a confidence head is there
  int32_t n_ctx = 0;                ///< positions of context at most, see below; 0: those there are
  bool device_top_k = false;        ///< the device chooses the likeliest tokens, where it can
  int32_t sequence = 0;
};

/// A llama_context of architecture `dflash` as a drafter.
class LlamaDrafter : public Drafter {
 public:
  /// `context` must outlive the drafter, hold max_width() + 1 outputs and that many in one ubatch.
  /// It has room for a block beside n_ctx positions, or for as many as the verifier's, where text
  /// and block end.
  LlamaDrafter(llama_context* context, DrafterOptions options);

  /// The hidden states of the target layers, side by side.
  int32_t n_features() const override { return n_features_; }
  /// block_size - 1, or block_size where the anchor's row predicts too.
  int32_t max_width() const override;
  int32_t max_inject() const override { return n_inject_; }
  int32_t n_ctx() const override { return n_ctx_; }

  void inject(const float* features, int32_t n, int32_t pos) override;
  void wait() override;
  void draft(Token anchor, int32_t pos, int32_t width, Draft& out) override;
  /// Takes in as many rows and drafts as wide as it ever will, and forgets that: what there is no
  /// memory for fails here. For a drafter that holds nothing yet.
  void try_out();
  void trim(int32_t pos) override;
  void watch(const Stop& stop) override {
    api().llama_set_abort_callback(context_, &Stop::asked, stop.flag());
  }
  void forget(int32_t pos) override;
  std::string save() override;
  void load(std::string_view state) override;

  /// The logits of draft row `i` of the last draft, [n_vocab]; not with DFlash2, nor where the
  /// device chose among them.
  const float* logits(int32_t i) const;
  /// The k likeliest tokens of that row, at most as many as a device chooses, best first; their
  /// logits are right up to a number that is the same for all. Not with DFlash2.
  void likeliest_of(int32_t i, int32_t k, std::vector<llama_token_data>& out) const;
  bool on_device() const { return device_ != nullptr; }
  int32_t n_vocab() const { return n_vocab_; }
  const DrafterOptions& options() const { return options_; }
  /// Seconds spent inside libllama so far.
  double backend_seconds() const { return backend_seconds_; }

 private:
  bool predicts_from_anchor() const {
    return options_.kind == DrafterKind::dspark && options_.sample_from_anchor;
  }
  int32_t first_row() const { return predicts_from_anchor() ? 0 : 1; }
  void decode(const llama_batch& batch);
  void decode_block(Token anchor, int32_t pos, int32_t n_block);
  Likeliest likeliest_of(int32_t i) const;
  void read_rows(int32_t width, Draft& out) const;
  void walk_lattice(int32_t width, Draft& out) const;

  llama_context* context_;
  llama_memory_i* memory_;
  DrafterOptions options_;
  Batch batch_;
  int32_t n_embd_;
  int32_t n_features_;
  int32_t n_vocab_;
  int32_t n_inject_;
  int32_t n_ctx_;
  int32_t selector_top_k_;
  bool mrope_;
  std::vector<Token> block_;
  std::unique_ptr<DeviceTopK> device_;
  mutable std::vector<llama_token_data> candidates_;
  mutable double backend_seconds_ = 0;
};

}  // namespace dflash
