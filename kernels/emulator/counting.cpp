// Counts memory accesses and finds races for the emulator; counting.h explains how. It is compiled without
// instrumentation, and defines the functions that instrumented code calls (of ThreadSanitizer's run time,
// whose names GCC and Clang share).
//
// Threads of a block run one after the other from barrier to barrier, so each thread has a list of its
// accesses. At a barrier the lists of a warp's lanes are put side by side: the n-th accesses of all lanes by the
// same instruction are one request.
#include "counting.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "counter.h"

namespace cconvnet::emulator::counting {

State state;

namespace {

std::unique_ptr<Counter> counter;

bool is_counted(uintptr_t address) {
  return address - reinterpret_cast<uintptr_t>(state.stack) >= state.stack_bytes &&
         !counter->image.contains(address);
}

void accessed(const void* pointer, size_t bytes, Kind kind, void* caller) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!is_counted(address)) return;
  counter->access(address, bytes, kind, caller, kind == Kind::load ? Role::read : Role::write);
}

}  // namespace

void start(const Options& options) {
  counter = std::make_unique<Counter>(options);
  state.recording = true;
}

std::vector<Launch> stop() {
  state.recording = false;
  std::vector<Launch> launches;
  if (counter) launches = std::move(counter->launches);
  counter.reset();
  return launches;
}

void name_array(const char* name, const void* data) {
  if (data) named_arrays.push_back({name, reinterpret_cast<uintptr_t>(data)});
}

void forget_arrays() {
  named_arrays.clear();
}

void begin_launch(const std::string& name, const char* file, int line, const void* kernel, dim3 grid,
                  dim3 block, size_t launch_bytes) {
  if (!state.recording) return;
  Launch launch{};
  launch.kernel = reinterpret_cast<uintptr_t>(kernel) - counter->image.base;
  launch.name = name;
  launch.file = file;
  launch.line = line;
  launch.grid = grid;
  launch.block = block;
  launch.launch_bytes = launch_bytes;
  counter->begin_launch(std::move(launch));
}

void end_launch() {
  if (state.recording) counter->end_launch();
}

uint64_t blocks_to_run(uint64_t count) {
  return state.recording ? std::min(count, counter->options.blocks) : count;
}

void begin_block(uint64_t number, int threads, int blocks) {
  if (state.recording) counter->begin_block(number, threads, blocks);
}

void end_block() {
  if (state.recording) counter->end_block();
}

bool passed_barrier(const char* operation, const char* file, int line, int block) {
  return state.recording && counter->pass_barrier(operation, file, line, block);
}

void warp_operation(const char* operation, const char* file, int line) {
  if (state.recording) counter->count_operation(operation, file, line);
}

void thread_operation(const char* operation, const char* file, int line) {
  if (state.recording) counter->count_thread_operation(operation, file, line);
}

void joined(unsigned lanes) {
  if (state.recording) counter->join(lanes);
}

void shared_object(const char* name, const void* memory, size_t bytes) {
  if (state.recording) counter->add_shared(name, memory, bytes);
}

void matrix_row(const void* row, void* caller) {
  if (state.recording) {
    counter->access(reinterpret_cast<uintptr_t>(row), 16, Kind::matrix, caller, Role::read);
  }
}

void copy_started(void* target, const void* source, size_t bytes, void* caller) {
  if (!state.recording) return;
  if (source) counter->access(reinterpret_cast<uintptr_t>(source), bytes, Kind::copy, caller, Role::read);
  counter->access(reinterpret_cast<uintptr_t>(target), bytes, Kind::copy, caller, Role::copy);
}

void copy_done(void* target, size_t bytes) {
  if (state.recording) counter->finish_copy(reinterpret_cast<uintptr_t>(target), bytes);
}

void barrier_arrived(const void* barrier) {
  if (finds_races()) counter->order().arrive(state.thread, barrier);
}

void barrier_phase_ended(const void* barrier) {
  if (finds_races()) counter->order().end_phase(barrier);
}

void barrier_awaited(const void* barrier) {
  if (finds_races()) counter->order().pass(state.thread, barrier);
}

