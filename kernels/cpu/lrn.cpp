// Local response normalisation, d = k + alpha * (sum of x^2 over a window), y = x * d^-beta, across the
// channels of a group or in the same map.
//
// Across channels, a pixel's channels are worked on together: their squares are laid into a buffer with zeros
// on both sides, so that the window's sum is `size` shifted loads for a whole vector of channels. Sums are
// formed directly: a running sum that adds one end and subtracts the other would leave rounding behind.
// In the same map, the lanes are channels too and the window is a loop over pixels.
#include <cmath>
#include <cstring>
#include <vector>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// scale[i] = (k + alpha * sum[i])^-beta, in place allowed. AlexNet's beta, 3/4, needs two square roots in
// place of a power, which vectorises.
inline __attribute__((always_inline)) void scales(const LrnProblem& o, int count, const float* sum,
                                                  float* scale) {
  const float k = o.k, alpha = o.alpha, beta = o.beta;
  if (beta == 0.75f) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      const float root = std::sqrt(k + alpha * sum[i]);
      scale[i] = 1.0f / (root * std::sqrt(root));
    }
  } else {
    for (int i = 0; i < count; ++i) scale[i] = std::pow(k + alpha * sum[i], -beta);
  }
}

// sum[i] = values[i] + ... + values[i + size - 1].
inline __attribute__((always_inline)) void window_sums(int size, int count, const float* values, float* sum) {
  if (size == 5) {
#pragma omp simd
    for (int i = 0; i < count; ++i) {
      sum[i] = values[i] + values[i + 1] + values[i + 2] + values[i + 3] + values[i + 4];
    }
    return;
  }
  std::memcpy(sum, values, count * sizeof(float));
  for (int j = 1; j < size; ++j) {
#pragma omp simd
    for (int i = 0; i < count; ++i) sum[i] += values[i + j];
  }
}

// ---- across channels ------------------------------------------------------------------------------------

// One thread's buffers for one group of one pixel, each long enough for the channels and their margins.
struct Buffers {
  float *squares, *sums, *scales, *terms;
};

// A window wider than twice the channels sees all of them, and the margins need not be longer.
struct Window {
  int before, after;  // channels of the window left and right of its own
  explicit Window(const LrnProblem& o)
      : before(std::min(o.size / 2, o.c / o.groups)),
        after(std::min(o.size - 1 - o.size / 2, o.c / o.groups)) {}
  int size() const { return before + 1 + after; }
};

CCONVNET_CLONES void across_forward(const LrnProblem& o, const float* x, float* y, int64_t begin, int64_t end,
                                    const Buffers& buffers) {
  const Window window(o);
  const int channels = o.c / o.groups;
  float* squares = buffers.squares + window.before;
  for (int64_t item = begin; item < end; ++item) {
    const float* from = x + item * channels;
    float* to = y + item * channels;
#pragma omp simd
    for (int i = 0; i < channels; ++i) squares[i] = from[i] * from[i];
    window_sums(window.size(), channels, buffers.squares, buffers.sums);
    scales(o, channels, buffers.sums, buffers.scales);
#pragma omp simd
    for (int i = 0; i < channels; ++i) to[i] = from[i] * buffers.scales[i];
  }
}

CCONVNET_CLONES void across_backward(const LrnProblem& o, const float* x, const float* dy, float* dx,
                                     int64_t begin, int64_t end, const Buffers& buffers) {
  const Window window(o);
  const int channels = o.c / o.groups;
  const float k = o.k, alpha = o.alpha, factor = 2.0f * o.alpha * o.beta;
  float* squares = buffers.squares + window.before;
  // The windows that hold channel i are those of [i - after, i + before]: the margins change places.
  float* terms = buffers.terms + window.after;
  for (int64_t item = begin; item < end; ++item) {
    const float* from = x + item * channels;
    const float* gradient = dy + item * channels;
    float* to = dx + item * channels;
#pragma omp simd
    for (int i = 0; i < channels; ++i) squares[i] = from[i] * from[i];
    window_sums(window.size(), channels, buffers.squares, buffers.sums);
    scales(o, channels, buffers.sums, buffers.scales);
#pragma omp simd
    for (int i = 0; i < channels; ++i) {
      terms[i] = gradient[i] * from[i] * (buffers.scales[i] / (k + alpha * buffers.sums[i]));
    }
    window_sums(window.size(), channels, buffers.terms, buffers.sums);
#pragma omp simd
    for (int i = 0; i < channels; ++i) {
      to[i] = gradient[i] * buffers.scales[i] - factor * from[i] * buffers.sums[i];
    }
  }
}

// Calls function(begin, end, buffers) on all threads, for ranges of (pixel, group).
template <class Function>
void across_channels(const LrnProblem& o, const Function& function) {
  const int channels = o.c / o.groups;
  const int64_t items = int64_t{o.n} * o.h * o.w * o.groups;
  // Lines of 16 floats, so that no two buffers and no two threads share one.
  const size_t stride = (channels + Window(o).size() + 16) / 16 * 16;
  std::vector<float> memory(4 * stride * parallel_parts(items, channels));
  parallel_ranges(items, channels, [&](int part, int64_t begin, int64_t end) {
    float* own = memory.data() + 4 * stride * part;
    function(begin, end, Buffers{own, own + stride, own + 2 * stride, own + 3 * stride});
  });
}

