// db[k] = the sum over rows of dy[rows,k]: partial sums over pieces of rows of a fixed number, added in
// order.
#include "api.h"
#include "parallel.h"

namespace cconvnet {

CCONVNET_CLONES void cpu_add_rows(const float* rows, int64_t count, int k, float* sum) {
  for (int64_t row = 0; row < count; ++row) {
    const float* const values = rows + row * k;
#pragma omp simd
    for (int j = 0; j < k; ++j) sum[j] += values[j];
  }
}

size_t bias_grad_workspace(const BiasProblem&) {
  return 0;
}

void bias_grad(const BiasProblem& problem, const float* dy, float* db, void*, Stream) {
  const int64_t piece = std::max<int64_t>(1, kPiece * 4 / problem.k);
  const int64_t pieces = (problem.rows + piece - 1) / piece;
  std::vector<float> partial(pieces * problem.k, 0.0f);
  parallel_pieces(problem.rows, piece, [&](int64_t begin, int64_t end) {
    cpu_add_rows(dy + begin * problem.k, end - begin, problem.k, &partial[begin / piece * problem.k]);
  });
  std::fill(db, db + problem.k, 0.0f);
  cpu_add_rows(partial.data(), pieces, problem.k, db);
}

}  // namespace cconvnet
