// Depthwise convolutions: each channel has one filter of its own, so there is nothing to multiply as matrices
// and every pass is bound by memory. The filters are w[C,R,S].
//
// A thread has WIDTH neighbouring channels, and neighbouring threads have neighbouring vectors of channels.
// The channels of a pixel are divided among blocks in equal shares of at most kMostLanes vectors. The rest of
// a thread's index, its row in the block, counts pieces of work:
//
// fprop, dgrad  kColumns neighbouring pixels of a row of outputs. The thread reads the pixels that they need of
//               one row of inputs into registers, each once, then multiplies them by a row of the filter. Rows
//               that neighbouring threads read too come from the L1 cache. The block's filters are in shared
//               memory. The sums run in the order r, s, as in the implicit GEMMs.
// wgrad         one row r of the filters, over rows of outputs, kColumns pixels at a time. Then the block adds
//               its rows' sums in order, and split_reduce those of the blocks.
//
// Usual windows are template parameters (Taps); any others read each pixel once for each tap.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

constexpr int kColumns = 4;  // outputs that a thread computes at once
// Blocks in all: enough to fill a GPU. In wgrad each has a copy of the sums of its channels.
constexpr int64_t kBlocks = 8 * cost::kMultiprocessors, kWgradBlocks = 2 * cost::kMultiprocessors;

template <int WIDTH>
constexpr int kMostLanes = WIDTH == 1 ? 64 : 16;

// The width of undilated windows, which are no higher, and their stride along a row.
template <int COUNT_, int STRIDE_>
struct Taps {
  static constexpr bool KNOWN = true;
  static constexpr int COUNT = COUNT_, STRIDE = STRIDE_;
  static constexpr int MOST = COUNT * COUNT;                      // of a filter
  static constexpr int PIXELS = (kColumns - 1) * STRIDE + COUNT;  // of kColumns windows
};

// Any windows. COUNT is the number of taps that a thread sums at once in wgrad.
struct AnyTaps {
  static constexpr bool KNOWN = false;
  static constexpr int COUNT = 4, MOST = 64, PIXELS = 0;
};

// The blocks that a multiprocessor holds, as far as nvcc spills no registers.
template <int WIDTH, class TAPS>
constexpr int kHeld = TAPS::KNOWN && WIDTH * TAPS::PIXELS <= 80 ? 2 : 1;

// How channels and pieces of work are divided among blocks and threads.
struct DepthwiseGrid {
  int tiles, lanes, rows;  // shares of the channels; threads side by side; rows of them
  int c;
  Divider by_tiles, by_lanes;

  template <int WIDTH>
  static DepthwiseGrid make(int c) {
    const int vectors = c / WIDTH;
    const int tiles = static_cast<int>(ceil_div(vectors, kMostLanes<WIDTH>));
    const int lanes = static_cast<int>(ceil_div(vectors, tiles));
    return {tiles, lanes, kThreads / lanes, c, Divider(tiles), Divider(lanes)};
  }
};

// One thread's place in it.
template <int WIDTH>
struct DepthwiseThread {
  int block;  // among those of the same channels
  int lanes, lane, row, channel;
  bool works;  // it has channels, and is not left over behind the last row

  __device__ __forceinline__ explicit DepthwiseThread(const DepthwiseGrid& grid) {
    int tile;
    lanes = grid.lanes;
    block = grid.by_tiles.divide(blockIdx.x, tile);
    row = grid.by_lanes.divide(threadIdx.x, lane);
    channel = (tile * lanes + lane) * WIDTH;
    works = channel < grid.c && row < grid.rows;
  }
};

// The filters of a block's channels, by taps. Neighbouring threads store neighbouring vectors.
template <int WIDTH, class TAPS, class T>
struct DepthwiseFilters {
  alignas(kVectorBytes) T weights[TAPS::MOST * kMostLanes<WIDTH> * WIDTH];

