// Arrays of T as arrays of floats and back, for kernels that compute in memory: bfloat16 through a buffer,
// floats in place.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/bfloat16.h"

namespace cconvnet {

// A number that came from an array of T and needs no rounding, which would take longer than the memory
// access.
template <class T>
inline __attribute__((always_inline)) T unrounded(float value) {
  if constexpr (std::is_same_v<T, bfloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return {static_cast<uint16_t>(bits >> 16)};
  } else {
    return value;
  }
}

// elementwise.cpp
void convert(const bfloat16* from, int64_t count, float* to);
void convert(const float* from, int64_t count, bfloat16* to);

// The number of floats in a buffer for `count` elements of T.
template <class T>
constexpr int64_t buffered(int64_t count) {
  return sizeof(T) == sizeof(float) ? 0 : count;
}

inline const float* as_floats(const float* x, int64_t, float*) {
  return x;
}
inline const float* as_floats(const bfloat16* x, int64_t count, float* buffer) {
  convert(x, count, buffer);
  return buffer;
}

// The destination of y as floats; write_floats then converts it to y.
inline float* float_destination(float* y, float*) {
  return y;
}
inline float* float_destination(bfloat16*, float* buffer) {
  return buffer;
}

inline void write_floats(const float*, int64_t, float*) {}
inline void write_floats(const float* floats, int64_t count, bfloat16* y) {
  convert(floats, count, y);
}

}  // namespace cconvnet
