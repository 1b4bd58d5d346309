// How fast one GPU does what kernels are made of: one loop for each resource, with nothing else in it.
//
// Compiled by nvcc for a GPU, or for the emulator, which runs every loop once and times nothing.
// calibration.py builds it and adds the machine to what it prints.
//
//   calibration [--device N] [--seconds S] [name...]
//
// S is for all measurements together. A line of JSON for each: name, unit, value, and where a kernel was
// timed: how often it ran, its median and least milliseconds, and the clock meanwhile. Rates are per cycle
// and multiprocessor, as the kernel's own clock counts cycles, so they do not depend on the clock's rate.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "core/launch.cuh"
#include "core/ptx.cuh"
#include "core/vector.cuh"

using namespace cconvnet;

namespace {

// ---- what a GPU has and the emulator has not --------------------------------------------------------------

#ifdef __CUDACC__

__device__ __forceinline__ long long clock_now() {
  return clock64();
}

__device__ __forceinline__ uint4 load_past_l1(const uint4* address) {
  return __ldcg(address);
}

#else

inline long long clock_now() {
  return 0;
}

inline uint4 load_past_l1(const uint4* address) {
  return *address;
}

#endif

// What a kernel is given. `sink` takes results that never come, so that no work can be left out.
struct Given {
  int iterations;
  const uint4* in;
  uint4* out;
  unsigned* sink;
  long long* cycles;
  size_t vectors;  // of `in` and of `out`
};

__device__ __forceinline__ void keep(const Given& given, unsigned value) {
  if (value == 0x5eed5eedu) *given.sink = value;
}

// The cycles of a block's first warp.
class Clock {
 public:
  __device__ __forceinline__ Clock() {
    __syncthreads();
    begin_ = clock_now();
  }

  __device__ __forceinline__ void stop(const Given& given) const {
    __syncthreads();
    if (threadIdx.x == 0) given.cycles[blockIdx.x] = clock_now() - begin_;
  }

 private:
  long long begin_;
};

constexpr int kWide = 512;    // threads of a block that fills half a multiprocessor or more
constexpr int kSteps = 16;    // of a loop, written out
constexpr int kChains = 8;    // independent sums of a thread, so that latency is hidden
constexpr int kProducts = 4;  // independent products of a warp
constexpr int kFedSteps = 4;  // of a loop whose products are fed from shared memory

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

// As many instructions of floats as of integers: what schedulers issue where no unit alone binds.
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

// Pairs of floats rounded to bfloat16, with a sum between so that each rounds anew.
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

// ---- shared memory ----------------------------------------------------------------------------------------

struct alignas(128) Room {
  uint4 at[2 * kWide];
};

__device__ __forceinline__ Room& filled_room(const Given& given) {
  Room& room = shared_memory<Room>();
  for (int i = threadIdx.x; i < 2 * kWide; i += blockDim.x) room.at[i] = given.in[i];
  __syncthreads();
  return room;
}

__global__ void __launch_bounds__(kWide) shared_loads(Given given) {
  const Room& room = filled_room(given);
  unsigned all = 0;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      // Another place in every other turn, or one load would do for all.
      const uint4 value = room.at[threadIdx.x + (it & 1) + step * 32];
      all ^= value.x ^ value.y ^ value.z ^ value.w;
    }
  }
  clock.stop(given);
  keep(given, all);
}

template <bool TRANSPOSED>
__global__ void __launch_bounds__(kWide) matrix_loads(Given given) {
  const Room& room = filled_room(given);
  unsigned all = 0;
  const uint4* row = &room.at[threadIdx.x];
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const ptx::Matrices m =
          TRANSPOSED ? ptx::load_matrices_transposed(row + step * 32) : ptx::load_matrices(row + step * 32);
      all ^= m.part[0] ^ m.part[1] ^ m.part[2] ^ m.part[3];
    }
  }
  clock.stop(given);
  keep(given, all);
}

// The inner loop of a tile of 64 x 32 results for a warp: all factors come from shared memory, six loads of
// matrices for 16 products.
constexpr int kTileRows = 4, kTileColumns = 4;

template <bool BF16>
__global__ void __launch_bounds__(256) fed_products(Given given) {
  const Room& room = filled_room(given);
  const uint4* const rows = &room.at[threadIdx.x];
  float c[kTileRows][kTileColumns][4] = {};
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kFedSteps; ++step) {
      ptx::Matrices a[kTileRows], b[kTileColumns / 2];
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) a[i] = ptx::load_matrices(rows + (6 * step + i) * 32);
#pragma unroll
      for (int j = 0; j < kTileColumns / 2; ++j) {
        b[j] = ptx::load_matrices(rows + (6 * step + kTileRows + j) * 32);
      }
