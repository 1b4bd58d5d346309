// Sums of two tensors and the conversions between floats and bfloat16. Each thread takes a range of elements.
#include "api.h"
#include "floats.h"
#include "neuron.h"
#include "parallel.h"

namespace cconvnet {
namespace {

template <class T>
CCONVNET_CLONES void add_range(float alpha, const T* a, float beta, const T* b, T* y, int64_t begin,
                               int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = from_float<T>(alpha * to_float(a[i]) + beta * to_float(b[i]));
}

// The same, then a ReLU.
template <class T>
CCONVNET_CLONES void add_and_relu_range(float alpha, const T* a, float beta, const T* b, T* y, int64_t begin,
                                        int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i)
    y[i] = from_float<T>(relu(alpha * to_float(a[i]) + beta * to_float(b[i])));
}

template <class From, class To>
CCONVNET_CLONES void convert_range(const From* x, To* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = from_float<To>(to_float(x[i]));
}

template <class From, class To>
void convert_on_all_threads(int count, const From* x, To* y) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { convert_range(x, y, begin, end); });
}

}  // namespace

template <class T>
void add(int count, float alpha, const T* a, float beta, const T* b, bool relu, T* y, Stream) {
  const auto range = relu ? add_and_relu_range<T> : add_range<T>;
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { range(alpha, a, beta, b, y, begin, end); });
}

template void add(int, float, const float*, float, const float*, bool, float*, Stream);
template void add(int, float, const bfloat16*, float, const bfloat16*, bool, bfloat16*, Stream);

void convert(const bfloat16* from, int64_t count, float* to) {
  convert_range(from, to, 0, count);
}

void convert(const float* from, int64_t count, bfloat16* to) {
  convert_range(from, to, 0, count);
}

void to_bf16(int count, const float* x, bfloat16* y, Stream) {
  convert_on_all_threads(count, x, y);
}

void from_bf16(int count, const bfloat16* x, float* y, Stream) {
  convert_on_all_threads(count, x, y);
}

}  // namespace cconvnet
