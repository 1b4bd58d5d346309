// Normalisation across channels and the max pooling after it, without the normalised map between them: the
// time of writing and reading that map is saved. In bf16 the issue of instructions bounds both directions, in
// fp32 memory. Both give results bit-identical to those of lrn.cu and pool.cu, one after the other.
//
// Windows of 3, 5, 7 or 9 channels where C / groups is a multiple of 8 and beta is 3/4:
// - Forward, a block owns a tile of columns, over a slab of the channels, and walks down a strip of the image.
//   A thread owns a vector of channels of a column of pixels. Step by step it normalises the rows that the
//   next row of windows needs and does not have yet, and takes the maximum down its column. Rows that belong
//   to the windows below as well it keeps in shared memory, in a ring of its own. From the maxima of the
//   columns, in shared memory too, those of the windows follow. So a pixel is normalised once, except those
//   shared by the windows of two tiles or strips. The maxima of two steps have room, so one barrier per step
//   is enough.
// - Backward, a thread owns a vector of channels of a column of pixels and walks down it. It normalises its
//   pixel again and gathers dy from the windows of which it is the maximum. Shuffles bring the terms of its
//   neighbours that the normalisation's gradient needs. Threads run over channels, columns and images, so the
//   L1 cache serves windows that a warp reads twice.
//
// All other problems are rare. Forward, a thread owns an output and normalises its window by itself;
// backward, the separate operations are called.
#include <cmath>
#include <limits>

#include "core/input_epilogue.h"
#include "core/packed.cuh"
#include "core/select.h"
#include "lrn.cuh"
#include "lrn_maxpool.h"
#include "pool_windows.cuh"

namespace cconvnet {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxGridY = 65535;  // CUDA's limit

// ---- lengths of strips ----------------------------------------------------------------------------------

// A block walks down a strip of an image. Neighbouring strips share rows, so short ones are more work in all.
// Of long ones there are few, and the last wave of blocks may leave most of a GPU idle.
struct StripCost {
  static constexpr int kMultiprocessors = 132;  // of an H200; strips hardly depend on which GPU
  int64_t resident;                             // blocks that a multiprocessor holds
  int64_t alone;  // the time of a block alone, in those that it keeps a multiprocessor's schedulers busy

  // Of as many blocks, in the time of a row.
  int64_t of(int64_t blocks, int64_t rows) const {
    const int64_t wave = kMultiprocessors * resident, rest = blocks % wave;
    const int64_t last = rest > 0 ? std::max(ceil_div(rest, kMultiprocessors), alone) : 0;
    return (blocks / wave * resident + last) * rows;
  }
};

// ---- forward, small windows -----------------------------------------------------------------------------

constexpr int kRingBytes = 24 * 1024;  // leaves room for several blocks on a multiprocessor
constexpr int kManyBlocks = 600;       // enough for every GPU
constexpr int kShortStrip = 4;         // rows of outputs
constexpr StripCost kForwardCost = {5, 3};
constexpr int kMaximaRows = 2;  // one is written while another is read

template <class T>
struct alignas(kVectorBytes) Ring {
  T at[kRingBytes / sizeof(T)];
};

// The work of each block. Beside slab, strip and tile are their numbers: C's vectors are divided into slabs,
// rows of outputs into strips, columns of outputs into tiles. A thread has a vector of the slab at one of the
// `tile_w` columns of pixels in the windows of a tile.
struct ForwardShares {
  int slabs = 1, slab = 1, strips = 1, strip = 1, tiles = 1, tile = 1;
  int tile_w = 1, threads = 0;

