// A model of the time that a matrix product takes, which ranks the rows of a selection table and chooses the
// number of splits along k. It knows the problem and the tile and nothing of the GPU at hand, so choices and
// sums are the same everywhere. Its GPU is an H200; the ranking hardly depends on which.
//
// A multiprocessor holds some blocks of a tile at once and shares its tensor cores, its schedulers, its shared
// memory and its part of the second-level cache among them: the busiest of these bounds all blocks together. A
// single block is bounded by its own chain of events: products and other instructions, from one barrier to
// the next. Blocks come in waves, of which the last may leave multiprocessors idle. All numbers are integers:
// no compiler rounds them.
//
// The rates are estimates from published measurements, not yet measured here: mma.sync reaches about 63% of
// the H200's peak, and the cache gives a multiprocessor about 35 bytes a cycle. They are those of
// cconvnet/profile/chips.json, which predicts the same from machine code and counted accesses.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "problem.h"

namespace cconvnet {

struct GemmSize {
  int m, n, k;
  int batches;  // independent products in one launch
  Precision precision;
};

// Splits are whole steps of every tile, and long enough to be worth the extra pass over the output.
constexpr int kSplitUnit = 64;
constexpr int kMinSplit = 256;

namespace cost {

constexpr int64_t kMultiprocessors = 132;
constexpr int64_t kSharedBytes = 227 * 1024, kReservedBytes = 1024;  // of a multiprocessor; of each block
constexpr int64_t kSchedulers = 4, kLanes = 128;                     // of a multiprocessor
constexpr int64_t kCacheBytes = 35;     // from the second-level cache to a multiprocessor, in a cycle
constexpr int64_t kBankBytes = 128;     // from or to shared memory
constexpr int64_t kBusyPercent = 88;    // of the time: what bounds tensor tiles and their copies
constexpr int64_t kMemoryBytes = 2100;  // from and to memory, in a cycle
constexpr int64_t kLatency = 600;       // cycles from a copy's start to its arrival
constexpr int64_t kBarrier = 25;        // cycles from the last warp's arrival to the next instruction
constexpr int64_t kFirstFactors = 75;   // cycles of the first loads from shared memory behind it
constexpr int64_t kStartAndEnd = 2500;  // cycles of a block before its first step and after its last
constexpr int64_t kLaunch = 2300;       // cycles of another kernel in a graph

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Returns the cycles of a block alone, each of whose warps executes so many instructions one after the other:
// one in 1.6 cycles, or as many as its schedulers start.
constexpr int64_t alone_cycles(int64_t instructions, int64_t warps) {
  return instructions * std::max<int64_t>(32, 20 * warps / kSchedulers) / 20;
}

// A block, or the blocks of a cluster, and one of its steps of BLOCK_K.
struct TileCost {
  int64_t block_m, block_n, block_k;
  int64_t resident;  // blocks that a multiprocessor holds
  int64_t shared;    // cycles of a multiprocessor, which all its blocks share
  int64_t alone;     // cycles from one step's barrier to the next, if a block has the multiprocessor
  int64_t cluster;   // blocks that multiply it together, on a multiprocessor each
};

inline int64_t tiles(const TileCost& tile, const GemmSize& size) {
  return ceil_div(size.m, tile.block_m) * ceil_div(size.n, tile.block_n) * size.batches;
}

// The k of the longest split.
inline int64_t split_length(const GemmSize& size, int64_t splits) {
  return ceil_div(ceil_div(size.k, kSplitUnit), splits) * kSplitUnit;
}

// Returns the cycles of `blocks` blocks of `steps` steps, each of which writes `written` bytes.
inline int64_t blocks_cycles(const TileCost& tile, int64_t blocks, int64_t steps, int64_t written) {
  const auto together = [&](int64_t held) {  // of blocks that share a multiprocessor
    return std::max(held * (steps * tile.shared + written / kCacheBytes), steps * tile.alone + kStartAndEnd);
  };
  const int64_t places = kMultiprocessors / tile.cluster;
  const int64_t wave = places * tile.resident, rest = blocks % wave;
  return blocks / wave * together(tile.resident) + (rest > 0 ? together(ceil_div(rest, places)) : 0);
}

// Returns the cycles that the splits' copies of the output take: each is written and read.
inline int64_t copies_cycles(const GemmSize& size, int64_t splits) {
  if (splits == 1) return 0;
  const int64_t copies = 2 * splits * size.m * size.n * size.batches * int64_t{sizeof(float)};
  return kLaunch + copies / kMemoryBytes;
}

// Returns the cycles of a product that is divided into `splits` along k, with the sum of the splits.
inline int64_t product_cycles(const TileCost& tile, const GemmSize& size, int64_t splits) {
  const int64_t steps = ceil_div(std::min<int64_t>(split_length(size, splits), size.k), tile.block_k);
  const int64_t written = tile.block_m * tile.block_n * int64_t{sizeof(float)} / tile.cluster;
  return blocks_cycles(tile, tiles(tile, size) * splits, steps, written) + copies_cycles(size, splits);
}

// Instructions are counted in the code of nvcc 13.0 for sm_90a; mma.sync is 63% of the peak.
// `split`: floats are multiplied as two tf32s each.
constexpr TileCost tensor_cost(int64_t block_m, int64_t block_n, int64_t block_k, int64_t warp_m,
                               int64_t warp_n, int64_t stages, int64_t element, int64_t resident,
                               bool split = false) {
  const int64_t warps = block_m / warp_m * (block_n / warp_n),
                bytes = (block_m + block_n) * block_k * element;
  const int64_t products = block_m * block_n * block_k / (element == 2 ? 1280 : 640) * (split ? 3 : 1);
  const int64_t copies = 40 + 10 * (bytes / 16 / (32 * warps));
  const int64_t depths = block_k * element / 32, fragments = depths * (warp_m + warp_n) / 16;
  const int64_t conversions = (element == 2 ? 0 : split ? 24 : 8) * fragments;
  // If split, three products of parts, and four additions of their sums.
  const int64_t multiplications = depths * warp_m * warp_n / 128 * (split ? 3 : 1);
  const int64_t others = fragments + conversions + copies + (split ? 4 * depths * warp_m * warp_n / 128 : 0);
  // Each warp reads its rows of both operands, and each piece is written once.
  const int64_t banks = (warps * (warp_m + warp_n) * block_k * element + bytes) / kBankBytes;
  const int64_t busiest =
      std::max({products, (multiplications + others) * warps / kSchedulers, banks, bytes / kCacheBytes});
  const int64_t held = kSharedBytes / (bytes * stages + kReservedBytes);
  return {block_m,
          block_n,
          block_k,
          std::min(resident, held),
          busiest * 100 / kBusyPercent,
          std::max({products + alone_cycles(others, warps) + kBarrier, bytes / kCacheBytes,
                    kLatency / (stages - 1)}),
          1};
}

// A tile of warp groups (wgmma_tile.cuh), which reach 95% of the peak, 2,048 multiply-adds of bf16s a cycle, and whose
// copies take no instructions of theirs. Its block goes on with the next tile, whose copies begin before the sums are
// written, so no tile has a start of its own. A block loads so many rows of A and B; the rest of its tile comes with
// those that the other block of a pair loads, for which the cache is asked once.
constexpr TileCost wgmma_cost(int64_t block_m, int64_t block_n, int64_t block_k, int64_t element,
                              int64_t rows, int64_t cluster_m, int64_t cluster_n) {
  const int64_t bytes = rows * block_k * element;
  const int64_t products = block_m * block_n * block_k / (element == 2 ? 1945 : 972);
  const int64_t busiest = std::max(products, bytes / kCacheBytes) * 100 / kBusyPercent;
  return {cluster_m, cluster_n, block_k, 1, busiest, 0, cluster_m * cluster_n / (block_m * block_n)};
}

// A tile whose taps share `pixels` pixels (halo_tile.cuh), and a step of one tap of a slab of channels. The copy engine
// gathers 16 bytes of a pixel at a time, half of what the cache reads for it. The tensor cores read their factors from
// shared memory, where the copies arrive too.
constexpr TileCost halo_cost(int64_t block_m, int64_t block_n, int64_t slab, int64_t pixels, int64_t taps) {
  const int64_t products = block_m * block_n * slab / 1945;
  const int64_t copies = ceil_div(pixels * slab * 2, taps), filters = block_n * slab * 2;
  const int64_t banks = (block_m / 64 * (64 + block_n) * slab * 2 + copies + filters) / kBankBytes;
  const int64_t busiest = std::max({products, banks, (2 * copies + filters) / kCacheBytes});
  return {block_m, block_n, slab, 1, busiest * 100 / kBusyPercent, 0};
}

// The same of a gradient by filters (halo_wgrad_tile.cuh), and a step of 64 pixels.
constexpr TileCost halo_wgrad_cost(int64_t filters, int64_t channels, int64_t columns, int64_t taps,
                                   int64_t pixels) {
  const int64_t products = filters * channels * taps * 64 / 1945;
  const int64_t gradients = filters * 64 * 2, copies = pixels * channels * 2,
                factors = 4 * taps * (64 + columns) * 32;
  const int64_t banks = (2 * factors + gradients + copies) / kBankBytes;
  const int64_t busiest = std::max({products, banks, (gradients + 2 * copies) / kCacheBytes});
  return {filters, channels, 64, 1, busiest * 100 / kBusyPercent, 0};
}

// Returns the cycles of blocks that multiply patches (gemm/patch.cuh). Each executes `loads` instructions of
// single threads that fill shared memory, and so many steps of 8 words of k, for which a warp needs
// `instructions` besides the products.
template <class Tile>
int64_t patches_cycles(int64_t blocks, int64_t steps, int64_t loads, int64_t instructions,
                       int64_t shared_bytes, int64_t written) {
  const int64_t adds = int64_t{Tile::BLOCK_M} * Tile::BLOCK_N * Tile::PRODUCT_K;
  const int64_t products = adds / (sizeof(typename Tile::Element) == 2 ? 1280 : 640);
  const int64_t warps = Tile::THREADS / 32;
  const int64_t all = instructions + Tile::WARP_M * Tile::WARP_N / 128;
  const int64_t shared = std::max<int64_t>(products, all * warps / kSchedulers) * 100 / kBusyPercent;
  const int64_t resident =
      std::min<int64_t>(Tile::MIN_BLOCKS, kSharedBytes / (shared_bytes + kReservedBytes));
  const int64_t alone = products + alone_cycles(instructions, warps);
  const TileCost tile = {Tile::BLOCK_M, Tile::BLOCK_N, Tile::PRODUCT_K, resident, shared, alone, 1};
  return blocks_cycles(tile, blocks, steps + loads / kLanes / shared, written);
}

constexpr TileCost lanes_cost(int64_t block_m, int64_t block_n, int64_t block_k, int64_t thread_m,
                              int64_t thread_n, int64_t vector, int64_t resident) {
  const int64_t threads = block_m / thread_m * (block_n / thread_n);
  const int64_t loads = 40 + (block_m + block_n) * block_k / (vector * threads) * (vector > 1 ? 18 : 12);
  const int64_t fragments = (thread_m + thread_n) / 4;
  const int64_t instructions = block_k * (thread_m * thread_n + fragments) + loads;
  const int64_t cycles = instructions * threads / kLanes;
  // A's loads are hidden by half a step, and so are B's.
  const int64_t alone = cycles + loads + kBarrier + kFirstFactors;
  return {block_m, block_n, block_k, resident, cycles, std::max(alone, 2 * kLatency), 1};
}

template <class Tile>
constexpr TileCost tile_cost() {
  if constexpr (Tile::WARP_GROUPS) {
    return wgmma_cost(Tile::BLOCK_M, Tile::BLOCK_N, Tile::BLOCK_K, sizeof(typename Tile::Element),
                      Tile::A_ROWS + Tile::B_ROWS, Tile::Cluster::BLOCK_M, Tile::Cluster::BLOCK_N);
  } else if constexpr (Tile::TENSOR) {
    return tensor_cost(Tile::BLOCK_M, Tile::BLOCK_N, Tile::BLOCK_K, Tile::WARP_M, Tile::WARP_N, Tile::STAGES,
                       sizeof(typename Tile::Element), Tile::MIN_BLOCKS,
                       Tile::PRECISION == Precision::fp32x3);
  } else {
    return lanes_cost(Tile::BLOCK_M, Tile::BLOCK_N, Tile::BLOCK_K, Tile::THREAD_M, Tile::THREAD_N,
                      Tile::VECTOR, Tile::MIN_BLOCKS);
  }
}

// The usual tiles of each precision, which the tables have with the longer side along m or along n. One of
// size 0 ends them.
constexpr TileCost kUsualTiles[][6] = {
    {lanes_cost(128, 128, 16, 8, 8, 4, 2), lanes_cost(128, 96, 16, 8, 8, 4, 2),
     lanes_cost(128, 64, 16, 8, 8, 4, 3), lanes_cost(64, 64, 16, 8, 4, 4, 4)},
    {tensor_cost(128, 128, 32, 64, 64, 3, 4, 2), tensor_cost(128, 96, 32, 64, 48, 3, 4, 2),
     tensor_cost(192, 64, 32, 48, 64, 3, 4, 2), tensor_cost(128, 64, 32, 64, 32, 3, 4, 3),
     tensor_cost(64, 64, 32, 32, 32, 3, 4, 4)},
    {tensor_cost(128, 128, 64, 64, 64, 3, 2, 2), tensor_cost(128, 96, 64, 64, 48, 3, 2, 2),
     tensor_cost(192, 64, 64, 48, 64, 3, 2, 2), tensor_cost(128, 64, 64, 64, 32, 3, 2, 3),
     tensor_cost(64, 64, 64, 32, 32, 3, 2, 4)},
    {tensor_cost(64, 64, 16, 32, 32, 4, 4, 2, true)}};

}  // namespace cost

// Returns into how many parts k is divided: as many as give each multiprocessor one block of some usual tile,
// or up to six. Of these and of the tiles, the pair with the least predicted time is taken. So the number
// depends on the problem alone.
inline int split_count(const GemmSize& size) {
  const int64_t units = cost::ceil_div(size.k, kSplitUnit);
  const int64_t most = std::max(1, size.k / kMinSplit);
  int64_t best = 1, least = std::numeric_limits<int64_t>::max();
  for (cost::TileCost tile : cost::kUsualTiles[static_cast<int>(size.precision)]) {
    if (tile.block_m == 0) break;
    if (size.m < size.n) std::swap(tile.block_m, tile.block_n);
    const int64_t tiles = cost::tiles(tile, size);
    for (int64_t held = 0, before = 0; held <= 6; ++held) {
      const int64_t wanted = std::clamp<int64_t>(held * cost::kMultiprocessors / tiles, 1, most);
      const int64_t splits = cost::ceil_div(units, cost::ceil_div(units, wanted));  // those that have work
      if (splits == before) continue;
      before = splits;
      const int64_t cycles = cost::product_cycles(tile, size, splits);
      if (cycles < least) best = splits, least = cycles;
    }
  }
  return static_cast<int>(best);
}

// Returns the cycles that a Tile is predicted to take for a product.
template <class Tile>
int64_t predicted_cycles(const GemmSize& size) {
  constexpr cost::TileCost tile = cost::tile_cost<Tile>();
  return cost::product_cycles(tile, size, split_count(size));
}

}  // namespace cconvnet
