// Launches with options: clusters of blocks, and kernels that begin before the one ahead of them has ended.
#include "core/cluster.cuh"
#include "core/copy_engine.cuh"
#include "core/dependent.cuh"
#include "program.h"

namespace {

using namespace program;
using namespace cconvnet;

// What a kernel gets wrong, if anything.
enum class Fault {
  none,
  no_first_wait,
  no_last_wait,
  second_arrival,
  wait_alone,
  own_block_alone,
  absent_block,
  no_remote_arrival,
  own_readers_alone,
  no_wait_for_readers,
  half_the_bytes,
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

template <class Launch>
void print_error(const std::string& name, Launch launch) {
  std::printf("%s: %s\n", name.c_str(), error_of(launch).c_str());
}

// Prints how many numbers are right under each schedule, -1 where the emulator reported an error.
template <class Body>
void under_schedules(const std::string& name, Body body) {
  std::vector<int> results;
  for (const auto& [_, schedule] : schedules) {
    emulator::set_schedule(schedule, 3);
    results.push_back(-1);
    error_of([&] { results.back() = body(); });
  }
  emulator::set_schedule(Schedule::forward);
  print(name, results);
}

// ---- clusters -----------------------------------------------------------------------------------------------

constexpr unsigned kCluster = 4, kBlocks = 8, kThreads = 40;  // no whole warps

struct Exchanged {
  Vector<4> given[kThreads], gathered[kCluster];
};

// Each thread reads what the next block wrote, and each block's first thread writes to block 1.
template <Fault FAULT>
__global__ void exchange(float* y) {
  Exchanged& shared = launch_shared_memory<Exchanged>();
  const uint32_t block = ptx::block_of_cluster();
  const int t = static_cast<int>(threadIdx.x);
  for (float& lane : shared.given[t].lane) lane = static_cast<float>(100 * blockIdx.x + t);
  if (FAULT != Fault::no_first_wait) {
    ptx::arrive_at_cluster();
    if (FAULT == Fault::second_arrival) ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
    if (FAULT == Fault::wait_alone) ptx::wait_for_cluster();
  }
  const uint32_t other = FAULT == Fault::absent_block ? block + 1 : (block + 1) % kCluster;
  const Vector<4> theirs = ptx::load_from_block(shared.given[t], other);
  if (t == 0) ptx::store_to_block(shared.gathered[block], 1, theirs);
  if (FAULT != Fault::no_last_wait) {
    ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
  }
  y[blockIdx.x * kThreads + t] = theirs.lane[3];
  if (block == 1 && t < static_cast<int>(kCluster))
    y[blockIdx.x * kThreads + t] += shared.gathered[t].lane[0];
}

template <Fault FAULT>
int right_exchanges() {
  std::vector<float> y(kBlocks * kThreads);
  CCONVNET_LAUNCH_WITH(LaunchOptions{kCluster}, (exchange<FAULT>), kBlocks, kThreads, sizeof(Exchanged),
                       nullptr, y.data());
  int right = 0;
  for (unsigned b = 0; b < kBlocks; ++b) {
    const unsigned first = b / kCluster * kCluster;
    for (unsigned t = 0; t < kThreads; ++t) {
      unsigned expected = 100 * (first + (b + 1) % kCluster) + t;
      if (b % kCluster == 1 && t < kCluster) expected += 100 * (first + (t + 1) % kCluster);
      right += y[b * kThreads + t] == static_cast<float>(expected);
    }
  }
  return right;
}

void exchanges() {
  under_schedules("exchange", right_exchanges<Fault::none>);
  under_schedules("exchange without a first wait", right_exchanges<Fault::no_first_wait>);
  under_schedules("exchange without a last wait", right_exchanges<Fault::no_last_wait>);
  print_error("text of a second arrival", right_exchanges<Fault::second_arrival>);
  print_error("text of a wait alone", right_exchanges<Fault::wait_alone>);
  print_error("text of an absent block", right_exchanges<Fault::absent_block>);
}

// ---- loads to both blocks of a pair -------------------------------------------------------------------------

constexpr int kRows = 20, kColumns = 8, kStages = 3;

struct alignas(128) PairShared {
  float stage[kStages][2][32];  // halves of a row, and room up to the next boundary
  ptx::Barrier full[kStages], empty[kStages];
};

// Of each row both blocks need both halves. Each loads one for both; two warps of each add them up.
template <Fault FAULT>
__global__ void pair(CCONVNET_MAP map, float* y) {
  PairShared& shared = launch_shared_memory<PairShared>();
  const uint32_t block = ptx::block_of_cluster();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::init_barrier(shared.full[i], 1);
      ptx::init_barrier(shared.empty[i], FAULT == Fault::own_readers_alone ? 2 : 4);
    }
  }
  ptx::arrive_at_cluster();
  if (FAULT != Fault::no_first_wait) ptx::wait_for_cluster();
  if (threadIdx.x < 32) {
    if (ptx::is_elected()) {
      for (int row = 0; row < kRows; ++row) {
        const int stage = row % kStages, parity = row / kStages % 2;
        if (FAULT != Fault::no_wait_for_readers) ptx::wait(shared.empty[stage], parity ^ 1);
        const unsigned halves = FAULT == Fault::half_the_bytes ? 1 : 2;
        ptx::arrive_and_expect(shared.full[stage], halves * kColumns * sizeof(float));
        const unsigned mask = FAULT == Fault::own_block_alone ? 1u << block
                              : FAULT == Fault::absent_block  ? 7
                                                              : 3;
        const ptx::Multicast both = {shared.full[stage], static_cast<uint16_t>(mask)};
        ptx::load_box(shared.stage[stage][block], map, both, static_cast<int>(block) * kColumns, row);
      }
    }
  } else {
    float sum = 0;
    for (int row = 0; row < kRows; ++row) {
      const int stage = row % kStages;
      ptx::wait(shared.full[stage], row / kStages % 2);
      sum += shared.stage[stage][threadIdx.x / 8 % 2][threadIdx.x % 8] * static_cast<float>(row % 3);
      __syncwarp();
      if (threadIdx.x % 32 < 2) {
        const uint32_t to = FAULT == Fault::own_readers_alone ? block : threadIdx.x % 32;
        const bool dropped = FAULT == Fault::no_remote_arrival && row == 5 && to != block;
        if (!dropped && (FAULT != Fault::own_readers_alone || threadIdx.x % 32 == 0)) {
          ptx::arrive_in_block(shared.empty[stage], to);
        }
      }
    }
    y[blockIdx.x * 64 + threadIdx.x - 32] = sum;
  }
  if (FAULT != Fault::no_last_wait) {
    if (FAULT != Fault::no_first_wait) ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
  }
}

