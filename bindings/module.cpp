// The operations of kernels/api.h for Python. One source, compiled once for each build of the interface:
// CCONVNET_MODULE names the module; with CCONVNET_DEVICE_ARRAYS arrays are those of a GPU (anything with
// __cuda_array_interface__, as CuPy's), otherwise those of the host (anything with the buffer protocol).
//
// Every array is checked for type, contiguity, writability and size against the problem, so no call from
// Python can make a kernel leave its buffers. Shapes are ops.py's business. NumPy and CuPy have no bfloat16:
// an array of uint16 is one of bfloat16s, by their bits.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <mutex>
#include <optional>
#include <string>

#include "api.h"

#ifdef CCONVNET_EMULATOR
#include "emulator/emulator.h"
#endif

namespace py = pybind11;
using namespace py::literals;
using namespace cconvnet;

namespace {

// How an element type is called by people, by CuPy's interface and by the buffer protocol.
struct Type {
  const char* name;
  const char* typestr;
  const char* format;
};
template <class T>
constexpr Type kType{};
template <>
constexpr Type kType<float>{"float32", "<f4", "f"};
template <>
constexpr Type kType<bfloat16>{"uint16 (bfloat16's bits)", "<u2", "H"};
template <>
constexpr Type kType<int64_t>{"int64", "<i8", "l"};
template <>
constexpr Type kType<int32_t>{"int32", "<i4", "i"};
template <>
constexpr Type kType<uint8_t>{"uint8", "|u1", "B"};

[[noreturn]] void reject(const char* name, const std::string& what) {
  throw py::value_error(std::string(name) + " " + what);
}

struct Span {
  void* data;
  size_t bytes;
};

#ifdef CCONVNET_DEVICE_ARRAYS

Span span_of(py::handle array, const char* name, const Type& type, bool writable) {
  if (!py::hasattr(array, "__cuda_array_interface__")) {
    throw py::type_error(std::string(name) + " must be an array on a CUDA device");
  }
  const py::dict interface = array.attr("__cuda_array_interface__");
  const std::string typestr = py::str(interface["typestr"]);
  if (typestr != type.typestr) reject(name, std::string("must be ") + type.name + ", not " + typestr);
  size_t bytes = typestr.back() - '0';
  const size_t item = bytes;
  const py::tuple shape = interface["shape"];
  for (py::handle extent : shape) bytes *= extent.cast<size_t>();
  if (interface.contains("strides") && !interface["strides"].is_none() && bytes > 0) {
    const py::tuple strides = interface["strides"];
    size_t dense = item;
    for (size_t axis = shape.size(); axis-- > 0;) {
      const size_t extent = shape[axis].cast<size_t>();
      if (extent != 1 && strides[axis].cast<int64_t>() != static_cast<int64_t>(dense)) {
        reject(name, "must be C-contiguous");
      }
      dense *= extent;
    }
  }
  const py::tuple data = interface["data"];
  if (writable && data[1].cast<bool>()) reject(name, "must be writable");
  return {reinterpret_cast<void*>(data[0].cast<uintptr_t>()), bytes};
}

#else

Span span_of(py::handle array, const char* name, const Type& type, bool writable) {
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " must be a NumPy array");
  }
  const bool contiguous = PyBuffer_IsContiguous(&view, 'C');
  const std::string format = view.format ? view.format : "B";
  const Span span{view.buf, static_cast<size_t>(view.len)};
  const bool readonly = view.readonly;
  // The array outlives the call, and NumPy never moves an array's memory.
  PyBuffer_Release(&view);
  if (format != type.format) {
    reject(name, std::string("must be ") + type.name + ", not buffer format '" + format + "'");
  }
  if (!contiguous) reject(name, "must be C-contiguous");
  if (writable && readonly) reject(name, "must be writable");
  return span;
}

#endif

#ifdef CCONVNET_DEVICE_ARRAYS

bool holds_bfloat16(py::handle array, const char* name) {
  if (!py::hasattr(array, "__cuda_array_interface__")) {
    throw py::type_error(std::string(name) + " must be an array on a CUDA device");
  }
  const py::dict interface = array.attr("__cuda_array_interface__");
  return std::string(py::str(interface["typestr"])) == kType<bfloat16>.typestr;
}

