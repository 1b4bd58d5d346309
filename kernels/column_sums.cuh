// The sum of a matrix over its rows, db[k] = sum of source[rows,k], where the matrix is in memory or is
// computed and written on the way.
//
// The order of additions depends on the number of rows alone. Each group of 32 neighbouring rows is summed in
// 8 strands of every eighth row, from zero on, and the strands are added like a tree: those 4 apart, 2 apart,
// 1 apart. The sums of the groups are a matrix, which is summed in the same way, until one row is left. So it
// does not matter where these sums are computed: in one launch or in several, over vectors or single columns,
// or already by the kernel of a product, whose tiles of tensor cores sum groups too (gemm/epilogue.cuh).
//
// The lanes of a warp are the 8 strands of a group, over four neighbouring vectors of columns. The warps of a
// block are the 8 strands of a group of groups. Few such blocks would leave most of a GPU idle. Then each warp
// sums one group, and the next launch the groups.
#pragma once

#include "core/row_reduce.cuh"
#include "core/select.h"

namespace cconvnet {

constexpr int kSumStrands = 8, kStrandRows = 4;
constexpr int kSumRows = kSumStrands * kStrandRows;  // of a group
constexpr int kTileVectors = kWarp / kSumStrands;    // of the columns that a block sums
constexpr int kBlockRows = kWarps * kSumRows;        // where a warp has one group
constexpr int kGroupsRows = kSumRows * kSumRows;     // where a block has a group of groups
constexpr int kFewBlocks = 512;                      // they keep a large GPU half busy
constexpr int kUsualTile = kTileVectors * kVectorWidth<bfloat16>;
static_assert(kWarps == kSumStrands, "the warps must be the strands of a group of groups");

// The rows of a launch's output: sums of groups, or of groups of groups.
struct RowsSummed {
  bool groups_of_groups;
  int left;

  explicit RowsSummed(const BiasProblem& problem) {
    const int64_t blocks = ceil_div(problem.rows, kGroupsRows) * ceil_div(problem.k, kUsualTile);
    const int64_t groups = ceil_div(problem.rows, kSumRows);
    groups_of_groups = groups <= kSumRows || groups > kGroupsRows || blocks >= kFewBlocks;
    left = static_cast<int>(groups_of_groups ? ceil_div(groups, kSumRows) : groups);
  }
};

// The matrix of what groups of rows are reduced to.
inline BiasProblem groups_of_rows(const BiasProblem& problem) {
  return {static_cast<int>(ceil_div(problem.rows, kSumRows)), problem.k};
}

// The floats between the launches.
inline int64_t floats_between(BiasProblem problem) {
  int64_t count = 0;
  while ((problem.rows = RowsSummed(problem).left) > 1) count += problem.count();
  return count;
}

// A source is what is summed. Fetched is the data that a thread reads of it at once. A thread fetches BATCH
// times before it waits for the first, so that several reads are in flight, and may do so for GROUPS groups.
// This source is in memory. The sums of groups, floats, are few: their launch waits for memory most of the time.
template <class T>
struct Values {
  static constexpr int BATCH = kStrandRows, GROUPS = std::is_same_v<T, float> ? kStrandRows : 1;
  const T* values;

  template <int WIDTH>
  using Fetched = Vector<WIDTH>;

  bool aligned() const { return cconvnet::aligned(values); }

