// Warp operations and integer atomics.
#include "program.h"

namespace {

using namespace program;

constexpr unsigned all_lanes = 0xffffffffu;

// Lane i offers 100 + i.
template <class T>
__global__ void shuffle(int operand, int width, int* idx, int* up, int* down, int* exchange) {
  const int t = threadIdx.x;
  const T value = static_cast<T>(100 + t);
  idx[t] = static_cast<int>(__shfl_sync(all_lanes, value, operand, width));
  up[t] = static_cast<int>(__shfl_up_sync(all_lanes, value, operand, width));
  down[t] = static_cast<int>(__shfl_down_sync(all_lanes, value, operand, width));
  exchange[t] = static_cast<int>(__shfl_xor_sync(all_lanes, value, operand, width));
}

template <class T>
void shuffles(const char* type) {
  for (int width = 1; width <= 32; width *= 2) {
    for (int operand : {0, 1, 2, 3, 7, 16, 31}) {
      std::vector<int> idx(64), up(64), down(64), exchange(64);
      CCONVNET_LAUNCH(shuffle<T>, 1, 64, nullptr, operand, width, idx.data(), up.data(), down.data(),
                      exchange.data());
      const std::string suffix =
          std::string(" ") + type + " " + std::to_string(operand) + " " + std::to_string(width);
      print("idx" + suffix, idx);
      print("up" + suffix, up);
      print("down" + suffix, down);
      print("xor" + suffix, exchange);
    }
  }
}

// Each lane reads from a lane of its own choice, and the default width is the whole warp.
__global__ void rotate(int* y) {
  y[threadIdx.x] = __shfl_sync(all_lanes, static_cast<int>(threadIdx.x), static_cast<int>(threadIdx.x) + 5);
}

// A sum over the warp, as kernels do it.
__global__ void warp_sum(const float* x, float* y) {
  float sum = x[threadIdx.x];
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(all_lanes, sum, offset);
  if (threadIdx.x % warpSize == 0) y[threadIdx.x / warpSize] = sum;
}

// Lanes meet at a line, so lanes that meet on different paths call a function.
__device__ int meet(unsigned mask, int value, int source) {
  return __shfl_sync(mask, value, source);
}

// Even and odd lanes take different paths with masks of their own. Then lane 0 passes through two groups that
// overlap in it: {0, 2} first, then {0, 4}, where lane 4 may have been waiting all along. So does lane 8,
// with 12 first and then with 10. But 12 meets 14 before, so that 10 may arrive while 8 waits for 12, and
// must not be taken for its partner.
__global__ void split_masks(int* pairs, int* met) {
  const int t = threadIdx.x;
  if (t % 2 == 0) {
    pairs[t] = __shfl_xor_sync(0x55555555u, t, 2);
  } else {
    pairs[t] = __shfl_sync(0xaaaaaaaau, t, 31);
  }
  met[t] = -1;
  if (t == 4) met[t] = meet(0x11u, t, 0);
  if (t == 0 || t == 2) met[t] = meet(0x5u, t, 2);
  if (t == 0) met[t] += 100 * meet(0x11u, t, 4);
  if (t == 12 || t == 14) met[t] = meet(0x5000u, t, 14);
  if (t == 8 || t == 12) met[t] = 100 * meet(0x1100u, t, 12);
  if (t == 8 || t == 10) met[t] += meet(0x500u, t, 10);
}

void groups() {
  std::vector<int> pairs(32), met(32), rotated(64);
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 3);
    CCONVNET_LAUNCH(split_masks, 1, 32, nullptr, pairs.data(), met.data());
    print(std::string("split ") + name, pairs);
    print(std::string("met ") + name, met);
    std::vector<float> x(64), y(2);
    for (int i = 0; i < 64; ++i) x[i] = static_cast<float>(i * i);
    CCONVNET_LAUNCH(warp_sum, 1, 64, nullptr, x.data(), y.data());
    print(std::string("sum ") + name, {static_cast<int>(y[0]), static_cast<int>(y[1])});
    CCONVNET_LAUNCH(rotate, 1, 64, nullptr, rotated.data());
    print(std::string("rotate ") + name, rotated);
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// Lane i votes bit i of `ballot`.
__global__ void vote(unsigned mask, unsigned ballot, int* votes, int* any, int* all) {
  const int t = threadIdx.x;
  if (!(mask >> t & 1)) return;
  const int predicate = (ballot >> t & 1) ? -7 : 0;
  votes[t] = static_cast<int>(__ballot_sync(mask, predicate));
  any[t] = __any_sync(mask, predicate);
  all[t] = __all_sync(mask, predicate);
}

void votes() {
  for (unsigned mask : {0xffffffffu, 0x0000ffffu, 0x80000001u}) {
    for (unsigned ballot : {0u, 0xffffffffu, 0x80000000u, 0x12345678u}) {
      std::vector<int> result(32, -1), any(32, -1), all(32, -1);
      CCONVNET_LAUNCH(vote, 1, 32, nullptr, mask, ballot, result.data(), any.data(), all.data());
      const std::string suffix = " " + std::to_string(mask) + " " + std::to_string(ballot);
      print("ballot" + suffix, result);
      print("any" + suffix, any);
      print("all" + suffix, all);
    }
  }
}

// Neighbours exchange values through shared memory, with only the warp as their barrier. Correct only with
// it.
struct ExchangeShared {
  int values[64];
};

template <bool WITH_BARRIER>
__global__ void exchange(int* y) {
  ExchangeShared& shared = cconvnet::shared_memory<ExchangeShared>();
  const int t = threadIdx.x;
  shared.values[t] = t;
  if (WITH_BARRIER) __syncwarp();
  y[t] = shared.values[t ^ 1];
}

// A warp overwrites what the other reads before its last warp operation.
template <bool WITH_BARRIER>
__global__ void overwrite(int* y) {
  ExchangeShared& shared = cconvnet::shared_memory<ExchangeShared>();
  const int t = threadIdx.x;
  shared.values[t] = t;
  __syncthreads();
  y[t] = shared.values[t ^ 32];
  __syncwarp();
  if (WITH_BARRIER) __syncthreads();
  shared.values[t] = -1;
}

void syncwarp() {
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 5);
    std::vector<int> y(64);
    CCONVNET_LAUNCH(exchange<true>, 1, 64, nullptr, y.data());
    print(std::string("exchange ") + name, y);
    CCONVNET_LAUNCH(exchange<false>, 1, 64, nullptr, y.data());
    print(std::string("exchange without barrier ") + name, y);
    CCONVNET_LAUNCH(overwrite<true>, 1, 64, nullptr, y.data());
    print(std::string("overwrite ") + name, y);
    CCONVNET_LAUNCH(overwrite<false>, 1, 64, nullptr, y.data());
    print(std::string("overwrite without barrier ") + name, y);
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// Every thread applies its own operand; `old` is what each call returned.
template <class T>
struct Cells {
  T add, max, min, exclusive_or, disjunction, conjunction, exchange, cas;
};

template <class T>
__global__ void atomics(Cells<T>* cells, T* old) {
  const T operand = static_cast<T>((threadIdx.x * 37) % 64) - 20;
  old[threadIdx.x] = atomicAdd(&cells->add, operand);
  atomicMax(&cells->max, operand);
  atomicMin(&cells->min, operand);
  atomicXor(&cells->exclusive_or, operand);
  atomicOr(&cells->disjunction, operand);
  atomicAnd(&cells->conjunction, operand);
  atomicExch(&cells->exchange, operand);
  // A sum made of compare-and-swap.
  T seen = cells->cas, assumed;
  do {
    assumed = seen;
    seen = atomicCAS(&cells->cas, assumed, assumed + operand);
  } while (seen != assumed);
}

template <class T>
void atomic_cells(const char* type) {
  Cells<T> cells{0, 0, 1000, 0, 0, static_cast<T>(-1), 0, 0}, expected = cells;
  std::vector<T> old(64);
  CCONVNET_LAUNCH(atomics<T>, 1, 64, nullptr, &cells, old.data());
  int right = 0;
  for (int t = 0; t < 64; ++t) {
    const T operand = static_cast<T>((t * 37) % 64) - 20;
    right += old[t] == expected.add;
    expected.add += operand;
    expected.max = expected.max < operand ? operand : expected.max;
    expected.min = operand < expected.min ? operand : expected.min;
    expected.exclusive_or ^= operand;
    expected.disjunction |= operand;
    expected.conjunction &= operand;
    expected.exchange = operand;
    expected.cas += operand;
  }
  print(std::string("atomics ") + type,
        {right, cells.add == expected.add, cells.max == expected.max, cells.min == expected.min,
         cells.exclusive_or == expected.exclusive_or, cells.disjunction == expected.disjunction,
         cells.conjunction == expected.conjunction, cells.exchange == expected.exchange,
         cells.cas == expected.cas});
}

// The last block to finish adds up the results of all blocks, as split reductions do. The counter wraps
// around, ready for the next launch.
__global__ void last_block(int* partial, unsigned* finished, int* total) {
  partial[blockIdx.x] = static_cast<int>(blockIdx.x + 1);
  __threadfence();
  if (atomicInc(finished, gridDim.x - 1) == gridDim.x - 1) {
    *total = 0;
    for (unsigned i = 0; i < gridDim.x; ++i) *total += partial[i];
  }
}

void last_blocks() {
  std::vector<int> totals;
  unsigned finished = 0;
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 7);
    std::vector<int> partial(10, -1000);
    int total = -1;
    CCONVNET_LAUNCH(last_block, 10, 1, nullptr, partial.data(), &finished, &total);
    totals.push_back(total);
  }
  totals.push_back(static_cast<int>(finished));
  print("last block", totals);
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// Functions of device code, at points where mistakes would show.
__global__ void functions(int* y) {
  int i = 0;
  y[i++] = static_cast<int>(__umulhi(0x80000000u, 6u));
  y[i++] = __mulhi(-1, 1);
  y[i++] = __popc(0xf0f0u);
  y[i++] = __clz(0);
  y[i++] = __clz(1);
  y[i++] = __ffs(8);
  y[i++] = min(-1, 2) == -1 && max(-1, 2) == 2 && min(-1, 2u) == 2u;
  y[i++] = max(NAN, 1.0f) == 1.0f && min(1.0f, NAN) == 1.0f;
  y[i++] = __saturatef(NAN) == 0 && __saturatef(2) == 1 && __saturatef(0.5f) == 0.5f;
  y[i++] = rsqrtf(16.0f) == 0.25f && __frcp_rn(4.0f) == 0.25f;
  y[i++] = fmaf(1 + 0x1p-23f, 1 - 0x1p-23f, -1.0f) == -0x1p-46f;  // no rounding in between
  y[i++] = __float_as_int(__int_as_float(0x3f800000)) == 0x3f800000 && __uint_as_float(0x40000000u) == 2.0f;
  y[i++] = sizeof(float4) == 16 && alignof(float4) == 16 && alignof(int2) == 8 && alignof(uchar4) == 4;
}

void device_functions() {
  std::vector<int> y(13);
  CCONVNET_LAUNCH(functions, 1, 1, nullptr, y.data());
  print("functions", y);
}

}  // namespace

int main(int argc, char** argv) {
  return program::run(argc, argv,
                      {{"shuffle",
                        [] {
                          shuffles<int>("int");
                          shuffles<float>("float");
                          shuffles<double>("double");
                          shuffles<unsigned long long>("u64");
                        }},
                       {"groups", groups},
                       {"votes", votes},
                       {"syncwarp", syncwarp},
                       {"atomics",
                        [] {
                          atomic_cells<int>("int");
                          atomic_cells<unsigned>("unsigned");
                          atomic_cells<unsigned long long>("u64");
                        }},
                       {"last block", last_blocks},
                       {"functions", device_functions}});
}
