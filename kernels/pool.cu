// Max and average pooling, forward and backward. x[N,H,W,C], y[N,P,Q,C].
//
// Both directions are gathers. A thread owns WIDTH neighbouring channels of one output pixel (forward) or of
// one input pixel (backward) and reads everything that contributes to it, so nothing is added atomically.
// Windows overlap; the L1 and L2 caches serve repeated reads. With the gradient of a bias, backward, the
// threads are those of its sums (column_sums.cuh).
//
// An average over whole images has few outputs, each of many pixels. So the warps of a block share the pixels
// of an image, and a block serves 32 vectors of channels.
#include <cmath>

#include "column_sums.cuh"
#include "core/input_epilogue.h"
#include "core/packed.cuh"
#include "core/select.h"
#include "pool_windows.cuh"

namespace cconvnet {
namespace {

enum class Pooling { max, average };

struct PoolArguments {
  PoolProblem problem;
  PixelVectors vectors;  // of the tensor that the threads run over
  Divider stride_h_div, stride_w_div;
  Range counted_h, counted_w;  // of the image or of the padded image, by whose parts averages divide
};

// ---- kernels --------------------------------------------------------------------------------------------

template <Pooling POOLING, int WIDTH, class T>
__global__ void __launch_bounds__(kThreads) pool_forward(PoolArguments args, const T* x, T* y) {
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (vector >= args.vectors.count) return;
  const PoolProblem& problem = args.problem;
  const Position at = position_of<WIDTH>(args.vectors, static_cast<int>(vector));
  const Range rows = window(at.row, problem.stride_h, problem.pad_h, problem.window_h, problem.h);
  const Range columns = window(at.column, problem.stride_w, problem.pad_w, problem.window_w, problem.w);

  Packed<WIDTH, T> largest = lowest<WIDTH, T>();
  Vector<WIDTH> sum = zeros<WIDTH>();
  for (int h = rows.begin; h < rows.end; ++h) {
    const T* address = x + ((at.n * problem.h + h) * problem.w + columns.begin) * problem.c + at.c;
    for (int w = columns.begin; w < columns.end; ++w) {
      const Packed<WIDTH, T> value = load_packed<WIDTH>(address);
      if (POOLING == Pooling::max) {
        largest = maximum(value, largest);
      } else {
        add_to(sum, unpack(value));
      }
      address += problem.c;
    }
  }
  if constexpr (POOLING == Pooling::max) {
    store(y + vector * WIDTH, largest);
  } else {
    const float count =
        counted_size(at.row, problem.stride_h, problem.pad_h, problem.window_h, args.counted_h) *
        counted_size(at.column, problem.stride_w, problem.pad_w, problem.window_w, args.counted_w);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) sum.lane[i] /= count;
    store(y + vector * WIDTH, sum);
  }
}

// The gradient of one vector of the input. Average pooling reads neither x nor y.
template <Pooling POOLING, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> pooled_gradient(const PoolArguments& args, int vector, const T* x,
                                                         const T* y, const T* dy) {
  const PoolProblem& problem = args.problem;
  const Position at = position_of<WIDTH>(args.vectors, vector);
  const Range rows = windows_holding(at.row, problem.stride_h, args.stride_h_div, problem.pad_h,
                                     problem.window_h, problem.p);
  const Range columns = windows_holding(at.column, problem.stride_w, args.stride_w_div, problem.pad_w,
                                        problem.window_w, problem.q);

  Packed<WIDTH, T> own;
  if (POOLING == Pooling::max) own = load_packed<WIDTH>(x + vector * WIDTH);
  Vector<WIDTH> result = zeros<WIDTH>();
  for (int p = rows.begin; p < rows.end; ++p) {
    const float height = counted_size(p, problem.stride_h, problem.pad_h, problem.window_h, args.counted_h);
    for (int q = columns.begin; q < columns.end; ++q) {
      const int offset = ((at.n * problem.p + p) * problem.q + q) * problem.c + at.c;
      if (POOLING == Pooling::max) {
        add_where_equal(result, own, load_packed<WIDTH>(y + offset), load_packed<WIDTH>(dy + offset));
      } else {
        const Vector<WIDTH> gradient = load<WIDTH>(dy + offset);
        const float count =
            height * counted_size(q, problem.stride_w, problem.pad_w, problem.window_w, args.counted_w);
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) result.lane[i] += gradient.lane[i] / count;
      }
    }
  }
  return result;
}

