// Checks of launches with options: kernels that begin before the one ahead of them has ended.
#pragma once

#include "words.cuh"
#include "core/dependent.cuh"

namespace {

constexpr int kChained = 256, kKernels = 5;

// Each kernel hashes what the one ahead of it wrote, after a while, and lets the next one begin at once.
__global__ void chained(const uint32_t* x, uint32_t* y) {
  ptx::start_kernel_behind();
  uint32_t hash = threadIdx.x;
  for (int i = 0; i < 5000; ++i) hash = hash * 1664525u + 1013904223u;
  ptx::wait_for_kernel_ahead();
  y[(threadIdx.x + 1) % kChained] = hash ^ x[threadIdx.x] * 31;
}

Words of_chained_kernels() {
  const DeviceWords x(Draw(30).words(kChained)), y(kChained);
  for (int i = 0; i < kKernels; ++i) {
    const LaunchOptions options = {1, i > 0};
    CCONVNET_LAUNCH_WITH(options, chained, 1, kChained, 0, nullptr, i % 2 ? y.at() : x.at(),
                         i % 2 ? x.at() : y.at());
  }
  return y.host();
}

}  // namespace
