// A float batch from stored uint8 images: crop, mirror, subtract the mean, shift the colours, scale.
//   y[n,p,q,c] = scale * (images[n,i,j,c] - mean[i,j,c] + shift[n,c]), i = top[n] + p, j = left[n] +
//   (mirrored) q
//
// A thread writes WIDTH neighbouring floats of one output row [Q*C], so writes are whole vectors; it reads
// its bytes one by one, which the L1 cache serves, since mirrored pixels and crops lie at any address.
#include "vector.cuh"

namespace cconvnet {
namespace {

struct InputArguments {
  int h, w, c, p, q;
  bool center_mean;
  int total;                      // y's elements
  Divider p_div, row_div, c_div;  // by P, by the vectors in an output row, by C
  const uint8_t* images;
  const int32_t* top;
  const int32_t* left;
  const uint8_t* mirror;
  const float* mean;   // may be null
  const float* shift;  // may be null
  float scale;
  float* y;
};

template <int WIDTH>
__global__ void __launch_bounds__(kThreads) input_transform_kernel(InputArguments a) {
  const int64_t thread = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (thread * WIDTH >= a.total) return;
  int p, row_vector, c;
  const int n = a.p_div.divide(a.row_div.divide(static_cast<int>(thread), row_vector), p);
  int q = a.c_div.divide(row_vector * WIDTH, c);

  // Clamped, so that no offset reads out of bounds.
  const int i = max(0, min(a.top[n], a.h - a.p)) + p;
  const int left = max(0, min(a.left[n], a.w - a.q));
  const bool mirrored = a.mirror[n] != 0;
  const int row = i * a.w;
  const int mean_row = ((a.h - a.p) / 2 + p) * a.w + (a.w - a.q) / 2;  // with center_mean
  const uint8_t* image = a.images + int64_t{n} * a.h * a.w * a.c;

  Vector<WIDTH> result;
#pragma unroll
  for (int lane = 0; lane < WIDTH; ++lane) {
    const int j = left + (mirrored ? a.q - 1 - q : q);
    const int pixel = (row + j) * a.c + c;
    float value = image[pixel];
    if (a.mean) value -= a.mean[a.center_mean ? (mean_row + q) * a.c + c : pixel];
    if (a.shift) value += a.shift[n * a.c + c];
    result.lane[lane] = a.scale * value;
    if (++c == a.c) {
      c = 0;
      ++q;
    }
  }
  store(a.y + thread * WIDTH, result);
}

}  // namespace

void input_transform(const InputProblem& problem, const uint8_t* images, const int32_t* top,
                     const int32_t* left, const uint8_t* mirror, const float* mean, const float* shift,
                     float scale, float* y, Stream stream) {
  const int row = problem.q * problem.c;
  const int width = row % kVectorWidth == 0 && aligned(y) ? kVectorWidth : 1;
  const InputArguments arguments{problem.h,
                                 problem.w,
                                 problem.c,
                                 problem.p,
                                 problem.q,
                                 problem.center_mean,
                                 problem.y_count(),
                                 Divider(problem.p),
                                 Divider(row / width),
                                 Divider(problem.c),
                                 images,
                                 top,
                                 left,
                                 mirror,
                                 mean,
                                 shift,
                                 scale,
                                 y};
  const dim3 grid(static_cast<unsigned>(ceil_div(problem.y_count(), kThreads * width)));
  if (width == kVectorWidth) {
    CCONVNET_LAUNCH((input_transform_kernel<kVectorWidth>), grid, kThreads, stream, arguments);
  } else {
    CCONVNET_LAUNCH((input_transform_kernel<1>), grid, kThreads, stream, arguments);
  }
}

}  // namespace cconvnet
