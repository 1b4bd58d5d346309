// One block's share of a matrix product, as in gemm_tile.cuh, on tensor cores. The operands are the same
// classes.
//
// A block's warps share its BLOCK_M x BLOCK_N tile as WARP_M x WARP_N rectangles. A lane holds the sums that
// mma.sync assigns to it (ptx.cuh). A block walks along k in steps of BLOCK_K. While the pieces of this step
// are multiplied, asynchronous copies of 16 bytes bring the pieces of the next STAGES - 1 steps to shared
// memory. One barrier per step keeps the stages apart.
//
// In shared memory a piece has the layout of global memory: lines along the direction that is contiguous
// there, made of chunks of 16 bytes. The chunks of each line are permuted by an XOR with a number that
// changes from line to line (Swizzle). So the eight rows that ldmatrix reads at once are on different banks,
// without padding.
#pragma once

#include "gemm/gemm_tile.cuh"
#include "core/ptx.cuh"

namespace cconvnet {

// The sizes of a tile of operands of T: bfloat16s, or floats that are rounded to tf32.
template <class T, int BLOCK_M_, int BLOCK_N_, int BLOCK_K_, int WARP_M_, int WARP_N_, int STAGES_>
struct TensorTile {
  using Element = T;
  static constexpr bool TENSOR = true;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, BLOCK_K = BLOCK_K_;
  static constexpr int WARP_M = WARP_M_, WARP_N = WARP_N_, STAGES = STAGES_;
  static constexpr int WARPS_M = BLOCK_M / WARP_M, WARPS_N = BLOCK_N / WARP_N;
  static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
  // Registers for the sums and for what else a thread holds.
  static constexpr int SUMS = WARP_M * WARP_N / 32;
  static constexpr int REGISTERS = SUMS > 64 ? 255 : SUMS > 32 ? 168 : 128;
  static constexpr int MIN_BLOCKS = 65536 / (REGISTERS * THREADS);
  static constexpr int LAUNCH_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K * sizeof(T) * STAGES;
  static constexpr int CHUNK = kVectorBytes / sizeof(T);  // elements of one copy
  static constexpr int PRODUCT_K = 2 * CHUNK;             // of one mma.sync
  static constexpr int WHOLE = CHUNK, GROUP = 8;          // as in Tile

  static_assert(BLOCK_M % WARP_M == 0 && BLOCK_N % WARP_N == 0, "warps must share the tile evenly");
  static_assert(WARP_M % 32 == 0 && WARP_N % 16 == 0,
                "sums are exchanged by 32 rows, B is read by 16 columns");
  static_assert(BLOCK_K % PRODUCT_K == 0, "a step must be a whole number of products");
  static_assert(SUMS <= 128, "more sums per lane would not fit in the registers");
  static_assert(MIN_BLOCKS >= 1, "a block's threads must find their registers");
  static_assert(STAGES >= 2, "a step's pieces are copied while another's are multiplied");

  static bool multiplies(Precision precision) {
    return precision == (std::is_same_v<T, bfloat16> ? Precision::bf16 : Precision::tf32);
  }
  static std::string name() {
    return std::string(std::is_same_v<T, bfloat16> ? "bf16_" : "tf32_") + std::to_string(BLOCK_M) + "x" +
           std::to_string(BLOCK_N) + "x" + std::to_string(BLOCK_K);
  }
};

// An operand's piece of one step in shared memory: LINES lines of CHUNKS chunks.
template <class Tile, int ROWS, bool ALONG_K>
struct alignas(128) TensorBuffer {
  using T = typename Tile::Element;
  static constexpr bool LINES_ALONG_K = ALONG_K;
  static constexpr int LINES = ALONG_K ? ROWS : Tile::BLOCK_K;
  static constexpr int CHUNKS = (ALONG_K ? Tile::BLOCK_K : ROWS) / Tile::CHUNK;
  // All 32 banks together hold 8 chunks. A line begins at one of 8 / PERIOD positions in them.
  static constexpr int PERIOD = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;
  // Floats across k have no transposing ldmatrix. A warp reads 8 rows, two chunks, of 4 neighbouring k, so
  // there the permutation keeps pairs of chunks and differs for 4 lines.
  static constexpr bool PAIRS = !ALONG_K && sizeof(T) == 4;
  static_assert(CHUNKS % PERIOD == 0 && (!PAIRS || PERIOD == 8), "an XOR must not leave the line");

