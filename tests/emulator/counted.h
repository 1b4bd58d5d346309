// Helpers of the test programs that count: each case is a launch, and its record is printed as lines of JSON.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "core/launch.cuh"

namespace counted {

using namespace cconvnet;
namespace counting = emulator::counting;

// An array of global memory on a boundary of 256 bytes, of zeros.
template <class T>
T* array(size_t count) {
  const size_t bytes = (count * sizeof(T) + 255) / 256 * 256;
  return static_cast<T*>(std::memset(std::aligned_alloc(256, bytes), 0, bytes));
}

inline std::string json(const counting::Instruction& i) {
  return "{\"offset\": " + std::to_string(i.offset) +
         ", \"kind\": " + std::to_string(static_cast<int>(i.kind)) +
         ", \"space\": " + std::to_string(static_cast<int>(i.space)) +
         ", \"bytes\": " + std::to_string(i.bytes) + "}";
}

inline void print(const std::string& name, const counting::Launch& launch) {
  for (const counting::Access& a : launch.accesses) {
    std::printf("{\"case\": \"%s\", \"access\": %s, \"counts\": [%d, %d, %d, %d, %d, %d, %d]}\n",
                name.c_str(), json(a.instruction).c_str(), static_cast<int>(a.requests),
                static_cast<int>(a.lanes), static_cast<int>(a.sectors), static_cast<int>(a.least_sectors),
                static_cast<int>(a.misses), static_cast<int>(a.wavefronts),
                static_cast<int>(a.least_wavefronts));
  }
  for (const counting::Operation& o : launch.operations) {
    std::printf("{\"case\": \"%s\", \"operation\": \"%s\", \"line\": %d, \"warps\": %d}\n", name.c_str(),
                o.name.c_str(), o.line, static_cast<int>(o.warps));
  }
  for (const counting::Race& r : launch.races) {
    std::printf(
        "{\"case\": \"%s\", \"race\": [%s, %s], \"blocks\": [%d, %d], \"threads\": [%d, %d], \"array\": "
        "\"%s\", "
        "\"position\": %d, \"occurrences\": %d}\n",
        name.c_str(), json(r.first.instruction).c_str(), json(r.second.instruction).c_str(),
        static_cast<int>(r.first.block), static_cast<int>(r.second.block), r.first.thread, r.second.thread,
        r.array.c_str(), static_cast<int>(r.position), static_cast<int>(r.occurrences));
  }
  std::printf(
      "{\"case\": \"%s\", \"blocks_run\": %d, \"barriers\": %d, \"cut_blocks\": %d, \"shared_bytes\": %d}\n",
      name.c_str(), static_cast<int>(launch.blocks_run), static_cast<int>(launch.barriers),
      static_cast<int>(launch.cut_blocks), static_cast<int>(launch.shared_bytes));
}

// Runs `launches` with a record of its own, and prints it under `name`.
inline void record(const std::string& name, const std::function<void()>& launches,
                   const counting::Options& options = {}) {
  counting::start(options);
  launches();
  for (const counting::Launch& launch : counting::stop()) print(name, launch);
}

}  // namespace counted
