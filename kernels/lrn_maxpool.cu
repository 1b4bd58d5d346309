// Normalisation across channels and the max pooling after it, without the normalised map between them. Memory
// bounds both, so the time of writing and reading that map is saved. Both directions give results
// bit-identical to those of lrn.cu and pool.cu, one after the other.
//
// Windows of 3, 5, 7 or 9 channels where C / groups is a multiple of 8 and beta is 3/4:
// - Forward, a block owns a tile of columns, over a slab of the channels, and walks down a strip of the
//   image. Step by step it normalises the rows that the next row of windows needs and does not have yet, into
//   a ring of rows in shared memory, and takes the maxima of the windows from there. So a pixel is normalised
//   once, except those shared by the windows of two tiles or strips. The ring has room for the rows of a
//   window and for those of the next step, so one barrier per step is enough.
// - Backward, a thread owns a vector of channels of a column of pixels and walks down it. It normalises its
//   pixel again and gathers dy from the windows of which it is the maximum. Shuffles bring the terms of its
//   neighbours that the normalisation's gradient needs. Threads run over channels, columns and images, so the
//   L1 cache serves windows that a warp reads twice.
//
// All other problems are rare. Forward, a thread owns an output and normalises its window by itself;
// backward, the separate operations are called.
#include <cmath>

#include "core/larger.h"
#include "core/select.h"
#include "lrn.cuh"
#include "lrn_maxpool.h"
#include "pool_windows.cuh"

namespace cconvnet {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxGridY = 65535;  // CUDA's limit

// ---- forward, small windows -----------------------------------------------------------------------------

constexpr int kRingBytes = 32 * 1024;  // leaves room for several blocks on a multiprocessor
constexpr int kStripOutputs = 8;       // rows of outputs in a strip, at most
constexpr int kGoodTile = 8;           // columns of outputs: wider tiles normalise few pixels twice

template <class T>
struct alignas(kVectorBytes) Ring {
  T at[kRingBytes / sizeof(T)];
};

// The work of each block. Beside slab, strip and tile are their numbers: C's vectors are divided into slabs,
// rows of outputs into strips, columns of outputs into tiles.
struct ForwardShares {
  int slabs = 1, slab = 1, strips = 1, strip = 1, tiles = 1, tile = 1;
  int ring_rows;
  int tile_w;  // the columns of pixels in the windows of a tile

  // The widest slabs, so that memory is read in long pieces, that leave room in the ring for a good tile.
  ForwardShares(const PoolProblem& pool, int c_vectors) : ring_rows(pool.window_h + pool.stride_h) {
    const auto share = [](int count, int most, int& shares, int& length) {
      length = static_cast<int>(ceil_div(count, ceil_div(count, most)));  // equal ones: few idle threads
      shares = static_cast<int>(ceil_div(count, length));
    };
    int widest = 0;  // tile that fits
    for (int wanted = 1; wanted <= c_vectors && widest < std::min(pool.q, kGoodTile); ++wanted) {
      share(c_vectors, static_cast<int>(ceil_div(c_vectors, wanted)), slabs, slab);
      const int64_t columns = kRingBytes / (int64_t{kVectorBytes} * ring_rows * slab);
      if (columns < pool.window_w) continue;
      widest = static_cast<int>(std::min<int64_t>((columns - pool.window_w) / pool.stride_w + 1, pool.q));
    }
    fits_ = widest > 0;
    share(pool.q, std::max(widest, 1), tiles, tile);
    share(pool.p, kStripOutputs, strips, strip);
    tile_w = (tile - 1) * pool.stride_w + pool.window_w;
  }

  bool fits() const { return fits_; }

 private:
  bool fits_;
};

struct ForwardArguments {
  LrnArguments lrn;
  PoolProblem pool;
  ForwardShares shares;
  int c_vectors;
  Divider slabs_div, tiles_div, strips_div, slab_div, tile_w_div, ring_div;

