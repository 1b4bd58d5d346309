// Maxima and comparisons of vectors as arrays contain them: bfloat16s two at a time, without conversion.
#pragma once

#include "core/ptx.cuh"
#include "core/vector.cuh"

namespace cconvnet {

// No number is smaller: the maximum of nothing.
template <int WIDTH, class T>
__device__ __forceinline__ Packed<WIDTH, T> lowest() {
  Vector<WIDTH> result;
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) result.lane[i] = -INFINITY;
  return pack<T>(result);
}

// The larger of each two elements: NaN if either is, and of zeros the positive one.
template <int WIDTH, class T>
__device__ __forceinline__ Packed<WIDTH, T> maximum(const Packed<WIDTH, T>& a, const Packed<WIDTH, T>& b) {
  Packed<WIDTH, T> result;
  if constexpr (std::is_same_v<T, bfloat16> && WIDTH % 2 == 0) {
#pragma unroll
    for (int i = 0; i < WIDTH / 2; ++i) set_pair(result, i, ptx::maximum_bf16(pair_of(a, i), pair_of(b, i)));
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      result.lane[i] = from_float<T>(ptx::maximum(to_float(a.lane[i]), to_float(b.lane[i])));
    }
  }
  return result;
}

// Adds to each element of `sum` that of `term` where a and b are equal.
template <int WIDTH, class T>
__device__ __forceinline__ void add_where_equal(Vector<WIDTH>& sum, const Packed<WIDTH, T>& a,
                                                const Packed<WIDTH, T>& b, const Packed<WIDTH, T>& term) {
  const Vector<WIDTH> terms = unpack(term);
  if constexpr (std::is_same_v<T, bfloat16> && WIDTH % 2 == 0) {
#pragma unroll
    for (int i = 0; i < WIDTH; i += 2) {
      const ptx::Equal equal = ptx::equal_bf16(pair_of(a, i / 2), pair_of(b, i / 2));
      if (equal.low) sum.lane[i] += terms.lane[i];
      if (equal.high) sum.lane[i + 1] += terms.lane[i + 1];
    }
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      if (to_float(a.lane[i]) == to_float(b.lane[i])) sum.lane[i] += terms.lane[i];
    }
  }
}

// The elements of `value` where those of x are positive, or `everywhere`, and 0 elsewhere.
template <int WIDTH, class T>
__device__ __forceinline__ Packed<WIDTH, T> where_positive(const Packed<WIDTH, T>& x,
                                                           const Packed<WIDTH, T>& value, bool everywhere) {
  Packed<WIDTH, T> result;
  if constexpr (std::is_same_v<T, bfloat16> && WIDTH % 2 == 0) {
    const uint32_t kept = everywhere ? ~0u : 0u;
#pragma unroll
    for (int i = 0; i < WIDTH / 2; ++i) {
      set_pair(result, i, pair_of(value, i) & (ptx::positive_bf16(pair_of(x, i)) | kept));
    }
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      result.lane[i] = everywhere || to_float(x.lane[i]) > 0.0f ? value.lane[i] : from_float<T>(0.0f);
    }
  }
  return result;
}

}  // namespace cconvnet
