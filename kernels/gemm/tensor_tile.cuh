// One block's share of a matrix product, as in gemm_tile.cuh, on tensor cores. The operands are the same
// classes.
//
// A block's warps share its BLOCK_M x BLOCK_N tile as WARP_M x WARP_N rectangles. A lane holds the sums that
// mma.sync assigns to it (ptx.cuh). A block walks along k in steps of BLOCK_K. While the pieces of this step
// are multiplied, asynchronous copies of 16 bytes bring the pieces of the next STAGES - 1 steps to shared
// memory. One barrier per step keeps the stages apart. Behind it the products begin at once; the copies and
// the computation of their addresses are spread among them.
//
// In shared memory a piece has the layout of global memory: lines along the direction that is contiguous
// there, made of chunks of 16 bytes. The chunks of each line are permuted by an XOR with a number that
// changes from line to line (Swizzle). So the eight rows that ldmatrix reads at once are on different banks,
// without padding.
#pragma once

#include <algorithm>

#include "column_sums.cuh"
#include "gemm/gemm_tile.cuh"
#include "gemm/split_tf32.cuh"
#include "core/names.h"
#include "core/ptx.cuh"

namespace cconvnet {

// The sizes of a tile of operands of T: bfloat16s, or floats that are rounded to tf32.
template <class T, int BLOCK_M_, int BLOCK_N_, int BLOCK_K_, int WARP_M_, int WARP_N_, int STAGES_>
struct TensorTile {
  using Element = T;
  static constexpr bool TENSOR = true, WARP_GROUPS = false;
  static constexpr Precision PRECISION = std::is_same_v<T, bfloat16> ? Precision::bf16 : Precision::tf32;
  static constexpr int BLOCK_M = BLOCK_M_, BLOCK_N = BLOCK_N_, BLOCK_K = BLOCK_K_;
  static constexpr int WARP_M = WARP_M_, WARP_N = WARP_N_, STAGES = STAGES_;
  static constexpr int WARPS_M = BLOCK_M / WARP_M, WARPS_N = BLOCK_N / WARP_N;
  static constexpr int THREADS = 32 * WARPS_M * WARPS_N;
  // Registers for the sums and for what else a thread holds.
  static constexpr int SUMS = WARP_M * WARP_N / 32;
  static constexpr int REGISTERS = SUMS > 64 ? 255 : SUMS > 32 ? 168 : 128;
  // For copies of what is in shared memory. Conversions of floats take some too, and so do 256 rows.
  static constexpr bool SPARES_REGISTERS = SUMS <= (sizeof(T) == 2 && BLOCK_M < 256 ? 128 : 96);
  static constexpr int MIN_BLOCKS = 65536 / (REGISTERS * THREADS);
  static constexpr int STAGE_BYTES = (BLOCK_M + BLOCK_N) * BLOCK_K * sizeof(T);
  static constexpr int RESULT_BYTES = (BLOCK_N + WARPS_N) * BLOCK_M * 4;
  static constexpr int LAUNCH_BYTES = std::max(STAGE_BYTES * STAGES, RESULT_BYTES);
  static constexpr int CHUNK = kVectorBytes / sizeof(T);  // elements of one copy
  static constexpr int PRODUCT_K = 2 * CHUNK;             // of one mma.sync
  static constexpr int PARTS = BLOCK_K / PRODUCT_K;       // of a step
  static constexpr int WHOLE = CHUNK;                     // as in Tile

  static_assert(BLOCK_M % WARP_M == 0 && BLOCK_N % WARP_N == 0, "warps must share the tile evenly");
  static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "operands are read by 16 rows");
  static_assert(BLOCK_K % PRODUCT_K == 0, "a step must be a whole number of products");
  static_assert(SUMS <= 144, "more sums per lane would not fit in the registers");
  static_assert(MIN_BLOCKS >= 1, "a block's threads must find their registers");
  static_assert(STAGES >= 2, "a step's pieces are copied while another's are multiplied");
  static_assert(STAGES > 2 || PARTS >= 2, "the copies of two stages need time to arrive");

  static bool multiplies(Precision precision) { return precision == PRECISION; }
  static std::string name() { return with_sizes(PRECISION); }

 protected:
  static std::string with_sizes(Precision precision) {
    return std::string(to_name(kPrecisions, precision)) + "_" + std::to_string(BLOCK_M) + "x" +
           std::to_string(BLOCK_N) + "x" + std::to_string(BLOCK_K);
  }
};

