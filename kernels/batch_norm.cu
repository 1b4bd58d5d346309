// Batch normalisation of the columns of a matrix, and its gradients.
//
// The statistics, and the sums of the gradients, are pairs of numbers for each column (column_pairs.cuh). What
// is written row by row takes a few numbers of its column. A thread computes them once, for 8 rows.
#include "column_pairs.cuh"
#include "neuron.h"

namespace cconvnet {
namespace {

// ---- what is reduced ------------------------------------------------------------------------------------

template <class T>
struct RowMoments {
  using Merge = Moments;
  const T* x;

  template <int WIDTH>
  struct Columns {};

  bool aligned() const { return cconvnet::aligned(x); }

  template <int WIDTH>
  __device__ __forceinline__ Columns<WIDTH> columns(int) const {
    return {};
  }

  template <int WIDTH>
  __device__ __forceinline__ Pair<WIDTH> strand(const StrandRows& strand, const Columns<WIDTH>&,
                                                int& rows) const {
    Packed<WIDTH, T> values[kStrandRows];
#pragma unroll
    for (int l = 0; l < kStrandRows; ++l) {
      if (strand.has(l)) values[l] = load_packed<WIDTH>(x + strand.at(l));
    }
    rows = strand.count();
    return moments_of<WIDTH>(rows, [&](int l) { return unpack(values[l]); });
  }
};

// The reciprocal of the standard deviation.
template <int WIDTH>
__device__ __forceinline__ Vector<WIDTH> reciprocal_deviation(Vector<WIDTH> variance, float eps) {
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) variance.lane[i] = 1.0f / sqrtf(variance.lane[i] + eps);
  return variance;
}

// dy behind a ReLU whose output is y; without a ReLU, y is null.
template <int WIDTH, class T>
struct Gradient {
  Packed<WIDTH, T> dy, y;

  __device__ __forceinline__ Gradient() = default;
  __device__ __forceinline__ Gradient(const T* all_dy, const T* all_y, int at)
      : dy(load_packed<WIDTH>(all_dy + at)) {
    if (all_y) y = load_packed<WIDTH>(all_y + at);
  }

  __device__ __forceinline__ Vector<WIDTH> value(bool masked) const {
    Vector<WIDTH> gradient = unpack(dy);
    if (!masked) return gradient;
    const Vector<WIDTH> mask = unpack(y);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) gradient.lane[i] = mask.lane[i] > 0.0f ? gradient.lane[i] : 0.0f;
    return gradient;
  }
};

// dbeta and dgamma.
template <class T>
struct Gradients {
  using Merge = Sums;
  const T *x, *y, *dy;
  const float *mean, *variance;
  float eps;

  template <int WIDTH>
  struct Columns {
    Vector<WIDTH> mean, reciprocal;
  };

  bool aligned() const { return cconvnet::aligned(x, y, dy, mean, variance); }

  template <int WIDTH>
  __device__ __forceinline__ Columns<WIDTH> columns(int column) const {
    return {load<WIDTH>(mean + column), reciprocal_deviation(load<WIDTH>(variance + column), eps)};
  }

  template <int WIDTH>
  __device__ __forceinline__ Pair<WIDTH> strand(const StrandRows& strand, const Columns<WIDTH>& columns,
                                                int& rows) const {
    rows = strand.count();
    Packed<WIDTH, T> values[kStrandRows];
    Gradient<WIDTH, T> gradients[kStrandRows];
#pragma unroll
    for (int l = 0; l < kStrandRows; ++l) {
      if (!strand.has(l)) continue;
      values[l] = load_packed<WIDTH>(x + strand.at(l));
      gradients[l] = Gradient<WIDTH, T>(dy, y, strand.at(l));
    }
    Pair<WIDTH> sums = {zeros<WIDTH>(), zeros<WIDTH>()};
#pragma unroll
    for (int l = 0; l < kStrandRows; ++l) {
      if (!strand.has(l)) continue;
      const Vector<WIDTH> value = unpack(values[l]), gradient = gradients[l].value(y);
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        const float normalised = (value.lane[i] - columns.mean.lane[i]) * columns.reciprocal.lane[i];
        sums.first.lane[i] += gradient.lane[i];
        sums.second.lane[i] = fmaf(gradient.lane[i], normalised, sums.second.lane[i]);
      }
    }
    return sums;
  }
};

// ---- row by row -----------------------------------------------------------------------------------------

struct RowsArguments {
  int rows, counted, k;
  int apart;  // between the rows of a thread
  Divider vectors;
};

constexpr int kThreadRows = 8;

