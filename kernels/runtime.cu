// Copies between devices, and the description of the build: its kind, its compilers, the precisions it serves and the
// rows that a GPU is to prove. No kernels.
#include "core/launch.cuh"
#include "core/proofs.h"
#include "gemm/implicit_gemm.cuh"

#define CCONVNET_TEXT(...) #__VA_ARGS__
#define CCONVNET_EXPANDED_TEXT(...) CCONVNET_TEXT(__VA_ARGS__)

namespace cconvnet {

void copy(void* target, int target_device, const void* source, int source_device, size_t bytes,
          Stream stream) {
  if (bytes == 0) return;
  const cudaStream_t queue = static_cast<cudaStream_t>(stream);
  if (target_device == source_device) {
    CCONVNET_CHECK(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, queue));
  } else {
    // If one device cannot reach the other, the driver copies through the host.
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

std::vector<std::string> rows_to_prove() {
  std::vector<std::string> names;
  const auto add = [&](const auto& rows) {
    for (const auto& row : rows) {
      if (row.needs_proof) names.push_back(row.name);
    }
  };
  add(wgmma_fprop_rows()), add(wgmma_dgrad_rows()), add(wgmma_wgrad_rows());
  add(fc_fprop_table().rows()), add(fc_dgrad_table().rows()), add(fc_wgrad_table().rows());
  add(halo_fprop_rows()), add(halo_dgrad_rows()), add(halo_wgrad_rows());
  return names;
}

bool serves(Precision precision, int device) {
#ifdef __CUDACC__
  if (precision == Precision::fp32) return true;
  int major;
  CCONVNET_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major >= 8;  // the first with tensor cores for all others
#else
  static_cast<void>(precision), static_cast<void>(device);
  return true;
#endif
}

}  // namespace cconvnet
