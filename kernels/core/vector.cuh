// Loads and stores of several neighbouring elements at once, for kernels that are bound by memory.
//
// A kernel over `Vector<WIDTH>`s is compiled for two widths: kVectorWidth<T>, one 16-byte access, and 1,
// which takes any address. `aligned` decides between them. A Vector contains floats: of a float array it is
// the memory itself, for a bfloat16 array load and store convert.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/alignment.h"
#include "core/bfloat16.h"
#include "core/launch.cuh"

namespace cconvnet {

constexpr int kThreads = 256;  // of a block, where a kernel has no reason for another number
template <class T>
constexpr int kVectorWidth = kVectorBytes / sizeof(T);  // elements in the widest load that every GPU has
constexpr unsigned kFullWarp = ~0u;                     // the mask of all 32 lanes

template <int WIDTH>
struct alignas(WIDTH * sizeof(float) < kVectorBytes ? WIDTH * sizeof(float) : kVectorBytes) Vector {
  float lane[WIDTH];
};

// The same as an array of T contains it.
template <int WIDTH, class T>
struct alignas(WIDTH * sizeof(T)) Packed {
  T lane[WIDTH];
};

// Lanes 2i and 2i + 1 as a word, the first in its low half.
template <int WIDTH>
__device__ __forceinline__ uint32_t pair_of(const Packed<WIDTH, bfloat16>& packed, int i) {
  uint32_t word;
  std::memcpy(&word, packed.lane + 2 * i, sizeof(word));
  return word;
}

template <int WIDTH>
__device__ __forceinline__ void set_pair(Packed<WIDTH, bfloat16>& packed, int i, uint32_t word) {
  std::memcpy(packed.lane + 2 * i, &word, sizeof(word));
}

template <int WIDTH>
__device__ __forceinline__ Vector<WIDTH> unpack(const Packed<WIDTH, float>& packed) {
  Vector<WIDTH> result;
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) result.lane[i] = packed.lane[i];
  return result;
}

template <int WIDTH>
__device__ __forceinline__ Vector<WIDTH> unpack(const Packed<WIDTH, bfloat16>& packed) {
  Vector<WIDTH> result;
#pragma unroll
  for (int i = 0; i + 1 < WIDTH; i += 2) {
    result.lane[i] = low_float(pair_of(packed, i / 2));
    result.lane[i + 1] = high_float(pair_of(packed, i / 2));
  }
  if (WIDTH % 2 == 1) result.lane[WIDTH - 1] = to_float(packed.lane[WIDTH - 1]);
  return result;
}

template <class T, int WIDTH>
__device__ __forceinline__ Packed<WIDTH, T> pack(const Vector<WIDTH>& value) {
  Packed<WIDTH, T> result;
  if constexpr (std::is_same_v<T, bfloat16>) {
#pragma unroll
    for (int i = 0; i + 1 < WIDTH; i += 2) {
      set_pair(result, i / 2, to_bfloat16_pair(value.lane[i], value.lane[i + 1]));
    }
    if (WIDTH % 2 == 1) result.lane[WIDTH - 1] = to_bfloat16(value.lane[WIDTH - 1]);
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) result.lane[i] = value.lane[i];
  }
  return result;
}

template <int WIDTH, class T>
__device__ __forceinline__ Packed<WIDTH, T> load_packed(const T* address) {
  return *reinterpret_cast<const Packed<WIDTH, T>*>(address);
}

template <int WIDTH, class T>
__device__ __forceinline__ void store(T* address, const Packed<WIDTH, T>& value) {
  *reinterpret_cast<Packed<WIDTH, T>*>(address) = value;
}

template <int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> load(const T* address) {
  return unpack(load_packed<WIDTH>(address));
}

template <int WIDTH, class T>
__device__ __forceinline__ void store(T* address, const Vector<WIDTH>& value) {
  store(address, pack<T>(value));
}

// A vector at any address, loaded at once if ALIGNED. For kernels in which the order of additions depends on
// WIDTH and must not depend on the addresses of the arrays.
template <int WIDTH, bool ALIGNED, class T>
__device__ __forceinline__ Packed<WIDTH, T> load_packed_from(const T* address) {
  if constexpr (ALIGNED) {
    return load_packed<WIDTH>(address);
  } else {
    Packed<WIDTH, T> result;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) result.lane[i] = address[i];
    return result;
  }
}

