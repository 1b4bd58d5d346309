// The instructions of ptx.cuh: asynchronous copies, matrix fragments, products of a warp, rounding to tf32.
#include "program.h"
#include "core/ptx.cuh"

namespace {

using namespace program;
namespace ptx = cconvnet::ptx;
using cconvnet::emulator::KernelError;

int bits_of(uint32_t word) {
  return static_cast<int>(word);
}

// ---- asynchronous copies --------------------------------------------------------------------------------

struct alignas(16) CopyShared {
  int values[3][4];
};

// One thread starts three copies in groups of their own, the third of zeros, and looks after each wait.
__global__ void copies(const int* x, int* y) {
  CopyShared& shared = cconvnet::shared_memory<CopyShared>();
  for (int& value : shared.values[0]) value = 7;
  for (int i = 0; i < 3; ++i) {
    ptx::start_copy(shared.values[i], x + 4 * i, i < 2);
    ptx::close_copy_group();
  }
  const auto look = [&] {
    for (const auto& copy : shared.values) {
      for (int value : copy) *y++ = value;
    }
  };
  look();
  ptx::wait_for_copies<3>();
  look();
  ptx::wait_for_copies<2>();
  look();
  ptx::wait_for_copies<0>();
  look();
}

// A copy that belongs to no group yet is not waited for.
__global__ void open_group(const int* x, int* y) {
  CopyShared& shared = cconvnet::shared_memory<CopyShared>();
  ptx::start_copy(shared.values[0], x, true);
  ptx::wait_for_copies<0>();
  y[0] = shared.values[0][0];
  ptx::close_copy_group();
  ptx::wait_for_copies<0>();
  y[1] = shared.values[0][0];
}

void asynchronous_copies() {
  alignas(16) int x[12];
  for (int i = 0; i < 12; ++i) x[i] = 100 + i;
  std::vector<int> y(48), open(2);
  CCONVNET_LAUNCH(copies, 1, 1, nullptr, x, y.data());
  print("copies", y);
  CCONVNET_LAUNCH(open_group, 1, 1, nullptr, x, open.data());
  print("open group", open);
}

// Each thread copies four numbers and passes on its neighbour's: correct only with the wait and the barrier.
struct alignas(16) NeighbourShared {
  int values[64][4];
};

template <bool WAIT, bool BARRIER>
__global__ void neighbours(const int* x, int* y) {
  NeighbourShared& shared = cconvnet::launch_shared_memory<NeighbourShared>();
  const int t = threadIdx.x;
  ptx::start_copy(shared.values[t], x + 4 * t, true);
  ptx::close_copy_group();
  if (WAIT) ptx::wait_for_copies<0>();
  if (BARRIER) __syncthreads();
  for (int i = 0; i < 4; ++i) y[4 * t + i] = shared.values[t ^ 32][i];
}

template <bool WAIT, bool BARRIER>
int right_neighbours() {
  struct alignas(16) Numbers {
    int x[256];
  } numbers;
  std::vector<int> y(256);
  for (int i = 0; i < 256; ++i) numbers.x[i] = i;
  CCONVNET_LAUNCH_SHARED((neighbours<WAIT, BARRIER>), 1, 64, sizeof(NeighbourShared), nullptr, numbers.x,
                         y.data());
  int right = 0;
  for (int i = 0; i < 256; ++i) right += y[i] == (i ^ 128);
  return right;
}

void copies_of_neighbours() {
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 3);
    print(std::string("neighbours ") + name,
          {right_neighbours<true, true>(), right_neighbours<false, true>(), right_neighbours<true, false>()});
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// ---- fragments ------------------------------------------------------------------------------------------

struct alignas(16) MatrixShared {
  uint16_t at[4][8][8];
};

// Element (row, column) of matrix i is 100 * i + 10 * row + column.
__global__ void fragments(int* plain, int* transposed) {
  MatrixShared& shared = cconvnet::shared_memory<MatrixShared>();
  const int t = threadIdx.x;
  for (int i = t; i < 256; i += 32) {
    shared.at[i / 64][i / 8 % 8][i % 8] = static_cast<uint16_t>(100 * (i / 64) + 10 * (i / 8 % 8) + i % 8);
  }
  __syncthreads();
  const uint16_t* const row = shared.at[t / 8][t % 8];
  const ptx::Matrices a = ptx::load_matrices(row), b = ptx::load_matrices_transposed(row);
  for (int i = 0; i < 4; ++i) {
    plain[2 * (4 * t + i)] = a.part[i] & 0xffff;
    plain[2 * (4 * t + i) + 1] = a.part[i] >> 16;
    transposed[2 * (4 * t + i)] = b.part[i] & 0xffff;
    transposed[2 * (4 * t + i) + 1] = b.part[i] >> 16;
  }
}

void matrices() {
  std::vector<int> plain(256), transposed(256);
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 3);
    CCONVNET_LAUNCH(fragments, 1, 32, nullptr, plain.data(), transposed.data());
    print(std::string("plain ") + name, plain);
    print(std::string("transposed ") + name, transposed);
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// ---- products -------------------------------------------------------------------------------------------

// A[16, K] and B[8, K] as laid out in shared memory, C[16, 8].
template <class T>
struct alignas(16) ProductShared {
  static constexpr int K = 32 / sizeof(T);
  T a[16][K], b[8][K];
};

// A whole product: matrices from shared memory, a product of the warp, its result in the rows and columns of
// each lane. With TRANSPOSED, B is [K, 8] in shared memory.
template <class T, bool TRANSPOSED>
__global__ void product(const T* a, const T* b, float* c) {
  using Shared = ProductShared<T>;
  constexpr int K = Shared::K, CHUNK = K / 2;
  Shared& shared = cconvnet::shared_memory<Shared>();
  const int t = threadIdx.x;
  T* const all_b = &shared.b[0][0];
  for (int i = t; i < 16 * K; i += 32) shared.a[i / K][i % K] = a[i];
  for (int i = t; i < 8 * K; i += 32) all_b[TRANSPOSED ? i % K * 8 + i / K : i] = b[i];
  __syncthreads();
  const ptx::Matrices left = ptx::load_matrices(&shared.a[t % 16][t / 16 * CHUNK]);
  // Two matrices are needed, and loaded twice.
  const ptx::Matrices right = TRANSPOSED ? ptx::load_matrices_transposed(all_b + t % 16 * 8)
                                         : ptx::load_matrices(&shared.b[t % 8][t / 8 % 2 * CHUNK]);
  float sums[4] = {1000, 2000, 3000, 4000};
  const ptx::Word factors[2] = {right.part[0], right.part[1]};
  if (sizeof(T) == 2) {
    ptx::multiply_add_bf16(sums, left.part, factors);
  } else {
    ptx::multiply_add_tf32(sums, left.part, factors);
  }
  const int group = t / 4, place = t % 4;
  for (int i = 0; i < 4; ++i) c[(group + i / 2 * 8) * 8 + 2 * place + i % 2] = sums[i];
}

template <class T, bool TRANSPOSED>
void products(const char* type) {
  constexpr int K = ProductShared<T>::K;
  std::vector<T> a(16 * K), b(8 * K);
  std::vector<float> c(128);
  for (int i = 0; i < 16 * K; ++i) a[i] = cconvnet::from_float<T>(static_cast<float>(i * 7 % 13 - 6));
  for (int i = 0; i < 8 * K; ++i) b[i] = cconvnet::from_float<T>(static_cast<float>(i * 5 % 11 - 5));
  for (const auto& [name, schedule] : schedules) {
    cconvnet::emulator::set_schedule(schedule, 3);
    CCONVNET_LAUNCH((product<T, TRANSPOSED>), 1, 32, nullptr, a.data(), b.data(), c.data());
    print(std::string("product ") + type + " " + name, std::vector<int>(c.begin(), c.end()));
  }
  cconvnet::emulator::set_schedule(Schedule::forward);
}

// The effect of the low bits of a tf32 on a product.
__global__ void low_bits(float* y) {
  const ptx::Word a[4] = {0x3f801fff, 0x3f801fff, 0x3f801fff, 0x3f801fff};
  const ptx::Word b[2] = {0x3f802000, 0x3f802000};
  float sums[4] = {};
  ptx::multiply_add_tf32(sums, a, b);
  y[threadIdx.x] = sums[3];
}

void truncation() {
  std::vector<float> y(32);
  CCONVNET_LAUNCH(low_bits, 1, 32, nullptr, y.data());
  int right = 0;
  for (float value : y) right += value == 8 * (1 + 0x1p-10f);
  print("low bits", {right});
}

// ---- conversions ----------------------------------------------------------------------------------------

__global__ void round_to_tf32(const uint32_t* x, int* y) {
  y[threadIdx.x] = bits_of(ptx::to_tf32(x[threadIdx.x]));
}

void rounding() {
  const std::vector<uint32_t> x = {0x3f800fff, 0x3f801000, 0xbf801000, 0x3f802fff, 0x7f7fffff,
                                   0x7f800000, 0xff800001, 0x00000fff, 0x80001000, 0x7fffffff};
  std::vector<int> y(x.size());
  CCONVNET_LAUNCH(round_to_tf32, 1, static_cast<unsigned>(x.size()), nullptr, x.data(), y.data());
  print("rounding", y);
}

// ---- errors ---------------------------------------------------------------------------------------------

__global__ void crooked_copy(const int* x) {
  ptx::start_copy(cconvnet::shared_memory<CopyShared>().values, x, true);
}

__global__ void crooked_row() {
  ptx::load_matrices(cconvnet::shared_memory<MatrixShared>().at[0][0] + 4);
}

__global__ void needs_shared() {
  cconvnet::launch_shared_memory<CopyShared>();
}

template <class Launch>
void report(const char* name, Launch launch) {
  std::string what = "nothing was thrown";
  try {
    launch();
  } catch (const std::runtime_error& error) {
    what = error.what();
  }
  // The last word is a number, as all programs print.
  const bool expected = what.find(name) != std::string::npos;
  print(name, {expected});
}

void errors() {
  alignas(16) const int x[8] = {};
  report("boundary of 16 bytes", [&] { CCONVNET_LAUNCH(crooked_copy, 1, 1, nullptr, x + 1); });
  report("a row is not on a boundary", [] { CCONVNET_LAUNCH(crooked_row, 1, 32, nullptr); });
  report("the launch's shared memory, which has 16",
         [] { CCONVNET_LAUNCH_SHARED(needs_shared, 1, 1, 16, nullptr); });
  report("allowed are 101376", [] { CCONVNET_LAUNCH_SHARED(needs_shared, 1, 1, 101377, nullptr); });
}

}  // namespace

int main(int argc, char** argv) {
  return program::run(argc, argv,
                      {{"copies", asynchronous_copies},
                       {"neighbours", copies_of_neighbours},
                       {"matrices", matrices},
                       {"products",
                        [] {
                          products<cconvnet::bfloat16, false>("bf16");
                          products<cconvnet::bfloat16, true>("bf16 transposed");
                          products<float, false>("tf32");
                        }},
                       {"truncation", truncation},
                       {"rounding", rounding},
                       {"errors", errors}});
}