  template <int WIDTH>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int i) const {
    return load<WIDTH>(values + i);
  }

  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> term(int, const Fetched<WIDTH>& fetched) const {
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

// A gradient that is computed, applied to an InputEpilogue, written, and summed. Gradient is a source, without
// GROUPS, of the values before it, as they are when they are written.
template <class T, class Gradient>
struct InputGradients {
  static constexpr int BATCH = Gradient::BATCH, GROUPS = 1;
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

  template <int WIDTH>
  __device__ __forceinline__ Fetched<WIDTH> fetch(int i) const {
    Fetched<WIDTH> fetched;
    if (masked_by) fetched.mask = load<WIDTH>(masked_by + i);
    fetched.gradient = gradient.template fetch<WIDTH>(i);
    return fetched;
  }

  template <int WIDTH>
  __device__ __forceinline__ Vector<WIDTH> term(int i, const Fetched<WIDTH>& fetched) const {
    Vector<WIDTH> value = gradient.template term<WIDTH>(i, fetched.gradient);
    if (masked_by) value = masked<T>(value, fetched.mask, scale);
    store(dx + i, value);
    return value;
  }
};

// Adds the STRANDS strands of a warp, of which a lane has a vector. Lanes keep halves of the vectors while
// there are any: the lane of strand s returns the sum of column s * WIDTH / STRANDS.
template <int STRANDS, int WIDTH>
__device__ __forceinline__ float add_strands(const Vector<WIDTH>& strand, int s) {
  if constexpr (STRANDS == 1) {
    static_assert(WIDTH == 1, "a vector must have no more columns than there are strands");
    return strand.lane[0];
  } else {
    constexpr int APART = STRANDS / 2, KEPT = (WIDTH + 1) / 2;
    const bool upper = s & APART;
    Vector<KEPT> kept;
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
      const float low = strand.lane[i], high = strand.lane[WIDTH - KEPT + i];
      const float theirs = __shfl_xor_sync(kFullWarp, upper ? low : high, APART * kTileVectors);
      kept.lane[i] = (upper ? high : low) + theirs;
    }
    return add_strands<APART>(kept, s);
  }
}

template <int WIDTH>
struct ColumnSumsShared {
  float strands[kSumStrands][kTileVectors * WIDTH];
};

// A source that reads one row at once has much to compute: its code is not repeated.
template <class Source>
constexpr int kUnrolledTurns = Source::BATCH == 1 ? 1 : kStrandRows / Source::BATCH;

struct ColumnSumsArguments {
  uint32_t rows;
  int groups, k;
  Divider tiles;
  bool groups_of_groups;
};

// sums[i,k] = the sum over the i-th group, or group of groups, of the rows of source[rows,k].
template <int WIDTH, class Source>
__global__ void __launch_bounds__(kThreads, 1)  // without the 1 nvcc spills registers of pooled gradients
    column_sums(ColumnSumsArguments args, Source source, float* sums) {
  auto& strands = shared_memory<ColumnSumsShared<WIDTH>>().strands;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int vector = lane % kTileVectors, strand = lane / kTileVectors;
  int tile;
  const int block = args.tiles.divide(blockIdx.x, tile);
  const int first_column = tile * kTileVectors * WIDTH;
  const int first_group = block * (args.groups_of_groups ? kSumRows : kWarps) + warp;
  const int column = first_column + vector * WIDTH;
  const bool has_columns = column < args.k;
  // Of the tile: the column whose sum the lane has after the addition of strands.
  const int own = vector * WIDTH + strand * WIDTH / kSumStrands;
  const bool writes = has_columns && strand % (kSumStrands / WIDTH) == 0;

  const auto sum_of_group = [&](int group) {
    const uint32_t row = static_cast<uint32_t>(group) * kSumRows + strand;  // may reach 2^31
    const int rows_left = has_columns ? static_cast<int>(args.rows - row) : 0;
    Vector<WIDTH> of_strand = zeros<WIDTH>();
#pragma unroll kUnrolledTurns < Source>
    for (int j = 0; j < kStrandRows; j += Source::BATCH) {
      typename Source::template Fetched<WIDTH> fetched[Source::BATCH];
      const auto at = [&](int l) { return static_cast<int>(row + (j + l) * kSumStrands) * args.k + column; };
      const auto inside = [&](int l) { return (j + l) * kSumStrands < rows_left; };
#pragma unroll
      for (int l = 0; l < Source::BATCH; ++l) {
        if (inside(l)) fetched[l] = source.template fetch<WIDTH>(at(l));
      }
#pragma unroll
      for (int l = 0; l < Source::BATCH; ++l) {
        if (inside(l)) add_to(of_strand, source.template term<WIDTH>(at(l), fetched[l]));
      }
    }
    return add_strands<kSumStrands>(of_strand, strand);
  };

  if (!args.groups_of_groups) {
    if (first_group >= args.groups) return;
    const float sum = sum_of_group(first_group);
    if (writes) sums[first_group * args.k + first_column + own] = sum;
    return;
  }
  // Groups beyond the last add zeros.
  float sum = 0.0f;
#pragma unroll Source::GROUPS
  for (int i = 0; i < kStrandRows; ++i) sum += sum_of_group(first_group + i * kWarps);

  if (writes) strands[warp][own] = sum;
  __syncthreads();
  const int mine = threadIdx.x;
  if (mine >= kTileVectors * WIDTH || first_column + mine >= args.k) return;
  float of[kSumStrands];
#pragma unroll
  for (int s = 0; s < kSumStrands; ++s) of[s] = strands[s][mine];
#pragma unroll
  for (int apart = kSumStrands / 2; apart > 0; apart /= 2) {
#pragma unroll
    for (int s = 0; s < apart; ++s) of[s] += of[s + apart];
  }
  sums[block * args.k + first_column + mine] = of[0];
}

template <int WIDTH, class Source>
void launch_column_sums(const BiasProblem& problem, const Source& source, float* sums, Stream stream) {
  const bool groups_of_groups = RowsSummed(problem).groups_of_groups;
  const int64_t tiles = ceil_div(problem.k, kTileVectors * WIDTH);
  const int64_t blocks = tiles * ceil_div(problem.rows, groups_of_groups ? kGroupsRows : kBlockRows);
  const ColumnSumsArguments args = {static_cast<uint32_t>(problem.rows),
                                    static_cast<int>(ceil_div(problem.rows, kSumRows)), problem.k,
                                    Divider(static_cast<int>(tiles)), groups_of_groups};
  CCONVNET_LAUNCH((column_sums<WIDTH, Source>), dim3(static_cast<unsigned>(blocks)), kThreads, stream, args,
                  source, sums);
}

template <class T, class Source>
void sum_columns_of(const BiasProblem& problem, const Source& source, float* db, void* workspace,
                    Stream stream);

// WIDTH is that of the source's vectors. `workspace` has room for floats_between.
template <int WIDTH, class Source>
void sum_columns(const BiasProblem& problem, const Source& source, float* db, void* workspace,
                 Stream stream) {
  const BiasProblem rest = {RowsSummed(problem).left, problem.k};
  float* const sums = rest.rows == 1 ? db : static_cast<float*>(workspace);
  launch_column_sums<WIDTH>(problem, source, sums, stream);
  if (rest.rows > 1) sum_columns_of<float>(rest, Values<float>{sums}, db, sums + rest.count(), stream);
}

// With the vectors of a T where they divide the columns and the arrays are aligned.
template <class T, class Source>
void sum_columns_of(const BiasProblem& problem, const Source& source, float* db, void* workspace,
                    Stream stream) {
  if (problem.k % kVectorWidth<T> == 0 && source.aligned()) {
    sum_columns<kVectorWidth<T>>(problem, source, db, workspace, stream);
  } else {
    sum_columns<1>(problem, source, db, workspace, stream);
  }
}

}  // namespace cconvnet
