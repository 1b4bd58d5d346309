// Loops that access L2 and device memory.
#pragma once

#include "loop.cuh"

namespace {

// All blocks read the first 8 MiB of `in`, each from a place of its own, past the first-level cache.
constexpr size_t kResident = (size_t{8} << 20) / sizeof(uint4);

__device__ __forceinline__ unsigned resident(const Given& given) {
  return static_cast<unsigned>(given.vectors < kResident ? given.vectors : kResident);
}

__global__ void __launch_bounds__(kWide) l2_loads(Given given) {
  const unsigned range = resident(given);
  unsigned place = (blockIdx.x * 7919 * kWide + threadIdx.x) % range;
  unsigned all = 0;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
    uint4 value[kSteps];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      value[step] = load_past_l1(given.in + place);
      place += kWide;
      if (place >= range) place -= range;
    }
#pragma unroll
    for (const uint4& v : value) all ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  clock.stop(given);
  keep(given, all);
}

// The same by asynchronous copies, with four groups in flight.
constexpr int kStages = 4;

struct alignas(128) Stages {
  uint4 at[kStages][kWide];
};

__global__ void __launch_bounds__(kWide) l2_copies(Given given) {
  Stages& stages = shared_memory<Stages>();
  const unsigned range = resident(given);
  unsigned place = (blockIdx.x * 7919 * kWide + threadIdx.x) % range;
  const auto start = [&](int stage) {
    ptx::start_copy(&stages.at[stage][threadIdx.x], given.in + place, true);
    ptx::close_copy_group();
    place += kWide;
    if (place >= range) place -= range;
  };
  for (int stage = 0; stage < kStages - 1; ++stage) start(stage);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      start((step + kStages - 1) % kStages);
      ptx::wait_for_copies<kStages - 1>();
    }
  }
  ptx::wait_for_copies<0>();
  clock.stop(given);
  keep(given, stages.at[0][threadIdx.x].x);
}

// One copy at a time by one warp: from its start to its end.
__global__ void __launch_bounds__(32) copy_latency(Given given) {
  Stages& stages = shared_memory<Stages>();
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      ptx::start_copy(&stages.at[0][threadIdx.x], given.in + step * 32 + threadIdx.x, true);
      ptx::close_copy_group();
      ptx::wait_for_copies<0>();
    }
  }
  clock.stop(given);
  keep(given, stages.at[0][threadIdx.x].x);
}

enum class Traffic { copy, read, write };

template <Traffic TRAFFIC>
__global__ void __launch_bounds__(kWide) memory_traffic(Given given) {
  unsigned all = 0;
  const size_t stride = size_t{gridDim.x} * kWide;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
    for (size_t i = size_t{blockIdx.x} * kWide + threadIdx.x; i < given.vectors; i += 4 * stride) {
      uint4 value[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const size_t place = i + j * stride;
        value[j] = uint4{unsigned(it), 1, 2, 3};
        if (TRAFFIC != Traffic::write && place < given.vectors) value[j] = given.in[place];
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const size_t place = i + j * stride;
        if (TRAFFIC == Traffic::read) {
          all ^= value[j].x ^ value[j].y ^ value[j].z ^ value[j].w;
        } else if (place < given.vectors) {
          given.out[place] = value[j];
        }
      }
    }
  }
  keep(given, all);
}

// Loads whose address is the result of the load before. Odd steps reach every vector before any again.
constexpr unsigned kStepInL2 = 8193, kStepInMemory = 65537;

__global__ void __launch_bounds__(kWide) write_chains(Given given) {
  const size_t stride = size_t{gridDim.x} * kWide, near = resident(given);
  for (size_t i = size_t{blockIdx.x} * kWide + threadIdx.x; i < given.vectors; i += stride) {
    const unsigned far = static_cast<unsigned>((i + kStepInMemory) % given.vectors);
    given.out[i] = uint4{far, static_cast<unsigned>((i + kStepInL2) % near), 0, 0};
  }
}

template <bool MEMORY>
__global__ void __launch_bounds__(32) load_chain(Given given) {
  unsigned place = threadIdx.x / 32;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint4 next = load_past_l1(given.out + place);
      place = MEMORY ? next.x : next.y;
    }
  }
  clock.stop(given);
  keep(given, place);
}

}  // namespace
