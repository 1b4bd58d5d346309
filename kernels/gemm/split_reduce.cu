// The second half of a matrix product that was split along k: adds the partial outputs of the splits and
// applies the epilogue to the sums (epilogue.cuh). One thread serves 4 elements of the output (or 1). It adds
// their copies in the order of the splits, so the sum is the same at every run. The kernel is bound by
// memory: each partial output is read once.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

template <class Output>
struct SplitReduce {
  int count, splits;
  const float* partials;
  Divider by_channels;
  int pitch;
  Output output;

  template <int WIDTH>
  __device__ __forceinline__ void apply(int64_t i) const {
    Vector<WIDTH> sum = load<WIDTH>(partials + i);
    for (int split = 1; split < splits; ++split) {
      add_to(sum, load<WIDTH>(partials + int64_t{split} * count + i));
    }
    int channel;
    const uint32_t row = by_channels.divide(static_cast<int>(i), channel);
    write_alone(output.writer(), row * pitch + channel, channel, sum);
  }
};

}  // namespace

template <class Output>
void split_reduce(int count, int splits, const float* partials, int channels, int pitch, const Output& output,
                  Stream stream) {
  launch_elementwise<float>(count, output.vectors, stream,
                            SplitReduce<Output>{count, splits, partials, Divider(channels), pitch, output});
}

template void split_reduce(int, int, const float*, int, int, const PlainOutput<float>&, Stream);
template void split_reduce(int, int, const float*, int, int, const PlainOutput<bfloat16>&, Stream);
template void split_reduce(int, int, const float*, int, int, const InputGradientOutput<float>&, Stream);
template void split_reduce(int, int, const float*, int, int, const InputGradientOutput<bfloat16>&, Stream);
template void split_reduce(int, int, const float*, int, int, const EpilogueOutput<float>&, Stream);
template void split_reduce(int, int, const float*, int, int, const EpilogueOutput<bfloat16>&, Stream);
template void split_reduce(int, int, const float*, int, int, const GradientOutput&, Stream);

}  // namespace cconvnet
