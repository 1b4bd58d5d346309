// What a launch may ask for beside its grid, its blocks and their shared memory. GPUs from compute capability 9.0 on.
#pragma once

namespace cconvnet {

struct LaunchOptions {
  unsigned cluster =
      1;  // blocks of a cluster, neighbours along x, of which the grid has whole ones; at most 8
  // The kernel may begin before the one ahead of it in the stream has ended: dependent.cuh.
  bool programmatic = false;
};

}  // namespace cconvnet
