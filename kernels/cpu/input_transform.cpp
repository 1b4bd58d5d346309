// uint8 images to a float batch: a thread takes a row of output pixels.
#include "api.h"
#include "parallel.h"

namespace cconvnet {

// One row of q pixels of c channels, read from left to right, or from right to left where `mirror`.
CCONVNET_CLONES void cpu_input_row(const uint8_t* image, const float* mean, const float* shift, float scale,
                                   int q, int c, bool mirror, float* y) {
  const int step = mirror ? -c : c;
  for (int j = 0, from = mirror ? (q - 1) * c : 0; j < q; ++j, from += step) {
    for (int i = 0; i < c; ++i) {
      const float pixel = image[from + i];
      y[j * c + i] = scale * (pixel - (mean ? mean[from + i] : 0.0f) + (shift ? shift[i] : 0.0f));
    }
  }
}

void input_transform(const InputProblem& o, const uint8_t* images, const int32_t* top, const int32_t* left,
                     const uint8_t* mirror, const float* mean, const float* shift, float scale, float* y,
                     Stream) {
  parallel_for(int64_t{o.n} * o.p, [&](int64_t row) {
    const int64_t n = row / o.p;
    const int h = std::clamp(top[n], 0, o.h - o.p) + static_cast<int>(row % o.p);
    const int w = std::clamp(left[n], 0, o.w - o.q);
    const int64_t at = (int64_t{h} * o.w + w) * o.c;  // in the whole image, as the mean is
    cpu_input_row(images + n * o.h * o.w * o.c + at, mean ? mean + at : nullptr,
                  shift ? shift + n * o.c : nullptr, scale, o.q, o.c, mirror[n] != 0, y + row * o.q * o.c);
  });
}

}  // namespace cconvnet
