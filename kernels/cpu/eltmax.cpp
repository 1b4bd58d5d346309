// The larger of two tensors, element by element, and its gradient.
#include "api.h"
#include "core/larger.h"
#include "parallel.h"

namespace cconvnet {
namespace {

template <class T>
CCONVNET_CLONES void forward_range(const T* a, const T* b, T* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = from_float<T>(larger(to_float(a[i]), to_float(b[i])));
}

template <class T>
CCONVNET_CLONES void backward_range(const T* x, const T* y, const T* dy, T* dx, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) {
    dx[i] = from_float<T>(to_float(x[i]) == to_float(y[i]) ? to_float(dy[i]) : 0.0f);
  }
}

}  // namespace

template <class T>
void eltmax_forward(int count, const T* a, const T* b, T* y, Stream) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { forward_range(a, b, y, begin, end); });
}

template <class T>
void eltmax_backward(int count, const T* x, const T* y, const T* dy, T* dx, Stream) {
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { backward_range(x, y, dy, dx, begin, end); });
}

template void eltmax_forward(int, const float*, const float*, float*, Stream);
template void eltmax_forward(int, const bfloat16*, const bfloat16*, bfloat16*, Stream);
template void eltmax_backward(int, const float*, const float*, const float*, float*, Stream);
template void eltmax_backward(int, const bfloat16*, const bfloat16*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
