// One block's share of a matrix product C[m,n] = sum over k of A[m,k] * B[n,k], from global memory to global
// memory. The passes of a convolution differ only in the addresses of the elements of A, B and C. So they
// pass two operands and an output to this code, which compute those addresses.
//
// A block computes a BLOCK_M x BLOCK_N tile of C. It walks along k in steps of BLOCK_K. In each step its
// threads copy a BLOCK_M x BLOCK_K piece of A and a BLOCK_N x BLOCK_K piece of B to shared memory, and every
// thread adds to its own THREAD_M x THREAD_N outputs, kept in registers. There are two buffers. The loads of
// the next step start before the arithmetic of this one and are stored after it. So the arithmetic hides
// their latency, and one barrier per step is enough.
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
// So no thread divides per element: it keeps its rows, or its depths, for all elements that share them.
// Offsets are unsigned because they may wrap around on the way to a valid one (below 2^31).
//
// epilogue.cuh writes the finished tile.
#pragma once

#include <string>
#include <type_traits>

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
  static constexpr bool TENSOR = false;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, BLOCK_K = BLOCK_K_;
  static constexpr int THREAD_M = THREAD_M_, THREAD_N = THREAD_N_, VECTOR = VECTOR_;
  // A thread's outputs are 4 x 4 squares, spread evenly over the tile (see Multiplier).
  static constexpr int SQUARES_M = THREAD_M / 4, SQUARES_N = THREAD_N / 4;
  static constexpr int THREADS_M = BLOCK_M / THREAD_M, THREADS_N = BLOCK_N / THREAD_N;
  static constexpr int THREADS = THREADS_M * THREADS_N;
  // The shape of a warp, as square as can be: a square reads least.
  static constexpr int LANES_N = THREADS_N % 8 == 0 ? 8 : 4, LANES_M = 32 / LANES_N;
  // Enough registers for the outputs and for everything else a thread holds; loads of single floats need an
  // address for each. 128 leaves room for 16 warps on a multiprocessor, 168 for 12.
  static constexpr int REGISTERS = VECTOR == 1 && THREAD_M * THREAD_N > 32 ? 168 : 128;
  static constexpr int MIN_BLOCKS = 65536 / (REGISTERS * THREADS);
  // The number of the operands' elements that must be side by side, in the direction where memory is
  // contiguous.
  static constexpr int WHOLE = VECTOR;
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
// it is stored across the rows (ALONG_K), padding puts a warp's stores on 32 different banks. The lanes hold
// all k of 32/BLOCK_K rows (or every fourth k of 4 times as many), and neighbouring k are as many banks
// apart.
template <class Tile, int ROWS, bool ALONG_K>
struct alignas(16) TileBuffer {
  static constexpr int PADDING = ALONG_K ? 32 / Tile::BLOCK_K : 0;
  static_assert(PADDING % 4 == 0 && ROWS % 32 == 0, "the rows must stay aligned, the banks distinct");
  float at[Tile::BLOCK_K][ROWS + PADDING];
};

template <class Tile, class A, class B>
struct TileMemory {
  TileBuffer<Tile, Tile::BLOCK_M, A::ALONG_K> a[2];
  TileBuffer<Tile, Tile::BLOCK_N, B::ALONG_K> b[2];
};

// Moves one operand's pieces from global memory, through registers, to shared memory. LANES neighbouring
// threads read along the contiguous direction, the others STRIDE apart across it. A thread takes every
// element at which one of its rows meets one of its depths.
template <class Tile, int ROWS, class Operand>
class TileLoader {
 public:
  using Buffer = TileBuffer<Tile, ROWS, Operand::ALONG_K>;

  __device__ __forceinline__ TileLoader(const Operand& operand, uint32_t first_row) : operand_(operand) {
    const int thread = threadIdx.x;
    along_ = thread % LANES * VECTOR;
    across_ = thread / LANES;
#pragma unroll
    for (int i = 0; i < MY_ROWS; ++i) row_[i] = operand.row(first_row + row_of(i));
  }

  __device__ __forceinline__ void fetch(uint32_t k) {
#pragma unroll
    for (int j = 0; j < MY_DEPTHS; ++j) {
      const auto depth = operand_.depth(k + depth_of(j));
#pragma unroll
      for (int i = 0; i < MY_ROWS; ++i) {
        if (mine(i, j)) fetched_[i][j] = read(operand_.locate(row_[i], depth));
      }
    }
  }

  __device__ __forceinline__ void store(Buffer& buffer) const {
#pragma unroll
    for (int j = 0; j < MY_DEPTHS; ++j) {
#pragma unroll
      for (int i = 0; i < MY_ROWS; ++i) {
        if (!mine(i, j)) continue;
        if constexpr (ALONG_K) {
#pragma unroll
          for (int l = 0; l < VECTOR; ++l) buffer.at[depth_of(j) + l][row_of(i)] = fetched_[i][j].lane[l];
        } else {
          cconvnet::store(&buffer.at[depth_of(j)][row_of(i)], fetched_[i][j]);
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
  static constexpr int LANES = ALONG / VECTOR < 32 ? ALONG / VECTOR : 32;
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
  static constexpr int SUM_ROWS = 4 * Tile::LANES_M, MY_SUM_ROWS = 4, STRANDS = 1, ROW_LANES = Tile::LANES_N;

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

  template <class BufferA, class BufferB>
  __device__ __forceinline__ void accumulate(const BufferA& a, const BufferB& b) {
#pragma unroll
    for (int k = 0; k < Tile::BLOCK_K; ++k) {
      Vector<4> fragment_a[Tile::SQUARES_M], fragment_b[Tile::SQUARES_N];
#pragma unroll
      for (int i = 0; i < Tile::SQUARES_M; ++i) fragment_a[i] = load<4>(&a.at[k][m_ + i * STEP_M]);
#pragma unroll
      for (int j = 0; j < Tile::SQUARES_N; ++j) fragment_b[j] = load<4>(&b.at[k][n_ + j * STEP_N]);
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
  __device__ __forceinline__ int first_row(int i) const {
    return threadIdx.x / 32 / WARPS_N * Tile::LANES_M * 4 + i / 4 * STEP_M;
  }
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
  auto& memory = shared_memory<TileMemory<Tile, A, B>>();
  TileLoader<Tile, Tile::BLOCK_M, A> loader_a(a, first_m);
  TileLoader<Tile, Tile::BLOCK_N, B> loader_b(b, first_n);
  Multiplier<Tile> product;

  if (steps.count > 0) {
    loader_a.fetch(steps.k);
    loader_b.fetch(steps.k);
    loader_a.store(memory.a[0]);
    loader_b.store(memory.b[0]);
  }
  __syncthreads();
  for (int step = 0; step < steps.count; ++step) {
    const int now = step % 2, next = 1 - now;
    const bool more = step + 1 < steps.count;
    if (more) {
      steps.k += Tile::BLOCK_K;
      loader_a.fetch(steps.k);
      loader_b.fetch(steps.k);
    }
    product.accumulate(memory.a[now], memory.b[now]);
    if (more) {
      // The other buffer was last read in the step before, and all threads have passed its barrier.
      loader_a.store(memory.a[next]);
      loader_b.store(memory.b[next]);
      __syncthreads();
    }
  }
  return product;
}

}  // namespace cconvnet