template <Pooling POOLING, int WIDTH, class T>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1 nvcc spills registers on sm_120
    pool_backward(PoolArguments args, const T* x, const T* y, const T* dy, T* dx) {
  const int64_t vector = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (vector >= args.vectors.count) return;
  store(dx + vector * WIDTH, pooled_gradient<POOLING, WIDTH>(args, static_cast<int>(vector), x, y, dy));
}

struct ImageArguments {
  int pixels, c;
  float count;  // the divisor of the average
  Divider tiles;
};

template <int WIDTH>
struct ImageStrands {
  float sums[kWarps][WIDTH][kWarp];
};

// Each warp sums every eighth pixel, and the first adds their sums in the order of the warps.
template <int WIDTH, class T>
__global__ void __launch_bounds__(kThreads) avgpool_image(ImageArguments args, const T* x, T* y) {
  auto& strands = shared_memory<ImageStrands<WIDTH>>().sums;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  int tile;
  const int n = args.tiles.divide(blockIdx.x, tile), c = (tile * kWarp + lane) * WIDTH;
  const bool has_channels = c < args.c;
  Vector<WIDTH> sum = zeros<WIDTH>();
  if (has_channels) {
    const T* const image = x + n * args.pixels * args.c + c;
#pragma unroll 4
    for (int pixel = warp; pixel < args.pixels; pixel += kWarps) {
      add_to(sum, load<WIDTH>(image + pixel * args.c));
    }
  }
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) strands[warp][i][lane] = sum.lane[i];
  __syncthreads();
  if (warp > 0 || !has_channels) return;
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    for (int other = 1; other < kWarps; ++other) sum.lane[i] += strands[other][i][lane];
    sum.lane[i] /= args.count;
  }
  store(y + n * args.c + c, sum);
}

// The same as a matrix that is summed. `args` are those of its vectors.
template <Pooling POOLING, class T>
struct PooledGradients {
  static constexpr int BATCH = 1;
  PoolArguments args;
  const T *x, *y, *dy;

  template <int WIDTH>
  struct Fetched {};

  bool aligned() const { return cconvnet::aligned(x, y, dy); }

  template <int WIDTH>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int) const {
    return {};
  }

  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> term(int i, Fetched<WIDTH>) const {
    return rounded_to<T>(pooled_gradient<POOLING, WIDTH>(args, i / WIDTH, x, y, dy));
  }
};

// ---- launchers ------------------------------------------------------------------------------------------

// `rows` x `columns` pixels per image in the tensor that the threads run over.
PoolArguments pool_arguments(const PoolProblem& problem, int rows, int columns, int width) {
  const bool padded = problem.count_padding;
  return {problem,
          PixelVectors(problem.n, rows, columns, problem.c, width),
          Divider(problem.stride_h),
          Divider(problem.stride_w),
          {padded ? -problem.pad_h : 0, problem.h + (padded ? problem.pad_bottom : 0)},
          {padded ? -problem.pad_w : 0, problem.w + (padded ? problem.pad_right : 0)}};
}

// The arrays of one call. Average pooling has neither x nor y in its backward pass.
template <class T>
struct PoolArrays {
  const T *x, *y, *dy;
  T* out;  // y or dx
  void* workspace = nullptr;
  bool aligned() const { return cconvnet::aligned(x, y, dy, out); }
};