#pragma unroll
      for (int i = 0; i < kTileRows; ++i) {
#pragma unroll
        for (int j = 0; j < kTileColumns; ++j) {
          const ptx::Word factors[2] = {b[j / 2].part[j % 2 * 2], b[j / 2].part[j % 2 * 2 + 1]};
          if (BF16) {
            ptx::multiply_add_bf16(c[i][j], a[i].part, factors);
          } else {
            ptx::multiply_add_tf32(c[i][j], a[i].part, factors);
          }
        }
      }
    }
  }
  clock.stop(given);
  float total = 0;
  for (const auto& row : c) {
    for (const auto& product : row) {
      for (float value : product) total += value;
    }
  }
  keep(given, __float_as_uint(total));
}

__global__ void __launch_bounds__(kWide) shuffles(Given given) {
  unsigned value[kChains];
  for (int i = 0; i < kChains; ++i) value[i] = threadIdx.x * (i + 3);
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kChains; ++i) value[i] = __shfl_xor_sync(kFullWarp, value[i], 1 + step % 16);
    }
  }
  clock.stop(given);
  unsigned all = 0;
  for (unsigned v : value) all ^= v;
  keep(given, all);
}

template <int THREADS>
__global__ void __launch_bounds__(THREADS) barriers(Given given) {
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) __syncthreads();
  }
  clock.stop(given);
}

// ---- L2 and memory ----------------------------------------------------------------------------------------

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

// The same by asynchronous copies, four groups on their way.
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

// Loads whose address is what the load before brought. Odd steps come to every vector before any again.
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

__global__ void __launch_bounds__(32) shared_chain(Given given) {
  Room& room = filled_room(given);
#pragma unroll 1
  for (unsigned i = threadIdx.x; i < 2 * kWide; i += 32) room.at[i].x = (i + 33) % (2 * kWide);
  __syncthreads();
  unsigned place = threadIdx.x;
  const Clock clock;
#pragma unroll 1
  for (int it = 0; it < given.iterations; ++it) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) place = room.at[place].x;
  }
  clock.stop(given);
  keep(given, place);
}

// ---- launches ---------------------------------------------------------------------------------------------

__global__ void nothing(Given given) {
  if (given.iterations < 0) *given.sink = 1;
}

// ---- what is measured -------------------------------------------------------------------------------------

using Kernel = void (*)(Given);

enum class Figure { rate, latency, bandwidth };

struct Loop {
  const char* name;
  const char* unit;
  Figure figure;
  Kernel kernel;
  int threads;
  double work;  // of a thread in an iteration: rates; steps in an iteration: latencies; bytes of a vector:
                // bandwidth
  int blocks;   // 0: as many as the GPU holds at once; -n: n for each SM
  Kernel prepare = nullptr;  // runs once before
};

constexpr double kFused = kSteps * kChains;
constexpr double kBytes = kSteps * sizeof(uint4);

// A warp's product is 16 x 8 x 16 multiply-adds of bfloat16s, half as many of tf32s.
constexpr double flops(int products, bool bf16, int steps = kSteps) {
  return 2.0 * 16 * 8 * (bf16 ? 16 : 8) * products * steps / 32;
}
constexpr int kFedProducts = kTileRows * kTileColumns;

