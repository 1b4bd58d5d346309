// Pooling: a thread takes a row of output pixels (forward) or input pixels (backward); the loop over channels
// vectorises. Backward gathers: each input pixel sums over the windows that hold it, in order.
#include "api.h"
#include "parallel.h"

namespace cconvnet {

CCONVNET_CLONES void cpu_pool_max(const float* x, float* y, int count) {
  // The second test lets a NaN in, and the first lets none out.
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] = x[i] > y[i] || x[i] != x[i] ? x[i] : y[i];
}

CCONVNET_CLONES void cpu_pool_add(const float* x, float* y, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] += x[i];
}

CCONVNET_CLONES void cpu_pool_divide(float* y, float divisor, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] /= divisor;
}

CCONVNET_CLONES void cpu_pool_add_where_equal(const float* x, const float* y, const float* dy, float* dx,
                                              int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) dx[i] += x[i] == y[i] ? dy[i] : 0.0f;
}

CCONVNET_CLONES void cpu_pool_add_share(const float* dy, float divisor, float* dx, int count) {
#pragma omp simd
  for (int i = 0; i < count; ++i) dx[i] += dy[i] / divisor;
}

namespace {

struct Range {
  int begin, end;
};

// The pixels of one axis that window `index` covers, clipped to the image.
Range window(int index, int stride, int pad, int size, int extent) {
  const int begin = index * stride - pad;
  return {std::max(0, begin), std::min(extent, begin + size)};
}

// The windows of one axis that cover pixel `index`.
Range windows_over(int index, int stride, int pad, int size, int count) {
  const int from = index + pad - size + 1;
  return {from > 0 ? (from + stride - 1) / stride : 0, std::min(count, (index + pad) / stride + 1)};
}

// Calls each output pixel's body(input image, its rows, its columns, output pixel's offset).
template <class Body>
void for_each_output(const PoolProblem& o, const Body& body) {
  parallel_for(int64_t{o.n} * o.p, [&](int64_t row) {
    const int64_t image = row / o.p * o.h * o.w * o.c;
    const Range rows = window(static_cast<int>(row % o.p), o.stride_h, o.pad_h, o.window_h, o.h);
    for (int q = 0; q < o.q; ++q) {
      body(image, rows, window(q, o.stride_w, o.pad_w, o.window_w, o.w), (row * o.q + q) * o.c);
    }
  });
}

// Calls body(output image, rows of windows, columns of windows, input pixel's offset) for each input pixel.
template <class Body>
void for_each_input(const PoolProblem& o, const Body& body) {
  parallel_for(int64_t{o.n} * o.h, [&](int64_t row) {
    const int64_t image = row / o.h * o.p * o.q * o.c;
    const Range rows = windows_over(static_cast<int>(row % o.h), o.stride_h, o.pad_h, o.window_h, o.p);
    for (int w = 0; w < o.w; ++w) {
      body(image, rows, windows_over(w, o.stride_w, o.pad_w, o.window_w, o.q), (row * o.w + w) * o.c);
    }
  });
}

}  // namespace

void maxpool_forward(const PoolProblem& o, const float* x, float* y, Stream) {
  for_each_output(o, [&](int64_t image, Range rows, Range columns, int64_t at) {
    const float* const first = x + image + (int64_t{rows.begin} * o.w + columns.begin) * o.c;
    std::copy(first, first + o.c, y + at);
    for (int h = rows.begin; h < rows.end; ++h) {
      for (int w = columns.begin; w < columns.end; ++w) {
        cpu_pool_max(x + image + (int64_t{h} * o.w + w) * o.c, y + at, o.c);
      }
    }
  });
}

void maxpool_backward(const PoolProblem& o, const float* x, const float* y, const float* dy, float* dx,
                      Stream) {
  for_each_input(o, [&](int64_t image, Range rows, Range columns, int64_t at) {
    std::fill(dx + at, dx + at + o.c, 0.0f);
    for (int p = rows.begin; p < rows.end; ++p) {
      for (int q = columns.begin; q < columns.end; ++q) {
        const int64_t from = image + (int64_t{p} * o.q + q) * o.c;
        cpu_pool_add_where_equal(x + at, y + from, dy + from, dx + at, o.c);
      }
    }
  });
}

void avgpool_forward(const PoolProblem& o, const float* x, float* y, Stream) {
  for_each_output(o, [&](int64_t image, Range rows, Range columns, int64_t at) {
    std::fill(y + at, y + at + o.c, 0.0f);
    for (int h = rows.begin; h < rows.end; ++h) {
      for (int w = columns.begin; w < columns.end; ++w) {
        cpu_pool_add(x + image + (int64_t{h} * o.w + w) * o.c, y + at, o.c);
      }
    }
    const int count = (rows.end - rows.begin) * (columns.end - columns.begin);
    cpu_pool_divide(y + at, static_cast<float>(count), o.c);
  });
}

void avgpool_backward(const PoolProblem& o, const float* dy, float* dx, Stream) {
  for_each_input(o, [&](int64_t image, Range rows, Range columns, int64_t at) {
    std::fill(dx + at, dx + at + o.c, 0.0f);
    for (int p = rows.begin; p < rows.end; ++p) {
      const Range covered_h = window(p, o.stride_h, o.pad_h, o.window_h, o.h);
      for (int q = columns.begin; q < columns.end; ++q) {
        const Range covered_w = window(q, o.stride_w, o.pad_w, o.window_w, o.w);
        const int count = (covered_h.end - covered_h.begin) * (covered_w.end - covered_w.begin);
        cpu_pool_add_share(dy + image + (int64_t{p} * o.q + q) * o.c, static_cast<float>(count), dx + at,
                           o.c);
      }
    }
  });
}

}  // namespace cconvnet