// The same for floats that are split into two tf32s each (split_tf32.cuh), which takes more registers.
template <int... SIZES>
struct SplitTensorTile : TensorTile<float, SIZES...> {
  using Base = TensorTile<float, SIZES...>;
  static constexpr Precision PRECISION = Precision::fp32x3;
  static constexpr int REGISTERS = 255;
  static constexpr int MIN_BLOCKS = 65536 / (REGISTERS * Base::THREADS);
  static_assert(Base::SUMS <= 32, "both parts of the factors would not fit in the registers");
  static_assert(MIN_BLOCKS >= 1, "a block's threads must find their registers");

  static bool multiplies(Precision precision) { return precision == PRECISION; }
  static std::string name() { return Base::with_sizes(PRECISION); }
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
  // there the permutation keeps pairs of chunks.
  static constexpr int PERMUTED = !ALONG_K && sizeof(T) == 4 ? 2 : 1;
  static_assert(CHUNKS % PERIOD == 0, "an XOR must not leave the line");

  T at[LINES * CHUNKS * Tile::CHUNK];

  static __device__ __forceinline__ uint32_t offset_of(uint32_t line, uint32_t chunk) {
    const uint32_t swizzle = line / (8 / PERIOD) % (PERIOD / PERMUTED) * PERMUTED;
    return (line * CHUNKS + (chunk ^ swizzle)) * Tile::CHUNK;
  }
};

template <class Tile, class A, class B>
struct TensorStage {
  TensorBuffer<Tile, Tile::BLOCK_M, A::ALONG_K> a;
  TensorBuffer<Tile, Tile::BLOCK_N, B::ALONG_K> b;
};

// What the stages make room for after the last step: each warp's sums, row by row, and where its rows of the
// output begin.
template <class Tile>
struct alignas(128) TensorResult {
  float sums[Tile::WARPS_M * Tile::WARPS_N][Tile::WARP_M * Tile::WARP_N];
  uint32_t offsets[Tile::WARPS_M * Tile::WARPS_N][Tile::WARP_M];

  // In chunks of 16 bytes, permuted like those of the operands. A warp writes pairs of chunks of four rows at
  // once, and reads eight neighbouring chunks (or four of two rows): all are on different banks.
  static __device__ __forceinline__ int place_of(int row, int column) {
    const int chunk = row * (Tile::WARP_N / 4) + column / 4;
    return (chunk ^ (row % 4 * 2)) * 4 + column % 4;
  }
};

template <class Tile, class A, class B>
union TensorMemory {
  TensorStage<Tile, A, B> stage[Tile::STAGES];
  TensorResult<Tile> result;
  static_assert(sizeof(stage) == Tile::STAGE_BYTES * Tile::STAGES && sizeof(result) == Tile::RESULT_BYTES,
                "the launch gives as much as is needed");
};

// Starts the copies of one operand's pieces, step after step. LANES neighbouring threads copy along a line,
// the others STRIDE lines apart. A thread takes every chunk at which one of its rows meets one of its depths.
template <class Tile, int ROWS, class Operand>
class TensorLoader {
 public:
  using T = typename Tile::Element;
  using Buffer = TensorBuffer<Tile, ROWS, Operand::ALONG_K>;

  __device__ __forceinline__ TensorLoader(const Operand& operand, uint32_t first_row, const Steps& steps)
      : operand_(operand), end_(steps.end) {
    const uint32_t line = threadIdx.x / LANES, chunk = threadIdx.x % LANES;
    target_ = Buffer::offset_of(line, chunk);
    k_ = steps.k + (ALONG_K ? chunk * Tile::CHUNK : line);
    place_ = operand.place(k_);
#pragma unroll
    for (int i = 0; i < MY_ROWS; ++i)
      row_[i] = operand.row(first_row + (ALONG_K ? line : chunk * Tile::CHUNK) + i * ROW_STEP);
  }

  // Starts one of the PARTS of a step's copies; the parts follow each other. Behind the end zeros are copied.
  __device__ __forceinline__ void start(Buffer& buffer, int part) {
#pragma unroll
    for (int copy = 0; copy < COPIES; ++copy) {
      if (copy * SPREAD / COPIES != part) continue;
      const int i = copy % MY_ROWS, j = copy / MY_ROWS;
      if (i == 0) depth_ = operand_.depth(place_);
      const Location from = operand_.locate(row_[i], depth_);
      const int offset = ALONG_K ? i * ACROSS + j * ALONG : i * ALONG + j * ACROSS;
      ptx::start_copy(buffer.at + target_ + offset, operand_.data + from.offset, from.inside && k_ < end_);
      if (i == MY_ROWS - 1) {
        operand_.advance(place_, DEPTH_STEP);
        k_ += DEPTH_STEP;
      }
    }
  }

