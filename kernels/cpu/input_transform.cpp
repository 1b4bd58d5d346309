// uint8 images to a float batch: crop, mirror, subtract the mean, shift the colours, scale. A row of an
// output image is one item of work.
#include "api.h"
#include "parallel.h"

namespace cconvnet {
namespace {

struct InputRow {
  const uint8_t* image;  // the row's first pixel in the crop
  const float* mean;     // likewise; may be null
  const float* shift;    // per channel; may be null
  bool mirror;
  float* y;
};

CCONVNET_CLONES void transform_row(const InputRow& row, int q, int c, float scale) {
  // With neither mean nor shift nor mirror the row is one run of q*c values; else a pixel is.
  for (int j = 0; j < q; ++j) {
    const int64_t from = int64_t{row.mirror ? q - 1 - j : j} * c;
    const uint8_t* pixel = row.image + from;
    float* y = row.y + int64_t{j} * c;
    for (int i = 0; i < c; ++i) {
      const float mean = row.mean ? row.mean[from + i] : 0.0f;
      const float shift = row.shift ? row.shift[i] : 0.0f;
      y[i] = scale * (static_cast<float>(pixel[i]) - mean + shift);
    }
  }
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
      const InputRow row = {images + n * o.h * o.w * o.c + inside, mean ? mean + inside : nullptr,
                            shift ? shift + n * o.c : nullptr, mirror[n] != 0, y + item * o.q * o.c};
      transform_row(row, o.q, o.c, scale);
    }
  });
}

}  // namespace cconvnet
