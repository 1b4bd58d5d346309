// What needs no section of its own: addition and the conversion between the two kinds of numbers (elementwise
// kernels, vector.cuh), copies between devices, and what the build says of itself.
#include "core/vector.cuh"

#define CCONVNET_TEXT(...) #__VA_ARGS__
#define CCONVNET_EXPANDED_TEXT(...) CCONVNET_TEXT(__VA_ARGS__)

namespace cconvnet {
namespace {

template <class T>
struct Add {
  float alpha, beta;
  const T* a;
  const T* b;
  T* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    Vector<WIDTH> sum = load<WIDTH>(a + i);
    const Vector<WIDTH> term = load<WIDTH>(b + i);
#pragma unroll
    for (int j = 0; j < WIDTH; ++j) sum.lane[j] = fmaf(alpha, sum.lane[j], beta * term.lane[j]);
    store(y + i, sum);
  }
};

template <class From, class To>
struct Convert {
  const From* x;
  To* y;

  template <int WIDTH>
  __device__ void apply(int64_t i) const {
    store(y + i, load<WIDTH>(x + i));
  }
};

}  // namespace

template <class T>
void add(int count, float alpha, const T* a, float beta, const T* b, T* y, Stream stream) {
  launch_elementwise<T>(count, aligned(a, b, y), stream, Add<T>{alpha, beta, a, b, y});
}

template void add(int, float, const float*, float, const float*, float*, Stream);
template void add(int, float, const bfloat16*, float, const bfloat16*, bfloat16*, Stream);

// A vector is 16 bytes of bfloat16s and twice as many of floats.
void to_bf16(int count, const float* x, bfloat16* y, Stream stream) {
  launch_elementwise<bfloat16>(count, aligned(x, y), stream, Convert<float, bfloat16>{x, y});
}

void from_bf16(int count, const bfloat16* x, float* y, Stream stream) {
  launch_elementwise<bfloat16>(count, aligned(x, y), stream, Convert<bfloat16, float>{x, y});
}

void copy(void* target, int target_device, const void* source, int source_device, size_t bytes,
          Stream stream) {
  if (bytes == 0) return;
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (target_device == source_device) {
    CCONVNET_CHECK(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, queue));
  } else {
    // Where one device cannot reach the other, the driver takes the way through the host.
    CCONVNET_CHECK(cudaMemcpyPeerAsync(target, target_device, source, source_device, bytes, queue));
  }
}

const char* build_kind() {
#ifdef __CUDACC__
  return "cuda";
#else
  return "emulator";
#endif
}

std::string build_info() {
#ifdef __CUDACC__
  std::string info = "CUDA " + std::to_string(CUDART_VERSION / 1000) + "." +
                     std::to_string(CUDART_VERSION % 1000 / 10) + ", nvcc " +
                     std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." +
                     std::to_string(__CUDACC_VER_BUILD__);
#else
  std::string info = "CUDA kernels run thread by thread on the host";
#endif
#if defined(CCONVNET_ARCHS)
  info += ", architectures " CCONVNET_ARCHS;
#elif defined(__CUDA_ARCH_LIST__)
  info += ", architectures " CCONVNET_EXPANDED_TEXT(__CUDA_ARCH_LIST__);
#endif
#ifdef __VERSION__
  info += ", host compiler " __VERSION__;
#endif
  return info;
}

bool serves(Precision precision, int device) {
#ifdef __CUDACC__
  if (precision == Precision::fp32) return true;
  int major;
  CCONVNET_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 8;  // the first with tensor cores for tf32 and bf16
#else
  static_cast<void>(precision), static_cast<void>(device);
  return true;
#endif
}

}  // namespace cconvnet
