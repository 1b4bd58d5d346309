// Local response normalisation of some pixels across channels: d = k + alpha * (sum of x^2 over a window),
// y = x * d^-beta.
//
// The lanes of a vector are 16 neighbouring channels, and the window's sum is `size` vectors loaded at
// shifted addresses. For that a thread copies some (pixel, group) items into a buffer of its own. Zeros
// between them serve as the ends of every window. It copies several items at a time, since a load that waits
// for stores just before it is slow. Sums are formed directly: a running sum that adds one end and
// subtracts the other would accumulate rounding errors.
#pragma once

#include <vector>

#include "lanes.h"
#include "lrn_extremes.h"
#include "normalise.h"
#include "problem.h"

namespace cconvnet {

// The layout of a thread's buffers: a margin of zeros, then each item's channels, filled up with zeros to
// whole vectors, and a margin again.
struct Layout {
  int channels;
  int before, after;   // channels of a window before its own and after it
  int margin, stride;  // floats of a margin, and from item to item
  int items;           // worked on together
  size_t length;       // of a buffer

  explicit Layout(const LrnProblem& problem) : channels(problem.c / problem.groups) {
    // A window wider than twice the channels contains all of them, and the margins need not be longer.
    before = std::min(problem.size / 2, channels);
    after = std::min(problem.size - 1 - problem.size / 2, channels);
    margin = static_cast<int>(rounded_up(std::max(before, after)));
    stride = static_cast<int>(rounded_up(channels)) + margin;
    // So many that a load seldom waits for the store just before it, and so few that the processor reads
    // ahead into the next items. These are 4 items of 48 channels or 2 of 128 (conv1 and conv2 of AlexNet).
    // With 16 and 7 the backward pass took 1.5 times as long on Zen 5 (2026-11-21).
    constexpr int kValues = 300;
    items = std::max(1, kValues / stride);
    length = size_t(margin) + size_t(items) * stride;
  }
  // The problem of one item alone.
  LrnProblem item(const LrnProblem& problem) const {
    LrnProblem one = problem;
    one.n = one.h = one.w = one.groups = 1;
    one.c = channels;
    return one;
  }
  // Returns whether window and power are those of Krizhevsky et al. 2012, which have a version of their own.
  bool is_papers(const LrnProblem& problem) const {
    return before == 2 && after == 2 && problem.beta == 0.75f;
  }
  // The address of channel 0 of an item in a buffer.
  float* of(float* buffer, int item) const { return buffer + margin + size_t(item) * stride; }
};

// One thread's buffers, zeros but for the items' channels: size() floats from `memory` on, which is aligned
// to vectors.
struct Buffers {
  float *values, *scales, *terms;
  Buffers(const Layout& layout, float* memory)
      : values(memory), scales(memory + layout.length), terms(memory + 2 * layout.length) {}
  static int64_t size(const Layout& layout) { return 3 * layout.length; }
};

// Returns the sum of a window's values, or of their squares, for each of the lanes around `center`.
template <bool SQUARED>
inline __attribute__((always_inline)) Lanes window_sum(const float* center, int before, int after) {
  Lanes sum = {};
  for (int shift = -before; shift <= after; ++shift) {
    const Lanes values = load(center + shift);
    sum += SQUARED ? values * values : values;
  }
  return sum;
}

// Returns the powers of d that both passes need, from the windows' sums of squares.
template <bool THREE_QUARTERS>
inline __attribute__((always_inline)) Powers<Lanes> powers_of(const LrnProblem& problem, const Lanes& sum) {
  const Lanes d = problem.k + problem.alpha * sum;
  if (THREE_QUARTERS) return three_quarters<true>(d);
  Powers<Lanes> result;
  for (int i = 0; i < kLanes; ++i) {
    const Powers<float> one = any_power<true>(d[i], problem.beta);
    result.scale[i] = one.scale;
    result.steeper[i] = one.steeper;
  }
  return result;
}

// Copies the channels of items into a buffer, between its margins.
template <class T>
inline __attribute__((always_inline)) void copy_in(const Layout& layout, const T* x, int items,
                                                   float* buffer) {
  for (int item = 0; item < items; ++item) {
    const T* from = x + int64_t{item} * layout.channels;
    float* to = layout.of(buffer, item);
    for_lanes(layout.channels,
              [&](int c, int lanes) __attribute__((always_inline)) { store(to + c, load(from + c, lanes)); });
  }
}

// Returns whether any lane of a sum of 0 * value is NaN, which means that some value was NaN or infinite.
inline bool any_nan(const Lanes& sum) {
  bool found = false;
  for (int i = 0; i < kLanes; ++i) found |= std::isnan(sum[i]);
  return found;
}

// Recomputes the item's y where it is NaN.
template <class To>
void recompute_y(const LrnProblem& problem, const Layout& layout, const float* values, To* y) {
  for (int c = 0; c < layout.channels; ++c) {
    if (std::isnan(to_float(y[c]))) y[c] = from_float<To>(lrn_extreme_y(layout.item(problem), values, c));
  }
}

// Computes y of items. PAPER: the window is five channels wide, and beta is 3/4.
template <bool PAPER, class T, class To>
inline __attribute__((always_inline)) void forward_items(const LrnProblem& problem, const Layout& layout,
                                                         const T* x, To* y, int items,
                                                         const Buffers& buffers) {
  const int before = PAPER ? 2 : layout.before, after = PAPER ? 2 : layout.after;
  copy_in(layout, x, items, buffers.values);
  for (int item = 0; item < items; ++item) {
    const float* values = layout.of(buffers.values, item);
    To* to = y + int64_t{item} * layout.channels;
    Lanes check = {};
    for_lanes(layout.channels, [&](int c, int lanes) __attribute__((always_inline)) {
      const Powers<Lanes> power = powers_of<PAPER>(problem, window_sum<true>(values + c, before, after));
      store(to + c, load(values + c) * power.scale, lanes);
      check += 0.0f * power.scale;
    });
    if (any_nan(check)) recompute_y(problem, layout, values, to);
  }
}

// Recomputes the item's dx where it is NaN. Its y are those of forward_items and recompute_y, by which
// pooling after it recognises its maxima.
template <bool PAPER, class Gradient, class T>
inline __attribute__((always_inline)) void recompute_dx(const LrnProblem& problem, const Layout& layout,
                                                        const float* values, const Gradient& gradient,
                                                        int item, bool relu, T* dx) {
  const int before = PAPER ? 2 : layout.before, after = PAPER ? 2 : layout.after;
  const LrnProblem one = layout.item(problem);
  std::vector<float> both(2 * rounded_up(layout.channels));
  float *y = both.data(), *dy = y + rounded_up(layout.channels);
  for (int c = 0; c < layout.channels; c += kLanes) {
    store(y + c,
          load(values + c) * powers_of<PAPER>(problem, window_sum<true>(values + c, before, after)).scale);
  }
  recompute_y(problem, layout, values, y);
  gradient(item, [&](const auto& gradient_of_item) __attribute__((always_inline)) {
    for (int c = 0; c < layout.channels; c += kLanes) {
      store(dy + c, gradient_of_item(c, layout.channels - c, load(y + c)));
    }
  });
  for (int c = 0; c < layout.channels; ++c) {
    if (!std::isnan(to_float(dx[c]))) continue;
    const float value = lrn_extreme_dx(one, values, c, [&](int i) { return dy[i]; });
    dx[c] = from_float<T>(relu && !(values[c] > 0.0f) ? 0.0f : value);
  }
}

// Computes dx of items. gradient(item, work) calls work(g). There g(c, count, y) is dy of the item's `count`
// channels from c on, whose normalised values are y.
template <bool PAPER, class T, class Gradient>
inline __attribute__((always_inline)) void backward_items(const LrnProblem& problem, const Layout& layout,
                                                          const T* x, const Gradient& gradient, int first,
                                                          int items, bool relu, T* dx,
                                                          const Buffers& buffers) {
  const int before = PAPER ? 2 : layout.before, after = PAPER ? 2 : layout.after;
  const float factor = 2.0f * problem.alpha * problem.beta;
  copy_in(layout, x, items, buffers.values);
  for (int item = 0; item < items; ++item) {
    const float* values = layout.of(buffers.values, item);
    float *scales = layout.of(buffers.scales, item), *terms = layout.of(buffers.terms, item);
    gradient(first + item, [&](const auto& gradient_of_item) __attribute__((always_inline)) {
      for_lanes(layout.channels, [&](int c, int lanes) __attribute__((always_inline)) {
        const Powers<Lanes> power = powers_of<PAPER>(problem, window_sum<true>(values + c, before, after));
        const Lanes value = load(values + c);
        const Lanes dy = gradient_of_item(c, lanes, value * power.scale);
        store(scales + c, dy * power.scale);
        store(terms + c, dy * value * power.steeper);
      });
    });
  }
  for (int item = 0; item < items; ++item) {
    const float *values = layout.of(buffers.values, item), *terms = layout.of(buffers.terms, item);
    const float* scales = layout.of(buffers.scales, item);
    T* to = dx + int64_t{item} * layout.channels;
    Lanes check = {};
    for_lanes(layout.channels, [&](int c, int lanes) __attribute__((always_inline)) {
      // The windows that contain channel c are those of [c - after, c + before]: the ends are exchanged.
      const Lanes sum = window_sum<false>(terms + c, after, before);
      const Lanes value = load(values + c);
      const Lanes result = load(scales + c) - factor * value * sum;
      store(to + c, relu ? where_positive(value, result) : result, lanes);
      check += 0.0f * result;
    });
    if (any_nan(check)) recompute_dx<PAPER>(problem, layout, values, gradient, first + item, relu, to);
  }
}

// Computes y of the items [begin, end) of x.
template <class T, class To>
inline __attribute__((always_inline)) void across_forward(const LrnProblem& problem, const Layout& layout,
                                                          const T* x, To* y, int begin, int end,
                                                          const Buffers& buffers) {
  for (int first = begin; first < end; first += layout.items) {
    const int items = std::min(layout.items, end - first);
    const int64_t offset = int64_t{first} * layout.channels;
    if (layout.is_papers(problem)) {
      forward_items<true>(problem, layout, x + offset, y + offset, items, buffers);
    } else {
      forward_items<false>(problem, layout, x + offset, y + offset, items, buffers);
    }
  }
}

// Computes dx of the items [begin, end). With `relu` it is 0 where x is not positive.
template <class T, class Gradient>
inline __attribute__((always_inline)) void across_backward(const LrnProblem& problem, const Layout& layout,
                                                           const T* x, const Gradient& gradient, bool relu,
                                                           T* dx, int begin, int end,
                                                           const Buffers& buffers) {
  for (int first = begin; first < end; first += layout.items) {
    const int items = std::min(layout.items, end - first);
    const int64_t offset = int64_t{first} * layout.channels;
    if (layout.is_papers(problem)) {
      backward_items<true>(problem, layout, x + offset, gradient, first, items, relu, dx + offset, buffers);
    } else {
      backward_items<false>(problem, layout, x + offset, gradient, first, items, relu, dx + offset, buffers);
    }
  }
}

}  // namespace cconvnet