const Loop kLoops[] = {
    {"fused multiply-add, fp32", "FMA/cycle/SM", Figure::rate, fused_multiply_add, kWide, kFused, 0},
    {"issue, as many FMA as integer operations", "instructions/cycle/SM", Figure::rate, mixed_issue, kWide,
     kSteps * kChains * 2.0, 0},
    {"special function (sine)", "operations/cycle/SM", Figure::rate, special_function, kWide, kFused, 0},
    {"rounding to bf16", "values/cycle/SM", Figure::rate, round_pairs, kWide, kFused, 0},
    {"rounding to tf32", "values/cycle/SM", Figure::rate, round_to_tf32, kWide, kFused, 0},
    {"mma.m16n8k16.bf16", "flop/cycle/SM", Figure::rate, warp_products<true, kProducts>, kWide,
     flops(kProducts, true), 0},
    {"mma.m16n8k8.tf32", "flop/cycle/SM", Figure::rate, warp_products<false, kProducts>, kWide,
     flops(kProducts, false), 0},
    {"mma.m16n8k16.bf16, one warp a scheduler", "flop/cycle/SM", Figure::rate, warp_products<true, kProducts>,
     128, flops(kProducts, true), -1},
    {"mma.m16n8k16.bf16, two warps a scheduler", "flop/cycle/SM", Figure::rate,
     warp_products<true, kProducts>, 256, flops(kProducts, true), -1},
    {"mma.m16n8k16.bf16, fed by ldmatrix", "flop/cycle/SM", Figure::rate, fed_products<true>, 256,
     flops(kFedProducts, true, kFedSteps), 0},
    {"mma.m16n8k8.tf32, fed by ldmatrix", "flop/cycle/SM", Figure::rate, fed_products<false>, 256,
     flops(kFedProducts, false, kFedSteps), 0},
    {"mma.m16n8k16.bf16, one after the other", "cycles", Figure::latency, warp_products<true, 1>, 32, kSteps,
     1},
    {"mma.m16n8k8.tf32, one after the other", "cycles", Figure::latency, warp_products<false, 1>, 32, kSteps,
     1},
    {"shared memory, loads of 16 bytes", "bytes/cycle/SM", Figure::rate, shared_loads, kWide, kBytes, 0},
    {"ldmatrix", "bytes/cycle/SM", Figure::rate, matrix_loads<false>, kWide, kBytes, 0},
    {"ldmatrix.trans", "bytes/cycle/SM", Figure::rate, matrix_loads<true>, kWide, kBytes, 0},
    {"shuffle", "values/cycle/SM", Figure::rate, shuffles, kWide, kFused, 0},
    {"barrier of 128 threads", "cycles", Figure::latency, barriers<128>, 128, kSteps, 1},
    {"barrier of 512 threads", "cycles", Figure::latency, barriers<512>, 512, kSteps, 1},
    {"L2, loads of 16 bytes by all SMs", "bytes/cycle/SM", Figure::rate, l2_loads, kWide, kBytes, 0},
    {"L2, loads of 16 bytes by one SM", "bytes/cycle/SM", Figure::rate, l2_loads, kWide, kBytes, 1},
    {"L2, cp.async by all SMs", "bytes/cycle/SM", Figure::rate, l2_copies, kWide, kBytes, 0},
    {"cp.async from L2, one after the other", "cycles", Figure::latency, copy_latency, 32, kSteps, 1},
    {"load from L2, one after the other", "cycles", Figure::latency, load_chain<false>, 32, kSteps, 1,
     write_chains},
    {"load from memory, one after the other", "cycles", Figure::latency, load_chain<true>, 32, kSteps, 1,
     write_chains},
    {"load from shared memory, one after the other", "cycles", Figure::latency, shared_chain, 32, kSteps, 1},
    {"memory, copy (read and written)", "GB/s", Figure::bandwidth, memory_traffic<Traffic::copy>, kWide,
     2 * sizeof(uint4), 0},
    {"memory, read", "GB/s", Figure::bandwidth, memory_traffic<Traffic::read>, kWide, sizeof(uint4), 0},
    {"memory, write", "GB/s", Figure::bandwidth, memory_traffic<Traffic::write>, kWide, sizeof(uint4), 0},
};

const char* const kLaunches[][2] = {
    {"kernel launch, on the host", "us"},
    {"kernel launch, in a stream", "us"},
    {"graph node, in a chain", "us"},
    {"graph launch, on the host", "us"},
    {"event recorded and waited for, on the host", "us"},
    {"start of a block of 32 threads", "ns"},
};

// A number, or nothing where nothing was timed.
void print(const char* name, const char* unit, const double* value, const std::string& more = "") {
  std::printf("{\"name\": \"%s\", \"unit\": \"%s\", \"value\": ", name, unit);
  if (value) {
    std::printf("%.6g", *value);
  } else {
    std::printf("null");
  }
  std::printf("%s}\n", more.c_str());
  std::fflush(stdout);
}

