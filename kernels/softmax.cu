// Softmax over the rows of logits[n,k], the cross-entropy loss with the label's rank, and their gradient.
//
// A warp serves a short row and a block a long one. Each of its THREADS threads takes every THREADS-th class,
// three times: for the largest logit (and the label's rank), for the sum of exp(logit - largest), and for the
// probabilities and, if wanted, the gradient. The second and third reads are served by the L1 cache.
#include <cmath>

#include "core/row_reduce.cuh"
#include "core/select.h"

namespace cconvnet {
namespace {

constexpr int kLongRow = 128;  // classes; above it a row is given a whole block

struct Max {  // of the numbers: a NaN is ignored
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// The targets of all rows: `others` for every class, and `label` more for that of the row's label. A row with
// the ignored label has none.
struct Targets {
  bool any_ignored;
  int ignored;
  float label, others;
};

struct SoftmaxShared {
  float largest[kWarps], sum[kWarps], below[kWarps];
  int before[kWarps], nans[kWarps];
};

// The label of a row, if it is a class and if it is the one that the problem ignores.
struct Label {
  int value = 0;
  bool is_class = false, ignored = false;

  Label() = default;
  __device__ Label(int label, int k, const Targets& targets)
      : value(label),
        is_class(label >= 0 && label < k),
        ignored(targets.any_ignored && label == targets.ignored) {}

  // The gradient by the logit of class j.
  __device__ __forceinline__ float gradient(const Targets& targets, float scale, float probability,
                                            int64_t j) const {
    if (ignored) return 0.0f;
    const float target = j == value ? targets.label + targets.others : targets.others;
    return is_class ? scale * (probability - target) : NAN;
  }
};

// ---- by rows --------------------------------------------------------------------------------------------

// Results computed beside the probabilities: nothing, loss and rank, or these and the gradient.
enum class Also { nothing, loss, loss_and_gradient };

template <class T>
struct CrossEntropy {
  const int32_t* labels;
  float* loss;
  int32_t* rank;
  float scale;
  T* dlogits;
  Targets targets;
};

template <int THREADS, Also ALSO, class T>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1 nvcc spills registers
    softmax_kernel(int n, int k, const T* logits, float* probabilities, CrossEntropy<T> out) {
  constexpr bool LOSS = ALSO != Also::nothing;
  static_assert(THREADS == kWarp || THREADS == kThreads, "a row is served by a warp or by a block");
  SoftmaxShared& shared = shared_memory<SoftmaxShared>();
  const int64_t row = int64_t{blockIdx.x} * (kThreads / THREADS) + threadIdx.x / THREADS;
  if (row >= n) return;  // whole warps: a block that serves one row has no other
  const int thread = threadIdx.x % THREADS;
  logits += row * k;
  probabilities += row * k;

  Label label;
  float label_logit = 0.0f;
  if (LOSS) {
    label = Label(out.labels[row], k, out.targets);
    if (label.is_class) label_logit = to_float(logits[label.value]);
  }

  float largest = -INFINITY;
  int before = 0, nans = 0;
  for (int64_t j = thread; j < k; j += THREADS) {
    const float logit = to_float(logits[j]);
    largest = fmaxf(largest, logit);
    if (LOSS) {
      before += logit > label_logit || (logit == label_logit && j < label.value);
      nans += logit != logit;
    }
  }
  largest = reduce_row<THREADS>(largest, shared.largest, Max());

  float sum = 0.0f, below = 0.0f;  // below: the sum of all logits, less the largest each
  for (int64_t j = thread; j < k; j += THREADS) {
    const float logit = to_float(logits[j]) - largest;
    sum += expf(logit);
    if (LOSS) below += logit;
  }
  sum = reduce_row<THREADS>(sum, shared.sum, Sum());

  if (LOSS) {
    const bool smooth = out.targets.others > 0;
    if (smooth) below = reduce_row<THREADS>(below, shared.below, Sum());
    before = reduce_row<THREADS>(before, shared.before, Sum());
    nans = reduce_row<THREADS>(nans, shared.nans, Sum());
    if (thread == 0) {
      // If the label's logit is the largest, the loss without smoothing is exactly log(sum).
      float own = label_logit - largest;
      if (smooth) own = out.targets.label * own + out.targets.others * below;
      const float loss = label.is_class ? logf(sum) - own : NAN;
      const int rank = label.is_class && nans == 0 ? before : k;
      out.loss[row] = label.ignored ? 0.0f : loss;
      out.rank[row] = label.ignored ? 0 : rank;
    }
  }

  // In place, all threads must have read the label's logit before its owner overwrites it.
  if (LOSS && THREADS == kWarp) __syncwarp();
  for (int64_t j = thread; j < k; j += THREADS) {
    const float probability = expf(to_float(logits[j]) - largest) / sum;
    probabilities[j] = probability;
    if (ALSO == Also::loss_and_gradient) {
      out.dlogits[row * k + j] = from_float<T>(label.gradient(out.targets, out.scale, probability, j));
    }
  }
}

template <class T>
struct SoftmaxArrays {
  const T* logits;
  float* probabilities;
  CrossEntropy<T> out;
  void* workspace = nullptr;
  bool aligned() const { return cconvnet::aligned(logits, probabilities, out.dlogits); }
};

template <int THREADS, Also ALSO, class T>
void launch_softmax(const SoftmaxProblem& problem, const SoftmaxArrays<T>& arrays, Stream stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(problem.n, kThreads / THREADS)));
  CCONVNET_LAUNCH((softmax_kernel<THREADS, ALSO, T>), grid, kThreads, stream, problem.n, problem.k,
                  arrays.logits, arrays.probabilities, arrays.out);
}

bool short_rows(const SoftmaxProblem& problem) {
  return problem.k <= kLongRow;
}

template <Also ALSO, class T>
const SelectionTable<SoftmaxProblem, SoftmaxArrays<T>>& table() {
  static const std::string name = ALSO == Also::nothing ? "softmax_forward"
                                  : ALSO == Also::loss  ? "softmax_cross_entropy_forward"
                                                        : "softmax_cross_entropy";
  static const SelectionTable<SoftmaxProblem, SoftmaxArrays<T>> table(
      name, {{name + "_warp_" + kElementName<T>, false, always, short_rows, no_workspace,
              launch_softmax<kWarp, ALSO, T>},
             {name + "_block_" + kElementName<T>, false, always, always, no_workspace,
              launch_softmax<kThreads, ALSO, T>}});
  return table;
}

// ---- by elements ----------------------------------------------------------------------------------------

// Vectors do not cross rows: they are used where WIDTH divides k.
template <class T>
struct CrossEntropyBackward {
  int k;
  Divider k_div;
  float scale;
  const float* probabilities;
  const int32_t* labels;
  T* dlogits;
  Targets targets;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    int j;
    const Label label(labels[k_div.divide(static_cast<int>(i), j)], k, targets);
    Vector<WIDTH> value = load<WIDTH>(probabilities + i);
#pragma unroll
    for (int lane = 0; lane < WIDTH; ++lane) {
      value.lane[lane] = label.gradient(targets, scale, value.lane[lane], j + lane);
    }
    store(dlogits + i, value);
  }
};