// ---- in the same map ------------------------------------------------------------------------------------

struct Range {
  int begin, end;
};

// The window's part inside [0, limit) around `center`.
inline Range clipped(int center, int before, int after, int limit) {
  return {std::max(0, center - before),
          static_cast<int>(std::min<int64_t>(limit, int64_t{center} + after + 1))};
}

// sum[c] over the clipped window around pixel (i, j) of image[h,w,c], of the values or their squares.
template <bool SQUARED>
inline __attribute__((always_inline)) void map_sums(const LrnProblem& o, const float* image, int i, int j,
                                                    int before, int after, float* sum) {
  const Range rows = clipped(i, before, after, o.h), columns = clipped(j, before, after, o.w);
  std::memset(sum, 0, o.c * sizeof(float));
  for (int r = rows.begin; r < rows.end; ++r) {
    for (int s = columns.begin; s < columns.end; ++s) {
      const float* values = image + (int64_t{r} * o.w + s) * o.c;
#pragma omp simd
      for (int c = 0; c < o.c; ++c) sum[c] += SQUARED ? values[c] * values[c] : values[c];
    }
  }
}

// One image each; `buffer` holds c floats.
CCONVNET_CLONES void map_forward(const LrnProblem& o, const float* x, float* y, float* buffer) {
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    map_sums<true>(o, x, pixel / o.w, pixel % o.w, o.size / 2, o.size - 1 - o.size / 2, buffer);
    scales(o, o.c, buffer, buffer);
    const float* from = x + int64_t{pixel} * o.c;
    float* to = y + int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) to[c] = from[c] * buffer[c];
  }
}

// `terms` holds the image's dy * x * d^(-beta-1), which every window around a pixel needs.
CCONVNET_CLONES void map_backward(const LrnProblem& o, const float* x, const float* dy, float* dx, float* sum,
                                  float* scale, float* terms) {
  const float k = o.k, alpha = o.alpha, factor = 2.0f * o.alpha * o.beta;
  const int before = o.size / 2, after = o.size - 1 - o.size / 2;
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    map_sums<true>(o, x, pixel / o.w, pixel % o.w, before, after, sum);
    scales(o, o.c, sum, scale);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) {
      const float scaled = dy[offset + c] * scale[c];
      dx[offset + c] = scaled;
      terms[offset + c] = scaled * x[offset + c] / (k + alpha * sum[c]);
    }
  }
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    map_sums<false>(o, terms, pixel / o.w, pixel % o.w, after, before, sum);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) dx[offset + c] -= factor * x[offset + c] * sum[c];
  }
}

// Elements' worth of work of one image: a window per element.
int64_t map_cost(const LrnProblem& o) {
  const int64_t rows = std::min(o.size, o.h), columns = std::min(o.size, o.w);
  return int64_t{o.h} * o.w * o.c * std::min<int64_t>(rows * columns, kGrain);
}

}  // namespace

void lrn_forward(const LrnProblem& problem, const float* x, float* y, Stream) {
  if (problem.region == LrnRegion::across_channels) {
    return across_channels(problem, [&](int64_t begin, int64_t end, const Buffers& buffers) {
      across_forward(problem, x, y, begin, end, buffers);
    });
  }
  const int64_t image = int64_t{problem.h} * problem.w * problem.c;
  std::vector<float> buffers(size_t(problem.c) * parallel_parts(problem.n, map_cost(problem)));
  parallel_ranges(problem.n, map_cost(problem), [&](int part, int64_t begin, int64_t end) {
    float* buffer = buffers.data() + size_t(part) * problem.c;
    for (int64_t n = begin; n < end; ++n) map_forward(problem, x + n * image, y + n * image, buffer);
  });
}

size_t lrn_backward_workspace(const LrnProblem&) {
  return 0;
}

void lrn_backward(const LrnProblem& problem, const float* x, const float* dy, float* dx, void*, Stream) {
  if (problem.region == LrnRegion::across_channels) {
    return across_channels(problem, [&](int64_t begin, int64_t end, const Buffers& buffers) {
      across_backward(problem, x, dy, dx, begin, end, buffers);
    });
  }
  const int64_t image = int64_t{problem.h} * problem.w * problem.c;
  const size_t each = image + 2 * problem.c;
  std::vector<float> buffers(each * parallel_parts(problem.n, map_cost(problem)));
  parallel_ranges(problem.n, map_cost(problem), [&](int part, int64_t begin, int64_t end) {
    float* sum = buffers.data() + part * each;
    float* scale = sum + problem.c;
    for (int64_t n = begin; n < end; ++n) {
      map_backward(problem, x + n * image, dy + n * image, dx + n * image, sum, scale, scale + problem.c);
    }
  });
}

}  // namespace cconvnet
