// Contrast normalisation in the same map: u = x - (mean over a window), d = k + alpha * (sum of u^2 over the
// window), y = x * d^-beta, and the gradient in api.h. The lanes are channels, the windows loops over pixels.
// One thread computes an image, with all its intermediate values.
#include <vector>

#include "api.h"
#include "floats.h"
#include "normalise.h"

namespace cconvnet {
namespace {

// The pixels of a window before and after its own; transposed, those of the windows that contain a pixel.
struct Reach {
  int before, after;
};
inline Reach window(const ContrastNormProblem& problem) {
  return {problem.size / 2, problem.size - 1 - problem.size / 2};
}
inline Reach transposed(const ContrastNormProblem& problem) {
  return {window(problem).after, window(problem).before};
}

inline int window_size(const ContrastNormProblem& problem, int pixel) {
  const Reach reach = window(problem);
  const Range rows = clipped(pixel / problem.w, reach.before, reach.after, problem.h);
  const Range columns = clipped(pixel % problem.w, reach.before, reach.after, problem.w);
  return (rows.end - rows.begin) * (columns.end - columns.begin);
}

template <bool SQUARED>
inline __attribute__((always_inline)) void sums(const ContrastNormProblem& problem, const float* image,
                                                int pixel, Reach reach, float* sum) {
  map_sums<SQUARED>(problem, image, pixel / problem.w, pixel % problem.w, reach.before, reach.after, sum);
}

// One thread's buffers: of an image and of a pixel's channels.
struct Buffers {
  float *u, *t;
  float *sum, *scale;
};

// u = x - mean, of one image.
inline __attribute__((always_inline)) void center(const ContrastNormProblem& problem, const float* x,
                                                  float* u, float* sum) {
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    sums<false>(problem, x, pixel, window(problem), sum);
    const float size = static_cast<float>(window_size(problem, pixel));
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) u[offset + c] = x[offset + c] - sum[c] / size;
  }
}

CCONVNET_CLONES void forward(const ContrastNormProblem& problem, const float* x, float* y,
                             const Buffers& buffers) {
  float *u = buffers.u, *sum = buffers.sum;
  center(problem, x, u, sum);
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    sums<true>(problem, u, pixel, window(problem), sum);
    powers<false>(problem, problem.c, sum, sum, nullptr);
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) y[offset + c] = x[offset + c] * sum[c];
  }
}

CCONVNET_CLONES void backward(const ContrastNormProblem& problem, const float* x, const float* dy, float* dx,
                              const Buffers& buffers) {
  const float factor = 2.0f * problem.alpha * problem.beta;
  float *u = buffers.u, *t = buffers.t, *sum = buffers.sum, *scale = buffers.scale;
  center(problem, x, u, sum);
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    sums<true>(problem, u, pixel, window(problem), sum);
    float* steeper = sum;
    powers<true>(problem, problem.c, sum, scale, steeper);
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) {
      dx[offset + c] = dy[offset + c] * scale[c];
      t[offset + c] = dy[offset + c] * x[offset + c] * steeper[c];
    }
  }
  // g goes to dx and, divided by the window's size, takes u's place.
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    sums<false>(problem, t, pixel, transposed(problem), sum);
    const float size = static_cast<float>(window_size(problem, pixel));
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) {
      const float g = -factor * u[offset + c] * sum[c];
      dx[offset + c] += g;
      u[offset + c] = g / size;
    }
  }
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    sums<false>(problem, u, pixel, transposed(problem), sum);
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) dx[offset + c] -= sum[c];
  }
}

// Calls function(offset, buffers, floats) for each image, on all threads; `floats` are the thread's own for
// three images of T.
template <class T, class Function>
void for_images(const ContrastNormProblem& problem, const Function& function) {
  const int64_t image = int64_t{problem.h} * problem.w * problem.c;
  const size_t each = 2 * (image + problem.c) + 3 * buffered<T>(image);
  std::vector<float> memory(each * parallel_parts(problem.n, map_cost(problem)));
  parallel_ranges(problem.n, map_cost(problem), [&](int part, int64_t begin, int64_t end) {
    float* own = memory.data() + part * each;
    const Buffers buffers = {own, own + image, own + 2 * image, own + 2 * image + problem.c};
    for (int64_t n = begin; n < end; ++n) function(n * image, buffers, own + 2 * (image + problem.c));
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
    float* result = float_destination(y + offset, floats + buffered<T>(image));
    forward(problem, as_floats(x + offset, image, floats), result, buffers);
    write_floats(result, image, y + offset);
  });
}

template <class T>
void contrast_norm_backward(const ContrastNormProblem& problem, const T* x, const T* dy, T* dx, void*,
                            Stream) {
  const int64_t image = int64_t{problem.h} * problem.w * problem.c, own = buffered<T>(image);
  for_images<T>(problem, [&](int64_t offset, const Buffers& buffers, float* floats) {
    float* result = float_destination(dx + offset, floats + 2 * own);
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
