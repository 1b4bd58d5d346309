// Local response normalisation, d = k + alpha * (sum of x^2 over a window), y = x * d^-beta, across the
// channels of a group (lrn_across.h) or in the same map. There too the lanes are channels, and the window is
// a loop over pixels.
#include <cmath>
#include <vector>

#include "api.h"
#include "core/select.h"
#include "floats.h"
#include "lrn_across.h"
#include "parallel.h"

namespace cconvnet {
namespace {

// ---- across channels ------------------------------------------------------------------------------------

template <class T>
struct DenseGradient {
  const T* dy;
  int channels;

  template <class Work>
  inline __attribute__((always_inline)) void operator()(int item, const Work& work) const {
    const T* from = dy + int64_t{item} * channels;
    work([&](int c, int count, const Lanes&)
             __attribute__((always_inline)) { return load(from + c, count); });
  }
};

template <class T>
CCONVNET_CLONES void across_forward_range(const LrnProblem& problem, const Layout& layout, const T* x, T* y,
                                          int begin, int end, const Buffers& buffers) {
  across_forward(problem, layout, x, y, begin, end, buffers);
}

template <class T>
CCONVNET_CLONES void across_backward_range(const LrnProblem& problem, const Layout& layout, const T* x,
                                           const T* dy, T* dx, int begin, int end, const Buffers& buffers) {
  across_backward(problem, layout, x, DenseGradient<T>{dy, layout.channels}, false, dx, begin, end, buffers);
}

// Calls function(layout, begin, end, buffers) on all threads, for ranges of (pixel, group) items.
template <class Function>
void for_items(const LrnProblem& problem, const Function& function) {
  const Layout layout(problem);
  const int64_t items = int64_t{problem.n} * problem.h * problem.w * problem.groups;
  const int64_t each = Buffers::size(layout);
  AlignedFloats memory(each * parallel_parts(items, layout.channels));
  parallel_ranges(items, layout.channels, [&](int part, int64_t begin, int64_t end) {
    function(layout, static_cast<int>(begin), static_cast<int>(end),
             Buffers(layout, memory.data() + each * part));
  });
}

// ---- in the same map ------------------------------------------------------------------------------------

// Recompute the elements of one image's y, and of its dx, that are NaN.
void recompute_y(LrnProblem problem, const float* x, float* y) {
  problem.n = 1;
  for (int i = 0; i < problem.count(); ++i) {
    if (std::isnan(y[i])) y[i] = lrn_extreme_y(problem, x, i);
  }
}

void recompute_dx(LrnProblem problem, const float* x, const float* dy, float* dx) {
  problem.n = 1;
  for (int i = 0; i < problem.count(); ++i) {
    if (std::isnan(dx[i])) dx[i] = lrn_extreme_dx(problem, x, i, [&](int j) { return dy[j]; });
  }
}

// One image each; `buffer` has room for c floats.
CCONVNET_CLONES void map_forward(const LrnProblem& problem, const float* x, float* y, float* buffer) {
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    map_sums<true>(problem, x, pixel / problem.w, pixel % problem.w, problem.size / 2,
                   problem.size - 1 - problem.size / 2, buffer);
    powers<false>(problem, problem.c, buffer, buffer, nullptr);
    const float* from = x + int64_t{pixel} * problem.c;
    float* to = y + int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) to[c] = from[c] * buffer[c];
  }
  if (has_nan(y, int64_t{problem.h} * problem.w * problem.c)) recompute_y(problem, x, y);
}

// `terms` contains the image's dy * x * d^(-beta-1), which every window around a pixel needs.
CCONVNET_CLONES void map_backward(const LrnProblem& problem, const float* x, const float* dy, float* dx,
                                  float* sum, float* scale, float* terms) {
  const float factor = 2.0f * problem.alpha * problem.beta;
  const int before = problem.size / 2, after = problem.size - 1 - problem.size / 2;
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    map_sums<true>(problem, x, pixel / problem.w, pixel % problem.w, before, after, sum);
    float* steeper = sum;
    powers<true>(problem, problem.c, sum, scale, steeper);
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) {
      dx[offset + c] = dy[offset + c] * scale[c];
      terms[offset + c] = dy[offset + c] * x[offset + c] * steeper[c];
    }
  }
  for (int pixel = 0; pixel < problem.h * problem.w; ++pixel) {
    map_sums<false>(problem, terms, pixel / problem.w, pixel % problem.w, after, before, sum);
    const int64_t offset = int64_t{pixel} * problem.c;
#pragma omp simd
    for (int c = 0; c < problem.c; ++c) dx[offset + c] -= factor * x[offset + c] * sum[c];
  }
  if (has_nan(dx, int64_t{problem.h} * problem.w * problem.c)) recompute_dx(problem, x, dy, dx);
}

