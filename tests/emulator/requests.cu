// Kernels whose requests to memory are counted by hand in test_accesses.py. The access of a case is on the line
// that is marked with its name.
#include "counted.h"
#include "core/ptx.cuh"
#include "core/vector.cuh"

namespace {

using namespace counted;

// ---- global memory --------------------------------------------------------------------------------------

__global__ void scalar(const float* x, float* y, int stride, int offset) {
  y[threadIdx.x] = x[threadIdx.x * stride + offset];  // LINE scalar
}

template <int WIDTH, class T>
__global__ void vectors(const T* x, T* y, int offset) {
  const Vector<WIDTH> v = load<WIDTH>(x + threadIdx.x * WIDTH + offset);  // LINE vectors
  store(y + threadIdx.x * WIDTH, v);
}

// Lanes 0 to 9 alone.
__global__ void few_lanes(const float* x, float* y) {
  if (threadIdx.x < 10) y[threadIdx.x] = x[threadIdx.x];  // LINE few lanes
}

// Each byte is read twice, by one warp.
__global__ void twice(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x];  // LINE twice
  __syncthreads();
  y[threadIdx.x] = x[threadIdx.x ^ 1];  // LINE twice
}

// ---- shared memory --------------------------------------------------------------------------------------

struct alignas(128) Floats {
  float at[32 * 33];
};

__global__ void shared_scalar(float* y, int stride) {
  Floats& shared = shared_memory<Floats>();
  shared.at[threadIdx.x * stride] = 1;  // LINE shared scalar
  y[threadIdx.x] = 0;
}

template <int WIDTH>
__global__ void shared_vectors(float* y, int stride) {
  Floats& shared = shared_memory<Floats>();
  for (float& value : shared.at) value = 0;
  __syncthreads();
  store(y + threadIdx.x * WIDTH, load<WIDTH>(shared.at + threadIdx.x * stride));  // LINE shared vectors
}

template <class T>
__global__ void shared_small(T* y) {
  auto* const values = reinterpret_cast<T*>(shared_memory<Floats>().at);
  values[threadIdx.x] = y[threadIdx.x];  // LINE shared small
}

template <int WORDS>
struct Words {
  float at[WORDS];
};

template <int WORDS>
__global__ void shared_words(const Words<WORDS>* x) {
  auto* const words = reinterpret_cast<Words<WORDS>*>(shared_memory<Floats>().at);
  words[threadIdx.x] = x[threadIdx.x];  // LINE shared words
}

__global__ void rows(int* y, int stride) {
  Floats& shared = shared_memory<Floats>();
  for (float& value : shared.at) value = 0;
  __syncthreads();
  const int part =
      static_cast<int>(ptx::load_matrices(shared.at + threadIdx.x * stride).part[0]);  // LINE rows
  y[threadIdx.x] = part;
}

__global__ void copies(const float* x, float* y, int inside) {
  Floats& shared = shared_memory<Floats>();
  const int lane = static_cast<int>(threadIdx.x);
  ptx::start_copy(shared.at + lane * 4, x + lane * 4, lane < inside);  // LINE copies
  ptx::close_copy_group();
  ptx::wait_for_copies<0>();
  y[lane] = shared.at[lane * 4];
}

__global__ void atomics(unsigned* y) {
  atomicAdd(y + threadIdx.x / 8, 1u);  // LINE atomics
}

// ---- blocks ---------------------------------------------------------------------------------------------

__global__ void sum_of_warp(float* y) {
  float sum = 1;
  for (int step = 0; step < 3; ++step) {
    sum += __shfl_xor_sync(~0u, sum, 1);
    __syncthreads();
  }
  y[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

}  // namespace

int main() {
  float* const x = array<float>(4096);
  float* const y = array<float>(4096);
  const auto of_one_warp = [](const std::string& name, auto kernel, auto... arguments) {
    record(name, [&] { CCONVNET_LAUNCH(kernel, 1, 32, nullptr, arguments...); });
  };
  for (int stride : {0, 1, 2, 8, 32})
    of_one_warp("scalar " + std::to_string(stride), scalar, x, y, stride, 0);
  of_one_warp("scalar misaligned", scalar, x, y, 1, 1);
  of_one_warp("vectors 4", vectors<4, float>, x, y, 0);
  of_one_warp("vectors 8", vectors<8, float>, x, y, 0);
  of_one_warp("vectors half a sector", vectors<4, float>, x, y, 4);
  of_one_warp("vectors bf16", vectors<8, bfloat16>, reinterpret_cast<const bfloat16*>(x),
              reinterpret_cast<bfloat16*>(y), 0);
  of_one_warp("few lanes", few_lanes, x, y);
  of_one_warp("twice", twice, x, y);
  for (int stride : {0, 1, 2, 32, 33}) {
    of_one_warp("shared scalar " + std::to_string(stride), shared_scalar, y, stride);
  }
  of_one_warp("shared vectors 2", shared_vectors<2>, y, 2);
  of_one_warp("shared vectors 4", shared_vectors<4>, y, 4);
  of_one_warp("shared vectors 4 broadcast", shared_vectors<4>, y, 0);
  of_one_warp("shared vectors 4 apart", shared_vectors<4>, y, 8);
  of_one_warp("shared vectors 4 padded", shared_vectors<4>, y, 32);
  of_one_warp("shared small 2", shared_small<short>, reinterpret_cast<short*>(y));
  of_one_warp("shared small 1", shared_small<signed char>, reinterpret_cast<signed char*>(y));
  of_one_warp("shared words 3", shared_words<3>, reinterpret_cast<const Words<3>*>(x));
  of_one_warp("shared words 6", shared_words<6>, reinterpret_cast<const Words<6>*>(x));
  for (int stride : {4, 8, 32})
    of_one_warp("rows " + std::to_string(stride), rows, reinterpret_cast<int*>(y), stride);
  for (int inside : {32, 8}) of_one_warp("copies " + std::to_string(inside), copies, x, y, inside);
  of_one_warp("atomics", atomics, reinterpret_cast<unsigned*>(y));
  counting::Options sampled, cut;
  sampled.blocks = 3;
  cut.barriers = 2;
  const auto sums = [&] { CCONVNET_LAUNCH(sum_of_warp, 9, 64, nullptr, y); };
  record("whole", sums);
  record("sampled", sums, sampled);
  record("cut", sums, cut);
}
