// The product of two tensors, element by element.
#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

template <class T>
CCONVNET_CLONES void multiply_range(const T* a, const T* b, T* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = from_float<T>(to_float(a[i]) * to_float(b[i]));
}

}  // namespace

template <class T>
void eltmul(int count, const T* a, const T* b, T* y, Stream) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { multiply_range(a, b, y, begin, end); });
}

template void eltmul(int, const float*, const float*, float*, Stream);
template void eltmul(int, const bfloat16*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
