// PTX instructions that CUDA C++ does not offer: asynchronous copies and the instructions that feed and drive the
// tensor cores, then maxima, comparisons and roots. Those up to the conversions exist from compute capability
// 8.0 on. On older GPUs a copy is done at once. The others trap there, and serves() excludes the kernels that
// use them. Maxima and comparisons are written out for older GPUs as for the emulator. The instructions of
// compute capability 9.0 are in barriers.cuh, copy_engine.cuh and wgmma.cuh. There is no inline PTX
// elsewhere.
//
// Beside each instruction its meaning is written out, lane by lane, for the emulator. Section titles are
// those of the PTX ISA 8.5. `lane` is the number of the thread in its warp; group = lane / 4 and in_group =
// lane % 4, which the ISA calls groupID and threadID_in_group.
#pragma once

#include <cfloat>
#include <cmath>

#include "core/bfloat16.h"
#include "core/ptx_call.cuh"

namespace cconvnet {
namespace ptx {

// Two bfloat16s (the first in the low half), or a tf32, which is a float whose low 13 bits are zero.
using Word = uint32_t;

// ---- asynchronous copies: "Data Movement and Conversion Instructions: Non-bulk copy" --------------------

// Starts a copy of 16 bytes from global to shared memory, bypassing the first-level cache; both are on
// 16-byte boundaries. Unless `inside`, zeros are copied and `global` may be anything.
__device__ __forceinline__ void start_copy(void* shared, const void* global,
                                           bool inside CCONVNET_PTX_CALLER) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  *static_cast<uint4*>(shared) = inside ? *static_cast<const uint4*>(global) : uint4{};
#elif defined(__CUDACC__)
  CCONVNET_PTX(
      "{ .reg .pred outside; setp.eq.u32 outside, %2, 0; "
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, outside; }" ::"r"(shared_address(shared)),
      "l"(__cvta_generic_to_global(global)), "r"(uint32_t{inside}));
#else
  emulator::start_copy({"cp.async", file, line}, shared, inside ? global : nullptr);
#endif
}

// The copies that the thread has started since the last such call become a group, perhaps an empty one.
__device__ __forceinline__ void close_copy_group() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#elif defined(__CUDACC__)
  CCONVNET_PTX("cp.async.commit_group;");
#else
  emulator::close_copy_group();
#endif
}

// Waits until at most the last PENDING groups of the thread are in flight. Other threads see the copies after
// a barrier.
template <int PENDING>
__device__ __forceinline__ void wait_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
#elif defined(__CUDACC__)
  CCONVNET_PTX("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#else
  emulator::wait_for_copies(PENDING);
#endif
}

// ---- fragments: "Warp-level matrix load instruction: ldmatrix" ------------------------------------------

// ldmatrix loads four 8 x 8 matrices of 16-bit elements. Lane l passes the address, in shared memory, of row
// l % 8 of matrix l / 8: 16 bytes on a 16-byte boundary. part[i] of a lane receives its share of matrix i:
//   load_matrices             row `group`, columns 2 * in_group and 2 * in_group + 1
//   load_matrices_transposed  rows 2 * in_group and 2 * in_group + 1, column `group`
// With 32-bit elements a row has four, and load_matrices gives row `group`, column `in_group`.
struct Matrices {
  Word part[4];
};

#ifndef __CUDACC__

struct MatricesOperand {
  const void* row;
  Matrices result;
};