// An operation fetches BATCH rows before it writes the first, so that several reads are in flight. Rows that
// do not count are cleared.
template <int WIDTH, class Operation>
__global__ void __launch_bounds__(kThreads) batch_norm_rows(RowsArguments args, Operation operation) {
  constexpr int BATCH = Operation::BATCH;
  int vector;
  const int first = args.vectors.divide(blockIdx.x * kThreads + threadIdx.x, vector);
  if (first >= args.apart) return;
  const int column = vector * WIDTH;
  const auto columns = operation.template columns<WIDTH>(column);
#pragma unroll 1
  for (int turn = 0; turn < kThreadRows; turn += BATCH) {
    typename Operation::template Fetched<WIDTH> fetched[BATCH];
    const auto row = [&](int j) { return first + (turn + j) * args.apart; };
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      if (row(j) < args.counted) fetched[j] = operation.template fetch<WIDTH>(row(j) * args.k + column);
    }
#pragma unroll
    for (int j = 0; j < BATCH; ++j) {
      if (row(j) >= args.rows) return;
      const int at = row(j) * args.k + column;
      if (row(j) < args.counted) {
        operation.write(at, fetched[j], columns);
      } else {
        operation.template clear<WIDTH>(at);
      }
    }
  }
}

template <class T, class Operation>
void launch_rows(const BatchNormProblem& problem, const Operation& operation, Stream stream) {
  const bool vectors = problem.k % kVectorWidth<T> == 0 && operation.aligned();
  const int in_row = vectors ? problem.k / kVectorWidth<T> : problem.k;
  const int apart = static_cast<int>(ceil_div(problem.rows, kThreadRows));
  const RowsArguments args = {problem.rows, problem.counted, problem.k, apart, Divider(in_row)};
  const dim3 grid(static_cast<unsigned>(ceil_div(int64_t{apart} * in_row, kThreads)));
  if (vectors) {
    CCONVNET_LAUNCH((batch_norm_rows<kVectorWidth<T>, Operation>), grid, kThreads, stream, args, operation);
  } else {
    CCONVNET_LAUNCH((batch_norm_rows<1, Operation>), grid, kThreads, stream, args, operation);
  }
}

template <class T>
struct Normalise {
  static constexpr int BATCH = 4;
  const T* x;
  const float *mean, *variance, *gamma, *beta;
  const T* shortcut;
  float eps;
  bool relu;
  T* y;

  template <int WIDTH>
  struct Fetched {
    Packed<WIDTH, T> x, shortcut;
  };

  template <int WIDTH>
  struct Columns {
    Vector<WIDTH> mean, scale, beta;
  };

  bool aligned() const { return cconvnet::aligned(x, mean, variance, gamma, beta, shortcut, y); }

  template <int WIDTH>
  __device__ __forceinline__ Columns<WIDTH> columns(int column) const {
    Vector<WIDTH> scale = reciprocal_deviation(load<WIDTH>(variance + column), eps);
    const Vector<WIDTH> factor = load<WIDTH>(gamma + column);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) scale.lane[i] *= factor.lane[i];
    return {load<WIDTH>(mean + column), scale, load<WIDTH>(beta + column)};
  }

  template <int WIDTH>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int at) const {
    Fetched<WIDTH> fetched;
    fetched.x = load_packed<WIDTH>(x + at);
    if (shortcut) fetched.shortcut = load_packed<WIDTH>(shortcut + at);
    return fetched;
  }

  template <int WIDTH>
  __device__ __forceinline__ void write(int at, const Fetched<WIDTH>& fetched,
                                        const Columns<WIDTH>& columns) const {
    Vector<WIDTH> value = unpack(fetched.x);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      value.lane[i] = fmaf(value.lane[i] - columns.mean.lane[i], columns.scale.lane[i], columns.beta.lane[i]);
    }
    if (shortcut) {
      value = rounded_to<T>(value);
      add_to(value, unpack(fetched.shortcut));
    }
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) value.lane[i] = relu ? cconvnet::relu(value.lane[i]) : value.lane[i];
    store(y + at, value);
  }

  template <int WIDTH>
  __device__ __forceinline__ void clear(int at) const {
    store(y + at, zeros<WIDTH>());
  }
};

// Each of dx and dshortcut may be null.
template <class T>
struct InputGradient {
  static constexpr int BATCH = 2;
  const T *x, *y, *dy;
  const float *mean, *variance, *gamma, *dgamma, *dbeta;
  float eps, counted;
  T *dx, *dshortcut;

  template <int WIDTH>
  struct Fetched {
    Packed<WIDTH, T> x;
    Gradient<WIDTH, T> gradient;
  };

  // dx = scale * (the gradient - dbeta - dgamma * (x - mean)), of shares of one row.
  template <int WIDTH>
  struct Columns {
    Vector<WIDTH> mean, scale, dbeta, dgamma;
  };

  bool aligned() const {
    return cconvnet::aligned(x, y, dy, mean, variance, gamma, dgamma, dbeta, dx, dshortcut);
  }

