// One block's share of a convolution of stride 1 on the tensor cores of compute capability 9.0, whose taps read the same
// pixels in shared memory.
//
// wgmma_tile.cuh copies a tile's windows anew for each tap: nine times for 3x3 filters, almost always the same pixels.
// Here they are copied once. The padded images form one stream of pixels:
//
//   0 0 0 0 0 0    Row after row and image after image, padded above and on the left. The pixels on the right of a row
//   0 a b c d e    are followed by the next row's padding, which is theirs too. Window u of the stream begins at its
//   0 f g h i j    pixel u, and a tap reads the pixel `down` rows and `right` columns further on: a fixed number of
//   0 k l m n o    pixels, the same for all windows.
//
// So a tap's rows of A are the rows of the first tap, some pixels on. The tensor cores read them from there: without a
// swizzle a matrix is made of pieces of 8 rows by 16 bytes, each 128 neighbouring bytes, which may begin at any 16 of
// them. Shared memory has a plane for each 8 channels, in which the pixels of the stream are neighbours. The copy engine
// writes a plane at once: a row of windows of 1 x 1 (tensor_map.h) is just such a stream.
//
// Windows that begin in the padding are computed like the others and not stored: 14 of 196 in 13 x 13 images. That is
// the price.
//
// Three roles are those of wgmma_tile.cuh: a lane copies, two or three groups multiply. There are two rings: one of
// pixels, for SLAB channels of all taps, and one of filters, for the same channels of one tap. So sums run in the order
// of slabs, taps, channels; the other rows sum taps first.
//
// A pass of the convolution is a class with
//   static constexpr bool B_ALONG_K;
//   static constexpr int B_LINE;                            elements of a line
//   Place place(const GemmBlock&) const;                    all that it can compute once for a tile
//   void load_pixels(T* plane, Barrier&, const Place&, int channel) const;
//                                                           start the copy of 8 channels from `channel` on
//   void load_filters(T* slab, Barrier&, const Place&, int channel, int tap) const;
//                                                           of the filters' line of B_LINE or SLAB channels
#pragma once

#include "gemm/wgmma_tile.cuh"

namespace cconvnet {

constexpr int kPlane = 8;  // channels of a plane

// A slab's filters lie in pieces of LINE of its channels. PIXELS is the most that a tile and its taps may read.
template <class T, int GROUPS_, int PRODUCTS_M_, int BLOCK_N_, int SLAB_, int LINE_, int STAGES_, int PIXELS_>
struct HaloTile {
  using Element = T;
  static constexpr int GROUPS = GROUPS_, PRODUCTS_M = PRODUCTS_M_, THREADS = (GROUPS + 1) * kWarpGroup;
  static constexpr int BLOCK_M = 64 * GROUPS * PRODUCTS_M, BLOCK_N = BLOCK_N_;
  static constexpr int SLAB = SLAB_, LINE = LINE_, PIECES = SLAB / LINE, PLANES = SLAB / kPlane;
  static constexpr int STAGES = STAGES_, PIXELS = PIXELS_;
  static constexpr int PRODUCT_K = 16;  // of one wgmma
  // Registers of the threads that copy and of those that multiply: 64 Ki together.
  static constexpr int COPYING = GROUPS == 2 ? 40 : 32, MULTIPLYING = GROUPS == 2 ? 232 : 160;

  static_assert(std::is_same_v<T, bfloat16>, "planes are of 8 elements of 2 bytes");
  static_assert(GROUPS == 2 || GROUPS == 3, "registers are divided among so many");
  static_assert(SLAB % LINE == 0 && LINE % PRODUCT_K == 0, "a piece is whole products");
  static_assert(PIXELS % kPlane == 0 && PIXELS > BLOCK_M, "planes begin on boundaries of 128 bytes");

