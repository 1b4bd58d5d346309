// Asynchronous copies of single threads from global to shared memory (cp.async).
//
// A copy is performed when its group is waited for, and not before. Until then its target contains NaN (all
// bits 1). So a missing wait shows, and so does a target that others still read.
#pragma once

#include <cstring>

#include "dependents.h"

namespace cconvnet::emulator {

constexpr size_t async_copy_bytes = 16;

__attribute__((noinline)) inline void start_copy(const Site& site, void* target, const void* source) {
  const counting::Paused paused;
  check_waited(site);
  for (const void* address : {static_cast<const void*>(target), source}) {
    if (reinterpret_cast<uintptr_t>(address) % async_copy_bytes != 0) {
      machine.fail<KernelError>(
          site, "an address is not on a boundary of " + std::to_string(async_copy_bytes) + " bytes");
    }
  }
  counting::copy_started(target, source, async_copy_bytes, __builtin_return_address(0));
  std::memset(target, 0xff, async_copy_bytes);
  Thread& thread = machine.current();
  thread.copies.push_back({target, source, thread.groups});
}

inline void close_copy_group() {
  ++machine.current().groups;
}

// Waits for all but the thread's last `pending` groups.
inline void wait_for_copies(unsigned pending) {
  const counting::Paused paused;
  Thread& thread = machine.current();
  std::vector<AsyncCopy>& copies = thread.copies;
  size_t done = 0;
  for (; done < copies.size() && copies[done].group + pending < thread.groups; ++done) {
    if (copies[done].source) {
      std::memcpy(copies[done].target, copies[done].source, async_copy_bytes);
    } else {
      std::memset(copies[done].target, 0, async_copy_bytes);
    }
    counting::copy_done(copies[done].target, async_copy_bytes);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
}

}  // namespace cconvnet::emulator
