// The sum of the rows of a matrix in a fixed tree: parts of a gradient, whoever computed them.
//
// An elementwise kernel (core/vector.cuh): a thread adds four columns over all rows. It reads several rows before
// it adds the first, so that enough loads are in flight. The sums that wait for a later part are in registers,
// so the compiler must know the place of each. Therefore they move when a part is added: there is code for each
// number of merges, and all threads run the same. Shallow trees have a kernel with few registers.
#include "core/vector.cuh"

namespace cconvnet {
namespace {

constexpr int kColumns = kVectorWidth<float>;  // of a thread, whatever the type of x
template <class T>
constexpr int kAhead = 16 / sizeof(T);  // rows that are read at once, 64 bytes of a thread
// The sums that wait in a shallow tree, such as a balanced one of 16 parts, and in any tree. The newest part, which
// is added to them, is not one of them.
constexpr int kFewWaiting = 4, kMostWaiting = TreeSumProblem::kMostSums - 1;

// Adds a part to the newest sum, the result to the one before, MERGES times, and puts it in their place.
template <int MERGES, int WIDTH, int WAITING>
__device__ __forceinline__ void push(Vector<WIDTH> (&newest)[WAITING], Vector<WIDTH> part) {
#pragma unroll
  for (int i = 0; i < MERGES; ++i) {
    Vector<WIDTH> sum = newest[i];
    add_to(sum, part);
    part = sum;
  }
  if constexpr (MERGES == 0) {
#pragma unroll
    for (int i = WAITING - 1; i > 0; --i) newest[i] = newest[i - 1];
  } else {
#pragma unroll
    for (int i = 1; i + MERGES - 1 < WAITING; ++i) newest[i] = newest[i + MERGES - 1];
  }
  newest[0] = part;
}

// The same for a number of merges that only the launch knows; it is at least LEAST.
template <int LEAST, int WIDTH, int WAITING>
__device__ __forceinline__ void push_known(int merges, Vector<WIDTH> (&newest)[WAITING],
                                           const Vector<WIDTH>& part) {
  if constexpr (LEAST == WAITING) {
    push<LEAST>(newest, part);
  } else if (merges == LEAST) {
    push<LEAST>(newest, part);
  } else {
    push_known<LEAST + 1>(merges, newest, part);
  }
}

template <class T, int WAITING>
struct TreeSum {
  TreeSumProblem problem;
  const T* x;
  float* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> newest[WAITING] = {};
    for (int first = 0; first < problem.parts; first += kAhead<T>) {
      Packed<WIDTH, T> parts[kAhead<T>] = {};
#pragma unroll
      for (int l = 0; l < kAhead<T>; ++l) {
        if (first + l < problem.parts) {
          parts[l] = load_packed<WIDTH>(x + int64_t{first + l} * problem.count + i);
        }
      }
#pragma unroll
      for (int l = 0; l < kAhead<T>; ++l) {
        if (first + l < problem.parts) push_known<0>(problem.merges[first + l], newest, unpack(parts[l]));
      }
    }
    if (problem.scale != 1.0f) {
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) newest[0].lane[j] *= problem.scale;
    }
    store(y + i, newest[0]);
  }
};

template <int WAITING, class T>
void launch(const TreeSumProblem& problem, const T* x, float* y, Stream stream) {
  const bool rows_aligned = problem.parts == 1 || problem.count % kColumns == 0;
  launch_elementwise<float>(problem.count, rows_aligned && aligned(x, y), stream,
                            TreeSum<T, WAITING>{problem, x, y});
}

}  // namespace

template <class T>
void tree_sum(const TreeSumProblem& problem, const T* x, float* y, Stream stream) {
  if (problem.most_sums <= kFewWaiting + 1) {
    launch<kFewWaiting>(problem, x, y, stream);
  } else {
    launch<kMostWaiting>(problem, x, y, stream);
  }
}

template void tree_sum(const TreeSumProblem&, const float*, float*, Stream);
template void tree_sum(const TreeSumProblem&, const bfloat16*, float*, Stream);

}  // namespace cconvnet