template <Fault FAULT>
int right_pairs() {
  alignas(16) static float x[kRows * 2 * kColumns];
  std::vector<float> y(4 * 64), expected(64);
  for (int i = 0; i < kRows * 2 * kColumns; ++i) x[i] = static_cast<float>(i % 97);
  for (int t = 0; t < 64; ++t) {
    for (int row = 0; row < kRows; ++row) {
      expected[t] += x[row * 2 * kColumns + t % 16] * static_cast<float>(row % 3);
    }
  }
  const TensorMap map =
      tiled_map({x, 4, 2, {2 * kColumns, kRows}, {4, 2 * kColumns * 4}}, {kColumns, 1}, Swizzle::none);
  CCONVNET_LAUNCH_90_WITH(LaunchOptions{2}, (pair<FAULT>), 4, 96, sizeof(PairShared), nullptr, map, y.data());
  int right = 0;
  for (int i = 0; i < 4 * 64; ++i) right += y[i] == expected[i % 64];
  return right;
}

void pairs() {
  under_schedules("pair", right_pairs<Fault::none>);
  under_schedules("pair without a first wait", right_pairs<Fault::no_first_wait>);
  under_schedules("pair without a last wait", right_pairs<Fault::no_last_wait>);
  under_schedules("pair of blocks alone", right_pairs<Fault::own_block_alone>);
  under_schedules("pair without an arrival in the other block", right_pairs<Fault::no_remote_arrival>);
  under_schedules("pair that waits for its own readers", right_pairs<Fault::own_readers_alone>);
  under_schedules("pair without a wait for readers", right_pairs<Fault::no_wait_for_readers>);
  under_schedules("pair that expects half the bytes", right_pairs<Fault::half_the_bytes>);
  print_error("text of a mask", right_pairs<Fault::absent_block>);
  print_error("text of a deadlock", right_pairs<Fault::no_remote_arrival>);
}

// ---- kernels that overlap with the one ahead ----------------------------------------------------------------

// Threads from `waiting` on do not wait.
__global__ void dependent(unsigned waiting, int* y) {
  ptx::start_kernel_behind();
  if (threadIdx.x < waiting) ptx::wait_for_kernel_ahead();
  y[threadIdx.x] = 1;
}

struct alignas(128) BoxShared {
  float at[32];
  ptx::Barrier full;
};

__global__ void early_load(CCONVNET_MAP map) {
  BoxShared& shared = launch_shared_memory<BoxShared>();
  ptx::init_barrier(shared.full, 1);
  ptx::load_box(shared.at, map, shared.full, 0, 0);  // LINE early load
}

void dependents() {
  int y[64] = {};
  const LaunchOptions overlapping = {1, true};
  CCONVNET_LAUNCH_WITH(overlapping, dependent, 1, 64, 0, nullptr, 64u, y);
  CCONVNET_LAUNCH(dependent, 1, 64, nullptr, 0u, y);
  print("dependent", {y[0] + y[63]});
  print_error("text of no wait",
              [&] { CCONVNET_LAUNCH_WITH(overlapping, dependent, 1, 64, 0, nullptr, 63u, y); });
  alignas(16) static float x[32];
  const TensorMap map = tiled_map({x, 4, 2, {32, 1}, {4, 128}}, {32, 1}, Swizzle::none);
  print_error("text of an early load", [&] {
    CCONVNET_LAUNCH_90_WITH(overlapping, early_load, 1, 1, sizeof(BoxShared), nullptr, map);
  });
}

void sizes() {
  int y[64] = {};
  for (const unsigned cluster : {0u, 2u, 9u}) {
    print_error("text of clusters of " + std::to_string(cluster), [&] {
      const LaunchOptions options = {cluster, false};
      CCONVNET_LAUNCH_WITH(options, dependent, 9, 1, 0, nullptr, 1u, y);
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  return program::run(
      argc, argv, {{"exchanges", exchanges}, {"pairs", pairs}, {"dependents", dependents}, {"sizes", sizes}});
}
