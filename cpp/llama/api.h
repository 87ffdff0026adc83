#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

// libllama as this project uses it, declared here and resolved at run time from the library that
// llama_cpp has loaded: nothing is linked and no header of llama.cpp is needed.

struct llama_model;
struct llama_context;
struct llama_vocab;
struct llama_memory_i;
struct ggml_backend_buffer_type;
struct ggml_cgraph;
struct ggml_context;
struct ggml_tensor;

namespace dflash {

using llama_token = int32_t;
using llama_pos = int32_t;
using llama_seq_id = int32_t;

// The structs that cross the border; bind_api() checks their layouts.

struct llama_batch {
  int32_t n_tokens;
  llama_token* token;
  float* embd;
  llama_pos* pos;
  int32_t* n_seq_id;
  llama_seq_id** seq_id;
  int8_t* logits;
};

/// A token that may be drawn.
struct llama_token_data {
  llama_token id;
  float logit;
  float p;
};

/// What samplers work on.
struct llama_token_data_array {
  llama_token_data* data;  ///< they may point it elsewhere
  size_t size;
  int64_t selected;
  bool sorted;
};

struct llama_sampler;

/// What a sampler adds to a graph: [rows of] logits, and what was made of them.
struct llama_sampler_data {
  ggml_tensor* logits;
  ggml_tensor* probs;
  ggml_tensor* sampled;
  ggml_tensor* candidates;
};

/// How libllama calls a sampler; what starts with backend_ builds a part of a device's graph.
struct llama_sampler_i {
  const char* (*name)(const llama_sampler*);
  void (*accept)(llama_sampler*, llama_token);
  void (*apply)(llama_sampler*, llama_token_data_array*);
  void (*reset)(llama_sampler*);
  llama_sampler* (*clone)(const llama_sampler*);
  void (*free)(llama_sampler*);
  bool (*backend_init)(llama_sampler*, ggml_backend_buffer_type*, uint32_t);
  void (*backend_accept)(llama_sampler*, ggml_context*, ggml_cgraph*, ggml_tensor*);
  void (*backend_apply)(llama_sampler*, ggml_context*, ggml_cgraph*, llama_sampler_data*);
  void (*backend_set_input)(llama_sampler*);
  void (*backend_reset)(llama_sampler*);
  void (*copy_state)(const llama_sampler*, llama_sampler*);
};

struct llama_sampler {
  llama_sampler_i* iface;
  void* ctx;
};

struct llama_sampler_chain_params {
  bool no_perf;
};

/// Every function of libllama that is called: X(name, Itanium name, MSVC name, result, arguments).
/// The mangled names are those of C++ functions, which llama-ext.h declares without extern "C".
#define DFLASH_LLAMA_FUNCTIONS(X)                                                                \
  X(llama_decode, "", "", int32_t, (llama_context*, llama_batch))                                \
  X(llama_synchronize, "", "", void, (llama_context*))                                           \
  X(llama_get_memory, "", "", llama_memory_i*, (const llama_context*))                           \
  X(llama_memory_seq_rm, "", "", bool, (llama_memory_i*, llama_seq_id, llama_pos, llama_pos))    \
  X(llama_memory_seq_pos_max, "", "", llama_pos, (llama_memory_i*, llama_seq_id))                \
  X(llama_get_logits_ith, "", "", float*, (llama_context*, int32_t))                             \
  X(llama_get_model, "", "", const llama_model*, (const llama_context*))                         \
  X(llama_model_get_vocab, "", "", const llama_vocab*, (const llama_model*))                     \
  X(llama_model_n_embd, "", "", int32_t, (const llama_model*))                                   \
  X(llama_model_n_layer, "", "", int32_t, (const llama_model*))                                  \
  X(llama_model_rope_type, "", "", int32_t, (const llama_model*))                                \
  X(llama_vocab_n_tokens, "", "", int32_t, (const llama_vocab*))                                 \
  X(llama_vocab_is_eog, "", "", bool, (const llama_vocab*, llama_token))                         \
  X(llama_n_ctx, "", "", uint32_t, (const llama_context*))                                       \
  X(llama_n_ctx_seq, "", "", uint32_t, (const llama_context*))                                   \
  X(llama_n_seq_max, "", "", uint32_t, (const llama_context*))                                   \
  X(llama_n_batch, "", "", uint32_t, (const llama_context*))                                     \
  X(llama_n_ubatch, "", "", uint32_t, (const llama_context*))                                    \
  X(llama_n_rs_seq, "", "", uint32_t, (const llama_context*))                                    \
  X(llama_model_is_recurrent, "", "", bool, (const llama_model*))                                \
  X(llama_model_is_hybrid, "", "", bool, (const llama_model*))                                   \
  X(llama_log_set, "", "", void, (void (*)(int, const char*, void*), void*))                     \
  X(llama_set_abort_callback, "", "", void, (llama_context*, bool (*)(void*), void*))            \
  X(llama_set_causal_attn, "", "", void, (llama_context*, bool))                                 \
  X(llama_sampler_accept, "", "", void, (llama_sampler*, llama_token))                           \
  X(llama_sampler_apply, "", "", void, (llama_sampler*, llama_token_data_array*))                \
  X(llama_sampler_chain_get, "", "", llama_sampler*, (llama_sampler*, int32_t))                  \
  X(llama_sampler_chain_n, "", "", int32_t, (const llama_sampler*))                              \
  X(llama_sampler_clone, "", "", llama_sampler*, (const llama_sampler*))                         \
  X(llama_sampler_free, "", "", void, (llama_sampler*))                                          \
  X(llama_sampler_sample, "", "", llama_token, (llama_sampler*, llama_context*, int32_t))        \
  X(llama_state_seq_get_size, "", "", size_t, (llama_context*, llama_seq_id))                    \
  X(llama_state_seq_get_data, "", "", size_t, (llama_context*, uint8_t*, size_t, llama_seq_id))  \
  X(llama_state_seq_set_data, "", "", size_t,                                                    \
    (llama_context*, const uint8_t*, size_t, llama_seq_id))                                      \
  X(llama_set_embeddings_layer_inp, "_Z30llama_set_embeddings_layer_inpP13llama_contextjb",      \
    "?llama_set_embeddings_layer_inp@@YAXPEAUllama_context@@I_N@Z", void,                        \
    (llama_context*, uint32_t, bool))                                                            \
  X(llama_get_embeddings_layer_inp, "_Z30llama_get_embeddings_layer_inpP13llama_contextj",       \
    "?llama_get_embeddings_layer_inp@@YAPEAMPEAUllama_context@@I@Z", float*,                     \
    (llama_context*, uint32_t))                                                                  \
  X(llama_model_target_layer_ids_n, "_Z30llama_model_target_layer_ids_nPK11llama_model",         \
    "?llama_model_target_layer_ids_n@@YAIPEBUllama_model@@@Z", uint32_t, (const llama_model*))   \
  X(llama_model_dflash_selector_top_k, "_Z33llama_model_dflash_selector_top_kPK11llama_model",   \
    "?llama_model_dflash_selector_top_k@@YAHPEBUllama_model@@@Z", int32_t, (const llama_model*)) \
  X(llama_set_embeddings_nextn, "_Z26llama_set_embeddings_nextnP13llama_contextbb",              \
    "?llama_set_embeddings_nextn@@YAXPEAUllama_context@@_N1@Z", void,                            \
    (llama_context*, bool, bool))                                                                \
  X(llama_get_embeddings_nextn, "_Z26llama_get_embeddings_nextnP13llama_context",                \
    "?llama_get_embeddings_nextn@@YAPEAMPEAUllama_context@@@Z", float*, (llama_context*))

/// Those for samplers on devices, which are declared experimental: what lacks them, or has their
/// structs in another layout, is used without.
#define DFLASH_DEVICE_SAMPLER_FUNCTIONS(X)                                             \
  X(llama_set_sampler, "", "", bool, (llama_context*, llama_seq_id, llama_sampler*))   \
  X(llama_sampler_init, "", "", llama_sampler*, (llama_sampler_i*, void*))             \
  X(llama_sampler_init_dist, "", "", llama_sampler*, (uint32_t))                       \
  X(llama_sampler_init_top_k, "", "", llama_sampler*, (int32_t))                       \
  X(llama_sampler_chain_init, "", "", llama_sampler*, (llama_sampler_chain_params))    \
  X(llama_sampler_chain_add, "", "", void, (llama_sampler*, llama_sampler*))           \
  X(llama_get_sampled_logits_ith, "", "", float*, (llama_context*, int32_t))           \
  X(llama_get_sampled_candidates_ith, "", "", llama_token*, (llama_context*, int32_t)) \
  X(llama_get_sampled_candidates_count_ith, "", "", uint32_t, (llama_context*, int32_t))

struct Api {
#define DFLASH_DECLARE(name, itanium, msvc, result, arguments) result(*name) arguments = nullptr;
  DFLASH_LLAMA_FUNCTIONS(DFLASH_DECLARE)
  DFLASH_DEVICE_SAMPLER_FUNCTIONS(DFLASH_DECLARE)
#undef DFLASH_DECLARE
};

/// A struct's name, and the offsets of its fields, then its size, as llama_cpp's ctypes have them.
using Layouts = std::map<std::string, std::vector<size_t>>;

/// Fills the table from a handle of the loaded library (dlopen's or LoadLibrary's).
/// Throws std::runtime_error that names the struct that differs or every function that is missing.
void bind_api(void* library, const Layouts& layouts);

/// The table; complete once bind_api() has returned, but for samplers on devices.
const Api& api();

/// Whether the functions for samplers on devices are there.
bool has_device_samplers();

}  // namespace dflash
