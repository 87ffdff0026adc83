#pragma once

#include <cstddef>
#include <cstdint>

namespace dflash {

constexpr uint64_t kNoBytes = 14695981039346656037U;

/// FNV-1a of bytes after those that gave `hash`.
inline uint64_t hash_of(const void* bytes, size_t n, uint64_t hash = kNoBytes) {
  const auto* each = static_cast<const unsigned char*>(bytes);
  for (size_t i = 0; i < n; ++i) hash = (hash ^ each[i]) * 1099511628211U;
  return hash;
}

}  // namespace dflash