  // Those with the fewest threads, idle ones of whole warps included, that work on a row of an image. Of equal
  // ones those with the widest slabs, so that memory is read in long pieces.
  ForwardShares(const PoolProblem& pool, int c_vectors) {
    const int64_t rows = int64_t{pool.window_h} + kMaximaRows;
    const int64_t most_threads = std::min<int64_t>(kThreads, kRingBytes / (kVectorBytes * rows));
    int64_t fewest = std::numeric_limits<int64_t>::max();
    for (int count = 1; count <= c_vectors; ++count) {
      const int vectors = static_cast<int>(ceil_div(c_vectors, count));
      const int64_t columns = most_threads / vectors;
      if (columns < pool.window_w) continue;
      const int64_t fitting = std::min<int64_t>((columns - pool.window_w) / pool.stride_w + 1, pool.q);
      const int parts = static_cast<int>(ceil_div(pool.q, fitting));
      const int length = static_cast<int>(ceil_div(pool.q, parts));  // equal ones
      const int width = (length - 1) * pool.stride_w + pool.window_w;
      const int64_t used = ceil_div(c_vectors, vectors) * parts * ceil_div(width * vectors, kWarp);
      if (used >= fewest) continue;
      fewest = used;
      slab = vectors, slabs = static_cast<int>(ceil_div(c_vectors, vectors));
      tile = length, tiles = parts, tile_w = width, threads = width * vectors;
    }
    choose_strips(pool);
  }

  bool fits() const { return threads > 0; }

 private:
  void choose_strips(const PoolProblem& pool) {
    const int64_t blocks = int64_t{pool.n} * slabs * tiles;
    const int64_t longest = ceil_div(pool.p, ceil_div(kManyBlocks, blocks));
    const int64_t shortest = std::min(pool.p, kShortStrip);
    int64_t least = std::numeric_limits<int64_t>::max();
    for (int64_t length = std::max(longest, shortest); length >= shortest; --length) {
      const int64_t count = ceil_div(pool.p, length);
      const int64_t rows = (length - 1) * pool.stride_h + pool.window_h;
      const int64_t cost = kForwardCost.of(blocks * count, rows);
      if (cost >= least) continue;
      least = cost;
      strip = static_cast<int>(length), strips = static_cast<int>(count);
    }
  }
};

struct ForwardArguments {
  LrnArguments lrn;
  PoolProblem pool;
  ForwardShares shares;
  int c_vectors;
  Divider slabs_div, tiles_div, strips_div, slab_div;