#else

bool holds_bfloat16(py::handle array, const char* name) {
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " must be a NumPy array");
  }
  const bool result = view.format && std::string(view.format) == kType<bfloat16>.format;
  PyBuffer_Release(&view);
  return result;
}

#endif

template <class T>
T* checked(py::handle array, const char* name, int64_t count, bool writable) {
  const Span span = span_of(array, name, kType<T>, writable);
  if (span.bytes != count * sizeof(T)) {
    reject(name,
           "must have " + std::to_string(count) + " elements, not " + std::to_string(span.bytes / sizeof(T)));
  }
  return static_cast<T*>(span.data);
}

template <class T = float>
const T* in(py::handle array, const char* name, int64_t count) {
  return checked<T>(array, name, count, false);
}

template <class T = float>
const T* in_or_null(py::handle array, const char* name, int64_t count) {
  return array.is_none() ? nullptr : checked<T>(array, name, count, false);
}

template <class T = float>
T* out(py::handle array, const char* name, int64_t count) {
  return checked<T>(array, name, count, true);
}

template <class T = float>
T* out_or_null(py::handle array, const char* name, int64_t count) {
  return array.is_none() ? nullptr : checked<T>(array, name, count, true);
}

// Elements as the precision of a product says.
const void* in(py::handle array, const char* name, int64_t count, Precision precision) {
  if (precision == Precision::bf16) return in<bfloat16>(array, name, count);
  return in<float>(array, name, count);
}

void* out(py::handle array, const char* name, int64_t count, Precision precision) {
  if (precision == Precision::bf16) return out<bfloat16>(array, name, count);
  return out<float>(array, name, count);
}

// Calls work(T{}) with the element type that `array` has; the others of the call must then have it too.
template <class Work>
auto by_element(py::handle array, const char* name, const Work& work) {
  return holds_bfloat16(array, name) ? work(bfloat16{}) : work(float{});
}

// A workspace is bytes, at least as many as asked for.
void* scratch(py::handle array, size_t needed) {
  if (array.is_none()) {
    if (needed > 0)
      reject("workspace", "must have at least " + std::to_string(needed) + " bytes, not be None");
    return nullptr;
  }
  const Span span = span_of(array, "workspace", kType<uint8_t>, true);
  if (span.bytes < needed) {
    reject("workspace",
           "must have at least " + std::to_string(needed) + " bytes, not " + std::to_string(span.bytes));
  }
  return span.data;
}

template <class T = float>
int count_of(py::handle array, const char* name) {
  const size_t count = span_of(array, name, kType<T>, false).bytes / sizeof(T);
  if (count == 0) reject(name, "must not be empty");
  if (count > INT32_MAX) reject(name, "has more than 2^31 - 1 elements");
  return static_cast<int>(count);
}

Stream stream_of(uintptr_t stream) {
  return reinterpret_cast<Stream>(stream);
}

// Other Python threads, the data loader's among them, run while a kernel does.
template <class Work>
void without_gil(const Work& work) {
  py::gil_scoped_release release;
  work();
}

// (SgdProblem, v, w, w_bf16 or None, rates or None, halt or None), for `count` weights.
Update update_of(const py::tuple& fields, int64_t count) {
  if (fields.size() != 6) reject("update", "must be (problem, v, w, w_bf16, rates, halt)");
  Update update;
  update.problem = fields[0].cast<SgdProblem>();
  if (update.problem.count != count) {
    reject("update",
           "must be of " + std::to_string(count) + " elements, not " + std::to_string(update.problem.count));
  }
  update.v = out(fields[1], "v", count);
  update.w = out(fields[2], "w", count);
  update.w_bf16 = out_or_null<bfloat16>(fields[3], "w_bf16", count);
  update.rates = in_or_null(fields[4], "rates", 2);
  update.halt = in_or_null<int32_t>(fields[5], "halt", 1);
  return update;
}