  // All threads call it together.
  __device__ __forceinline__ void load(const DepthwiseThread<WIDTH>& thread, int rows, int taps, const T* w) {
    if (thread.works) {
      for (int tap = thread.row; tap < taps; tap += rows) {
        Packed<WIDTH, T> own;
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) own.lane[i] = w[(thread.channel + i) * taps + tap];
        store(weights + (tap * thread.lanes + thread.lane) * WIDTH, own);
      }
    }
    __syncthreads();
  }

  __device__ __forceinline__ Packed<WIDTH, T> at(const DepthwiseThread<WIDTH>& thread, int tap) const {
    return load_packed<WIDTH>(weights + (tap * thread.lanes + thread.lane) * WIDTH);
  }
};

template <int WIDTH, class T>
__device__ __forceinline__ void add_product(Vector<WIDTH>& sum, const Packed<WIDTH, T>& a,
                                            const Packed<WIDTH, T>& b) {
  const Vector<WIDTH> x = unpack(a), y = unpack(b);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) sum.lane[i] += x.lane[i] * y.lane[i];
}

template <int WIDTH, class T>
__device__ __forceinline__ Packed<WIDTH, T> load_or_zeros(bool exists, const T* row, int column, int pitch) {
  return exists ? load_packed<WIDTH>(row + column * pitch) : Packed<WIDTH, T>{};
}

// Writes a vector of an output, in single elements if that has no vectors.
template <int WIDTH, class Output>
__device__ __forceinline__ void write_vector(const Output& output, uint32_t i, uint32_t channel,
                                             const Vector<WIDTH>& sums) {
  const auto& writer = output.writer();
  if constexpr (WIDTH > 1) {
    if (!output.vectors) {
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) write_alone(writer, i + j, channel + j, Vector<1>{{sums.lane[j]}});
      return;
    }
  }
  write_alone(writer, i, channel, sums);
}

// ---- fprop ----------------------------------------------------------------------------------------------

// Of fprop and dgrad. Pieces are groups of kColumns in rows of images.
template <class T, class Output>
struct DepthwiseArguments {
  ConvProblem problem;
  DepthwiseGrid grid;
  uint32_t pieces, step;  // step: those that all blocks of the same channels have at a time
  int pitch, shift;       // fprop: of y's pixels; dgrad: the pixels of a row's first group before the row
  Divider by_groups, by_height, by_stride_h, by_stride_w;
  const T *in, *w;  // x or dy
  Output output;
  dim3 blocks() const { return dim3(grid.tiles * (step / grid.rows)); }
};

template <int WIDTH, class TAPS, class T>
__global__ void __launch_bounds__(kThreads, kHeld<WIDTH, TAPS>)
    conv_depthwise_fprop(DepthwiseArguments<T, EpilogueOutput<T>> args) {
  auto& filters = shared_memory<DepthwiseFilters<WIDTH, TAPS, T>>();
  const ConvProblem& problem = args.problem;
  const DepthwiseThread<WIDTH> thread(args.grid);
  filters.load(thread, args.grid.rows, problem.r * problem.s, args.w);
  if (!thread.works) return;
  for (uint32_t piece = thread.block * args.grid.rows + thread.row; piece < args.pieces; piece += args.step) {
    int group, p;
    const int n = args.by_height.divide(args.by_groups.divide(piece, group), p);
    const int q = group * kColumns, first = q * problem.stride_w - problem.pad_w;
    Vector<WIDTH> sums[kColumns] = {};
    for (int r = 0; r < problem.r; ++r) {
      const int h = p * problem.stride_h - problem.pad_h + r * problem.dilation_h;
      if (h < 0 || h >= problem.h) continue;
      const T* const row = args.in + (n * problem.h + h) * problem.w * problem.c + thread.channel;
      const auto pixel = [&](int w) {
        return load_or_zeros<WIDTH>(w >= 0 && w < problem.w, row, w, problem.c);
      };
      if constexpr (TAPS::KNOWN) {
        Packed<WIDTH, T> pixels[TAPS::PIXELS];
#pragma unroll
        for (int j = 0; j < TAPS::PIXELS; ++j) pixels[j] = pixel(first + j);
#pragma unroll
        for (int s = 0; s < TAPS::COUNT; ++s) {
          const Packed<WIDTH, T> weights = filters.at(thread, r * TAPS::COUNT + s);
#pragma unroll
          for (int i = 0; i < kColumns; ++i) add_product(sums[i], pixels[i * TAPS::STRIDE + s], weights);
        }
      } else {
        for (int s = 0; s < problem.s; ++s) {
          const Packed<WIDTH, T> weights = filters.at(thread, r * problem.s + s);
#pragma unroll
          for (int i = 0; i < kColumns; ++i) {
            add_product(sums[i], pixel(first + i * problem.stride_w + s * problem.dilation_w), weights);
          }
        }
      }
    }
    const uint32_t to = ((n * problem.p + p) * problem.q + q) * args.pitch + thread.channel;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (q + i < problem.q) write_vector(args.output, to + i * args.pitch, thread.channel, sums[i]);
    }
  }
}

