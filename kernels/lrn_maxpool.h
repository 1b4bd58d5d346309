// A normalisation and the max pooling after it as one problem, by which the selection tables choose a row.
#pragma once

#include <string>

#include "core/repr.h"
#include "problem.h"

namespace cconvnet {

// Throws std::invalid_argument unless the pool takes the output of a normalisation across channels.
inline void check_lrn_maxpool(const LrnProblem& lrn, const PoolProblem& pool) {
  detail::require(lrn.region == LrnRegion::across_channels, "lrn must be across channels");
  detail::require(lrn.n == pool.n && lrn.h == pool.h && lrn.w == pool.w && lrn.c == pool.c,
                  "pool must have the shape of lrn's output");
}

struct LrnMaxpoolProblem {
  const LrnProblem& lrn;
  const PoolProblem& pool;

  LrnMaxpoolProblem(const LrnProblem& lrn, const PoolProblem& pool) : lrn(lrn), pool(pool) {
    check_lrn_maxpool(lrn, pool);
  }
};

inline std::string repr(const LrnMaxpoolProblem& problem) {
  return repr(problem.lrn) + ", " + repr(problem.pool);
}

}  // namespace cconvnet
