// The sum of a matrix over its rows, db[k] = sum of source[rows,k], where the matrix is in memory or is computed
// and written on the way.
//
// A block sums a chunk of rows over a tile of a few vectors' columns. Its threads form a grid. A row of threads
// reads a row of the tile, so that neighbouring threads read neighbouring addresses. Each thread adds up every
// (rows of threads)-th row, and then the rows of threads are added pairwise in shared memory.
//
// Many rows need many blocks to fill the GPU. So they are divided into chunks whose sums go to the workspace,
// a matrix[chunks,k], which a second launch of the same kernel sums. Chunks, tiles and the order of every
// addition depend on the problem and the type alone, never on the GPU or on the addresses of the arrays.
#pragma once

#include "core/select.h"
#include "core/vector.cuh"

namespace cconvnet {

constexpr int kWideTile = 128;       // columns; for many rows: long stretches of memory, few idle threads
constexpr int kNarrowTile = 16;      // columns; for few rows: more blocks, and more threads to share the rows
constexpr int kMaxTileVectors = 32;  // where a vector is one column
constexpr int kFewRows = 512;        // up to here one launch serves
constexpr int kMinChunkRows = 128;   // shorter chunks would spend their time in the additions between threads
constexpr int kTargetBlocks = 1024;  // about what a large GPU holds at once: 8 on each of 132 multiprocessors

// ceil(rows / chunk_rows) chunks.
struct Chunks {
  int count = 1, rows;

  explicit Chunks(const BiasProblem& problem) : rows(problem.rows) {
    if (problem.rows <= kFewRows) return;
    const int64_t tiles = ceil_div(problem.k, kWideTile);
    const int64_t wanted = std::max<int64_t>(1, kTargetBlocks / tiles);
    const int64_t possible = ceil_div(problem.rows, kMinChunkRows);
    rows = static_cast<int>(ceil_div(problem.rows, std::min(wanted, possible)));
    count = static_cast<int>(ceil_div(problem.rows, rows));
  }
};

// A source is what is summed. Fetched is the data that a thread reads of it at once. A thread fetches BATCH
// times before it waits for the first, so that several reads are in flight. This source is in memory.
template <class T>
struct Values {
  static constexpr int BATCH = 4;
  const T* values;

  template <int WIDTH>
  using Fetched = Vector<WIDTH>;

  bool aligned() const { return cconvnet::aligned(values); }

  template <int WIDTH, bool ALIGNED>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int64_t i) const {
    return load_from<WIDTH, ALIGNED>(values + i);
  }

  template <int WIDTH, bool ALIGNED>
  __device__ __forceinline__ Vector<WIDTH> term(int64_t, const Fetched<WIDTH>& fetched) const {
    return fetched;
  }
};

// The gradient before a ReLU and a dropout's scale, as it is written. `mask` is the output.
template <class T, int WIDTH>
__device__ __forceinline__ Vector<WIDTH> masked(Vector<WIDTH> gradient, const Vector<WIDTH>& mask,
                                                float scale) {
#pragma unroll
  for (int j = 0; j < WIDTH; ++j) {
    // Rounded by itself: the product must not become part of a sum.
    const float scaled = __fmul_rn(scale, gradient.lane[j]);
    gradient.lane[j] = mask.lane[j] > 0.0f ? scaled : 0.0f;
  }
  return rounded_to<T>(gradient);
}

// A gradient that is computed, applied to an InputEpilogue, written, and summed. Gradient is a source of the
// values before it, as they are when they are written.
template <class T, class Gradient>
struct InputGradients {
  static constexpr int BATCH = Gradient::BATCH > 1 ? Gradient::BATCH / 2 : 1;
  Gradient gradient;
  const T* masked_by;
  float scale;
  T* dx;

  InputGradients(const Gradient& gradient, const InputEpilogue& epilogue, T* dx)
      : gradient(gradient),
        masked_by(static_cast<const T*>(epilogue.masked_by)),
        scale(epilogue.scale),
        dx(dx) {}

  template <int WIDTH>
  struct Fetched {
    Vector<WIDTH> mask;
    typename Gradient::template Fetched<WIDTH> gradient;
  };

  bool aligned() const { return cconvnet::aligned(masked_by, dx) && gradient.aligned(); }

  template <int WIDTH, bool ALIGNED>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int64_t i) const {
    Fetched<WIDTH> fetched;
    if (masked_by) fetched.mask = load_from<WIDTH, ALIGNED>(masked_by + i);
    fetched.gradient = gradient.template fetch<WIDTH, ALIGNED>(i);
    return fetched;
  }

  template <int WIDTH, bool ALIGNED>
  __device__ __forceinline__ Vector<WIDTH> term(int64_t i, const Fetched<WIDTH>& fetched) const {
    Vector<WIDTH> value = gradient.template term<WIDTH, ALIGNED>(i, fetched.gradient);
    if (masked_by) value = masked<T>(value, fetched.mask, scale);
    store_to<ALIGNED>(dx + i, value);
    return value;
  }
};

