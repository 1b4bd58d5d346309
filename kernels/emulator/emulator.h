// Runs CUDA kernels on the CPU, to find bugs without a GPU. With this header instead of CUDA's, a host
// compiler compiles the same .cu files, and __global__ functions are ordinary C++ functions.
//
// CCONVNET_LAUNCH runs the blocks of the grid one after the other, and those of a cluster together. Within a block,
// each thread is a fiber (fiber.h), a function with a stack of its own. It runs until it waits, at a barrier or a warp
// operation; then the next thread of the block runs. When all that were waited for have arrived, they are released
// (machine.h). Warp operations are computed lane by lane (synchronization.h; for tensor cores core/ptx.cuh).
//
// It finds:
// - a missing barrier: the order of threads and blocks is forward, reverse or random (set_schedule), and a
//   kernel that lacks a barrier gives different results under them;
// - reads of shared memory before it is written: it is filled with NaN (all bits 1) at every block's start;
// - reads of an asynchronous copy's target before the wait, and copies that overwrite data which others still
//   read: until the wait the target contains NaN;
// - the same of the copy engine and of warp groups' products, whose work is done early, late or at random
//   (phases.h, copy_engine.h, wgmma.h);
// - a barrier or warp operation that some threads do not reach: DivergenceError names kernel, block, threads
//   and the line where each waits. Other forbidden things are a KernelError, a bad launch is a CudaError;
// - accesses out of bounds and undefined behaviour, when compiled with -fsanitize=address,undefined: each
//   shared object is its own allocation, and the report names the kernel's line;
// - races, whatever the order, and the cost of each access to memory, in a build of its own (counting.h).
//
// It cannot check the GPU's memory model or speed. Threads run one at a time, and all see every write at
// once. So a missing fence or volatile goes unnoticed. A thread that spins until another writes something
// hangs.
//
// For the compiler: fmaf() is a library call unless the target has the instruction (-mfma); then
// -ffp-contract=off keeps other products and sums from being fused into it.
//
// Only one launch runs at a time; a second OS thread waits for the end of the first one's launch.
#pragma once

#include <cstring>
#include <memory>
#include <type_traits>

#include "copies.h"
#include "device_functions.h"
#include "machine.h"
#include "synchronization.h"
#include "vector_types.h"

// ---- the language ---------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ __inline__ __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define __shared__ static_assert(false, "shared memory comes from shared_memory<T>() in launch.cuh");

[[gnu::used]] inline constexpr const uint3& threadIdx = cconvnet::emulator::machine.thread_index;
[[gnu::used]] inline constexpr const uint3& blockIdx = cconvnet::emulator::machine.block_index;
[[gnu::used]] inline constexpr const dim3& blockDim = cconvnet::emulator::machine.block_dim;
[[gnu::used]] inline constexpr const dim3& gridDim = cconvnet::emulator::machine.grid_dim;
inline constexpr int warpSize = cconvnet::emulator::lanes_per_warp;

// ---- shared memory --------------------------------------------------------------------------------------

namespace cconvnet {
namespace emulator {

// The one object of type T in a block's shared memory; kept from block to block, but filled anew for each.
template <class T>
struct SharedObject {
  struct Free {
    void operator()(void* memory) const { ::operator delete(memory, std::align_val_t{alignof(T)}); }
  };
  std::unique_ptr<void, Free> memory;
  uint64_t block_serial = 0;

  // True for the first of a block's threads.
  bool is_new() const { return block_serial != machine.block_serial(); }

  void begin_block(const char* name) {
    if (!memory) memory.reset(::operator new(sizeof(T), std::align_val_t{alignof(T)}));
    std::memset(memory.get(), 0xff, sizeof(T));
    block_serial = machine.block_serial();
    counting::shared_object(name, memory.get(), sizeof(T));
  }
};

// Of each block of a cluster.
template <class T>
inline SharedObject<T> shared_objects[max_cluster];
template <class T>
inline SharedObject<T> launch_shared_objects[max_cluster];

template <class T>
constexpr bool is_plain = std::is_trivially_default_constructible_v<T> && std::is_trivially_destructible_v<T>;

}  // namespace emulator

template <class T>
T& shared_memory() {
  static_assert(emulator::is_plain<T>, "CUDA runs no constructors or destructors on shared memory");
  static_assert(sizeof(T) <= emulator::max_shared_bytes, "a block has 48 KiB of shared memory");
  const emulator::counting::Paused paused;
  emulator::SharedObject<T>& object = emulator::shared_objects<T>[emulator::machine.cluster_rank()];
  if (object.is_new()) {
    emulator::machine.count_shared(sizeof(T));
    object.begin_block("shared");
  }
  return *static_cast<T*>(object.memory.get());
}

template <class T>
T& launch_shared_memory() {
  static_assert(emulator::is_plain<T>, "CUDA runs no constructors or destructors on shared memory");
  const emulator::counting::Paused paused;
  emulator::SharedObject<T>& object = emulator::launch_shared_objects<T>[emulator::machine.cluster_rank()];
  if (object.is_new()) {
    object.begin_block("launch shared");
    emulator::machine.count_launch_shared(object.memory.get(), sizeof(T));
  }
  return *static_cast<T*>(object.memory.get());
}

// ---- launches -------------------------------------------------------------------------------------------

namespace emulator {

// Sets the schedule of the following launches. The same seed gives the same orders again.
inline void set_schedule(Schedule schedule, uint64_t seed = 0) {
  machine.set_schedule(schedule, seed);
}

// kernel<<<grid, block, shared_bytes>>>, to be called with the kernel's arguments.
template <class... Parameters>
struct Launch {
  static_assert((!std::is_reference_v<Parameters> && ...), "a kernel takes its arguments by value");
  Site site;
  LaunchOptions options;
  dim3 grid, block;
  size_t shared_bytes, most_bytes;
  void (*kernel)(Parameters...);

