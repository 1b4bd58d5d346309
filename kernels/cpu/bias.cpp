// A bias added to the rows of a matrix, and its gradient, the matrix summed over its rows; also the gradient
// together with that of the ReLU after the bias.
//
// For the gradient the rows are divided into chunks of a fixed length. One thread sums each chunk, and the
// chunks' sums are added in order. So the result does not depend on the number of threads. Two short sums are
// also more accurate than a long one: conv1 of AlexNet has 387,200 rows at batch 128.
#include <algorithm>
#include <vector>

#include "api.h"
#include "floats.h"
#include "neuron.h"
#include "parallel.h"

namespace cconvnet {
namespace {

template <class T>
CCONVNET_CLONES void add_to_row(const T* x, const float* bias, bool relu, int k, T* y) {
  if (relu) {
#pragma omp simd
    for (int i = 0; i < k; ++i) y[i] = from_float<T>(cconvnet::relu(to_float(x[i]) + bias[i]));
  } else {
#pragma omp simd
    for (int i = 0; i < k; ++i) y[i] = from_float<T>(to_float(x[i]) + bias[i]);
  }
}

constexpr int kChunkRows = 512;

template <class T>
inline __attribute__((always_inline)) void add_row(const T* row, int k, float* sum) {
#pragma omp simd
  for (int i = 0; i < k; ++i) sum[i] += to_float(row[i]);
}

template <class T>
CCONVNET_CLONES void sum_rows(const T* matrix, int64_t rows, int k, float* sum) {
  std::fill(sum, sum + k, 0.0f);
  for (int64_t row = 0; row < rows; ++row) add_row(matrix + row * k, k, sum);
}

// Sums a row from dx, where it has been rounded. Without SCALED, scale is 1. Rows of y and dy are `pitch`
// elements apart.
template <bool SCALED, class T>
CCONVNET_CLONES void relu_backward_and_sum_rows(const T* y, const T* dy, int64_t pitch, float scale,
                                                int64_t rows, int k, T* dx, float* sum) {
  std::fill(sum, sum + k, 0.0f);
  for (int64_t row = 0; row < rows; ++row, y += pitch, dy += pitch, dx += k) {
#pragma omp simd
    for (int i = 0; i < k; ++i) {
      const bool passes = to_float(y[i]) > 0.0f;
      if (SCALED) {
        dx[i] = from_float<T>(passes ? scale * to_float(dy[i]) : 0.0f);
      } else {
        dx[i] = unrounded<T>(passes ? to_float(dy[i]) : 0.0f);
      }
    }
    add_row(dx, k, sum);
  }
}

// db = the sum over all rows; sum_chunk(first, rows, sum) stores that of `rows` rows from `first` on.
template <class SumChunk>
void sum_chunks(const BiasProblem& problem, float* db, const SumChunk& sum_chunk) {
  const int k = problem.k, chunks = detail::ceil_div(problem.rows, kChunkRows);
  if (chunks == 1) return sum_chunk(0, problem.rows, db);
  std::vector<float> partial(size_t(chunks) * k);
  parallel_ranges(chunks, int64_t{kChunkRows} * k, [&](int, int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunkRows;
      sum_chunk(first, std::min<int64_t>(kChunkRows, problem.rows - first), partial.data() + chunk * k);
    }
  });
  sum_rows(partial.data(), chunks, k, db);
}

}  // namespace

template <class T>
void bias_add(const BiasProblem& problem, const T* x, const float* bias, bool relu, T* y, Stream) {
  detail::require(!problem.is_placed(), "only relu_bias_backward takes placed arrays");
  const int64_t k = problem.k;
  parallel_ranges(problem.rows, k, [&](int, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      add_to_row(x + row * k, bias, relu, problem.k, y + row * k);
    }
  });
}

size_t bias_grad_workspace(const BiasProblem&) {
  return 0;
}

template <class T>
void bias_grad(const BiasProblem& problem, const T* dy, float* db, void*, Stream) {
  detail::require(!problem.is_placed(), "only relu_bias_backward takes placed arrays");
  const int64_t k = problem.k;
  sum_chunks(problem, db, [&](int64_t first, int64_t rows, float* sum) {
    sum_rows(dy + first * k, rows, problem.k, sum);
  });
}

template <class T>
void relu_bias_backward(const BiasProblem& problem, const T* y, const T* dy, float scale, T* dx, float* db,
                        void*, Stream) {
  const int64_t pitch = problem.is_placed() ? problem.pitch : problem.k;
  const auto backward =
      scale == 1.0f ? relu_backward_and_sum_rows<false, T> : relu_backward_and_sum_rows<true, T>;
  sum_chunks(problem, db, [&](int64_t first, int64_t rows, float* sum) {
    const int64_t offset = first * pitch + problem.first;
    backward(y + offset, dy + offset, pitch, scale, rows, problem.k, dx + first * problem.k, sum);
  });
}

template void bias_add(const BiasProblem&, const float*, const float*, bool, float*, Stream);
template void bias_add(const BiasProblem&, const bfloat16*, const float*, bool, bfloat16*, Stream);
template void bias_grad(const BiasProblem&, const float*, float*, void*, Stream);
template void bias_grad(const BiasProblem&, const bfloat16*, float*, void*, Stream);
template void relu_bias_backward(const BiasProblem&, const float*, const float*, float, float*, float*, void*,
                                 Stream);
template void relu_bias_backward(const BiasProblem&, const bfloat16*, const bfloat16*, float, bfloat16*,
                                 float*, void*, Stream);

}  // namespace cconvnet
