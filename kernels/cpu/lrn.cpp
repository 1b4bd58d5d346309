// Local response normalisation, d = k + alpha * (sum of x^2 over a window), y = x * d^-beta, across the
// channels of a group or in the same map.
//
// Across channels, the lanes of a vector are 16 neighbouring channels, and the window's sum is `size` vectors
// loaded at shifted addresses. For that a thread copies some (pixel, group) items into a buffer of its own,
// with zeros between them that serve as the ends of every window; several items at a time, since a load that
// waits for stores just before it is slow. Sums are formed directly: a running sum that adds one end and
// subtracts the other would leave rounding behind. In the same map, the lanes are channels too and the window
// is a loop over pixels.
#include <cstring>
#include <vector>

#include "api.h"
#include "normalise.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// ---- across channels ------------------------------------------------------------------------------------

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

inline int rounded_up(int count) {
  return (count + kLanes - 1) / kLanes * kLanes;
}

// The vector at `from`, or its first `count` lanes and zeros; and the like for storing.
inline __attribute__((always_inline)) Lanes load(const float* from, int count = kLanes) {
  Lanes values = {};
  if (count >= kLanes) {
    std::memcpy(&values, from, sizeof values);
  } else {
    for (int i = 0; i < count; ++i) values[i] = from[i];
  }
  return values;
}

inline __attribute__((always_inline)) void store(float* to, const Lanes& values, int count = kLanes) {
  if (count >= kLanes) {
    std::memcpy(to, &values, sizeof values);
  } else {
    for (int i = 0; i < count; ++i) to[i] = values[i];
  }
}

// How items lie in a thread's buffers: a margin of zeros, then each item's channels, filled up with zeros to
// whole vectors, and a margin again.
struct Layout {
  int channels;
  int before, after;   // channels of the window left and right of its own
  int margin, stride;  // the latter from item to item
  int items;           // worked on together
  size_t length;       // of a buffer

  explicit Layout(const LrnProblem& o) : channels(o.c / o.groups) {
    // A window wider than twice the channels sees all of them, and the margins need not be longer.
    before = std::min(o.size / 2, channels);
    after = std::min(o.size - 1 - o.size / 2, channels);
    margin = rounded_up(std::max(before, after));
    stride = rounded_up(channels) + margin;
    // Enough that a load seldom waits for the store just before it, few enough that the processor reads ahead
    // into the next items: on Zen 5 (conv1 and conv2 of AlexNet, 2026-11-21) the backward pass was 1.5 times
    // as fast with 4 items of 48 and 2 of 128 channels as with 16 and 7.
    constexpr int kValues = 300;
    items = std::max(1, kValues / stride);
    length = size_t(margin) + size_t(items) * stride;
  }
  // Where channel 0 of an item lies in a buffer.
  float* of(float* buffer, int item) const { return buffer + margin + size_t(item) * stride; }
};

// One thread's buffers, zeros but for the items' channels.
struct Buffers {
  float *values, *scales, *terms;
};

template <bool SQUARED>
inline __attribute__((always_inline)) Lanes window_sum(const float* center, int before, int after) {
  Lanes sum = {};
  for (int shift = -before; shift <= after; ++shift) {
    const Lanes values = load(center + shift);
    sum += SQUARED ? values * values : values;
  }
  return sum;
}

template <bool THREE_QUARTERS>
inline __attribute__((always_inline)) Powers<Lanes> powers_of(const LrnProblem& o, const Lanes& sum) {
  const Lanes d = o.k + o.alpha * sum;
  if (THREE_QUARTERS) return three_quarters(d);
  Powers<Lanes> result;
  for (int i = 0; i < kLanes; ++i) {
    const Powers<float> one = any_power(d[i], o.beta);
    result.scale[i] = one.scale;
    result.steeper[i] = one.steeper;
  }
  return result;
}

inline __attribute__((always_inline)) void copy_in(const Layout& layout, const float* x, int items,
                                                   float* buffer) {
  for (int item = 0; item < items; ++item) {
    const float* from = x + int64_t{item} * layout.channels;
    float* to = layout.of(buffer, item);
    for (int c = 0; c < layout.channels; c += kLanes) store(to + c, load(from + c, layout.channels - c));
  }
}

