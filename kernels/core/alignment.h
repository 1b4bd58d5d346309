// The alignment at which memory can be read in pieces of 16 bytes, the widest load that every GPU has.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cconvnet {

constexpr size_t kVectorBytes = 16;

template <class... Pointers>
bool aligned(Pointers... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % kVectorBytes == 0) && ...);
}

}  // namespace cconvnet
