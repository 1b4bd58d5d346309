// The product of two tensors, element by element: an elementwise kernel (vector.cuh).
#include "core/vector.cuh"

namespace cconvnet {
namespace {

template <class T>
struct Eltmul {
  const T* a;
  const T* b;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(a + i);
    const Vector<WIDTH> other = load<WIDTH>(b + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) value.lane[j] *= other.lane[j];
    store(y + i, value);
  }
};

}  // namespace

template <class T>
void eltmul(int count, const T* a, const T* b, T* y, Stream stream) {
  launch_elementwise<T>(count, aligned(a, b, y), stream, Eltmul<T>{a, b, y});
}

template void eltmul(int, const float*, const float*, float*, Stream);
template void eltmul(int, const bfloat16*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