// ---- dgrad ----------------------------------------------------------------------------------------------

// The output whose window has tap `tap` on a pixel, `at` = pixel + pad - tap * dilation from the first
// window's begin; negative if there is none.
__device__ __forceinline__ int reached(int at, int stride, const Divider& by_stride) {
  const int output = by_stride.quotient(max(at, 0));
  return output * stride == at ? output : -1;
}

template <int WIDTH, class TAPS, class T>
__global__ void __launch_bounds__(kThreads)
    conv_depthwise_dgrad(DepthwiseArguments<T, InputGradientOutput<T>> args) {
  auto& filters = shared_memory<DepthwiseFilters<WIDTH, TAPS, T>>();
  const ConvProblem& problem = args.problem;
  const DepthwiseThread<WIDTH> thread(args.grid);
  filters.load(thread, args.grid.rows, problem.r * problem.s, args.w);
  if (!thread.works) return;
  for (uint32_t piece = thread.block * args.grid.rows + thread.row; piece < args.pieces; piece += args.step) {
    int group, h;
    const int n = args.by_height.divide(args.by_groups.divide(piece, group), h);
    const int w = group * kColumns - args.shift;
    Vector<WIDTH> sums[kColumns] = {};
    for (int r = 0; r < problem.r; ++r) {
      const int p = reached(h + problem.pad_h - r * problem.dilation_h, problem.stride_h, args.by_stride_h);
      if (p < 0 || p >= problem.p) continue;
      const T* const row = args.in + (n * problem.p + p) * problem.q * problem.c + thread.channel;
      const auto gradient = [&](int q) {
        return load_or_zeros<WIDTH>(q >= 0 && q < problem.q, row, q, problem.c);
      };
      if constexpr (TAPS::KNOWN) {
        // The first column lies on a window's begin, so which taps reach a column is known too.
        static_assert(kColumns % TAPS::STRIDE == 0, "all pieces must begin alike");
        constexpr int BEFORE = (TAPS::COUNT - 1) / TAPS::STRIDE;
        constexpr int GRADIENTS = BEFORE + (kColumns - 1) / TAPS::STRIDE + 1;
        const int first = args.by_stride_w.quotient(w + problem.pad_w) - BEFORE;
        Packed<WIDTH, T> gradients[GRADIENTS];
#pragma unroll
        for (int j = 0; j < GRADIENTS; ++j) gradients[j] = gradient(first + j);
#pragma unroll
        for (int s = 0; s < TAPS::COUNT; ++s) {
          const Packed<WIDTH, T> weights = filters.at(thread, r * TAPS::COUNT + s);
#pragma unroll
          for (int i = 0; i < kColumns; ++i) {
            if ((i + TAPS::COUNT * TAPS::STRIDE - s) % TAPS::STRIDE != 0) continue;
            add_product(sums[i], gradients[(i + BEFORE * TAPS::STRIDE - s) / TAPS::STRIDE], weights);
          }
        }
      } else {
        for (int s = 0; s < problem.s; ++s) {
          const Packed<WIDTH, T> weights = filters.at(thread, r * problem.s + s);
#pragma unroll
          for (int i = 0; i < kColumns; ++i) {
            const int q =
                reached(w + i + problem.pad_w - s * problem.dilation_w, problem.stride_w, args.by_stride_w);
            if (q >= 0 && q < problem.q) add_product(sums[i], gradient(q), weights);
          }
        }
      }
    }
    const uint32_t to = ((n * problem.h + h) * problem.w + w) * problem.c + thread.channel;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      if (w + i >= 0 && w + i < problem.w) {
        write_vector(args.output, to + i * problem.c, thread.channel, sums[i]);
      }
    }
  }
}