  T at[LINES * CHUNKS * Tile::CHUNK];

  static __device__ __forceinline__ int offset_of(int line, int chunk) {
    const int swizzle = PAIRS ? line % 4 * 2 : line / (8 / PERIOD) % PERIOD;
    return (line * CHUNKS + (chunk ^ swizzle)) * Tile::CHUNK;
  }
};

template <class Tile, class A, class B>
struct TensorStage {
  TensorBuffer<Tile, Tile::BLOCK_M, A::ALONG_K> a;
  TensorBuffer<Tile, Tile::BLOCK_N, B::ALONG_K> b;
};

template <class Tile, class A, class B>
struct TensorMemory {
  TensorStage<Tile, A, B> stage[Tile::STAGES];
  static_assert(sizeof(TensorStage<Tile, A, B>) * Tile::STAGES == Tile::LAUNCH_BYTES, "the launch gives it");
};

// Starts the copies of one operand's pieces. LANES neighbouring threads copy along a line, the others STRIDE
// lines apart. A thread takes every chunk at which one of its rows meets one of its depths.
template <class Tile, int ROWS, class Operand>
class TensorLoader {
 public:
  using Buffer = TensorBuffer<Tile, ROWS, Operand::ALONG_K>;

  __device__ __forceinline__ TensorLoader(const Operand& operand, uint32_t first_row)
      : operand_(operand), chunk_(threadIdx.x % LANES), line_(threadIdx.x / LANES) {
#pragma unroll
    for (int i = 0; i < MY_ROWS; ++i) row_[i] = operand.row(first_row + (ALONG_K ? line(i) : along(i)));
  }

  __device__ __forceinline__ void start(Buffer& buffer, uint32_t k) const {
    const typename Operand::DepthPart first = operand_.depth(k + (ALONG_K ? along(0) : line(0)));
#pragma unroll
    for (int j = 0; j < MY_DEPTHS; ++j) {
      const auto depth = depth_of(j, first, k);
#pragma unroll
      for (int i = 0; i < MY_ROWS; ++i) {
        const Location from = operand_.locate(row_[i], depth);
        const int offset = Buffer::offset_of(line(ALONG_K ? i : j), chunk_ + (ALONG_K ? j : i) * LANES);
        ptx::start_copy(buffer.at + offset, operand_.data + from.offset, from.inside);
      }
    }
  }

 private:
  static constexpr bool ALONG_K = Operand::ALONG_K;
  // As many as share the line evenly, and no more than a warp.
  static constexpr int LANES = Buffer::CHUNKS % 32 == 0   ? 32
                               : Buffer::CHUNKS % 16 == 0 ? 16
                               : Buffer::CHUNKS % 8 == 0  ? 8
                                                          : 4;
  static constexpr int STRIDE = Tile::THREADS / LANES;
  static constexpr int PASSES_ALONG = Buffer::CHUNKS / LANES, PASSES_ACROSS = Buffer::LINES / STRIDE;
  static constexpr int MY_ROWS = ALONG_K ? PASSES_ACROSS : PASSES_ALONG;
  static constexpr int MY_DEPTHS = ALONG_K ? PASSES_ALONG : PASSES_ACROSS;
  static_assert(Buffer::CHUNKS % LANES == 0 && Buffer::LINES % STRIDE == 0,
                "threads must share the copies evenly");