  ForwardArguments(const LrnProblem& lrn, const PoolProblem& pool, const ForwardShares& shares, int width)
      : lrn(lrn, width),
        pool(pool),
        shares(shares),
        c_vectors(lrn.c / width),
        slabs_div(shares.slabs),
        tiles_div(shares.tiles),
        strips_div(shares.strips),
        slab_div(shares.slab),
        tile_w_div(shares.tile_w),
        ring_div(shares.ring_rows) {}
};

template <int SIZE, class T>
__global__ void __launch_bounds__(kThreads) lrn_maxpool_ring(ForwardArguments args, const T* x, T* y) {
  constexpr int WIDTH = kVectorWidth<T>;
  T* const ring = shared_memory<Ring<T>>().at;
  const PoolProblem& pool = args.pool;
  int slab, tile, strip;
  const int strip_of_all = args.tiles_div.divide(args.slabs_div.divide(blockIdx.x, slab), tile);
  const int n = args.strips_div.divide(strip_of_all, strip);
  const int first_c = slab * args.shares.slab;  // vector
  const int first_q = tile * args.shares.tile;
  const int first_w = first_q * pool.stride_w - pool.pad_w;
  const int first_p = strip * args.shares.strip, end_p = min(first_p + args.shares.strip, pool.p);
  const int slab_size = min(args.shares.slab, args.c_vectors - first_c);

  // The address in the ring of a vector of the slab at a pixel.
  const auto in_ring = [&](int h, int w, int v) {
    int slot;
    args.ring_div.divide(h, slot);
    return ring + ((slot * args.shares.tile_w + w - first_w) * args.shares.slab + v) * WIDTH;
  };

  int known_h = 0;  // the rows before it are in the ring, as far as they are needed
  for (int p = first_p; p < end_p; ++p) {
    const Range rows = window(p, pool.stride_h, pool.pad_h, pool.window_h, pool.h);
    const int begin_h = max(rows.begin, known_h);
    const int vectors = (rows.end - begin_h) * args.shares.tile_w * args.shares.slab;
    for (int i = threadIdx.x; i < vectors; i += kThreads) {
      int v, column;
      const int h = begin_h + args.tile_w_div.divide(args.slab_div.divide(i, v), column);
      const int w = first_w + column;
      if (w < 0 || w >= pool.w || v >= slab_size) continue;
      const int c = first_c + v;
      const T* const address = x + ((n * pool.h + h) * pool.w + w) * pool.c + c * WIDTH;
      Vector<WIDTH> value = load<WIDTH>(address);
      const Vector<WIDTH> sums = lrn_squares<SIZE, true>(address, LrnSides::of(args.lrn, c), value);
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) value.lane[j] *= args.lrn.scale<true>(sums.lane[j]).power;
      store(in_ring(h, w, v), value);
      if (lrn_has_nan(value)) {
        lrn_recompute_y(args.lrn.problem, x, static_cast<int>(address - x), WIDTH, in_ring(h, w, v));
      }
    }
    known_h = rows.end;
    __syncthreads();

    for (int i = threadIdx.x; i < args.shares.tile * args.shares.slab; i += kThreads) {
      int v;
      const int q = first_q + args.slab_div.divide(i, v);
      if (q >= pool.q || v >= slab_size) continue;
      const Range columns = window(q, pool.stride_w, pool.pad_w, pool.window_w, pool.w);
      Vector<WIDTH> result;
#pragma unroll
      for (int j = 0; j < WIDTH; ++j) result.lane[j] = -INFINITY;
      for (int h = rows.begin; h < rows.end; ++h) {
        const T* address = in_ring(h, columns.begin, v);
        for (int w = columns.begin; w < columns.end; ++w) {
          const Vector<WIDTH> value = load<WIDTH>(address);
#pragma unroll
          for (int j = 0; j < WIDTH; ++j) result.lane[j] = larger(value.lane[j], result.lane[j]);
          address += args.shares.slab * WIDTH;
        }
      }
      store(y + ((n * pool.p + p) * pool.q + q) * pool.c + (first_c + v) * WIDTH, result);
    }
  }
}

// ---- forward, the rest ----------------------------------------------------------------------------------

struct AnyForwardArguments {
  LrnArguments lrn;
  PoolProblem pool;
  int outputs;
  Divider q_div, p_div;
};

