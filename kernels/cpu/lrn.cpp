// Local response normalisation, d = k + alpha * (sum of x^2 over a window), y = x * d^-beta, across the
// channels of a group or in the same map.
//
// Across channels, some dozens of (pixel, group) items are worked on together. Their squares are laid into
// one buffer with zeros between the items, so that the window's sum is `size` shifted loads for a whole
// vector of channels, and one loop runs over all items: their few channels alone would spend their time in
// loop ends, and in loads that wait for the stores just before them. Sums are formed directly: a running sum
// that adds one end and subtracts the other would leave rounding behind. In the same map, the lanes are
// channels too and the window is a loop over pixels.
#include <cstring>
#include <vector>

#include "api.h"
#include "normalise.h"
#include "parallel.h"

namespace cconvnet {
namespace {

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

// How items lie in a thread's buffers: `channels` values, then a margin of zeros that serves as the end of
// one item and the beginning of the next.
struct Layout {
  int channels;
  int before, after;  // channels of the window left and right of its own
  int stride;         // from item to item
  int items;          // worked on together
  size_t length;      // of a buffer

  explicit Layout(const LrnProblem& o) : channels(o.c / o.groups) {
    // A window wider than twice the channels sees all of them, and the margins need not be longer.
    before = std::min(o.size / 2, channels);
    after = std::min(o.size - 1 - o.size / 2, channels);
    stride = channels + before + after;
    // Enough values for long loops, few enough that the processor reads ahead into the next items: on Zen 5
    // (conv1 and conv2 of AlexNet, 2026-11-20) 420 were 25% faster than 1536 and 20% than 110.
    constexpr int kValues = 420;
    items = std::max(1, kValues / stride);
    length = (size_t(items) * stride + before + after + 15) / 16 * 16;
  }
  int window() const { return before + 1 + after; }
};

// One thread's buffers. The margins of `squares` and `terms` are 0 and stay so.
struct Buffers {
  float *squares, *scales, *steeper, *terms;
};

CCONVNET_CLONES void across_forward(const LrnProblem& o, const Layout& layout, const float* x, float* y,
                                    int64_t begin, int64_t end, const Buffers& buffers) {
  const int channels = layout.channels, stride = layout.stride;
  for (int64_t first = begin; first < end; first += layout.items) {
    const int items = static_cast<int>(std::min<int64_t>(layout.items, end - first));
    for (int item = 0; item < items; ++item) {
      const float* from = x + (first + item) * channels;
      float* squares = buffers.squares + item * stride + layout.before;
#pragma omp simd
      for (int i = 0; i < channels; ++i) squares[i] = from[i] * from[i];
    }
    window_sums(layout.window(), items * stride, buffers.squares, buffers.scales);
    powers<false>(o, items * stride, buffers.scales, buffers.scales, nullptr);
    for (int item = 0; item < items; ++item) {
      const float* from = x + (first + item) * channels;
      const float* scales = buffers.scales + item * stride;
      float* to = y + (first + item) * channels;
#pragma omp simd
      for (int i = 0; i < channels; ++i) to[i] = from[i] * scales[i];
    }
  }
}

CCONVNET_CLONES void across_backward(const LrnProblem& o, const Layout& layout, const float* x,
                                     const float* dy, float* dx, int64_t begin, int64_t end,
                                     const Buffers& buffers) {
  const int channels = layout.channels, stride = layout.stride;
  const float factor = 2.0f * o.alpha * o.beta;
  for (int64_t first = begin; first < end; first += layout.items) {
    const int items = static_cast<int>(std::min<int64_t>(layout.items, end - first));
    for (int item = 0; item < items; ++item) {
      const float* from = x + (first + item) * channels;
      float* squares = buffers.squares + item * stride + layout.before;
#pragma omp simd
      for (int i = 0; i < channels; ++i) squares[i] = from[i] * from[i];
    }
    window_sums(layout.window(), items * stride, buffers.squares, buffers.scales);
    powers<true>(o, items * stride, buffers.scales, buffers.scales, buffers.steeper);
    for (int item = 0; item < items; ++item) {
      const float* from = x + (first + item) * channels;
      const float* gradient = dy + (first + item) * channels;
      const float* steeper = buffers.steeper + item * stride;
      // The windows that hold channel i are those of [i - after, i + before]: the margins change places.
      float* terms = buffers.terms + item * stride + layout.after;
#pragma omp simd
      for (int i = 0; i < channels; ++i) terms[i] = gradient[i] * from[i] * steeper[i];
    }
    float* sums = buffers.steeper;
    window_sums(layout.window(), items * stride, buffers.terms, sums);
    for (int item = 0; item < items; ++item) {
      const int64_t offset = (first + item) * channels;
      const float* scales = buffers.scales + item * stride;
      const float* sum = sums + item * stride;
#pragma omp simd
      for (int i = 0; i < channels; ++i) {
        dx[offset + i] = dy[offset + i] * scales[i] - factor * x[offset + i] * sum[i];
      }
    }
  }
}

// Calls function(layout, begin, end, buffers) on all threads, for ranges of (pixel, group) items.
template <class Function>
void across_channels(const LrnProblem& o, const Function& function) {
  const Layout layout(o);
  const int64_t items = int64_t{o.n} * o.h * o.w * o.groups;
  std::vector<float> memory(4 * layout.length * parallel_parts(items, layout.channels));
  parallel_ranges(items, layout.channels, [&](int part, int64_t begin, int64_t end) {
    float* own = memory.data() + 4 * layout.length * part;
    const Buffers buffers = {own, own + layout.length, own + 2 * layout.length, own + 3 * layout.length};
    function(layout, begin, end, buffers);
  });
}

// ---- in the same map ------------------------------------------------------------------------------------

// One image each; `buffer` holds c floats.
CCONVNET_CLONES void map_forward(const LrnProblem& o, const float* x, float* y, float* buffer) {
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    map_sums<true>(o, x, pixel / o.w, pixel % o.w, o.size / 2, o.size - 1 - o.size / 2, buffer);
    powers<false>(o, o.c, buffer, buffer, nullptr);
    const float* from = x + int64_t{pixel} * o.c;
    float* to = y + int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) to[c] = from[c] * buffer[c];
  }
}