template <int WIDTH, bool ALIGNED, class T>
__device__ __forceinline__ Vector<WIDTH> load_from(const T* address) {
  return unpack(load_packed_from<WIDTH, ALIGNED>(address));
}

template <bool ALIGNED, class T, int WIDTH>
__device__ __forceinline__ void store_to(T* address, const Packed<WIDTH, T>& value) {
  if constexpr (ALIGNED) {
    store(address, value);
  } else {
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) address[i] = value.lane[i];
  }
}

template <bool ALIGNED, class T, int WIDTH>
__device__ __forceinline__ void store_to(T* address, const Vector<WIDTH>& value) {
  store_to<ALIGNED>(address, pack<T>(value));
}

template <int WIDTH>
__device__ __forceinline__ Vector<WIDTH> zeros() {
  Vector<WIDTH> result;
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) result.lane[i] = 0.0f;
  return result;
}

// The vector after a round trip through an array of T.
template <class T, int WIDTH>
__device__ __forceinline__ Vector<WIDTH> rounded_to(const Vector<WIDTH>& value) {
  return unpack(pack<T>(value));
}

template <int WIDTH>
__device__ __forceinline__ void add_to(Vector<WIDTH>& sum, const Vector<WIDTH>& term) {
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) sum.lane[i] += term.lane[i];
}

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// ---- elementwise kernels --------------------------------------------------------------------------------
// One vector per thread and no loop: every multiprocessor is full of threads, so enough loads are in flight.
// An operation is a struct of its pointers with
//   template <int WIDTH> __device__ void apply(int64_t i) const;
// which computes elements i .. i+WIDTH-1. All its loads come before its stores, so it may work in place.

template <int WIDTH, class Operation>
__global__ void __launch_bounds__(kThreads) elementwise(int count, Operation operation) {
  int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * WIDTH;
  if (i + WIDTH <= count) {
    operation.template apply<WIDTH>(i);
  } else {
    for (; i < count; ++i) operation.template apply<1>(i);
  }
}

// Launches the kernel with vectors if `vectors`, which requires that all the pointers of the operation are
// aligned, else with single elements. T is the type of the elements.
template <class T, class Operation>
void launch_elementwise(int count, bool vectors, Stream stream, const Operation& operation) {
  const int width = vectors ? kVectorWidth<T> : 1;
  const dim3 grid(static_cast<unsigned>(ceil_div(count, kThreads * width)));
  if (vectors) {
    CCONVNET_LAUNCH((elementwise<kVectorWidth<T>, Operation>), grid, kThreads, stream, count, operation);
  } else {
    CCONVNET_LAUNCH((elementwise<1, Operation>), grid, kThreads, stream, count, operation);
  }
}

// ---- division -------------------------------------------------------------------------------------------

// n / divisor for 0 <= n < 2^31 by one wide multiplication, where a division takes about 20 instructions. The
// multiplier is m = ceil(2^shift / divisor) with divisor * 2^31 <= 2^shift < divisor * 2^32, so it fits in 32
// bits. m * n / 2^shift exceeds n / divisor by less than n / 2^shift < 1 / divisor, too little to reach the
// next integer. Source: Granlund and Montgomery, "Division by invariant integers using multiplication", PLDI
// 1994.
class Divider {
 public:
  Divider() = default;  // uninitialised, as shared memory is
  explicit Divider(int divisor) : divisor_(divisor), shift_(31) {
    while ((int64_t{1} << shift_) < int64_t{divisor} << 31) ++shift_;
    multiplier_ = static_cast<uint32_t>(((uint64_t{1} << shift_) + divisor - 1) / divisor);
  }

  __device__ __forceinline__ int quotient(int n) const {
    return static_cast<int>((uint64_t{multiplier_} * static_cast<uint32_t>(n)) >> shift_);
  }

  // Divides n: returns the quotient and stores the remainder.
  __device__ __forceinline__ int divide(int n, int& remainder) const {
    const int q = quotient(n);
    remainder = n - q * divisor_;
    return q;
  }

 private:
  int divisor_;
  int shift_;
  uint32_t multiplier_;
};

}  // namespace cconvnet
