// The rate of a tensor by LARS. Threads sum the squares of slices, which depend on the count alone, and the sums
// are added in their order.
#include <vector>

#include "api.h"
#include "lars.h"
#include "parallel.h"

namespace cconvnet {
namespace {

constexpr int64_t kSlice = 16384;  // elements

CCONVNET_CLONES double sum_of_squares(const float* values, int64_t count) {
  double sum = 0.0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += double{values[i]} * values[i];
  return sum;
}

}  // namespace

size_t lars_rate_workspace(const LarsProblem&) {
  return 0;
}

void lars_rate(const LarsProblem& problem, const float* w, const float* g, const float* rates,
               float* rates_out, void*, Stream) {
  const int64_t slices = (problem.count + kSlice - 1) / kSlice;
  std::vector<LarsSquares> sums(slices);
  parallel_ranges(slices, kSlice, [&](int, int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice) {
      const int64_t first = slice * kSlice, count = std::min(kSlice, problem.count - first);
      sums[slice] = {sum_of_squares(w + first, count), sum_of_squares(g + first, count)};
    }
  });
  LarsSquares sum = {0.0, 0.0};
  for (const LarsSquares& slice : sums) sum = {sum.w + slice.w, sum.g + slice.g};
  const float lr = rates[0], momentum = rates[1];
  rates_out[0] = lars_rate_of(problem, sum, lr);
  rates_out[1] = momentum;
}

}  // namespace cconvnet
