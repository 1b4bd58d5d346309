// The marker of functions that CUDA kernels and host code share.
#pragma once

#ifdef __CUDACC__
#define CCONVNET_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CCONVNET_HOST_DEVICE inline
#endif
