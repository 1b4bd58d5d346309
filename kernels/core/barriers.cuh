// Barriers of some of a block's threads, and the division of a block's work among its warps, of compute capability
// 9.0. Section titles are those of the PTX ISA 8.5.
//
// The wrappers contain the fences that they need: a barrier that is initialised is visible to the copy engine, and
// what was written to shared memory before publish() is seen by it behind the next barrier.
#pragma once

#include "core/ptx_call.cuh"
#ifndef __CUDACC__
#include "emulator/phases.h"
#endif

namespace cconvnet {
namespace ptx {

// ---- "Parallel Synchronization and Communication Instructions: mbarrier" ----------------------------------

// An object in shared memory. A phase ends when `arrivals` threads have arrived, and the bytes that they expect.
struct Barrier {
  uint64_t state;
};

// By one thread; the others use the barrier behind a __syncthreads().
__device__ __forceinline__ void init_barrier(Barrier& barrier, uint32_t arrivals CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "mbarrier.init.shared::cta.b64 [%0], %1; fence.mbarrier_init.release.cluster; "
      "fence.proxy.async.shared::cta;" ::"r"(shared_address(&barrier)),
      "r"(arrivals) : "memory");
#else
  emulator::init_barrier({"mbarrier.init", file, line}, barrier.state, arrivals);
#endif
}

__device__ __forceinline__ void arrive(Barrier& barrier CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
#else
  emulator::arrive({"mbarrier.arrive", file, line}, barrier.state, 0);
#endif
}

// Expects `bytes` from the copy engine in this phase, and arrives.
__device__ __forceinline__ void arrive_and_expect(Barrier& barrier, uint32_t bytes CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
                  "r"(bytes) : "memory");
#else
  emulator::arrive({"mbarrier.arrive.expect_tx", file, line}, barrier.state, bytes);
#endif
}

// Waits until the phase of this parity has ended: the current one, or the one before it.
__device__ __forceinline__ void wait(const Barrier& barrier, uint32_t parity CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "{ .reg .pred done; WAIT: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
      "@!done bra WAIT; }" ::"r"(shared_address(&barrier)),
      "r"(parity) : "memory");
#else
  emulator::wait_for_phase({"mbarrier.try_wait", file, line}, barrier.state, parity);
#endif
}

// ---- "Parallel Synchronization and Communication Instructions: bar" -----------------------------------------

// Waits for THREADS threads, whole warps, at one of the barriers 1 to 15. What they wrote to shared memory before,
// the copy engine sees too.
template <int THREADS>
__device__ __forceinline__ void meet(uint32_t number CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("fence.proxy.async.shared::cta; bar.sync %0, %1;" ::"r"(number), "n"(THREADS) : "memory");
#else
  emulator::meet({"bar.sync", file, line}, number, THREADS);
#endif
}

// ---- roles --------------------------------------------------------------------------------------------------

// True for one lane of a warp, all of whose lanes call it ("elect.sync").
__device__ __forceinline__ bool is_elected(CCONVNET_PTX_CALLER_ALONE) {
#ifdef __CUDACC__
  uint32_t elected = 0;
  CCONVNET_PTX_90("{ .reg .pred it; elect.sync _|it, 0xffffffff; selp.u32 %0, 1, 0, it; }" : "=r"(elected));
  return elected != 0;
#else
  return emulator::is_elected({"elect.sync", file, line});
#endif
}

// Changes the registers of a warp group's threads ("setmaxnreg"), which all of its warps call.
template <int REGISTERS>
__device__ __forceinline__ void give_registers(CCONVNET_PTX_CALLER_ALONE) {
  static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "as the instruction takes them");
#ifdef __CUDACC__
  CCONVNET_PTX_90("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#else
  emulator::set_registers({"setmaxnreg.dec", file, line}, REGISTERS);
#endif
}
template <int REGISTERS>
__device__ __forceinline__ void take_registers(CCONVNET_PTX_CALLER_ALONE) {
  static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "as the instruction takes them");
#ifdef __CUDACC__
  CCONVNET_PTX_90("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#else
  emulator::set_registers({"setmaxnreg.inc", file, line}, REGISTERS);
#endif
}

}  // namespace ptx
}  // namespace cconvnet
