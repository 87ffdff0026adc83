#include "llama/device_top_k.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/errors.h"
#include "llama/shaping.h"

namespace dflash {

namespace {

// A sampler of libllama's interface, whose context is libllama's "dist": of its graph it keeps the
// probabilities, and leaves the draw out.

llama_sampler* dist_of(const llama_sampler* sampler) {
  return static_cast<llama_sampler*>(sampler->ctx);
}

const char* name(const llama_sampler* /*sampler*/) {
  return "probabilities";
}

// Only devices run it; it has no candidates to work on elsewhere.
void apply(llama_sampler* /*sampler*/, llama_token_data_array* /*candidates*/) {}

void free_dist(llama_sampler* sampler) {
  api().llama_sampler_free(dist_of(sampler));
}

bool backend_init(llama_sampler* sampler, ggml_backend_buffer_type* type, uint32_t most_rows) {
  llama_sampler* dist = dist_of(sampler);
  return dist->iface->backend_init(dist, type, most_rows);
}

void backend_apply(llama_sampler* sampler, ggml_context* context, ggml_cgraph* graph,
                   llama_sampler_data* data) {
  llama_sampler* dist = dist_of(sampler);
  dist->iface->backend_apply(dist, context, graph, data);
  *data = {data->probs, nullptr, nullptr, data->candidates};
}

void backend_reset(llama_sampler* sampler) {
  llama_sampler* dist = dist_of(sampler);
  if (dist->iface->backend_reset != nullptr) dist->iface->backend_reset(dist);
}

llama_sampler_i probabilities_methods() {
  llama_sampler_i methods = {};
  methods.name = name;
  methods.apply = apply;
  methods.free = free_dist;
  methods.backend_init = backend_init;
  methods.backend_apply = backend_apply;
  methods.backend_reset = backend_reset;
  return methods;
}

llama_sampler_i probabilities = probabilities_methods();

// libllama marks the samplers of a chain that the device runs.
bool on_device(llama_sampler* chain, int32_t i) {
  return name_in(chain, i).substr(0, 1) == "+";
}

}  // namespace

std::unique_ptr<DeviceTopK> DeviceTopK::attach(llama_context* context, llama_seq_id sequence) {
  if (!has_device_samplers()) return nullptr;
  const int32_t n_vocab =
      api().llama_vocab_n_tokens(api().llama_model_get_vocab(api().llama_get_model(context)));
  Chain chain(api().llama_sampler_chain_init(llama_sampler_chain_params{true}),
              api().llama_sampler_free);
  llama_sampler* dist = api().llama_sampler_init_dist(0);
  api().llama_sampler_chain_add(chain.get(), api().llama_sampler_init(&probabilities, dist));
  api().llama_sampler_chain_add(chain.get(),
                                api().llama_sampler_init_top_k(std::min(kMost, n_vocab)));
  if (!api().llama_set_sampler(context, sequence, chain.get())) return nullptr;
  if (!on_device(chain.get(), 1)) {
    api().llama_set_sampler(context, sequence, nullptr);
    return nullptr;
  }
  return std::unique_ptr<DeviceTopK>(new DeviceTopK(context, std::move(chain)));
}

void DeviceTopK::read(int32_t row, std::vector<llama_token_data>& out) const {
  const uint32_t n = api().llama_get_sampled_candidates_count_ith(context_, row);
  const float* probabilities_of = api().llama_get_sampled_logits_ith(context_, row);
  const llama_token* ids = api().llama_get_sampled_candidates_ith(context_, row);
  if (n == 0 || probabilities_of == nullptr || ids == nullptr) {
    throw BackendError("libllama gave no likeliest tokens of a drafter's row");
  }
  out.clear();
  for (uint32_t i = 0; i < n; ++i) {
    out.push_back({ids[i], std::log(probabilities_of[i]), probabilities_of[i]});
  }
  std::sort(out.begin(), out.end(), [](const llama_token_data& a, const llama_token_data& b) {
    return a.p > b.p || (a.p == b.p && a.id < b.id);
  });
  while (out.size() > 1 && !(out.back().p > 0)) out.pop_back();
}

}  // namespace dflash