// PAPER: five channels wide, and beta = 3/4.
template <bool PAPER>
inline __attribute__((always_inline)) void forward_items(const LrnProblem& o, const Layout& layout,
                                                         const float* x, float* y, int items,
                                                         const Buffers& buffers) {
  const int before = PAPER ? 2 : layout.before, after = PAPER ? 2 : layout.after;
  copy_in(layout, x, items, buffers.values);
  for (int item = 0; item < items; ++item) {
    const float* values = layout.of(buffers.values, item);
    float* to = y + int64_t{item} * layout.channels;
    for (int c = 0; c < layout.channels; c += kLanes) {
      const Powers<Lanes> power = powers_of<PAPER>(o, window_sum<true>(values + c, before, after));
      store(to + c, load(values + c) * power.scale, layout.channels - c);
    }
  }
}

template <bool PAPER>
inline __attribute__((always_inline)) void backward_items(const LrnProblem& o, const Layout& layout,
                                                          const float* x, const float* dy, float* dx,
                                                          int items, const Buffers& buffers) {
  const int before = PAPER ? 2 : layout.before, after = PAPER ? 2 : layout.after;
  const float factor = 2.0f * o.alpha * o.beta;
  copy_in(layout, x, items, buffers.values);
  for (int item = 0; item < items; ++item) {
    const float *values = layout.of(buffers.values, item), *from = dy + int64_t{item} * layout.channels;
    float *scales = layout.of(buffers.scales, item), *terms = layout.of(buffers.terms, item);
    for (int c = 0; c < layout.channels; c += kLanes) {
      const Powers<Lanes> power = powers_of<PAPER>(o, window_sum<true>(values + c, before, after));
      const Lanes gradient = load(from + c, layout.channels - c);
      store(scales + c, gradient * power.scale);
      store(terms + c, gradient * load(values + c) * power.steeper);
    }
  }
  for (int item = 0; item < items; ++item) {
    const float *values = layout.of(buffers.values, item), *terms = layout.of(buffers.terms, item);
    const float* scales = layout.of(buffers.scales, item);
    float* to = dx + int64_t{item} * layout.channels;
    for (int c = 0; c < layout.channels; c += kLanes) {
      // The windows that hold channel c are those of [c - after, c + before]: the ends change places.
      const Lanes sum = window_sum<false>(terms + c, after, before);
      store(to + c, load(scales + c) - factor * load(values + c) * sum, layout.channels - c);
    }
  }
}

inline bool is_papers(const LrnProblem& o, const Layout& layout) {
  return layout.before == 2 && layout.after == 2 && o.beta == 0.75f;
}

CCONVNET_CLONES void across_forward(const LrnProblem& o, const Layout& layout, const float* x, float* y,
                                    int64_t begin, int64_t end, const Buffers& buffers) {
  for (int64_t first = begin; first < end; first += layout.items) {
    const int items = static_cast<int>(std::min<int64_t>(layout.items, end - first));
    const int64_t offset = first * layout.channels;
    if (is_papers(o, layout)) {
      forward_items<true>(o, layout, x + offset, y + offset, items, buffers);
    } else {
      forward_items<false>(o, layout, x + offset, y + offset, items, buffers);
    }
  }
}

CCONVNET_CLONES void across_backward(const LrnProblem& o, const Layout& layout, const float* x,
                                     const float* dy, float* dx, int64_t begin, int64_t end,
                                     const Buffers& buffers) {
  for (int64_t first = begin; first < end; first += layout.items) {
    const int items = static_cast<int>(std::min<int64_t>(layout.items, end - first));
    const int64_t offset = first * layout.channels;
    if (is_papers(o, layout)) {
      backward_items<true>(o, layout, x + offset, dy + offset, dx + offset, items, buffers);
    } else {
      backward_items<false>(o, layout, x + offset, dy + offset, dx + offset, items, buffers);
    }
  }
}

// Calls function(layout, begin, end, buffers) on all threads, for ranges of (pixel, group) items.
template <class Function>
void across_channels(const LrnProblem& o, const Function& function) {
  const Layout layout(o);
  const int64_t items = int64_t{o.n} * o.h * o.w * o.groups;
  std::vector<float> memory(3 * layout.length * parallel_parts(items, layout.channels));
  parallel_ranges(items, layout.channels, [&](int part, int64_t begin, int64_t end) {
    float* own = memory.data() + 3 * layout.length * part;
    function(layout, begin, end, {own, own + layout.length, own + 2 * layout.length});
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
