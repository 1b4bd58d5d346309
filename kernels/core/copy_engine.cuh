// Copies of boxes by the copy engine of compute capability 9.0 (tensor_map.h), between global and shared memory:
// PTX ISA 8.5, "Data Movement and Conversion Instructions: Tensor copy".
//
// Shared memory is on the boundary that the map's swizzle asks for, pattern_bytes(). One thread starts a copy.
#pragma once

#include "core/barriers.cuh"
#include "core/tensor_map.h"
#ifndef __CUDACC__
#include "emulator/copy_engine.h"
#endif

// A parameter of a kernel that the copy engine reads where the launch put it.
#ifdef __CUDACC__
#define CCONVNET_MAP const __grid_constant__::cconvnet::TensorMap
#else
#define CCONVNET_MAP const ::cconvnet::TensorMap
#endif

namespace cconvnet {
namespace ptx {

// Fetches the map itself ahead of the first copy.
__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
#ifdef __CUDACC__
  CCONVNET_PTX_90("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#else
  (void)map;
#endif
}

// Starts to load the box that begins at (x, y); zeros outside the array. Its bytes arrive at the barrier.
__device__ __forceinline__ void load_box(void* shared, const TensorMap& map, Barrier& barrier, int x,
                                         int y CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::"
      "complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y) : "memory");
#else
  emulator::start_load({"cp.async.bulk.tensor.2d", file, line}, shared, map, barrier.state, 0, 2, {x, y}, 0,
                       0);
#endif
}

__device__ __forceinline__ void load_box(void* shared, const TensorMap& map, Barrier& barrier, int x, int y,
                                         int z CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::"
      "complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z) : "memory");
#else
  emulator::start_load({"cp.async.bulk.tensor.3d", file, line}, shared, map, barrier.state, 0, 3, {x, y, z},
                       0, 0);
#endif
}

// Starts to load channels from c on of the pixels that one tap of a row of windows reads: that at (offset_w,
// offset_h) in each, from the window at base pixel (w, h) of image n on.
__device__ __forceinline__ void load_windows(void* shared, const TensorMap& map, Barrier& barrier, int c,
                                             int w, int h, int n, int offset_w,
                                             int offset_h CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::"
      "complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&barrier)), "r"(c), "r"(w), "r"(h), "r"(n),
      "h"(static_cast<uint16_t>(offset_w)), "h"(static_cast<uint16_t>(offset_h)) : "memory");
#else
  emulator::start_load({"cp.async.bulk.tensor.4d.im2col", file, line}, shared, map, barrier.state, 0, 4,
                       {c, w, h, n}, offset_w, offset_h);
#endif
}

// ---- loads to several blocks of a cluster ---------------------------------------------------------------------

// Where a box arrives that several blocks need: at the same place of each block that the mask names (bit b: block b of
// the cluster), and its bytes at the barrier of each that is at the place of this one.
struct Multicast {
  Barrier& barrier;
  uint16_t blocks;
};

__device__ __forceinline__ void load_box(void* shared, const TensorMap& map, const Multicast& to, int x,
                                         int y CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::"
      "complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&to.barrier)), "r"(x), "r"(y), "h"(to.blocks) : "memory");
#else
  emulator::start_load({"cp.async.bulk.tensor.2d.multicast", file, line}, shared, map, to.barrier.state,
                       to.blocks, 2, {x, y}, 0, 0);
#endif
}

__device__ __forceinline__ void load_box(void* shared, const TensorMap& map, const Multicast& to, int x,
                                         int y, int z CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::"
      "complete_tx::bytes.multicast::cluster [%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&to.barrier)), "r"(x), "r"(y), "r"(z), "h"(to.blocks) : "memory");
#else
  emulator::start_load({"cp.async.bulk.tensor.3d.multicast", file, line}, shared, map, to.barrier.state,
                       to.blocks, 3, {x, y, z}, 0, 0);
#endif
}

__device__ __forceinline__ void load_windows(void* shared, const TensorMap& map, const Multicast& to, int c,
                                             int w, int h, int n, int offset_w,
                                             int offset_h CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col."
      "mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8}, %9;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(shared_address(&to.barrier)), "r"(c), "r"(w), "r"(h), "r"(n),
      "h"(static_cast<uint16_t>(offset_w)), "h"(static_cast<uint16_t>(offset_h)), "h"(to.blocks) : "memory");
#else
  emulator::start_load({"cp.async.bulk.tensor.4d.im2col.multicast", file, line}, shared, map,
                       to.barrier.state, to.blocks, 4, {c, w, h, n}, offset_w, offset_h);
#endif
}

// ---- stores -----------------------------------------------------------------------------------------------------

// Starts to store the box that begins at (x, y); what is outside the array is not stored. Other threads wrote the
// box before a meet().
__device__ __forceinline__ void store_box(const void* shared, const TensorMap& map, int x,
                                          int y CCONVNET_PTX_CALLER) {
#ifdef __CUDACC__
  CCONVNET_PTX_90(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%1, "
      "{%2, %3}], [%0];" ::"r"(shared_address(shared)),
      "l"(&map), "r"(x), "r"(y) : "memory");
#else
  emulator::start_store({"cp.async.bulk.tensor.2d", file, line}, shared, map, 2, {x, y});
#endif
}

// The stores that the thread has started since the last such call become a group.
__device__ __forceinline__ void close_store_group() {
#ifdef __CUDACC__
  CCONVNET_PTX_90("cp.async.bulk.commit_group;" :: : "memory");
#else
  emulator::close_store_group();
#endif
}

// Waits until all but the last PENDING groups of the thread have read shared memory, which may then be written again.
template <int PENDING>
__device__ __forceinline__ void wait_for_stores() {
#ifdef __CUDACC__
  CCONVNET_PTX_90("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
#else
  emulator::wait_for_stores(PENDING);
#endif
}

}  // namespace ptx
}  // namespace cconvnet
