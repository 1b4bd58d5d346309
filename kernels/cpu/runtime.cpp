// Copies between devices, and the description of the build: its kind, its libraries, the instruction set and
// threads it runs with, and the precisions it serves.
#include <cstring>

#include "api.h"
#include "onednn.h"
#include "threads.h"

namespace cconvnet {
namespace {

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
