// The counting emulator's record for Python, as plain dictionaries; cconvnet/devices/counting.py reads them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "emulator/counting.h"

namespace cconvnet::bindings {

namespace py = pybind11;
namespace counting = emulator::counting;

inline py::dict described(const counting::Instruction& instruction) {
  using namespace pybind11::literals;
  static constexpr const char* kinds[] = {"load",   "store",    "atomic",    "copy",
                                          "matrix", "box_load", "box_store", "factor"};
  static constexpr const char* spaces[] = {"global", "shared"};
  return py::dict("offset"_a = instruction.offset, "kind"_a = kinds[static_cast<int>(instruction.kind)],
                  "space"_a = spaces[static_cast<int>(instruction.space)], "bytes"_a = instruction.bytes);
}

inline py::dict described(const counting::RacingAccess& access) {
  py::dict result = described(access.instruction);
  result["block"] = access.block;
  result["thread"] = access.thread;
  return result;
}

inline py::tuple described(const dim3& size) {
  return py::make_tuple(size.x, size.y, size.z);
}

inline py::dict described(const counting::Launch& launch) {
  using namespace pybind11::literals;
  py::list accesses, operations, races;
  for (const counting::Access& access : launch.accesses) {
    accesses.append(py::dict("instruction"_a = described(access.instruction), "array"_a = access.array,
                             "requests"_a = access.requests, "lanes"_a = access.lanes,
                             "sectors"_a = access.sectors, "least_sectors"_a = access.least_sectors,
                             "misses"_a = access.misses, "wavefronts"_a = access.wavefronts,
                             "least_wavefronts"_a = access.least_wavefronts));
  }
  for (const counting::Operation& operation : launch.operations) {
    operations.append(py::dict("name"_a = operation.name, "file"_a = operation.file,
                               "line"_a = operation.line, "warps"_a = operation.warps));
  }
  for (const counting::Race& race : launch.races) {
    races.append(py::dict("first"_a = described(race.first), "second"_a = described(race.second),
                          "array"_a = race.array, "position"_a = race.position,
                          "occurrences"_a = race.occurrences));
  }
  return py::dict("kernel"_a = launch.kernel, "name"_a = launch.name, "file"_a = launch.file,
                  "line"_a = launch.line, "grid"_a = described(launch.grid),
                  "block"_a = described(launch.block), "shared_bytes"_a = launch.shared_bytes,
                  "launch_bytes"_a = launch.launch_bytes, "blocks_run"_a = launch.blocks_run,
                  "busiest"_a = launch.busiest, "barriers"_a = launch.barriers,
                  "cut_blocks"_a = launch.cut_blocks, "accesses"_a = accesses, "operations"_a = operations,
                  "races"_a = races);
}

inline void define_counting(py::module_& m) {
  using namespace pybind11::literals;
  using Limit = std::optional<uint64_t>;
  m.def(
      "start_counting",
      [](Limit blocks, Limit barriers, bool races, uint64_t cache_bytes) {
        counting::start({blocks.value_or(UINT64_MAX), barriers.value_or(UINT64_MAX), races, cache_bytes});
      },
      "Begin a record of the following launches.", "blocks"_a, "barriers"_a, "races"_a, "cache_bytes"_a);
  m.def(
      "stop_counting",
      [] {
        py::list launches;
        for (const counting::Launch& launch : counting::stop()) launches.append(described(launch));
        return launches;
      },
      "End the record and return its launches.");
}

}  // namespace cconvnet::bindings
