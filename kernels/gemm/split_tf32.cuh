// Products of floats on tensor cores that are as accurate as those of float units: fp32x3, in the literature
// "3xTF32".
//
// A float x is the sum of big, x rounded to a tf32, and small, the rest, of which a tensor core reads 11 bits.
// Together they hold x to half a unit of its last place or better. A product is the sum of small * big, big *
// small and big * big, in this order; small * small is below 2^-22 of the product and is left out. Tensor
// cores cut off the low bits of the sums that they add up, which in a long sum would become a bias. So they
// add the products of one instruction alone, and their sum is added to the others by a float unit.
//
// Source: H. Ootomo and R. Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing
// the FP32 theoretical peak performance", 2022, section 3; CUTLASS names the same three products 3xTF32 in its
// examples 27 and 28.
#pragma once

#include "core/ptx.cuh"

namespace cconvnet {

// A fragment of floats as two of tf32s.
struct SplitMatrices {
  ptx::Matrices big, small;
};

// What is rounded up from here on, to 11 bits, is infinite.
constexpr float kRoundsToInfinity = 0x1.ffep127f;

__device__ __forceinline__ SplitMatrices split_tf32(const ptx::Matrices& floats) {
  SplitMatrices split;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const ptx::Word bits = floats.part[i];
    const float value = __uint_as_float(bits);
    // The largest floats, infinities and NaNs are all small, beside a big of about 1 and the same sign. So no
    // infinity meets the zero that is the rest of many factors.
    const bool large = !(fabsf(value) < kRoundsToInfinity);
    const ptx::Word big = (bits + 0x1000) & (large ? ~ptx::Word{0x40001fff} : ~ptx::Word{0x1fff});
    split.big.part[i] = big;
    split.small.part[i] = large ? bits : __float_as_uint(value - __uint_as_float(big));
  }
  return split;
}

}  // namespace cconvnet