__attribute__((noinline)) inline Matrices load_matrices(const emulator::Site& site, const void* row,
                                                        bool transposed) {
  const emulator::counting::Paused paused;
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
    emulator::machine.fail<emulator::KernelError>(site, "a row is not on a boundary of 16 bytes");
  }
  emulator::counting::matrix_row(row, __builtin_return_address(0));
  MatricesOperand operand{row, {}};
  const auto resolve = [transposed](MatricesOperand* const* lanes, unsigned) {
    const auto element = [lanes](int matrix, int row, int column) {
      return Word{static_cast<const uint16_t*>(lanes[matrix * 8 + row]->row)[column]};
    };
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, in_group = lane % 4;
      for (int matrix = 0; matrix < 4; ++matrix) {
        const Word low =
            transposed ? element(matrix, 2 * in_group, group) : element(matrix, group, 2 * in_group);
        const Word high =
            transposed ? element(matrix, 2 * in_group + 1, group) : element(matrix, group, 2 * in_group + 1);
        lanes[lane]->result.part[matrix] = low | high << 16;
      }
    }
  };
  emulator::machine.warp_operation(site, kAllLanes, operand, resolve);
  return operand.result;
}

#endif

__device__ __forceinline__ Matrices load_matrices(const void* row CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  Matrices m = {};
  CCONVNET_PTX("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m.part[0]),
               "=r"(m.part[1]), "=r"(m.part[2]), "=r"(m.part[3]) : "r"(shared_address(row)));
  return m;
#else
  return load_matrices({"ldmatrix", file, line}, row, false);
#endif
}

__device__ __forceinline__ Matrices load_matrices_transposed(const void* row CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  Matrices m = {};
  CCONVNET_PTX("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];" : "=r"(m.part[0]),
               "=r"(m.part[1]), "=r"(m.part[2]), "=r"(m.part[3]) : "r"(shared_address(row)));
  return m;
#else
  return load_matrices({"ldmatrix.trans", file, line}, row, true);
#endif
}

// ---- products of a warp: "Matrix multiply-accumulate operation using mma instruction" -------------------

// C[16, 8] += A[16, K] * B[K, 8]. The lanes hold the matrices as follows:
//   C  c[0], c[1]: row `group`, columns 2 * in_group and 2 * in_group + 1; c[2], c[3]: the same of row
//      group + 8
//   A  a[0]: row `group`; a[1]: row group + 8; a[2], a[3]: the same rows, the second half of K
//   B  b[0]: column `group`; b[1]: the same, the second half of K
// Of its half of K, a word contains
//   bf16 ("Matrix Fragments for mma.m16n8k16 with floating point type")  2 * in_group and 2 * in_group + 1
//   tf32 ("Matrix Fragments for mma.m16n8k8")  in_group
// The order in which the chip adds the products is not documented; the emulator adds them one after the
// other.

#ifndef __CUDACC__

struct ProductOperand {
  float* c;
  const Word *a, *b;
};

// PER_WORD elements in a word; value(word, i) is the i-th.
template <int PER_WORD, class Value>
void multiply_add(const emulator::Site& site, float (&c)[4], const Word (&a)[4], const Word (&b)[2],
                  Value value) {
  ProductOperand operand{c, a, b};
  const auto resolve = [value](ProductOperand* const* lanes, unsigned) {
    constexpr int HALF = 4 * PER_WORD, K = 2 * HALF;
    float left[16][K], right[8][K];
    for (int lane = 0; lane < 32; ++lane) {
      const int group = lane / 4, in_group = lane % 4;
      for (int half = 0; half < 2; ++half) {
        for (int i = 0; i < PER_WORD; ++i) {
          const int k = half * HALF + in_group * PER_WORD + i;
          left[group][k] = value(lanes[lane]->a[2 * half], i);
          left[group + 8][k] = value(lanes[lane]->a[2 * half + 1], i);
          right[group][k] = value(lanes[lane]->b[half], i);
        }
      }
    }
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = lanes[lane]->c[i];
        for (int k = 0; k < K; ++k) sum += left[row][k] * right[column][k];
        lanes[lane]->c[i] = sum;
      }
    }
  };
  emulator::machine.warp_operation(site, kAllLanes, operand, resolve);
}

#endif