// Calls function(offset of the image, buffer) for all images, on all threads; a thread's own buffer has
// `buffer_size` floats.
template <class Function>
void for_images(const LrnProblem& problem, int64_t image, int64_t buffer_size, const Function& function) {
  std::vector<float> buffers(buffer_size * parallel_parts(problem.n, map_cost(problem)));
  parallel_ranges(problem.n, map_cost(problem), [&](int part, int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) function(n * image, buffers.data() + part * buffer_size);
  });
}

// ---- launchers ------------------------------------------------------------------------------------------

template <class T>
struct LrnArrays {
  const T *x, *dy;
  T* out;  // y or dx
  void* workspace = nullptr;
  bool aligned() const { return true; }  // no kernel here wants more than an element's alignment
};

template <class T>
void launch_across_forward(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream) {
  for_items(problem, [&](const Layout& layout, int begin, int end, const Buffers& buffers) {
    across_forward_range(problem, layout, arrays.x, arrays.out, begin, end, buffers);
  });
}

template <class T>
void launch_map_forward(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream) {
  const int64_t image = int64_t{problem.h} * problem.w * problem.c, own = buffered<T>(image);
  for_images(problem, image, problem.c + 2 * own, [&](int64_t offset, float* buffer) {
    float* floats = buffer + problem.c;
    float* result = float_destination(arrays.out + offset, floats + own);
    map_forward(problem, as_floats(arrays.x + offset, image, floats), result, buffer);
    write_floats(result, image, arrays.out + offset);
  });
}

template <class T>
void launch_across_backward(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream) {
  for_items(problem, [&](const Layout& layout, int begin, int end, const Buffers& buffers) {
    across_backward_range(problem, layout, arrays.x, arrays.dy, arrays.out, begin, end, buffers);
  });
}

template <class T>
void launch_map_backward(const LrnProblem& problem, const LrnArrays<T>& arrays, Stream) {
  const int64_t image = int64_t{problem.h} * problem.w * problem.c, own = buffered<T>(image);
  for_images(problem, image, 2 * problem.c + image + 3 * own, [&](int64_t offset, float* sum) {
    float *scale = sum + problem.c, *terms = scale + problem.c, *floats = terms + image;
    float* result = float_destination(arrays.out + offset, floats + 2 * own);
    map_backward(problem, as_floats(arrays.x + offset, image, floats),
                 as_floats(arrays.dy + offset, image, floats + own), result, sum, scale, terms);
    write_floats(result, image, arrays.out + offset);
  });
}

// ---- selection tables -----------------------------------------------------------------------------------

template <class T>
using LrnTable = SelectionTable<LrnProblem, LrnArrays<T>>;

bool across_channels(const LrnProblem& problem) {
  return problem.region == LrnRegion::across_channels;
}

bool in_map(const LrnProblem& problem) {
  return problem.region == LrnRegion::same_map;
}

template <class T>
const LrnTable<T>& forward_table() {
  static const std::string type = kElementName<T>;
  static const LrnTable<T> table(
      "lrn_forward",
      {{"lrn_forward_across_" + type, false, across_channels, always, no_workspace, launch_across_forward<T>},
       {"lrn_forward_map_" + type, false, in_map, always, no_workspace, launch_map_forward<T>}});
  return table;
}

template <class T>
const LrnTable<T>& backward_table() {
  static const std::string type = kElementName<T>;
  static const LrnTable<T> table("lrn_backward", {{"lrn_backward_across_" + type, false, across_channels,
                                                   always, no_workspace, launch_across_backward<T>},
                                                  {"lrn_backward_map_" + type, false, in_map, always,
                                                   no_workspace, launch_map_backward<T>}});
  return table;
}

}  // namespace

template <class T>
void lrn_forward(const LrnProblem& problem, const T* x, T* y, Stream stream) {
  forward_table<T>().run(problem, {x, nullptr, y}, stream, nullptr);
}

size_t lrn_backward_workspace(const LrnProblem&) {
  return 0;
}

template <class T>
void lrn_backward(const LrnProblem& problem, const T* x, const T* dy, T* dx, void*, Stream stream) {
  backward_table<T>().run(problem, {x, dy, dx}, stream, nullptr);
}

template void lrn_forward(const LrnProblem&, const float*, float*, Stream);
template void lrn_forward(const LrnProblem&, const bfloat16*, bfloat16*, Stream);
template void lrn_backward(const LrnProblem&, const float*, const float*, float*, void*, Stream);
template void lrn_backward(const LrnProblem&, const bfloat16*, const bfloat16*, bfloat16*, void*, Stream);

}  // namespace cconvnet