#ifdef __CUDACC__

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Gpu {
 public:
  Gpu(int device, double seconds) : seconds_(seconds / (std::size(kLoops) + std::size(kLaunches))) {
    CCONVNET_CHECK(cudaSetDevice(device));
    CCONVNET_CHECK(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device));
    CCONVNET_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CCONVNET_CHECK(cudaEventCreate(&begin_));
    CCONVNET_CHECK(cudaEventCreate(&end_));
    size_t free = 0, total = 0;
    CCONVNET_CHECK(cudaMemGetInfo(&free, &total));
    const size_t bytes = std::min(size_t{1} << 30, free / 4) / 4096 * 4096;
    given_.vectors = bytes / sizeof(uint4);
    CCONVNET_CHECK(cudaMalloc(&given_.in, bytes));
    CCONVNET_CHECK(cudaMalloc(&given_.out, bytes));
    CCONVNET_CHECK(cudaMalloc(&given_.sink, sizeof(unsigned)));
    CCONVNET_CHECK(cudaMalloc(&given_.cycles, kMostBlocks * sizeof(long long)));
    // Numbers near 0.0115, as floats and as bfloat16s.
    CCONVNET_CHECK(cudaMemset(const_cast<uint4*>(given_.in), 0x3c, bytes));
    CCONVNET_CHECK(cudaMemset(given_.out, 0, bytes));
    CCONVNET_CHECK(cudaDeviceSynchronize());
  }

  void measure(const Loop& loop) {
    // All blocks of the grid shall run at once, whatever the driver would leave to the first-level cache.
    CCONVNET_CHECK(cudaFuncSetAttribute(loop.kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                        cudaSharedmemCarveoutMaxShared));
    int held = 0;
    CCONVNET_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&held, loop.kernel, loop.threads, 0));
    if (loop.blocks < 0) held = -loop.blocks;
    const int blocks = loop.blocks > 0 ? loop.blocks : multiprocessors_ * held;
    const double blocks_per_sm = loop.blocks > 0 ? loop.blocks : held;
    if (loop.prepare) CCONVNET_LAUNCH(loop.prepare, 1024, kWide, stream_, given_);
    // So many iterations that seven runs take the time there is.
    given_.iterations = loop.figure == Figure::bandwidth ? 1 : 64;
    run(loop, blocks);
    const double trial = run(loop, blocks);
    const double factor = seconds_ * 1e3 / 7 / std::max(trial, 1e-3);
    given_.iterations = static_cast<int>(std::min(std::max(given_.iterations * factor, 1.0), 1e8));
    std::vector<double> times, cycles;
    for (int i = 0; i < 5; ++i) {
      times.push_back(run(loop, blocks));
      if (loop.figure != Figure::bandwidth) cycles.push_back(block_cycles(blocks));
    }
    const double ms = median(times), least = *std::min_element(times.begin(), times.end());
    char more[256];
    double value = 0;
    if (loop.figure == Figure::bandwidth) {
      value = loop.work * static_cast<double>(given_.vectors) * given_.iterations / (ms * 1e6);
      std::snprintf(more, sizeof more,
                    ", \"runs\": 5, \"iterations\": %d, \"median_ms\": %.6g, \"least_ms\": %.6g",
                    given_.iterations, ms, least);
    } else {
      const double own = median(cycles);
      value = loop.figure == Figure::latency
                  ? own / (loop.work * given_.iterations)
                  : loop.work * loop.threads * blocks_per_sm * given_.iterations / own;
      std::snprintf(
          more, sizeof more,
          ", \"runs\": 5, \"iterations\": %d, \"median_ms\": %.6g, \"least_ms\": %.6g, \"clock_ghz\": "
          "%.4g, \"threads_per_sm\": %.0f",
          given_.iterations, ms, least, own / (ms * 1e6), loop.threads * blocks_per_sm);
    }
    print(loop.name, loop.unit, &value, more);
  }

  void measure_launch(int which) {
    given_.iterations = 0;
    std::vector<double> values;
    for (int i = 0; i < 6; ++i) values.push_back(launch_figure(which));
    values.erase(values.begin());
    const double value = median(values);
    print(kLaunches[which][0], kLaunches[which][1], &value, ", \"runs\": 5");
  }

 private:
  static constexpr size_t kMostBlocks = 1 << 16;
  static constexpr int kLaunched = 500;  // fewer than a stream takes before the host must wait

  double run(const Loop& loop, int blocks) {
    CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
    CCONVNET_LAUNCH(loop.kernel, blocks, loop.threads, stream_, given_);
    return ended();
  }

  // Milliseconds since begin_.
  double ended() {
    float ms = 0;
    CCONVNET_CHECK(cudaEventRecord(end_, stream_));
    CCONVNET_CHECK(cudaEventSynchronize(end_));
    CCONVNET_CHECK(cudaEventElapsedTime(&ms, begin_, end_));
    return ms;
  }

  double block_cycles(int blocks) {
    std::vector<long long> cycles(blocks);
    CCONVNET_CHECK(
        cudaMemcpy(cycles.data(), given_.cycles, blocks * sizeof(long long), cudaMemcpyDeviceToHost));
    return median({cycles.begin(), cycles.end()});
  }

  template <class Work>
  double host_microseconds(const Work& work) {
    CCONVNET_CHECK(cudaStreamSynchronize(stream_));
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kLaunched; ++i) work();
    const std::chrono::duration<double, std::micro> passed = std::chrono::steady_clock::now() - begin;
    CCONVNET_CHECK(cudaStreamSynchronize(stream_));
    return passed.count() / kLaunched;
  }

  double launch_figure(int which) {
    const auto launch = [&] { CCONVNET_LAUNCH(nothing, 1, 32, stream_, given_); };
    switch (which) {
      case 0:
        return host_microseconds(launch);
      case 1: {
        CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
        for (int i = 0; i < kLaunched; ++i) launch();
        return ended() * 1e3 / kLaunched;
      }
      case 2: {
        const Graph graph(stream_, [&] {
          for (int i = 0; i < kLaunched; ++i) launch();
        });
        graph.launch(stream_);
        CCONVNET_CHECK(cudaStreamSynchronize(stream_));
        CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
        graph.launch(stream_);
        return ended() * 1e3 / kLaunched;
      }
      case 3: {
        const Graph graph(stream_, launch);
        graph.launch(stream_);
        return host_microseconds([&] { graph.launch(stream_); });
      }
      case 4: {
        cudaStream_t other;
        cudaEvent_t event;
        CCONVNET_CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
        CCONVNET_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        const double value = host_microseconds([&] {
          CCONVNET_CHECK(cudaEventRecord(event, stream_));
          CCONVNET_CHECK(cudaStreamWaitEvent(other, event, 0));
        });
        CCONVNET_CHECK(cudaEventDestroy(event));
        CCONVNET_CHECK(cudaStreamDestroy(other));
        return value;
      }
      default: {
        constexpr int BLOCKS = 1 << 20;
        CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
        CCONVNET_LAUNCH(nothing, BLOCKS, 32, stream_, given_);
        return ended() * 1e6 / BLOCKS;
      }
    }
  }

  // What is captured of a stream's work.
  class Graph {
   public:
    template <class Work>
    Graph(cudaStream_t stream, const Work& work) {
      cudaGraph_t graph;
      CCONVNET_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      work();
      CCONVNET_CHECK(cudaStreamEndCapture(stream, &graph));
      CCONVNET_CHECK(cudaGraphInstantiateWithFlags(&made_, graph, 0));
      CCONVNET_CHECK(cudaGraphDestroy(graph));
    }
    ~Graph() { cudaGraphExecDestroy(made_); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    void launch(cudaStream_t stream) const { CCONVNET_CHECK(cudaGraphLaunch(made_, stream)); }

   private:
    cudaGraphExec_t made_;
  };

  double seconds_;
  int multiprocessors_ = 0;
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
  Given given_{};
};

