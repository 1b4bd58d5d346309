// The larger of two tensors, element by element, and its gradient: elementwise kernels (vector.cuh).
#include "larger.h"
#include "vector.cuh"

namespace cconvnet {
namespace {

struct EltmaxForward {
  const float* a;
  const float* b;
  float* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(a + i);
    const Vector<WIDTH> other = load<WIDTH>(b + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) value.lane[j] = larger(value.lane[j], other.lane[j]);
    store(y + i, value);
  }
};

struct EltmaxBackward {
  const float* x;
  const float* y;
  const float* dy;
  float* dx;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    const Vector<WIDTH> in = load<WIDTH>(x + i);
    const Vector<WIDTH> out = load<WIDTH>(y + i);
    Vector<WIDTH> gradient = load<WIDTH>(dy + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      gradient.lane[j] = in.lane[j] == out.lane[j] ? gradient.lane[j] : 0.0f;
    }
    store(dx + i, gradient);
  }
};

}  // namespace

void eltmax_forward(int count, const float* a, const float* b, float* y, Stream stream) {
  launch_elementwise(count, aligned(a, b, y), stream, EltmaxForward{a, b, y});
}

void eltmax_backward(int count, const float* x, const float* y, const float* dy, float* dx, Stream stream) {
  launch_elementwise(count, aligned(x, y, dy, dx), stream, EltmaxBackward{x, y, dy, dx});
}

}  // namespace cconvnet
