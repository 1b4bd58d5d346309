// Blocks: schedules, barriers, shared memory, stacks.
#include <cfenv>
#include <cmath>
#include <set>
#include <thread>

#include "program.h"

namespace {

using cconvnet::shared_memory;
using namespace program;

// y[block] = the sum of the block's 256 values of x: a tree in shared memory. Correct only with its barrier.
struct ReduceShared {
  int sums[256];
};

template <bool WITH_BARRIER>
__global__ void __launch_bounds__(256) reduce(const int* __restrict__ x, int* __restrict__ y) {
  ReduceShared& shared = shared_memory<ReduceShared>();
  const int t = threadIdx.x;
  shared.sums[t] = x[blockIdx.x * blockDim.x + t];
  __syncthreads();
#pragma unroll
  for (int half = 128; half > 0; half /= 2) {
    if (t < half) shared.sums[t] += shared.sums[t + half];
    if (WITH_BARRIER) __syncthreads();
  }
  if (t == 0) y[blockIdx.x] = shared.sums[0];
}

constexpr int reduce_blocks = 5;

template <bool WITH_BARRIER>
std::vector<int> reduced() {
  std::vector<int> x(reduce_blocks * 256), y(reduce_blocks);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<int>(i * i % 1009);
  CCONVNET_LAUNCH(reduce<WITH_BARRIER>, reduce_blocks, 256, nullptr, x.data(), y.data());
  return y;
}

void reductions() {
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 1);
    print(std::string("reduce ") + name, reduced<true>());
    print(std::string("reduce without barrier ") + name, reduced<false>());
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// Two OS threads that launch at once are served one after the other.
void two_os_threads() {
  std::vector<int> results[2];
  std::thread other([&] {
    for (int i = 0; i < 50; ++i) results[1] = reduced<true>();
  });
  for (int i = 0; i < 50; ++i) results[0] = reduced<true>();
  other.join();
  print("os thread 0", results[0]);
  print("os thread 1", results[1]);
}

// Every thread records its index, before a barrier and after it, in the order in which they run.
template <bool WITH_BARRIER>
__global__ void record_order(int* __restrict__ order, int* __restrict__ length) {
  const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const int threads = blockDim.x * blockDim.y * blockDim.z;
  order[(*length)++] = block * threads + thread;
  if (WITH_BARRIER) {
    __syncthreads();
    order[(*length)++] = block * threads + thread;
  }
}

void orders() {
  const dim3 grid(3, 2, 2), block(5, 3, 4);
  for (const auto& [name, schedule] : schedules) {
    for (int seed = 1; seed <= (schedule == Schedule::random ? 2 : 1); ++seed) {
      for (const char* repeat : {"first", "second"}) {
        cconvnet::emulator::set_schedule(schedule, seed);
        std::vector<int> order(2 * 12 * 60);
        int length = 0;
        CCONVNET_LAUNCH((record_order<true>), grid, block, nullptr, order.data(), &length);
        print(std::string("order ") + name + " seed " + std::to_string(seed) + " " + repeat, order);
      }
    }
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// Reads shared memory before writing it.
struct StaleShared {
  float value[4];
};

__global__ void read_before_write(int* is_nan) {
  StaleShared& shared = shared_memory<StaleShared>();
  is_nan[blockIdx.x * 4 + threadIdx.x] = std::isnan(shared.value[threadIdx.x]);
  shared.value[threadIdx.x] = 1;
}

void stale() {
  std::vector<int> is_nan(3 * 4, -1);
  CCONVNET_LAUNCH(read_before_write, 3, 4, nullptr, is_nan.data());
  print("nan", is_nan);
}

// Two objects of 24 KiB just fit, do not overlap, and are aligned as their type requires.
struct alignas(128) HalfA {
  float4 values[1536];
};
struct HalfB {
  float4 values[1536];
};

__global__ void two_objects(int* facts) {
  HalfA& a = shared_memory<HalfA>();
  HalfB& b = shared_memory<HalfB>();
  a.values[1535] = make_float4(1, 2, 3, 4);
  b.values[0] = make_float4(5, 6, 7, 8);
  facts[0] = a.values[1535].w == 4 && b.values[0].x == 5;
  facts[1] = reinterpret_cast<uintptr_t>(&a) % 128 == 0 && reinterpret_cast<uintptr_t>(&b) % 16 == 0;
  facts[2] = &a == &shared_memory<HalfA>();
}

void shared_objects() {
  std::vector<int> facts(3);
  CCONVNET_LAUNCH(two_objects, 1, 1, nullptr, facts.data());
  print("shared", facts);
}

// Barriers that carry a vote; predicates other than 1 count as true.
__global__ void votes(int divisor, int* any, int* all, int* count) {
  const int t = threadIdx.x;
  const int predicate = t % divisor == divisor - 1 ? 256 : 0;
  any[t] = __syncthreads_or(predicate);
  all[t] = __syncthreads_and(predicate);
  count[t] = __syncthreads_count(predicate);
}

void block_votes() {
  for (int divisor : {1, 3, 100}) {
    std::vector<int> any(50), all(50), count(50);
    CCONVNET_LAUNCH(votes, 1, 50, nullptr, divisor, any.data(), all.data(), count.data());
    print("or " + std::to_string(divisor), any);
    print("and " + std::to_string(divisor), all);
    print("count " + std::to_string(divisor), count);
  }
}

// The stacks on which the threads of a launch ran.
template <bool WAIT>
__global__ void find_stack(std::set<size_t>* stacks) {
  stacks->insert(reinterpret_cast<size_t>(__builtin_frame_address(0)));
  if (WAIT) __syncthreads();
}

void stacks() {
  std::set<size_t> without_barrier, with_barrier, again;
  CCONVNET_LAUNCH((find_stack<false>), 10, 256, nullptr, &without_barrier);
  CCONVNET_LAUNCH((find_stack<true>), 10, 256, nullptr, &with_barrier);
  CCONVNET_LAUNCH((find_stack<true>), 10, 256, nullptr, &again);
  print("stacks", {static_cast<int>(without_barrier.size()), static_cast<int>(with_barrier.size()),
                   again == with_barrier});
}

// A fiber keeps its floating-point control word, as it keeps its registers.
__global__ void round_downward(float* thirds) {
  volatile float one = 1, three = 3;
  __syncthreads();
  if (threadIdx.x == 0) std::fesetround(FE_DOWNWARD);
  __syncthreads();
  thirds[threadIdx.x] = one / three;
  __syncthreads();
  if (threadIdx.x == 0) std::fesetround(FE_TONEAREST);
}

void control_words() {
  std::vector<float> thirds(3);
  CCONVNET_LAUNCH(round_downward, 1, 3, nullptr, thirds.data());
  print("rounding", {__float_as_int(thirds[0]), __float_as_int(thirds[1]), __float_as_int(thirds[2])});
}

// Needs a kilobyte of stack for each level.
__device__ int recurse(int depth) {
  volatile char frame[1024];
  frame[depth % 1024] = static_cast<char>(depth);
  const int rest = depth > 0 ? recurse(depth - 1) : 0;
  return rest + frame[depth % 1024];
}

// One thread, amid the stacks of others, needs much stack. It reports whether it came back.
__global__ void recurse_amid_others(int depth) {
  __syncthreads();
  if (threadIdx.x == 0) {
    print("sum", {recurse(depth)});
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && argv[1] == std::string("recurse")) {
    CCONVNET_LAUNCH(recurse_amid_others, 1, 256, nullptr, std::stoi(argv[2]));
    return 0;
  }
  return program::run(argc, argv,
                      {{"reduce", reductions},
                       {"os threads", two_os_threads},
                       {"order", orders},
                       {"stale", stale},
                       {"shared", shared_objects},
                       {"votes", block_votes},
                       {"stacks", stacks},
                       {"control words", control_words}});
}
