// A bias added to the rows of a matrix, an elementwise kernel (vector.cuh), and its gradient,
// db[k] = sum over the rows of dy[rows,k].
//
// For the gradient, a block sums a chunk of rows over a tile of a few vectors' columns. Its threads stand in
// a grid, a row of threads reading a row of the tile, so that neighbouring threads read neighbouring
// addresses; each thread adds up every (rows of threads)-th row, and then the rows of threads are added
// pairwise in shared memory.
//
// With many rows, many blocks are needed to fill the GPU, so the rows are split into chunks whose sums go to
// the workspace, a matrix[chunks,k] that a second launch of the same kernel sums. The chunks depend on the
// problem alone, never on the GPU, and so does the order of every addition.
#include "neuron.h"
#include "vector.cuh"

namespace cconvnet {
namespace {

// ---- addition -------------------------------------------------------------------------------------------

// Vectors need a k that they divide, so that none reaches over the end of a row.
struct BiasAdd {
  const float* x;
  const float* bias;
  Divider k;
  bool relu;
  float* y;

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

// ---- gradient -------------------------------------------------------------------------------------------

constexpr int kWideTile = 32;        // vectors; for many rows: long stretches of memory, few idle threads
constexpr int kNarrowTile = 4;       // vectors; for few rows: more blocks, and more threads to share the rows
constexpr int kFewRows = 512;        // up to here one launch serves
constexpr int kMinChunkRows = 128;   // shorter chunks would spend their time in the additions between threads
constexpr int kTargetBlocks = 1024;  // about what a large GPU holds at once: 8 on each of 132 multiprocessors

// ceil(rows / chunk_rows) chunks.
struct Chunks {
  int count = 1, rows;

  explicit Chunks(const BiasProblem& problem) : rows(problem.rows) {
    if (problem.rows <= kFewRows) return;
    const int64_t tiles = ceil_div(problem.k, kWideTile * kVectorWidth);
    const int64_t wanted = std::max<int64_t>(1, kTargetBlocks / tiles);
    const int64_t possible = ceil_div(problem.rows, kMinChunkRows);
    rows = static_cast<int>(ceil_div(problem.rows, std::min(wanted, possible)));
    count = static_cast<int>(ceil_div(problem.rows, rows));
  }
};

template <int WIDTH>
struct ColumnSumsShared {
  Vector<WIDTH> sums[kThreads];
};

// sums[blockIdx.y, k] = the sum over rows blockIdx.y*chunk_rows .. +chunk_rows of values[rows,k], for the
// tile of `tile_columns` vectors that begins at column blockIdx.x * tile_columns.
template <int WIDTH>
__global__ void __launch_bounds__(kThreads)
    column_sums(int rows, int k, int chunk_rows, int tile_columns, const float* values, float* sums) {
  Vector<WIDTH>* shared = shared_memory<ColumnSumsShared<WIDTH>>().sums;
  const int thread_rows = kThreads / tile_columns;
  const int row = threadIdx.x / tile_columns;
  const int tile_column = threadIdx.x - row * tile_columns;
  const int column = (blockIdx.x * tile_columns + tile_column) * WIDTH;
  const bool active = row < thread_rows && column < k;

  Vector<WIDTH> sum = zeros<WIDTH>();
  if (active) {
    const int begin = blockIdx.y * chunk_rows;
    const int64_t step = int64_t{thread_rows} * k;
    const float* address = values + (int64_t{begin} + row) * k + column;
    // Four loads are on their way at once; the additions keep the order of the rows.
#pragma unroll 4
    for (int left = min(chunk_rows, rows - begin) - row; left > 0; left -= thread_rows) {
      add_to(sum, load<WIDTH>(address));
      address += step;
    }
  }
  shared[threadIdx.x] = sum;

  int count = thread_rows;
  while (count > 1) {
    const int half = (count + 1) / 2;
    __syncthreads();
    if (row + half < count) add_to(shared[threadIdx.x], shared[threadIdx.x + half * tile_columns]);
    count = half;
  }
  if (active && row == 0) store(sums + int64_t{blockIdx.y} * k + column, shared[threadIdx.x]);
}

void launch_column_sums(int rows, int k, int chunk_rows, const float* values, float* sums, Stream stream) {
  const int max_tile_columns = rows == chunk_rows && rows <= kTargetBlocks ? kNarrowTile : kWideTile;
  const int width = k % kVectorWidth == 0 && aligned(values, sums) ? kVectorWidth : 1;
  const int columns = k / width;
  const int tiles = static_cast<int>(ceil_div(columns, max_tile_columns));
  const int tile_columns = static_cast<int>(ceil_div(columns, tiles));  // equal tiles: few idle threads
  const dim3 grid(tiles, static_cast<unsigned>(ceil_div(rows, chunk_rows)));
  if (width == kVectorWidth) {
    CCONVNET_LAUNCH((column_sums<kVectorWidth>), grid, kThreads, stream, rows, k, chunk_rows, tile_columns,
                    values, sums);
  } else {
    CCONVNET_LAUNCH((column_sums<1>), grid, kThreads, stream, rows, k, chunk_rows, tile_columns, values,
                    sums);
  }
}

}  // namespace

void bias_add(const BiasProblem& problem, const float* x, const float* bias, bool relu, float* y,
              Stream stream) {
  const bool vectors = problem.k % kVectorWidth == 0 && aligned(x, bias, y);
  launch_elementwise(problem.count(), vectors, stream, BiasAdd{x, bias, Divider(problem.k), relu, y});
}

size_t bias_grad_workspace(const BiasProblem& problem) {
  const Chunks chunks(problem);
  return chunks.count == 1 ? 0 : sizeof(float) * chunks.count * problem.k;
}

void bias_grad(const BiasProblem& problem, const float* dy, float* db, void* workspace, Stream stream) {
  const Chunks chunks(problem);
  if (chunks.count == 1) {
    launch_column_sums(problem.rows, problem.k, problem.rows, dy, db, stream);
    return;
  }
  float* sums = static_cast<float*>(workspace);
  launch_column_sums(problem.rows, problem.k, chunks.rows, dy, sums, stream);
  launch_column_sums(chunks.count, problem.k, chunks.count, sums, db, stream);
}

}  // namespace cconvnet
