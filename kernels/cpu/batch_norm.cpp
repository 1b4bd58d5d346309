// Batch normalisation of the columns of a matrix, and its gradients.
//
// The rows are divided into chunks of a fixed length, which stay in the cache. A chunk is summed in float: first
// the values, then their distances from the mean and the squares of those. Chunks are merged in order, in
// double: those of a unit by one thread, then the units. So the result does not depend on the number of threads.
//
// Few columns would leave vectors empty. Then several rows are taken as one: column j of a row of `width`
// belongs to column j % k.
#include <algorithm>
#include <cmath>
#include <vector>

#include "api.h"
#include "lanes.h"
#include "neuron.h"
#include "parallel.h"

namespace cconvnet {
namespace {

constexpr int kChunkRows = 64, kUnitRows = 16 * kChunkRows;
constexpr int kTile = 256;         // columns of a chunk that are summed at a time
constexpr int kUsefulWidth = 128;  // columns, from which on no rows are taken together
// Most rows that are taken together: where they are summed, of a chunk whose sums are to be several rows long.
constexpr int kMostSummed = kChunkRows / 8, kMostWritten = 64;

// The rows that are taken as one, a power of two.
int rows_together(int k, int most) {
  int rows = 1;
  while (rows < most && rows * k < kUsefulWidth) rows *= 2;
  return rows;
}

// `values` of k columns repeated for the rows that are taken as one.
std::vector<float> repeated(const float* values, int k, int most) {
  std::vector<float> all;
  for (int i = rows_together(k, most); i > 0; --i) all.insert(all.end(), values, values + k);
  return all;
}

// ---- sums of chunks -------------------------------------------------------------------------------------
// Of `columns` columns of rows that are `pitch` elements apart. Some vectors are summed at a time, so that their
// sums stay in registers. Of the last vector there may be `count` lanes.

constexpr int kVectors = 4;

template <class Work>
inline __attribute__((always_inline)) void for_vectors(int columns, const Work& work) {
  int first = 0;
  for (; first + kVectors * kLanes <= columns; first += kVectors * kLanes) {
    work(std::integral_constant<int, kVectors>(), first, kLanes);
  }
  for (; first < columns; first += kLanes) {
    work(std::integral_constant<int, 1>(), first, std::min(kLanes, columns - first));
  }
}

template <class T>
CCONVNET_CLONES void sum_moments(const T* x, int64_t pitch, int rows, int columns, float* mean,
                                 float* distances, float* squares) {
  for_vectors(columns, [&](auto vectors, int first, int count) __attribute__((always_inline)) {
    constexpr int N = decltype(vectors)::value;
    Lanes means[N] = {}, sums[N] = {}, squared[N] = {};
    for (int row = 0; row < rows; ++row) {
      for (int n = 0; n < N; ++n) means[n] += load(x + row * pitch + first + n * kLanes, count);
    }
    for (int n = 0; n < N; ++n) means[n] /= static_cast<float>(rows);
    for (int row = 0; row < rows; ++row) {
      for (int n = 0; n < N; ++n) {
        const Lanes distance = load(x + row * pitch + first + n * kLanes, count) - means[n];
        sums[n] += distance;
        squared[n] += distance * distance;
      }
    }
    for (int n = 0; n < N; ++n) {
      store(mean + first + n * kLanes, means[n], count);
      store(distances + first + n * kLanes, sums[n], count);
      store(squares + first + n * kLanes, squared[n], count);
    }
  });
}

// dbeta and dgamma. Without MASKED, y is null.
template <bool MASKED, class T>
CCONVNET_CLONES void sum_gradients(const T* x, const T* y, const T* dy, int64_t pitch, int rows, int columns,
                                   const float* mean, const float* reciprocal, float* dbeta, float* dgamma) {
  for_vectors(columns, [&](auto vectors, int first, int count) __attribute__((always_inline)) {
    constexpr int N = decltype(vectors)::value;
    Lanes betas[N] = {}, gammas[N] = {};
    for (int row = 0; row < rows; ++row) {
      for (int n = 0; n < N; ++n) {
        const int column = first + n * kLanes;
        const int64_t at = row * pitch + column;
        Lanes gradient = load(dy + at, count);
        if (MASKED) gradient = where_positive(load(y + at, count), gradient);
        const Lanes distance = load(x + at, count) - load(mean + column, count);
        betas[n] += gradient;
        gammas[n] += gradient * (distance * load(reciprocal + column, count));
      }
    }
    for (int n = 0; n < N; ++n) {
      store(dbeta + first + n * kLanes, betas[n], count);
      store(dgamma + first + n * kLanes, gammas[n], count);
    }
  });
}

// ---- merging --------------------------------------------------------------------------------------------
// Of `rows` rows and `others` others, in place of the first.

// The sum and the squared distances from the mean. Source: Chan, Golub and LeVeque, "Updating formulae and a
// pairwise algorithm for computing sample variances", 1979.
CCONVNET_CLONES void merge_moments(int columns, double* sum, double* squares, double rows,
                                   const double* other_sum, const double* other_squares, double others) {
  const double share = rows > 0 ? 1 / rows : 0.0, other_share = 1 / others;
  const double weight = rows * others / (rows + others);
#pragma omp simd
  for (int i = 0; i < columns; ++i) {
    const double apart = other_sum[i] * other_share - sum[i] * share;
    sum[i] += other_sum[i];
    squares[i] += other_squares[i] + apart * apart * weight;
  }
}

CCONVNET_CLONES void merge_sums(int columns, double* first, double* second, double, const double* other_first,
                                const double* other_second, double) {
#pragma omp simd
  for (int i = 0; i < columns; ++i) {
    first[i] += other_first[i];
    second[i] += other_second[i];
  }
}

// Two numbers for each column of each unit.
struct Totals {
  int k;
  std::vector<double> values;