// The three passes of a convolution, of a locally connected and of an FC layer, which have the same form.
template <class Problem>
struct Family {
  using Impls = std::vector<std::string> (*)(const Problem&);
  using Workspace = size_t (*)(const Problem&, const char*);
  Impls fprop_impls, dgrad_impls, wgrad_impls;
  Workspace fprop_workspace, dgrad_workspace, wgrad_workspace;
  void (*fprop)(const Problem&, const void*, const void*, const Finish&, void*, void*, Stream, const char*);
  void (*dgrad)(const Problem&, const void*, const void*, void*, void*, Stream, const char*);
  void (*wgrad)(const Problem&, const void*, const void*, float*, const Update*, void*, Stream, const char*);
};

template <class Problem>
void bind_family(py::module_& m, const std::string& name, const Family<Problem>& family) {
  m.def((name + "_fprop_impls").c_str(), family.fprop_impls, "problem"_a);
  m.def((name + "_dgrad_impls").c_str(), family.dgrad_impls, "problem"_a);
  m.def((name + "_wgrad_impls").c_str(), family.wgrad_impls, "problem"_a);
  m.def((name + "_fprop_workspace").c_str(), family.fprop_workspace, "problem"_a, "impl"_a = py::none());
  m.def((name + "_dgrad_workspace").c_str(), family.dgrad_workspace, "problem"_a, "impl"_a = py::none());
  m.def((name + "_wgrad_workspace").c_str(), family.wgrad_workspace, "problem"_a, "impl"_a = py::none());
  m.def((name + "_fprop").c_str(),
        [family](const Problem& problem, py::object x, py::object w, py::object bias, bool relu, py::object y,
                 py::object workspace, uintptr_t stream, const char* impl,
                 const std::optional<DropoutProblem>& dropout, py::object step) {
          const void* px = in(x, "x", problem.x_count(), problem.precision);
          const void* pw = in(w, "w", problem.w_count(), problem.precision);
          Finish finish;
          finish.bias = in_or_null(bias, "bias", problem.bias_count());
          finish.relu = relu;
          if (dropout) {
            if (dropout->count != problem.y_count()) reject("dropout", "must be of y's number of elements");
            finish.dropout = &*dropout;
            finish.step = in_or_null<int64_t>(step, "step", 1);
          }
          void* py_ = out(y, "y", problem.y_count(), problem.precision);
          void* pspace = scratch(workspace, family.fprop_workspace(problem, impl));
          without_gil([&] { family.fprop(problem, px, pw, finish, py_, pspace, stream_of(stream), impl); });
        },
        "problem"_a, "x"_a, "w"_a, "bias"_a, "relu"_a, "y"_a, "workspace"_a, "stream"_a = 0,
        "impl"_a = py::none(), "dropout"_a = py::none(), "step"_a = py::none());
  m.def((name + "_dgrad").c_str(),
        [family](const Problem& problem, py::object dy, py::object w, py::object dx, py::object workspace,
                 uintptr_t stream, const char* impl) {
          const void* pdy = in(dy, "dy", problem.y_count(), problem.precision);
          const void* pw = in(w, "w", problem.w_count(), problem.precision);
          void* pdx = out(dx, "dx", problem.x_count(), problem.precision);
          void* pspace = scratch(workspace, family.dgrad_workspace(problem, impl));
          without_gil([&] { family.dgrad(problem, pdy, pw, pdx, pspace, stream_of(stream), impl); });
        },
        "problem"_a, "dy"_a, "w"_a, "dx"_a, "workspace"_a, "stream"_a = 0, "impl"_a = py::none());
  m.def((name + "_wgrad").c_str(),
        [family](const Problem& problem, py::object x, py::object dy, py::object dw, py::object workspace,
                 uintptr_t stream, const char* impl, const std::optional<py::tuple>& update) {
          const void* px = in(x, "x", problem.x_count(), problem.precision);
          const void* pdy = in(dy, "dy", problem.y_count(), problem.precision);
          float* pdw = out(dw, "dw", problem.w_count());
          const Update fields = update ? update_of(*update, problem.w_count()) : Update{};
          void* pspace = scratch(workspace, family.wgrad_workspace(problem, impl));
          without_gil([&] {
            family.wgrad(problem, px, pdy, pdw, update ? &fields : nullptr, pspace, stream_of(stream), impl);
          });
        },
        "problem"_a, "x"_a, "dy"_a, "dw"_a, "workspace"_a, "stream"_a = 0, "impl"_a = py::none(),
        "update"_a = py::none());
}

