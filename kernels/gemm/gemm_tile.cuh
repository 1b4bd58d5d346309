// One block's share of a matrix product C[m,n] = sum over k of A[m,k] * B[n,k], from global memory to global
// memory. The passes of a convolution differ only in the addresses of the elements of A, B and C. So they
// pass two operands and an output to this code, which compute those addresses.
//
// A block computes a BLOCK_M x BLOCK_N tile of C. It walks along k in steps of BLOCK_K. In each step its
// threads copy a BLOCK_M x BLOCK_K piece of A and a BLOCK_N x BLOCK_K piece of B to shared memory, and every
// thread adds to its own THREAD_M x THREAD_N outputs, kept in registers. There are two stages. The next
// step's piece of A is loaded during the first half of this step's products, that of B during the second
// half. So the arithmetic hides their latency, a thread has registers for one of them only, and one barrier
// per step is enough.
//
// An operand is a class with
//   static constexpr bool ALONG_K;           whether memory is contiguous along k, else along m (or n)
//   const T* data;
//   RowPart row(uint32_t i) const;           all that can be computed of row i of A (or B) before the loop
//   DepthPart depth(uint32_t k) const;       all that can be computed of a k (i and k may be beyond the end)
//   Location locate(RowPart, DepthPart) const;
//                                            its offset, and whether it is inside; otherwise it is 0
// and, for tensor tiles,
//   Place place(uint32_t k) const;           a k below the end, in a form that can be advanced
//   void advance(Place&, uint32_t more) const;
//                                            by `more`, the distance of a thread's depths; perhaps beyond the end
//   DepthPart depth(const Place&) const;     depth(k), if k is not beyond the end
// So no thread divides per element. It keeps its rows in registers. The depths of a step, which divide, are
// computed by one thread for each k and kept in shared memory; tensor tiles advance them.
// Offsets are unsigned because they may wrap around on the way to a valid one (below 2^31).
//
// epilogue.cuh writes the finished tile.
#pragma once

#include <string>
#include <type_traits>

#include "core/ptx.cuh"
#include "core/vector.cuh"

namespace cconvnet {

constexpr uint32_t kOutside = ~0u;  // a row part or depth part without elements
// Outputs of a row that are written at once: 16 bytes of floats, and as many as one Philox call drops.
constexpr int kGroup = 4;

struct Location {
  uint32_t offset;
  bool inside;
};

// An index as three digits: (outer * middle_size + middle) * inner_size + inner.
struct Digits {
  uint32_t inner, middle, outer;
};

// Adds a fixed number to Digits by additions and comparisons, where new digits would take two divisions.
struct DigitStep {
  uint32_t inner_size, middle_size;
  Digits more;

  static CCONVNET_HOST_DEVICE DigitStep make(uint32_t step, uint32_t inner_size, uint32_t middle_size) {
    const uint32_t carried = step / inner_size;
    return {inner_size, middle_size, {step % inner_size, carried % middle_size, carried / middle_size}};
  }