  Totals(int units, int k) : k(k), values(size_t(units) * k * 2) {}
  double* first(int64_t unit) { return values.data() + unit * k * 2; }
  double* second(int64_t unit) { return first(unit) + k; }
};

// Reduces the rows that count: the totals are those of unit 0. sum(first, pitch, rows, columns, i, a, b) sums
// `columns` columns of rows from element `first` on, of which i is the first in a row.
template <class Merge, class Sum>
Totals reduced(const BatchNormProblem& problem, const Merge& merge, const Sum& sum) {
  const int k = problem.k, together = rows_together(k, kMostSummed);
  const int units = detail::ceil_div(problem.counted, kUnitRows);
  Totals totals(units, k);
  parallel_ranges(units, int64_t{kUnitRows} * k, [&](int, int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      double *const firsts = totals.first(unit), *const seconds = totals.second(unit);
      const int64_t stop = std::min<int64_t>(problem.counted, (unit + 1) * kUnitRows);
      int done = 0;  // rows of the unit
      // `rows` rows of `as_one` rows each.
      const auto add = [&](int64_t row, int rows, int as_one) {
        const int width = as_one * k;
        double first[kTile], second[kTile];
        for (int i = 0; i < width; i += kTile) {
          const int columns = std::min(kTile, width - i);
          sum(row * k + i, width, rows, columns, i, first, second);
          for (int j = 0, count; j < columns; j += count) {
            const int part = (i + j) / k, column = (i + j) % k;
            count = std::min(columns - j, k - column);
            merge(count, firsts + column, seconds + column, done + part * rows, first + j, second + j, rows);
          }
        }
        done += rows * as_one;
      };
      for (int64_t row = unit * kUnitRows; row < stop; row += kChunkRows) {
        const int rows = static_cast<int>(std::min<int64_t>(kChunkRows, stop - row)), rest = rows % together;
        if (rows > rest) add(row, rows / together, together);
        if (rest > 0) add(row + rows - rest, rest, 1);
      }
    }
  });
  for (int64_t unit = 1; unit < units; ++unit) {
    const double before = static_cast<double>(unit) * kUnitRows;
    const double rows = std::min<double>(kUnitRows, problem.counted - before);
    merge(k, totals.first(0), totals.second(0), before, totals.first(unit), totals.second(unit), rows);
  }
  return totals;
}

// ---- row by row -----------------------------------------------------------------------------------------
// Of `count` elements from the beginning of a row on, by numbers of `width` columns.

template <bool RELU, bool SHORTCUT, class T>
CCONVNET_CLONES void normalise(const T* x, int64_t count, int width, const float* mean, const float* scale,
                               const float* beta, const T* shortcut, T* y) {
  for (int64_t first = 0; first < count; first += width) {
    const int columns = static_cast<int>(std::min<int64_t>(width, count - first));
#pragma omp simd
    for (int i = 0; i < columns; ++i) {
      float value = (to_float(x[first + i]) - mean[i]) * scale[i] + beta[i];
      if (SHORTCUT) value = to_float(from_float<T>(value)) + to_float(shortcut[first + i]);
      y[first + i] = from_float<T>(RELU ? relu(value) : value);
    }
  }
}

// dx = scale * (the gradient - dbeta - dgamma * (x - mean)), of shares of one row, and the gradient itself.
template <bool MASKED, bool DX, bool DSHORTCUT, class T>
CCONVNET_CLONES void gradients(const T* x, const T* y, const T* dy, int64_t count, int width,
                               const float* mean, const float* scale, const float* dbeta, const float* dgamma,
                               T* dx, T* dshortcut) {
  for (int64_t first = 0; first < count; first += width) {
    const int columns = static_cast<int>(std::min<int64_t>(width, count - first));
#pragma omp simd
    for (int i = 0; i < columns; ++i) {
      const float all = to_float(dy[first + i]);
      const float gradient = !MASKED || to_float(y[first + i]) > 0.0f ? all : 0.0f;
      if (DX) {
        const float distance = to_float(x[first + i]) - mean[i];
        dx[first + i] = from_float<T>(scale[i] * (gradient - dbeta[i] - distance * dgamma[i]));
      }
      if (DSHORTCUT) dshortcut[first + i] = from_float<T>(gradient);
    }
  }
}

// Runs body(first, count) for parts of the elements that count, which begin with rows.
template <class Body>
void for_counted(const BatchNormProblem& problem, const Body& body) {
  const int64_t k = problem.k;
  parallel_ranges(problem.counted, k,
                  [&](int, int64_t begin, int64_t end) { body(begin * k, (end - begin) * k); });
}

template <class T>
void clear_others(const BatchNormProblem& problem, T* array) {
  if (array) std::fill(array + int64_t{problem.counted} * problem.k, array + problem.count(), T{});
}

std::vector<float> reciprocal_deviation(const BatchNormProblem& problem, const float* variance) {
  std::vector<float> reciprocal(problem.k);
  for (int i = 0; i < problem.k; ++i) reciprocal[i] = 1.0f / std::sqrt(variance[i] + problem.eps);
  return reciprocal;
}

}  // namespace

