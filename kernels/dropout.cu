// Dropout, y = x * scale where a Philox draw keeps the element, else 0 (dropout_mask.cuh).
//
// An elementwise kernel (core/vector.cuh). A thread's vector takes the words of whole Philox calls, so no
// random word is wasted. A part of a tensor may have rows that do not begin with a call's first word. Then a
// thread serves one element and draws all four words for it. The mask depends only on an element's index in
// the whole tensor: forward and backward, vectors or not, draw the same.
#include "dropout_mask.cuh"

namespace cconvnet {
namespace {

template <class T>
struct Dropout {
  DropoutMask mask;
  const T* x;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(x + i);
    const int first = static_cast<int>(i);
    if constexpr (WIDTH == 1) {
      value.lane[0] = mask.apply(value.lane[0], first);
    } else {
#pragma unroll
      for (int j = 0; j < WIDTH; j += DropoutMask::kWords) {
        const Vector<4> four = {{value.lane[j], value.lane[j + 1], value.lane[j + 2], value.lane[j + 3]}};
        const Vector<4> kept = mask.apply(four, first + j);
#pragma unroll
        for (int l = 0; l < DropoutMask::kWords; ++l) value.lane[j + l] = kept.lane[l];
      }
    }
    store(y + i, value);
  }
};

}  // namespace

template <class T>
void dropout(const DropoutProblem& problem, const int64_t* step, const T* x, T* y, Stream stream) {
  const bool vectors = DropoutMask::whole_draws(problem) && aligned(x, y);
  launch_elementwise<T>(problem.count, vectors, stream, Dropout<T>{DropoutMask(problem, step), x, y});
}

template void dropout(const DropoutProblem&, const int64_t*, const float*, float*, Stream);
template void dropout(const DropoutProblem&, const int64_t*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
