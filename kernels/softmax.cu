// Softmax over the rows of logits[n,k], the cross-entropy loss with the label's rank, and their gradient.
//
// Forward, a warp serves a short row and a block a long one. Each of its THREADS threads takes every
// THREADS-th class, three times: for the largest logit (and the label's rank), for the sum of exp(logit -
// largest), and for the probabilities. The second and third reading come from the L1 cache.
#include <cmath>

#include "row_reduce.cuh"

namespace cconvnet {
namespace {

constexpr int kLongRow = 128;  // classes; above it a row is given a whole block

struct Max {  // of the numbers: a NaN is passed over
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

struct SoftmaxShared {
  float largest[kWarps], sum[kWarps];
  int before[kWarps], nans[kWarps];
};

// ---- forward --------------------------------------------------------------------------------------------

// What cross-entropy adds to softmax.
struct CrossEntropy {
  const int32_t* labels;
  float* loss;
  int32_t* rank;
};

template <int THREADS, bool LOSS>
__global__ void __launch_bounds__(kThreads)
    softmax_kernel(int n, int k, const float* logits, float* probabilities, CrossEntropy out) {
  static_assert(THREADS == kWarp || THREADS == kThreads, "a row is served by a warp or by a block");
  SoftmaxShared& shared = shared_memory<SoftmaxShared>();
  const int64_t row = int64_t{blockIdx.x} * (kThreads / THREADS) + threadIdx.x / THREADS;
  if (row >= n) return;  // whole warps: a block that serves one row has no other
  const int thread = threadIdx.x % THREADS;
  logits += row * k;
  probabilities += row * k;

  int label = 0;
  bool label_ok = false;
  float label_logit = 0.0f;
  if (LOSS) {
    label = out.labels[row];
    label_ok = label >= 0 && label < k;
    if (label_ok) label_logit = logits[label];
  }

  float largest = -INFINITY;
  int before = 0, nans = 0;
  for (int64_t j = thread; j < k; j += THREADS) {
    const float logit = logits[j];
    largest = fmaxf(largest, logit);
    if (LOSS) {
      before += logit > label_logit || (logit == label_logit && j < label);
      nans += logit != logit;
    }
  }
  largest = reduce_row<THREADS>(largest, shared.largest, Max());

  float sum = 0.0f;
  for (int64_t j = thread; j < k; j += THREADS) sum += expf(logits[j] - largest);
  sum = reduce_row<THREADS>(sum, shared.sum, Sum());

  if (LOSS) {
    before = reduce_row<THREADS>(before, shared.before, Sum());
    nans = reduce_row<THREADS>(nans, shared.nans, Sum());
    if (thread == 0) {
      // Where the label's logit is the largest, the loss is exactly log(sum).
      out.loss[row] = label_ok ? logf(sum) - (label_logit - largest) : NAN;
      out.rank[row] = label_ok && nans == 0 ? before : k;
    }
  }

  // In place, the label's logit must have been read by all before its owner writes over it.
  if (LOSS && THREADS == kWarp) __syncwarp();
  for (int64_t j = thread; j < k; j += THREADS) probabilities[j] = expf(logits[j] - largest) / sum;
}

template <bool LOSS>
void launch_softmax(const SoftmaxProblem& problem, const float* logits, float* probabilities,
                    const CrossEntropy& out, Stream stream) {
  if (problem.k > kLongRow) {
    CCONVNET_LAUNCH((softmax_kernel<kThreads, LOSS>), dim3(problem.n), kThreads, stream, problem.n, problem.k,
                    logits, probabilities, out);
  } else {
    const dim3 grid(static_cast<unsigned>(ceil_div(problem.n, kWarps)));
    CCONVNET_LAUNCH((softmax_kernel<kWarp, LOSS>), grid, kThreads, stream, problem.n, problem.k, logits,
                    probabilities, out);
  }
}

// ---- backward -------------------------------------------------------------------------------------------

// Vectors do not straddle rows: they are used where WIDTH divides k.
struct CrossEntropyBackward {
  int k;
  Divider k_div;
  float scale;
  const float* probabilities;
  const int32_t* labels;
  float* dlogits;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    int j;
    const int label = labels[k_div.divide(static_cast<int>(i), j)];
    const bool label_ok = label >= 0 && label < k;
    Vector<WIDTH> value = load<WIDTH>(probabilities + i);
#pragma unroll
    for (int lane = 0; lane < WIDTH; ++lane) {
      const float onehot = j + lane == label ? 1.0f : 0.0f;
      value.lane[lane] = label_ok ? scale * (value.lane[lane] - onehot) : NAN;
    }
    store(dlogits + i, value);
  }
};

}  // namespace

void softmax_forward(const SoftmaxProblem& problem, const float* logits, float* probabilities,
                     Stream stream) {
  launch_softmax<false>(problem, logits, probabilities, CrossEntropy{}, stream);
}

void softmax_cross_entropy_forward(const SoftmaxProblem& problem, const float* logits, const int32_t* labels,
                                   float* probabilities, float* loss, int32_t* rank, Stream stream) {
  launch_softmax<true>(problem, logits, probabilities, CrossEntropy{labels, loss, rank}, stream);
}

void softmax_cross_entropy_backward(const SoftmaxProblem& problem, const float* probabilities,
                                    const int32_t* labels, float scale, float* dlogits, Stream stream) {
  const bool vectors = problem.k % kVectorWidth == 0 && aligned(probabilities, dlogits);
  launch_elementwise(
      problem.count(), vectors, stream,
      CrossEntropyBackward{problem.k, Divider(problem.k), scale, probabilities, labels, dlogits});
}

}  // namespace cconvnet
