// One of two files of a program, each with a `Shared` of its own, as the files of the emulator's module have.
#include "core/launch.cuh"

namespace {

struct Shared {
  int values[8];
};

__global__ void kernel(int* y) {
  Shared& shared = cconvnet::shared_memory<Shared>();
  shared.values[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  y[threadIdx.x] = shared.values[7 - threadIdx.x];
}

}  // namespace

void reverse_of_eight(int* y) {
  CCONVNET_LAUNCH(kernel, 1, 8, nullptr, y);
}
