// The squared distance of each row of x[n,k] from its target, and its gradient.
//
// Forward, a warp sums a row: each lane takes every 32nd value. Rows are short, such as the four coordinates of
// a box for each class. The gradient is an elementwise kernel (vector.cuh).
#include "core/row_reduce.cuh"

namespace cconvnet {
namespace {

template <class T>
__global__ void __launch_bounds__(kThreads)
    l2_cost_forward_warp(int n, int k, const T* x, const float* target, float* loss) {
  const int64_t row = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  if (row >= n) return;  // whole warps
  float sum = 0.0f;
  for (int64_t j = row * k + threadIdx.x % kWarp; j < (row + 1) * k; j += kWarp) {
    const float distance = to_float(x[j]) - target[j];
    sum += distance * distance;
  }
  sum = reduce_warp(sum, Sum());
  if (threadIdx.x % kWarp == 0) loss[row] = 0.5f * sum;
}

template <class T>
struct L2CostBackward {
  const T* x;
  const float* target;
  float scale;
  T* dx;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> value = load<WIDTH>(x + i);
    const Vector<WIDTH> wanted = load<WIDTH>(target + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) value.lane[j] = scale * (value.lane[j] - wanted.lane[j]);
    store(dx + i, value);
  }
};

}  // namespace

template <class T>
void l2_cost_forward(const L2CostProblem& problem, const T* x, const float* target, float* loss,
                     Stream stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(problem.n, kWarps)));
  CCONVNET_LAUNCH((l2_cost_forward_warp<T>), grid, kThreads, stream, problem.n, problem.k, x, target, loss);
}

template <class T>
void l2_cost_backward(const L2CostProblem& problem, const T* x, const float* target, float scale, T* dx,
                      Stream stream) {
  launch_elementwise<T>(problem.count(), aligned(x, target, dx), stream,
                        L2CostBackward<T>{x, target, scale, dx});
}

template void l2_cost_forward(const L2CostProblem&, const float*, const float*, float*, Stream);
template void l2_cost_forward(const L2CostProblem&, const bfloat16*, const float*, float*, Stream);
template void l2_cost_backward(const L2CostProblem&, const float*, const float*, float, float*, Stream);
template void l2_cost_backward(const L2CostProblem&, const bfloat16*, const float*, float, bfloat16*, Stream);

}  // namespace cconvnet
