// How the CPU build uses cores and vector units.
//
// CCONVNET_CLONES marks a leaf function: the compiler makes one version of it for each class of processor and
// the loader takes the best, so a package built anywhere is fast here. Loops over channels stand in leaves;
// the loops around them are shared among threads by the functions below. A leaf is a plain function with
// linkage, since neither templates nor lambdas are cloned reliably.
//
// No result depends on the number of threads: every output element is computed by one leaf call whose order
// of summation is fixed, or from partial sums over pieces whose size is fixed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 9
#define CCONVNET_CLONES __attribute__((target_clones("arch=skylake-avx512", "arch=haswell", "default")))
#else
#define CCONVNET_CLONES
#endif

namespace cconvnet {

// Calls body(begin, end) for pieces of [0, count) of `piece` elements.
template <class Body>
void parallel_pieces(int64_t count, int64_t piece, const Body& body) {
  const int64_t pieces = (count + piece - 1) / piece;
#pragma omp parallel for schedule(static) if (pieces > 1)
  for (int64_t i = 0; i < pieces; ++i) {
    const int64_t begin = i * piece;
    body(begin, begin + piece < count ? begin + piece : count);
  }
}

// Calls body(i) for i in [0, count).
template <class Body>
void parallel_for(int64_t count, const Body& body) {
#pragma omp parallel for schedule(static) if (count > 1)
  for (int64_t i = 0; i < count; ++i) body(i);
}

// What an elementwise operation hands to a thread: 64 KiB of floats, so that pieces are many and cheap.
constexpr int64_t kPiece = 16384;

// A thread's scratch memory, kept between calls. `slot` tells apart buffers that live at the same time.
inline float* thread_scratch(size_t count, int slot = 0) {
  thread_local std::vector<float> buffers[2];
  if (buffers[slot].size() < count) buffers[slot].resize(count);
  return buffers[slot].data();
}

}  // namespace cconvnet
