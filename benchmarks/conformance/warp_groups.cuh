// Checks of the instructions of compute capability 9.0: barriers with phases, the copy engine, products of warp groups.
//
// What a copy leaves in shared memory is compared as it lies there, with its swizzle.
#pragma once

#include "words.cuh"
#include "core/copy_engine.cuh"
#include "core/wgmma.cuh"

namespace {

constexpr Swizzle kSwizzles[] = {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128};

void append(Words& words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
}

// ---- barriers ---------------------------------------------------------------------------------------------

constexpr int kRingRows = 50, kRingColumns = 8, kStages = 3, kReaders = 64;

struct alignas(128) RingShared {
  uint32_t stage[kStages][32];  // a row, and room up to the next boundary
  ptx::Barrier full[kStages], empty[kStages];
};

// A lane of warp 0 loads row after row into a ring of stages, and two warps hash them.
__global__ void ring(CCONVNET_MAP map, uint32_t* y) {
  RingShared& shared = launch_shared_memory<RingShared>();
  if (threadIdx.x == 0) {
    ptx::prefetch_map(map);
    for (int i = 0; i < kStages; ++i) {
      ptx::init_barrier(shared.full[i], 1);
      ptx::init_barrier(shared.empty[i], 2);
    }
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    if (!ptx::is_elected()) return;
    for (int row = 0; row < kRingRows; ++row) {
      const int stage = row % kStages, parity = row / kStages % 2;
      ptx::wait(shared.empty[stage], parity ^ 1);
      ptx::arrive_and_expect(shared.full[stage], kRingColumns * sizeof(uint32_t));
      ptx::load_box(shared.stage[stage], map, shared.full[stage], 0, row);
    }
    return;
  }
  uint32_t hash = 0;
  for (int row = 0; row < kRingRows; ++row) {
    const int stage = row % kStages;
    ptx::wait(shared.full[stage], row / kStages % 2);
    hash = hash * 31 + shared.stage[stage][threadIdx.x % kRingColumns];
    __syncwarp();
    if (threadIdx.x % 32 == 0) ptx::arrive(shared.empty[stage]);
  }
  y[threadIdx.x - 32] = hash + threadIdx.x;
}

Words of_ring() {
  const DeviceWords x(Draw(16).words(kRingRows * kRingColumns)), y(kReaders);
  const TensorMap map = tiled_map({x.at(), 4, 2, {kRingColumns, kRingRows}, {4, kRingColumns * 4}},
                                  {kRingColumns, 1}, Swizzle::none);
  CCONVNET_LAUNCH_90(ring, 1, 32 + kReaders, sizeof(RingShared), nullptr, map, y.at());
  return y.host();
}

struct PhaseShared {
  ptx::Barrier whole;
  uint32_t at[96];
};

// All threads arrive in every phase, and read what another wrote in it.
__global__ void phases(uint32_t* y) {
  PhaseShared& shared = launch_shared_memory<PhaseShared>();
  const int t = threadIdx.x, threads = 96;
  if (t == 0) ptx::init_barrier(shared.whole, threads);
  __syncthreads();
  uint32_t hash = t;
  for (int phase = 0; phase < 6; phase += 2) {
    shared.at[t] = hash * 2654435761u + phase;
    ptx::arrive(shared.whole);
    ptx::wait(shared.whole, 0);
    hash = shared.at[(t + 37) % threads];
    ptx::arrive(shared.whole);
    ptx::wait(shared.whole, 1);
  }
  y[t] = hash;
}

Words of_phases() {
  const DeviceWords y(96);
  CCONVNET_LAUNCH_SHARED(phases, 1, 96, sizeof(PhaseShared), nullptr, y.at());
  return y.host();
}

struct MeetingShared {
  uint32_t at[2];
};

// The first 64 threads meet, and so do the others.
__global__ void meetings(uint32_t* y) {
  uint32_t& shared = launch_shared_memory<MeetingShared>().at[threadIdx.x / 64];
  for (int round = 0; round < 4; ++round) {
    if (threadIdx.x % 64 == 5u * round) shared = 100 * round + threadIdx.x;
    ptx::meet<64>(1 + threadIdx.x / 64);
    y[128 * round + threadIdx.x] = shared * 128 + threadIdx.x;
    ptx::meet<64>(1 + threadIdx.x / 64);
  }
}

Words of_meetings() {
  const DeviceWords y(4 * 128);
  CCONVNET_LAUNCH_SHARED(meetings, 1, 128, sizeof(MeetingShared), nullptr, y.at());
  return y.host();
}

// One lane of each warp, whichever it is.
__global__ void elections(uint32_t* y) {
  const unsigned elected = __ballot_sync(~0u, ptx::is_elected());
  y[threadIdx.x] = 100 * threadIdx.x + static_cast<uint32_t>(__popc(elected));
}

Words of_elections() {
  const DeviceWords y(96);
  CCONVNET_LAUNCH(elections, 1, 96, nullptr, y.at());
  return y.host();
}

// Two groups take the registers that the third gives, and use many.
__global__ void __launch_bounds__(384, 1) registers(const float* x, float* y) {
  const int t = threadIdx.x;
  if (t >= 256) {
    ptx::give_registers<40>();
    y[t] = x[t];
    return;
  }
  ptx::take_registers<232>();
  float sums[128];
#pragma unroll
  for (int i = 0; i < 128; ++i) sums[i] = x[i * 8 + t % 8];
  for (int round = 0; round < 8; ++round) {
    // Each sum takes part in the next round of another.
    const float first = sums[0];
#pragma unroll
    for (int i = 0; i < 127; ++i) sums[i] = __fadd_rn(__fmul_rn(sums[i + 1], 0.5f), x[round]);
    sums[127] = first;
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 128; ++i) sum = __fadd_rn(sum, sums[i]);
  y[t] = sum;
}

Words of_registers() {
  Words values;
  Draw draw(17);
  for (int i = 0; i < 1024; ++i) values.push_back(bits_of(draw.real()));
  const DeviceWords x(values), y(384);
  CCONVNET_LAUNCH(registers, 1, 384, nullptr, x.at<const float>(), y.at<float>());
  return y.host();
}

// ---- the copy engine ----------------------------------------------------------------------------------------

constexpr int kBoxWords = 8192 / 4;

struct alignas(1024) BoxShared {
  uint32_t at[kBoxWords];
  ptx::Barrier full;
};

struct BoxLoad {
  int bytes, rank;
  int at[4];
  int offset_w, offset_h;
};

__global__ void load_one(CCONVNET_MAP map, BoxLoad load, uint32_t* y) {
  BoxShared& shared = launch_shared_memory<BoxShared>();
  ptx::init_barrier(shared.full, 1);
  ptx::arrive_and_expect(shared.full, load.bytes);
  if (load.rank == 2) ptx::load_box(shared.at, map, shared.full, load.at[0], load.at[1]);
  if (load.rank == 3) ptx::load_box(shared.at, map, shared.full, load.at[0], load.at[1], load.at[2]);
  if (load.rank == 4) {
    ptx::load_windows(shared.at, map, shared.full, load.at[0], load.at[1], load.at[2], load.at[3],
                      load.offset_w, load.offset_h);
  }
  ptx::wait(shared.full, 0);
  for (int i = 0; i < load.bytes / 4; ++i) y[i] = shared.at[i];
}

Words loaded(const TensorMap& map, const BoxLoad& load) {
  const DeviceWords y(load.bytes / 4);
  CCONVNET_LAUNCH_90(load_one, 1, 1, sizeof(BoxShared), nullptr, map, load, y.at());
  return y.host();
}

// Boxes of 16 lines within a matrix of 21 x 72, over each of its edges, and outside.
Words loaded_boxes(Swizzle swizzle) {
  constexpr int W = 72, H = 21;
  const DeviceWords x(Draw(18).words(H * W));
  Words words;
  for (const int element : {2, 4}) {
    const int line = (swizzle == Swizzle::none ? 48 : line_bytes(swizzle)) / element;
    const int width = W * 4 / element;
    const TensorMap map = tiled_map(
        {x.at(), element, 2, {static_cast<uint64_t>(width), H}, {static_cast<uint64_t>(element), W * 4}},
        {line, 16}, swizzle);
    for (const auto& [column, row] : {std::pair{0, 0}, {8, 3}, {width - 8, 18}, {-8, -5}, {3, 7}, {400, 0}}) {
      append(words, loaded(map, {line * 16 * element, 2, {column, row}, 0, 0}));
    }
  }
  return words;
}

// Boxes of 32 filters' channels at one tap, as in conv_wgmma.cu, where the swizzle allows them.
Words loaded_boxes_of_3() {
  constexpr int C = 72, TAPS = 9, K = 40;
  const DeviceWords x(Draw(19).words(C * TAPS * K / 2));
  Words words;
  for (Swizzle swizzle : kSwizzles) {
    const int line = swizzle == Swizzle::none ? 8 : line_bytes(swizzle) / 2;
    const TensorMap map =
        tiled_map({x.at(), 2, 3, {C, TAPS, K}, {2, C * 2, C * TAPS * 2}}, {line, 1, 32}, swizzle);
    for (const int first : {0, 16, 64}) {
      append(words, loaded(map, {line * 32 * 2, 3, {first, 4, first - 8}, 0, 0}));
    }
  }
  return words;
}

// Rows of windows of images {C, W, H, N}: of each tap, from several windows on, beyond the last image.
struct WindowCase {
  int channels, r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

Words loaded_windows(const WindowCase& of) {
  constexpr int W = 9, H = 8, N = 3, PIXELS = 56;
  const int C = 2 * of.channels;
  const DeviceWords x(Draw(20).words(N * H * W * C / 2));
  const Swizzle swizzle = of.channels == 64   ? Swizzle::bytes_128
                          : of.channels == 32 ? Swizzle::bytes_64
                                              : Swizzle::bytes_32;
  const int down = (of.r - 1) * of.dilation_h, right = (of.s - 1) * of.dilation_w;
  const int P = (H + 2 * of.pad_h - down - 1) / of.stride_h + 1;
  const int Q = (W + 2 * of.pad_w - right - 1) / of.stride_w + 1;
  const uint64_t pixel = C * 2;
  const TensorMap map =
      window_map({x.at(), 2, 4, {static_cast<uint64_t>(C), W, H, N}, {2, pixel, pixel * W, pixel * W * H}},
                 {-of.pad_w, -of.pad_h, of.pad_w - right, of.pad_h - down, of.stride_w, of.stride_h,
                  of.channels, PIXELS},
                 swizzle);
  Words words;
  for (const int first : {0, Q + 1, P * Q - 2, 2 * P * Q + 3}) {
    const int q = first % Q, p = first / Q % P, n = first / Q / P;
    for (int tap = 0; tap < of.r * of.s; ++tap) {
      append(words,
             loaded(map, {PIXELS * of.channels * 2,
                          4,
                          {tap % 2 * of.channels, q * of.stride_w - of.pad_w, p * of.stride_h - of.pad_h, n},
                          tap % of.s * of.dilation_w,
                          tap / of.s * of.dilation_h}));
    }
  }
  // An image behind the last gives zeros.
  append(words, loaded(map, {PIXELS * of.channels * 2, 4, {0, -of.pad_w, -of.pad_h, N}, 0, 0}));
  return words;
}

Words loaded_windows_of_all() {
  Words words;
  for (const WindowCase& of : {WindowCase{16, 3, 3, 1, 1, 1, 1, 1, 1},
                               {64, 3, 2, 1, 2, 1, 0, 1, 1},
                               {32, 1, 1, 2, 2, 0, 0, 1, 1},
                               {16, 5, 5, 1, 1, 4, 4, 1, 1},
                               {16, 3, 3, 3, 4, 2, 3, 2, 2},
                               {64, 2, 3, 1, 1, 0, 1, 2, 1}}) {
    append(words, loaded_windows(of));
  }
  return words;
}

struct alignas(1024) StoreShared {
  uint16_t at[2][16 * 64];
};

// Stores three boxes of 16 lines from two buffers, each written anew once it has been read.
__global__ void store_three(CCONVNET_MAP map, int line) {
  StoreShared& shared = launch_shared_memory<StoreShared>();
  for (int box = 0; box < 3; ++box) {
    if (threadIdx.x == 0) ptx::wait_for_stores<1>();
    __syncthreads();
    for (int i = threadIdx.x; i < 16 * line; i += 64) {
      shared.at[box % 2][i] = static_cast<uint16_t>(1024 * (box + 1) + i);
    }
    ptx::meet<64>(1);
    if (threadIdx.x == 0) {
      ptx::store_box(shared.at[box % 2], map, 8 * box - 8, 10 * box - 3);
      ptx::close_store_group();
    }
  }
  if (threadIdx.x == 0) ptx::wait_for_stores<0>();
}

Words stored_boxes(Swizzle swizzle) {
  constexpr int W = 80, H = 30;
  const int line = swizzle == Swizzle::none ? 24 : line_bytes(swizzle) / 2;
  const DeviceWords y(W * H / 2);
  const TensorMap map = tiled_map({y.at(), 2, 2, {W, H}, {2, W * 2}}, {line, 16}, swizzle);
  CCONVNET_LAUNCH_90(store_three, 1, 64, sizeof(StoreShared), nullptr, map, line);
  return y.host();
}

// ---- products -----------------------------------------------------------------------------------------------

template <class T>
struct alignas(1024) ProductShared {
  unsigned char a[64 * 128], b[256 * 128];
};

// C[64, N] += A[64, K] * B[N, K] for K of 64 bytes, where A and B are in lines of LINE bytes along k, or across, behind
// FIRST others. Two groups of products, of which the second is in flight when the first is waited for.
template <class T, int N, bool A_ALONG_K, bool B_ALONG_K, int LINE, int FIRST>
__global__ void multiply(const T* a, const T* b, float* c) {
  constexpr int STEP = 32 / sizeof(T), K = 2 * STEP, ELEMENTS = LINE / sizeof(T);
  constexpr Swizzle SWIZZLE = LINE == 128  ? Swizzle::bytes_128
                              : LINE == 64 ? Swizzle::bytes_64
                              : LINE == 32 ? Swizzle::bytes_32
                                           : Swizzle::none;
  auto& shared = launch_shared_memory<ProductShared<T>>();
  // Where element (row, k) is: lines of neighbours, in pieces of all rows or all k.
  const auto place = [](bool along_k, int rows, int row, int k) {
    const int along = along_k ? k : row, across = along_k ? row : k, lines = (along_k ? rows : K) + FIRST;
    const uint32_t byte = (along / ELEMENTS * lines + FIRST + across) * LINE + along % ELEMENTS * sizeof(T);
    // As Swizzle in tensor_map.h describes it.
    return byte ^ ((byte >> 7 & ((1u << static_cast<int>(SWIZZLE)) - 1)) << 4);
  };
  for (int i = threadIdx.x; i < 64 * K; i += 128) {
    *reinterpret_cast<T*>(shared.a + place(A_ALONG_K, 64, i / K, i % K)) = a[i];
  }
  for (int i = threadIdx.x; i < N * K; i += 128) {
    *reinterpret_cast<T*>(shared.b + place(B_ALONG_K, N, i / K, i % K)) = b[i];
  }
  ptx::meet<128>(1);
  const auto factor = [](const unsigned char* from, bool along_k, int rows) {
    const uint32_t lines = (along_k ? rows : K) + FIRST;
    // Without a swizzle, chunks of 8 lines follow each other; the rest is as far as the next piece.
    const bool crossed = SWIZZLE == Swizzle::none && !along_k;
    return ptx::factor<SWIZZLE>(from + FIRST * LINE, crossed ? lines * LINE : 8 * LINE,
                                crossed ? 8 * LINE : lines * LINE);
  };
  const auto bytes_to = [](bool along_k, int rows, int k) {
    return along_k ? k / ELEMENTS * (rows + FIRST) * LINE + k % ELEMENTS * static_cast<int>(sizeof(T))
                   : k * LINE;
  };
  const auto output = [](int i) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
    return row * N + i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
  };
  const uint64_t left = factor(shared.a, A_ALONG_K, 64), right = factor(shared.b, B_ALONG_K, N);
  float sums[N / 2];
#pragma unroll
  for (int i = 0; i < N / 2; ++i) sums[i] = c[output(i)];
  ptx::start_products(sums);
#pragma unroll
  for (int k = 0; k < K; k += STEP) {
    ptx::start_product<N, T, A_ALONG_K, B_ALONG_K>(sums, ptx::advanced(left, bytes_to(A_ALONG_K, 64, k)),
                                                   ptx::advanced(right, bytes_to(B_ALONG_K, N, k)));
    ptx::close_product_group();
  }
  ptx::wait_for_products<1>(sums);
  ptx::wait_for_products<0>(sums);
#pragma unroll
  for (int i = 0; i < N / 2; ++i) c[output(i)] = sums[i];
}

// Of factors that `value` draws, as floats that T represents.
template <class T, int N, bool A_ALONG_K, bool B_ALONG_K, int LINE, int FIRST, class Value>
Words of_warp_group_products(uint64_t seed, Value value) {
  constexpr int K = 64 / sizeof(T);
  Draw draw(seed);
  const auto drawn = [&](int rows) {
    Words words(rows * K * sizeof(T) / 4);
    for (uint32_t& word : words) {
      word = bits_of(value(draw));
      if (sizeof(T) == 2) word = word >> 16 | (bits_of(value(draw)) & 0xffff0000);
    }
    return words;
  };
  const Words of_a = drawn(64), of_b = drawn(N);
  Words sums(64 * N);
  for (uint32_t& word : sums) word = bits_of(value(draw));
  const DeviceWords a(of_a), b(of_b), c(sums);
  CCONVNET_LAUNCH_90((multiply<T, N, A_ALONG_K, B_ALONG_K, LINE, FIRST>), 1, 128, sizeof(ProductShared<T>),
                     nullptr, a.at<const T>(), b.at<const T>(), c.at<float>());
  return canonical(c.host());
}

template <class T, int N, bool A_ALONG_K, bool B_ALONG_K, int LINE, int FIRST = 0>
Words exact_warp_group_products() {
  return of_warp_group_products<T, N, A_ALONG_K, B_ALONG_K, LINE, FIRST>(
      21, [](Draw& draw) { return static_cast<float>(draw.integer(-255, 255)); });
}

// A line of 16 bytes is one without a swizzle.
template <class T, int LINE>
Words exact_products_along_k() {
  return exact_warp_group_products<T, 64, true, true, LINE>();
}

template <int LINE>
Words exact_products_across_k() {
  Words words = exact_warp_group_products<bfloat16, 64, false, true, LINE>();
  append(words, exact_warp_group_products<bfloat16, 64, true, false, LINE>());
  append(words, exact_warp_group_products<bfloat16, 64, false, false, LINE>());
  return words;
}

// Without a swizzle factors begin at any line.
template <int FIRST>
Words exact_products_behind_lines() {
  Words words = exact_warp_group_products<bfloat16, 64, true, true, 16, FIRST>();
  append(words, exact_warp_group_products<bfloat16, 64, false, false, 16, FIRST>());
  return words;
}

// Every number of columns, with both factors along k and across, in the longest lines that hold whole columns.
Words exact_products_of_all_columns() {
  Words words = exact_warp_group_products<bfloat16, 32, true, true, 128>();
  append(words, exact_warp_group_products<bfloat16, 48, true, false, 32>());
  append(words, exact_warp_group_products<bfloat16, 96, true, true, 32>());
  append(words, exact_warp_group_products<bfloat16, 128, true, true, 128>());
  append(words, exact_warp_group_products<bfloat16, 192, true, true, 128>());
  append(words, exact_warp_group_products<bfloat16, 256, true, true, 128>());
  append(words, exact_warp_group_products<bfloat16, 32, false, false, 64>());
  append(words, exact_warp_group_products<bfloat16, 96, false, false, 64>());
  append(words, exact_warp_group_products<bfloat16, 128, false, false, 128>());
  append(words, exact_warp_group_products<bfloat16, 192, false, false, 128>());
  append(words, exact_warp_group_products<bfloat16, 256, true, false, 128>());
  append(words, exact_warp_group_products<float, 192, true, true, 128>());
  return words;
}

// Sums that are rounded, which measure the bits that a chip keeps.
template <class T>
Words real_warp_group_products() {
  const uint32_t kept = sizeof(T) == 2 ? 0xffff0000 : 0xffffe000;
  return of_warp_group_products<T, 64, true, true, 64, 0>(
      22, [kept](Draw& draw) { return float_of(bits_of(draw.real()) & kept); });
}

}  // namespace
