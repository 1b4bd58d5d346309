// The mask of a dropout problem on the device, for dropout.cu and for every kernel that drops what it has
// just computed. core/philox.h defines the rule.
#pragma once

#include "core/philox.h"
#include "core/vector.cuh"

namespace cconvnet {

class DropoutMask {
 public:
  static constexpr int kWords = 4;  // of one Philox call

  DropoutMask() = default;  // passed where nothing is dropped, and never applied

  // `step` may be null.
  DropoutMask(const DropoutProblem& problem, const int64_t* step)
      : threshold_(problem.threshold()),
        seed_(problem.seed),
        subsequence_(problem.subsequence),
        step_(step),
        scale_(problem.scale),
        row_stride_(problem.row_stride),
        first_(problem.first_index()),
        stretch_(problem.stretch()) {}

  // Returns whether the four elements that share a Philox call are side by side, from each multiple of four
  // on.
  static bool whole_draws(const DropoutProblem& problem) {
    const bool one_stretch = problem.stretch() == problem.count;
    return problem.first_index() % kWords == 0 &&
           (one_stretch || (problem.columns % kWords == 0 && problem.row_stride % kWords == 0));
  }

  // Element i of value x, kept and scaled or dropped.
  __device__ __forceinline__ float apply(float x, int i) const {
    return dropout_value(x, scale_, philox_word(index(i), subsequence(), seed_), threshold_);
  }

  // The same of elements i .. i+3; i is a multiple of four, and draws are whole.
  __device__ __forceinline__ Vector<kWords> apply(const Vector<kWords>& x, int i) const {
    const PhiloxWords drawn = philox4x32_10(index(i) / kWords, subsequence(), seed_);
    Vector<kWords> result;
#pragma unroll
    for (int j = 0; j < kWords; ++j) {
      result.lane[j] = dropout_value(x.lane[j], scale_, drawn.word[j], threshold_);
    }
    return result;
  }

 private:
  // The index in the whole tensor.
  __device__ __forceinline__ uint32_t index(int i) const {
    int column;
    const int row = stretch_.divide(i, column);
    return row * row_stride_ + first_ + column;
  }

  __device__ __forceinline__ uint64_t subsequence() const {
    return subsequence_ + (step_ ? static_cast<uint64_t>(*step_) : 0);
  }

  uint64_t threshold_ = 0, seed_ = 0, subsequence_ = 0;
  const int64_t* step_ = nullptr;
  float scale_ = 0.0f;
  int row_stride_ = 0, first_ = 0;
  Divider stretch_{1};
};

}  // namespace cconvnet
