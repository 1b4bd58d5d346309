// Addition, copies, and what this build is.
#include <omp.h>

#include <cstring>
#include <oneapi/dnnl/dnnl.hpp>

#include "api.h"
#include "parallel.h"

namespace cconvnet {

CCONVNET_CLONES void cpu_add(const float* a, const float* b, float* y, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

void add(int count, const float* a, const float* b, float* y, Stream) {
  parallel_pieces(count, kPiece,
                  [&](int64_t begin, int64_t end) { cpu_add(a + begin, b + begin, y + begin, end - begin); });
}

void copy(void* target, int, const void* source, int, size_t bytes, Stream) {
  std::memcpy(target, source, bytes);
}

const char* build_kind() {
  return "cpu";
}

std::string build_info() {
  const dnnl_version_t* const version = dnnl_version();
  return "oneDNN " + std::to_string(version->major) + "." + std::to_string(version->minor) + "." +
         std::to_string(version->patch) + ", " + std::to_string(omp_get_max_threads()) + " threads";
}

}  // namespace cconvnet