template <class T>
__global__ void __launch_bounds__(kThreads) lrn_maxpool_any(AnyForwardArguments args, const T* x, T* y) {
  const PoolProblem& pool = args.pool;
  const int64_t output = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (output >= args.outputs) return;
  int c, p, q;
  const int n =
      args.p_div.divide(args.q_div.divide(args.lrn.c_div.divide(static_cast<int>(output), c), q), p);
  const Range rows = window(p, pool.stride_h, pool.pad_h, pool.window_h, pool.h);
  const Range columns = window(q, pool.stride_w, pool.pad_w, pool.window_w, pool.w);
  const LrnChannels channels = LrnChannels::around(args.lrn, c, false);
  float result = -INFINITY;
  for (int h = rows.begin; h < rows.end; ++h) {
    for (int w = columns.begin; w < columns.end; ++w) {
      const T* const pixel = x + ((n * pool.h + h) * pool.w + w) * pool.c;
      float sum = 0.0f;
      for (int i = channels.begin; i < channels.end; ++i) {
        const float value = to_float(pixel[i]);
        sum = fmaf(value, value, sum);
      }
      float value = to_float(pixel[c]) * args.lrn.scale(sum).power;
      if (value != value) value = lrn_extreme_y(args.lrn.problem, x, static_cast<int>(pixel - x) + c);
      result = larger(rounded_to<T>(value), result);
    }
  }
  y[output] = from_float<T>(result);
}

// ---- backward, small windows ----------------------------------------------------------------------------

constexpr int kStripRows = 8;           // at most; each strip reads a row of windows that another reads too
constexpr int kInnerLanes = kWarp - 2;  // the first and the last lane only compute t for the others
constexpr int kColumnThreads = 128;
template <class T>
constexpr int kColumnBlocks = sizeof(T) == 4 ? 8 : 5;  // what registers leave room for

struct BackwardArguments {
  LrnArguments lrn;
  PoolProblem pool;
  Divider stride_h_div, stride_w_div;
  int columns;  // of pixels, times their vectors
  int strip_rows;
  bool relu;
};

// The gradient that max pooling returns to a pixel of value `own` after the normalisation: the sum of dy over
// the windows whose y it equals, rounded as when it is written. `first` is the offset in y of the vector in
// the first window of its image.
template <bool ALIGNED, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> pooled_gradient(const PoolProblem& pool, const Range& rows,
                                                         const Range& columns, int first, const T* y,
                                                         const T* dy, const Vector<WIDTH>& own) {
  constexpr int kAtOnce = 2;  // windows that are read before the first is waited for
  Vector<WIDTH> result = zeros<WIDTH>();
  for (int p = rows.begin; p < rows.end; ++p) {
    for (int q = columns.begin; q < columns.end; q += kAtOnce) {
      const int offset = first + (p * pool.q + q) * pool.c;
      Vector<WIDTH> largest[kAtOnce], gradient[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (q + i >= columns.end) continue;
        largest[i] = load_from<WIDTH, ALIGNED>(y + offset + i * pool.c);
        gradient[i] = load_from<WIDTH, ALIGNED>(dy + offset + i * pool.c);
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        if (q + i >= columns.end) continue;
#pragma unroll
        for (int j = 0; j < WIDTH; ++j) {
          if (own.lane[j] == largest[i].lane[j]) result.lane[j] += gradient[i].lane[j];
        }
      }
    }
  }
  return rounded_to<T>(result);
}