 private:
  static constexpr bool ALONG_K = Operand::ALONG_K;
  // 128 bytes, or as many of them as divide the line: no less than a sector.
  static constexpr int LANES = Buffer::PERIOD;
  static constexpr int STRIDE = Tile::THREADS / LANES;
  static constexpr int PASSES_ALONG = Buffer::CHUNKS / LANES, PASSES_ACROSS = Buffer::LINES / STRIDE;
  static constexpr int MY_ROWS = ALONG_K ? PASSES_ACROSS : PASSES_ALONG;
  static constexpr int MY_DEPTHS = ALONG_K ? PASSES_ALONG : PASSES_ACROSS;
  static constexpr int COPIES = MY_ROWS * MY_DEPTHS;
  // The parts of a step that start copies: not the last, if the next step already needs what they bring.
  static constexpr int SPREAD = Tile::PARTS - (Tile::STAGES == 2);
  static constexpr int ROW_STEP = ALONG_K ? STRIDE : LANES * Tile::CHUNK;
  // In shared memory, between the chunks of a thread.
  static constexpr int ACROSS = STRIDE * Buffer::CHUNKS * Tile::CHUNK, ALONG = LANES * Tile::CHUNK;
  static_assert(Buffer::CHUNKS % LANES == 0 && Buffer::LINES % STRIDE == 0,
                "threads must share the copies evenly");
  static_assert(STRIDE % 8 == 0 && LANES % Buffer::PERIOD == 0, "all chunks of a thread are permuted alike");

 public:
  // Between the k of a thread's depths, in a step and from step to step.
  static constexpr int DEPTH_STEP = ALONG_K ? LANES * Tile::CHUNK : STRIDE;
  static_assert(MY_DEPTHS * DEPTH_STEP == Tile::BLOCK_K, "depths must be evenly spaced");

 private:
  const Operand& operand_;
  uint32_t target_;  // offset of the thread's first chunk in a buffer
  uint32_t k_, end_;
  typename Operand::Place place_;
  typename Operand::DepthPart depth_;
  typename Operand::RowPart row_[MY_ROWS];
};

// A lane's share of its warp's sums, and the arithmetic on them.
template <class Tile>
class TensorProduct {
  using T = typename Tile::Element;
  static constexpr int FRAGMENTS_M = Tile::WARP_M / 16, FRAGMENTS_N = Tile::WARP_N / 8;

 public:
  // The factors of PRODUCT_K of k, as mma.sync wants them; those of B are in pairs.
  struct Fragments {
    ptx::Matrices a[FRAGMENTS_M], b[FRAGMENTS_N / 2];
  };

