// Hooks of the emulator for a build that counts memory accesses and finds races (counting.cpp). In every
// other build they are empty.
//
// The counting build compiles kernels with -fsanitize=thread, and counting.cpp takes the place of the
// sanitizer's library. So the compiler itself announces each access to memory with its address, and the
// return address of the announcement names the source line, with the chain of inlined functions. A load or
// store of a Vector is one access, since -fno-tree-sra keeps the compiler from taking it apart.
//
// Counted is what a kernel does: its accesses to shared memory, and those to global memory, which is all but
// its stack and the module's own constants. What the emulator does for it is not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "vector_types.h"

namespace cconvnet::emulator::counting {

#ifdef CCONVNET_COUNTING

// Marks a function whose own accesses are not counted.
#define CCONVNET_EMULATOR_UNCOUNTED __attribute__((no_sanitize("thread")))

// ---- the record -----------------------------------------------------------------------------------------

// A box is moved by the copy engine, a factor is read by the products of a warp group.
enum class Kind : uint8_t { load, store, atomic, copy, matrix, box_load, box_store, factor };
enum class Space : uint8_t { global, shared };

// An instruction that accesses memory. `offset` is its address in the file of the program or module.
struct Instruction {
  uint64_t offset;
  Kind kind;
  Space space;
  unsigned bytes;  // of each lane
};

// The requests of warps by one instruction into one array. Of global memory: 32-byte sectors, and the fewest
// that hold the bytes; sectors that a first-level cache of the block's own would miss. Of shared memory:
// wavefronts, and the number without conflicts of banks.
struct Access {
  Instruction instruction;
  std::string array;  // the argument's name, if known
  uint64_t requests, lanes;
  uint64_t sectors, least_sectors, misses;
  uint64_t wavefronts, least_wavefronts;
};

// A barrier, an operation of whole warps or a wait of some threads, and how many warps executed it.
struct Operation {
  std::string name, file;
  int line;
  uint64_t warps;
};

struct RacingAccess {
  Instruction instruction;
  uint64_t block;  // its number in the grid, x fastest
  int thread;      // its number in the block, x fastest
};

// Two accesses to a byte without a barrier between them, at least one of them a write.
struct Race {
  RacingAccess first, second;
  std::string array;     // the argument's name, if known; "shared" or "launch shared"
  uint64_t position;     // of the byte in the array
  uint64_t occurrences;  // of the same two instructions in the launch
};

struct Launch {
  uint64_t kernel;  // offset of the function
  std::string name, file;
  int line;
  dim3 grid, block;
  uint64_t shared_bytes, launch_bytes;  // of a block: its own objects; given by the launch
  uint64_t blocks_run;
  double busiest;       // the events of the busiest of these blocks over their average
  uint64_t barriers;    // of the blocks run
  uint64_t cut_blocks;  // blocks that were ended at the limit of barriers
  std::vector<Access> accesses;
  std::vector<Operation> operations;
  std::vector<Race> races;
};

struct Options {
  uint64_t blocks = UINT64_MAX;    // to run of each launch, evenly spread over the grid
  uint64_t barriers = UINT64_MAX;  // after which a block is ended
  bool races = true;
  uint64_t cache_bytes = 128 * 1024;  // of the first-level cache
};

// Begins a record of the following launches.
void start(const Options& options);
// Ends it and returns it.
std::vector<Launch> stop();

// Names an array of the next launches from this OS thread. Its first byte is taken for one on a boundary of
// 256 bytes, as a GPU's allocator gives, if it is on one of 16.
void name_array(const char* name, const void* data);
void forget_arrays();

// ---- hooks ----------------------------------------------------------------------------------------------

struct State {
  bool recording = false;  // between start() and stop()
  bool counting = false;   // while a kernel's own code runs
  int thread = 0;
  const char* stack = nullptr;  // of the running thread
  size_t stack_bytes = 0;
  bool* early = nullptr;  // set by the next access to global memory, if not null
};
extern State state;

// The compiler may not move accesses across it.
inline void count(bool counting) {
  asm volatile("" ::: "memory");
  state.counting = counting;
  asm volatile("" ::: "memory");
}

// Within it nothing is counted.
class Paused {
 public:
  Paused() : before_(state.counting) { count(false); }
  ~Paused() { count(before_); }
  Paused(const Paused&) = delete;
  Paused& operator=(const Paused&) = delete;

