// Checks of shuffles, votes, atomics and shared memory, and of vectors and divisions of indices.
#pragma once

#include "words.cuh"
#include "core/ptx.cuh"
#include "core/vector.cuh"

namespace {

// ---- warps and blocks -------------------------------------------------------------------------------------

__global__ void shuffles(const uint32_t* x, uint32_t* y) {
  const uint32_t value = x[threadIdx.x];
  const int t = threadIdx.x;
  int line = 0;
  const auto write = [&](uint32_t word) { y[line++ * kLanes + t] = word; };
  for (int width = 1; width <= kLanes; width *= 2) {
    for (unsigned delta : {0u, 1u, 2u, 5u, 16u, 31u}) {
      write(__shfl_sync(~0u, value, static_cast<int>(delta), width));
      write(__shfl_up_sync(~0u, value, delta, width));
      write(__shfl_down_sync(~0u, value, delta, width));
      write(__shfl_xor_sync(~0u, value, static_cast<int>(delta), width));
    }
  }
  // Half a warp, and a source that differs from lane to lane.
  if (t < 16) {
    write(__shfl_xor_sync(0xffffu, value, 3));
    write(__shfl_sync(0xffffu, value, static_cast<int>(value & 15)));
  }
}

Words of_shuffles() {
  const DeviceWords x(Draw(12).words(kLanes)), y(size_t{6 * 6 * 4 + 2} * kLanes);
  CCONVNET_LAUNCH(shuffles, 1, kLanes, nullptr, x.at(), y.at());
  return y.host();
}

struct VoteShared {
  uint32_t at[kLanes];
};

__global__ void votes(const uint32_t* x, uint32_t* y) {
  const int t = threadIdx.x, lane = t % kLanes;
  int line = 0;
  const auto write = [&](uint32_t word) { y[line++ * blockDim.x + t] = word; };
  for (int round = 0; round < 8; ++round) {
    const uint32_t value = x[round * blockDim.x + t];
    const bool predicate = value % 8 < static_cast<uint32_t>(round);
    write(__ballot_sync(~0u, predicate));
    write(static_cast<uint32_t>(__any_sync(~0u, predicate) != 0));
    write(static_cast<uint32_t>(__all_sync(~0u, predicate) != 0));
    write(static_cast<uint32_t>(__syncthreads_count(predicate)));
    write(static_cast<uint32_t>(__syncthreads_or(predicate) != 0));
    write(static_cast<uint32_t>(__syncthreads_and(predicate) != 0));
    VoteShared& shared = shared_memory<VoteShared>();
    __syncthreads();
    if (t < kLanes) {
      shared.at[lane] = value;
      __syncwarp();
      write(shared.at[lane ^ 7]);
    }
    __syncthreads();
  }
}

Words of_votes() {
  constexpr int THREADS = 96;
  const DeviceWords x(Draw(13).words(8 * THREADS)), y(8 * 7 * THREADS);
  CCONVNET_LAUNCH(votes, 1, THREADS, nullptr, x.at(), y.at());
  return y.host();
}

// The final value of each word does not depend on the order of threads.
__global__ void atomics(const uint32_t* x, uint32_t* y, unsigned long long* sums) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, place = i % 7;
  const uint32_t value = x[i];
  atomicAdd(&y[place], value);
  atomicMax(&y[7 + place], value);
  atomicMin(&y[14 + place], value);
  atomicAnd(&y[21 + place], value | 0xffff);
  atomicOr(&y[28 + place], value & 0x10101010);
  atomicXor(&y[35 + place], value);
  atomicInc(&y[42 + place], 9);
  atomicMax(reinterpret_cast<int*>(&y[49 + place]), static_cast<int>(value));
  for (uint32_t seen = y[56 + place];;) {
    const uint32_t before = atomicCAS(&y[56 + place], seen, seen * 5);
    if (before == seen) break;
    seen = before;
  }
  y[64 + i] = atomicExch(&y[64 + i], value);
  atomicAdd(&sums[place], 1ull << value % 64);
}