template <Pooling POOLING, int WIDTH, class T>
void launch_forward(const PoolProblem& problem, const PoolArrays<T>& arrays, Stream stream) {
  const PoolArguments args = pool_arguments(problem, problem.p, problem.q, WIDTH);
  CCONVNET_LAUNCH((pool_forward<POOLING, WIDTH, T>), args.vectors.blocks(), kThreads, stream, args, arrays.x,
                  arrays.out);
}

// The number of coordinates of an axis' one window in the image, or in the padded image.
int counted(int window, int pad, int size, int after, bool padded) {
  return std::min(window - pad, padded ? size + after : size) - (padded ? -pad : std::max(-pad, 0));
}

template <int WIDTH, class T>
void launch_image(const PoolProblem& problem, const PoolArrays<T>& arrays, Stream stream) {
  const bool padded = problem.count_padding;
  const int height = counted(problem.window_h, problem.pad_h, problem.h, problem.pad_bottom, padded);
  const int width = counted(problem.window_w, problem.pad_w, problem.w, problem.pad_right, padded);
  const int64_t tiles = ceil_div(problem.c, kWarp * WIDTH);
  const ImageArguments args = {problem.h * problem.w, problem.c,
                               static_cast<float>(height) * static_cast<float>(width),
                               Divider(static_cast<int>(tiles))};
  CCONVNET_LAUNCH((avgpool_image<WIDTH, T>), dim3(static_cast<unsigned>(problem.n * tiles)), kThreads, stream,
                  args, arrays.x, arrays.out);
}

template <Pooling POOLING, int WIDTH, class T>
void launch_backward(const PoolProblem& problem, const PoolArrays<T>& arrays, Stream stream) {
  const PoolArguments args = pool_arguments(problem, problem.h, problem.w, WIDTH);
  CCONVNET_LAUNCH((pool_backward<POOLING, WIDTH, T>), args.vectors.blocks(), kThreads, stream, args, arrays.x,
                  arrays.y, arrays.dy, arrays.out);
}