// One block: there are as many losses as images in a batch.
__global__ void __launch_bounds__(kThreads) watch_losses_kernel(int count, const float* loss, int32_t* halt) {
  bool bad = false;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) bad |= !isfinite(loss[i]);
  const int any_bad = __syncthreads_or(bad);
  if (threadIdx.x == 0) *halt = any_bad ? 1 : 0;
}

Targets targets_of(const SoftmaxProblem& problem) {
  const float others = problem.smoothing / static_cast<float>(problem.k);
  return {problem.ignores, problem.ignore, 1.0f - problem.smoothing, others};
}

}  // namespace

template <class T>
void softmax_forward(const SoftmaxProblem& problem, const T* logits, float* probabilities, Stream stream) {
  table<Also::nothing, T>().run(problem, {logits, probabilities, {}}, stream, nullptr);
}

template <class T>
void softmax_cross_entropy_forward(const SoftmaxProblem& problem, const T* logits, const int32_t* labels,
                                   float* probabilities, float* loss, int32_t* rank, Stream stream) {
  table<Also::loss, T>().run(problem,
                             {logits, probabilities, {labels, loss, rank, 0, nullptr, targets_of(problem)}},
                             stream, nullptr);
}

template <class T>
void softmax_cross_entropy_backward(const SoftmaxProblem& problem, const float* probabilities,
                                    const int32_t* labels, float scale, T* dlogits, Stream stream) {
  const bool vectors = problem.k % kVectorWidth<T> == 0 && aligned(probabilities, dlogits);
  launch_elementwise<T>(problem.count(), vectors, stream,
                        CrossEntropyBackward<T>{problem.k, Divider(problem.k), scale, probabilities, labels,
                                                dlogits, targets_of(problem)});
}

template <class T>
void softmax_cross_entropy(const SoftmaxProblem& problem, const T* logits, const int32_t* labels, float scale,
                           float* probabilities, float* loss, int32_t* rank, T* dlogits, Stream stream) {
  table<Also::loss_and_gradient, T>().run(
      problem, {logits, probabilities, {labels, loss, rank, scale, dlogits, targets_of(problem)}}, stream,
      nullptr);
}

void watch_losses(int count, const float* loss, int32_t* halt, Stream stream) {
  CCONVNET_LAUNCH(watch_losses_kernel, dim3(1), kThreads, stream, count, loss, halt);
}

template void softmax_forward(const SoftmaxProblem&, const float*, float*, Stream);
template void softmax_cross_entropy_forward(const SoftmaxProblem&, const float*, const int32_t*, float*,
                                            float*, int32_t*, Stream);
template void softmax_cross_entropy_backward(const SoftmaxProblem&, const float*, const int32_t*, float,
                                             float*, Stream);
template void softmax_cross_entropy(const SoftmaxProblem&, const float*, const int32_t*, float, float*,
                                    float*, int32_t*, float*, Stream);

template void softmax_forward(const SoftmaxProblem&, const bfloat16*, float*, Stream);
template void softmax_cross_entropy_forward(const SoftmaxProblem&, const bfloat16*, const int32_t*, float*,
                                            float*, int32_t*, Stream);
template void softmax_cross_entropy_backward(const SoftmaxProblem&, const float*, const int32_t*, float,
                                             bfloat16*, Stream);
template void softmax_cross_entropy(const SoftmaxProblem&, const bfloat16*, const int32_t*, float, float*,
                                    float*, int32_t*, bfloat16*, Stream);

}  // namespace cconvnet