__device__ __forceinline__ void multiply_add_bf16(float (&c)[4], const Word (&a)[4],
                                                  const Word (&b)[2] CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};" : "+f"(c[0]),
      "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  multiply_add<2>({"mma.m16n8k16.bf16", file, line}, c, a, b,
                  [](Word word, int i) { return to_float(bfloat16{static_cast<uint16_t>(word >> 16 * i)}); });
#endif
}

// The tensor cores ignore the low 13 bits of a tf32.
__device__ __forceinline__ void multiply_add_tf32(float (&c)[4], const Word (&a)[4],
                                                  const Word (&b)[2] CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};" : "+f"(c[0]),
      "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  multiply_add<1>({"mma.m16n8k8.tf32", file, line}, c, a, b,
                  [](Word word, int) { return __uint_as_float(word & ~Word{0x1fff}); });
#endif
}

// ---- conversions: "Data Movement and Conversion Instructions: cvt" --------------------------------------

// Converts a float, given by its bits, to tf32: to nearest, ties away from zero. No GPU up to sm_120 has a
// single instruction for it. The code of ptxas 13.0 truncates a NaN, so a NaN with only low bits becomes
// infinite.
__device__ __forceinline__ Word to_tf32(Word bits) {
#ifdef __CUDACC__
  Word result = 0;
  CCONVNET_PTX("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(__uint_as_float(bits)));
  return result;
#else
  if (std::isnan(__uint_as_float(bits))) return bits & ~Word{0x1fff};
  return (bits + 0x1000) & ~Word{0x1fff};
#endif
}

// ---- maxima and comparisons: "Floating Point Instructions", "Half Precision Comparison Instructions" ------

// The larger of two numbers: NaN if either is, and of zeros the positive one.
__device__ __forceinline__ float maximum(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  if (a != a || b != b) return __uint_as_float(0x7fffffff);
  if (a == b) return __uint_as_float(__float_as_uint(a) & __float_as_uint(b));
  return a > b ? a : b;
#endif
}

// The same of each half, a bfloat16.
__device__ __forceinline__ Word maximum_bf16(Word a, Word b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  Word result;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
#else
  return to_bfloat16_pair(maximum(low_float(a), low_float(b)), maximum(high_float(a), high_float(b)));
#endif
}

struct Equal {
  bool low, high;
};

// Whether the halves, bfloat16s, are equal numbers.
__device__ __forceinline__ Equal equal_bf16(Word a, Word b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  Word low, high;
  asm("{ .reg .pred p, q; setp.eq.bf16x2 p|q, %2, %3; selp.u32 %0, 1, 0, p; selp.u32 %1, 1, 0, q; }"
      : "=r"(low), "=r"(high)
      : "r"(a), "r"(b));
  return {low != 0, high != 0};
#else
  return {low_float(a) == low_float(b), high_float(a) == high_float(b)};
#endif
}

// A word whose halves have all bits where those of `pair`, bfloat16s, are positive numbers, and none elsewhere.
__device__ __forceinline__ Word positive_bf16(Word pair) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  Word result;
  asm("set.gt.u32.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(pair), "r"(0));
  return result;
#else
  return (low_float(pair) > 0.0f ? 0xffffu : 0u) | (high_float(pair) > 0.0f ? 0xffff0000u : 0u);
#endif
}

// ---- approximations: "Floating Point Instructions: rsqrt.approx.ftz" -----------------------------------

// x^(-1/2) with a relative error of at most 2^-22.9. Subnormal numbers count as zero: infinite.
__device__ __forceinline__ float reciprocal_root(float x) {
#ifdef __CUDACC__
  float result;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / sqrtf(fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x);
#endif
}

// ---- registers -----------------------------------------------------------------------------------------

// Returns the value in a register. nvcc computes a value that is needed in a loop anew in each iteration, if
// it can, even by divisions.
__device__ __forceinline__ int in_register(int value) {
#ifdef __CUDACC__
  asm volatile("" : "+r"(value));
#endif
  return value;
}

}  // namespace ptx
}  // namespace cconvnet
