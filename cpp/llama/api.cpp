#include "llama/api.h"

#include <algorithm>
#include <iterator>
#include <stdexcept>
#include <string>

#ifdef _WIN32
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace dflash {

namespace {

Api table;
bool device_samplers = false;

void* find_symbol(void* library, const char* name) {
  if (*name == '\0') return nullptr;
#ifdef _WIN32
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
#else
  return dlsym(library, name);
#endif
}

void* find_function(void* library, const char* plain, const char* itanium, const char* msvc) {
  for (const char* name : {plain, itanium, msvc}) {
    if (void* symbol = find_symbol(library, name)) return symbol;
  }
  return nullptr;
}

Layouts own_layouts() {
  using Data = llama_token_data;
  using Array = llama_token_data_array;
  return {
      {"llama_batch",
       {offsetof(llama_batch, n_tokens), offsetof(llama_batch, token), offsetof(llama_batch, embd),
        offsetof(llama_batch, pos), offsetof(llama_batch, n_seq_id), offsetof(llama_batch, seq_id),
        offsetof(llama_batch, logits), sizeof(llama_batch)}},
      {"llama_token_data",
       {offsetof(Data, id), offsetof(Data, logit), offsetof(Data, p), sizeof(Data)}},
      {"llama_token_data_array",
       {offsetof(Array, data), offsetof(Array, size), offsetof(Array, selected),
        offsetof(Array, sorted), sizeof(Array)}},
      {"llama_sampler",
       {offsetof(llama_sampler, iface), offsetof(llama_sampler, ctx), sizeof(llama_sampler)}}};
}

// Of a sampler's functions these are always called; the table grows at its end.
bool begins_as_known(const Layouts& theirs) {
  using Interface = llama_sampler_i;
  const size_t known[] = {offsetof(Interface, name), offsetof(Interface, accept),
                          offsetof(Interface, apply)};
  const auto found = theirs.find("llama_sampler_i");
  return found != theirs.end() && found->second.size() > std::size(known) &&
         std::equal(std::begin(known), std::end(known), found->second.begin());
}

Layouts device_sampler_layouts() {
  using Data = llama_sampler_data;
  using Interface = llama_sampler_i;
  return {
      {"llama_sampler_chain_params",
       {offsetof(llama_sampler_chain_params, no_perf), sizeof(llama_sampler_chain_params)}},
      {"llama_sampler_data",
       {offsetof(Data, logits), offsetof(Data, probs), offsetof(Data, sampled),
        offsetof(Data, candidates), sizeof(Data)}},
      {"llama_sampler_i",
       {offsetof(Interface, name), offsetof(Interface, accept), offsetof(Interface, apply),
        offsetof(Interface, reset), offsetof(Interface, clone), offsetof(Interface, free),
        offsetof(Interface, backend_init), offsetof(Interface, backend_accept),
        offsetof(Interface, backend_apply), offsetof(Interface, backend_set_input),
        offsetof(Interface, backend_reset), offsetof(Interface, copy_state), sizeof(Interface)}}};
}

bool same_layout(const Layouts& theirs, const std::string& name,
                 const std::vector<size_t>& layout) {
  const auto found = theirs.find(name);
  return found != theirs.end() && found->second == layout;
}

}  // namespace

void bind_api(void* library, const Layouts& layouts) {
  for (const auto& [name, layout] : own_layouts()) {
    if (!same_layout(layouts, name, layout)) {
      throw std::runtime_error(name + " has another layout in the loaded llama_cpp");
    }
  }
  if (!begins_as_known(layouts)) {
    throw std::runtime_error("llama_sampler_i has another layout in the loaded llama_cpp");
  }
  Api found;
  std::string missing;
#define DFLASH_FIND(name, itanium, msvc, result, arguments)                                 \
  found.name =                                                                              \
      reinterpret_cast<decltype(found.name)>(find_function(library, #name, itanium, msvc)); \
  if (found.name == nullptr) missing += std::string(missing.empty() ? "" : ", ") + #name;
  DFLASH_LLAMA_FUNCTIONS(DFLASH_FIND)
  if (!missing.empty()) {
    throw std::runtime_error("the loaded libllama lacks " + missing);
  }
  missing.clear();
  DFLASH_DEVICE_SAMPLER_FUNCTIONS(DFLASH_FIND)
#undef DFLASH_FIND
  device_samplers = missing.empty();
  for (const auto& [name, layout] : device_sampler_layouts()) {
    if (!same_layout(layouts, name, layout)) device_samplers = false;
  }
  table = found;
}

const Api& api() {
  return table;
}

bool has_device_samplers() {
  return device_samplers;
}

}  // namespace dflash