  __device__ __forceinline__ void advance(Digits& at) const {
    at.inner += more.inner;
    const bool inner_full = at.inner >= inner_size;
    if (inner_full) at.inner -= inner_size;
    at.middle += more.middle + inner_full;
    const bool middle_full = at.middle >= middle_size;
    if (middle_full) at.middle -= middle_size;
    at.outer += more.outer + middle_full;
  }
};

// The sizes of a tile of operands of T, which are converted to floats on their way to shared memory. VECTOR
// is the number of elements that one load takes from global memory, along the direction that is contiguous
// there. With 4, operands must be on 16-byte boundaries.
template <class T, int BLOCK_M_, int BLOCK_N_, int BLOCK_K_, int THREAD_M_, int THREAD_N_, int VECTOR_>
struct Tile {
  using Element = T;
  static constexpr bool TENSOR = false, WARP_GROUPS = false;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, BLOCK_K = BLOCK_K_;
  static constexpr int THREAD_M = THREAD_M_, THREAD_N = THREAD_N_, VECTOR = VECTOR_;
  // A thread's outputs are 4 x 4 squares, spread evenly over the tile (see Multiplier).
  static constexpr int SQUARES_M = THREAD_M / 4, SQUARES_N = THREAD_N / 4;
  static constexpr int THREADS_M = BLOCK_M / THREAD_M, THREADS_N = BLOCK_N / THREAD_N;
  static constexpr int THREADS = THREADS_M * THREADS_N;
  // The shape of a warp, as square as can be: a square reads least.
  static constexpr int LANES_N = THREADS_N % 8 == 0 ? 8 : 4, LANES_M = 32 / LANES_N;
  // Enough registers for the outputs and for everything else a thread holds: loads of single floats need an
  // address for each, and a large share of a piece is many floats. 128 leaves room for 16 warps on a
  // multiprocessor, 168 for 12.
  static constexpr bool MANY_LOADS = VECTOR == 1 || BLOCK_M * BLOCK_K > 8 * THREADS;
  static constexpr int REGISTERS = MANY_LOADS && THREAD_M * THREAD_N > 32 ? 168 : 128;
  static constexpr bool SPARES_REGISTERS = false;  // as in TensorTile
  static constexpr int MIN_BLOCKS = 65536 / (REGISTERS * THREADS);
  // The number of the operands' elements that must be side by side, in the direction where memory is
  // contiguous.
  static constexpr int WHOLE = VECTOR;
  // The lanes that read along k, where memory is contiguous there: as many as fill a sector of 32 bytes, or a
  // step. More would give a thread more rows, each in registers.
  static constexpr int LANES_K = VECTOR == 4 ? 2 : BLOCK_K;
  static constexpr int LAUNCH_BYTES = 0;  // of shared memory, from the launch

  static bool multiplies(Precision precision) {
    return (precision == Precision::bf16) == std::is_same_v<T, bfloat16>;
  }
  static std::string name() {
    return std::string(kElementName<T>) + "_" + std::to_string(BLOCK_M) + "x" + std::to_string(BLOCK_N) +
           "x" + std::to_string(BLOCK_K) + (VECTOR > 1 ? "" : "_scalar");
  }

  static_assert(VECTOR == 1 || VECTOR == 4, "shared memory is written by floats or by 16 bytes");
  static_assert(THREAD_M % 4 == 0 && THREAD_N % 4 == 0, "shared memory is read 4 floats at a time");
  static_assert(BLOCK_M % THREAD_M == 0 && BLOCK_N % THREAD_N == 0, "threads must share the tile evenly");
  static_assert(THREADS_M % LANES_M == 0 && THREADS_N % LANES_N == 0, "warps must share the tile evenly");
  static_assert(THREAD_M * THREAD_N <= 64, "more outputs per thread would not fit in the registers");
  static_assert(THREADS <= 1024, "a block has at most 1024 threads");
  static_assert(BLOCK_K % VECTOR == 0 && BLOCK_M % VECTOR == 0 && BLOCK_N % VECTOR == 0,
                "a load must not cross the tile's edge");
};

// A piece of an operand in shared memory, k-major, so that a thread's fragment for one k is contiguous. Where
// it is stored across the rows (ALONG_K), padding puts a warp's stores on 32 different banks: LANES_K lanes
// store k that are VECTOR apart, of 32 / LANES_K neighbouring rows.
template <class Tile, int ROWS, bool ALONG_K>
struct alignas(16) TileBuffer {
  static constexpr int PADDING = ALONG_K ? 32 / Tile::LANES_K : 0;
  static_assert(PADDING % 4 == 0 && ROWS % 32 == 0, "the rows must stay aligned, the banks distinct");

  float at[Tile::BLOCK_K * ROWS + Tile::BLOCK_K / Tile::VECTOR * PADDING];