template <Pooling POOLING, int WIDTH, class T>
void launch_backward_and_sum(const PoolProblem& problem, const PoolArrays<T>& arrays,
                             const InputEpilogue& epilogue, Stream stream) {
  const PoolArguments args = pool_arguments(problem, problem.h, problem.w, WIDTH);
  const PooledGradients<POOLING, T> gradients = {args, arrays.x, arrays.y, arrays.dy};
  sum_columns<WIDTH>(pixels_of(problem),
                     InputGradients<T, PooledGradients<POOLING, T>>(gradients, epilogue, arrays.out),
                     epilogue.db, arrays.workspace, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

template <class T>
using PoolTable = SelectionTable<PoolProblem, PoolArrays<T>>;

// The one window contains all pixels. Few of them need no eight warps.
bool averages_image(const PoolProblem& problem) {
  const auto contains = [](int windows, int window, int pad, int size) {
    return windows == 1 && pad >= 0 && window - pad >= size;
  };
  return contains(problem.p, problem.window_h, problem.pad_h, problem.h) &&
         contains(problem.q, problem.window_w, problem.pad_w, problem.w) &&
         problem.h * problem.w >= 2 * kWarps;
}

template <class T>
bool averages_image_in_vectors(const PoolProblem& problem) {
  return averages_image(problem) && vectors_divide_channels<T>(problem);
}

template <Pooling POOLING, class T>
const PoolTable<T>& forward_table() {
  static const std::string name = POOLING == Pooling::max ? "maxpool_forward" : "avgpool_forward";
  static const std::string typed = name + "_" + kElementName<T>;
  static const PoolTable<T> table = [] {
    std::vector<typename PoolTable<T>::Row> rows;
    if constexpr (POOLING == Pooling::average) {
      rows = {{typed + "_image", true, averages_image_in_vectors<T>, always<PoolProblem>,
               no_workspace<PoolProblem>, launch_image<kVectorWidth<T>, T>},
              {typed + "_image_scalar", false, averages_image, always<PoolProblem>, no_workspace<PoolProblem>,
               launch_image<1, T>}};
    }
    return PoolTable<T>(name, std::move(rows),
                        {{typed, true, vectors_divide_channels<T>, always<PoolProblem>,
                          no_workspace<PoolProblem>, launch_forward<POOLING, kVectorWidth<T>, T>},
                         {typed + "_scalar", false, always<PoolProblem>, always<PoolProblem>,
                          no_workspace<PoolProblem>, launch_forward<POOLING, 1, T>}});
  }();
  return table;
}

template <Pooling POOLING, class T>
const PoolTable<T>& backward_table() {
  static const std::string name = POOLING == Pooling::max ? "maxpool_backward" : "avgpool_backward";
  static const PoolTable<T> table(name, {{name + "_" + kElementName<T>, true, vectors_divide_channels<T>,
                                          always, no_workspace, launch_backward<POOLING, kVectorWidth<T>, T>},
                                         {name + "_" + kElementName<T> + "_scalar", false, always, always,
                                          no_workspace, launch_backward<POOLING, 1, T>}});
  return table;
}

template <Pooling POOLING, class T>
void backward(const PoolProblem& problem, const PoolArrays<T>& arrays, const InputEpilogue& epilogue,
              Stream stream) {
  if (!epilogue.db) {
    backward_table<POOLING, T>().run(problem, arrays, stream, nullptr);
  } else if (vectors_divide_channels<T>(problem) && arrays.aligned() && aligned(epilogue.masked_by)) {
    launch_backward_and_sum<POOLING, kVectorWidth<T>>(problem, arrays, epilogue, stream);
  } else {
    launch_backward_and_sum<POOLING, 1>(problem, arrays, epilogue, stream);
  }
}

}  // namespace

template <class T>
void maxpool_forward(const PoolProblem& problem, const T* x, T* y, Stream stream) {
  forward_table<Pooling::max, T>().run(problem, {x, nullptr, nullptr, y}, stream, nullptr);
}

size_t maxpool_backward_workspace(const PoolProblem& problem, bool sums) {
  return sums ? bias_grad_workspace(pixels_of(problem)) : 0;
}

template <class T>
void maxpool_backward(const PoolProblem& problem, const T* x, const T* y, const T* dy,
                      const InputEpilogue& epilogue, T* dx, void* workspace, Stream stream) {
  backward<Pooling::max, T>(problem, {x, y, dy, dx, workspace}, epilogue, stream);
}

template <class T>
void avgpool_forward(const PoolProblem& problem, const T* x, T* y, Stream stream) {
  forward_table<Pooling::average, T>().run(problem, {x, nullptr, nullptr, y}, stream, nullptr);
}

size_t avgpool_backward_workspace(const PoolProblem& problem, bool sums) {
  return sums ? bias_grad_workspace(pixels_of(problem)) : 0;
}

template <class T>
void avgpool_backward(const PoolProblem& problem, const T* dy, const InputEpilogue& epilogue, T* dx,
                      void* workspace, Stream stream) {
  backward<Pooling::average, T>(problem, {nullptr, nullptr, dy, dx, workspace}, epilogue, stream);
}

template void maxpool_forward(const PoolProblem&, const float*, float*, Stream);
template void maxpool_backward(const PoolProblem&, const float*, const float*, const float*,
                               const InputEpilogue&, float*, void*, Stream);
template void avgpool_forward(const PoolProblem&, const float*, float*, Stream);
template void avgpool_backward(const PoolProblem&, const float*, const InputEpilogue&, float*, void*, Stream);

template void maxpool_forward(const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void maxpool_backward(const PoolProblem&, const bfloat16*, const bfloat16*, const bfloat16*,
                               const InputEpilogue&, bfloat16*, void*, Stream);
template void avgpool_forward(const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void avgpool_backward(const PoolProblem&, const bfloat16*, const InputEpilogue&, bfloat16*, void*,
                               Stream);

}  // namespace cconvnet