  __device__ __forceinline__ typename Operand::DepthPart depth_of(int j,
                                                                  const typename Operand::DepthPart& first,
                                                                  uint32_t k) const {
    if (j == 0) return first;
    if constexpr (ALONG_K) {
      return operand_.depth(k + along(j));
    } else {
      return operand_.later(first, j * STRIDE, k + line(j));
    }
  }
  __device__ __forceinline__ int line(int i) const { return line_ + i * STRIDE; }
  __device__ __forceinline__ int along(int i) const { return (chunk_ + i * LANES) * Tile::CHUNK; }

  const Operand& operand_;
  int chunk_, line_;
  typename Operand::RowPart row_[MY_ROWS];
};

// A lane's share of its warp's sums, and the arithmetic on them.
template <class Tile>
class TensorProduct {
 public:
  static constexpr int ROWS = Tile::WARP_M / 32, GROUPS = Tile::WARP_N / 8, WIDTH = Tile::GROUP;

  __device__ __forceinline__ TensorProduct() {
    const int warp = threadIdx.x / 32;
    m_ = warp / Tile::WARPS_N * Tile::WARP_M;
    n_ = warp % Tile::WARPS_N * Tile::WARP_N;
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
      for (int j = 0; j < GROUPS; ++j) {
#pragma unroll
        for (int l = 0; l < 4; ++l) sum_[i][j][l] = 0.0f;
      }
    }
  }

  template <class BufferA, class BufferB>
  __device__ __forceinline__ void accumulate(const BufferA& a, const BufferB& b) {
#pragma unroll
    for (int k = 0; k < Tile::BLOCK_K; k += Tile::PRODUCT_K) {
      ptx::Matrices left[FRAGMENTS_M], right[GROUPS / 2];
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) left[i] = fragment<true>(a, m_, 16 * i, k);
#pragma unroll
      for (int j = 0; j < GROUPS / 2; ++j) right[j] = fragment<false>(b, n_, 16 * j, k);
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
        for (int j = 0; j < GROUPS; ++j) {
          const ptx::Word factors[2] = {right[j / 2].part[j % 2 * 2], right[j / 2].part[j % 2 * 2 + 1]};
          if constexpr (sizeof(T) == 2) {
            ptx::multiply_add_bf16(sum_[i][j], left[i].part, factors);
          } else {
            ptx::multiply_add_tf32(sum_[i][j], left[i].part, factors);
          }
        }
      }
    }
  }

  // Called after the last step. Of 32 rows and 8 columns of sums, a lane then no longer holds two neighbours
  // of four rows, but all 8 of one row, selected by its `group` and `in_group`. The four lanes of a group
  // transpose their 4 x 4 pairs: first the off-diagonal pairs of 2 x 2 blocks, then the off-diagonal blocks.
  __device__ __forceinline__ void gather_rows() {
    const int in_group = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; i += 2) {
#pragma unroll
      for (int j = 0; j < GROUPS; ++j) {
#pragma unroll
        for (int bit = 1; bit < 4; bit *= 2) {
          const bool upper = in_group & bit;
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            if (p & bit) continue;
#pragma unroll
            for (int l = 0; l < 2; ++l) {
              float &low = pair(i, j, p, l), &high = pair(i, j, p | bit, l);
              const float received = __shfl_xor_sync(kFullWarp, upper ? low : high, bit);
              low = upper ? received : low;
              high = upper ? high : received;
            }
          }
        }
      }
    }
    const int group = threadIdx.x / 4 % 8;
    m_ += group + 8 * in_group;
  }

  // As store_tile asks.
  __device__ __forceinline__ int row(int i) const { return m_ + 32 * i; }
  __device__ __forceinline__ int column(int j) const { return n_ + 8 * j; }
  __device__ __forceinline__ Vector<WIDTH> sums(int i, int j) const {
    Vector<WIDTH> result;
#pragma unroll
    for (int l = 0; l < WIDTH; ++l) result.lane[l] = sum_[2 * i + l / 4][j][l % 4];
    return result;
  }

 private:
  using T = typename Tile::Element;
  static constexpr int FRAGMENTS_M = Tile::WARP_M / 16;

  // The p-th of four pairs in 32 rows: rows group + 8 * p before gather_rows(), columns 2 * p after it.
  __device__ __forceinline__ float& pair(int i, int j, int p, int l) {
    return sum_[i + p / 2][j][p % 2 * 2 + l];
  }

  // 16 rows of an operand, from first + more on, and PRODUCT_K of k, in the order that mma.sync wants. Of A
  // the second part is the second 8 rows of the first half of k; of B it is the first 8 rows of the second
  // half. The compiler knows `more` and `k`. Both are whole periods of the swizzle, and are added after it so
  // that they become part of the instruction.
  template <bool A, class Buffer>
  static __device__ __forceinline__ ptx::Matrices fragment(const Buffer& buffer, int first, int more, int k) {
    constexpr int LINE = Buffer::CHUNKS * Tile::CHUNK;
    const int lane = threadIdx.x % 32;
    // The matrix whose row this lane's address is.
    const int first_bit = lane / 8 % 2, second_bit = lane / 16;
    const int row_half = A ? first_bit : second_bit, k_half = A ? second_bit : first_bit;
    ptx::Matrices result;
    if constexpr (Buffer::LINES_ALONG_K) {
      const int line = first + row_half * 8 + lane % 8;
      result =
          ptx::load_matrices(buffer.at + Buffer::offset_of(line, k / Tile::CHUNK + k_half) + more * LINE);
    } else if constexpr (sizeof(T) == 2) {
      const int line = k_half * 8 + lane % 8, chunk = (first + more) / Tile::CHUNK + row_half;
      result = ptx::load_matrices_transposed(buffer.at + Buffer::offset_of(line, chunk) + k * LINE);
    } else {
      const int group = lane / 4, line = lane % 4;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first + more + (A ? i % 2 : i / 2) * 8 + group, later = (A ? i / 2 : i % 2) * 4;
        const int offset = Buffer::offset_of(line, row / 4) + row % 4;
        result.part[i] = __float_as_uint(buffer.at[offset + (k + later) * LINE]);
      }
    }
    if constexpr (sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < 4; ++i) result.part[i] = ptx::to_tf32(result.part[i]);
    }
    return result;
  }

  int m_, n_;
  float sum_[FRAGMENTS_M][GROUPS][4];
};