  // Lines of one k. Padding follows each VECTOR of them.
  static __device__ __forceinline__ int offset_of(int k, int row) {
    return k * ROWS + k / Tile::VECTOR * PADDING + row;
  }
};

// The depths of one k, aligned so that a thread reads them at once.
template <class A, class B>
struct alignas(sizeof(typename A::DepthPart) + sizeof(typename B::DepthPart) > 8 ? 16 : 8) TileDepth {
  typename A::DepthPart a;
  typename B::DepthPart b;
};

// The pieces of one step, and the depths of those that will replace them.
template <class Tile, class A, class B>
struct TileStage {
  TileBuffer<Tile, Tile::BLOCK_M, A::ALONG_K> a;
  TileBuffer<Tile, Tile::BLOCK_N, B::ALONG_K> b;
  TileDepth<A, B> depths[Tile::BLOCK_K];
};

template <class Tile, class A, class B>
struct TileMemory {
  TileStage<Tile, A, B> stage[2];
};

// Moves one operand's pieces from global memory to shared memory: by asynchronous copies where both have
// lines of 16 bytes in the same direction, else through registers. LANES neighbouring threads read along the
// contiguous direction, the others STRIDE apart across it. A thread takes every element at which one of its
// rows meets one of its depths.
template <class Tile, int ROWS, class Operand>
class TileLoader {
 public:
  using Buffer = TileBuffer<Tile, ROWS, Operand::ALONG_K>;
  static constexpr bool COPIES =
      !Operand::ALONG_K && Tile::VECTOR * sizeof(typename Tile::Element) == kVectorBytes;

  __device__ __forceinline__ TileLoader(const Operand& operand, uint32_t first_row) : operand_(operand) {
    const int thread = threadIdx.x;
    along_ = thread % LANES * VECTOR;
    across_ = thread / LANES;
#pragma unroll
    for (int i = 0; i < MY_ROWS; ++i) row_[i] = operand.row(first_row + row_of(i));
  }

  // Starts to load a piece; depth_at(i) is the depth of its i-th k.
  template <class DepthAt>
  __device__ __forceinline__ void fetch(Buffer& buffer, const DepthAt& depth_at) {
#pragma unroll
    for (int j = 0; j < MY_DEPTHS; ++j) {
      if (!ALONG_K && !mine(0, j)) continue;  // there is no such depth
      const typename Operand::DepthPart depth = depth_at(depth_of(j));
#pragma unroll
      for (int i = 0; i < MY_ROWS; ++i) {
        if (!mine(i, j)) continue;
        const Location from = operand_.locate(row_[i], depth);
        if constexpr (COPIES) {
          ptx::start_copy(place(buffer, i, j), operand_.data + from.offset, from.inside);
        } else {
          fetched_[i][j] = read(from);
        }
      }
    }
  }

  // Stores what fetch() has loaded to registers.
  __device__ __forceinline__ void store(Buffer& buffer) const {
    if constexpr (COPIES) return;
#pragma unroll
    for (int j = 0; j < MY_DEPTHS; ++j) {
#pragma unroll
      for (int i = 0; i < MY_ROWS; ++i) {
        if (!mine(i, j)) continue;
        if constexpr (ALONG_K) {
#pragma unroll
          for (int l = 0; l < VECTOR; ++l) place(buffer, i, j)[l * ROWS] = fetched_[i][j].lane[l];
        } else {
          cconvnet::store(place(buffer, i, j), fetched_[i][j]);
        }
      }
    }
  }

 private:
  static constexpr bool ALONG_K = Operand::ALONG_K;
  static constexpr int VECTOR = Tile::VECTOR;
  static constexpr int ALONG = ALONG_K ? Tile::BLOCK_K : ROWS;
  static constexpr int ACROSS = ALONG_K ? ROWS : Tile::BLOCK_K;
  // No more than a warp's: 32 lanes already read whole cache lines, and rows and depths are shared best when
  // a thread has some of both.
  static constexpr int LANES = ALONG_K ? Tile::LANES_K : ALONG / VECTOR < 32 ? ALONG / VECTOR : 32;
  static constexpr int STRIDE = Tile::THREADS / LANES;
  static constexpr int PASSES_ALONG = ALONG / (LANES * VECTOR);
  static constexpr int PASSES_ACROSS = (ACROSS + STRIDE - 1) / STRIDE;
  static constexpr int MY_ROWS = ALONG_K ? PASSES_ACROSS : PASSES_ALONG;
  static constexpr int MY_DEPTHS = ALONG_K ? PASSES_ALONG : PASSES_ACROSS;
  static_assert(ALONG % (LANES * VECTOR) == 0 && Tile::THREADS % LANES == 0,
                "the lanes must read whole lines of the tile");