  ForwardArguments(const LrnProblem& lrn, const PoolProblem& pool, const ForwardShares& shares, int width)
      : lrn(lrn, width),
        pool(pool),
        shares(shares),
        c_vectors(lrn.c / width),
        slabs_div(shares.slabs),
        tiles_div(shares.tiles),
        strips_div(shares.strips),
        slab_div(shares.slab) {}
};

template <int SIZE, class T>
__global__ void __launch_bounds__(kThreads) lrn_maxpool_ring(ForwardArguments args, const T* x, T* y) {
  constexpr int WIDTH = kVectorWidth<T>;
  const PoolProblem& pool = args.pool;
  T* const shared = shared_memory<Ring<T>>().at;
  int slab, tile, strip, vector;
  const int strip_of_all = args.tiles_div.divide(args.slabs_div.divide(blockIdx.x, slab), tile);
  const int n = args.strips_div.divide(strip_of_all, strip);
  const int column = args.slab_div.divide(threadIdx.x, vector);
  const int first_q = tile * args.shares.tile;
  const int first_w = first_q * pool.stride_w - pool.pad_w;
  const int first_p = strip * args.shares.strip, end_p = min(first_p + args.shares.strip, pool.p);
  const int c = slab * args.shares.slab + vector, w = first_w + column, q = first_q + column;
  const LrnSides sides = LrnSides::of(args.lrn, c);
  const Range columns = window(q, pool.stride_w, pool.pad_w, pool.window_w, pool.w);

  const bool in_image = c < args.c_vectors && w >= 0 && w < pool.w;
  const bool in_tile = c < args.c_vectors && column < args.shares.tile && q < pool.q;
  const int has_pixels = ptx::in_register(in_image), has_outputs = ptx::in_register(in_tile);
  const int pixel = ptx::in_register((n * pool.h * pool.w + w) * pool.c + c * WIDTH);  // in its image's row 0
  const int image_row = ptx::in_register(pool.w * pool.c);
  int output = ptx::in_register(((n * pool.p + first_p) * pool.q + q) * pool.c + c * WIDTH);
  // In shared memory: two rows of maxima of columns, then each thread's ring, its slots as far apart.
  const int row_size = ptx::in_register(blockDim.x * WIDTH);
  const int first_maximum = ptx::in_register(((columns.begin - first_w) * args.shares.slab + vector) * WIDTH);
  const int column_count = ptx::in_register(columns.end - columns.begin);
  const int ring = ptx::in_register(kMaximaRows * row_size + threadIdx.x * WIDTH);
  const int ring_end = ptx::in_register(ring + pool.window_h * row_size);

  int h = 0;        // the rows before it are normalised, as far as they are needed
  int slot = ring;  // of row h
  int maxima = 0;
  for (int p = first_p; p < end_p; ++p) {
    const int begin = p * pool.stride_h - pool.pad_h;
    const int end = ptx::in_register(min(begin + pool.window_h, pool.h));
    const int next_begin = ptx::in_register(begin + pool.stride_h);
    if (has_pixels) {
      Packed<WIDTH, T> largest = lowest<WIDTH, T>();
      int known_slot = slot;
      for (int known = h; known > begin && known > 0; --known) {
        known_slot = (known_slot == ring ? ring_end : known_slot) - row_size;
        largest = maximum(load_packed<WIDTH>(shared + known_slot), largest);
      }
      h = max(h, begin);
      for (int offset = pixel + h * image_row; h < end; ++h, offset += image_row) {
        Vector<WIDTH> value = load<WIDTH>(x + offset);
        const LrnScales<WIDTH> scales =
            args.lrn.usual_scales<SIZE>(lrn_squares<SIZE, true>(x + offset, sides, value));
#pragma unroll
        for (int i = 0; i < WIDTH; ++i) value.lane[i] *= scales.lane[i].power;
        Packed<WIDTH, T> row = pack<T>(value);
        if (scales.extreme) {
          store(shared + slot, row);
          lrn_recompute_y(args.lrn.problem, x, offset, WIDTH, shared + slot);
          row = load_packed<WIDTH>(shared + slot);
        }
        largest = maximum(row, largest);
        if (h >= next_begin) {
          store(shared + slot, row);
          slot += row_size;
          if (slot == ring_end) slot = ring;
        }
      }
      store(shared + maxima + threadIdx.x * WIDTH, largest);
    }
    __syncthreads();
    if (has_outputs) {
      int at = maxima + first_maximum;
      Packed<WIDTH, T> largest = lowest<WIDTH, T>();
      for (int i = 0; i < column_count; ++i, at += args.shares.slab * WIDTH) {
        largest = maximum(load_packed<WIDTH>(shared + at), largest);
      }
      store(y + output, largest);
    }
    output += pool.q * pool.c;
    maxima = row_size - maxima;
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
      result = ptx::maximum(rounded_to<T>(value), result);
    }
  }
  y[output] = from_float<T>(result);
}

// ---- backward, small windows ----------------------------------------------------------------------------

constexpr int kShortestColumn = 4, kLongestColumn = 12;  // rows of a strip
constexpr StripCost kBackwardCost = {9, 6};
constexpr int kColumnThreads = 128;
constexpr int kColumnBlocks = 7;  // what registers leave room for

struct BackwardArguments {
  LrnArguments lrn;
  PoolProblem pool;
  Divider stride_h_div, stride_w_div;
  int columns;  // of pixels, times their vectors
  int strip_rows;
  int margin;  // lanes at either end of a warp that only compute t for the others
  bool relu;
};