// The tile whose first row and column of C are first_m and first_n.
template <class Tile, class A, class B>
__device__ __forceinline__ TensorProduct<Tile> multiply_tensor_tile(const A& a, const B& b, uint32_t first_m,
                                                                    uint32_t first_n, Steps steps) {
  auto& memory = launch_shared_memory<TensorMemory<Tile, A, B>>();
  const TensorLoader<Tile, Tile::BLOCK_M, A> loader_a(a, first_m);
  const TensorLoader<Tile, Tile::BLOCK_N, B> loader_b(b, first_n);
  TensorProduct<Tile> product;

  // After the last step the groups are empty, so that waiting always means the same.
  const auto start = [&](int step, int stage) {
    if (step < steps.count) {
      loader_a.start(memory.stage[stage].a, steps.k + step * Tile::BLOCK_K);
      loader_b.start(memory.stage[stage].b, steps.k + step * Tile::BLOCK_K);
    }
    ptx::close_copy_group();
  };

#pragma unroll
  for (int step = 0; step < Tile::STAGES - 1; ++step) start(step, step);
  int now = 0, free = Tile::STAGES - 1;
  for (int step = 0; step < steps.count; ++step) {
    ptx::wait_for_copies<Tile::STAGES - 2>();
    __syncthreads();
    // That stage was last read in the step before, and all threads have passed its end.
    start(step + Tile::STAGES - 1, free);
    product.accumulate(memory.stage[now].a, memory.stage[now].b);
    free = now;
    now = now + 1 == Tile::STAGES ? 0 : now + 1;
  }
  product.gather_rows();
  return product;
}

}  // namespace cconvnet
