// Loops of the CPU build, spread over threads and vector lanes.
//
// A family's inner loop is a plain function over a range, marked CCONVNET_CLONES and `#pragma omp simd`; its
// launcher passes ranges to threads. The result for an element never depends on the end of a range, so
// results do not depend on the number of threads. Neither do those of oneDNN: each call of it works on a
// slice of the problem, in one thread, and the slices are the same for any number of threads.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "clones.h"
#include "threads.h"

namespace cconvnet {

// The indices from `begin` to the one before `end`.
struct Range {
  int begin, end;
  int size() const { return end - begin; }
};

// A thread is only worth waking for about this many elements (some 10 microseconds of work).
constexpr int64_t kGrain = 32768;

// The number of consecutive parts of equal size that parallel_ranges makes of `count` items of `item_size`
// elements.
inline int parallel_parts(int64_t count, int64_t item_size) {
  const int64_t worth = count * item_size / kGrain;
  return worth < 2 ? 1 : static_cast<int>(std::min<int64_t>(granted_threads(), count));
}

// Runs body(part, begin, end) for every part of [0, count). `body` must not throw.
template <class Body>
void parallel_ranges(int64_t count, int64_t item_size, const Body& body) {
  const int parts = parallel_parts(count, item_size);
  if (parts == 1) return body(0, int64_t{0}, count);
#pragma omp parallel for schedule(static) num_threads(parts)
  for (int part = 0; part < parts; ++part) body(part, count * part / parts, count * (part + 1) / parts);
}

// The number of threads that parallel_slices may have.
inline int slice_threads(int slices) {
  return std::min(granted_threads(), slices);
}

// Runs body(slice, thread) for `slices` slices, each in one of slice_threads(slices) threads, in any order.
// Functions called by `body` start no threads of their own; it must not throw.
template <class Body>
void parallel_slices(int slices, const Body& body) {
  const int threads = slice_threads(slices);
  const auto run = [&](int slice, int thread) {
    // OpenMP does not treat a team of one thread as "in parallel": functions called there would start more.
    const Team alone(1);
    body(slice, thread);
  };
  if (threads <= 1) {
    for (int slice = 0; slice < slices; ++slice) run(slice, 0);
    return;
  }
  const Team all(threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int slice = 0; slice < slices; ++slice) run(slice, omp_get_thread_num());
}

}  // namespace cconvnet