// `terms` holds the image's dy * x * d^(-beta-1), which every window around a pixel needs.
CCONVNET_CLONES void map_backward(const LrnProblem& o, const float* x, const float* dy, float* dx, float* sum,
                                  float* scale, float* terms) {
  const float factor = 2.0f * o.alpha * o.beta;
  const int before = o.size / 2, after = o.size - 1 - o.size / 2;
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    map_sums<true>(o, x, pixel / o.w, pixel % o.w, before, after, sum);
    float* steeper = sum;
    powers<true>(o, o.c, sum, scale, steeper);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) {
      dx[offset + c] = dy[offset + c] * scale[c];
      terms[offset + c] = dy[offset + c] * x[offset + c] * steeper[c];
    }
  }
  for (int pixel = 0; pixel < o.h * o.w; ++pixel) {
    map_sums<false>(o, terms, pixel / o.w, pixel % o.w, after, before, sum);
    const int64_t offset = int64_t{pixel} * o.c;
#pragma omp simd
    for (int c = 0; c < o.c; ++c) dx[offset + c] -= factor * x[offset + c] * sum[c];
  }
}

}  // namespace

void lrn_forward(const LrnProblem& problem, const float* x, float* y, Stream) {
  if (problem.region == LrnRegion::across_channels) {
    return across_channels(problem,
                           [&](const Layout& layout, int64_t begin, int64_t end, const Buffers& buffers) {
                             across_forward(problem, layout, x, y, begin, end, buffers);
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
    return across_channels(problem,
                           [&](const Layout& layout, int64_t begin, int64_t end, const Buffers& buffers) {
                             across_backward(problem, layout, x, dy, dx, begin, end, buffers);
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