// ---- wgrad ----------------------------------------------------------------------------------------------

// A row of a filter is one piece of work, or several of COUNT taps where windows are not known.
struct DepthwiseWgrad {
  ConvProblem problem;
  DepthwiseGrid grid;
  int chunks, pieces;         // of a row of a filter; of a filter
  int held, sets;             // pieces that a block has; blocks that have all of them
  int strands, each, splits;  // rows of outputs at a time in a block; rows of outputs of a split; splits
  Divider by_held, by_sets, by_p, by_chunks;
};

template <int WIDTH>
struct DepthwiseSums {
  float sums[WIDTH][kThreads];
};

template <int WIDTH, class TAPS, class T>
__global__ void __launch_bounds__(kThreads, kHeld<WIDTH, TAPS>)
    conv_depthwise_wgrad(DepthwiseWgrad args, const T* x, const T* dy, float* partials) {
  constexpr int COUNT = TAPS::COUNT;
  auto& shared = shared_memory<DepthwiseSums<WIDTH>>().sums;
  const ConvProblem& problem = args.problem;
  const DepthwiseThread<WIDTH> thread(args.grid);
  int set, piece_of_set, chunk;
  const int split = args.by_sets.divide(thread.block, set);
  const int strand = args.by_held.divide(thread.row, piece_of_set), piece = set * args.held + piece_of_set;
  const int r = args.by_chunks.divide(piece, chunk), tap = chunk * AnyTaps::COUNT;
  const bool works = thread.works && strand < args.strands && piece < args.pieces;

  Vector<WIDTH> sums[COUNT] = {};
  if (works) {
    const int end = min((split + 1) * args.each, problem.n * problem.p);
    for (int i = split * args.each + strand; i < end; i += args.strands) {
      int p;
      const int n = args.by_p.divide(i, p);
      const int h = p * problem.stride_h - problem.pad_h + r * problem.dilation_h;
      if (h < 0 || h >= problem.h) continue;
      const T* const row = x + (n * problem.h + h) * problem.w * problem.c + thread.channel;
      const T* const gradients_row = dy + i * problem.q * problem.c + thread.channel;
      const auto pixel = [&](int w) {
        return load_or_zeros<WIDTH>(w >= 0 && w < problem.w, row, w, problem.c);
      };
      for (int q = 0; q < problem.q; q += kColumns) {
        const int first = q * problem.stride_w - problem.pad_w;
        Packed<WIDTH, T> gradients[kColumns];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          gradients[j] = load_or_zeros<WIDTH>(q + j < problem.q, gradients_row, q + j, problem.c);
        }
        if constexpr (TAPS::KNOWN) {
          Packed<WIDTH, T> pixels[TAPS::PIXELS];
#pragma unroll
          for (int j = 0; j < TAPS::PIXELS; ++j) pixels[j] = pixel(first + j);
          // Not by zeros: a pixel that no window reads may be infinite.
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            if (q + j >= problem.q) break;
#pragma unroll
            for (int s = 0; s < COUNT; ++s) add_product(sums[s], pixels[j * TAPS::STRIDE + s], gradients[j]);
          }
        } else {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) {
            if (q + j >= problem.q) break;
#pragma unroll
            for (int s = 0; s < COUNT; ++s) {
              if (tap + s >= problem.s) break;
              add_product(sums[s], pixel(first + j * problem.stride_w + (tap + s) * problem.dilation_w),
                          gradients[j]);
            }
          }
        }
      }
    }
  }

  const int taps = problem.r * problem.s, apart = args.held * args.grid.lanes;
#pragma unroll
  for (int s = 0; s < COUNT; ++s) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) shared[i][threadIdx.x] = sums[s].lane[i];
    __syncthreads();
    if (!works || strand > 0 || tap + s >= problem.s) continue;
    float* const to = partials + static_cast<int64_t>(split) * problem.c * taps + r * problem.s + tap + s;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      float sum = shared[i][threadIdx.x];
      for (int other = 1; other < args.strands; ++other) sum += shared[i][threadIdx.x + other * apart];
      to[(thread.channel + i) * taps] = sum;
    }
  }
}

