// What needs no section of its own: addition, copies between devices, and what the build says of itself.
#include <cstring>

#include "api.h"
#include "onednn.h"
#include "parallel.h"

namespace cconvnet {
namespace {

CCONVNET_CLONES void add_range(float alpha, const float* a, float beta, const float* b, float* y,
                               int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = alpha * a[i] + beta * b[i];
}

const char* instruction_set() {
  switch (dnnl::get_effective_cpu_isa()) {
    case dnnl::cpu_isa::sse41:
      return "SSE4.1";
    case dnnl::cpu_isa::avx:
      return "AVX";
    case dnnl::cpu_isa::avx2:
    case dnnl::cpu_isa::avx2_vnni:
    case dnnl::cpu_isa::avx2_vnni_2:
      return "AVX2";
    case dnnl::cpu_isa::avx512_core:
    case dnnl::cpu_isa::avx512_core_vnni:
      return "AVX-512";
    case dnnl::cpu_isa::avx512_core_bf16:
    case dnnl::cpu_isa::avx512_core_fp16:
      return "AVX-512 with bfloat16";
    case dnnl::cpu_isa::avx512_core_amx:
    case dnnl::cpu_isa::avx512_core_amx_fp16:
      return "AVX-512 with AMX";
    default:
      return "the baseline instruction set";
  }
}

}  // namespace

void add(int count, float alpha, const float* a, float beta, const float* b, float* y, Stream) {
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { add_range(alpha, a, beta, b, y, begin, end); });
}

// All logical devices of this build share one memory.
void copy(void* target, int, const void* source, int, size_t bytes, Stream) {
  if (bytes > 0 && target != source) std::memmove(target, source, bytes);
}

const char* build_kind() {
  return "cpu";
}

std::string build_info() {
  const dnnl_version_t* version = dnnl_version();
  const int threads = omp_get_max_threads();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch) + " with " + instruction_set() + ", " + std::to_string(threads) +
         (threads == 1 ? " thread" : " threads");
}

}  // namespace cconvnet
