// Launches with options: kernels that begin before the one ahead of them has ended.
#include "core/copy_engine.cuh"
#include "core/dependent.cuh"
#include "program.h"

namespace {

using namespace program;
using namespace cconvnet;

template <class Launch>
void print_error(const std::string& name, Launch launch) {
  std::string text = "nothing was thrown";
  try {
    launch();
  } catch (const std::runtime_error& error) {
    text = error.what();
  }
  std::printf("%s: %s\n", name.c_str(), text.c_str());
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
  return program::run(argc, argv, {{"dependents", dependents}, {"sizes", sizes}});
}
