#include "llama/drafter.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "core/errors.h"
#include "llama/backend.h"
#include "llama/sampler.h"
#include "llama/top_k.h"

namespace dflash {

namespace {

constexpr int32_t kRopeTypeMrope = 8;  // LLAMA_ROPE_TYPE_MROPE

void check_options(const DrafterOptions& options, int32_t selector_top_k, int32_t n_vocab) {
  if (options.block_size < 2) throw std::invalid_argument("block_size must be at least 2");
  if (options.mask_token < 0 || options.mask_token >= n_vocab) {
    throw std::invalid_argument("the mask token is not in the drafter's vocabulary");
  }
  if ((options.kind == DrafterKind::dflash2) != (selector_top_k > 0)) {
    throw std::invalid_argument("a DFlash2 drafter has a selector, and no other has");
  }
}

}  // namespace

LlamaDrafter::LlamaDrafter(llama_context* context, DrafterOptions options)
    : context_(context), options_(options), batch_(options.sequence) {
  const llama_model* model = api().llama_get_model(context);
  memory_ = api().llama_get_memory(context);
  n_embd_ = api().llama_model_n_embd(model);
  n_features_ = static_cast<int32_t>(api().llama_model_target_layer_ids_n(model)) * n_embd_;
  n_vocab_ = api().llama_vocab_n_tokens(api().llama_model_get_vocab(model));
  n_inject_ =
      static_cast<int32_t>(std::min(api().llama_n_ubatch(context), api().llama_n_batch(context)));
  selector_top_k_ = api().llama_model_dflash_selector_top_k(model);
  mrope_ = api().llama_model_rope_type(model) == kRopeTypeMrope;
  check_options(options_, selector_top_k_, n_vocab_);
  if (max_width() + 1 > n_inject_) {
    throw std::invalid_argument("the drafter's n_ubatch must hold a whole block");
  }
  const auto n_cells = static_cast<int32_t>(api().llama_n_ctx(context));
  n_ctx_ = options_.n_ctx > 0 ? options_.n_ctx : n_cells - (max_width() + 1);
  if (n_ctx_ < 1 || n_ctx_ > n_cells) {
    throw std::invalid_argument("the drafter's n_ctx must be in its context, beside a block");
  }
  // libllama's own default for this architecture is causal.
  api().llama_set_causal_attn(context, options_.causal);
  // The lattice of DFlash2 and the confidences of DSpark come through these rows.
  if (options_.kind == DrafterKind::dflash2) {
    api().llama_set_embeddings_nextn(context, true, /*masked=*/false);
  } else if (options_.has_confidence) {
    api().llama_set_embeddings_nextn(context, true, /*masked=*/true);
  }
  if (options_.device_top_k && options_.kind != DrafterKind::dflash2) {
    device_ = DeviceTopK::attach(context, options_.sequence);
  }
}

void LlamaDrafter::try_out() {
  const auto n_cells = static_cast<int32_t>(api().llama_n_ctx(context_));
  const int32_t n = std::min({n_inject_, n_ctx_, n_cells - (max_width() + 1)});
  if (n < 1) return;
  const std::vector<float> rows(static_cast<size_t>(n) * static_cast<size_t>(n_features_), 0.0F);
  inject(rows.data(), n, 0);
  decode_block(options_.mask_token, n, max_width() + first_row());
  trim(0);
}

int32_t LlamaDrafter::max_width() const {
  return predicts_from_anchor() ? options_.block_size : options_.block_size - 1;
}

void LlamaDrafter::inject(const float* features, int32_t n, int32_t pos) {
  if (n < 1 || n > n_inject_) throw std::logic_error("inject() takes 1 to max_inject() rows");
  decode(batch_.embeddings(features, n, pos, mrope_));
}

void LlamaDrafter::wait() {
  timed(backend_seconds_, [&] { api().llama_synchronize(context_); });
}

void LlamaDrafter::draft(Token anchor, int32_t pos, int32_t width, Draft& out) {
  if (width < 1 || width > max_width()) throw std::logic_error("width beyond max_width()");
  out.clear();
  decode_block(anchor, pos, width + first_row());
  if (options_.kind == DrafterKind::dflash2) {
    walk_lattice(width, out);
  } else {
    read_rows(width, out);
  }
  trim(pos);  // the block itself leaves nothing behind
}

void LlamaDrafter::decode_block(Token anchor, int32_t pos, int32_t n_block) {
  block_.assign(static_cast<size_t>(n_block), options_.mask_token);
  block_[0] = anchor;
  // Every row is an output, the anchor's too: the graph computes logits of all rows and does not
  // gather. DFlash2 asks for none, its lattice comes through the nextn rows.
  const bool all_rows = options_.kind != DrafterKind::dflash2;
  decode(batch_.tokens(block_.data(), n_block, pos, all_rows, all_rows));
}

void LlamaDrafter::decode(const llama_batch& batch) {
  const int code = timed(backend_seconds_, [&] { return api().llama_decode(context_, batch); });
  check_decode(code, "drafter");
}

const float* LlamaDrafter::logits(int32_t i) const {
  // libllama counts negative rows from the end.
  if (i < 0) throw std::invalid_argument("a row of logits is 0 or more");
  if (device_) throw std::invalid_argument("the drafter's logits stay on its device");
  const float* row = timed(backend_seconds_,
                           [&] { return api().llama_get_logits_ith(context_, first_row() + i); });
  if (row == nullptr) throw std::invalid_argument("the last draft has no such row of logits");
  return row;
}

void LlamaDrafter::likeliest_of(int32_t i, int32_t k, std::vector<llama_token_data>& out) const {
  if (device_) {
    timed(backend_seconds_, [&] { device_->read(first_row() + i, out); });
    if (out.size() > static_cast<size_t>(k)) out.resize(static_cast<size_t>(k));
    return;
  }
  const float* row = logits(i);
  out.clear();
  for (const int32_t id : top_k(row, n_vocab_, std::min(k, n_vocab_))) {
    out.push_back({id, row[id], 0.0F});
  }
}

Likeliest LlamaDrafter::likeliest_of(int32_t i) const {
  if (!device_) return likeliest(logits(i), n_vocab_);
  likeliest_of(i, 1, candidates_);
  return {candidates_.front().id, candidates_.front().p};
}

void LlamaDrafter::read_rows(int32_t width, Draft& out) const {
  for (int32_t i = 0; i < width; ++i) {
    const Likeliest best = likeliest_of(i);
    out.tokens.push_back(best.id);
    if (!options_.has_confidence) out.confidence.push_back(best.probability);
  }
  if (!options_.has_confidence) return;
  const float* rows =
      timed(backend_seconds_, [&] { return api().llama_get_embeddings_nextn(context_); });
  if (rows == nullptr) throw BackendError("libllama gave no confidences of a DSpark drafter");
  // The graph repeats each confidence over a row of n_embd.
  for (int32_t i = 0; i < width; ++i) {
    out.confidence.push_back(rows[static_cast<size_t>(first_row() + i) * n_embd_]);
  }
}

// A row holds k candidates, then their scores after each of the k candidates of the row before:
// [k + k * k]. The best path is walked greedily, from the anchor.
void LlamaDrafter::walk_lattice(int32_t width, Draft& out) const {
  const float* lattice =
      timed(backend_seconds_, [&] { return api().llama_get_embeddings_nextn(context_); });
  if (lattice == nullptr) throw BackendError("libllama gave no lattice of a DFlash2 drafter");
  const int32_t k = selector_top_k_;
  int32_t chosen = 0;
  for (int32_t i = 1; i <= width; ++i) {
    const float* candidates = lattice + static_cast<size_t>(i) * n_embd_;
    const float* scores = candidates + k + static_cast<ptrdiff_t>(chosen) * k;
    chosen = argmax(scores, k);
    float sum = 0;
    for (int32_t j = 0; j < k; ++j) sum += std::exp(scores[j] - scores[chosen]);
    out.tokens.push_back(static_cast<Token>(candidates[chosen]));
    out.confidence.push_back(1.0F / sum);
  }
}

void LlamaDrafter::trim(int32_t pos) {
  if (!api().llama_memory_seq_rm(memory_, options_.sequence, pos, -1)) {
    throw BackendError("the drafter's memory could not be trimmed");
  }
}

void LlamaDrafter::forget(int32_t pos) {
  if (!api().llama_memory_seq_rm(memory_, options_.sequence, -1, pos)) {
    throw BackendError("the drafter's memory could not drop its oldest positions");
  }
}

std::string LlamaDrafter::save() {
  std::string state(api().llama_state_seq_get_size(context_, options_.sequence), '\0');
  const size_t n = api().llama_state_seq_get_data(
      context_, reinterpret_cast<uint8_t*>(state.data()), state.size(), options_.sequence);
  if (n == 0 || n > state.size()) throw BackendError("the drafter's state could not be saved");
  state.resize(n);
  return state;
}

void LlamaDrafter::load(std::string_view state) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(state.data());
  if (api().llama_state_seq_set_data(context_, bytes, state.size(), options_.sequence) == 0) {
    throw BackendError("the drafter's state could not be restored: it is of another drafter");
  }
}

}  // namespace dflash
