// Sixteen numbers at once, as floats: AVX-512 vectors, or their emulation by the compiler on other
// processors.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/bfloat16.h"

namespace cconvnet {

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

inline int64_t rounded_up(int64_t count) {
  return (count + kLanes - 1) / kLanes * kLanes;
}

// Zeroed floats aligned to vectors: a vector that crosses two cache lines costs two accesses.
class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t count) : memory_(rounded_up(count) / kLanes) {}
  float* data() { return reinterpret_cast<float*>(memory_.data()); }

 private:
  std::vector<Lanes> memory_;
};

typedef int32_t Integers __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef uint32_t Words __attribute__((vector_size(kLanes * sizeof(uint32_t))));
typedef uint16_t Halves __attribute__((vector_size(kLanes * sizeof(uint16_t))));

// to_float and to_bfloat16 of all lanes, by arithmetic alone. The baseline has no instructions for vectors of
// comparisons. They would be split into single comparisons before the compiler clones a function for
// processors that have them.
inline __attribute__((always_inline)) Lanes widened(const Halves& bits) {
  return reinterpret_cast<Lanes>(__builtin_convertvector(bits, Words) << 16);
}

inline __attribute__((always_inline)) Words rounded(const Lanes& values) {
  const Words bits = reinterpret_cast<Words>(values);
  const Words nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const Words nan =
      reinterpret_cast<Words>((0x7f800000 - reinterpret_cast<Integers>(bits & 0x7fffffff)) >> 31);
  return (nearest & ~nan) | (nan & 0x7fff);
}

// `values` after a round trip through an array of T.
template <class T>
inline __attribute__((always_inline)) Lanes kept_in(const Lanes& values) {
  return std::is_same_v<T, float> ? values : reinterpret_cast<Lanes>(rounded(values) << 16);
}

// where[i] ? values[i] : 0 with where[i] = (a[i] == b[i]) or (a[i] > 0). As loops, which become vectors after
// the cloning.
inline __attribute__((always_inline)) Lanes where_equal(const Lanes& a, const Lanes& b, Lanes values) {
  float as[kLanes], bs[kLanes], to[kLanes];
  std::memcpy(as, &a, sizeof a);
  std::memcpy(bs, &b, sizeof b);
  std::memcpy(to, &values, sizeof values);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) to[i] = as[i] == bs[i] ? to[i] : 0.0f;
  std::memcpy(&values, to, sizeof values);
  return values;
}

inline __attribute__((always_inline)) Lanes where_positive(const Lanes& a, Lanes values) {
  float as[kLanes], to[kLanes];
  std::memcpy(as, &a, sizeof a);
  std::memcpy(to, &values, sizeof values);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) to[i] = as[i] > 0.0f ? to[i] : 0.0f;
  std::memcpy(&values, to, sizeof values);
  return values;
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

// Calls work(first, count) for the vectors of `count` numbers: kLanes of each, and what is left of the last.
// The compiler makes a loop for whole vectors of it, which asks no lane whether it is needed.
template <class Work>
inline __attribute__((always_inline)) void for_lanes(int count, const Work& work) {
  int first = 0;
  for (; first + kLanes <= count; first += kLanes) work(first, kLanes);
  if (first < count) work(first, count - first);
}

}  // namespace cconvnet
