// The larger of two tensors, element by element, and its gradient: elementwise kernels (core/vector.cuh).
#include "core/larger.h"
#include "core/vector.cuh"

namespace cconvnet {
namespace {

template <class T>
struct EltmaxForward {
  const T* a;
  const T* b;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(a + i);
    const Vector<WIDTH> other = load<WIDTH>(b + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) value.lane[j] = larger(value.lane[j], other.lane[j]);
    store(y + i, value);
  }
};

template <class T>
struct EltmaxBackward {
  const T* x;
  const T* y;
  const T* dy;
  T* dx;

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

template <class T>
void eltmax_forward(int count, const T* a, const T* b, T* y, Stream stream) {
  launch_elementwise<T>(count, aligned(a, b, y), stream, EltmaxForward<T>{a, b, y});
}

template <class T>
void eltmax_backward(int count, const T* x, const T* y, const T* dy, T* dx, Stream stream) {
  launch_elementwise<T>(count, aligned(x, y, dy, dx), stream, EltmaxBackward<T>{x, y, dy, dx});
}

template void eltmax_forward(int, const float*, const float*, float*, Stream);
template void eltmax_backward(int, const float*, const float*, const float*, float*, Stream);

template void eltmax_forward(int, const bfloat16*, const bfloat16*, bfloat16*, Stream);
template void eltmax_backward(int, const bfloat16*, const bfloat16*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