  static std::string name() {
    return "bf16_" + std::to_string(BLOCK_M) + "x" + std::to_string(BLOCK_N) + "x" + std::to_string(SLAB);
  }
};

// The stream of pixels of padded images, and the windows in it.
struct HaloShape {
  int pad_h, pad_w;
  int channels, slabs;  // of a group
  int taps_w, taps;
  int pixels;  // that a tile reads
  int right,
      down;  // pixels of the stream from a tap to its neighbour, and from a row's last to the next row's first
  int rows, columns;          // of windows in an image
  Divider by_pitch, by_rows;  // a row's pixels, an image's rows
  GemmSize size;
};

template <class Tile, class Pass>
struct alignas(1024) HaloMemory {
  using T = typename Tile::Element;
  using Filters = WgmmaSlab<T, Tile::BLOCK_N, Tile::LINE, Pass::B_ALONG_K, Pass::B_LINE>;
  struct Stage {
    Filters piece[Tile::PIECES];
  };
  static constexpr uint32_t STAGE_BYTES = sizeof(Stage);
  Stage stage[Tile::STAGES];
  T pixels[2][Tile::PLANES][Tile::PIXELS * kPlane];
  TensorResult<WgmmaEpilogue<Tile>> result;
  ptx::Barrier full[Tile::STAGES], empty[Tile::STAGES];
  ptx::Barrier pixels_full[2], pixels_empty[2];
};

template <class Tile, class Pass>
__device__ __forceinline__ void copy_halo_tiles(HaloMemory<Tile, Pass>& memory, const Pass& pass,
                                                const HaloShape& shape, const GemmGrid& grid) {
  using Memory = HaloMemory<Tile, Pass>;
  WgmmaTurn<Tile::STAGES> turn;
  WgmmaTurn<2> pixels;
  for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
    const auto place = pass.place(GemmBlock::make<Tile>(grid, number));
    for (int slab = 0; slab < shape.slabs; ++slab, pixels.advance()) {
      ptx::wait(memory.pixels_empty[pixels.stage], pixels.parity ^ 1);
      ptx::arrive_and_expect(
          memory.pixels_full[pixels.stage],
          shape.pixels * Tile::SLAB * static_cast<uint32_t>(sizeof(typename Tile::Element)));
      const int channel = slab * Tile::SLAB;
      for (int plane = 0; plane < Tile::PLANES; ++plane) {
        pass.load_pixels(memory.pixels[pixels.stage][plane], memory.pixels_full[pixels.stage], place,
                         channel + plane * kPlane);
      }
      for (int tap = 0; tap < shape.taps; ++tap, turn.advance()) {
        ptx::wait(memory.empty[turn.stage], turn.parity ^ 1);
        ptx::arrive_and_expect(memory.full[turn.stage], Memory::STAGE_BYTES);
#pragma unroll
        for (int piece = 0; piece < Tile::PIECES; ++piece) {
          pass.load_filters(memory.stage[turn.stage].piece[piece].at, memory.full[turn.stage], place,
                            channel + piece * Tile::LINE, tap);
        }
      }
    }
  }
}

template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_halo_tiles(HaloMemory<Tile, Pass>& memory, const HaloShape& shape,
                                                    const GemmGrid& grid, const Store& store) {
  using T = typename Tile::Element;
  constexpr uint32_t PLANE_BYTES = sizeof(memory.pixels[0][0]), PIXEL_BYTES = kPlane * sizeof(T);
  const int group = threadIdx.x / kWarpGroup, lane = threadIdx.x % 32;
  const uint64_t first =
      ptx::factor<Swizzle::none>(memory.pixels[0][0] + group * 64 * kPlane, 8 * PIXEL_BYTES, PLANE_BYTES);
  float sums[Tile::PRODUCTS_M][Tile::BLOCK_N / 2];
  WgmmaTurn<Tile::STAGES> turn;
  WgmmaTurn<2> pixels;
  for (uint32_t number = blockIdx.x; number < grid.count(); number += gridDim.x) {
#pragma unroll
    for (int i = 0; i < Tile::PRODUCTS_M; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::BLOCK_N / 2; ++j) sums[i][j] = 0.0f;
    }
    int before = -1;
    for (int slab = 0; slab < shape.slabs; ++slab) {
      ptx::wait(memory.pixels_full[pixels.stage], pixels.parity);
      uint64_t a = ptx::advanced(first, pixels.stage * static_cast<uint32_t>(sizeof(memory.pixels[0])));
      for (int tap = 0, column = 0; tap < shape.taps; ++tap) {
        ptx::wait(memory.full[turn.stage], turn.parity);
        const auto& stage = memory.stage[turn.stage];
        ptx::start_products(sums);
#pragma unroll
        for (int k = 0; k < Tile::SLAB; k += Tile::PRODUCT_K) {
          const uint64_t b = stage.piece[k / Tile::LINE].factor(0, k % Tile::LINE);
#pragma unroll
          for (int i = 0; i < Tile::PRODUCTS_M; ++i) {
            const uint32_t ahead = k / kPlane * PLANE_BYTES + i * Tile::GROUPS * 64 * PIXEL_BYTES;
            ptx::start_product<Tile::BLOCK_N, T, true, Pass::B_ALONG_K>(sums[i], ptx::advanced(a, ahead), b);
          }
        }
        ptx::close_product_group();
        // The products of the tap before are done: nothing reads its filters any more, nor, if it was a slab's last, the
        // pixels.
        ptx::wait_for_products<1>(sums);
        if (before >= 0 && lane == 0) {
          ptx::arrive(memory.empty[before]);
          if (tap == 0) ptx::arrive(memory.pixels_empty[pixels.stage ^ 1]);
        }
        before = turn.stage;
        turn.advance();
        const bool ends_row = ++column == shape.taps_w;
        a = ptx::advanced(a, (ends_row ? shape.down : shape.right) * PIXEL_BYTES);
        if (ends_row) column = 0;
      }
      pixels.advance();
    }
    ptx::wait_for_products<0>(sums);
    if (lane == 0) {
      ptx::arrive(memory.empty[before]);
      ptx::arrive(memory.pixels_empty[pixels.stage ^ 1]);
    }
    store_sums<Tile>(memory.result, sums, GemmBlock::make<Tile>(grid, number), store);
  }
}