  __device__ __forceinline__ TensorProduct() {
    const int warp = threadIdx.x / 32;
    m_ = warp / Tile::WARPS_N * Tile::WARP_M;
    n_ = warp % Tile::WARPS_N * Tile::WARP_N;
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) {
#pragma unroll
        for (int l = 0; l < 4; ++l) sum_[i][j][l] = 0.0f;
      }
    }
  }

  // Adds a step's products. Calls between(part) for each of its PARTS, after the loads from shared memory that
  // its products wait for.
  template <class BufferA, class BufferB, class Between>
  __device__ __forceinline__ void accumulate(const BufferA& a, const BufferB& b, const Between& between) {
#pragma unroll
    for (int part = 0; part < Tile::PARTS; ++part) {
      Fragments fragments;
      load(fragments, a, b, part * Tile::PRODUCT_K);
      between(part);
      multiply(fragments);
    }
  }

  // Called after the last step, when no stage is read any more. TensorShare::offsets() waits for the warp.
  __device__ __forceinline__ void store(TensorResult<Tile>& result) const {
    const int group = threadIdx.x / 4 % 8, in_group = threadIdx.x % 4;
    float* const sums = result.sums[threadIdx.x / 32];
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int place = TensorResult<Tile>::place_of(16 * i + 8 * half + group, 8 * j + 2 * in_group);
          cconvnet::store(sums + place, Vector<2>{{sum_[i][j][2 * half], sum_[i][j][2 * half + 1]}});
        }
      }
    }
  }

  __device__ __forceinline__ void multiply(const Fragments& factors) {
    if constexpr (Tile::PRECISION == Precision::fp32x3) {
      multiply_split(factors);
    } else {
#pragma unroll
      for (int i = 0; i < FRAGMENTS_M; ++i) {
#pragma unroll
        for (int j = 0; j < FRAGMENTS_N; ++j) multiply_add(sum_[i][j], factors.a[i], factors.b[j / 2], j % 2);
      }
    }
  }

 private:
  // The same of floats that are split (split_tf32.cuh).
  __device__ __forceinline__ void multiply_split(const Fragments& factors) {
    SplitMatrices b[FRAGMENTS_N / 2];
#pragma unroll
    for (int j = 0; j < FRAGMENTS_N / 2; ++j) b[j] = split_tf32(factors.b[j]);
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; ++i) {
      const SplitMatrices a = split_tf32(factors.a[i]);
      float part[FRAGMENTS_N][4] = {};
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) multiply_add(part[j], a.small, b[j / 2].big, j % 2);
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) multiply_add(part[j], a.big, b[j / 2].small, j % 2);
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) multiply_add(part[j], a.big, b[j / 2].big, j % 2);
#pragma unroll
      for (int j = 0; j < FRAGMENTS_N; ++j) {
#pragma unroll
        for (int l = 0; l < 4; ++l) sum_[i][j][l] += part[j][l];
      }
    }
  }

  // Adds the product of 16 rows of A and 8 of B, the `half` of its fragment.
  static __device__ __forceinline__ void multiply_add(float (&sum)[4], const ptx::Matrices& a,
                                                      const ptx::Matrices& b, int half) {
    const ptx::Word columns[2] = {b.part[half * 2], b.part[half * 2 + 1]};
    if constexpr (sizeof(T) == 2) {
      ptx::multiply_add_bf16(sum, a.part, columns);
    } else {
      ptx::multiply_add_tf32(sum, a.part, columns);
    }
  }

  template <class BufferA, class BufferB>
  __device__ __forceinline__ void load(Fragments& into, const BufferA& a, const BufferB& b, int k) const {
#pragma unroll
    for (int i = 0; i < FRAGMENTS_M; ++i) into.a[i] = fragment<true>(a, m_, 16 * i, k);
#pragma unroll
    for (int j = 0; j < FRAGMENTS_N / 2; ++j) into.b[j] = fragment<false>(b, n_, 16 * j, k);
  }

  // 16 rows of an operand, from first + more on, and PRODUCT_K of k, in the order that mma.sync wants. Of A
  // the second part is the second 8 rows of the first half of k; of B it is the first 8 rows of the second
  // half. The compiler knows `more` and `k`. Where they are whole periods of the swizzle they are added after
  // it, so that they become part of the instruction. Along a line k is a number of bits that the swizzle
  // XORs too.
  template <bool A, class Buffer>
  static __device__ __forceinline__ ptx::Matrices fragment(const Buffer& buffer, int first, int more, int k) {
    constexpr int LINE = Buffer::CHUNKS * Tile::CHUNK;
    const int lane = threadIdx.x % 32;
    // The matrix whose row this lane's address is.
    const int first_bit = lane / 8 % 2, second_bit = lane / 16;
    const int row_half = A ? first_bit : second_bit, k_half = A ? second_bit : first_bit;
    ptx::Matrices result;
    if constexpr (Buffer::LINES_ALONG_K) {
      static_assert((LINE & (LINE - 1)) == 0, "k must be bits of an offset");
      const int line = first + row_half * 8 + lane % 8;
      result = ptx::load_matrices(buffer.at + (Buffer::offset_of(line, k_half) ^ k) + more * LINE);
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
    if constexpr (Tile::PRECISION == Precision::tf32) {
#pragma unroll
      for (int i = 0; i < 4; ++i) result.part[i] = ptx::to_tf32(result.part[i]);
    }
    return result;
  }

  int m_, n_;
  float sum_[FRAGMENTS_M][FRAGMENTS_N][4];
};

