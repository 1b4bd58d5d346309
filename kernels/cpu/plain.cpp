// What needs no section of its own: addition, copies between devices, and what the build says of itself.
#include <cstring>

#include "api.h"
#include "floats.h"
#include "onednn.h"
#include "parallel.h"

namespace cconvnet {
namespace {

template <class T>
CCONVNET_CLONES void add_range(float alpha, const T* a, float beta, const T* b, T* y, int64_t begin,
                               int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = from_float<T>(alpha * to_float(a[i]) + beta * to_float(b[i]));
}

template <class From, class To>
CCONVNET_CLONES void convert_range(const From* x, To* y, int64_t begin, int64_t end) {
#pragma omp simd
  for (int64_t i = begin; i < end; ++i) y[i] = from_float<To>(to_float(x[i]));
}

template <class From, class To>
void convert_on_all_threads(int count, const From* x, To* y) {
  parallel_ranges(count, 1, [&](int, int64_t begin, int64_t end) { convert_range(x, y, begin, end); });
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

template <class T>
void add(int count, float alpha, const T* a, float beta, const T* b, T* y, Stream) {
  parallel_ranges(count, 1,
                  [&](int, int64_t begin, int64_t end) { add_range(alpha, a, beta, b, y, begin, end); });
}

template void add(int, float, const float*, float, const float*, float*, Stream);
template void add(int, float, const bfloat16*, float, const bfloat16*, bfloat16*, Stream);

void convert(const bfloat16* from, int64_t count, float* to) {
  convert_range(from, to, 0, count);
}

void convert(const float* from, int64_t count, bfloat16* to) {
  convert_range(from, to, 0, count);
}

void to_bf16(int count, const float* x, bfloat16* y, Stream) {
  convert_on_all_threads(count, x, y);
}

void from_bf16(int count, const bfloat16* x, float* y, Stream) {
  convert_on_all_threads(count, x, y);
}

// All logical devices of this build share one memory.
void copy(void* target, int, const void* source, int, size_t bytes, Stream) {
  if (bytes > 0 && target != source) std::memmove(target, source, bytes);
}

// oneDNN has fast kernels of bfloat16 for all passes only where AVX-512 multiplies it; its plain reference is
// a thousand times slower.
bool serves(Precision precision, int) {
  if (precision == Precision::bf16) return dnnl::get_effective_cpu_isa() >= dnnl::cpu_isa::avx512_core_bf16;
  return precision == Precision::fp32;
}

const char* build_kind() {
  return "cpu";
}

std::string build_info() {
  const dnnl_version_t* version = dnnl_version();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch) + " with " + instruction_set() + ", " + granted_threads_text();
}

}  // namespace cconvnet
