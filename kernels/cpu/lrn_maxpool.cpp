// Normalisation across channels with max pooling after it, from the parts of each (lrn_across.h, pool.h).
//
// Forward, a thread keeps the normalised rows that its next row of outputs reads, as floats: rounding the
// largest of them gives the largest of them rounded. Backward, a pixel takes its gradient from the windows
// that contain it, as in pooling, as soon as its own normalised value is known. No map between the two is
// stored.
#include "api.h"
#include "core/input_epilogue.h"
#include "lrn_across.h"
#include "lrn_maxpool.h"
#include "pool.h"

namespace cconvnet {
namespace {

// The normalised rows [next - kept, next) of an image, row i in slot i % kept.
class Rows {
 public:
  explicit Rows(const PoolProblem& problem)
      : length_(rounded_up(int64_t{problem.w} * problem.c)), kept_(std::min(problem.window_h, problem.h)) {}
  int64_t size() const { return length_ * kept_; }
  int64_t length() const { return length_; }
  float* of(float* memory, int row) const { return memory + row % kept_ * length_; }

 private:
  int64_t length_;
  int kept_;
};

template <class T>
CCONVNET_CLONES void normalise_row(const LrnProblem& problem, const Layout& layout, const T* x, float* y,
                                   const Buffers& buffers) {
  across_forward(problem, layout, x, y, 0, problem.w * problem.groups, buffers);
}

template <class T>
CCONVNET_CLONES void pool_row(const PoolProblem& problem, const Rows& rows, float* memory, int p,
                              float* column, T* y) {
  maxpool_row(problem, [&](int i) { return static_cast<const float*>(rows.of(memory, i)); }, p, column, y);
}

template <class T>
struct PooledGradient {
  const Windows<T>* windows;  // of each pixel of the row
  int groups, channels;

  template <class Work>
  inline __attribute__((always_inline)) void operator()(int item, const Work& work) const {
    const int first = item % groups * channels;
    with_gradient(windows[item / groups], [&](const auto& gradient) __attribute__((always_inline)) {
      // Rounded to T, as the separate operations store it.
      work([&](int c, int count, const Lanes& y) __attribute__((always_inline)) {
        return kept_in<T>(gradient(first + c, count, kept_in<T>(y)));
      });
    });
  }
};

template <class T>
CCONVNET_CLONES void backward_row(const LrnProblem& problem, const Layout& layout, const T* x,
                                  const Windows<T>* windows, bool relu, T* dx, const Buffers& buffers) {
  const PooledGradient<T> gradient = {windows, problem.groups, layout.channels};
  across_backward(problem, layout, x, gradient, relu, dx, 0, problem.w * problem.groups, buffers);
}

}  // namespace

template <class T>
void lrn_maxpool_forward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, T* y, Stream) {
  check_lrn_maxpool(lrn, pool);
  const Layout layout(lrn);
  const Rows rows(pool);
  const int64_t each = Buffers::size(layout) + rows.size() + rows.length();
  const int64_t cost = pool_forward_cost(pool), row = int64_t{pool.w} * pool.c;
  AlignedFloats memory(each * parallel_parts(int64_t{pool.n} * pool.p, cost));
  parallel_ranges(int64_t{pool.n} * pool.p, cost, [&](int part, int64_t begin, int64_t end) {
    float* own = memory.data() + each * part;
    const Buffers buffers(layout, own);
    float* kept = own + Buffers::size(layout);
    float* column = kept + rows.size();
    int next = 0;  // row of the image
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / pool.p;
      const int p = static_cast<int>(item % pool.p);
      const Range window = pixels_of(p, pool.window_h, pool.stride_h, pool.pad_h, pool.h);
      if (item == begin || p == 0) next = 0;
      for (next = std::max(next, window.begin); next < window.end; ++next) {
        normalise_row(lrn, layout, x + (n * pool.h + next) * row, rows.of(kept, next), buffers);
      }
      pool_row(pool, rows, kept, p, column, y + item * pool.q * pool.c);
    }
  });
}

size_t lrn_maxpool_backward_workspace(const LrnProblem&, const PoolProblem& pool, bool) {
  return bias_grad_workspace(pixels_of(pool));
}

template <class T>
void lrn_maxpool_backward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, const T* y, const T* dy,
                          bool relu, T* dx, float* db, void* workspace, Stream stream) {
  check_lrn_maxpool(lrn, pool);
  const Layout layout(lrn);
  const std::vector<Range> columns = outputs_of_columns(pool);
  const int64_t image = int64_t{pool.p} * pool.q * pool.c, row = int64_t{pool.w} * pool.c;
  const int64_t cost = pool_backward_cost(pool);
  const int parts = parallel_parts(int64_t{pool.n} * pool.h, cost);
  AlignedFloats memory(Buffers::size(layout) * parts);
  std::vector<Windows<T>> windows(size_t(parts) * pool.w);
  parallel_ranges(int64_t{pool.n} * pool.h, cost, [&](int part, int64_t begin, int64_t end) {
    const Buffers buffers(layout, memory.data() + Buffers::size(layout) * part);
    Windows<T>* own = windows.data() + int64_t{part} * pool.w;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t offset = item / pool.h * image;
      const int i = static_cast<int>(item % pool.h);
      const Range rows = outputs_of(i, pool.window_h, pool.stride_h, pool.pad_h, pool.p);
      for (int j = 0; j < pool.w; ++j) own[j] = {y + offset, dy + offset, rows, columns[j], pool.q, pool.c};
      backward_row(lrn, layout, x + item * row, own, relu, dx + item * row, buffers);
    }
  });
  if (db) bias_grad(pixels_of(pool), dx, db, workspace, stream);
}

template void lrn_maxpool_forward(const LrnProblem&, const PoolProblem&, const float*, float*, Stream);
template void lrn_maxpool_forward(const LrnProblem&, const PoolProblem&, const bfloat16*, bfloat16*, Stream);
template void lrn_maxpool_backward(const LrnProblem&, const PoolProblem&, const float*, const float*,
                                   const float*, bool, float*, float*, void*, Stream);
template void lrn_maxpool_backward(const LrnProblem&, const PoolProblem&, const bfloat16*, const bfloat16*,
                                   const bfloat16*, bool, bfloat16*, float*, void*, Stream);

}  // namespace cconvnet