size_t batch_norm_statistics_workspace(const BatchNormProblem&) {
  return 0;
}

template <class T>
void batch_norm_statistics(const BatchNormProblem& problem, const T* x, float* mean, float* variance,
                           float* unbiased, void*, Stream) {
  const auto sum = [&](int64_t first, int64_t pitch, int rows, int columns, int, double* sums,
                       double* squares) {
    float means[kTile], distances[kTile], squared[kTile];
    sum_moments(x + first, pitch, rows, columns, means, distances, squared);
    for (int i = 0; i < columns; ++i) {
      // The distances from a mean that is rounded have a sum, by which both are corrected.
      const double rest = distances[i];
      sums[i] = double{means[i]} * rows + rest;
      squares[i] = squared[i] - rest * rest / rows;
    }
  };
  Totals totals = reduced(problem, merge_moments, sum);
  const double *const sums = totals.first(0), *const squares = totals.second(0);
  for (int i = 0; i < problem.k; ++i) {
    mean[i] = static_cast<float>(sums[i] / problem.counted);
    variance[i] = static_cast<float>(squares[i] / problem.counted);
    unbiased[i] = static_cast<float>(squares[i] / std::max(1, problem.counted - 1));
  }
}

template <class T>
void batch_norm_forward(const BatchNormProblem& problem, const T* x, const float* mean, const float* variance,
                        const float* gamma, const float* beta, const T* shortcut, bool relu, T* y, Stream) {
  std::vector<float> scales = reciprocal_deviation(problem, variance);
  for (int i = 0; i < problem.k; ++i) scales[i] *= gamma[i];
  const std::vector<float> means = repeated(mean, problem.k, kMostWritten),
                           betas = repeated(beta, problem.k, kMostWritten);
  scales = repeated(scales.data(), problem.k, kMostWritten);
  const auto function = shortcut ? (relu ? normalise<true, true, T> : normalise<false, true, T>)
                                 : (relu ? normalise<true, false, T> : normalise<false, false, T>);
  for_counted(problem, [&](int64_t first, int64_t count) {
    function(x + first, count, static_cast<int>(means.size()), means.data(), scales.data(), betas.data(),
             shortcut ? shortcut + first : nullptr, y + first);
  });
  clear_others(problem, y);
}