// ---- launchers ------------------------------------------------------------------------------------------

// Returns whether there is a kernel for the windows. Those of single elements are not worth more kernels.
template <int WIDTH>
bool knows_taps(const ConvProblem& problem) {
  return WIDTH > 1 && (problem.s == 3 || problem.s == 5) && problem.r <= problem.s && problem.stride_w <= 2 &&
         problem.dilation_w == 1;
}

// Calls launch(taps), where that is a Taps.
template <int WIDTH, class Launch>
void with_taps(const ConvProblem& problem, const Launch& launch) {
  if constexpr (WIDTH > 1) {
    if (knows_taps<WIDTH>(problem)) {
      if (problem.s == 3) return problem.stride_w == 1 ? launch(Taps<3, 1>()) : launch(Taps<3, 2>());
      return problem.stride_w == 1 ? launch(Taps<5, 1>()) : launch(Taps<5, 2>());
    }
  }
  launch(AnyTaps());
}

// `height` x `width` are the pixels of an image of the output.
template <int WIDTH, class T, class Output>
DepthwiseArguments<T, Output> arguments(const ConvProblem& problem, int height, int width, int shift,
                                        const void* in, const void* w, const Output& output) {
  const DepthwiseGrid grid = DepthwiseGrid::make<WIDTH>(problem.c);
  const int64_t groups = ceil_div(int64_t{width} + shift, kColumns), pieces = groups * height * problem.n;
  const int64_t blocks = std::min(ceil_div(pieces, grid.rows), ceil_div(kBlocks, grid.tiles));
  return {problem,
          grid,
          static_cast<uint32_t>(pieces),
          static_cast<uint32_t>(blocks * grid.rows),
          problem.pixel_pitch(),
          shift,
          Divider(static_cast<int>(groups)),
          Divider(height),
          Divider(problem.stride_h),
          Divider(problem.stride_w),
          static_cast<const T*>(in),
          static_cast<const T*>(w),
          output};
}

template <int WIDTH, class T>
void launch_fprop(const ConvProblem& problem, const FpropArguments& args, Stream stream) {
  T* const y = static_cast<T*>(args.y) + problem.y_first;
  // Single elements do not drop (EpilogueOutput).
  const bool vectors = WIDTH > 1 && aligned(y) && problem.pixel_pitch() % WIDTH == 0;
  const auto parameters = arguments<WIDTH, T>(problem, problem.p, problem.q, 0, args.x, args.w,
                                              EpilogueOutput<T>(args.epilogue, y, vectors));
  with_taps<WIDTH>(problem, [&](auto taps) {
    CCONVNET_LAUNCH((conv_depthwise_fprop<WIDTH, decltype(taps), T>), parameters.blocks(), kThreads, stream,
                    parameters);
  });
  parameters.output.after(args.epilogue, stream);
  apply(args.statistics, problem, args.y, args.sums, stream);
}

template <int WIDTH, class T>
void launch_dgrad(const ConvProblem& problem, const DgradArguments& args, Stream stream) {
  T* const dx = static_cast<T*>(args.dx);
  const int shift = knows_taps<WIDTH>(problem) ? problem.pad_w % problem.stride_w : 0;
  const auto parameters =
      arguments<WIDTH, T>(problem, problem.h, problem.w, shift, args.dy, args.w,
                          InputGradientOutput<T>(args.epilogue, dx, aligned(dx), nullptr));
  with_taps<WIDTH>(problem, [&](auto taps) {
    CCONVNET_LAUNCH((conv_depthwise_dgrad<WIDTH, decltype(taps), T>), parameters.blocks(), kThreads, stream,
                    parameters);
  });
  if (args.epilogue.db) bias_grad(pixels_of(problem), dx, args.epilogue.db, args.sums, stream);
}

