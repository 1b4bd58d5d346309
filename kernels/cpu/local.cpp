// Locally connected layers by oneDNN's sgemm. Every position has weights of its own, so each pass is a set of
// small matrix products over the images of the batch. For a position and a filter row r, the pixels that the
// row reads are one run of floats per image: a matrix[N, columns*C] in place (with groups, the group's
// channels of each pixel). Threads share the positions, in dgrad the pixels, whose sums no other thread
// writes. Within a thread sgemm is sequential, and the products are added in a fixed order.
#include <atomic>
#include <dnnl.hpp>
#include <vector>

#include "parallel.h"
#include "tables.h"

namespace cconvnet {
namespace {

// A matrix in memory: its first element and the distance from row to row.
template <class Float>
struct Matrix {
  Float* data;
  int64_t stride;
};

// Products inside a parallel loop, which must not throw: a failure is stored until throw_failure().
class Products {
 public:
  explicit Products(const LocalProblem& problem) : problem_(problem) {}

  // c[rows, columns] = a[rows, depth] b[depth, columns], or += if `add`; a and b may be transposed.
  void multiply(int rows, int columns, int depth, Matrix<const float> a, bool a_transposed,
                Matrix<const float> b, bool b_transposed, bool add, Matrix<float> c) {
    const dnnl_status_t status =
        dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', rows, columns, depth, 1.0f, a.data,
                   a.stride, b.data, b.stride, add ? 1.0f : 0.0f, c.data, c.stride);
    if (status != dnnl_success) failure_ = status;
  }

  void throw_failure() const {
    if (failure_ == dnnl_success) return;
    throw std::runtime_error("oneDNN's sgemm failed for " + repr(problem_) + " (status " +
                             std::to_string(failure_) + ")");
  }

