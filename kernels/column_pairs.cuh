// The rows of a matrix reduced to a pair of numbers for each column: the mean and the sum of squared distances
// from it, or two sums.
//
// The order is that of column_sums.cuh, which depends on the number of rows alone. Each group of 32
// neighbouring rows has 8 strands of every eighth row. A tree merges the pairs of the strands. The pairs of the
// groups are rows too, which are reduced in the same way, until one is left. The rows of a strand are in
// registers at once, so their mean comes first, then their squared distances from it. The squares of the values
// themselves would cancel.
#pragma once

#include "column_sums.cuh"

namespace cconvnet {

template <int WIDTH>
struct Pair {
  Vector<WIDTH> first, second;
};

// The mean of some rows and the sum of their squared distances from it. Source of the merge: Chan, Golub and
// LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
struct Moments {
  struct Weights {
    float share, product;  // of the second rows in all; times the first
  };

  static __device__ __forceinline__ Weights weights(int rows, int others) {
    const float share = others > 0 ? static_cast<float>(others) / static_cast<float>(rows + others) : 0.0f;
    return {share, share * static_cast<float>(rows)};
  }

  static __device__ __forceinline__ void merge(float& mean, float& squares, float other_mean,
                                               float other_squares, const Weights& weights) {
    // Rows that are missing have no mean.
    const float apart = weights.share > 0.0f ? other_mean - mean : 0.0f;
    mean = fmaf(apart, weights.share, mean);
    squares = fmaf(apart * apart, weights.product, squares + other_squares);
  }
};

// The moments of one strand's first `rows` rows; value(l) is the l-th.
template <int WIDTH, class Value>
__device__ __forceinline__ Pair<WIDTH> moments_of(int rows, const Value& value) {
  const float share = rows > 0 ? 1.0f / static_cast<float>(rows) : 0.0f;
  Pair<WIDTH> moments = {zeros<WIDTH>(), zeros<WIDTH>()};
#pragma unroll
  for (int l = 0; l < kStrandRows; ++l) {
    if (l < rows) add_to(moments.first, value(l));
  }
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) moments.first.lane[i] *= share;
#pragma unroll
  for (int l = 0; l < kStrandRows; ++l) {
    if (l >= rows) continue;
    const Vector<WIDTH> of = value(l);
#pragma unroll
    for (int i = 0; i < WIDTH; ++i) {
      const float distance = of.lane[i] - moments.first.lane[i];
      moments.second.lane[i] = fmaf(distance, distance, moments.second.lane[i]);
    }
  }
  return moments;
}

struct Sums {
  struct Weights {};

  static __device__ __forceinline__ Weights weights(int, int) { return {}; }

  static __device__ __forceinline__ void merge(float& first, float& second, float other_first,
                                               float other_second, const Weights&) {
    first += other_first;
    second += other_second;
  }
};

template <class Merge, int WIDTH>
__device__ __forceinline__ void merge_into(Pair<WIDTH>& pair, int& rows, const Pair<WIDTH>& other,
                                           int other_rows) {
  const auto weights = Merge::weights(rows, other_rows);
#pragma unroll
  for (int i = 0; i < WIDTH; ++i) {
    Merge::merge(pair.first.lane[i], pair.second.lane[i], other.first.lane[i], other.second.lane[i], weights);
  }
  rows += other_rows;
}

// The lane of the lower strand keeps `low` and gets the other's in the place of `high`; the lane of the upper
// strand the other way round. So the lower strand comes first in both.
template <int APART>
__device__ __forceinline__ void exchange(bool upper, float& low, float& high) {
  const float theirs = __shfl_xor_sync(kFullWarp, upper ? low : high, APART * kTileVectors);
  low = upper ? theirs : low;
  high = upper ? high : theirs;
}

// Merges the strands of a warp as add_strands adds them. `rows` are the strand's, and then all.
template <class Merge, int STRANDS, int WIDTH>
__device__ __forceinline__ Pair<1> merge_strands(const Pair<WIDTH>& strand, int s, int& rows) {
  if constexpr (STRANDS == 1) {
    static_assert(WIDTH == 1, "a vector must have no more columns than there are strands");
    return strand;
  } else {
    constexpr int APART = STRANDS / 2, KEPT = (WIDTH + 1) / 2;
    const bool upper = s & APART;
    Pair<KEPT> kept, given;
#pragma unroll
    for (int i = 0; i < KEPT; ++i) {
      const int high = WIDTH - KEPT + i;
      kept.first.lane[i] = strand.first.lane[i];
      kept.second.lane[i] = strand.second.lane[i];
      given.first.lane[i] = strand.first.lane[high];
      given.second.lane[i] = strand.second.lane[high];
      exchange<APART>(upper, kept.first.lane[i], given.first.lane[i]);
      exchange<APART>(upper, kept.second.lane[i], given.second.lane[i]);
    }
    const int their_rows = __shfl_xor_sync(kFullWarp, rows, APART * kTileVectors);
    int lower_rows = upper ? their_rows : rows;
    merge_into<Merge>(kept, lower_rows, given, upper ? rows : their_rows);
    rows = lower_rows;
    return merge_strands<Merge, APART>(kept, s, rows);
  }
}

