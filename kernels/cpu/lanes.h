// Sixteen numbers at once, as floats: vectors of AVX-512, or what the compiler makes of them elsewhere.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"

namespace cconvnet {

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

inline int64_t rounded_up(int64_t count) {
  return (count + kLanes - 1) / kLanes * kLanes;
}

// Zeros that begin where vectors do: one that lies across two cache lines costs two accesses.
class AlignedFloats {
 public:
  explicit AlignedFloats(int64_t count) : memory_(rounded_up(count) / kLanes) {}
  float* data() { return reinterpret_cast<float*>(memory_.data()); }

 private:
  std::vector<Lanes> memory_;
};

// function(i) in each lane i. What is more than arithmetic is written so: the compiler takes vectors apart
// that the baseline has no instructions for before it clones a function for better ones, loops only
// afterwards.
template <class Function>
inline __attribute__((always_inline)) Lanes each_lane(const Function& function) {
  float lanes[kLanes];
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) lanes[i] = function(i);
  Lanes values;
  std::memcpy(&values, lanes, sizeof values);
  return values;
}

// `values` as an array of T would give them back.
template <class T>
inline __attribute__((always_inline)) Lanes kept_in(const Lanes& values) {
  return each_lane([&](int i) { return rounded_to<T>(values[i]); });
}

// The vector at `from`, or its first `count` lanes and zeros; and the like for storing.
template <class T>
inline __attribute__((always_inline)) Lanes load(const T* from, int count = kLanes) {
  if (count >= kLanes) return each_lane([&](int i) { return to_float(from[i]); });
  Lanes values = {};
  for (int i = 0; i < count; ++i) values[i] = to_float(from[i]);
  return values;
}

template <class T>
inline __attribute__((always_inline)) void store(T* to, const Lanes& values, int count = kLanes) {
  if (count >= kLanes) {
#pragma omp simd
    for (int i = 0; i < kLanes; ++i) to[i] = from_float<T>(values[i]);
  } else {
    for (int i = 0; i < count; ++i) to[i] = from_float<T>(values[i]);
  }
}

}  // namespace cconvnet
