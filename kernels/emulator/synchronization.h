// Barriers, warp shuffles and votes, under CUDA's names.
//
// Each records the line it is called from, through the default arguments `file` and `line`, which the
// compiler fills in at the call. Threads meet only if they wait at the same operation on the same line: CUDA
// requires that all of them execute the same barrier, and the line identifies it.
//
// It is stricter than CUDA on purpose: a barrier misses a thread that returned, and a lane that does not
// exist because the block's size is not a multiple of 32.
#pragma once

#include <type_traits>

#include "machine.h"

#define CCONVNET_EMULATOR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

// ---- the block ------------------------------------------------------------------------------------------

inline void __syncthreads(CCONVNET_EMULATOR_CALLER) {
  cconvnet::emulator::machine.block_barrier({"__syncthreads", file, line}, false);
}

inline int __syncthreads_count(int predicate, CCONVNET_EMULATOR_CALLER) {
  return cconvnet::emulator::machine.block_barrier({"__syncthreads_count", file, line}, predicate != 0);
}

inline int __syncthreads_or(int predicate, CCONVNET_EMULATOR_CALLER) {
  return cconvnet::emulator::machine.block_barrier({"__syncthreads_or", file, line}, predicate != 0) > 0;
}

inline int __syncthreads_and(int predicate, CCONVNET_EMULATOR_CALLER) {
  return cconvnet::emulator::machine.block_barrier({"__syncthreads_and", file, line}, predicate == 0) == 0;
}

// ---- votes ----------------------------------------------------------------------------------------------

namespace cconvnet::emulator {

// The lanes of the mask with a true predicate.
inline unsigned vote(const Site& site, unsigned mask, bool predicate) {
  unsigned operand = predicate;
  machine.warp_operation(site, mask, operand, [](unsigned* const* operands, unsigned lanes) {
    unsigned votes = 0;
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
      const int i = __builtin_ctz(rest);
      votes |= *operands[i] << i;
    }
    for (unsigned rest = lanes; rest; rest &= rest - 1) *operands[__builtin_ctz(rest)] = votes;
  });
  return operand;
}

}  // namespace cconvnet::emulator

inline void __syncwarp(unsigned mask = 0xffffffffu, CCONVNET_EMULATOR_CALLER) {
  using namespace cconvnet::emulator;
  unsigned nothing = 0;
  machine.warp_operation({"__syncwarp", file, line}, mask, nothing,
                         [](unsigned* const*, unsigned lanes) { counting::joined(lanes); });
}

inline unsigned __ballot_sync(unsigned mask, int predicate, CCONVNET_EMULATOR_CALLER) {
  return cconvnet::emulator::vote({"__ballot_sync", file, line}, mask, predicate != 0);
}

inline int __any_sync(unsigned mask, int predicate, CCONVNET_EMULATOR_CALLER) {
  return cconvnet::emulator::vote({"__any_sync", file, line}, mask, predicate != 0) != 0;
}

inline int __all_sync(unsigned mask, int predicate, CCONVNET_EMULATOR_CALLER) {
  return cconvnet::emulator::vote({"__all_sync", file, line}, mask, predicate == 0) == 0;
}

// ---- shuffles -------------------------------------------------------------------------------------------

namespace cconvnet::emulator {

template <class T>
struct ShuffleOperand {
  T value;
  int source;
  T result;
};

// The value of lane `source`. Every kind of shuffle is this one with another source.
template <class T>
T shuffle(const Site& site, unsigned mask, T value, int source) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "CUDA shuffles 4-byte and 8-byte numbers");
  if (!(mask >> source & 1u)) {
    machine.fail<KernelError>(site,
                              "reads from lane " + std::to_string(source) + ", which is not in its mask");
  }
  ShuffleOperand<T> operand{value, source, value};
  machine.warp_operation(site, mask, operand, [](ShuffleOperand<T>* const* operands, unsigned lanes) {
    for (unsigned rest = lanes; rest; rest &= rest - 1) {
      ShuffleOperand<T>& own = *operands[__builtin_ctz(rest)];
      own.result = operands[own.source]->value;
    }
  });
  return operand.result;
}

// A warp is divided into segments of `width` lanes. The source lanes are those of PTX's shfl.sync.
struct Segment {
  int lane, first, last;

  Segment(const Site& site, int width) : lane(machine.lane()) {
    if (width < 1 || width > lanes_per_warp || (width & (width - 1)) != 0) {
      machine.fail<KernelError>(site, "the width " + std::to_string(width) + " is not a power of 2 up to 32");
    }
    first = lane & ~(width - 1);
    last = first + width - 1;
  }
};

}  // namespace cconvnet::emulator

// From lane `source` of the segment, modulo its width.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CCONVNET_EMULATOR_CALLER) {
  const cconvnet::emulator::Site site{"__shfl_sync", file, line};
  const cconvnet::emulator::Segment segment(site, width);
  return cconvnet::emulator::shuffle(site, mask, value, segment.first + (source & (width - 1)));
}

// From `delta` lanes below; a lane that has none keeps its own value.
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CCONVNET_EMULATOR_CALLER) {
  const cconvnet::emulator::Site site{"__shfl_up_sync", file, line};
  const cconvnet::emulator::Segment segment(site, width);
  const int source = segment.lane - static_cast<int>(delta & 31u);
  return cconvnet::emulator::shuffle(site, mask, value, source >= segment.first ? source : segment.lane);
}

// From `delta` lanes above; a lane that has none keeps its own value.
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CCONVNET_EMULATOR_CALLER) {
  const cconvnet::emulator::Site site{"__shfl_down_sync", file, line};
  const cconvnet::emulator::Segment segment(site, width);
  const int source = segment.lane + static_cast<int>(delta & 31u);
  return cconvnet::emulator::shuffle(site, mask, value, source <= segment.last ? source : segment.lane);
}

// From lane ^ lane_mask. Earlier segments may be read; a lane that would read a later one keeps its own
// value.
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, CCONVNET_EMULATOR_CALLER) {
  const cconvnet::emulator::Site site{"__shfl_xor_sync", file, line};
  const cconvnet::emulator::Segment segment(site, width);
  const int source = segment.lane ^ (lane_mask & 31);
  return cconvnet::emulator::shuffle(site, mask, value, source <= segment.last ? source : segment.lane);
}

#undef CCONVNET_EMULATOR_CALLER