// The rows of a strand, every eighth.
struct StrandRows {
  uint32_t first;  // may reach 2^31
  int left;        // rows from the first on
  int k, column;

  __device__ __forceinline__ bool has(int l) const { return l * kSumStrands < left; }
  __device__ __forceinline__ int row(int l) const { return static_cast<int>(first + l * kSumStrands); }
  __device__ __forceinline__ int at(int l) const { return row(l) * k + column; }
  __device__ __forceinline__ int count() const {
    int rows = 0;
#pragma unroll
    for (int l = 0; l < kStrandRows; ++l) rows += has(l);
    return rows;
  }
};

// A source is what is reduced: `strand` returns the pair of a strand, and how many rows of the problem that
// is. `columns` is what it needs of its columns.

// Pairs of `unit` rows each, in memory.
template <class Merge_>
struct Pairs {
  using Merge = Merge_;
  const float *first, *second;
  int unit, counted;

  template <int WIDTH>
  struct Columns {};

  bool aligned() const { return cconvnet::aligned(first, second); }

  template <int WIDTH>
  __device__ __forceinline__ Columns<WIDTH> columns(int) const {
    return {};
  }

  template <int WIDTH>
  __device__ __forceinline__ Pair<WIDTH> strand(const StrandRows& strand, const Columns<WIDTH>&,
                                                int& rows) const {
    Pair<WIDTH> pairs[kStrandRows];
    int of[kStrandRows];
#pragma unroll
    for (int l = 0; l < kStrandRows; ++l) {
      pairs[l] = {zeros<WIDTH>(), zeros<WIDTH>()};
      of[l] = 0;
      if (!strand.has(l)) continue;
      pairs[l] = {load<WIDTH>(first + strand.at(l)), load<WIDTH>(second + strand.at(l))};
      of[l] = max(0, min(unit, counted - strand.row(l) * unit));
    }
#pragma unroll
    for (int apart = 1; apart < kStrandRows; apart *= 2) {
#pragma unroll
      for (int l = 0; l < kStrandRows; l += 2 * apart) {
        merge_into<Merge>(pairs[l], of[l], pairs[l + apart], of[l + apart]);
      }
    }
    rows = of[0];
    return pairs[0];
  }
};

// Where pairs are written: rows of two matrices, or, with `unbiased`, the statistics.
struct PairDestination {
  float *first, *second, *unbiased;
  int counted;

  __device__ __forceinline__ void store(int at, const Pair<1>& pair) const {
    first[at] = pair.first.lane[0];
    if (!unbiased) {
      second[at] = pair.second.lane[0];
      return;
    }
    second[at] = pair.second.lane[0] / static_cast<float>(counted);
    unbiased[at] = pair.second.lane[0] / static_cast<float>(max(1, counted - 1));
  }
};

template <int WIDTH>
struct ReductionShared {
  float first[kSumStrands][kTileVectors * WIDTH], second[kSumStrands][kTileVectors * WIDTH];
  int rows[kSumStrands];
};

