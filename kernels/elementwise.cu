// Sums of two tensors and the conversions between floats and bfloat16: elementwise kernels (core/vector.cuh).
#include "core/vector.cuh"
#include "neuron.h"

namespace cconvnet {
namespace {

template <class T>
struct Add {
  float alpha, beta;
  bool relu;
  const T* a;
  const T* b;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> sum = load<WIDTH>(a + i);
    const Vector<WIDTH> term = load<WIDTH>(b + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      sum.lane[j] = fmaf(alpha, sum.lane[j], beta * term.lane[j]);
      if (relu) sum.lane[j] = cconvnet::relu(sum.lane[j]);
    }
    store(y + i, sum);
  }
};

template <class From, class To>
struct Convert {
  const From* x;
  To* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    store(y + i, load<WIDTH>(x + i));
  }
};

}  // namespace

template <class T>
void add(int count, float alpha, const T* a, float beta, const T* b, bool relu, T* y, Stream stream) {
  launch_elementwise<T>(count, aligned(a, b, y), stream, Add<T>{alpha, beta, relu, a, b, y});
}

template void add(int, float, const float*, float, const float*, bool, float*, Stream);
template void add(int, float, const bfloat16*, float, const bfloat16*, bool, bfloat16*, Stream);

// A vector is 16 bytes of bfloat16s and twice as many of floats.
void to_bf16(int count, const float* x, bfloat16* y, Stream stream) {
  launch_elementwise<bfloat16>(count, aligned(x, y), stream, Convert<float, bfloat16>{x, y});
}

void from_bf16(int count, const bfloat16* x, float* y, Stream stream) {
  launch_elementwise<bfloat16>(count, aligned(x, y), stream, Convert<bfloat16, float>{x, y});
}

}  // namespace cconvnet
