// Prints how Hopper's instructions place data, and in which order a ring of stages works, as the emulator runs them:
//
//   swizzle BYTES LINE: POSITION ...     where each chunk of 16 bytes of a line of 128 bytes is, in chunks
//   window TAP LINE: IMAGE H W           the pixel that is copied to a line of a box; -1 where it is padding
//   sums LANE: ROW COLUMN ...            the row and column of C of each of a thread's sums; 64 x 32, a warp group
//   event TIME WHO WHAT STEP             what a warp does with a step: copy, multiply, release
//
// The host compiler builds it for the emulator; gemm_layout.py runs it.
#include <cstdio>
#include <vector>

#include "core/copy_engine.cuh"
#include "core/wgmma.cuh"

namespace cconvnet {
namespace {

void print_swizzles() {
  for (Swizzle swizzle : {Swizzle::bytes_128, Swizzle::bytes_64, Swizzle::bytes_32}) {
    for (uint32_t line = 0; line < 8; ++line) {
      std::printf("swizzle %d %u:", line_bytes(swizzle), line);
      for (uint32_t chunk = 0; chunk < 8; ++chunk) {
        std::printf(" %u", swizzled(swizzle, line * 128 + chunk * 16) / 16);
      }
      std::printf("\n");
    }
  }
}

// ---- windows --------------------------------------------------------------------------------------------

constexpr int kImages = 2, kSide = 4, kLines = 24, kChannels = 8;

struct alignas(1024) WindowShared {
  uint16_t at[kLines][kChannels];
  ptx::Barrier full;
};

__global__ void load_tap(CCONVNET_MAP map, int s, int r, uint16_t* y) {
  WindowShared& shared = launch_shared_memory<WindowShared>();
  ptx::init_barrier(shared.full, 1);
  ptx::arrive_and_expect(shared.full, sizeof(shared.at));
  ptx::load_windows(shared.at, map, shared.full, 0, -1, -1, 0, s, r);
  ptx::wait(shared.full, 0);
  for (int line = 0; line < kLines; ++line) y[line] = shared.at[line][0];
}

// Images of 4 x 4, filters of 3 x 3, padding of 1.
void print_windows() {
  alignas(16) static uint16_t x[kImages * kSide * kSide][kChannels];
  for (int pixel = 0; pixel < kImages * kSide * kSide; ++pixel)
    x[pixel][0] = static_cast<uint16_t>(pixel + 1);
  const uint64_t pixel = kChannels * 2;
  const TensorMap map = window_map(
      {x, 2, 4, {kChannels, kSide, kSide, kImages}, {2, pixel, pixel * kSide, pixel * kSide * kSide}},
      {-1, -1, -1, -1, 1, 1, kChannels, kLines}, Swizzle::none);
  for (int tap = 0; tap < 9; ++tap) {
    uint16_t y[kLines];
    CCONVNET_LAUNCH_90(load_tap, 1, 1, sizeof(WindowShared), nullptr, map, tap % 3, tap / 3, y);
    for (int line = 0; line < kLines; ++line) {
      const int place = int{y[line]} - 1;
      const bool inside = place >= 0;
      std::printf("window %d %d: %d %d %d\n", tap, line, inside ? place / 16 : -1,
                  inside ? place / 4 % 4 : -1, inside ? place % 4 : -1);
    }
  }
}

// ---- sums -----------------------------------------------------------------------------------------------

struct alignas(1024) SumsShared {
  bfloat16 a[64][16], b[32][16];
};

// The product of columns whose only numbers are those of the rows, or of the columns.
__global__ void find_sums(bool of_rows, float* y) {
  SumsShared& shared = launch_shared_memory<SumsShared>();
  const auto fill = [](bfloat16(*matrix)[16], int rows, bool counts) {
    for (int i = threadIdx.x; i < rows * 16; i += 128) {
      const int row = i / 16, k = i % 16;
      const float value = k > 0 ? 0.0f : counts ? static_cast<float>(row) : 1.0f;
      const uint32_t byte = swizzled(Swizzle::bytes_32, static_cast<uint32_t>(i * 2));
      (&matrix[0][0])[byte / 2] = from_float<bfloat16>(value);
    }
  };
  fill(shared.a, 64, of_rows);
  fill(shared.b, 32, !of_rows);
  ptx::meet<128>(1);
  float sums[16] = {};
  ptx::start_products(sums);
  ptx::start_product<32, bfloat16, true, true>(sums, ptx::factor<Swizzle::bytes_32>(shared.a, 256, 0),
                                               ptx::factor<Swizzle::bytes_32>(shared.b, 256, 0));
  ptx::close_product_group();
  ptx::wait_for_products<0>(sums);
  for (int i = 0; i < 16; ++i) y[threadIdx.x * 16 + i] = sums[i];
}

void print_sums() {
  std::vector<float> rows(128 * 16), columns(128 * 16);
  CCONVNET_LAUNCH_90(find_sums, 1, 128, sizeof(SumsShared), nullptr, true, rows.data());
  CCONVNET_LAUNCH_90(find_sums, 1, 128, sizeof(SumsShared), nullptr, false, columns.data());
  for (int thread = 0; thread < 128; ++thread) {
    std::printf("sums %d:", thread);
    for (int i = 0; i < 16; ++i) {
      std::printf(" %d %d", static_cast<int>(rows[thread * 16 + i]),
                  static_cast<int>(columns[thread * 16 + i]));
    }
    std::printf("\n");
  }
}

// ---- a ring ---------------------------------------------------------------------------------------------

constexpr int kStages = 3, kSteps = 9;

struct Event {
  int warp;
  const char* what;
  int step;
};
std::vector<Event> events;

struct alignas(1024) RingShared {
  uint16_t stage[kStages][64];
  ptx::Barrier full[kStages], empty[kStages];
};

__global__ void ring(CCONVNET_MAP map) {
  RingShared& shared = launch_shared_memory<RingShared>();
  const int warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::init_barrier(shared.full[i], 1);
      ptx::init_barrier(shared.empty[i], 2);
    }
  }
  __syncthreads();
  for (int step = 0; step < kSteps; ++step) {
    const int stage = step % kStages, parity = step / kStages % 2;
    if (warp == 0 && threadIdx.x % 32 == 0) {
      ptx::wait(shared.empty[stage], parity ^ 1);
      ptx::arrive_and_expect(shared.full[stage], sizeof(shared.stage[stage]));
      ptx::load_box(shared.stage[stage], map, shared.full[stage], 0, step);
      events.push_back({warp, "copy", step});
    } else if (warp > 0) {
      ptx::wait(shared.full[stage], parity);
      if (threadIdx.x % 32 == 0) events.push_back({warp, "multiply", step});
      // A group of products takes a while: others have their turns.
      for (int i = 0; i < 3 + warp; ++i) __syncwarp();
      if (threadIdx.x % 32 == 0) {
        events.push_back({warp, "release", step});
        ptx::arrive(shared.empty[stage]);
      }
    }
  }
}

void print_ring() {
  alignas(16) static uint16_t x[kSteps][64];
  const TensorMap map = tiled_map({x, 2, 2, {64, kSteps}, {2, 128}}, {64, 1}, Swizzle::none);
  emulator::set_schedule(emulator::Schedule::random, 5);
  CCONVNET_LAUNCH_90(ring, 1, 96, sizeof(RingShared), nullptr, map);
  for (size_t time = 0; time < events.size(); ++time) {
    std::printf("event %zu %d %s %d\n", time, events[time].warp, events[time].what, events[time].step);
  }
}

}  // namespace
}  // namespace cconvnet

int main() {
  cconvnet::print_swizzles();
  cconvnet::print_windows();
  cconvnet::print_sums();
  cconvnet::print_ring();
}