  void operator()(Parameters... arguments) const {
    auto body = [&]() CCONVNET_EMULATOR_UNCOUNTED { kernel(arguments...); };
    machine.run(
        site, options, grid, block, shared_bytes, most_bytes, reinterpret_cast<const void*>(kernel),
        [](void* b) CCONVNET_EMULATOR_UNCOUNTED { (*static_cast<decltype(body)*>(b))(); }, &body);
  }
};

template <class... Parameters>
Launch<Parameters...> launch(const Site& site, const LaunchOptions& options, dim3 grid, dim3 block,
                             size_t shared_bytes, size_t most_bytes, void* /*stream*/,
                             void (*kernel)(Parameters...)) {
  return {site, options, grid, block, shared_bytes, most_bytes, kernel};
}

}  // namespace emulator
}  // namespace cconvnet

#define CCONVNET_EMULATOR_LAUNCH(options, kernel, grid, block, bytes, most, stream, ...)                   \
  ::cconvnet::emulator::launch({#kernel, __FILE__, __LINE__}, (options), (grid), (block), (bytes), (most), \
                               (stream), kernel)(__VA_ARGS__)
#define CCONVNET_LAUNCH_WITH(options, kernel, grid, block, bytes, stream, ...)                          \
  CCONVNET_EMULATOR_LAUNCH(options, kernel, grid, block, bytes, ::cconvnet::emulator::max_launch_bytes, \
                           (stream), __VA_ARGS__)
#define CCONVNET_LAUNCH_90_WITH(options, kernel, grid, block, bytes, stream, ...)                          \
  CCONVNET_EMULATOR_LAUNCH(options, kernel, grid, block, bytes, ::cconvnet::emulator::max_launch_bytes_90, \
                           (stream), __VA_ARGS__)
#define CCONVNET_LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...) \
  CCONVNET_LAUNCH_WITH(::cconvnet::LaunchOptions{}, kernel, grid, block, bytes, stream, __VA_ARGS__)
#define CCONVNET_LAUNCH_90(kernel, grid, block, bytes, stream, ...) \
  CCONVNET_LAUNCH_90_WITH(::cconvnet::LaunchOptions{}, kernel, grid, block, bytes, stream, __VA_ARGS__)
#define CCONVNET_LAUNCH(kernel, grid, block, stream, ...) \
  CCONVNET_LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)

// ---- the functions of the CUDA runtime that the library calls -------------------------------------------
// There is one memory and nothing is asynchronous.

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
enum cudaMemcpyKind {
  cudaMemcpyHostToHost,
  cudaMemcpyHostToDevice,
  cudaMemcpyDeviceToHost,
  cudaMemcpyDeviceToDevice,
  cudaMemcpyDefault
};

inline const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorInvalidValue";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
inline cudaError_t cudaGetLastError() {
  return cudaSuccess;
}  // a failed launch has thrown

inline cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
  if (bytes == 0) return cudaSuccess;
  if (!target || !source) return cudaErrorInvalidValue;
  std::memmove(target, source, bytes);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyPeerAsync(void* target, int, const void* source, int, size_t bytes,
                                       cudaStream_t stream = nullptr) {
  return cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, stream);
}

inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t = nullptr) {
  if (bytes == 0) return cudaSuccess;
  if (!target) return cudaErrorInvalidValue;
  std::memset(target, value, bytes);
  return cudaSuccess;
}

namespace cconvnet {

inline void check_cuda(cudaError_t status, const char* what, const char* file, int line) {
  if (status == cudaSuccess) return;
  throw CudaError(std::string(what) + " failed at " + file + ":" + std::to_string(line) + ": " +
                  cudaGetErrorName(status) + ", " + cudaGetErrorString(status));
}

}  // namespace cconvnet

#define CCONVNET_CHECK(expression) ::cconvnet::check_cuda((expression), #expression, __FILE__, __LINE__)