template <int WIDTH>
DepthwiseWgrad wgrad_arguments(const ConvProblem& problem) {
  const DepthwiseGrid grid = DepthwiseGrid::make<WIDTH>(problem.c);
  const int chunks = knows_taps<WIDTH>(problem) ? 1 : static_cast<int>(ceil_div(problem.s, AnyTaps::COUNT));
  const int pieces = problem.r * chunks, held = std::min(pieces, grid.rows);
  const int sets = static_cast<int>(ceil_div(pieces, held)), strands = grid.rows / held;
  // Each strand has a row of outputs or more.
  const int64_t rows = int64_t{problem.n} * problem.p;
  const int64_t wanted =
      std::min(ceil_div(rows, strands), ceil_div(kWgradBlocks, int64_t{grid.tiles} * sets));
  const int64_t each = ceil_div(rows, wanted), splits = ceil_div(rows, each);
  return {problem,
          grid,
          chunks,
          pieces,
          held,
          sets,
          strands,
          static_cast<int>(each),
          static_cast<int>(splits),
          Divider(held),
          Divider(sets),
          Divider(problem.p),
          Divider(chunks)};
}

template <int WIDTH>
size_t wgrad_workspace(const ConvProblem& problem) {
  return size_t{sizeof(float)} * wgrad_arguments<WIDTH>(problem).splits * problem.w_count();
}

template <int WIDTH, class T>
void launch_wgrad(const ConvProblem& problem, const WgradArguments& args, Stream stream) {
  const DepthwiseWgrad parameters = wgrad_arguments<WIDTH>(problem);
  float* const partials = static_cast<float*>(args.workspace);
  const dim3 blocks(static_cast<unsigned>(parameters.grid.tiles * parameters.sets * parameters.splits));
  with_taps<WIDTH>(problem, [&](auto taps) {
    CCONVNET_LAUNCH((conv_depthwise_wgrad<WIDTH, decltype(taps), T>), blocks, kThreads, stream, parameters,
                    static_cast<const T*>(args.x), static_cast<const T*>(args.dy), partials);
  });
  const int weights = problem.w_count();
  split_reduce(weights, parameters.splits, partials, weights, weights,
               GradientOutput(args.update, args.dw, whole_groups(weights, args.dw, partials)), stream);
}

// ---- selection ------------------------------------------------------------------------------------------

// A row without a cost comes before all matrix products, of which each would compute one useful column.
template <int WIDTH, class T>
bool supports(const ConvProblem& problem) {
  return (problem.precision == Precision::bf16) == std::is_same_v<T, bfloat16> &&
         problem.groups == problem.c && problem.k == problem.c && problem.c % WIDTH == 0 &&
         int64_t{problem.r} * problem.s <= AnyTaps::MOST;
}

template <class Row, int WIDTH, class T, class... More>
Row row(const std::string& pass, More... more) {
  const std::string name = pass + "_depthwise_" + kElementName<T> + (WIDTH == 1 ? "_scalar" : "");
  return {name, WIDTH > 1, supports<WIDTH, T>, always, more...};
}

template <int WIDTH, class T>
FpropTable::Row fprop_row() {
  return row<FpropTable::Row, WIDTH, T>("conv_fprop", no_workspace<ConvProblem>, launch_fprop<WIDTH, T>);
}

template <int WIDTH, class T>
DgradTable::Row dgrad_row() {
  return row<DgradTable::Row, WIDTH, T>("conv_dgrad", no_workspace<ConvProblem>, launch_dgrad<WIDTH, T>);
}

template <int WIDTH, class T>
WgradTable::Row wgrad_row() {
  return row<WgradTable::Row, WIDTH, T>("conv_wgrad", wgrad_workspace<WIDTH>, launch_wgrad<WIDTH, T>);
}

}  // namespace

std::vector<FpropTable::Row> depthwise_fprop_rows() {
  return {fprop_row<4, float>(), fprop_row<1, float>(), fprop_row<8, bfloat16>(), fprop_row<1, bfloat16>()};
}

std::vector<DgradTable::Row> depthwise_dgrad_rows() {
  return {dgrad_row<4, float>(), dgrad_row<1, float>(), dgrad_row<8, bfloat16>(), dgrad_row<1, bfloat16>()};
}

std::vector<WgradTable::Row> depthwise_wgrad_rows() {
  return {wgrad_row<4, float>(), wgrad_row<1, float>(), wgrad_row<8, bfloat16>(), wgrad_row<1, bfloat16>()};
}

}  // namespace cconvnet
