// A bias added to the rows of a matrix, and its gradient, the matrix summed over its rows.
//
// For the gradient the rows are cut into chunks of a fixed number, each chunk is summed by one thread, and
// the chunks' sums are added in order. So the result does not depend on the number of threads, and with two
// short sums in place of a long one it is also more accurate: conv1 of AlexNet has 387,200 rows at batch 128.
#include <algorithm>
#include <vector>

#include "api.h"
#include "neuron.h"
#include "parallel.h"

namespace cconvnet {
namespace {

CCONVNET_CLONES void add_to_row(const float* x, const float* bias, bool relu, int k, float* y) {
  if (relu) {
#pragma omp simd
    for (int i = 0; i < k; ++i) y[i] = cconvnet::relu(x[i] + bias[i]);
  } else {
#pragma omp simd
    for (int i = 0; i < k; ++i) y[i] = x[i] + bias[i];
  }
}

constexpr int kChunkRows = 512;

CCONVNET_CLONES void sum_rows(const float* matrix, int64_t rows, int k, float* sum) {
  std::fill(sum, sum + k, 0.0f);
  for (int64_t row = 0; row < rows; ++row) {
    const float* values = matrix + row * k;
#pragma omp simd
    for (int i = 0; i < k; ++i) sum[i] += values[i];
  }
}

}  // namespace

void bias_add(const BiasProblem& problem, const float* x, const float* bias, bool relu, float* y, Stream) {
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

void bias_grad(const BiasProblem& problem, const float* dy, float* db, void*, Stream) {
  const int k = problem.k;
  const int chunks = detail::ceil_div(problem.rows, kChunkRows);
  if (chunks == 1) return sum_rows(dy, problem.rows, k, db);
  std::vector<float> partial(size_t(chunks) * k);
  parallel_ranges(chunks, int64_t{kChunkRows} * k, [&](int, int64_t begin, int64_t end) {
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      const int64_t first = chunk * kChunkRows;
      const int64_t rows = std::min<int64_t>(kChunkRows, problem.rows - first);
      sum_rows(dy + first * k, rows, k, partial.data() + chunk * k);
    }
  });
  sum_rows(partial.data(), chunks, k, db);
}

}  // namespace cconvnet
