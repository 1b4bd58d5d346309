// A product of two matrices for the tiles of warp groups (wgmma_tile.cuh), each of which lies along k or across it: what
// the passes of FC layers are to the copy engine.
#pragma once

#include "gemm/wgmma_tile.cuh"

namespace cconvnet {

template <class Tile, bool A_ALONG, bool B_ALONG>
class MatrixPass {
 public:
  using T = typename Tile::Element;
  static constexpr bool A_ALONG_K = A_ALONG, B_ALONG_K = B_ALONG;
  static constexpr int LINE = 128 / sizeof(T), A_LINE = LINE, B_LINE = LINE;
  static_assert(Tile::SLAB == LINE, "a line along k is a slab");
  struct Place {
    int m, n;
  };

  const TensorMap &a, &b;

  // Of a matrix of `rows` rows of A or columns of B.
  template <bool ALONG, int BLOCK>
  static TensorMap map(const void* data, int rows, int k) {
    constexpr Swizzle swizzle = Swizzle::bytes_128;
    return ALONG ? tiled_map(matrix(data, sizeof(T), rows, k), {LINE, BLOCK}, swizzle)
                 : tiled_map(matrix(data, sizeof(T), k, rows), {LINE, Tile::SLAB}, swizzle);
  }
  static TensorMap map_a(const void* data, const GemmSize& size) {
    return map<A_ALONG, Tile::BLOCK_M>(data, size.m, size.k);
  }
  static TensorMap map_b(const void* data, const GemmSize& size) {
    return map<B_ALONG, Tile::BLOCK_N>(data, size.n, size.k);
  }

  __device__ __forceinline__ Place place(const GemmBlock& block) const {
    return {static_cast<int>(block.m), static_cast<int>(block.n)};
  }
  __device__ __forceinline__ void load_a(T* slab, ptx::Barrier& barrier, const Place& at, uint32_t k) const {
    load<A_ALONG, Tile::BLOCK_M>(slab, a, barrier, at.m, static_cast<int>(k));
  }
  __device__ __forceinline__ void load_b(T* slab, ptx::Barrier& barrier, const Place& at, uint32_t k) const {
    load<B_ALONG, Tile::BLOCK_N>(slab, b, barrier, at.n, static_cast<int>(k));
  }

 private:
  template <bool ALONG, int BLOCK>
  static __device__ __forceinline__ void load(T* slab, const TensorMap& map, ptx::Barrier& barrier, int first,
                                              int k) {
    if constexpr (ALONG) {
      ptx::load_box(slab, map, barrier, k, first);
    } else {
#pragma unroll
      for (int i = 0; i < BLOCK; i += LINE) ptx::load_box(slab + i * Tile::SLAB, map, barrier, first + i, k);
    }
  }
};

}  // namespace cconvnet
