// The limits of a launch.
#pragma once

#include <string>

#include "../api.h"
#include "../core/launch_options.h"
#include "thread.h"

namespace cconvnet::emulator {

inline std::string triple(unsigned x, unsigned y, unsigned z) {
  return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
}

inline void check_limits(const Site& site, const std::string& kernel, const LaunchOptions& options, dim3 grid,
                         dim3 block, size_t launch_bytes, size_t most_bytes) {
  if (launch_bytes > most_bytes) {
    throw CudaError("launch of " + kernel + " failed at " + site.file + ":" + std::to_string(site.line) +
                    ": cudaErrorInvalidValue, " + std::to_string(launch_bytes) +
                    " bytes of shared memory; allowed are " + std::to_string(most_bytes));
  }
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool ok = grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && block.x >= 1 && block.y >= 1 && block.z >= 1 &&
                  grid.x <= INT32_MAX && grid.y <= 65535 && grid.z <= 65535 && block.x <= 1024 &&
                  block.y <= 1024 && block.z <= 64 && threads <= max_threads;
  if (!ok) {
    throw CudaError("launch of " + kernel + " failed at " + site.file + ":" + std::to_string(site.line) +
                    ": cudaErrorInvalidConfiguration, grid " + triple(grid.x, grid.y, grid.z) + ", block " +
                    triple(block.x, block.y, block.z) +
                    "; allowed are grids from (1,1,1) to (2147483647,65535,65535) of blocks from (1,1,1) to "
                    "(1024,1024,64) with at most 1024 threads");
  }
  if (options.cluster < 1 || options.cluster > max_cluster || grid.x % options.cluster != 0) {
    throw CudaError("launch of " + kernel + " failed at " + site.file + ":" + std::to_string(site.line) +
                    ": cudaErrorInvalidClusterSize, " + std::to_string(grid.x) +
                    " blocks along x in clusters of " + std::to_string(options.cluster) +
                    "; allowed are whole clusters of 1 to " + std::to_string(max_cluster));
  }
}

}  // namespace cconvnet::emulator