void load_started(void* target, size_t bytes, const void* barrier, void* caller) {
  if (!finds_races()) return;
  Order& order = counter->order();
  const auto stamp = [&](uint32_t site) { return order.load_stamp(state.thread, barrier, site); };
  const auto before = [&](const Stamp& earlier) { return order.before(earlier, state.thread); };
  counter->access_beside(target, bytes, Kind::copy, caller, stamp, before);
}

void store_started(const void* source, size_t bytes, unsigned group, void* caller) {
  if (!finds_races()) return;
  Order& order = counter->order();
  const auto stamp = [&](uint32_t site) { return order.store_stamp(state.thread, group, site); };
  const auto before = [&](const Stamp& earlier) { return order.before(earlier, state.thread); };
  counter->access_beside(source, bytes, Kind::load, caller, stamp, before);
}

void stores_done(unsigned groups) {
  if (finds_races()) counter->order().end_stores(state.thread, groups);
}

bool finds_races() {
  return state.recording && counter->options.races;
}

void factor_read(const void* chunk, unsigned group, void* caller) {
  Order& order = counter->order();
  const int warp = state.thread / 32;
  const auto stamp = [&](uint32_t site) { return order.product_stamp(warp, group, site); };
  const auto before = [&](const Stamp& earlier) { return order.before_warp(earlier, warp); };
  counter->access_beside(chunk, 16, Kind::matrix, caller, stamp, before);
}

void products_done(unsigned groups) {
  if (finds_races()) counter->order().end_products(state.thread / 32, groups);
}

void box_moved(Kind kind, const std::vector<BoxLine>& lines, size_t bytes, void* caller) {
  if (state.recording) counter->move_box(kind, lines, bytes, caller);
}

void box_came(size_t bytes, void* caller) {
  if (state.recording) counter->pass_banks(Kind::box_load, bytes, caller);
}

void remote_access(const void* address, size_t bytes, bool writes, void* caller) {
  if (!state.recording) return;
  counter->access(reinterpret_cast<uintptr_t>(address), bytes, writes ? Kind::store : Kind::load, caller,
                  writes ? Role::write : Role::read);
}

void factors_read(size_t bytes, void* caller) {
  if (state.recording) counter->pass_banks(Kind::factor, bytes, caller);
}

bool samples() {
  return state.recording && counter->options.blocks != UINT64_MAX;
}

void atomic(const void* pointer, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!state.recording || !is_counted(address)) return;
  counter->access(address, bytes, Kind::atomic, __builtin_return_address(0), Role::atomic);
}

// ---- what instrumented code calls -----------------------------------------------------------------------

#define CCONVNET_ACCESS(function, kind, bytes)                                             \
  void function(void* address) {                                                           \
    if (state.counting) accessed(address, bytes, Kind::kind, __builtin_return_address(0)); \
  }
#define CCONVNET_ACCESSES(bytes)                             \
  CCONVNET_ACCESS(__tsan_read##bytes, load, bytes)           \
  CCONVNET_ACCESS(__tsan_write##bytes, store, bytes)         \
  CCONVNET_ACCESS(__tsan_unaligned_read##bytes, load, bytes) \
  CCONVNET_ACCESS(__tsan_unaligned_write##bytes, store, bytes)

extern "C" {
CCONVNET_ACCESSES(1)
CCONVNET_ACCESSES(2)
CCONVNET_ACCESSES(4)
CCONVNET_ACCESSES(8)
CCONVNET_ACCESSES(16)

void __tsan_read_range(void* address, size_t bytes) {
  if (state.counting) accessed(address, bytes, Kind::load, __builtin_return_address(0));
}

void __tsan_write_range(void* address, size_t bytes) {
  if (state.counting) accessed(address, bytes, Kind::store, __builtin_return_address(0));
}

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

// Guards of the host code's static variables.
uint8_t __tsan_atomic8_load(const volatile uint8_t* address, int /*order*/) {
  return __atomic_load_n(address, __ATOMIC_ACQUIRE);
}
}

}  // namespace cconvnet::emulator::counting