// The gradient that max pooling returns to a pixel of value `own` after the normalisation: the sum of dy over
// the windows whose y it equals, rounded as when it is written. `first` is the offset in y of the vector in
// the first window of its image.
template <bool ALIGNED, int WIDTH, class T>
__device__ __forceinline__ Vector<WIDTH> pooled_gradient(const PoolProblem& pool, const Range& rows,
                                                         int columns, int first, const T* y, const T* dy,
                                                         const Packed<WIDTH, T>& own) {
  Vector<WIDTH> result = zeros<WIDTH>();
  for (int p = rows.begin; p < rows.end; ++p) {
    int offset = first + p * pool.q * pool.c;
#pragma unroll 1  // lanes with one column and with two would run different parts
    for (int i = 0; i < columns; ++i, offset += pool.c) {
      add_where_equal(result, own, load_packed_from<WIDTH, ALIGNED>(y + offset),
                      load_packed_from<WIDTH, ALIGNED>(dy + offset));
    }
  }
  return rounded_to<T>(result);
}

// blockIdx.y is the strip of `strip_rows` rows; the lanes run over channels, columns and images.
template <int SIZE, bool ALIGNED, class T>
__global__ void __launch_bounds__(kColumnThreads, kColumnBlocks)
    lrn_maxpool_backward_columns(BackwardArguments args, const T* x, const T* y, const T* dy, T* dx) {
  constexpr int WIDTH = kVectorWidth<T>;
  constexpr int kSide = SIZE / 2;  // the windows that contain channel c are those of [c - kSide, c + kSide]
  const PoolProblem& pool = args.pool;
  const int lane = threadIdx.x % kWarp;
  const int warp = blockIdx.x * (kColumnThreads / kWarp) + threadIdx.x / kWarp;
  const int vector = warp * (kWarp - 2 * args.margin) + lane - args.margin;
  const bool own = lane >= args.margin && lane < kWarp - args.margin && vector < args.columns;
  const int writes = ptx::in_register(own);
  int c, w;
  // Lanes before the first vector and behind the last repeat it.
  const int n = args.lrn.w_div.divide(args.lrn.c_div.divide(min(max(vector, 0), args.columns - 1), c), w);
  const LrnSides sides = LrnSides::of(args.lrn, c);
  const Range windows =
      windows_holding(w, pool.stride_w, args.stride_w_div, pool.pad_w, pool.window_w, pool.q);
  const int columns = ptx::in_register(windows.end - windows.begin);
  const int first = ptx::in_register((n * pool.p * pool.q + windows.begin) * pool.c + c * WIDTH);
  const int begin = blockIdx.y * args.strip_rows;
  const int end = ptx::in_register(min(begin + args.strip_rows, pool.h));

  int offset = ((n * pool.h + begin) * pool.w + w) * pool.c + c * WIDTH;
  for (int h = begin; h < end; ++h, offset += pool.w * pool.c) {
    const auto packed = load_packed_from<WIDTH, ALIGNED>(x + offset);
    const Vector<WIDTH> value = unpack(packed);
    const LrnScales<WIDTH> scales =
        args.lrn.usual_scales<SIZE>(lrn_squares<SIZE, ALIGNED>(x + offset, sides, value));
    Vector<WIDTH> normalised, part, t;
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) normalised.lane[i] = value.lane[i] * scales.lane[i].power;
    const Range rows =
        windows_holding(h, pool.stride_h, args.stride_h_div, pool.pad_h, pool.window_h, pool.p);
    const Vector<WIDTH> gradient =
        pooled_gradient<ALIGNED>(pool, rows, columns, first, y, dy, pack<T>(normalised));
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      part.lane[i] = gradient.lane[i] * scales.lane[i].power;
      t.lane[i] = lrn_t(value.lane[i], part.lane[i], scales.lane[i]);
    }

    LrnNeighbourhood<WIDTH> ts = {zeros<kLrnReach>(), t, zeros<kLrnReach>()};
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const float before = __shfl_up_sync(kFullWarp, t.lane[WIDTH - kSide + i], 1);
      const float after = __shfl_down_sync(kFullWarp, t.lane[i], 1);
      if (sides.before) ts.before.lane[kLrnReach - kSide + i] = before;
      if (sides.after) ts.after.lane[i] = after;
    }
    if (!writes) continue;
    const Vector<WIDTH> sums = lrn_sums<SIZE>(ts);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      part.lane[i] = lrn_dx(args.lrn, part.lane[i], value.lane[i], sums.lane[i]);
    }
    store_to<ALIGNED>(dx + offset, where_positive(packed, pack<T>(part), !args.relu));
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
    CCONVNET_LAUNCH((lrn_maxpool_ring<decltype(size)::value, T>), grid, shares.threads, stream, args,
                    arrays.x, arrays.out);
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

