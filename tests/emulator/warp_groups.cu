// The instructions of compute capability 9.0: barriers with phases, the copy engine, products of warp groups.
#include <set>

#include "program.h"
#include "ring.h"
#include "core/copy_engine.cuh"
#include "core/wgmma.cuh"

namespace {

using namespace program;
using namespace cconvnet;

// What a kernel gets wrong, if anything.
enum class Fault {
  none,
  no_wait_for_bytes,
  no_wait_for_readers,
  wrong_phase,
  too_few_bytes,
  too_many_bytes,
  no_arrival,
  second_arrival,
};

template <class Launch>
std::string error_of(Launch launch) {
  try {
    launch();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

template <class Body>
void under_schedules(const std::string& name, Body body) {
  std::vector<int> results;
  for (const auto& [_, schedule] : schedules) {
    emulator::set_schedule(schedule, 3);
    results.push_back(body());
  }
  emulator::set_schedule(Schedule::forward);
  print(name, results);
}

// ---- a ring of stages ---------------------------------------------------------------------------------------

constexpr int kRows = 40, kColumns = 8, kStages = 3;

using RingShared = Ring<float, 32, kStages>;  // a row, and room up to the next boundary

// Warp 0 loads row after row; the two others add them up.
template <Fault FAULT>
__global__ void ring(CCONVNET_MAP map, float* y) {
  RingShared& shared = launch_shared_memory<RingShared>();
  shared.begin(2);
  if (threadIdx.x < 32) {
    if (!ptx::is_elected()) return;
    for (int row = 0; row < kRows; ++row) {
      const int stage = row % kStages, parity = row / kStages % 2;
      if (FAULT != Fault::no_wait_for_readers) {
        ptx::wait(shared.empty[stage], FAULT == Fault::wrong_phase ? parity : parity ^ 1);
      }
      const int more = FAULT == Fault::too_few_bytes ? -16 : FAULT == Fault::too_many_bytes ? 16 : 0;
      ptx::arrive_and_expect(shared.full[stage], kColumns * sizeof(float) + more);  // LINE expects
      ptx::load_box(shared.stage[stage], map, shared.full[stage], 0, row);
    }
    return;
  }
  float sum = 0;
  for (int row = 0; row < kRows; ++row) {
    const int stage = row % kStages;
    if (FAULT != Fault::no_wait_for_bytes) ptx::wait(shared.full[stage], row / kStages % 2);  // LINE full
    sum += shared.stage[stage][threadIdx.x % kColumns];
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
      if (FAULT != Fault::no_arrival || row != 5) ptx::arrive(shared.empty[stage]);
      if (FAULT == Fault::second_arrival) ptx::arrive(shared.empty[stage]);  // LINE second arrival
    }
  }
  y[threadIdx.x - 32] = sum;
}

template <Fault FAULT>
int right_sums() {
  alignas(16) static float x[kRows * kColumns];
  std::vector<float> y(64), expected(64);
  for (int i = 0; i < kRows * kColumns; ++i) x[i] = static_cast<float>(i % 97);
  for (int t = 0; t < 64; ++t) {
    for (int row = 0; row < kRows; ++row) expected[t] += x[row * kColumns + t % kColumns];
  }
  const TensorMap map =
      tiled_map({x, 4, 2, {kColumns, kRows}, {4, kColumns * 4}}, {kColumns, 1}, Swizzle::none);
  CCONVNET_LAUNCH_90((ring<FAULT>), 1, 96, sizeof(RingShared), nullptr, map, y.data());
  int right = 0;
  for (int t = 0; t < 64; ++t) right += y[t] == expected[t];
  return right;
}

// -1 where the emulator reported an error.
template <Fault FAULT>
int right_or_error() {
  int right = -1;
  error_of([&] { right = right_sums<FAULT>(); });
  return right;
}

void rings() {
  under_schedules("ring", right_sums<Fault::none>);
  under_schedules("ring without a wait for bytes", right_or_error<Fault::no_wait_for_bytes>);
  under_schedules("ring without a wait for readers", right_or_error<Fault::no_wait_for_readers>);
  under_schedules("ring with a wrong phase", right_or_error<Fault::wrong_phase>);
  under_schedules("ring that expects too few bytes", right_or_error<Fault::too_few_bytes>);
  under_schedules("ring that expects too many bytes", right_or_error<Fault::too_many_bytes>);
  under_schedules("ring without an arrival", right_or_error<Fault::no_arrival>);
  under_schedules("ring with a second arrival", right_or_error<Fault::second_arrival>);
  std::printf("text of too many bytes: %s\n", error_of(right_sums<Fault::too_many_bytes>).c_str());
  std::printf("text of a second arrival: %s\n", error_of(right_sums<Fault::second_arrival>).c_str());
}

// ---- boxes ----------------------------------------------------------------------------------------------------

constexpr int kBoxBytes = 8192;

struct alignas(1024) BoxShared {
  unsigned char bytes[kBoxBytes];
  ptx::Barrier full;
};

struct BoxLoad {
  int bytes, rank;
  int at[4];
  int offset_w, offset_h;
};

__global__ void load_one(CCONVNET_MAP map, BoxLoad load, uint16_t* y) {
  BoxShared& shared = launch_shared_memory<BoxShared>();
  ptx::init_barrier(shared.full, 1);
  ptx::arrive_and_expect(shared.full, load.bytes);
  if (load.rank == 2) ptx::load_box(shared.bytes, map, shared.full, load.at[0], load.at[1]);
  if (load.rank == 3) ptx::load_box(shared.bytes, map, shared.full, load.at[0], load.at[1], load.at[2]);
  if (load.rank == 4) {
    ptx::load_windows(shared.bytes, map, shared.full, load.at[0], load.at[1], load.at[2], load.at[3],
                      load.offset_w, load.offset_h);
  }
  ptx::wait(shared.full, 0);
  for (int i = 0; i < load.bytes / 2; ++i) y[i] = reinterpret_cast<const uint16_t*>(shared.bytes)[i];
}

// Loads a box, takes the swizzle out by the definition of tensor_map.h, and counts the elements that differ from
// expected(element of a line, line).
template <class Expected>
int wrong_elements(const TensorMap& map, Swizzle swizzle, const BoxLoad& load, int line, Expected expected) {
  std::vector<uint16_t> y(load.bytes / 2);
  CCONVNET_LAUNCH_90(load_one, 1, 1, sizeof(BoxShared), nullptr, map, load, y.data());
  int wrong = 0;
  for (int i = 0; i < load.bytes / 2; ++i) {
    const uint32_t chunk = static_cast<uint32_t>(i * 2 / 16), chunks = line_bytes(swizzle) / 16;
    // Chunk c of line l of 128 bytes is at c XOR l % chunks, within chunks of the swizzle's width.
    const uint32_t place = swizzle == Swizzle::none ? chunk : chunk ^ (chunk / 8 % chunks);
    wrong += y[place * 8 + i % 8] != expected(i % line, i / line);
  }
  return wrong;
}

void boxes() {
  constexpr int W = 72, H = 21;
  alignas(16) static uint16_t x[H * W];
  for (int i = 0; i < H * W; ++i) x[i] = static_cast<uint16_t>(i + 1);
  const auto at = [&](int column, int row) -> int {
    return column >= 0 && column < W && row >= 0 && row < H ? x[row * W + column] : 0;
  };
  for (Swizzle swizzle : {Swizzle::none, Swizzle::bytes_32, Swizzle::bytes_64, Swizzle::bytes_128}) {
    const int line = swizzle == Swizzle::none ? 24 : line_bytes(swizzle) / 2;
    const TensorMap map = tiled_map({x, 2, 2, {W, H}, {2, W * 2}}, {line, 16}, swizzle);
    for (const auto& [column, row] : {std::pair{0, 0}, {8, 3}, {64, 18}, {-8, -5}, {200, 0}}) {
      under_schedules("box " + std::to_string(line) + " at " + std::to_string(column),
                      [&, c = column, r = row] {
                        return wrong_elements(map, swizzle, {line * 16 * 2, 2, {c, r}, 0, 0}, line,
                                              [&](int i, int l) { return at(c + i, r + l); });
                      });
    }
  }
  // Three dimensions, {8, 9, 21} of the same memory.
  const TensorMap cube = tiled_map({x, 2, 3, {8, 9, H}, {2, 16, W * 2}}, {8, 1, 32}, Swizzle::none);
  under_schedules("cube", [&] {
    return wrong_elements(cube, Swizzle::none, {8 * 32 * 2, 3, {0, 4, -2}, 0, 0}, 8,
                          [&](int i, int l) { return at(4 * 8 + i, l - 2); });
  });
}

// Windows of images {16, 7, 6, 3}: filters of 3 x 2, steps of 2 and 1, padding of 1.
void windows() {
  constexpr int C = 16, W = 7, H = 6, N = 3, S = 3, R = 2, PIXELS = 40;
  alignas(16) static uint16_t x[N * H * W * C];
  for (int i = 0; i < N * H * W * C; ++i) x[i] = static_cast<uint16_t>(i + 1);
  constexpr int Q = (W + 2 - S) / 2 + 1, P = (H + 2 - R) + 1;
  const TensorMap map = window_map({x, 2, 4, {C, W, H, N}, {2, C * 2, W * C * 2, H * W * C * 2}},
                                   {-1, -1, 1 - (S - 1), 1 - (R - 1), 2, 1, 16, PIXELS}, Swizzle::bytes_32);
  for (const int first : {0, 1, 5, 30}) {
    for (int tap = 0; tap < R * S; ++tap) {
      const int s = tap % S, r = tap / S;
      under_schedules("windows from " + std::to_string(first) + " tap " + std::to_string(tap), [&] {
        const int q = first % Q, p = first / Q % P, n = first / Q / P;
        return wrong_elements(map, Swizzle::bytes_32, {PIXELS * C * 2, 4, {0, q * 2 - 1, p - 1, n}, s, r}, C,
                              [&](int c, int l) {
                                const int m = first + l, w = m % Q * 2 - 1 + s, h = m / Q % P - 1 + r,
                                          image = m / Q / P;
                                const bool inside = w >= 0 && w < W && h >= 0 && h < H && image < N;
                                return inside ? x[((image * H + h) * W + w) * C + c] : 0;
                              });
      });
    }
  }
}

// ---- stores -----------------------------------------------------------------------------------------------------

struct alignas(1024) StoreShared {
  uint16_t at[2][16 * 8];
};

// Stores three boxes of 16 rows of 8 from two buffers, each written anew once it has been read.
template <bool WAIT>
__global__ void store_three(CCONVNET_MAP map) {
  StoreShared& shared = launch_shared_memory<StoreShared>();
  for (int box = 0; box < 3; ++box) {
    if (threadIdx.x == 0 && WAIT) ptx::wait_for_stores<1>();
    __syncthreads();
    for (int i = threadIdx.x; i < 128; i += 64) shared.at[box % 2][i] = static_cast<uint16_t>(1000 * box + i);
    ptx::meet<64>(1);
    if (threadIdx.x == 0) {
      ptx::store_box(shared.at[box % 2], map, 4 * box, 10 * box);
      ptx::close_store_group();
    }
  }
  if (threadIdx.x == 0) ptx::wait_for_stores<0>();
}

template <bool WAIT>
int wrong_stores() {
  constexpr int W = 16, H = 30;
  alignas(16) static uint16_t y[H * W];
  std::fill_n(y, H * W, uint16_t{7});
  const TensorMap map = tiled_map({y, 2, 2, {W, H}, {2, W * 2}}, {8, 16}, Swizzle::none);
  CCONVNET_LAUNCH_90((store_three<WAIT>), 1, 64, sizeof(StoreShared), nullptr, map);
  std::vector<int> expected(H * W, 7);
  for (int box = 0; box < 3; ++box) {
    for (int i = 0; i < 128; ++i) {
      const int column = 4 * box + i % 8, row = 10 * box + i / 8;
      if (row < H) expected[row * W + column] = 1000 * box + i;
    }
  }
  int wrong = 0;
  for (int i = 0; i < H * W; ++i) wrong += y[i] != expected[i];
  return wrong;
}

__global__ void store_unwaited(CCONVNET_MAP map) {
  ptx::store_box(launch_shared_memory<StoreShared>().at[0], map, 0, 0);
}

void stores() {
  under_schedules("stores", wrong_stores<true>);
  under_schedules("stores without a wait", [] { return static_cast<int>(wrong_stores<false>() > 0); });
  alignas(16) static uint16_t y[256];
  const TensorMap map = tiled_map({y, 2, 2, {8, 32}, {2, 16}}, {8, 16}, Swizzle::none);
  std::printf(
      "text of a store that is not waited for: %s\n",
      error_of([&] { CCONVNET_LAUNCH_90(store_unwaited, 1, 1, sizeof(StoreShared), nullptr, map); }).c_str());
}

// ---- products -----------------------------------------------------------------------------------------------------

enum class ProductFault { none, no_fence, no_wait, used_in_flight, factors_overwritten, other_factors };

template <class T>
struct alignas(1024) ProductShared {
  unsigned char a[128 * 256], b[256 * 256];
};

// C[64, N] += A[64, K] * B[N, K] for K of two products, where A and B are in lines of LINE elements along k, or across.
template <class T, int N, bool A_ALONG_K, bool B_ALONG_K, int LINE, ProductFault FAULT>
__global__ void multiply(const T* a, const T* b, float* c) {
  constexpr int STEP = 32 / sizeof(T), K = 2 * STEP, BYTES = LINE * sizeof(T);
  constexpr Swizzle SWIZZLE = BYTES == 128  ? Swizzle::bytes_128
                              : BYTES == 64 ? Swizzle::bytes_64
                              : BYTES == 32 ? Swizzle::bytes_32
                                            : Swizzle::none;
  auto& shared = launch_shared_memory<ProductShared<T>>();
  // Where element (row, k) is: lines of LINE neighbours, in pieces of all rows or all k.
  const auto place = [](bool along_k, int rows, int row, int k) {
    const int along = along_k ? k : row, across = along_k ? row : k, lines = along_k ? rows : K;
    const uint32_t byte =
        (along / LINE * lines + across) * BYTES + along % LINE * static_cast<int>(sizeof(T));
    return swizzled(SWIZZLE, byte);
  };
  for (int i = threadIdx.x; i < 64 * K; i += 128) {
    std::memcpy(shared.a + place(A_ALONG_K, 64, i / K, i % K), a + i, sizeof(T));
  }
  for (int i = threadIdx.x; i < N * K; i += 128) {
    std::memcpy(shared.b + place(B_ALONG_K, N, i / K, i % K), b + i, sizeof(T));
  }
  ptx::meet<128>(1);
  const auto factor = [&](const unsigned char* from, bool along_k, int rows, int k) {
    const int lines = along_k ? rows : K;
    const int byte = along_k ? k / LINE * lines * BYTES + k % LINE * static_cast<int>(sizeof(T)) : k * BYTES;
    // Without a swizzle, chunks of 8 lines follow each other; the rest is as far as the next piece.
    return ptx::factor<SWIZZLE>(from + byte, SWIZZLE == Swizzle::none && !along_k ? lines * BYTES : 8 * BYTES,
                                SWIZZLE == Swizzle::none && !along_k ? 8 * BYTES : lines * BYTES);
  };
  float sums[N / 2];
  for (int i = 0; i < N / 2; ++i) sums[i] = static_cast<float>(i);
  if (FAULT != ProductFault::no_fence) ptx::start_products(sums);
  for (int k = 0; k < K; k += STEP) {
    uint64_t right = factor(shared.b, B_ALONG_K, N, k);
    if (FAULT == ProductFault::other_factors && threadIdx.x >= 96) right = ptx::advanced(right, 1024);
    ptx::start_product<N, T, A_ALONG_K, B_ALONG_K>(sums, factor(shared.a, A_ALONG_K, 64, k), right);
    if (FAULT == ProductFault::used_in_flight) sums[1] = 1.0f;
  }
  ptx::close_product_group();
  if (FAULT == ProductFault::factors_overwritten) std::memset(shared.b, 0, sizeof(shared.b));
  if (FAULT != ProductFault::no_wait) ptx::wait_for_products<0>(sums);
  for (int i = 0; i < N / 2; ++i) {
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
    c[row * N + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2] = sums[i] - static_cast<float>(i);
  }
  ptx::wait_for_products<0>(sums);
}

template <class T, int N, bool A_ALONG_K, bool B_ALONG_K, int LINE, ProductFault FAULT = ProductFault::none>
int wrong_products() {
  constexpr int K = 64 / sizeof(T);
  std::vector<T> a(64 * K), b(N * K);
  std::vector<float> c(64 * N);
  for (int i = 0; i < 64 * K; ++i) a[i] = from_float<T>(static_cast<float>(i * 7 % 13 - 6));
  for (int i = 0; i < N * K; ++i) b[i] = from_float<T>(static_cast<float>(i * 5 % 11 - 5));
  CCONVNET_LAUNCH_90((multiply<T, N, A_ALONG_K, B_ALONG_K, LINE, FAULT>), 1, 128, sizeof(ProductShared<T>),
                     nullptr, a.data(), b.data(), c.data());
  int wrong = 0;
  for (int i = 0; i < 64; ++i) {
    for (int j = 0; j < N; ++j) {
      float sum = 0;
      for (int k = 0; k < K; ++k) sum += to_float(a[i * K + k]) * to_float(b[j * K + k]);
      wrong += c[i * N + j] != sum;
    }
  }
  return wrong;
}

template <ProductFault FAULT>
void faulty_product(const std::string& name) {
  under_schedules(name, [] {
    int wrong = -1;
    error_of([&] { wrong = wrong_products<bfloat16, 64, true, true, 32, FAULT>() > 0; });
    return wrong;
  });
}

void products() {
  using B = bfloat16;
  under_schedules("products of 64", wrong_products<B, 64, true, true, 32>);
  under_schedules("products of 256", wrong_products<B, 256, true, true, 32>);
  under_schedules("products of 96, lines of 16", wrong_products<B, 96, true, true, 16>);
  under_schedules("products without a swizzle", wrong_products<B, 32, true, true, 8>);
  under_schedules("products across k without a swizzle", wrong_products<B, 32, false, false, 8>);
  under_schedules("products, A across k", wrong_products<B, 128, false, true, 32>);
  under_schedules("products, B across k", wrong_products<B, 192, true, false, 32>);
  under_schedules("products across k, lines of 64", wrong_products<B, 128, false, false, 64>);
  under_schedules("products across k, lines of 16", wrong_products<B, 64, false, false, 16>);
  under_schedules("products of floats", wrong_products<float, 64, true, true, 16>);
  faulty_product<ProductFault::no_fence>("products without a fence");
  faulty_product<ProductFault::no_wait>("products without a wait");
  faulty_product<ProductFault::used_in_flight>("sums used in flight");
  faulty_product<ProductFault::factors_overwritten>("factors overwritten in flight");
  faulty_product<ProductFault::other_factors>("other factors in a warp");
}

// ---- roles ----------------------------------------------------------------------------------------------------------

__global__ void elect(int* y) {
  if (ptx::is_elected()) y[threadIdx.x / 32] += 1;
}

template <int FIRST, int SECOND>
__global__ void registers() {
  if (threadIdx.x < 128) {
    ptx::give_registers<FIRST>();
  } else {
    ptx::take_registers<SECOND>();
  }
}

// The first 64 threads meet, and so do the others.
__global__ void meetings(int* y) {
  int& shared = launch_shared_memory<int[2]>()[threadIdx.x / 64];
  if (threadIdx.x % 64 == 5) shared = 10 + static_cast<int>(threadIdx.x);
  ptx::meet<64>(1 + threadIdx.x / 64);
  y[threadIdx.x] = shared;
}

void roles() {
  under_schedules("elected", [] {
    std::vector<int> y(3);
    CCONVNET_LAUNCH(elect, 1, 96, nullptr, y.data());
    return y[0] == 1 && y[1] == 1 && y[2] == 1;
  });
  under_schedules("meetings", [] {
    std::vector<int> y(128);
    CCONVNET_LAUNCH_SHARED(meetings, 1, 128, 8, nullptr, y.data());
    int right = 0;
    for (int t = 0; t < 128; ++t) right += y[t] == (t < 64 ? 15 : 79);
    return right;
  });
  under_schedules("registers", [] {
    CCONVNET_LAUNCH((registers<40, 232>), 1, 256, nullptr);
    return 1;
  });
  std::printf("text of too many registers: %s\n",
              error_of([] { CCONVNET_LAUNCH((registers<256, 256>), 1, 384, nullptr); }).c_str());
}

// ---- rules of tensor maps ---------------------------------------------------------------------------------------------

void rules() {
  alignas(16) static uint16_t x[4096];
  const auto tiled = [](const void* data, uint64_t stride, std::initializer_list<int> box, Swizzle swizzle) {
    return error_of([&] { tiled_map({data, 2, 2, {64, 8}, {2, stride}}, box, swizzle); });
  };
  const auto row = [](WindowRow windows) {
    return error_of(
        [&] { window_map({x, 2, 4, {16, 7, 6, 3}, {2, 32, 224, 1344}}, windows, Swizzle::bytes_32); });
  };
  std::set<std::string> texts = {tiled(x + 1, 128, {64, 8}, Swizzle::bytes_128),
                                 tiled(x, 120, {64, 8}, Swizzle::bytes_128),
                                 tiled(x, 128, {64, 257}, Swizzle::bytes_128),
                                 tiled(x, 128, {32, 8}, Swizzle::bytes_128),
                                 tiled(x, 128, {12, 8}, Swizzle::none),
                                 tiled(x, 128, {64}, Swizzle::bytes_128),
                                 row({-129, 0, 0, 0, 1, 1, 16, 32}),
                                 row({0, 0, -7, 0, 1, 1, 16, 32}),
                                 row({0, 0, 0, 0, 9, 1, 16, 32}),
                                 row({0, 0, 0, 0, 1, 1, 16, 1025}),
                                 row({0, 0, 0, 0, 1, 1, 272, 32})};
  for (const std::string& text : texts) std::printf("rule: %s\n", text.c_str());
  print("no rule", {static_cast<int>(texts.count("nothing was thrown")),
                    tiled(x, 128, {64, 8}, Swizzle::bytes_128) == "nothing was thrown",
                    row({-1, -1, 0, 0, 2, 1, 16, 1024}) == "nothing was thrown"});
}

}  // namespace

int main(int argc, char** argv) {
  return program::run(argc, argv,
                      {{"rings", rings},
                       {"boxes", boxes},
                       {"windows", windows},
                       {"stores", stores},
                       {"products", products},
                       {"roles", roles},
                       {"rules", rules}});
}