// As column_sums: a warp has a group, or a block a group of groups. `rows` are the source's that there are.
template <int WIDTH, class Source>
__global__ void __launch_bounds__(kThreads, 1)
    column_pairs(ColumnSumsArguments args, Source source, PairDestination to) {
  using Merge = typename Source::Merge;
  auto& shared = shared_memory<ReductionShared<WIDTH>>();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int vector = lane % kTileVectors, strand = lane / kTileVectors;
  int tile;
  const int block = args.tiles.divide(blockIdx.x, tile);
  const int first_column = tile * kTileVectors * WIDTH, column = first_column + vector * WIDTH;
  const bool has_columns = column < args.k;
  const int own = vector * WIDTH + strand * WIDTH / kSumStrands;
  const bool writes = has_columns && strand % (kSumStrands / WIDTH) == 0;
  typename Source::template Columns<WIDTH> columns;
  if (has_columns) columns = source.template columns<WIDTH>(column);

  const auto pair_of_group = [&](int group, int& rows) {
    const uint32_t row = static_cast<uint32_t>(group) * kSumRows + strand;
    const int left = has_columns ? static_cast<int>(args.rows - row) : 0;
    const Pair<WIDTH> pair = source.template strand<WIDTH>({row, left, args.k, column}, columns, rows);
    return merge_strands<Merge, kSumStrands>(pair, strand, rows);
  };

  if (!args.groups_of_groups) {
    const int group = block * kWarps + warp;
    if (group >= args.groups) return;
    int rows;
    const Pair<1> pair = pair_of_group(group, rows);
    if (writes) to.store(group * args.k + first_column + own, pair);
    return;
  }
  // A strand of four groups: pairs of two, merged. Groups beyond the last have no rows.
  Pair<1> pair = {}, two = {};
  int rows = 0, rows_of_two = 0;
#pragma unroll 1
  for (int i = 0; i < kStrandRows; ++i) {
    int rows_of_one;
    const Pair<1> one = pair_of_group(block * kSumRows + warp + i * kWarps, rows_of_one);
    if (i % 2 == 0) {
      two = one;
      rows_of_two = rows_of_one;
      continue;
    }
    merge_into<Merge>(two, rows_of_two, one, rows_of_one);
    if (i == 1) {
      pair = two;
      rows = rows_of_two;
    } else {
      merge_into<Merge>(pair, rows, two, rows_of_two);
    }
  }
  if (writes) {
    shared.first[warp][own] = pair.first.lane[0];
    shared.second[warp][own] = pair.second.lane[0];
  }
  if (lane == 0) shared.rows[warp] = rows;
  __syncthreads();
  const int mine = threadIdx.x;
  if (mine >= kTileVectors * WIDTH || first_column + mine >= args.k) return;
  Pair<1> of[kSumStrands];
  int rows_of[kSumStrands];
#pragma unroll
  for (int s = 0; s < kSumStrands; ++s) {
    of[s] = {{shared.first[s][mine]}, {shared.second[s][mine]}};
    rows_of[s] = shared.rows[s];
  }
#pragma unroll
  for (int apart = kSumStrands / 2; apart > 0; apart /= 2) {
#pragma unroll
    for (int s = 0; s < apart; ++s) merge_into<Merge>(of[s], rows_of[s], of[s + apart], rows_of[s + apart]);
  }
  to.store(block * args.k + first_column + mine, of[0]);
}

template <int WIDTH, class Source>
void launch_column_pairs(const BiasProblem& problem, int rows, const Source& source,
                         const PairDestination& to, Stream stream) {
  const bool groups_of_groups = RowsSummed(problem).groups_of_groups;
  const int64_t tiles = ceil_div(problem.k, kTileVectors * WIDTH);
  const int64_t blocks = tiles * ceil_div(problem.rows, groups_of_groups ? kGroupsRows : kBlockRows);
  const ColumnSumsArguments args = {static_cast<uint32_t>(rows),
                                    static_cast<int>(ceil_div(problem.rows, kSumRows)), problem.k,
                                    Divider(static_cast<int>(tiles)), groups_of_groups};
  CCONVNET_LAUNCH((column_pairs<WIDTH, Source>), dim3(static_cast<unsigned>(blocks)), kThreads, stream, args,
                  source, to);
}

// Reduces the first `rows` rows of the source to one. The launches are those of all rows of the problem, so that
// a short batch needs no more workspace: groups without rows change no bit. A row of the source has `unit` rows
// of the batch.
template <class T, class Source>
void reduce_rows(const BiasProblem& problem, int rows, int unit, const Source& source,
                 const PairDestination& last, float* workspace, Stream stream) {
  const RowsSummed summed(problem);
  const BiasProblem rest = {summed.left, problem.k};
  const bool is_last = rest.rows == 1;
  const PairDestination to =
      is_last ? last : PairDestination{workspace, workspace + rest.count(), nullptr, 0};
  if (problem.k % kVectorWidth<T> == 0 && source.aligned()) {
    launch_column_pairs<kVectorWidth<T>>(problem, rows, source, to, stream);
  } else {
    launch_column_pairs<1>(problem, rows, source, to, stream);
  }
  if (is_last) return;
  const int larger = unit * (summed.groups_of_groups ? kGroupsRows : kSumRows);
  const Pairs<typename Source::Merge> pairs = {to.first, to.second, larger, last.counted};
  reduce_rows<float>(rest, rest.rows, larger, pairs, last, workspace + 2 * int64_t{rest.count()}, stream);
}

// Reduces the moments of groups of rows, in `pairs`: those that the kernel of a product made of all groups of the
// problem's rows. `pairs` has room for the floats between the launches behind them.
inline void reduce_groups(const BatchNormProblem& problem, const PairDestination& last, float* pairs,
                          Stream stream) {
  const BiasProblem groups = groups_of_rows({problem.rows, problem.k});
  const Pairs<Moments> source = {pairs, pairs + groups.count(), kSumRows, problem.counted};
  reduce_rows<float>(groups, groups.rows, kSumRows, source, last, pairs + 2 * int64_t{groups.count()},
                     stream);
}

// The floats between the launches.
inline int64_t floats_between_pairs(const BiasProblem& problem) {
  return 2 * floats_between(problem);
}

}  // namespace cconvnet