  // Rows and depths in the tile.
  __device__ __forceinline__ int row_of(int i) const {
    return ALONG_K ? across_ + i * STRIDE : along_ + i * LANES * VECTOR;
  }
  __device__ __forceinline__ int depth_of(int j) const {
    return ALONG_K ? along_ + j * LANES * VECTOR : across_ + j * STRIDE;
  }
  // If the threads do not divide the tile evenly, only some of them take part in the last pass.
  __device__ __forceinline__ bool mine(int i, int j) const {
    return ACROSS % STRIDE == 0 || (ALONG_K ? row_of(i) : depth_of(j)) < ACROSS;
  }

  __device__ __forceinline__ float* place(Buffer& buffer, int i, int j) const {
    return buffer.at + Buffer::offset_of(depth_of(j), row_of(i));
  }

  __device__ __forceinline__ Vector<VECTOR> read(const Location& location) const {
    return location.inside ? load<VECTOR>(operand_.data + location.offset) : zeros<VECTOR>();
  }

  const Operand& operand_;
  int along_, across_;
  typename Operand::RowPart row_[MY_ROWS];
  Vector<VECTOR> fetched_[MY_ROWS][MY_DEPTHS];
};

// A thread's outputs and the arithmetic on them. The outputs are SQUARES_M x SQUARES_N squares of 4 x 4, a
// whole tile's width divided by their number apart: neighbouring threads then read neighbouring 16 bytes of
// shared memory, which are on different banks.
template <class Tile>
class Multiplier {
 public:
  static constexpr int ROWS = Tile::THREAD_M, GROUPS = Tile::SQUARES_N, AHEAD = 1, UNROLLED = ROWS;
  static constexpr bool REDUCES = false;

  __device__ __forceinline__ Multiplier() {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    m_ = (warp / WARPS_N * Tile::LANES_M + lane / Tile::LANES_N) * 4;
    n_ = (warp % WARPS_N * Tile::LANES_N + lane % Tile::LANES_N) * 4;
#pragma unroll
    for (int i = 0; i < Tile::THREAD_M; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::THREAD_N; ++j) sum_[i][j] = 0.0f;
    }
  }

  // Adds the products of the k from FIRST to END of a step.
  template <int FIRST, int END, class BufferA, class BufferB>
  __device__ __forceinline__ void accumulate(const BufferA& a, const BufferB& b) {
#pragma unroll
    for (int k = FIRST; k < END; ++k) {
      Vector<4> fragment_a[Tile::SQUARES_M], fragment_b[Tile::SQUARES_N];
#pragma unroll
      for (int i = 0; i < Tile::SQUARES_M; ++i)
        fragment_a[i] = load<4>(a.at + BufferA::offset_of(k, m_ + i * STEP_M));
#pragma unroll
      for (int j = 0; j < Tile::SQUARES_N; ++j)
        fragment_b[j] = load<4>(b.at + BufferB::offset_of(k, n_ + j * STEP_N));
#pragma unroll
      for (int i = 0; i < Tile::THREAD_M; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::THREAD_N; ++j) {
          sum_[i][j] += fragment_a[i / 4].lane[i % 4] * fragment_b[j / 4].lane[j % 4];
        }
      }
    }
  }

  // As store_tile asks.
  template <class Layout>
  __device__ __forceinline__ auto offsets(const Layout& layout, uint32_t first_m, int gemm_m) const {
    const int rows = gemm_m - static_cast<int>(first_m);
    return [this, &layout, first_m, rows](int i) {
      return row(i) < rows ? layout.row(first_m + row(i)) : kOutside;
    };
  }

  // The tile's row of the thread's i-th row of outputs, and the tile's column of its j-th square.
  __device__ __forceinline__ int row(int i) const { return m_ + i / 4 * STEP_M + i % 4; }
  __device__ __forceinline__ int column(int j) const { return n_ + j * STEP_N; }
  __device__ __forceinline__ Vector<4> sums(int i, int j) const {
    return {{sum_[i][j * 4], sum_[i][j * 4 + 1], sum_[i][j * 4 + 2], sum_[i][j * 4 + 3]}};
  }

 private:
  static constexpr int STEP_M = Tile::BLOCK_M / Tile::SQUARES_M;
  static constexpr int STEP_N = Tile::BLOCK_N / Tile::SQUARES_N;
  static constexpr int WARPS_N = Tile::THREADS_N / Tile::LANES_N;

  int m_, n_;
  float sum_[Tile::THREAD_M][Tile::THREAD_N];
};

