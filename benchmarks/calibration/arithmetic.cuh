// Loops of multiply-adds, instruction issue, conversions and tensor cores.
#pragma once

#include "loop.cuh"

namespace {

// ---- arithmetic -------------------------------------------------------------------------------------------

__global__ void __launch_bounds__(kWide) fused_multiply_add(Given given) {
  float sum[kChains];
  const float x = __uint_as_float(given.in[0].x), y = __uint_as_float(given.in[0].y);
  for (int i = 0; i < kChains; ++i) sum[i] = static_cast<float>(threadIdx.x + i);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) sum[i] = fmaf(sum[i], x, y);
    }
  }
  clock.stop(given);
  float total = 0;
  for (float value : sum) total += value;
  keep(given, __float_as_uint(total));
}

// As many instructions of floats as of integers: the schedulers' rate if no single unit is the limit.
__global__ void __launch_bounds__(kWide) mixed_issue(Given given) {
  float sum[kChains];
  unsigned word[kChains / 2];
  const float x = __uint_as_float(given.in[0].x), y = __uint_as_float(given.in[0].y);
  const unsigned mask = given.in[0].z, other = given.in[0].w;
  for (int i = 0; i < kChains; ++i) sum[i] = static_cast<float>(threadIdx.x + i);
  for (int i = 0; i < kChains / 2; ++i) word[i] = threadIdx.x * (i + 1);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) {
        sum[i] = fmaf(sum[i], x, y);
        if (i % 2 == 1) word[i / 2] = (word[i / 2] & mask) + other;
      }
    }
  }
  clock.stop(given);
  float total = 0;
  for (float value : sum) total += value;
  unsigned all = __float_as_uint(total);
  for (unsigned value : word) all ^= value;
  keep(given, all);
}

__global__ void __launch_bounds__(kWide) special_function(Given given) {
  float value[kChains];
  for (int i = 0; i < kChains; ++i) value[i] = static_cast<float>(threadIdx.x + i);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) value[i] = __sinf(value[i]);
    }
  }
  clock.stop(given);
  float total = 0;
  for (float v : value) total += v;
  keep(given, __float_as_uint(total));
}

// Pairs of floats rounded to bfloat16, with a sum in between so that each is rounded again.
__global__ void __launch_bounds__(kWide) round_pairs(Given given) {
  float value[kChains];
  const float x = __uint_as_float(given.in[0].x);
  for (int i = 0; i < kChains; ++i) value[i] = static_cast<float>(threadIdx.x + i);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; i += 2) {
        value[i] += x;
        value[i + 1] += x;
        round_to_bfloat16(value[i], value[i + 1]);
      }
    }
  }
  clock.stop(given);
  float total = 0;
  for (float v : value) total += v;
  keep(given, __float_as_uint(total));
}

__global__ void __launch_bounds__(kWide) round_to_tf32(Given given) {
  ptx::Word value[kChains];
  for (int i = 0; i < kChains; ++i) value[i] = threadIdx.x * 77777 + i;
  const unsigned noise = given.in[0].x;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) value[i] = ptx::to_tf32(value[i] ^ noise);
    }
  }
  clock.stop(given);
  unsigned all = 0;
  for (ptx::Word v : value) all ^= v;
  keep(given, all);
}

// ---- tensor cores -----------------------------------------------------------------------------------------

template <bool BF16, int PRODUCTS>
__global__ void __launch_bounds__(kWide) warp_products(Given given) {
  const uint4 first = given.in[threadIdx.x % 32], second = given.in[32 + threadIdx.x % 32];
  const ptx::Word a[4] = {first.x, first.y, first.z, first.w}, b[2] = {second.x, second.y};
  float c[PRODUCTS][4] = {};
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < PRODUCTS; ++i) {
        if (BF16) {
          ptx::multiply_add_bf16(c[i], a, b);
        } else {
          ptx::multiply_add_tf32(c[i], a, b);
        }
      }
    }
  }
  clock.stop(given);
  float total = 0;
  for (const auto& product : c) {
    for (float value : product) total += value;
  }
  keep(given, __float_as_uint(total));
}

}  // namespace
