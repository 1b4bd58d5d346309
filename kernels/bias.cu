// A bias added to the rows of a matrix, an elementwise kernel (core/vector.cuh), and its gradient, db[k] =
// sum over the rows of dy[rows,k] (column_sums.cuh). The gradient is computed alone or together with that of a
// ReLU after the bias.
#include "column_sums.cuh"
#include "neuron.h"

namespace cconvnet {
namespace {

// ---- addition -------------------------------------------------------------------------------------------

// Vectors need a k that they divide, so that none reaches over the end of a row.
template <class T>
struct BiasAdd {
  const T* x;
  const float* bias;
  Divider k;
  bool relu;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    int column;
    k.divide(static_cast<int>(i), column);
    Vector<WIDTH> sum = load<WIDTH>(x + i);
    add_to(sum, load<WIDTH>(bias + column));
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      if (relu) sum.lane[j] = cconvnet::relu(sum.lane[j]);
    }
    store(y + i, sum);
  }
};

// ---- gradient behind a ReLU whose output is placed --------------------------------------------------------

// As InputGradients of Values, where y and dy are columns of wider matrices.
template <class T>
struct PlacedGradients {
  static constexpr int BATCH = Values<T>::BATCH, GROUPS = 1;
  const T *y, *dy;  // from the first of the columns on
  float scale;
  Divider k;
  int pitch;
  T* dx;

  template <int WIDTH>
  struct Fetched {
    Vector<WIDTH> mask, gradient;
  };

  bool aligned() const { return pitch % kVectorWidth<T> == 0 && cconvnet::aligned(y, dy, dx); }

  template <int WIDTH>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int i) const {
    int column;
    const int at = k.divide(i, column) * pitch + column;
    return {load<WIDTH>(y + at), load<WIDTH>(dy + at)};
  }

  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> term(int i, const Fetched<WIDTH>& fetched) const {
    const Vector<WIDTH> value = masked<T>(fetched.gradient, fetched.mask, scale);
    store(dx + i, value);
    return value;
  }
};

// ---- selection ------------------------------------------------------------------------------------------

template <class Source>
struct SumsArguments {
  Source source;
  float* db;
  void* workspace;
  bool aligned() const { return source.aligned(); }
};

template <int WIDTH, class Source>
void launch(const BiasProblem& problem, const SumsArguments<Source>& args, Stream stream) {
  sum_columns<WIDTH>(problem, args.source, args.db, args.workspace, stream);
}

template <class T>
bool vectors_divide_columns(const BiasProblem& problem) {
  return problem.k % kVectorWidth<T> == 0;
}

// T is what the source reads.
template <class T, class Source>
const SelectionTable<BiasProblem, SumsArguments<Source>>& sums_table(const char* operation) {
  static const std::string name = std::string(operation) + "_" + kElementName<T>;
  static const SelectionTable<BiasProblem, SumsArguments<Source>> table(
      operation,
      {{name, true, vectors_divide_columns<T>, always, bias_grad_workspace, launch<kVectorWidth<T>, Source>},
       {name + "_scalar", false, always, always, bias_grad_workspace, launch<1, Source>}});
  return table;
}

}  // namespace

template <class T>
void bias_add(const BiasProblem& problem, const T* x, const float* bias, bool relu, T* y, Stream stream) {
  detail::require(!problem.is_placed(), "only relu_bias_backward takes placed arrays");
  const bool vectors = problem.k % kVectorWidth<T> == 0 && aligned(x, bias, y);
  launch_elementwise<T>(problem.count(), vectors, stream, BiasAdd<T>{x, bias, Divider(problem.k), relu, y});
}

size_t bias_grad_workspace(const BiasProblem& problem) {
  return sizeof(float) * floats_between(problem);
}

template <class T>
void bias_grad(const BiasProblem& problem, const T* dy, float* db, void* workspace, Stream stream) {
  detail::require(!problem.is_placed(), "only relu_bias_backward takes placed arrays");
  sums_table<T, Values<T>>("bias_grad").run(problem, {{dy}, db, workspace}, stream, nullptr);
}

template <class T>
void relu_bias_backward(const BiasProblem& problem, const T* y, const T* dy, float scale, T* dx, float* db,
                        void* workspace, Stream stream) {
  if (problem.is_placed()) {
    const PlacedGradients<T> placed = {y + problem.first,  dy + problem.first, scale,
                                       Divider(problem.k), problem.pitch,      dx};
    sums_table<T, PlacedGradients<T>>("relu_bias_backward")
        .run(problem, {placed, db, workspace}, stream, nullptr);
    return;
  }
  const InputGradients<T, Values<T>> gradients({dy}, {y, scale, db}, dx);
  sums_table<T, InputGradients<T, Values<T>>>("relu_bias_backward")
      .run(problem, {gradients, db, workspace}, stream, nullptr);
}

template void bias_add(const BiasProblem&, const float*, const float*, bool, float*, Stream);
template void bias_grad(const BiasProblem&, const float*, float*, void*, Stream);
template void relu_bias_backward(const BiasProblem&, const float*, const float*, float, float*, float*, void*,
                                 Stream);

template void bias_add(const BiasProblem&, const bfloat16*, const float*, bool, bfloat16*, Stream);
template void bias_grad(const BiasProblem&, const bfloat16*, float*, void*, Stream);
template void relu_bias_backward(const BiasProblem&, const bfloat16*, const bfloat16*, float, bfloat16*,
                                 float*, void*, Stream);

}  // namespace cconvnet