#define FAMILY(name)                                                       \
  {name##_fprop_impls,     name##_dgrad_impls,     name##_wgrad_impls,     \
   name##_fprop_workspace, name##_dgrad_workspace, name##_wgrad_workspace, \
   name##_fprop,           name##_dgrad,           name##_wgrad}

}  // namespace

PYBIND11_MODULE(CCONVNET_MODULE, m) {
  py::module_::import("cconvnet._problem");  // registers the problem types
  m.doc() = "One build of the operations in kernels/api.h, where each is documented.";
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

  bind_family<ConvProblem>(m, "conv", FAMILY(conv));
  bind_family<LocalProblem>(m, "local", FAMILY(local));
  bind_family<FcProblem>(m, "fc", FAMILY(fc));

  m.def(
      "bias_add",
      [](const BiasProblem& problem, py::object x, py::object bias, bool relu, py::object y,
         uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count());
          const float* pbias = in(bias, "bias", problem.k);
          T* py_ = out<T>(y, "y", problem.count());
          without_gil([&] { bias_add(problem, px, pbias, relu, py_, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "bias"_a, "relu"_a, "y"_a, "stream"_a = 0);
  m.def("bias_grad_workspace", &bias_grad_workspace, "problem"_a);
  m.def(
      "bias_grad",
      [](const BiasProblem& problem, py::object dy, py::object db, py::object workspace, uintptr_t stream) {
        by_element(dy, "dy", [&](auto element) {
          using T = decltype(element);
          const T* pdy = in<T>(dy, "dy", problem.count());
          float* pdb = out(db, "db", problem.k);
          void* pspace = scratch(workspace, bias_grad_workspace(problem));
          without_gil([&] { bias_grad(problem, pdy, pdb, pspace, stream_of(stream)); });
        });
      },
      "problem"_a, "dy"_a, "db"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "relu_bias_backward",
      [](const BiasProblem& problem, py::object y, py::object dy, float scale, py::object dx, py::object db,
         py::object workspace, uintptr_t stream) {
        by_element(y, "y", [&](auto element) {
          using T = decltype(element);
          const T* py_ = in<T>(y, "y", problem.count());
          const T* pdy = in<T>(dy, "dy", problem.count());
          T* pdx = out<T>(dx, "dx", problem.count());
          float* pdb = out(db, "db", problem.k);
          void* pspace = scratch(workspace, bias_grad_workspace(problem));
          without_gil(
              [&] { relu_bias_backward(problem, py_, pdy, scale, pdx, pdb, pspace, stream_of(stream)); });
        });
      },
      "problem"_a, "y"_a, "dy"_a, "scale"_a, "dx"_a, "db"_a, "workspace"_a, "stream"_a = 0);

  m.def(
      "relu_forward",
      [](py::object x, py::object y, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const int count = count_of<T>(x, "x");
          const T* px = in<T>(x, "x", count);
          T* py_ = out<T>(y, "y", count);
          without_gil([&] { relu_forward(count, px, py_, stream_of(stream)); });
        });
      },
      "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "relu_backward",
      [](py::object y, py::object dy, py::object dx, uintptr_t stream) {
        by_element(y, "y", [&](auto element) {
          using T = decltype(element);
          const int count = count_of<T>(y, "y");
          const T* py_ = in<T>(y, "y", count);
          const T* pdy = in<T>(dy, "dy", count);
          T* pdx = out<T>(dx, "dx", count);
          without_gil([&] { relu_backward(count, py_, pdy, pdx, stream_of(stream)); });
        });
      },
      "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);
  m.def(
      "neuron_forward",
      [](const NeuronProblem& problem, py::object x, py::object y, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count);
          T* py_ = out<T>(y, "y", problem.count);
          without_gil([&] { neuron_forward(problem, px, py_, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "neuron_backward",
      [](const NeuronProblem& problem, py::object x, py::object y, py::object dy, py::object dx,
         uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count);
          const T* py_ = in<T>(y, "y", problem.count);
          const T* pdy = in<T>(dy, "dy", problem.count);
          T* pdx = out<T>(dx, "dx", problem.count);
          without_gil([&] { neuron_backward(problem, px, py_, pdy, pdx, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);

  m.def(
      "lrn_forward",
      [](const LrnProblem& problem, py::object x, py::object y, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count());
          T* py_ = out<T>(y, "y", problem.count());
          without_gil([&] { lrn_forward(problem, px, py_, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def("lrn_backward_workspace", &lrn_backward_workspace, "problem"_a);
  m.def(
      "lrn_backward",
      [](const LrnProblem& problem, py::object x, py::object dy, py::object dx, py::object workspace,
         uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count());
          const T* pdy = in<T>(dy, "dy", problem.count());
          T* pdx = out<T>(dx, "dx", problem.count());
          void* pspace = scratch(workspace, lrn_backward_workspace(problem));
          without_gil([&] { lrn_backward(problem, px, pdy, pdx, pspace, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "dy"_a, "dx"_a, "workspace"_a, "stream"_a = 0);

  m.def(
      "lrn_maxpool_forward",
      [](const LrnProblem& lrn, const PoolProblem& pool, py::object x, py::object y, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", lrn.count());
          T* py_ = out<T>(y, "y", pool.y_count());
          without_gil([&] { lrn_maxpool_forward(lrn, pool, px, py_, stream_of(stream)); });
        });
      },
      "lrn"_a, "pool"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def("lrn_maxpool_backward_workspace", &lrn_maxpool_backward_workspace, "lrn"_a, "pool"_a);
  m.def(
      "lrn_maxpool_backward",
      [](const LrnProblem& lrn, const PoolProblem& pool, py::object x, py::object y, py::object dy, bool relu,
         py::object dx, py::object workspace, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", lrn.count());
          const T* py_ = in<T>(y, "y", pool.y_count());
          const T* pdy = in<T>(dy, "dy", pool.y_count());
          T* pdx = out<T>(dx, "dx", lrn.count());
          void* pspace = scratch(workspace, lrn_maxpool_backward_workspace(lrn, pool));
          without_gil(
              [&] { lrn_maxpool_backward(lrn, pool, px, py_, pdy, relu, pdx, pspace, stream_of(stream)); });
        });
      },
      "lrn"_a, "pool"_a, "x"_a, "y"_a, "dy"_a, "relu"_a, "dx"_a, "workspace"_a, "stream"_a = 0);

  m.def("contrast_norm_forward_workspace", &contrast_norm_forward_workspace, "problem"_a);
  m.def("contrast_norm_backward_workspace", &contrast_norm_backward_workspace, "problem"_a);
  m.def(
      "contrast_norm_forward",
      [](const ContrastNormProblem& problem, py::object x, py::object y, py::object workspace,
         uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count());
          T* py_ = out<T>(y, "y", problem.count());
          void* pspace = scratch(workspace, contrast_norm_forward_workspace(problem));
          without_gil([&] { contrast_norm_forward(problem, px, py_, pspace, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "contrast_norm_backward",
      [](const ContrastNormProblem& problem, py::object x, py::object dy, py::object dx, py::object workspace,
         uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count());
          const T* pdy = in<T>(dy, "dy", problem.count());
          T* pdx = out<T>(dx, "dx", problem.count());
          void* pspace = scratch(workspace, contrast_norm_backward_workspace(problem));
          without_gil([&] { contrast_norm_backward(problem, px, pdy, pdx, pspace, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "dy"_a, "dx"_a, "workspace"_a, "stream"_a = 0);

  m.def(
      "maxpool_forward",
      [](const PoolProblem& problem, py::object x, py::object y, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.x_count());
          T* py_ = out<T>(y, "y", problem.y_count());
          without_gil([&] { maxpool_forward(problem, px, py_, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "maxpool_backward",
      [](const PoolProblem& problem, py::object x, py::object y, py::object dy, py::object dx,
         uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.x_count());
          const T* py_ = in<T>(y, "y", problem.y_count());
          const T* pdy = in<T>(dy, "dy", problem.y_count());
          T* pdx = out<T>(dx, "dx", problem.x_count());
          without_gil([&] { maxpool_backward(problem, px, py_, pdy, pdx, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);
  m.def(
      "avgpool_forward",
      [](const PoolProblem& problem, py::object x, py::object y, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.x_count());
          T* py_ = out<T>(y, "y", problem.y_count());
          without_gil([&] { avgpool_forward(problem, px, py_, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "avgpool_backward",
      [](const PoolProblem& problem, py::object dy, py::object dx, uintptr_t stream) {
        by_element(dy, "dy", [&](auto element) {
          using T = decltype(element);
          const T* pdy = in<T>(dy, "dy", problem.y_count());
          T* pdx = out<T>(dx, "dx", problem.x_count());
          without_gil([&] { avgpool_backward(problem, pdy, pdx, stream_of(stream)); });
        });
      },
      "problem"_a, "dy"_a, "dx"_a, "stream"_a = 0);

  m.def(
      "eltmax_forward",
      [](py::object a, py::object b, py::object y, uintptr_t stream) {
        by_element(a, "a", [&](auto element) {
          using T = decltype(element);
          const int count = count_of<T>(a, "a");
          const T* pa = in<T>(a, "a", count);
          const T* pb = in<T>(b, "b", count);
          T* py_ = out<T>(y, "y", count);
          without_gil([&] { eltmax_forward(count, pa, pb, py_, stream_of(stream)); });
        });
      },
      "a"_a, "b"_a, "y"_a, "stream"_a = 0);
  m.def(
      "eltmax_backward",
      [](py::object x, py::object y, py::object dy, py::object dx, uintptr_t stream) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const int count = count_of<T>(x, "x");
          const T* px = in<T>(x, "x", count);
          const T* py_ = in<T>(y, "y", count);
          const T* pdy = in<T>(dy, "dy", count);
          T* pdx = out<T>(dx, "dx", count);
          without_gil([&] { eltmax_backward(count, px, py_, pdy, pdx, stream_of(stream)); });
        });
      },
      "x"_a, "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);

  m.def(
      "dropout",
      [](const DropoutProblem& problem, py::object x, py::object y, uintptr_t stream, py::object step) {
        by_element(x, "x", [&](auto element) {
          using T = decltype(element);
          const T* px = in<T>(x, "x", problem.count);
          T* py_ = out<T>(y, "y", problem.count);
          const int64_t* pstep = in_or_null<int64_t>(step, "step", 1);
          without_gil([&] { dropout(problem, pstep, px, py_, stream_of(stream)); });
        });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0, "step"_a = py::none());

  m.def(
      "softmax_forward",
      [](const SoftmaxProblem& problem, py::object logits, py::object probabilities, uintptr_t stream) {
        by_element(logits, "logits", [&](auto element) {
          using T = decltype(element);
          const T* plogits = in<T>(logits, "logits", problem.count());
          float* pprobabilities = out(probabilities, "probabilities", problem.count());
          without_gil([&] { softmax_forward(problem, plogits, pprobabilities, stream_of(stream)); });
        });
      },
      "problem"_a, "logits"_a, "probabilities"_a, "stream"_a = 0);
  m.def(
      "softmax_cross_entropy_forward",
      [](const SoftmaxProblem& problem, py::object logits, py::object labels, py::object probabilities,
         py::object loss, py::object rank, uintptr_t stream) {
        by_element(logits, "logits", [&](auto element) {
          using T = decltype(element);
          const T* plogits = in<T>(logits, "logits", problem.count());
          const int32_t* plabels = in<int32_t>(labels, "labels", problem.n);
          float* pprobabilities = out(probabilities, "probabilities", problem.count());
          float* ploss = out(loss, "loss", problem.n);
          int32_t* prank = out<int32_t>(rank, "rank", problem.n);
          without_gil([&] {
            softmax_cross_entropy_forward(problem, plogits, plabels, pprobabilities, ploss, prank,
                                          stream_of(stream));
          });
        });
      },
      "problem"_a, "logits"_a, "labels"_a, "probabilities"_a, "loss"_a, "rank"_a, "stream"_a = 0);
  m.def(
      "softmax_cross_entropy_backward",
      [](const SoftmaxProblem& problem, py::object probabilities, py::object labels, float scale,
         py::object dlogits, uintptr_t stream) {
        by_element(dlogits, "dlogits", [&](auto element) {
          using T = decltype(element);
          const float* pprobabilities = in(probabilities, "probabilities", problem.count());
          const int32_t* plabels = in<int32_t>(labels, "labels", problem.n);
          T* pdlogits = out<T>(dlogits, "dlogits", problem.count());
          without_gil([&] {
            softmax_cross_entropy_backward(problem, pprobabilities, plabels, scale, pdlogits,
                                           stream_of(stream));
          });
        });
      },
      "problem"_a, "probabilities"_a, "labels"_a, "scale"_a, "dlogits"_a, "stream"_a = 0);
  m.def(
      "softmax_cross_entropy",
      [](const SoftmaxProblem& problem, py::object logits, py::object labels, float scale,
         py::object probabilities, py::object loss, py::object rank, py::object dlogits, uintptr_t stream) {
        by_element(logits, "logits", [&](auto element) {
          using T = decltype(element);
          const T* plogits = in<T>(logits, "logits", problem.count());
          const int32_t* plabels = in<int32_t>(labels, "labels", problem.n);
          float* pprobabilities = out(probabilities, "probabilities", problem.count());
          float* ploss = out(loss, "loss", problem.n);
          int32_t* prank = out<int32_t>(rank, "rank", problem.n);
          T* pdlogits = out<T>(dlogits, "dlogits", problem.count());
          without_gil([&] {
            softmax_cross_entropy(problem, plogits, plabels, scale, pprobabilities, ploss, prank, pdlogits,
                                  stream_of(stream));
          });
        });
      },
      "problem"_a, "logits"_a, "labels"_a, "scale"_a, "probabilities"_a, "loss"_a, "rank"_a, "dlogits"_a,
      "stream"_a = 0);
  m.def(
      "watch_losses",
      [](py::object loss, py::object halt, uintptr_t stream) {
        const int count = count_of(loss, "loss");
        const float* ploss = in(loss, "loss", count);
        int32_t* phalt = out<int32_t>(halt, "halt", 1);
        without_gil([&] { watch_losses(count, ploss, phalt, stream_of(stream)); });
      },
      "loss"_a, "halt"_a, "stream"_a = 0);

  m.def(
      "sgd_update",
      [](const SgdProblem& problem, py::object g, py::object v, py::object w, uintptr_t stream,
         py::object w_bf16, py::object rates, py::object halt) {
        const float* pg = in(g, "g", problem.count);
        const Update update = update_of(py::make_tuple(problem, v, w, w_bf16, rates, halt), problem.count);
        without_gil([&] { sgd_update(update, pg, stream_of(stream)); });
      },
      "problem"_a, "g"_a, "v"_a, "w"_a, "stream"_a = 0, "w_bf16"_a = py::none(), "rates"_a = py::none(),
      "halt"_a = py::none());

  m.def(
      "limit_norm",
      [](const NormLimitProblem& problem, py::object w, uintptr_t stream) {
        float* pw = out(w, "w", problem.count());
        without_gil([&] { limit_norm(problem, pw, stream_of(stream)); });
      },
      "problem"_a, "w"_a, "stream"_a = 0);

  m.def(
      "input_transform",
      [](const InputProblem& problem, py::object images, py::object top, py::object left, py::object mirror,
         py::object mean, py::object shift, float scale, py::object y, uintptr_t stream) {
        by_element(y, "y", [&](auto element) {
          using T = decltype(element);
          const uint8_t* pimages = in<uint8_t>(images, "images", problem.images_count());
          const int32_t* ptop = in<int32_t>(top, "top", problem.n);
          const int32_t* pleft = in<int32_t>(left, "left", problem.n);
          const uint8_t* pmirror = in<uint8_t>(mirror, "mirror", problem.n);
          const float* pmean = in_or_null(mean, "mean", int64_t{problem.h} * problem.w * problem.c);
          const float* pshift = in_or_null(shift, "shift", int64_t{problem.n} * problem.c);
          T* py_ = out<T>(y, "y", problem.y_count());
          without_gil([&] {
            input_transform(problem, pimages, ptop, pleft, pmirror, pmean, pshift, scale, py_,
                            stream_of(stream));
          });
        });
      },
      "problem"_a, "images"_a, "top"_a, "left"_a, "mirror"_a, "mean"_a, "shift"_a, "scale"_a, "y"_a,
      "stream"_a = 0);
  m.def(
      "filters_to_blocks",
      [](const FilterBlocksProblem& problem, py::object w, py::object blocks, uintptr_t stream) {
        by_element(blocks, "blocks", [&](auto element) {
          using T = decltype(element);
          const float* pw = in(w, "w", problem.w_count());
          T* pblocks = out<T>(blocks, "blocks", problem.blocks_count());
          without_gil([&] { filters_to_blocks(problem, pw, pblocks, stream_of(stream)); });
        });
      },
      "problem"_a, "w"_a, "blocks"_a, "stream"_a = 0);
  m.def(
      "filters_from_blocks",
      [](const FilterBlocksProblem& problem, py::object dblocks, py::object dw, uintptr_t stream) {
        const float* pdblocks = in(dblocks, "dblocks", problem.blocks_count());
        float* pdw = out(dw, "dw", problem.w_count());
        without_gil([&] { filters_from_blocks(problem, pdblocks, pdw, stream_of(stream)); });
      },
      "problem"_a, "dblocks"_a, "dw"_a, "stream"_a = 0);

  m.def(
      "add",
      [](py::object a, py::object b, py::object y, uintptr_t stream, float alpha, float beta) {
        by_element(a, "a", [&](auto element) {
          using T = decltype(element);
          const int count = count_of<T>(a, "a");
          const T* pa = in<T>(a, "a", count);
          const T* pb = in<T>(b, "b", count);
          T* py_ = out<T>(y, "y", count);
          without_gil([&] { add(count, alpha, pa, beta, pb, py_, stream_of(stream)); });
        });
      },
      "a"_a, "b"_a, "y"_a, "stream"_a = 0, "alpha"_a = 1.0f, "beta"_a = 1.0f);
  m.def(
      "to_bf16",
      [](py::object x, py::object y, uintptr_t stream) {
        const int count = count_of(x, "x");
        const float* px = in(x, "x", count);
        bfloat16* py_ = out<bfloat16>(y, "y", count);
        without_gil([&] { to_bf16(count, px, py_, stream_of(stream)); });
      },
      "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "from_bf16",
      [](py::object x, py::object y, uintptr_t stream) {
        const int count = count_of<bfloat16>(x, "x");
        const bfloat16* px = in<bfloat16>(x, "x", count);
        float* py_ = out(y, "y", count);
        without_gil([&] { from_bf16(count, px, py_, stream_of(stream)); });
      },
      "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "copy",
      [](py::object target, int target_device, py::object source, int source_device, uintptr_t stream) {
        by_element(source, "source", [&](auto element) {
          using T = decltype(element);
          const int count = count_of<T>(source, "source");
          const T* psource = in<T>(source, "source", count);
          T* ptarget = out<T>(target, "target", count);
          without_gil([&] {
            copy(ptarget, target_device, psource, source_device, count * sizeof(T), stream_of(stream));
          });
        });
      },
      "target"_a, "target_device"_a, "source"_a, "source_device"_a, "stream"_a = 0);

  m.def(
      "serves",
      [](const std::string& precision, int device) {
        for (Precision served : {Precision::fp32, Precision::tf32, Precision::bf16}) {
          if (precision == precision_name(served)) return serves(served, device);
        }
        throw py::value_error("precision must be fp32, tf32 or bf16, not '" + precision + "'");
      },
      "precision"_a, "device"_a = 0);
  m.def("build_kind", &build_kind);
  m.def("build_info", &build_info);

#ifdef CCONVNET_EMULATOR
  m.def(
      "set_schedule",
      [](const std::string& schedule, uint64_t seed) {
        using emulator::Schedule;
        if (schedule == "forward") return emulator::set_schedule(Schedule::forward, seed);
        if (schedule == "reverse") return emulator::set_schedule(Schedule::reverse, seed);
        if (schedule == "random") return emulator::set_schedule(Schedule::random, seed);
        throw py::value_error("schedule must be forward, reverse or random, not '" + schedule + "'");
      },
      "The order in which threads and blocks of later launches run.", "schedule"_a, "seed"_a = 0);
#endif
}