// A thread's share of the finished tile. Neighbouring lanes write the groups of SPAN neighbouring columns, so
// every request for memory is for whole sectors of it.
template <class Tile>
class TensorShare {
 public:
  // The largest power of two that divides a warp's columns, and so its rows begin alike.
  static constexpr int SPAN = Tile::WARP_N & -Tile::WARP_N;
  static constexpr int LANES = SPAN / kGroup, ROWS_AT_ONCE = 32 / LANES;
  static constexpr int ROWS = Tile::WARP_M / ROWS_AT_ONCE, GROUPS = Tile::WARP_N / SPAN;
  static constexpr int AHEAD = GROUPS > 1 ? 2 : ROWS < 8 ? ROWS : 8, UNROLLED = 1;
  static constexpr bool REDUCES = true;
  static constexpr int MY_SUM_ROWS = kSumRows / ROWS_AT_ONCE, STRANDS = kSumStrands / ROWS_AT_ONCE;
  static constexpr int ROW_LANES = LANES;
  static_assert(LANES <= 32 && ROWS % AHEAD == 0, "a row's columns must be written at once");
  static_assert(MY_SUM_ROWS % AHEAD == 0 && AHEAD % STRANDS == 0,
                "rows read at once are whole strands' turns");

  __device__ __forceinline__ explicit TensorShare(TensorResult<Tile>& result)
      : sums_(result.sums[threadIdx.x / 32]), offsets_(result.offsets[threadIdx.x / 32]) {}

  // As store_tile asks. An offset may take divisions, so each lane computes those of its own rows for all.
  template <class Layout>
  __device__ __forceinline__ auto offsets(const Layout& layout, uint32_t first_m, int gemm_m) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = lane; i < Tile::WARP_M; i += 32) {
      const uint32_t m = first_m + warp_m() + i;
      offsets_[i] = m < static_cast<uint32_t>(gemm_m) ? layout.row(m) : kOutside;
    }
    __syncwarp();
    return [this](int i) { return offsets_[row_of(i)]; };
  }
  __device__ __forceinline__ int row(int i) const { return warp_m() + row_of(i); }
  __device__ __forceinline__ int first_row(int i) const { return warp_m() + i * ROWS_AT_ONCE; }
  __device__ __forceinline__ int column(int j) const {
    return threadIdx.x / 32 % Tile::WARPS_N * Tile::WARP_N + column_of(j);
  }
  __device__ __forceinline__ Vector<kGroup> sums(int i, int j) const { return load<kGroup>(place(i, j)); }
  __device__ __forceinline__ void keep(int i, int j, const Vector<kGroup>& values) const {
    store(place(i, j), values);
  }

 private:
  // In the warp's part of the tile.
  static __device__ __forceinline__ int row_of(int i) { return threadIdx.x % 32 / LANES + i * ROWS_AT_ONCE; }
  static __device__ __forceinline__ int column_of(int j) { return threadIdx.x % LANES * kGroup + j * SPAN; }
  __device__ __forceinline__ float* place(int i, int j) const {
    return sums_ + TensorResult<Tile>::place_of(row_of(i), column_of(j));
  }
  static __device__ __forceinline__ int warp_m() { return threadIdx.x / 32 / Tile::WARPS_N * Tile::WARP_M; }

  float* sums_;
  uint32_t* offsets_;
};

// The tile whose first row and column of C are first_m and first_n.
template <class Tile, class A, class B>
__device__ __forceinline__ TensorShare<Tile> multiply_tensor_tile(const A& a, const B& b, uint32_t first_m,
                                                                  uint32_t first_n, Steps steps) {
  auto& memory = launch_shared_memory<TensorMemory<Tile, A, B>>();
  TensorLoader<Tile, Tile::BLOCK_M, A> loader_a(a, first_m, steps);
  TensorLoader<Tile, Tile::BLOCK_N, B> loader_b(b, first_n, steps);
  TensorProduct<Tile> product;
  const auto start = [&](int stage, int part) {
    loader_a.start(memory.stage[stage].a, part);
    loader_b.start(memory.stage[stage].b, part);
  };

#pragma unroll
  for (int step = 0; step < Tile::STAGES - 1; ++step) {
#pragma unroll
    for (int part = 0; part < Tile::PARTS; ++part) start(step, part);
    ptx::close_copy_group();
  }
  int now = 0, free = Tile::STAGES - 1;
  for (int step = 0; step < steps.count; ++step) {
    ptx::wait_for_copies<Tile::STAGES - 2>();
    __syncthreads();
    // The free stage was last read in the step before, and all threads have passed its end.
    product.accumulate(memory.stage[now].a, memory.stage[now].b, [&](int part) { start(free, part); });
    ptx::close_copy_group();
    free = now;
    now = now + 1 == Tile::STAGES ? 0 : now + 1;
  }
  // Copies of zeros behind the end may still be on their way.
  ptx::wait_for_copies<0>();
  __syncthreads();
  product.store(memory.result);
  return TensorShare<Tile>(memory.result);
}

}  // namespace cconvnet
