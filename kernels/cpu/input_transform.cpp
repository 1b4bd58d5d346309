// uint8 images to a float batch: crop, mirror, subtract the mean, shift the colours, scale. A row of an
// output image is one item of work.
#include <utility>

#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

struct InputRow {
  const uint8_t* image;  // the row's first pixel in the crop
  const float* mean;     // likewise, or with center_mean the output row's; may be null
  bool center_mean;
  const float* shift;  // per channel; may be null
  bool mirror;
  float* y;
};

void mirror_row(float* y, int count, int c) {
  for (float *left = y, *right = y + count - c; left < right; left += c, right -= c) {
    for (int i = 0; i < c; ++i) std::swap(left[i], right[i]);
  }
}

// The row as it lies in the image, so that its q*c values make vector code; mirrored when the mean is off.
CCONVNET_CLONES void transform_row(const InputRow& row, int q, int c, float scale) {
  float* y = row.y;
  const uint8_t* pixels = row.image;
  const int count = q * c;
  const float* mean = row.mean;
  if (mean && !row.center_mean) {
#pragma omp simd
    for (int i = 0; i < count; ++i) y[i] = static_cast<float>(pixels[i]) - mean[i];
  } else {
#pragma omp simd
    for (int i = 0; i < count; ++i) y[i] = static_cast<float>(pixels[i]);
  }
  if (row.mirror) mirror_row(y, count, c);
  if (mean && row.center_mean) {
#pragma omp simd
    for (int i = 0; i < count; ++i) y[i] -= mean[i];
  }
  if (row.shift) {
    for (int j = 0; j < count; j += c) {
      for (int i = 0; i < c; ++i) y[j + i] += row.shift[i];
    }
  }
#pragma omp simd
  for (int i = 0; i < count; ++i) y[i] *= scale;
}

}  // namespace

void input_transform(const InputProblem& problem, const uint8_t* images, const int32_t* top,
                     const int32_t* left, const uint8_t* mirror, const float* mean, const float* shift,
                     float scale, float* y, Stream) {
  const InputProblem& o = problem;
  parallel_ranges(int64_t{o.n} * o.p, 4 * int64_t{o.q} * o.c, [&](int, int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / o.p;
      const int64_t i = std::clamp(top[n], 0, o.h - o.p) + item % o.p;
      const int64_t j = std::clamp(left[n], 0, o.w - o.q);
      const int64_t inside = (i * o.w + j) * o.c;
      const int64_t center = (((o.h - o.p) / 2 + item % o.p) * o.w + (o.w - o.q) / 2) * o.c;
      const InputRow row = {images + n * o.h * o.w * o.c + inside,
                            mean ? mean + (o.center_mean ? center : inside) : nullptr,
                            o.center_mean,
                            shift ? shift + n * o.c : nullptr,
                            mirror[n] != 0,
                            y + item * o.q * o.c};
      transform_row(row, o.q, o.c, scale);
    }
  });
}

}  // namespace cconvnet
