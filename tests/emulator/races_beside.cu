// Races of threads that barriers of some of a block's threads order, of the copy engine, of the products of warp groups,
// and of the blocks of a cluster. Accesses are on marked lines; a case names the fault that lets them race.
#include "core/cluster.cuh"
#include "core/copy_engine.cuh"
#include "core/wgmma.cuh"
#include "counted.h"
#include "ring.h"

namespace {

using namespace counted;

enum class Fault {
  none,
  no_meeting,
  other_meeting,
  no_arrival,
  no_wait_for_bytes,
  barrier_of_the_block,
  early_arrival,
  no_wait_for_products,
  no_wait_for_stores,
  too_few_groups,
};

constexpr int kSteps = 6, kStages = 2;

// ---- threads ------------------------------------------------------------------------------------------------

struct Values {
  int at[128];
};

template <Fault FAULT>
__global__ void meetings(int* y) {
  int (&values)[128] = launch_shared_memory<Values>().at;
  values[threadIdx.x] = static_cast<int>(threadIdx.x);  // LINE written
  const int half = static_cast<int>(threadIdx.x) / 64;
  if (FAULT == Fault::other_meeting) {
    ptx::meet<64>(1 + threadIdx.x / 32 % 2);  // two warps of different halves
  } else if (FAULT != Fault::no_meeting) {
    ptx::meet<64>(1 + half);
  }
  y[threadIdx.x] = values[half * 64 + (threadIdx.x + 40) % 64];  // LINE read
}

struct Message {
  int at[32];
  ptx::Barrier sent;
};

// Warp 0 writes, and one of its lanes arrives for all of them.
template <Fault FAULT>
__global__ void messages(int* y) {
  Message& message = launch_shared_memory<Message>();
  if (threadIdx.x == 0) ptx::init_barrier(message.sent, 1);
  __syncthreads();
  if (threadIdx.x < 32) {
    if (FAULT == Fault::early_arrival && threadIdx.x == 0) ptx::arrive(message.sent);
    message.at[threadIdx.x] = 5;  // LINE sent
    __syncwarp();
    if (FAULT != Fault::early_arrival && threadIdx.x == 0) ptx::arrive(message.sent);
  } else {
    if (FAULT != Fault::no_arrival) ptx::wait(message.sent, 0);
    y[threadIdx.x] = message.at[31 - threadIdx.x % 32];  // LINE received
  }
}

// ---- copies -------------------------------------------------------------------------------------------------

using RingShared = Ring<float, 32, kStages>;

// A lane of warp 0 loads rows of 32; two warps read them.
template <Fault FAULT>
__global__ void ring(CCONVNET_MAP map, float* y) {
  RingShared& shared = launch_shared_memory<RingShared>();
  shared.begin(2);
  if (threadIdx.x < 32) {
    if (!ptx::is_elected()) return;
    for (int step = 0; step < kSteps; ++step) {
      const int stage = step % kStages;
      ptx::wait(shared.empty[stage], step / kStages % 2 ^ 1);
      ptx::arrive_and_expect(shared.full[stage], 128);
      ptx::load_box(shared.stage[stage], map, shared.full[stage], 0, step);  // LINE loaded
    }
    return;
  }
  float sum = 0;
  for (int step = 0; step < kSteps; ++step) {
    const int stage = step % kStages;
    if (FAULT != Fault::no_wait_for_bytes) ptx::wait(shared.full[stage], step / kStages % 2);
    if (FAULT == Fault::early_arrival && threadIdx.x % 32 == 0) ptx::arrive(shared.empty[stage]);
    sum += shared.stage[stage][threadIdx.x % 32];  // LINE summed
    __syncwarp();
    if (FAULT != Fault::early_arrival && threadIdx.x % 32 == 0) ptx::arrive(shared.empty[stage]);
  }
  y[threadIdx.x] = sum;
}

// A barrier of the block does not wait for a copy.
template <Fault FAULT>
__global__ void one_load(CCONVNET_MAP map, float* y) {
  RingShared& shared = launch_shared_memory<RingShared>();
  if (threadIdx.x == 0) {
    ptx::init_barrier(shared.full[0], 1);
    ptx::arrive_and_expect(shared.full[0], 128);
    ptx::load_box(shared.stage[0], map, shared.full[0], 0, 0);  // LINE one loaded
    if (FAULT != Fault::barrier_of_the_block) ptx::wait(shared.full[0], 0);
  }
  __syncthreads();
  y[threadIdx.x] = shared.stage[0][threadIdx.x % 32];  // LINE one read
}

// ---- stores -------------------------------------------------------------------------------------------------

struct alignas(128) StoreShared {
  float at[2][32];
};

template <Fault FAULT>
__global__ void stores(CCONVNET_MAP map) {
  StoreShared& shared = launch_shared_memory<StoreShared>();
  for (int step = 0; step < kSteps; ++step) {
    if (threadIdx.x == 0 && FAULT != Fault::no_wait_for_stores) {
      if (FAULT == Fault::too_few_groups) {
        ptx::wait_for_stores<2>();
      } else {
        ptx::wait_for_stores<1>();
      }
    }
    ptx::meet<64>(1);
    if (threadIdx.x < 32) shared.at[step % 2][threadIdx.x] = 1.0f;  // LINE filled
    ptx::meet<64>(1);
    if (threadIdx.x == 0) {
      ptx::store_box(shared.at[step % 2], map, 0, step);  // LINE stored
      ptx::close_store_group();
    }
  }
  if (threadIdx.x == 0) ptx::wait_for_stores<0>();
}

// ---- products -----------------------------------------------------------------------------------------------

using ProductShared = Ring<bfloat16, 64 * 16, kStages, 1024>;

// Four warps multiply a matrix by its first 32 rows, while a lane of the fifth loads the next.
template <Fault FAULT>
__global__ void products(CCONVNET_MAP map, float* y) {
  ProductShared& shared = launch_shared_memory<ProductShared>();
  shared.begin(4);
  if (threadIdx.x >= 128) {
    if (!ptx::is_elected()) return;
    for (int step = 0; step < kSteps; ++step) {
      const int stage = step % kStages;
      ptx::wait(shared.empty[stage], step / kStages % 2 ^ 1);
      ptx::arrive_and_expect(shared.full[stage], sizeof(shared.stage[stage]));
      ptx::load_box(shared.stage[stage], map, shared.full[stage], 0, 64 * step);  // LINE factors loaded
    }
    return;
  }
  float sums[16] = {};
  for (int step = 0; step < kSteps; ++step) {
    const int stage = step % kStages;
    if (FAULT != Fault::no_wait_for_bytes) ptx::wait(shared.full[stage], step / kStages % 2);
    ptx::start_products(sums);
    const uint64_t factor = ptx::factor<Swizzle::bytes_32>(shared.stage[stage], 256, 0);
    ptx::start_product<32, bfloat16, true, true>(sums, factor, factor);  // LINE multiplied
    ptx::close_product_group();
    if (FAULT == Fault::no_wait_for_products) {
      ptx::wait_for_products<1>(sums);
    } else {
      ptx::wait_for_products<0>(sums);
    }
    if (threadIdx.x % 32 == 0) ptx::arrive(shared.empty[stage]);
  }
  ptx::wait_for_products<0>(sums);
  y[threadIdx.x] = sums[0];
}

// ---- clusters -----------------------------------------------------------------------------------------------

struct Gifts {
  Vector<4> at[64];
};

// Each thread reads what one of the other block wrote.
template <Fault FAULT>
__global__ void gifts(float* y) {
  Gifts& shared = launch_shared_memory<Gifts>();
  for (float& lane : shared.at[threadIdx.x].lane) lane = 1.0f;  // LINE given
  if (FAULT == Fault::barrier_of_the_block) {
    __syncthreads();
  } else {
    ptx::arrive_at_cluster();
    ptx::wait_for_cluster();
  }
  const Vector<4> gift = ptx::load_from_block(shared.at[63 - threadIdx.x], blockIdx.x ^ 1);  // LINE taken
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
  y[blockIdx.x * 64 + threadIdx.x] = gift.lane[0];
}

// Both blocks of a pair need all rows. Block b loads every other row for both.
template <Fault FAULT>
__global__ void pair(CCONVNET_MAP map, float* y) {
  RingShared& shared = launch_shared_memory<RingShared>();
  shared.begin(4);
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
  float sum = 0;
  if (threadIdx.x < 32) {
    const int steps = ptx::is_elected() ? kSteps : 0;
    for (int step = 0; step < steps; ++step) {
      const int stage = step % kStages;
      ptx::wait(shared.empty[stage], step / kStages % 2 ^ 1);
      ptx::arrive_and_expect(shared.full[stage], 128);
      const ptx::Multicast both = {shared.full[stage], 3};
      if (step % 2 == static_cast<int>(blockIdx.x)) {
        ptx::load_box(shared.stage[stage], map, both, 0, step);  // LINE loaded for both
      }
    }
  } else {
    for (int step = 0; step < kSteps; ++step) {
      const int stage = step % kStages;
      ptx::wait(shared.full[stage], step / kStages % 2);
      const bool early = FAULT == Fault::early_arrival && blockIdx.x == 1;
      if (early && threadIdx.x % 32 < 2) ptx::arrive_in_block(shared.empty[stage], threadIdx.x % 32);
      sum += shared.stage[stage][threadIdx.x % 32];  // LINE summed in both
      __syncwarp();
      if (!early && threadIdx.x % 32 < 2) ptx::arrive_in_block(shared.empty[stage], threadIdx.x % 32);
    }
    y[blockIdx.x * 96 + threadIdx.x] = sum;
  }
  ptx::arrive_at_cluster();
  ptx::wait_for_cluster();
}

}  // namespace