  template <int WIDTH>
  __device__ __forceinline__ Columns<WIDTH> columns(int column) const {
    const Vector<WIDTH> reciprocal = reciprocal_deviation(load<WIDTH>(variance + column), eps);
    Columns<WIDTH> columns = {load<WIDTH>(mean + column), load<WIDTH>(gamma + column),
                              load<WIDTH>(dbeta + column), load<WIDTH>(dgamma + column)};
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      columns.scale.lane[i] *= reciprocal.lane[i];
      columns.dbeta.lane[i] /= counted;
      columns.dgamma.lane[i] *= reciprocal.lane[i] / counted;
    }
    return columns;
  }

  template <int WIDTH>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int at) const {
    Fetched<WIDTH> fetched;
    if (dx) fetched.x = load_packed<WIDTH>(x + at);
    fetched.gradient = Gradient<WIDTH, T>(dy, y, at);
    return fetched;
  }

  template <int WIDTH>
  __device__ __forceinline__ void write(int at, const Fetched<WIDTH>& fetched,
                                        const Columns<WIDTH>& columns) const {
    const Vector<WIDTH> gradient = fetched.gradient.value(y);
    if (dshortcut) store(dshortcut + at, gradient);
    if (!dx) return;
    Vector<WIDTH> value = unpack(fetched.x);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const float centred = gradient.lane[i] - columns.dbeta.lane[i];
      const float distance = value.lane[i] - columns.mean.lane[i];
      value.lane[i] = columns.scale.lane[i] * fmaf(-distance, columns.dgamma.lane[i], centred);
    }
    store(dx + at, value);
  }

  template <int WIDTH>
  __device__ __forceinline__ void clear(int at) const {
    if (dx) store(dx + at, zeros<WIDTH>());
    if (dshortcut) store(dshortcut + at, zeros<WIDTH>());
  }
};

}  // namespace

size_t batch_norm_statistics_workspace(const BatchNormProblem& problem) {
  return sizeof(float) * floats_between_pairs({problem.rows, problem.k});
}

template <class T>
void batch_norm_statistics(const BatchNormProblem& problem, const T* x, float* mean, float* variance,
                           float* unbiased, void* workspace, Stream stream) {
  reduce_rows<T>({problem.rows, problem.k}, problem.counted, 1, RowMoments<T>{x},
                 {mean, variance, unbiased, problem.counted}, static_cast<float*>(workspace), stream);
}

template <class T>
void batch_norm_forward(const BatchNormProblem& problem, const T* x, const float* mean, const float* variance,
                        const float* gamma, const float* beta, const T* shortcut, bool relu, T* y,
                        Stream stream) {
  launch_rows<T>(problem, Normalise<T>{x, mean, variance, gamma, beta, shortcut, problem.eps, relu, y},
                 stream);
}

size_t batch_norm_backward_workspace(const BatchNormProblem& problem) {
  return sizeof(float) * floats_between_pairs({problem.rows, problem.k});
}

template <class T>
void batch_norm_backward(const BatchNormProblem& problem, const T* x, const T* y, const T* dy,
                         const float* mean, const float* variance, const float* gamma, T* dx, float* dgamma,
                         float* dbeta, void* workspace, Stream stream, T* dshortcut) {
  const Gradients<T> gradients = {x, y, dy, mean, variance, problem.eps};
  reduce_rows<T>({problem.rows, problem.k}, problem.counted, 1, gradients,
                 {dbeta, dgamma, nullptr, problem.counted}, static_cast<float*>(workspace), stream);
  if (!dx && !dshortcut) return;
  launch_rows<T>(problem,
                 InputGradient<T>{x, y, dy, mean, variance, gamma, dgamma, dbeta, problem.eps,
                                  static_cast<float>(problem.counted), dx, dshortcut},
                 stream);
}

template void batch_norm_statistics(const BatchNormProblem&, const float*, float*, float*, float*, void*,
                                    Stream);
template void batch_norm_statistics(const BatchNormProblem&, const bfloat16*, float*, float*, float*, void*,
                                    Stream);
template void batch_norm_forward(const BatchNormProblem&, const float*, const float*, const float*,
                                 const float*, const float*, const float*, bool, float*, Stream);
template void batch_norm_forward(const BatchNormProblem&, const bfloat16*, const float*, const float*,
                                 const float*, const float*, const bfloat16*, bool, bfloat16*, Stream);
template void batch_norm_backward(const BatchNormProblem&, const float*, const float*, const float*,
                                  const float*, const float*, const float*, float*, float*, float*, void*,
                                  Stream, float*);
template void batch_norm_backward(const BatchNormProblem&, const bfloat16*, const bfloat16*, const bfloat16*,
                                  const float*, const float*, const float*, bfloat16*, float*, float*, void*,
                                  Stream, bfloat16*);

}  // namespace cconvnet