// The rows of a strip, of which `columns` blocks walk down the columns.
int64_t backward_strip(int64_t columns, int64_t h) {
  int64_t best = 0, least = std::numeric_limits<int64_t>::max();
  for (int64_t rows = std::min<int64_t>(kLongestColumn, h); rows >= std::min<int64_t>(kShortestColumn, h);
       --rows) {
    // Each reads a row of windows that another reads too.
    const int64_t cost = kBackwardCost.of(columns * ceil_div(h, rows), rows + 1);
    if (cost < least) best = rows, least = cost;
  }
  return std::max(best, ceil_div(h, kMaxGridY));
}

template <bool ALIGNED, class T>
void launch_columns(const BackwardArguments& args, const dim3& grid, const LrnMaxpoolArrays<T>& arrays,
                    Stream stream) {
  dispatch_lrn_size(args.lrn.problem.size, [&](auto size) {
    CCONVNET_LAUNCH((lrn_maxpool_backward_columns<decltype(size)::value, ALIGNED, T>), grid, kColumnThreads,
                    stream, args, arrays.x, arrays.y, arrays.dy, arrays.out);
  });
}

template <class T>
void launch_columns(const LrnMaxpoolProblem& problem, const LrnMaxpoolArrays<T>& arrays, Stream stream) {
  const LrnProblem& lrn = problem.lrn;
  const LrnArguments lrn_args(lrn, kVectorWidth<T>);
  const int margin = kWarp % lrn_args.group_vectors == 0 ? 0 : 1;  // warps of whole groups share nothing
  const int vectors = lrn.count() / lrn.h / kVectorWidth<T>;
  const int64_t columns = ceil_div(vectors, kColumnThreads / kWarp * (kWarp - 2 * margin));
  const int64_t strip_rows = backward_strip(columns, lrn.h);
  const dim3 grid(static_cast<unsigned>(columns), static_cast<unsigned>(ceil_div(lrn.h, strip_rows)));
  const BackwardArguments args = {lrn_args,
                                  problem.pool,
                                  Divider(problem.pool.stride_h),
                                  Divider(problem.pool.stride_w),
                                  vectors,
                                  static_cast<int>(strip_rows),
                                  margin,
                                  arrays.relu};
  if (arrays.aligned()) {
    launch_columns<true>(args, grid, arrays, stream);
  } else {
    launch_columns<false>(args, grid, arrays, stream);
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
  maxpool_backward(problem.pool, normalised, arrays.y, arrays.dy, {}, gradient, nullptr, stream);
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

size_t lrn_maxpool_backward_workspace(const LrnProblem& lrn, const PoolProblem& pool, bool sums) {
  return std::max(backward_table<float>().workspace({lrn, pool}, nullptr),
                  sums ? bias_grad_workspace(pixels_of(pool)) : 0);
}

template <class T>
void lrn_maxpool_backward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, const T* y, const T* dy,
                          bool relu, T* dx, float* db, void* workspace, Stream stream) {
  backward_table<T>().run({lrn, pool}, {x, y, dy, relu, dx, workspace}, stream, nullptr);
  if (db) bias_grad(pixels_of(pool), dx, db, workspace, stream);
}

template void lrn_maxpool_forward(const LrnProblem&, const PoolProblem&, const float*, float*, Stream);
template void lrn_maxpool_backward(const LrnProblem&, const PoolProblem&, const float*, const float*,
                                   const float*, bool, float*, float*, void*, Stream);
template void lrn_maxpool_forward(const LrnProblem&, const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void lrn_maxpool_backward(const LrnProblem&, const PoolProblem&, const bfloat16*, const bfloat16*,
                                   const bfloat16*, bool, bfloat16*, float*, void*, Stream);

}  // namespace cconvnet