// The steps of BLOCK_K that a block takes: all of k, or one split's share of it.
struct Steps {
  uint32_t k, end;  // where the first begins, and the last ends
  int count;
};

// The tile whose first row and column of C are first_m and first_n.
template <class Tile, class A, class B>
__device__ __forceinline__ Multiplier<Tile> multiply_tile(const A& a, const B& b, uint32_t first_m,
                                                          uint32_t first_n, Steps steps) {
  using Stage = TileStage<Tile, A, B>;
  auto& stage = shared_memory<TileMemory<Tile, A, B>>().stage;
  TileLoader<Tile, Tile::BLOCK_M, A> loader_a(a, first_m);
  TileLoader<Tile, Tile::BLOCK_N, B> loader_b(b, first_n);
  Multiplier<Tile> product;

  const auto compute_depths = [&](Stage& stage, uint32_t first_k) {
    static_assert(Tile::BLOCK_K <= Tile::THREADS, "a thread computes the depths of one k");
    const uint32_t i = threadIdx.x, k = first_k + i;
    if (i < Tile::BLOCK_K) stage.depths[i] = {a.depth(k), b.depth(k)};
  };
  const auto fetch_a = [&](Stage& stage) {
    loader_a.fetch(stage.a, [&](int i) { return stage.depths[i].a; });
  };
  const auto fetch_b = [&](Stage& stage) {
    loader_b.fetch(stage.b, [&](int i) { return stage.depths[i].b; });
  };
  const auto end_step = [] {
    if constexpr (decltype(loader_a)::COPIES || decltype(loader_b)::COPIES) {
      ptx::close_copy_group();
      ptx::wait_for_copies<0>();
    }
    __syncthreads();
  };

  compute_depths(stage[0], steps.k);
  __syncthreads();
  compute_depths(stage[1], steps.k + Tile::BLOCK_K);
  if (steps.count > 0) {
    fetch_a(stage[0]);
    fetch_b(stage[0]);
    loader_a.store(stage[0].a);
    loader_b.store(stage[0].b);
  }
  end_step();
  constexpr int HALF = Tile::BLOCK_K / 2;
  for (int step = 0; step < steps.count; ++step) {
    Stage &now = stage[step % 2], &next = stage[1 - step % 2];
    const bool more = step + 1 < steps.count;
    // The next stage was last read in the step before, and all threads have passed its barrier.
    if (more) fetch_a(next);
    product.template accumulate<0, HALF>(now.a, now.b);
    if (more) {
      loader_a.store(next.a);
      fetch_b(next);
    }
    product.template accumulate<HALF, Tile::BLOCK_K>(now.a, now.b);
    if (more) {
      steps.k += Tile::BLOCK_K;
      compute_depths(now, steps.k + Tile::BLOCK_K);
      loader_b.store(next.b);
      end_step();
    }
  }
  return product;
}

}  // namespace cconvnet