template <int WIDTH>
struct ColumnSumsShared {
  Vector<WIDTH> sums[kThreads];
};

// sums[blockIdx.y, k] = the sum over rows blockIdx.y*chunk_rows .. +chunk_rows of source[rows,k], for the
// tile of `tile_vectors` vectors that begins at vector blockIdx.x * tile_vectors.
template <int WIDTH, bool ALIGNED, class Source>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1 nvcc spills registers of pooled gradients
    column_sums(int rows, int k, int chunk_rows, int tile_vectors, Source source, float* sums) {
  Vector<WIDTH>* shared = shared_memory<ColumnSumsShared<WIDTH>>().sums;
  const int thread_rows = kThreads / tile_vectors;
  const int row = threadIdx.x / tile_vectors;
  const int tile_vector = threadIdx.x - row * tile_vectors;
  const int column = (blockIdx.x * tile_vectors + tile_vector) * WIDTH;
  const bool active = row < thread_rows && column < k;

  Vector<WIDTH> sum = zeros<WIDTH>();
  if (active) {
    const int begin = blockIdx.y * chunk_rows;
    const int64_t step = int64_t{thread_rows} * k;
    int64_t i = (int64_t{begin} + row) * k + column;
    for (int left = min(chunk_rows, rows - begin) - row; left > 0; left -= Source::BATCH * thread_rows) {
      typename Source::template Fetched<WIDTH> fetched[Source::BATCH];
#pragma unroll
      for (int j = 0; j < Source::BATCH; ++j) {
        if (j * thread_rows < left) fetched[j] = source.template fetch<WIDTH, ALIGNED>(i + j * step);
      }
#pragma unroll
      for (int j = 0; j < Source::BATCH; ++j) {
        if (j * thread_rows < left) {
          add_to(sum, source.template term<WIDTH, ALIGNED>(i + j * step, fetched[j]));
        }
      }
      i += Source::BATCH * step;
    }
  }
  shared[threadIdx.x] = sum;

  int count = thread_rows;
  while (count > 1) {
    const int half = (count + 1) / 2;
    __syncthreads();
    if (row + half < count) add_to(shared[threadIdx.x], shared[threadIdx.x + half * tile_vectors]);
    count = half;
  }
  if (active && row == 0) store_to<ALIGNED>(sums + int64_t{blockIdx.y} * k + column, shared[threadIdx.x]);
}

template <int WIDTH, class Source>
void launch_column_sums(int rows, int k, int chunk_rows, const Source& source, float* sums, Stream stream) {
  const int max_tile_columns = rows == chunk_rows && rows <= kTargetBlocks ? kNarrowTile : kWideTile;
  const int vectors = k / WIDTH;
  const int max_tile_vectors = std::min(max_tile_columns / WIDTH, kMaxTileVectors);
  const int tiles = static_cast<int>(ceil_div(vectors, max_tile_vectors));
  const int tile_vectors = static_cast<int>(ceil_div(vectors, tiles));  // equal tiles: few idle threads
  const dim3 grid(tiles, static_cast<unsigned>(ceil_div(rows, chunk_rows)));
  if (source.aligned() && aligned(sums)) {
    CCONVNET_LAUNCH((column_sums<WIDTH, true, Source>), grid, kThreads, stream, rows, k, chunk_rows,
                    tile_vectors, source, sums);
  } else {
    CCONVNET_LAUNCH((column_sums<WIDTH, false, Source>), grid, kThreads, stream, rows, k, chunk_rows,
                    tile_vectors, source, sums);
  }
}

// The first launch reads vectors of WIDTH elements. The second, which sums the chunks' floats, has a width of
// its own.
template <int WIDTH, class Source>
void sum_columns(const BiasProblem& problem, const Source& source, float* db, void* workspace,
                 Stream stream) {
  const Chunks chunks(problem);
  float* const sums = chunks.count == 1 ? db : static_cast<float*>(workspace);
  launch_column_sums<WIDTH>(problem.rows, problem.k, chunks.rows, source, sums, stream);
  if (chunks.count == 1) return;
  const Values<float> partial{sums};
  if (problem.k % kVectorWidth<float> == 0) {
    launch_column_sums<kVectorWidth<float>>(chunks.count, problem.k, chunks.count, partial, db, stream);
  } else {
    launch_column_sums<1>(chunks.count, problem.k, chunks.count, partial, db, stream);
  }
}

// With the vectors of a T where they divide the columns. They need no alignment: the order of additions depends
// on the width, and must not depend on the addresses of the arrays.
template <class T, class Source>
void sum_columns_of(const BiasProblem& problem, const Source& source, float* db, void* workspace,
                    Stream stream) {
  if (problem.k % kVectorWidth<T> == 0) {
    sum_columns<kVectorWidth<T>>(problem, source, db, workspace, stream);
  } else {
    sum_columns<1>(problem, source, db, workspace, stream);
  }
}

}  // namespace cconvnet
