// Contrast normalisation in the same map: u = x - (mean over a window), d = k + alpha * (sum of u^2 over the
// window), y = x * d^-beta, and the gradient as api.h says. The lanes are channels, the windows loops over
// pixels, and an image with its intermediate values stays with one thread.
#include <vector>

#include "api.h"
#include "floats.h"
#include "normalise.h"

namespace cconvnet {
namespace {

// The pixels of a window around its own, and those of the windows that hold a pixel.
struct Reach {
  int before, after;
};
inline Reach window(const ContrastNormProblem& o) {
  return {o.size / 2, o.size - 1 - o.size / 2};
}
inline Reach transposed(const ContrastNormProblem& o) {
  return {window(o).after, window(o).before};
}

inline int window_size(const ContrastNormProblem& o, int pixel) {
  const Reach reach = window(o);
  const Range rows = clipped(pixel / o.w, reach.before, reach.after, o.h);
  const Range columns = clipped(pixel % o.w, reach.before, reach.after, o.w);
  return (rows.end - rows.begin) * (columns.end - columns.begin);
}

template <bool SQUARED>
inline __attribute__((always_inline)) void sums(const ContrastNormProblem& o, const float* image, int pixel,
                                                Reach reach, float* sum) {
  map_sums<SQUARED>(o, image, pixel / o.w, pixel % o.w, reach.before, reach.after, sum);
}

// One thread's buffers: of an image and of a pixel's channels.
struct Buffers {
  float *u, *t;
  float *sum, *scale;
};

// u = x - mean, of one image.
inline __attribute__((always_inline)) void center(const ContrastNormProblem& o, const float* x, float* u,
                                                  float* sum) {
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    sums<false>(o, x, pixel, window(o), sum);
    const float size = static_cast<float>(window_size(o, pixel));
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) u[offset + c] = x[offset + c] - sum[c] / size;
  }
}

CCONVNET_CLONES void forward(const ContrastNormProblem& o, const float* x, float* y, const Buffers& b) {
  float *u = b.u, *sum = b.sum;
  center(o, x, u, sum);
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    sums<true>(o, u, pixel, window(o), sum);
    powers<false>(o, o.c, sum, sum, nullptr);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) y[offset + c] = x[offset + c] * sum[c];
  }
}

CCONVNET_CLONES void backward(const ContrastNormProblem& o, const float* x, const float* dy, float* dx,
                              const Buffers& b) {
  const float factor = 2.0f * o.alpha * o.beta;
  float *u = b.u, *t = b.t, *sum = b.sum, *scale = b.scale;
  center(o, x, u, sum);
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    sums<true>(o, u, pixel, window(o), sum);
    float* steeper = sum;
    powers<true>(o, o.c, sum, scale, steeper);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) {
      dx[offset + c] = dy[offset + c] * scale[c];
      t[offset + c] = dy[offset + c] * x[offset + c] * steeper[c];
    }
  }
  // g goes to dx and, divided by the window's size, takes u's place.
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    sums<false>(o, t, pixel, transposed(o), sum);
    const float size = static_cast<float>(window_size(o, pixel));
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) {
      const float g = -factor * u[offset + c] * sum[c];
      dx[offset + c] += g;
      u[offset + c] = g / size;
    }
  }
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    sums<false>(o, u, pixel, transposed(o), sum);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) dx[offset + c] -= sum[c];
  }
}

// Calls function(offset, buffers, floats) for each image, on all threads; `floats` are the thread's own for
// three images of T.
template <class T, class Function>
void for_images(const ContrastNormProblem& o, const Function& function) {
  const int64_t image = int64_t{o.h} * o.w * o.c;
  const size_t each = 2 * (image + o.c) + 3 * buffered<T>(image);
  std::vector<float> memory(each * parallel_parts(o.n, map_cost(o)));
  parallel_ranges(o.n, map_cost(o), [&](int part, int64_t begin, int64_t end) {
    float* own = memory.data() + part * each;
    const Buffers buffers = {own, own + image, own + 2 * image, own + 2 * image + o.c};
    for (int64_t n = begin; n < end; ++n) function(n * image, buffers, own + 2 * (image + o.c));
  });
}

}  // namespace

size_t contrast_norm_forward_workspace(const ContrastNormProblem&) {
  return 0;
}

size_t contrast_norm_backward_workspace(const ContrastNormProblem&) {
  return 0;
}

template <class T>
void contrast_norm_forward(const ContrastNormProblem& problem, const T* x, T* y, void*, Stream) {
  const int64_t image = int64_t{problem.h} * problem.w * problem.c;
  for_images<T>(problem, [&](int64_t offset, const Buffers& buffers, float* floats) {
    float* result = place_for_floats(y + offset, floats + buffered<T>(image));
    forward(problem, as_floats(x + offset, image, floats), result, buffers);
    write_floats(result, image, y + offset);
  });
}

template <class T>
void contrast_norm_backward(const ContrastNormProblem& problem, const T* x, const T* dy, T* dx, void*,
                            Stream) {
  const int64_t image = int64_t{problem.h} * problem.w * problem.c, own = buffered<T>(image);
  for_images<T>(problem, [&](int64_t offset, const Buffers& buffers, float* floats) {
    float* result = place_for_floats(dx + offset, floats + 2 * own);
    backward(problem, as_floats(x + offset, image, floats), as_floats(dy + offset, image, floats + own),
             result, buffers);
    write_floats(result, image, dx + offset);
  });
}

template void contrast_norm_forward(const ContrastNormProblem&, const float*, float*, void*, Stream);
template void contrast_norm_forward(const ContrastNormProblem&, const bfloat16*, bfloat16*, void*, Stream);
template void contrast_norm_backward(const ContrastNormProblem&, const float*, const float*, float*, void*,
                                     Stream);
template void contrast_norm_backward(const ContrastNormProblem&, const bfloat16*, const bfloat16*, bfloat16*,
                                     void*, Stream);

}  // namespace cconvnet
