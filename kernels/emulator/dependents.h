// Kernels that begin before the one ahead of them has ended. All threads wait
// for that one, before they touch global memory. Seen are the asynchronous
// copies, and in the build that counts all accesses.
#pragma once

#include "machine.h"

namespace cconvnet::emulator {

inline void wait_for_kernel_ahead(const Site& site) {
  Thread& thread = machine.current();
  if (thread.early) {
    machine.fail<KernelError>(site,
                              "the thread accessed global memory before "
                              "it waited for the kernel ahead");
  }
  thread.waited = true;
  counting::set_early(nullptr);
}

inline void check_waited(const Site& site) {
  if (machine.overlaps() && !machine.current().waited) {
    machine.fail<KernelError>(site,
                              "the thread has not waited for the kernel "
                              "ahead, with which the launch overlaps");
  }
}

}  // namespace cconvnet::emulator
