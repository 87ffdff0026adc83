#include "llama/verifier.h"

#include <cstring>
#include <stdexcept>
#include <string>

#include "core/errors.h"
#include "llama/backend.h"
#include "llama/layer_inputs.h"
#include "llama/layer_outputs.h"

namespace dflash {

namespace {

constexpr int32_t kMostUncut = 64;  // rows of a decode that a recurrent verifier ends in any case

std::unique_ptr<Tap> tap_of(llama_context* context, const VerifierOptions& options,
                            int32_t n_embd) {
  const auto& layers = options.feature_layers;
  if (options.watch == nullptr) return std::make_unique<LayerInputs>(context, layers);
  return std::make_unique<LayerOutputs>(*options.watch, options.node, layers, n_embd);
}

/// What a tap sees of a decode.
struct Tapped {
  Tapped(Tap& tap, int32_t n_rows) : tap_(tap) { tap_.begin(n_rows); }
  ~Tapped() { tap_.end(); }
  Tapped(const Tapped&) = delete;
  Tapped& operator=(const Tapped&) = delete;

 private:
  Tap& tap_;
};

}  // namespace

LlamaVerifier::LlamaVerifier(llama_context* context, VerifierOptions options)
    : context_(context), options_(std::move(options)), batch_(options_.sequence) {
  const llama_model* model = api().llama_get_model(context);
  memory_ = api().llama_get_memory(context);
  if (memory_ == nullptr) {
    throw std::invalid_argument("the verifier's context has no memory: it cannot generate");
  }
  vocab_ = api().llama_model_get_vocab(model);
  n_ctx_ = static_cast<int32_t>(api().llama_n_ctx(context));
  n_batch_ = static_cast<int32_t>(api().llama_n_batch(context));
  n_snapshots_ = static_cast<int32_t>(api().llama_n_rs_seq(context));
  has_snapshots_ = n_snapshots_ > 0;
  recurrent_ =
      has_snapshots_ || api().llama_model_is_recurrent(model) || api().llama_model_is_hybrid(model);
  n_embd_ = api().llama_model_n_embd(model);
  n_vocab_ = api().llama_vocab_n_tokens(vocab_);
  if (options_.max_rows < 1 || options_.max_rows > n_batch_) {
    throw std::invalid_argument("max_rows must be between 1 and n_batch");
  }
  check_layers(api().llama_model_n_layer(model));
  tap_ = tap_of(context, options_, n_embd_);
  tap(true);
}

// llama.cpp asserts on a layer that is not there.
void LlamaVerifier::check_layers(int32_t n_layer) const {
  const bool native = options_.watch == nullptr;
  const int32_t first = native ? 0 : 1, last = native ? n_layer : n_layer - 1;
  for (const int32_t layer : options_.feature_layers) {
    if (layer >= first && layer <= last) continue;
    throw std::invalid_argument("feature layer " + std::to_string(layer) +
                                " is not among the verifier's " + std::to_string(n_layer) +
                                (native ? "" : ": layers 1 to " + std::to_string(last)));
  }
}

void LlamaVerifier::tap(bool on) {
  if (tapped_ == on) return;
  tap_->set(on);
  tapped_ = on;
}

void LlamaVerifier::decode(const Token* tokens, int32_t n, int32_t pos, Rows rows) {
  if (n < 1 || n > n_batch_ || pos + n > n_ctx_ || (rows == Rows::all && n > options_.max_rows)) {
    throw ContextError("a decode of " + std::to_string(n) + " tokens at position " +
                       std::to_string(pos) + " does not fit the verifier's context");
  }
  check_tokens(tokens, n);
  n_decoded_ = 0;
  oldest_snapshot_ = kNoSnapshot;
  const llama_batch batch = batch_.tokens(tokens, n, pos, rows == Rows::all, true);
  listen(n);
  const int code = timed(backend_seconds_, [&] {
    const Tapped tapped(*tap_, n);
    const int result = api().llama_decode(context_, batch);
    // llama_decode may return while the device still works: reading a row waits for it.
    if (result == 0) api().llama_get_logits_ith(context_, -1);
    return result;
  });
  if (code != 0) failed(code);
  check_decode(code, "verifier");
  n_decoded_ = tapped_ ? n : 0;
  oldest_snapshot_ = pos;
}

// libllama indexes its embedding table without looking.
void LlamaVerifier::check_tokens(const Token* tokens, int32_t n) const {
  for (int32_t i = 0; i < n; ++i) {
    if (tokens[i] < 0 || tokens[i] >= n_vocab_) {
      throw std::invalid_argument("token " + std::to_string(tokens[i]) +
                                  " is not in the vocabulary of " + std::to_string(n_vocab_));
    }
  }
}

void LlamaVerifier::features(int32_t first, int32_t n, float* out) {
  if (first < 0 || first + n > n_decoded_) {
    throw std::logic_error("features of rows that the last decode did not give");
  }
  const auto width = static_cast<size_t>(n_embd_);
  const auto stride = static_cast<size_t>(n_features());
  for (size_t k = 0; k < options_.feature_layers.size(); ++k) {
    const float* rows = timed(backend_seconds_, [&] { return tap_->rows(k); });
    for (int32_t i = 0; i < n; ++i) {
      std::memcpy(out + static_cast<size_t>(i) * stride + k * width,
                  rows + static_cast<size_t>(first + i) * width, width * sizeof(float));
    }
  }
}

void LlamaVerifier::watch(const Stop& stop) {
  stop_flag_ = stop.flag();
  api().llama_set_abort_callback(context_, &Stop::asked, stop_flag_);
}

// A state that is overwritten in place is lost when a decode breaks off, and the conversation with
// it. That is a fair price for the end of a long read only, not of a step, which is soon over.
void LlamaVerifier::listen(int32_t n_rows) const {
  if (!recurrent_ || stop_flag_ == nullptr) return;
  const bool listens = n_rows > kMostUncut;
  api().llama_set_abort_callback(context_, listens ? &Stop::asked : nullptr, stop_flag_);
}

// libllama takes back the rows of a decode that broke off, also from a state that it had begun to
// overwrite: only a memory that is emptied is right again.
void LlamaVerifier::failed(int code) {
  const bool begun = code == 2 || code < -1;
  undefined_ = undefined_ || (recurrent_ && begun);
}

// libllama knows how many snapshots there are, not which the last decode wrote: the others are
// of another text. None is older than the first row of that decode, and going back serves once. Of
// a decode with more rows than that, only the last ones have theirs.
bool LlamaVerifier::can_trim(int32_t pos) const {
  if (pos == 0 || !recurrent_) return true;
  if (undefined_) return false;
  const int32_t n_dropped = n_held() - pos;
  return n_dropped <= 0 || (pos > oldest_snapshot_ && n_dropped <= n_snapshots_);
}

int32_t LlamaVerifier::n_held() const {
  return api().llama_memory_seq_pos_max(memory_, options_.sequence) + 1;
}

bool LlamaVerifier::trim(int32_t pos) {
  if (!can_trim(pos)) return false;
  oldest_snapshot_ = kNoSnapshot;
  if (pos > 0) return api().llama_memory_seq_rm(memory_, options_.sequence, pos, -1);
  undefined_ = false;
  // Dropping a whole sequence is possible for every kind of memory.
  return api().llama_memory_seq_rm(memory_, options_.sequence, -1, -1);
}

const float* LlamaVerifier::logits(int32_t row) const {
  const float* found = api().llama_get_logits_ith(context_, row);
  if (found == nullptr) {
    throw std::invalid_argument("the last decode has no logits of row " + std::to_string(row));
  }
  return found;
}

}  // namespace dflash