// Computes the block's tiles. store(product, block) writes a part of one, whose first window and column the block names.
template <class Tile, class Pass, class Store>
__device__ __forceinline__ void multiply_halo(const Pass& pass, const HaloShape& shape, const GemmGrid& grid,
                                              const Store& store) {
  auto& memory = launch_shared_memory<HaloMemory<Tile, Pass>>();
  if (threadIdx.x == 0) {
    init_ring(memory.full, memory.empty, Tile::GROUPS * 4);
    init_ring(memory.pixels_full, memory.pixels_empty, Tile::GROUPS * 4);
  }
  __syncthreads();
  divide_roles<Tile>([&] { copy_halo_tiles<Tile>(memory, pass, shape, grid); },
                     [&] { multiply_halo_tiles<Tile, Pass>(memory, shape, grid, store); });
}

// Writes a tile in whole groups, without the branches of store_tile(). What a row outside would read is read from the
// first: loads without branches are in flight together.
template <class Product, class Writer, class Layout>
__device__ __forceinline__ void store_straight(const Product& product, const Writer& writer,
                                               const Layout& layout, uint32_t first_m, uint32_t first_n,
                                               uint32_t first_channel, int gemm_m, int gemm_n) {
  const auto offset = product.offsets(layout, first_m, gemm_m);
#pragma unroll
  for (int j = 0; j < Product::GROUPS; ++j) {
    const uint32_t column = first_n + product.column(j);
    const bool inside = column < static_cast<uint32_t>(gemm_n);
    const auto columns = writer.template columns<kGroup>(inside ? first_channel + column : 0);
#pragma unroll
    for (int i = 0; i < Product::ROWS; i += Product::AHEAD) {
      uint32_t place[Product::AHEAD];
      decltype(writer.template read<kGroup>(0)) read[Product::AHEAD];
#pragma unroll
      for (int l = 0; l < Product::AHEAD; ++l) {
        const uint32_t row = offset(i + l);
        place[l] = inside && row != kOutside ? row + column : kOutside;
        read[l] = writer.template read<kGroup>(place[l] == kOutside ? 0 : place[l]);
      }
#pragma unroll
      for (int l = 0; l < Product::AHEAD; ++l) {
        const Vector<kGroup> sums = product.sums(i + l, j);
        if (place[l] != kOutside) writer.template write<kGroup>(place[l], columns, read[l], sums);
      }
    }
  }
}

// The layout of an output whose rows are the windows of a stream. Those that begin in the padding have none.
struct HaloRows {
  const HaloShape& shape;
  int pitch;
  uint32_t first;  // the beginning of row 0

  __device__ __forceinline__ uint32_t row(uint32_t m) const {
    int row, column;
    const int n = shape.by_rows.divide(shape.by_pitch.divide(static_cast<int>(m), column), row);
    if (row >= shape.rows || column >= shape.columns) return kOutside;
    return static_cast<uint32_t>((n * shape.rows + row) * shape.columns + column) * pitch + first;
  }
};

}  // namespace cconvnet