 private:
  bool before_;
};

// Counts the accesses of a kernel's function that is called within it.
class Counted {
 public:
  Counted() { count(state.recording); }
  ~Counted() { count(false); }
};

inline void running(int thread, const char* stack, size_t stack_bytes) {
  state.thread = thread;
  state.stack = stack;
  state.stack_bytes = stack_bytes;
}
inline void set_early(bool* early) {
  state.early = early;
}

void begin_launch(const std::string& name, const char* file, int line, const void* kernel, dim3 grid,
                  dim3 block, size_t launch_bytes);
void end_launch();
uint64_t blocks_to_run(uint64_t count);
// The blocks of a cluster, from this number on, with room for so many threads each.
void begin_block(uint64_t number, int threads, int blocks);
void end_block();
// By all threads of a block of the cluster. Returns true if the cluster is to be ended here.
bool passed_barrier(const char* operation, const char* file, int line, int block);
void warp_operation(const char* operation, const char* file, int line);
// The running thread, perhaps with others of its warp, waits for a phase of a barrier.
void thread_operation(const char* operation, const char* file, int line);
// Lanes of the running thread's warp have met at a __syncwarp.
void joined(unsigned lanes);
void shared_object(const char* name, const void* memory, size_t bytes);
void atomic(const void* address, size_t bytes);
void matrix_row(const void* row, void* caller);
void copy_started(void* target, const void* source, size_t bytes, void* caller);
void copy_done(void* target, size_t bytes);
// The running thread arrives at a barrier of some threads, named by its address; its phase ends; the thread has
// waited for that.
void barrier_arrived(const void* barrier);
void barrier_phase_ended(const void* barrier);
void barrier_awaited(const void* barrier);
// The copy engine writes shared memory until the barrier's phase ends, or reads it until the thread has waited for its
// first `groups` groups of stores.
void load_started(void* target, size_t bytes, const void* barrier, void* caller);
void store_started(const void* source, size_t bytes, unsigned group, void* caller);
void stores_done(unsigned groups);
// A product of the running warp's group reads 16 bytes of a factor; the warp has waited for its first `groups`.
bool finds_races();
void factor_read(const void* chunk, unsigned group, void* caller);
void products_done(unsigned groups);
// The copy engine moves a box of `bytes` bytes of shared memory, of which `lines` are in the array.
struct BoxLine {
  const char* first;
  size_t bytes;
};
void box_moved(Kind kind, const std::vector<BoxLine>& lines, size_t bytes, void* caller);
// A box also comes to another block.
void box_came(size_t bytes, void* caller);
// The running thread reads or writes the shared memory of another block.
void remote_access(const void* address, size_t bytes, bool writes, void* caller);
// Tensor cores read from shared memory a warp's share of both factors of a product.
void factors_read(size_t bytes, void* caller);
// True while only some blocks of each launch run, so that the numbers that they compute are of no use.
bool samples();

#else

#define CCONVNET_EMULATOR_UNCOUNTED

struct Paused {
  Paused() {}  // so that a variable of this type is not unused
};
struct Counted {
  Counted() {}
};
inline void running(int, const char*, size_t) {}
inline void set_early(bool*) {}
inline void begin_launch(const std::string&, const char*, int, const void*, dim3, dim3, size_t) {}
inline void end_launch() {}
inline uint64_t blocks_to_run(uint64_t count) {
  return count;
}
inline void begin_block(uint64_t, int, int) {}
inline void end_block() {}
inline bool passed_barrier(const char*, const char*, int, int) {
  return false;
}
inline void warp_operation(const char*, const char*, int) {}
inline void thread_operation(const char*, const char*, int) {}
inline void joined(unsigned) {}
inline void shared_object(const char*, const void*, size_t) {}
inline void atomic(const void*, size_t) {}
inline void matrix_row(const void*, void*) {}
inline void copy_started(void*, const void*, size_t, void*) {}
inline void copy_done(void*, size_t) {}
inline void barrier_arrived(const void*) {}
inline void barrier_phase_ended(const void*) {}
inline void barrier_awaited(const void*) {}
inline void load_started(void*, size_t, const void*, void*) {}
inline void store_started(const void*, size_t, unsigned, void*) {}
inline void stores_done(unsigned) {}
inline bool finds_races() {
  return false;
}
inline void factor_read(const void*, unsigned, void*) {}
inline void products_done(unsigned) {}
inline void box_came(size_t, void*) {}
inline void remote_access(const void*, size_t, bool, void*) {}
inline void factors_read(size_t, void*) {}
inline constexpr bool samples() {
  return false;
}

#endif

}  // namespace cconvnet::emulator::counting