#else

// Runs each loop once.
class Gpu {
 public:
  Gpu(int, double)
      : vectors_(kVectors, uint4{0x3c3c3c3c, 0x3c3c3c3c, 0x3c3c3c3c, 0x3c3c3c3c}), out_(kVectors) {}

  void measure(const Loop& loop) {
    unsigned sink = 0;
    long long cycles[2] = {-1, -1};
    if (loop.prepare) {
      CCONVNET_LAUNCH(loop.prepare, 2, kWide, nullptr,
                      (Given{1, vectors_.data(), out_.data(), &sink, cycles, kVectors}));
    }
    CCONVNET_LAUNCH(loop.kernel, loop.blocks > 0 ? loop.blocks : 2, loop.threads, nullptr,
                    (Given{1, vectors_.data(), out_.data(), &sink, cycles, kVectors}));
    print(loop.name, loop.unit, nullptr);
  }

  void measure_launch(int which) {
    CCONVNET_LAUNCH(nothing, 1, 32, nullptr, Given{});
    print(kLaunches[which][0], kLaunches[which][1], nullptr);
  }

 private:
  static constexpr size_t kVectors = 8192;
  std::vector<uint4> vectors_, out_;
};

#endif

int run(int argc, char** argv) {
  std::vector<std::string> wanted;
  int device = 0;
  double seconds = 10;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--device" && i + 1 < argc) {
      device = std::atoi(argv[++i]);
    } else if (word == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else {
      wanted.push_back(word);
    }
  }
  const auto chosen = [&](const char* name) {
    return wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
  };
  Gpu gpu(device, seconds);
  for (const Loop& loop : kLoops) {
    if (chosen(loop.name)) gpu.measure(loop);
  }
  for (size_t i = 0; i < std::size(kLaunches); ++i) {
    if (chosen(kLaunches[i][0])) gpu.measure_launch(static_cast<int>(i));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
