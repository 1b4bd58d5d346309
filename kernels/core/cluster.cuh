// Clusters of blocks, which run at the same time and reach each other's shared
// memory, of compute capability 9.0: PTX ISA 8.5. LaunchOptions::cluster makes
// them. A block may end only when no other reaches for its memory any more.
//
// What is named in another block is the object at the same place of its
// launch's shared memory.
#pragma once

#include "core/barriers.cuh"
#include "core/vector.cuh"
#ifndef __CUDACC__
#include "emulator/blocks.h"
#endif

namespace cconvnet {
namespace ptx {

// The number of the block in its cluster ("%cluster_ctarank").
__device__ __forceinline__ uint32_t block_of_cluster() {
#ifdef __CUDACC__
  uint32_t number = 0;
  CCONVNET_PTX_90("mov.u32 %0, %%cluster_ctarank;" : "=r"(number));
  return number;
#else
  return static_cast<uint32_t>(emulator::machine.cluster_rank());
#endif
}

// ---- "Parallel Synchronization and Communication Instructions:
// barrier.cluster" -----------------------------

// All threads of all blocks arrive, and then wait for each other. What they
// wrote before they arrived, to shared memory of any block and to global
// memory, can be read behind the wait.
__device__ __forceinline__ void arrive_at_cluster(CCONVNET_PTX_CALLER_ALONE) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("barrier.cluster.arrive.release;" :: : "memory");
#else
  emulator::arrive_at_cluster({"barrier.cluster.arrive", file, line});
#endif
}
__device__ __forceinline__ void wait_for_cluster(CCONVNET_PTX_CALLER_ALONE) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("barrier.cluster.wait.acquire;" :: : "memory");
#else
  emulator::wait_for_cluster({"barrier.cluster.wait", file, line});
#endif
}

// ---- barriers in the shared memory of others
// ----------------------------------------------------------------

// Arrives at a block's barrier, which may be its own: what the thread has read there may be written again. A release of the
// whole cluster, so that others see what it wrote, would be a fence of all memory. The barrier of the cluster is one.
__device__ __forceinline__ void arrive_in_block(Barrier& barrier, uint32_t block CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
      "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(shared_address(&barrier)),
      "r"(block) : "memory");
#else
  const emulator::Site site{"mbarrier.arrive", file, line};
  char* const there = emulator::at_block(site, block, &barrier, sizeof barrier);
  emulator::arrive(site, *reinterpret_cast<uint64_t*>(there), 0);
#endif
}

// ---- the shared memory of others: "mapa", "ld", "st"
// --------------------------------------------------------

__device__ __forceinline__ Vector<4> load_from_block(const Vector<4>& shared,
                                                     uint32_t block CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  float x = 0, y = 0, z = 0, w = 0;
  CCONVNET_PTX_90(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %4, %5; "
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [there]; }" : "=f"(x),
      "=f"(y), "=f"(z), "=f"(w) : "r"(shared_address(&shared)), "r"(block) : "memory");
  return {{x, y, z, w}};
#else
  Vector<4> value;
  emulator::load_remote({"ld.shared::cluster", file, line}, &shared, block, &value, sizeof value);
  return value;
#endif
}

__device__ __forceinline__ void store_to_block(Vector<4>& shared, uint32_t block,
                                               const Vector<4>& value CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "{ .reg .b32 there; mapa.shared::cluster.u32 there, %0, %1; "
      "st.shared::cluster.v4.f32 [there], {%2, %3, %4, %5}; }" ::"r"(shared_address(&shared)),
      "r"(block), "f"(value.lane[0]), "f"(value.lane[1]), "f"(value.lane[2]), "f"(value.lane[3]) : "memory");
#else
  emulator::store_remote({"st.shared::cluster", file, line}, &shared, block, &value, sizeof value);
#endif
}

}  // namespace ptx
}  // namespace cconvnet
