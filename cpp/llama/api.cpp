#include "llama/api.h"

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
  using Functions = llama_sampler_i;
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
       {offsetof(llama_sampler, iface), offsetof(llama_sampler, ctx), sizeof(llama_sampler)}},
      {"llama_sampler_i",  // it grows at its end
       {offsetof(Functions, name), offsetof(Functions, accept), offsetof(Functions, apply)}}};
}

}  // namespace

void bind_api(void* library, const Layouts& layouts) {
  for (const auto& [name, layout] : own_layouts()) {
    const auto theirs = layouts.find(name);
    if (theirs == layouts.end() || theirs->second != layout) {
      throw std::runtime_error(name + " has another layout in the loaded llama_cpp");
    }
  }
  Api found;
  std::string missing;
#define DFLASH_FIND(name, itanium, msvc, result, arguments)                                 \
  found.name =                                                                              \
      reinterpret_cast<decltype(found.name)>(find_function(library, #name, itanium, msvc)); \
  if (found.name == nullptr) missing += std::string(missing.empty() ? "" : ", ") + #name;
  DFLASH_LLAMA_FUNCTIONS(DFLASH_FIND)
#undef DFLASH_FIND
  if (!missing.empty()) {
    throw std::runtime_error("the loaded libllama lacks " + missing);
  }
  table = found;
}

const Api& api() {
  return table;
}

}  // namespace dflash
