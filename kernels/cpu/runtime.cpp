// Copies between devices, and the description of the build: its kind, its libraries, the instruction set and
// threads it runs with, and the precisions it serves.
#include <cstring>

#include "core/proofs.h"
#include "onednn.h"
#include "tables.h"
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

std::string version_text(int major, int minor, int patch) {
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

}  // namespace

#ifdef CCONVNET_OWN_ONEDNN
// The library is found by the path in the module, or in the system's folders: the loader
// (cconvnet/devices/modules.py), which searches the file for this text, must load no other before it.
extern "C" __attribute__((used, visibility("default"))) const char cconvnet_own_onednn[] =
    "cconvnet: this module finds its own oneDNN";
#endif

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

std::vector<std::string> rows_to_prove() {
  return {};
}

const char* build_kind() {
  return "cpu";
}

std::string build_info() {
  const dnnl_version_t* version = dnnl_version();
  const std::string runs = version_text(version->major, version->minor, version->patch);
  const std::string built = version_text(DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR, DNNL_VERSION_PATCH);
  return "oneDNN " + runs + (runs == built ? "" : " (built with " + built + ")") + " with " +
         instruction_set() + (strict() ? ", strict, " : ", ") + granted_threads_text();
}

}  // namespace cconvnet
