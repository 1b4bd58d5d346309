// The part of an image that a convolution's windows read, where they leave more of it over at the bottom or
// right than rounding does. oneDNN refuses a convolution whose image could contain one more window.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "parallel.h"
#include "problem.h"

namespace cconvnet {

class CroppedImage {
 public:
  explicit CroppedImage(const ConvProblem& problem) : whole_(problem), seen_(problem) {
    rows_ = crop(problem.h, problem.pad_h, problem.p, problem.stride_h,
                 detail::extent(problem.r, problem.dilation_h), seen_.h, seen_.pad_h);
    columns_ = crop(problem.w, problem.pad_w, problem.q, problem.stride_w,
                    detail::extent(problem.s, problem.dilation_w), seen_.w, seen_.pad_w);
    if (needed()) image_.resize(int64_t{seen_.x_count()} * pixel_bytes() / problem.c);
  }

  bool needed() const { return rows_ != whole_.h || columns_ != whole_.w; }

  // The convolution of the part, with the same results.
  const ConvProblem& problem() const { return seen_; }

  // The part of x, or x itself where the windows leave nothing over.
  const void* of(const void* x) {
    if (!needed()) return x;
    for_rows([&](int64_t part, int64_t row) {
      std::memcpy(image_.data() + part, static_cast<const char*>(x) + row, columns_ * pixel_bytes());
    });
    return image_.data();
  }

  // The destination of the part of dx. spread() then completes dx: pixels that no window reads have gradient
  // 0.
  void* destination_in(void* dx) { return needed() ? image_.data() : dx; }
  void spread(void* dx) const {
    if (!needed()) return;
    std::memset(dx, 0, int64_t{whole_.x_count()} / whole_.c * pixel_bytes());
    for_rows([&](int64_t part, int64_t row) {
      std::memcpy(static_cast<char*>(dx) + row, image_.data() + part, columns_ * pixel_bytes());
    });
  }

 private:
  // The number of pixels along one axis that are read. Stores the size and padding of the cropped axis; where
  // none is read, it is one zero pixel.
  static int crop(int size, int pad, int windows, int stride, int64_t window, int& seen_size, int& seen_pad) {
    const int64_t end = (int64_t{windows} - 1) * stride + window;  // of the last window, from the padding on
    if (end - pad + stride > size) return size;
    const int read = static_cast<int>(std::max<int64_t>(end - pad, 0));
    seen_size = std::max(read, 1);
    seen_pad = static_cast<int>(std::min<int64_t>(pad, end - 1));
    return read;
  }

  int64_t pixel_bytes() const { return int64_t{whole_.c} * (whole_.precision == Precision::bf16 ? 2 : 4); }

  // Calls function(where a row's pixels begin in the part, and where in the whole), in bytes.
  template <class Function>
  void for_rows(const Function& function) const {
    for (int64_t n = 0; n < whole_.n; ++n) {
      for (int64_t i = 0; i < rows_; ++i) {
        function((n * seen_.h + i) * seen_.w * pixel_bytes(), (n * whole_.h + i) * whole_.w * pixel_bytes());
      }
    }
  }

  const ConvProblem whole_;
  ConvProblem seen_;
  int rows_, columns_;
  std::vector<char> image_;
};

}  // namespace cconvnet
