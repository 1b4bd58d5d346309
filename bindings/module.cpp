// A module of the operations in kernels/api.h for Python. It is compiled for each of their three builds and
// linked with that build and with the operations' descriptions. CCONVNET_MODULE is its name.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "call.h"
#include "core/multiprocessors.h"
#include "core/names.h"
#include "core/proofs.h"

#ifdef CCONVNET_EMULATOR
#include "emulator/emulator.h"
#endif
#ifdef CCONVNET_COUNTING
#include "counting.h"
#endif

using namespace pybind11::literals;
namespace py = pybind11;
using namespace cconvnet;

namespace {

// CudaError becomes cconvnet.errors.CudaError.
void translate_errors() {
  // Kept for the process's life.
  static PyObject* cuda_error =
      py::object(py::module_::import("cconvnet.errors").attr("CudaError")).release().ptr();
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const CudaError& error) {
      PyErr_SetString(cuda_error, error.what());
    }
  });
}

bool serves_named(const std::string& precision, int device) {
  return serves(from_name(kPrecisions, "precision", precision), device);
}

std::vector<std::string> unproven_rows() {
  std::vector<std::string> rows = rows_to_prove();
  rows.erase(std::remove_if(rows.begin(), rows.end(), is_proven), rows.end());
  return rows;
}

#ifdef CCONVNET_EMULATOR
void set_schedule(const std::string& schedule, uint64_t seed) {
  using emulator::Schedule;
  if (schedule == "forward") return emulator::set_schedule(Schedule::forward, seed);
  if (schedule == "reverse") return emulator::set_schedule(Schedule::reverse, seed);
  if (schedule == "random") return emulator::set_schedule(Schedule::random, seed);
  throw py::value_error("schedule must be forward, reverse or random, not '" + schedule + "'");
}
#endif

void set_multiprocessors(int count) {
  if (count < 0) throw py::value_error("count must be at least 0, not " + std::to_string(count));
  used_multiprocessors = count;
}

}  // namespace

PYBIND11_MODULE(CCONVNET_MODULE, m) {
  py::module_::import("cconvnet._problem");  // registers the problem types
  m.doc() = "One build of the operations in kernels/api.h, where each is documented.";
  translate_errors();
  m.def("serves", &serves_named, "precision"_a, "device"_a = 0);
  m.def("build_kind", &build_kind);
  m.def("build_info", &build_info);
  m.def("rows_to_prove", &rows_to_prove);
  m.def("kernel_digest", &kernel_digest);
  m.def("unproven_rows", &unproven_rows);
  m.def("prove_rows", &prove_rows, "rows"_a);
  m.def("set_multiprocessors", &set_multiprocessors,
        "Set for how many multiprocessors later launches of persistent blocks are; 0: for all.",
        "count"_a = 0);
#ifdef CCONVNET_EMULATOR
  m.def("set_schedule", &set_schedule, "Set the order in which threads and blocks of later launches run.",
        "schedule"_a, "seed"_a = 0);
#endif
#ifdef CCONVNET_COUNTING
  bindings::define_counting(m);
#endif
  py::options options;
  options.disable_function_signatures();  // define() writes them
  for (const bindings::Operation& operation : bindings::all()) bindings::define(m, operation);
}