// blockIdx.y is the strip of `strip_rows` rows; the lanes run over channels, columns and images.
template <int SIZE, bool ALIGNED, class T>
__global__ void __launch_bounds__(kColumnThreads, kColumnBlocks<T>)
    lrn_maxpool_backward_columns(BackwardArguments args, const T* x, const T* y, const T* dy, T* dx) {
  constexpr int WIDTH = kVectorWidth<T>;
  constexpr int kSide = SIZE / 2;  // the windows that contain channel c are those of [c - kSide, c + kSide]
  const PoolProblem& pool = args.pool;
  const int lane = threadIdx.x % kWarp;
  const int warp = blockIdx.x * (kColumnThreads / kWarp) + threadIdx.x / kWarp;
  const int vector = warp * kInnerLanes + lane - 1;
  const bool exists = vector >= 0 && vector < args.columns;
  int c, w;
  const int n = args.lrn.w_div.divide(args.lrn.c_div.divide(exists ? vector : 0, c), w);
  const LrnSides sides = LrnSides::of(args.lrn, c);
  const Range columns =
      windows_holding(w, pool.stride_w, args.stride_w_div, pool.pad_w, pool.window_w, pool.q);
  const int first = n * pool.p * pool.q * pool.c + c * WIDTH;
  const int begin = blockIdx.y * args.strip_rows, end = min(begin + args.strip_rows, pool.h);

  int offset = ((n * pool.h + begin) * pool.w + w) * pool.c + c * WIDTH;
  for (int h = begin; h < end; ++h, offset += pool.w * pool.c) {
    Vector<WIDTH> value, part, t = zeros<WIDTH>();
    if (exists) {
      value = load_from<WIDTH, ALIGNED>(x + offset);
      const Vector<WIDTH> squares = lrn_squares<SIZE, ALIGNED>(x + offset, sides, value);
      LrnScale scale[WIDTH];
      Vector<WIDTH> own;
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        scale[i] = args.lrn.scale<true>(squares.lane[i]);
        own.lane[i] = value.lane[i] * scale[i].power;
      }
      const Range rows =
          windows_holding(h, pool.stride_h, args.stride_h_div, pool.pad_h, pool.window_h, pool.p);
      const Vector<WIDTH> gradient =
          pooled_gradient<ALIGNED>(pool, rows, columns, first, y, dy, rounded_to<T>(own));
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) {
        part.lane[i] = gradient.lane[i] * scale[i].power;
        t.lane[i] = lrn_t(value.lane[i], gradient.lane[i], scale[i]);
      }
    }

    LrnNeighbourhood<WIDTH> ts = {zeros<kLrnReach>(), t, zeros<kLrnReach>()};
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const float before = __shfl_up_sync(kFullWarp, t.lane[WIDTH - kSide + i], 1);
      const float after = __shfl_down_sync(kFullWarp, t.lane[i], 1);
      if (sides.before) ts.before.lane[kLrnReach - kSide + i] = before;
      if (sides.after) ts.after.lane[i] = after;
    }
    if (!exists || lane == 0 || lane == kWarp - 1) continue;
    const Vector<WIDTH> sums = lrn_window_sums<kSide, kSide, false>(ts);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const float gradient = lrn_dx(args.lrn, part.lane[i], value.lane[i], sums.lane[i]);
      part.lane[i] = args.relu && !(value.lane[i] > 0.0f) ? 0.0f : gradient;
    }
    store_to<ALIGNED>(dx + offset, part);
  }
}

// ---- launchers ------------------------------------------------------------------------------------------

// The arrays of one call.
template <class T>
struct LrnMaxpoolArrays {
  const T *x, *y, *dy;
  bool relu;
  T* out;  // y or dx
  void* workspace;
  bool aligned() const { return cconvnet::aligned(x, y, dy, out); }
};

template <class T>
void launch_ring(const LrnMaxpoolProblem& problem, const LrnMaxpoolArrays<T>& arrays, Stream stream) {
  const ForwardShares shares(problem.pool, problem.lrn.c / kVectorWidth<T>);
  const ForwardArguments args(problem.lrn, problem.pool, shares, kVectorWidth<T>);
  const int64_t blocks = int64_t{args.pool.n} * shares.strips * shares.tiles * shares.slabs;
  const dim3 grid(static_cast<unsigned>(blocks));
  dispatch_lrn_size(problem.lrn.size, [&](auto size) {
    CCONVNET_LAUNCH((lrn_maxpool_ring<decltype(size)::value, T>), grid, kThreads, stream, args, arrays.x,
                    arrays.out);
  });
}

template <class T>
void launch_any(const LrnMaxpoolProblem& problem, const LrnMaxpoolArrays<T>& arrays, Stream stream) {
  const PoolProblem& pool = problem.pool;
  const dim3 grid(static_cast<unsigned>(ceil_div(pool.y_count(), kThreads)));
  const AnyForwardArguments args = {LrnArguments(problem.lrn, 1), pool, pool.y_count(), Divider(pool.q),
                                    Divider(pool.p)};
  CCONVNET_LAUNCH(lrn_maxpool_any<T>, grid, kThreads, stream, args, arrays.x, arrays.out);
}

template <bool ALIGNED, class T>
void launch_columns(const BackwardArguments& args, const LrnMaxpoolArrays<T>& arrays, Stream stream) {
  constexpr int kInner = kColumnThreads / kWarp * kInnerLanes;
  const dim3 grid(static_cast<unsigned>(ceil_div(args.columns, kInner)),
                  static_cast<unsigned>(ceil_div(args.pool.h, args.strip_rows)));
  dispatch_lrn_size(args.lrn.problem.size, [&](auto size) {
    CCONVNET_LAUNCH((lrn_maxpool_backward_columns<decltype(size)::value, ALIGNED, T>), grid, kColumnThreads,
                    stream, args, arrays.x, arrays.y, arrays.dy, arrays.out);
  });
}

