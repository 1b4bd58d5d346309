// Max unpooling. The lanes are channels. A row of pixels forward, of windows backward, is one item of work. Both
// directions gather, so the order of each sum is fixed and each number is written once.
#include "api.h"
#include "pool.h"

namespace cconvnet {
namespace {

// kept[i] where (exceeds(later[i], earlier[i]) == wanted), and 0 elsewhere. A loop, which becomes vectors after
// the cloning.
inline __attribute__((always_inline)) Lanes where_exceeds(const Lanes& later, const Lanes& earlier,
                                                          bool wanted, Lanes kept) {
  float as[kLanes], bs[kLanes], to[kLanes];
  std::memcpy(as, &later, sizeof later);
  std::memcpy(bs, &earlier, sizeof earlier);
  std::memcpy(to, &kept, sizeof kept);
#pragma omp simd
  for (int i = 0; i < kLanes; ++i) to[i] = exceeds(as[i], bs[i]) == wanted ? to[i] : 0.0f;
  std::memcpy(&kept, to, sizeof kept);
  return kept;
}

// Row i of one image's y.
template <class T>
CCONVNET_CLONES void maxunpool_forward_row(const PoolProblem& problem, const Range* windows_of_column,
                                           const T* x, const T* u, int i, T* y) {
  const Range windows = outputs_of(i, problem.window_h, problem.stride_h, problem.pad_h, problem.p);
  const int64_t row = int64_t{problem.w} * problem.c;
  for (int j = 0; j < problem.w; ++j, y += problem.c) {
    for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
      const Lanes own = load(u + i * row + int64_t{j} * problem.c + c, lanes);
      Lanes sum = {};
      for (int p = windows.begin; p < windows.end; ++p) {
        const Range rows = pixels_of(p, problem.window_h, problem.stride_h, problem.pad_h, problem.h);
        for (int q = windows_of_column[j].begin; q < windows_of_column[j].end; ++q) {
          const Range columns = pixels_of(q, problem.window_w, problem.stride_w, problem.pad_w, problem.w);
          // The pixel is the first maximum if it exceeds those before it, and none behind it exceeds it.
          Lanes value = load(x + (int64_t{p} * problem.q + q) * problem.c + c, lanes);
          for (int h = rows.begin; h < rows.end; ++h) {
            for (int w = columns.begin; w < columns.end; ++w) {
              const Lanes other = load(u + h * row + int64_t{w} * problem.c + c, lanes);
              const bool is_before = h < i || (h == i && w < j);
              value = is_before ? where_exceeds(own, other, true, value)
                                : where_exceeds(other, own, false, value);
            }
          }
          sum += value;
        }
      }
      store(y + c, sum, lanes);
    });
  }
}

// Row p of one image's dx.
template <class T>
CCONVNET_CLONES void maxunpool_backward_row(const PoolProblem& problem, const T* u, const T* dy, int p,
                                            T* dx) {
  const Range rows = pixels_of(p, problem.window_h, problem.stride_h, problem.pad_h, problem.h);
  for (int q = 0; q < problem.q; ++q, dx += problem.c) {
    const Range columns = pixels_of(q, problem.window_w, problem.stride_w, problem.pad_w, problem.w);
    for_lanes(problem.c, [&](int c, int lanes) __attribute__((always_inline)) {
      const auto pixel = [&](int h, int w) { return (int64_t{h} * problem.w + w) * problem.c + c; };
      const int64_t first = pixel(rows.begin, columns.begin);
      float largest[kLanes], gradient[kLanes], value[kLanes], here[kLanes];
      const auto read = [&](const T* from, float* to) __attribute__((always_inline)) {
        const Lanes values = load(from, lanes);
        std::memcpy(to, &values, sizeof values);
      };
      read(u + first, largest);
      read(dy + first, gradient);
      for (int h = rows.begin; h < rows.end; ++h) {
        for (int w = columns.begin; w < columns.end; ++w) {
          read(u + pixel(h, w), value);
          read(dy + pixel(h, w), here);
#pragma omp simd
          for (int i = 0; i < kLanes; ++i) {
            const bool larger = exceeds(value[i], largest[i]);
            gradient[i] = larger ? here[i] : gradient[i];
            largest[i] = larger ? value[i] : largest[i];
          }
        }
      }
      Lanes found;
      std::memcpy(&found, gradient, sizeof found);
      store(dx + c, found, lanes);
    });
  }
}

}  // namespace

template <class T>
void maxunpool_forward(const PoolProblem& problem, const T* x, const T* u, T* y, Stream) {
  const Strides stride(problem);
  const std::vector<Range> columns = outputs_of_columns(problem);
  for_rows(problem, problem.h, pool_forward_cost(problem), 0, [&](float*, int64_t n, int i) {
    maxunpool_forward_row(problem, columns.data(), x + n * stride.y, u + n * stride.x, i,
                          y + n * stride.x + i * stride.x_row);
  });
}

template <class T>
void maxunpool_backward(const PoolProblem& problem, const T* u, const T* dy, T* dx, Stream) {
  const Strides stride(problem);
  for_rows(problem, problem.p, pool_forward_cost(problem), 0, [&](float*, int64_t n, int p) {
    maxunpool_backward_row(problem, u + n * stride.x, dy + n * stride.x, p,
                           dx + n * stride.y + p * stride.y_row);
  });
}

template void maxunpool_forward(const PoolProblem&, const float*, const float*, float*, Stream);
template void maxunpool_forward(const PoolProblem&, const bfloat16*, const bfloat16*, bfloat16*, Stream);
template void maxunpool_backward(const PoolProblem&, const float*, const float*, float*, Stream);
template void maxunpool_backward(const PoolProblem&, const bfloat16*, const bfloat16*, bfloat16*, Stream);

}  // namespace cconvnet
