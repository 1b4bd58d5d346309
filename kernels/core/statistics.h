// The statistics of a convolution's output by the operation of their own, for rows that do not compute them on
// the way.
#pragma once

#include "api.h"

namespace cconvnet {

// The output as the rows of a batch normalisation, which divides nothing here.
inline BatchNormProblem rows_of(const ConvProblem& problem, int counted) {
  return BatchNormProblem::make(problem.n * problem.p * problem.q, problem.k, counted, 1.0f);
}

// `workspace` is that of batch_norm_statistics.
inline void apply(const Statistics& statistics, const ConvProblem& problem, const void* y, void* workspace,
                  Stream stream) {
  if (!statistics.mean) return;
  const BatchNormProblem rows = rows_of(problem, statistics.counted);
  const auto [mean, variance, unbiased, counted] = statistics;
  if (problem.precision == Precision::bf16) {
    batch_norm_statistics(rows, static_cast<const bfloat16*>(y), mean, variance, unbiased, workspace, stream);
  } else {
    batch_norm_statistics(rows, static_cast<const float*>(y), mean, variance, unbiased, workspace, stream);
  }
}

}  // namespace cconvnet
