// Sixteen numbers at once, as floats: vectors of AVX-512, or what the compiler makes of them elsewhere.
#pragma once

#include <cstdint>
#include <cstring>

#include "bfloat16.h"

namespace cconvnet {

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));

// to_float and to_bfloat16 (bfloat16.h), of all lanes.
inline __attribute__((always_inline)) Lanes widened(const Halves& bits) {
  return reinterpret_cast<Lanes>(__builtin_convertvector(bits, Words) << 16);
}

inline __attribute__((always_inline)) Words rounded(const Lanes& values) {
  const Words bits = reinterpret_cast<Words>(values);
  const Words up = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return (bits & 0x7fffffff) > 0x7f800000 ? Words{} + 0x7fff : up;
}

// `values` as an array of T would give them back.
template <class T>
inline __attribute__((always_inline)) Lanes kept_in(const Lanes& values) {
  return sizeof(T) == sizeof(float) ? values : reinterpret_cast<Lanes>(rounded(values) << 16);
}

// The vector at `from`, or its first `count` lanes and zeros; and the like for storing.
inline __attribute__((always_inline)) Lanes load(const float* from, int count = kLanes) {
  Lanes values = {};
  if (count >= kLanes) {
    std::memcpy(&values, from, sizeof values);
  } else {
    for (int i = 0; i < count; ++i) values[i] = from[i];
  }
  return values;
}

inline __attribute__((always_inline)) Lanes load(const bfloat16* from, int count = kLanes) {
  Halves bits = {};
  if (count >= kLanes) {
    std::memcpy(&bits, from, sizeof bits);
  } else {
    for (int i = 0; i < count; ++i) bits[i] = from[i].bits;
  }
  return widened(bits);
}

inline __attribute__((always_inline)) void store(float* to, const Lanes& values, int count = kLanes) {
  if (count >= kLanes) {
    std::memcpy(to, &values, sizeof values);
  } else {
    for (int i = 0; i < count; ++i) to[i] = values[i];
  }
}

inline __attribute__((always_inline)) void store(bfloat16* to, const Lanes& values, int count = kLanes) {
  const Halves bits = __builtin_convertvector(rounded(values), Halves);
  if (count >= kLanes) {
    std::memcpy(to, &bits, sizeof bits);
  } else {
    for (int i = 0; i < count; ++i) to[i].bits = bits[i];
  }
}

}  // namespace cconvnet
