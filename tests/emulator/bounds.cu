// One access out of bounds per case, for a build with sanitizers to report.
#include "program.h"

namespace {

struct SharedBuffer {
  float values[64];
};

// `reach` is 0 for a good access.
__global__ void shared_write(int reach) {
  float* values = cconvnet::shared_memory<SharedBuffer>().values;
  values[threadIdx.x + reach] = 1;  // LINE shared
}

__global__ void global_read(const float* x, float* y, int reach) {
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x + reach];  // LINE global
}

__global__ void misaligned(const float* x, float* y, int reach) {
  *reinterpret_cast<float4*>(y) = *reinterpret_cast<const float4*>(x + reach);  // LINE misaligned
}

}  // namespace

int main(int, char** argv) {
  const std::string name = argv[1];
  const int reach = std::stoi(argv[2]);
  std::vector<float> x(64), y(64);
  if (name == "shared") CCONVNET_LAUNCH(shared_write, 2, 64, nullptr, reach);
  if (name == "global") CCONVNET_LAUNCH(global_read, 1, 64, nullptr, x.data(), y.data(), reach);
  if (name == "misaligned") CCONVNET_LAUNCH(misaligned, 1, 1, nullptr, x.data(), y.data(), reach);
  std::printf("done: %d\n", reach);
}
