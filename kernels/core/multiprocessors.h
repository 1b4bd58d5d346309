// The multiprocessors for which kernels launch a block each.
#pragma once

namespace cconvnet {

// Those of later launches, if two such kernels are to run at once; 0: all that the GPU has. No result depends on it.
inline int used_multiprocessors = 0;

}  // namespace cconvnet