 private:
  const LocalProblem& problem_;
  std::atomic<int> failure_{dnnl_success};
};

// The taps of a filter's axis that are in the image when its window begins at `first`.
inline Range taps_inside(int first, int filter, int size) {
  const int begin = std::min(std::max(-first, 0), filter);
  return {begin, std::max(std::min(size - first, filter), begin)};
}

// The windows along one axis that contain padded coordinate i.
inline Range windows_holding(int i, int filter, int stride, int windows) {
  return {i < filter ? 0 : (i - filter) / stride + 1, std::min(i / stride + 1, windows)};
}

// The distances between images and between filters.
struct Layout {
  int64_t x_image, y_image;  // elements
  int filter;                // weights of one filter
  explicit Layout(const LocalProblem& problem)
      : x_image(int64_t{problem.h} * problem.w * problem.c),
        y_image(int64_t{problem.p} * problem.q * problem.k),
        filter(problem.r * problem.s * problem.c_per_group()) {}
};

// Calls function(pixels, weight, length) for each run of floats that position (p, q)'s filters of group g
// read in one image and whose weights are side by side too: x + pixels, w + weight, `length` floats.
template <class Function>
void for_runs(const LocalProblem& problem, int p, int q, int g, const Function& function) {
  const int first_h = p * problem.stride_h - problem.pad_h, first_w = q * problem.stride_w - problem.pad_w;
  const Range rows = taps_inside(first_h, problem.r, problem.h),
              columns = taps_inside(first_w, problem.s, problem.w);
  const int channels = problem.c_per_group();
  const int taps = problem.groups == 1 ? columns.end - columns.begin : 1;  // of a run
  for (int r = rows.begin; r < rows.end; ++r) {
    for (int s = columns.begin; s < columns.end; s += taps) {
      const int64_t pixel = int64_t{first_h + r} * problem.w + first_w + s;
      function(pixel * problem.c + g * channels, (r * problem.s + s) * channels, taps * channels);
    }
  }
}

// Calls function(i) for the positions (or pixels) and groups, on all threads; `work` is multiply-adds of one.
template <class Function>
void for_all(int64_t count, int64_t work, const Function& function) {
  // One element of the other operations takes about as long as 16 multiply-adds here.
  parallel_ranges(count, std::max<int64_t>(1, std::min(work / 16, kGrain)),
                  [&](int, int64_t begin, int64_t end) {
                    const Team alone(1);  // of sgemm, whose sums depend on its threads
                    for (int64_t i = begin; i < end; ++i) function(static_cast<int>(i));
                  });
}

void fprop(const LocalProblem& problem, const float* x, const float* w, const float* bias, float* y) {
  const Layout layout(problem);
  const int filters = problem.k_per_group();
  Products products(problem);
  for_all(problem.positions(), problem.flops() / 2 / problem.positions(), [&](int position) {
    for (int g = 0; g < problem.groups; ++g) {
      const int64_t first = int64_t{position} * problem.k + g * filters;
      bool add = false;
      for_runs(problem, position / problem.q, position % problem.q, g,
               [&](int64_t pixels, int weight, int length) {
                 products.multiply(problem.n, filters, length, {x + pixels, layout.x_image}, false,
                                   {w + first * layout.filter + weight, layout.filter}, true, add,
                                   {y + first, layout.y_image});
                 add = true;
               });
      for (int n = 0; n < problem.n; ++n) {
        float* values = y + n * layout.y_image + first;
        for (int k = 0; k < filters; ++k) {
          const float value = add ? values[k] : 0.0f;
          values[k] = bias ? value + bias[first + k] : value;
        }
      }
    }
  });
  products.throw_failure();
}

void dgrad(const LocalProblem& problem, const float* dy, const float* w, float* dx) {
  const Layout layout(problem);
  const int channels = problem.c_per_group(), filters = problem.k_per_group();
  Products products(problem);
  for_all(int64_t{problem.h} * problem.w, problem.flops() / 2 / (int64_t{problem.h} * problem.w),
          [&](int pixel) {
            const int i = pixel / problem.w + problem.pad_h, j = pixel % problem.w + problem.pad_w;
            const Range rows = windows_holding(i, problem.r, problem.stride_h, problem.p);
            const Range columns = windows_holding(j, problem.s, problem.stride_w, problem.q);
            for (int g = 0; g < problem.groups; ++g) {
              float* to = dx + int64_t{pixel} * problem.c + g * channels;
              bool add = false;
              for (int p = rows.begin; p < rows.end; ++p) {
                for (int q = columns.begin; q < columns.end; ++q) {
                  const int64_t first = (int64_t{p} * problem.q + q) * problem.k + g * filters;
                  const int tap = (i - p * problem.stride_h) * problem.s + j - q * problem.stride_w;
                  products.multiply(problem.n, channels, filters, {dy + first, layout.y_image}, false,
                                    {w + first * layout.filter + tap * channels, layout.filter}, false, add,
                                    {to, layout.x_image});
                  add = true;
                }
              }
              if (add) continue;
              for (int n = 0; n < problem.n; ++n) std::fill_n(to + n * layout.x_image, channels, 0.0f);
            }
          });
  products.throw_failure();
}

void wgrad(const LocalProblem& problem, const float* x, const float* dy, float* dw) {
  const Layout layout(problem);
  const int filters = problem.k_per_group();
  Products products(problem);
  for_all(problem.positions(), problem.flops() / 2 / problem.positions(), [&](int position) {
    // A window that extends beyond the edge has weights without pixels.
    std::fill_n(dw + int64_t{position} * problem.k * layout.filter, int64_t{problem.k} * layout.filter, 0.0f);
    for (int g = 0; g < problem.groups; ++g) {
      const int64_t first = int64_t{position} * problem.k + g * filters;
      for_runs(problem, position / problem.q, position % problem.q, g,
               [&](int64_t pixels, int weight, int length) {
                 products.multiply(filters, length, problem.n, {dy + first, layout.y_image}, true,
                                   {x + pixels, layout.x_image}, false, false,
                                   {dw + first * layout.filter + weight, layout.filter});
               });
    }
  });
  products.throw_failure();
}

// Calls function(x, y) with both as arrays of floats. sgemm has no variant for bfloat16, whose arrays are
// copied: this layer is not meant to be fast in it.
template <class Function>
void as_arrays_of_floats(Precision precision, const void* x, int x_count, const void* y, int y_count,
                         const Function& function) {
  if (precision != Precision::bf16) {
    return function(static_cast<const float*>(x), static_cast<const float*>(y));
  }
  std::vector<float> x_floats(x_count), y_floats(y_count);
  from_bf16(x_count, static_cast<const bfloat16*>(x), x_floats.data(), nullptr);
  from_bf16(y_count, static_cast<const bfloat16*>(y), y_floats.data(), nullptr);
  function(x_floats.data(), y_floats.data());
}

// Calls function(result) with an array of floats, and converts what it wrote.
template <class Function>
void into_array_of_floats(Precision precision, void* result, int count, const Function& function) {
  if (precision != Precision::bf16) return function(static_cast<float*>(result));
  std::vector<float> floats(count);
  function(floats.data());
  to_bf16(count, floats.data(), static_cast<bfloat16*>(result), nullptr);
}

void launch_fprop(const LocalProblem& problem, const FpropArguments& args, Stream stream) {
  as_arrays_of_floats(problem.precision, args.x, problem.x_count(), args.w, problem.w_count(),
                      [&](const float* x, const float* w) {
                        into_array_of_floats(problem.precision, args.y, problem.y_count(),
                                             [&](float* y) { fprop(problem, x, w, args.epilogue.bias, y); });
                      });
  apply_after_bias(args.epilogue, problem.precision, problem.y_count(), args.y, stream);
}

void launch_dgrad(const LocalProblem& problem, const DgradArguments& args, Stream stream) {
  as_arrays_of_floats(problem.precision, args.dy, problem.y_count(), args.w, problem.w_count(),
                      [&](const float* dy, const float* w) {
                        into_array_of_floats(problem.precision, args.dx, problem.x_count(),
                                             [&](float* dx) { dgrad(problem, dy, w, dx); });
                      });
  apply(args.epilogue, problem.precision, pixels_of(problem), args.dx, args.sums, stream);
}

void launch_wgrad(const LocalProblem& problem, const WgradArguments& args, Stream stream) {
  as_arrays_of_floats(problem.precision, args.x, problem.x_count(), args.dy, problem.y_count(),
                      [&](const float* x, const float* dy) { wgrad(problem, x, dy, args.dw); });
  if (args.update) sgd_update(*args.update, args.dw, stream);
}

// ---- selection tables -----------------------------------------------------------------------------------

const LocalFpropTable& fprop_table() {
  static const LocalFpropTable table("local_fprop",
                                     {{"onednn", false, always, always, no_workspace, launch_fprop}});
  return table;
}

const LocalDgradTable& dgrad_table() {
  static const LocalDgradTable table("local_dgrad",
                                     {{"onednn", false, always, always, no_workspace, launch_dgrad}});
  return table;
}

const LocalWgradTable& wgrad_table() {
  static const LocalWgradTable table("local_wgrad",
                                     {{"onednn", false, always, always, no_workspace, launch_wgrad}});
  return table;
}

}  // namespace

size_t dgrad_sums_workspace(const LocalProblem& problem) {
  return bias_grad_workspace(pixels_of(problem));
}

CCONVNET_FPROP(local, LocalProblem, fprop_table(), problem)
CCONVNET_DGRAD(local, LocalProblem, dgrad_table(), problem)
CCONVNET_WGRAD(local, LocalProblem, wgrad_table(), problem)

}  // namespace cconvnet
