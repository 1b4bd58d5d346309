// A bias added to the rows of a matrix, an elementwise kernel (core/vector.cuh), and its gradient, db[k] =
// sum over the rows of dy[rows,k]. The gradient is computed alone or together with that of a ReLU after the
// bias.
//
// For the gradient, a block sums a chunk of rows over a tile of a few vectors' columns. Its threads form a
// grid. A row of threads reads a row of the tile, so that neighbouring threads read neighbouring addresses.
// Each thread adds up every (rows of threads)-th row, and then the rows of threads are added pairwise in
// shared memory.
//
// Many rows need many blocks to fill the GPU. So they are divided into chunks whose sums go to the workspace,
// a matrix[chunks,k], which a second launch of the same kernel sums. Chunks, tiles and the order of every
// addition depend on the problem and the type alone, never on the GPU or on the addresses of the arrays.
#include "core/select.h"
#include "core/vector.cuh"
#include "neuron.h"

namespace cconvnet {
namespace {

// ---- addition -------------------------------------------------------------------------------------------

// Vectors need a k that they divide, so that none reaches over the end of a row.
template <class T>
struct BiasAdd {
  const T* x;
  const float* bias;
  Divider k;
  bool relu;
  T* y;

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

// The matrix to sum. Fetched is the data that a thread reads of it at once. A thread fetches BATCH times
// before it waits for the first, so that several reads are in flight.
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

// The ReLU's gradient, which is also written.
template <class T>
struct ReluGradients {
  static constexpr int BATCH = 2;
  const T* y;
  const T* dy;
  float scale;
  T* dx;

  template <int WIDTH>
  struct Fetched {
    Vector<WIDTH> y, dy;
  };

  bool aligned() const { return cconvnet::aligned(y, dy, dx); }

  template <int WIDTH, bool ALIGNED>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int64_t i) const {
    return {load_from<WIDTH, ALIGNED>(y + i), load_from<WIDTH, ALIGNED>(dy + i)};
  }

  template <int WIDTH, bool ALIGNED>
  __device__ __forceinline__ Vector<WIDTH> term(int64_t i, const Fetched<WIDTH>& fetched) const {
    Vector<WIDTH> gradient;
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      // Rounded by itself: the product must not become part of the sum.
      const float scaled = __fmul_rn(scale, fetched.dy.lane[j]);
      gradient.lane[j] = fetched.y.lane[j] > 0.0f ? scaled : 0.0f;
    }
    store_to<ALIGNED>(dx + i, gradient);
    return rounded_to<T>(gradient);
  }
};

template <int WIDTH>
struct ColumnSumsShared {
  Vector<WIDTH> sums[kThreads];
};

// sums[blockIdx.y, k] = the sum over rows blockIdx.y*chunk_rows .. +chunk_rows of source[rows,k], for the
// tile of `tile_vectors` vectors that begins at vector blockIdx.x * tile_vectors.
template <int WIDTH, bool ALIGNED, class Source>
__global__ void __launch_bounds__(kThreads)
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

template <class Source>
struct ColumnSumsArguments {
  Source source;
  float* db;
  void* workspace;
  bool aligned() const { return source.aligned(); }
};

// The first launch reads vectors of WIDTH elements. The second, which sums the chunks' floats, has a width of
// its own.
template <int WIDTH, class Source>
void launch(const BiasProblem& problem, const ColumnSumsArguments<Source>& args, Stream stream) {
  const Chunks chunks(problem);
  float* const sums = chunks.count == 1 ? args.db : static_cast<float*>(args.workspace);
  launch_column_sums<WIDTH>(problem.rows, problem.k, chunks.rows, args.source, sums, stream);
  if (chunks.count == 1) return;
  const Values<float> partial{sums};
  if (problem.k % kVectorWidth<float> == 0) {
    launch_column_sums<kVectorWidth<float>>(chunks.count, problem.k, chunks.count, partial, args.db, stream);
  } else {
    launch_column_sums<1>(chunks.count, problem.k, chunks.count, partial, args.db, stream);
  }
}

// ---- selection ------------------------------------------------------------------------------------------

size_t chunks_workspace(const BiasProblem& problem) {
  const Chunks chunks(problem);
  return chunks.count == 1 ? 0 : sizeof(float) * chunks.count * problem.k;
}

// No row needs alignment: the order of additions depends on the width, and must not depend on the addresses
// of the arrays.
template <class T>
bool vectors_divide_columns(const BiasProblem& problem) {
  return problem.k % kVectorWidth<T> == 0;
}

// T is what the source reads.
template <class T, class Source>
const SelectionTable<BiasProblem, ColumnSumsArguments<Source>>& sums_table(const char* operation) {
  static const std::string name = std::string(operation) + "_" + kElementName<T>;
  static const SelectionTable<BiasProblem, ColumnSumsArguments<Source>> table(
      operation,
      {{name, false, vectors_divide_columns<T>, always, chunks_workspace, launch<kVectorWidth<T>, Source>},
       {name + "_scalar", false, always, always, chunks_workspace, launch<1, Source>}});
  return table;
}

}  // namespace

template <class T>
void bias_add(const BiasProblem& problem, const T* x, const float* bias, bool relu, T* y, Stream stream) {
  const bool vectors = problem.k % kVectorWidth<T> == 0 && aligned(x, bias, y);
  launch_elementwise<T>(problem.count(), vectors, stream, BiasAdd<T>{x, bias, Divider(problem.k), relu, y});
}

size_t bias_grad_workspace(const BiasProblem& problem) {
  return chunks_workspace(problem);
}

template <class T>
void bias_grad(const BiasProblem& problem, const T* dy, float* db, void* workspace, Stream stream) {
  sums_table<T, Values<T>>("bias_grad").run(problem, {{dy}, db, workspace}, stream, nullptr);
}

template <class T>
void relu_bias_backward(const BiasProblem& problem, const T* y, const T* dy, float scale, T* dx, float* db,
                        void* workspace, Stream stream) {
  sums_table<T, ReluGradients<T>>("relu_bias_backward")
      .run(problem, {{y, dy, scale, dx}, db, workspace}, stream, nullptr);
}

template void bias_add(const BiasProblem&, const float*, const float*, bool, float*, Stream);
template void bias_grad(const BiasProblem&, const float*, float*, void*, Stream);
template void relu_bias_backward(const BiasProblem&, const float*, const float*, float, float*, float*, void*,
                                 Stream);

template void bias_add(const BiasProblem&, const bfloat16*, const float*, bool, bfloat16*, Stream);
template void bias_grad(const BiasProblem&, const bfloat16*, float*, void*, Stream);
template void relu_bias_backward(const BiasProblem&, const bfloat16*, const bfloat16*, float, bfloat16*,
                                 float*, void*, Stream);

}  // namespace cconvnet