template <class T>
void launch_columns(const LrnMaxpoolProblem& problem, const LrnMaxpoolArrays<T>& arrays, Stream stream) {
  const LrnProblem& lrn = problem.lrn;
  const int64_t strips = std::min<int64_t>(ceil_div(lrn.h, kStripRows), kMaxGridY);
  const BackwardArguments args = {LrnArguments(lrn, kVectorWidth<T>),
                                  problem.pool,
                                  Divider(problem.pool.stride_h),
                                  Divider(problem.pool.stride_w),
                                  lrn.count() / lrn.h / kVectorWidth<T>,
                                  static_cast<int>(ceil_div(lrn.h, strips)),
                                  arrays.relu};
  if (arrays.aligned()) {
    launch_columns<true>(args, arrays, stream);
  } else {
    launch_columns<false>(args, arrays, stream);
  }
}

// The workspace holds the normalised map and its gradient, then lrn_backward's own.
template <class T>
void launch_separately(const LrnMaxpoolProblem& problem, const LrnMaxpoolArrays<T>& arrays, Stream stream) {
  const LrnProblem& lrn = problem.lrn;
  float* const space = static_cast<float*>(arrays.workspace);
  T* const normalised = reinterpret_cast<T*>(space);
  T* const gradient = reinterpret_cast<T*>(space + lrn.count());
  lrn_forward(lrn, arrays.x, normalised, stream);
  maxpool_backward(problem.pool, normalised, arrays.y, arrays.dy, gradient, stream);
  lrn_backward(lrn, arrays.x, gradient, arrays.out, space + 2 * int64_t{lrn.count()}, stream);
  if (arrays.relu) relu_backward(lrn.count(), arrays.x, arrays.out, arrays.out, stream);
}

// ---- selection ------------------------------------------------------------------------------------------

template <class T>
using LrnMaxpoolTable = SelectionTable<LrnMaxpoolProblem, LrnMaxpoolArrays<T>>;

template <class T>
bool ring_holds_windows(const LrnMaxpoolProblem& problem) {
  return lrn_small_window(problem.lrn) && ForwardShares(problem.pool, problem.lrn.c / kVectorWidth<T>).fits();
}

bool small_window(const LrnMaxpoolProblem& problem) {
  return lrn_small_window(problem.lrn);
}

size_t separate_workspace(const LrnMaxpoolProblem& problem) {
  return 2 * sizeof(float) * problem.lrn.count() + lrn_backward_workspace(problem.lrn);
}

template <class T>
const LrnMaxpoolTable<T>& forward_table() {
  static const std::string type = kElementName<T>;
  static const LrnMaxpoolTable<T> table(
      "lrn_maxpool_forward",
      {{"lrn_maxpool_forward_ring_" + type, true, ring_holds_windows<T>, always, no_workspace,
        launch_ring<T>},
       {"lrn_maxpool_forward_any_" + type, false, always, always, no_workspace, launch_any<T>}});
  return table;
}

template <class T>
const LrnMaxpoolTable<T>& backward_table() {
  static const std::string type = kElementName<T>;
  static const LrnMaxpoolTable<T> table(
      "lrn_maxpool_backward",
      {{"lrn_maxpool_backward_columns_" + type, false, small_window, always, no_workspace, launch_columns<T>},
       {"lrn_maxpool_backward_separate_" + type, false, always, always, separate_workspace,
        launch_separately<T>}});
  return table;
}

}  // namespace

template <class T>
void lrn_maxpool_forward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, T* y, Stream stream) {
  forward_table<T>().run({lrn, pool}, {x, nullptr, nullptr, false, y, nullptr}, stream, nullptr);
}

size_t lrn_maxpool_backward_workspace(const LrnProblem& lrn, const PoolProblem& pool) {
  return backward_table<float>().workspace({lrn, pool}, nullptr);
}

template <class T>
void lrn_maxpool_backward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, const T* y, const T* dy,
                          bool relu, T* dx, void* workspace, Stream stream) {
  backward_table<T>().run({lrn, pool}, {x, y, dy, relu, dx, workspace}, stream, nullptr);
}

template void lrn_maxpool_forward(const LrnProblem&, const PoolProblem&, const float*, float*, Stream);
template void lrn_maxpool_backward(const LrnProblem&, const PoolProblem&, const float*, const float*,
                                   const float*, bool, float*, void*, Stream);
template void lrn_maxpool_forward(const LrnProblem&, const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void lrn_maxpool_backward(const LrnProblem&, const PoolProblem&, const bfloat16*, const bfloat16*,
                                   const bfloat16*, bool, bfloat16*, void*, Stream);

}  // namespace cconvnet