int main() {
  auto* const y = array<float>(256);
  auto* const z = reinterpret_cast<int*>(y);
  auto* const x = array<float>(64 * 16 * kSteps);
  const TensorMap rows = tiled_map({x, 4, 2, {32, kSteps}, {4, 128}}, {32, 1}, Swizzle::none);
  const TensorMap factors = tiled_map({x, 2, 2, {16, 64 * kSteps}, {2, 32}}, {16, 64}, Swizzle::bytes_32);
  const LaunchOptions alone = {}, paired = {2};
#define CASE(name, kernel, fault, threads, shared, ...) \
  CASE_WITH(alone, name, kernel, fault, threads, shared, __VA_ARGS__)
#define CASE_WITH(options, name, kernel, fault, threads, shared, ...)                                  \
  record(name, [&] {                                                                                   \
    CCONVNET_LAUNCH_90_WITH(options, (kernel<Fault::fault>), options.cluster, threads, sizeof(shared), \
                            nullptr, __VA_ARGS__);                                                     \
  });
  CASE("meetings", meetings, none, 128, Values, z)
  CASE("meetings: none", meetings, no_meeting, 128, Values, z)
  CASE("meetings: of others", meetings, other_meeting, 128, Values, z)
  CASE("messages", messages, none, 64, Message, z)
  CASE("messages: not awaited", messages, no_arrival, 64, Message, z)
  CASE("messages: early arrival", messages, early_arrival, 64, Message, z)
  CASE("ring", ring, none, 96, RingShared, rows, y)
  CASE("ring: no wait for bytes", ring, no_wait_for_bytes, 96, RingShared, rows, y)
  CASE("ring: early arrival", ring, early_arrival, 96, RingShared, rows, y)
  CASE("one load", one_load, none, 64, RingShared, rows, y)
  CASE("one load: barrier of the block", one_load, barrier_of_the_block, 64, RingShared, rows, y)
  CASE("stores", stores, none, 64, StoreShared, rows)
  CASE("stores: no wait", stores, no_wait_for_stores, 64, StoreShared, rows)
  CASE("stores: too few groups", stores, too_few_groups, 64, StoreShared, rows)
  CASE("products", products, none, 160, ProductShared, factors, y)
  CASE("products: no wait for bytes", products, no_wait_for_bytes, 160, ProductShared, factors, y)
  CASE("products: released in flight", products, no_wait_for_products, 160, ProductShared, factors, y)
  CASE_WITH(paired, "gifts", gifts, none, 64, Gifts, y)
  CASE_WITH(paired, "gifts: barrier of the block", gifts, barrier_of_the_block, 64, Gifts, y)
  CASE_WITH(paired, "pair", pair, none, 96, RingShared, rows, y)
  CASE_WITH(paired, "pair: early arrival", pair, early_arrival, 96, RingShared, rows, y)
}
