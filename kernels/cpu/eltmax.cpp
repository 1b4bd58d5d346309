// The larger of two tensors, element by element, and its gradient.
#include "api.h"
#include "larger.h"
#include "parallel.h"

namespace cconvnet {
namespace {

CCONVNET_CLONES void forward_range(const float* a, const float* b, float* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = larger(a[i], b[i]);
}

CCONVNET_CLONES void backward_range(const float* x, const float* y, const float* dy, float* dx, int64_t begin,
                                    int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) dx[i] = x[i] == y[i] ? dy[i] : 0.0f;
}

}  // namespace

void eltmax_forward(int count, const float* a, const float* b, float* y, Stream) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { forward_range(a, b, y, begin, end); });
}

void eltmax_backward(int count, const float* x, const float* y, const float* dy, float* dx, Stream) {
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { backward_range(x, y, dy, dx, begin, end); });
}

}  // namespace cconvnet
