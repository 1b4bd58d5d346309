// The second half of a matrix product that was split along k: adds the splits' partial outputs. One thread
// per 4 (or 1) elements of the output; it adds their copies in the order of the splits, so the sum is the
// same at every run. Memory bounds it: each partial is read once.
#include "implicit_gemm.cuh"

namespace cconvnet {
namespace {

struct SplitReduce {
  int count, splits;
  const float* partials;
  const float* bias;
  Divider by_k;
  int k;
  bool relu;
  float* y;

  template <int WIDTH>
  __device__ __forceinline__ void apply(int64_t i) const {
    Vector<WIDTH> sum = load<WIDTH>(partials + i);
    for (int split = 1; split < splits; ++split) {
      add_to(sum, load<WIDTH>(partials + int64_t{split} * count + i));
    }
    int channel = 0;
    if (bias) by_k.divide(static_cast<int>(i), channel);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) {
      if (bias) {
        sum.lane[j] += bias[channel];
        channel = channel + 1 == k ? 0 : channel + 1;
      }
      if (relu) sum.lane[j] = cconvnet::relu(sum.lane[j]);
    }
    store(y + i, sum);
  }
};

}  // namespace

void split_reduce(int count, int splits, const float* partials, int k, const float* bias, bool relu, float* y,
                  Stream stream) {
  // Every split's copy is on a 16-byte boundary only if their length is a multiple of 4.
  const bool vectors = aligned(partials, y) && count % kVectorWidth == 0;
  launch_elementwise(count, vectors, stream,
                     SplitReduce{count, splits, partials, bias, Divider(k), k, relu, y});
}

}  // namespace cconvnet
