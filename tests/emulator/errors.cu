// Kernels that do what CUDA forbids. Each case prints the error's type and message, then runs a good kernel.
#include <cstring>
#include <memory>

#include "program.h"

namespace {

using cconvnet::CudaError;
using cconvnet::emulator::DivergenceError;
using cconvnet::emulator::KernelError;
using namespace program;

// ---- barriers -------------------------------------------------------------------------------------------

__global__ void barrier_after_return(int n) {
  if (blockIdx.x == 2 && static_cast<int>(threadIdx.x) >= n) return;
  __syncthreads();  // LINE early return
}

template <int A, int B>
__global__ void two_barriers() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();  // LINE even
  } else {
    __syncthreads();  // LINE odd
  }
}

__global__ void barrier_and_warp_operation(int* y) {
  if (threadIdx.x < 32) {
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
    __syncthreads();  // LINE first warp
  } else if (threadIdx.x != 40) {
    __syncwarp();  // LINE second warp
  } else {
    __syncthreads();  // LINE lane 8
  }
}

__global__ void one_round_too_many() {
  for (int i = 0; i < (threadIdx.y == 1 ? 3 : 2); ++i) __syncthreads();  // LINE loop
}

// ---- warp operations ------------------------------------------------------------------------------------

__global__ void lane_returned(int* y, int missing, int value) {
  if (static_cast<int>(threadIdx.x) == missing) return;
  y[threadIdx.x] = __shfl_down_sync(0xffffffffu, value, 1);  // LINE lane 5
}

__global__ void two_shuffles(int* y) {
  if (threadIdx.x < 8) {
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 8);  // LINE low lanes
  } else {
    y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 2, 8);  // LINE high lanes
  }
}

__global__ void not_in_mask(int* y) {
  y[threadIdx.x] = static_cast<int>(__ballot_sync(0x0000ffffu, 1));  // LINE ballot
}

__global__ void source_not_in_mask(int* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x0000ffffu, 1, 20);  // LINE source
}

__global__ void bad_width(int* y) {
  y[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0, 12);  // LINE width
}

__global__ void full_mask() {
  __syncwarp();  // LINE syncwarp
}

// ---- the rest -------------------------------------------------------------------------------------------

struct Large {
  char bytes[40 * 1024];
};
struct AlsoLarge {
  char bytes[9 * 1024];
};

__global__ void too_much_shared() {
  cconvnet::shared_memory<Large>().bytes[0] = 0;
  cconvnet::shared_memory<AlsoLarge>().bytes[0] = 0;
}

// Owns memory while it waits: the leak checker reports it unless its stack was unwound.
__global__ void throws_while_others_wait() {
  const auto owned = std::make_unique<int>(3);
  if (threadIdx.x == 33) __trap();  // LINE trap
  __syncthreads();
}

__global__ void empty() {}

__global__ void launches() {
  CCONVNET_LAUNCH(empty, 1, 1, nullptr, );
}

// ---- what must work after each --------------------------------------------------------------------------

struct Shared {
  int values[64];
};

__global__ void reverse(int* y) {
  Shared& shared = cconvnet::shared_memory<Shared>();
  shared.values[threadIdx.x] = static_cast<int>(threadIdx.x + blockIdx.x);
  __syncthreads();
  y[blockIdx.x * 64 + threadIdx.x] = __shfl_sync(0xffffffffu, shared.values[63 - threadIdx.x], threadIdx.x);
}

void attempt(const char* name, const std::function<void()>& launch) {
  std::string caught = "nothing was thrown";
  try {
    launch();
  } catch (const DivergenceError& error) {
    caught = std::string("DivergenceError: ") + error.what();
  } catch (const KernelError& error) {
    caught = std::string("KernelError: ") + error.what();
  } catch (const CudaError& error) {
    caught = std::string("CudaError: ") + error.what();
  }
  std::vector<int> y(128);
  CCONVNET_LAUNCH(reverse, 2, 64, nullptr, y.data());
  bool right = true;
  for (int i = 0; i < 128; ++i) right = right && y[i] == 63 - i % 64 + i / 64;
  std::printf("%s: %s %s\n", name, right ? "reusable" : "BROKEN", caught.c_str());
}

}  // namespace

int main() {
  std::vector<int> memory(1024);
  int* y = memory.data();
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 9);
    attempt("return", [] { CCONVNET_LAUNCH(barrier_after_return, 4, 50, nullptr, 48); });
    attempt("two barriers", [] { CCONVNET_LAUNCH((two_barriers<3, 4>), 1, 32, nullptr, ); });
    attempt("mixed", [=] { CCONVNET_LAUNCH(barrier_and_warp_operation, dim3(1, 2), 64, nullptr, y); });
    attempt("loop", [] { CCONVNET_LAUNCH(one_round_too_many, 1, dim3(2, 2, 2), nullptr, ); });
    attempt("lane", [=] { CCONVNET_LAUNCH(lane_returned, 1, 32, nullptr, y, 5, 1); });
    attempt("two shuffles", [=] { CCONVNET_LAUNCH(two_shuffles, 1, 32, nullptr, y); });
    // The same operation right after its failure, now with all lanes, must not find those left waiting.
    try {
      CCONVNET_LAUNCH(lane_returned, 1, 32, nullptr, y, 5, 1);
    } catch (const DivergenceError&) {
    }
    CCONVNET_LAUNCH(lane_returned, 1, 32, nullptr, y, -1, 2);
    print("again", {y, y + 32});
    attempt("trap", [] { CCONVNET_LAUNCH(throws_while_others_wait, 1, 64, nullptr, ); });
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
  attempt("not in mask", [=] { CCONVNET_LAUNCH(not_in_mask, 1, 32, nullptr, y); });
  attempt("source", [=] { CCONVNET_LAUNCH(source_not_in_mask, 1, 32, nullptr, y); });
  attempt("width", [=] { CCONVNET_LAUNCH(bad_width, 1, 32, nullptr, y); });
  attempt("short warp", [] { CCONVNET_LAUNCH(full_mask, 1, 40, nullptr, ); });
  attempt("shared", [] { CCONVNET_LAUNCH(too_much_shared, 1, 1, nullptr, ); });
  attempt("nested", [] { CCONVNET_LAUNCH(launches, 1, 1, nullptr, ); });

  const struct {
    const char* name;
    dim3 grid, block;
  } limits[] = {
      {"grid x 0", {0}, {1}},
      {"grid y 0", {1, 0}, {1}},
      {"grid z 0", {1, 1, 0}, {1}},
      {"block x 0", {1}, {0}},
      {"block y 0", {1}, {1, 0}},
      {"block z 0", {1}, {1, 1, 0}},
      {"grid x", {0x80000000u}, {1}},
      {"grid y", {1, 65536}, {1}},
      {"grid z", {1, 1, 65536}, {1}},
      {"block x", {1}, {1025}},
      {"block y", {1}, {1, 1025}},
      {"block z", {1}, {1, 1, 65}},
      {"block", {1}, {32, 33}},
      {"negative", {static_cast<unsigned>(-1)}, {1}},
      {"largest", {2, 65535}, {1, 1, 1}},
      {"largest block", {1}, {8, 2, 64}},
  };
  for (const auto& limit : limits) {
    attempt((std::string("limit ") + limit.name).c_str(),
            [&] { CCONVNET_LAUNCH(empty, limit.grid, limit.block, nullptr, ); });
  }
  attempt("copy", [=] { CCONVNET_CHECK(cudaMemcpyAsync(y, nullptr, 4, cudaMemcpyDefault, nullptr)); });
}
