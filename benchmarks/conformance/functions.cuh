// Checks of functions of one to three words, one thread for each.
#pragma once

#include "words.cuh"
#include "core/larger.h"
#include "core/philox.h"
#include "core/ptx.cuh"

namespace {

template <class Function>
__global__ void __launch_bounds__(256)
    each_word(int count, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out) {
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < count) out[i] = Function::of(a[i], b[i], c[i]);
}

template <class Function>
Words of_words(const Words& a, const Words& b, const Words& c) {
  const DeviceWords da(a), db(b), dc(c), out(a.size());
  const int count = static_cast<int>(a.size());
  CCONVNET_LAUNCH(each_word<Function>, (count + 255) / 256, 256, nullptr, count, da.at(), db.at(), dc.at(),
                  out.at());
  return out.host();
}

template <class Function>
Words of_floats() {
  const Words values = difficult_floats();
  return of_words<Function>(values, values, values);
}

template <class Function>
Words of_pairs() {
  const Pairs pairs = difficult_pairs();
  return of_words<Function>(pairs.a, pairs.b, pairs.c);
}

template <class Function>
Words of_integers() {
  Words a = difficult_floats(), b = a;
  Draw draw(4);
  for (uint32_t& word : b) word = draw.word() >> draw.integer(0, 31);
  return of_words<Function>(a, b, b);
}

// A C library may treat a signalling NaN differently from a GPU, which has none.
__device__ __forceinline__ float quiet(uint32_t bits) {
  return __uint_as_float((bits & 0x7fffffff) > 0x7f800000 ? bits | 0x400000 : bits);
}

__device__ __forceinline__ float rounded_first(float x, float y) {
  round_to_bfloat16(x, y);
  return x;
}

__device__ __forceinline__ float rounded_second(float x, float y) {
  round_to_bfloat16(x, y);
  return y;
}

// A pair of bfloat16s, the upper halves of two floats: there difficult floats differ.
__device__ __forceinline__ uint32_t pair_of_uppers(uint32_t first, uint32_t second) {
  return first >> 16 | (second & 0xffff0000);
}

__device__ __forceinline__ uint32_t bits_of(const ptx::Equal& equal) {
  return (equal.low ? 1 : 0) | (equal.high ? 2 : 0);
}

#define CCONVNET_FUNCTION(name, expression)                                               \
  struct name {                                                                           \
    static __device__ __forceinline__ uint32_t of(uint32_t a, uint32_t b, uint32_t c) {   \
      (void)a, (void)b, (void)c;                                                          \
      const float x = __uint_as_float(a), y = __uint_as_float(b), z = __uint_as_float(c); \
      (void)x, (void)y, (void)z;                                                          \
      return (expression);                                                                \
    }                                                                                     \
  };
#define CCONVNET_FLOAT_FUNCTION(name, expression) CCONVNET_FUNCTION(name, __float_as_uint(expression))

CCONVNET_FUNCTION(ToTf32, ptx::to_tf32(a))
CCONVNET_FLOAT_FUNCTION(LargerOrNan, ptx::maximum(x, y))
CCONVNET_FUNCTION(LargerPair, ptx::maximum_bf16(pair_of_uppers(a, c), pair_of_uppers(b, a)))
CCONVNET_FUNCTION(EqualPair, bits_of(ptx::equal_bf16(pair_of_uppers(a, c), pair_of_uppers(b, c))))
CCONVNET_FUNCTION(PositivePair, ptx::positive_bf16(pair_of_uppers(a, b)))
CCONVNET_FLOAT_FUNCTION(FastReciprocalRoot, ptx::reciprocal_root(x))
CCONVNET_FUNCTION(ToBfloat16, to_bfloat16(x).bits)
CCONVNET_FUNCTION(FromBfloat16, __float_as_uint(to_float(bfloat16{static_cast<uint16_t>(a >> 16)})))
CCONVNET_FLOAT_FUNCTION(FirstRounded, rounded_first(x, y))
CCONVNET_FLOAT_FUNCTION(SecondRounded, rounded_second(y, x))

CCONVNET_FLOAT_FUNCTION(Sum, __fadd_rn(x, y))
CCONVNET_FLOAT_FUNCTION(Multiplied, __fmul_rn(x, y))
CCONVNET_FLOAT_FUNCTION(Fused, fmaf(x, y, z))
CCONVNET_FLOAT_FUNCTION(Quotient, x / y)
CCONVNET_FLOAT_FUNCTION(Root, sqrtf(x))
CCONVNET_FLOAT_FUNCTION(Larger, larger(x, y))
CCONVNET_FLOAT_FUNCTION(Maximum, fmaxf(quiet(a), quiet(b)))
CCONVNET_FLOAT_FUNCTION(Minimum, fminf(quiet(a), quiet(b)))

CCONVNET_FLOAT_FUNCTION(Exponential, expf(x))
CCONVNET_FLOAT_FUNCTION(Logarithm, logf(x))
CCONVNET_FLOAT_FUNCTION(LogarithmOf1Plus, log1pf(x))
CCONVNET_FLOAT_FUNCTION(Power, powf(x, -0.75f))
CCONVNET_FLOAT_FUNCTION(Tangent, tanhf(x))
CCONVNET_FLOAT_FUNCTION(ReciprocalRoot, rsqrtf(x))
CCONVNET_FLOAT_FUNCTION(FastQuotient, __fdividef(1.0f, x))

CCONVNET_FUNCTION(HighProduct, __umulhi(a, b))
CCONVNET_FUNCTION(HighSignedProduct, static_cast<uint32_t>(__mulhi(static_cast<int>(a), static_cast<int>(b))))
CCONVNET_FUNCTION(BitCount, static_cast<uint32_t>(__popc(a)))
CCONVNET_FUNCTION(LeadingZeros, static_cast<uint32_t>(__clz(static_cast<int>(a))))
CCONVNET_FUNCTION(FirstBit, static_cast<uint32_t>(__ffs(static_cast<int>(a))))
CCONVNET_FUNCTION(Random, philox_word(a, b, (uint64_t{a} << 32) | b))
#undef CCONVNET_FUNCTION
#undef CCONVNET_FLOAT_FUNCTION

// Zeros of both signs: which one is the larger is measured, not promised.
Words without_opposite_zeros(Words results) {
  for (uint32_t& word : results) word = word == 0x80000000 ? 0 : canonical(word);
  return results;
}

Words opposite_zeros(Words (*compute)(const Words&, const Words&, const Words&)) {
  const Words a = {0, 0x80000000, 0, 0x80000000}, b = {0x80000000, 0, 0, 0x80000000};
  return compute(a, b, b);
}

}  // namespace