size_t batch_norm_backward_workspace(const BatchNormProblem&) {
  return 0;
}

template <class T>
void batch_norm_backward(const BatchNormProblem& problem, const T* x, const T* y, const T* dy,
                         const float* mean, const float* variance, const float* gamma, T* dx, float* dgamma,
                         float* dbeta, void*, Stream, T* dshortcut) {
  const int k = problem.k;
  const std::vector<float> reciprocal = reciprocal_deviation(problem, variance);
  const auto means = repeated(mean, k, kMostSummed),
             reciprocals = repeated(reciprocal.data(), k, kMostSummed);
  const auto sum = [&](int64_t first, int64_t pitch, int rows, int columns, int i, double* betas,
                       double* gammas) {
    float of_betas[kTile], of_gammas[kTile];
    const auto function = y ? sum_gradients<true, T> : sum_gradients<false, T>;
    function(x + first, y ? y + first : nullptr, dy + first, pitch, rows, columns, means.data() + i,
             reciprocals.data() + i, of_betas, of_gammas);
    std::copy_n(of_betas, columns, betas);
    std::copy_n(of_gammas, columns, gammas);
  };
  Totals totals = reduced(problem, merge_sums, sum);
  std::vector<float> scale(k), dbeta_share(k), dgamma_share(k);
  for (int i = 0; i < k; ++i) {
    dbeta[i] = static_cast<float>(totals.first(0)[i]);
    dgamma[i] = static_cast<float>(totals.second(0)[i]);
    scale[i] = gamma[i] * reciprocal[i];
    dbeta_share[i] = dbeta[i] / static_cast<float>(problem.counted);
    dgamma_share[i] = dgamma[i] * (reciprocal[i] / static_cast<float>(problem.counted));
  }
  if (!dx && !dshortcut) return;
  const auto all = [k](const float* values) { return repeated(values, k, kMostWritten); };
  const auto all_means = all(mean), scales = all(scale.data()), beta_shares = all(dbeta_share.data()),
             gamma_shares = all(dgamma_share.data());
  const auto function =
      y ? (!dx ? gradients<true, false, true, T>
               : (dshortcut ? gradients<true, true, true, T> : gradients<true, true, false, T>))
        : (!dx ? gradients<false, false, true, T>
               : (dshortcut ? gradients<false, true, true, T> : gradients<false, true, false, T>));
  const auto from = [](auto* array, int64_t first) { return array ? array + first : nullptr; };
  for_counted(problem, [&](int64_t first, int64_t count) {
    function(x + first, from(y, first), dy + first, count, static_cast<int>(scales.size()), all_means.data(),
             scales.data(), beta_shares.data(), gamma_shares.data(), from(dx, first), from(dshortcut, first));
  });
  clear_others(problem, dx);
  clear_others(problem, dshortcut);
}

template void batch_norm_statistics(const BatchNormProblem&, const float*, float*, float*, float*, void*,
                                    Stream);
template void batch_norm_statistics(const BatchNormProblem&, const bfloat16*, float*, float*, float*, void*,
                                    Stream);
template void batch_norm_forward(const BatchNormProblem&, const float*, const float*, const float*,
                                 const float*, const float*, const float*, bool, float*, Stream);
template void batch_norm_forward(const BatchNormProblem&, const bfloat16*, const float*, const float*,
                                 const float*, const float*, const bfloat16*, bool, bfloat16*, Stream);
template void batch_norm_backward(const BatchNormProblem&, const float*, const float*, const float*,
                                  const float*, const float*, const float*, float*, float*, float*, void*,
                                  Stream, float*);
template void batch_norm_backward(const BatchNormProblem&, const bfloat16*, const bfloat16*, const bfloat16*,
                                  const float*, const float*, const float*, bfloat16*, float*, float*, void*,
                                  Stream, bfloat16*);

}  // namespace cconvnet