Words of_atomics() {
  constexpr int BLOCKS = 8, THREADS = 64;
  Words start(64 + BLOCKS * THREADS);
  for (size_t i = 0; i < start.size(); ++i) start[i] = static_cast<uint32_t>(i * 2654435761u);
  for (int i = 42; i < 49; ++i) start[i] = 0;
  const DeviceWords x(Draw(14).words(BLOCKS * THREADS)), y(start), sums(Words(14));
  CCONVNET_LAUNCH(atomics, BLOCKS, THREADS, nullptr, x.at(), y.at(), sums.at<unsigned long long>());
  Words words = y.host();
  const Words more = sums.host();
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

// All of the shared memory that a launch may give on every GPU that kernels are written for.
struct alignas(16) WholeRoom {
  uint32_t at[99 * 1024 / sizeof(uint32_t)];
};

__global__ void whole_room(uint32_t* y) {
  WholeRoom& room = launch_shared_memory<WholeRoom>();
  constexpr unsigned COUNT = sizeof room.at / sizeof room.at[0];
  for (unsigned i = threadIdx.x; i < COUNT; i += blockDim.x) room.at[i] = i * 2654435761u + blockIdx.x;
  __syncthreads();
  uint32_t all = 0;
  for (unsigned i = threadIdx.x; i < COUNT; i += blockDim.x) all = all * 31 + room.at[COUNT - 1 - i];
  y[blockIdx.x * blockDim.x + threadIdx.x] = all;
}

Words of_whole_room() {
  constexpr int BLOCKS = 4, THREADS = 256;
  const DeviceWords y(BLOCKS * THREADS);
  CCONVNET_LAUNCH_SHARED(whole_room, BLOCKS, THREADS, sizeof(WholeRoom), nullptr, y.at());
  return y.host();
}

// ---- vectors ----------------------------------------------------------------------------------------------

template <class T, int WIDTH>
__global__ void vectors(const T* x, T* y) {
  const int i = threadIdx.x * WIDTH;
  store(y + i, load<WIDTH>(x + i));
  T* const crooked = y + kLanes * WIDTH;
  store_to<false>(crooked + i, load_from<WIDTH, false>(x + 1 + i));
}

__global__ void words(const uint32_t* x, uint32_t* y) {
  y[threadIdx.x] = __ldg(x + threadIdx.x);
}

template <class T, int WIDTH>
void add_vectors(const DeviceWords& x, Words& results) {
  const DeviceWords y(2 * kLanes * WIDTH * sizeof(T) / sizeof(uint32_t) + 1);
  CCONVNET_LAUNCH((vectors<T, WIDTH>), 1, kLanes, nullptr, x.at<const T>(), y.at<T>());
  const Words found = y.host();
  results.insert(results.end(), found.begin(), found.end());
}

Words of_vectors() {
  Words given = Draw(15).words(kLanes * 8 + 1);
  // bfloat16s that are NaN lose their bits when they are written.
  for (uint32_t& word : given) word &= 0xbfffbfff;
  const DeviceWords x(given), y(kLanes);
  CCONVNET_LAUNCH(words, 1, kLanes, nullptr, x.at(), y.at());
  Words results = y.host();
  add_vectors<float, 1>(x, results);
  add_vectors<float, 2>(x, results);
  add_vectors<float, 4>(x, results);
  add_vectors<float, 8>(x, results);
  add_vectors<bfloat16, 1>(x, results);
  add_vectors<bfloat16, 2>(x, results);
  add_vectors<bfloat16, 4>(x, results);
  add_vectors<bfloat16, 8>(x, results);
  return results;
}

__global__ void divide(int count, Divider divider, uint32_t* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int n = static_cast<int>(static_cast<unsigned>(i) * 2654435761u & 0x7fffffffu);
  int remainder;
  if (i < count) {
    y[2 * i] = static_cast<uint32_t>(divider.divide(n, remainder));
    y[2 * i + 1] = static_cast<uint32_t>(remainder);
  }
}

Words of_divisions() {
  Words results;
  for (int divisor : {1, 2, 3, 7, 25, 48, 121, 1000, 65537, 0x7fffffff}) {
    const DeviceWords y(2 * 1024);
    CCONVNET_LAUNCH(divide, 4, 256, nullptr, 1024, Divider(divisor), y.at());
    const Words found = y.host();
    results.insert(results.end(), found.begin(), found.end());
  }
  return results;
}

}  // namespace
