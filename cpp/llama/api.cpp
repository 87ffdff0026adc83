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

bool same_layout(const BatchLayout& layout) {
  return layout.n_tokens == offsetof(llama_batch, n_tokens) &&
         layout.token == offsetof(llama_batch, token) &&
         layout.embd == offsetof(llama_batch, embd) && layout.pos == offsetof(llama_batch, pos) &&
         layout.n_seq_id == offsetof(llama_batch, n_seq_id) &&
         layout.seq_id == offsetof(llama_batch, seq_id) &&
         layout.logits == offsetof(llama_batch, logits) && layout.size == sizeof(llama_batch);
}

}  // namespace

void bind_api(void* library, const BatchLayout& layout) {
  if (!same_layout(layout)) {
    throw std::runtime_error("llama_batch has another layout in the loaded llama_cpp");
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
