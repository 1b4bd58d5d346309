// The operations of kernels/api.h for Python. One source, compiled once for each build of the interface:
// CCONVNET_MODULE names the module; with CCONVNET_DEVICE_ARRAYS arrays are those of a GPU (anything with
// __cuda_array_interface__, as CuPy's), otherwise those of the host (anything with the buffer protocol).
//
// Every array is checked for type, contiguity, writability and size against the problem, so no call from
// Python can make a kernel leave its buffers. Shapes are ops.py's business.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <mutex>
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
  size_t bytes = typestr.back() == '4' ? 4 : 1;
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

int count_of(py::handle array, const char* name) {
  const size_t count = span_of(array, name, kType<float>, false).bytes / sizeof(float);
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

// The three passes of a convolution, of a locally connected and of an FC layer have the same form:
// f(problem, a, b, ..., c).
#define BIND_GEMM_FAMILY(family, Problem)                                                                 \
  m.def(#family "_fprop_impls", &family##_fprop_impls, "problem"_a);                                      \
  m.def(#family "_dgrad_impls", &family##_dgrad_impls, "problem"_a);                                      \
  m.def(#family "_wgrad_impls", &family##_wgrad_impls, "problem"_a);                                      \
  m.def(#family "_fprop_workspace", &family##_fprop_workspace, "problem"_a, "impl"_a = py::none());       \
  m.def(#family "_dgrad_workspace", &family##_dgrad_workspace, "problem"_a, "impl"_a = py::none());       \
  m.def(#family "_wgrad_workspace", &family##_wgrad_workspace, "problem"_a, "impl"_a = py::none());       \
  m.def(                                                                                                  \
      #family "_fprop",                                                                                   \
      [](const Problem& problem, py::object x, py::object w, py::object bias, bool relu, py::object y,    \
         py::object workspace, uintptr_t stream, const char* impl) {                                      \
        const float* px = in(x, "x", problem.x_count());                                                  \
        const float* pw = in(w, "w", problem.w_count());                                                  \
        const float* pbias = in_or_null(bias, "bias", problem.bias_count());                              \
        float* py_ = out(y, "y", problem.y_count());                                                      \
        void* pspace = scratch(workspace, family##_fprop_workspace(problem, impl));                       \
        without_gil(                                                                                      \
            [&] { family##_fprop(problem, px, pw, pbias, relu, py_, pspace, stream_of(stream), impl); }); \
      },                                                                                                  \
      "problem"_a, "x"_a, "w"_a, "bias"_a, "relu"_a, "y"_a, "workspace"_a, "stream"_a = 0,                \
      "impl"_a = py::none());                                                                             \
  m.def(                                                                                                  \
      #family "_dgrad",                                                                                   \
      [](const Problem& problem, py::object dy, py::object w, py::object dx, py::object workspace,        \
         uintptr_t stream, const char* impl) {                                                            \
        const float* pdy = in(dy, "dy", problem.y_count());                                               \
        const float* pw = in(w, "w", problem.w_count());                                                  \
        float* pdx = out(dx, "dx", problem.x_count());                                                    \
        void* pspace = scratch(workspace, family##_dgrad_workspace(problem, impl));                       \
        without_gil([&] { family##_dgrad(problem, pdy, pw, pdx, pspace, stream_of(stream), impl); });     \
      },                                                                                                  \
      "problem"_a, "dy"_a, "w"_a, "dx"_a, "workspace"_a, "stream"_a = 0, "impl"_a = py::none());          \
  m.def(                                                                                                  \
      #family "_wgrad",                                                                                   \
      [](const Problem& problem, py::object x, py::object dy, py::object dw, py::object workspace,        \
         uintptr_t stream, const char* impl) {                                                            \
        const float* px = in(x, "x", problem.x_count());                                                  \
        const float* pdy = in(dy, "dy", problem.y_count());                                               \
        float* pdw = out(dw, "dw", problem.w_count());                                                    \
        void* pspace = scratch(workspace, family##_wgrad_workspace(problem, impl));                       \
        without_gil([&] { family##_wgrad(problem, px, pdy, pdw, pspace, stream_of(stream), impl); });     \
      },                                                                                                  \
      "problem"_a, "x"_a, "dy"_a, "dw"_a, "workspace"_a, "stream"_a = 0, "impl"_a = py::none())

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

  BIND_GEMM_FAMILY(conv, ConvProblem);
  BIND_GEMM_FAMILY(local, LocalProblem);
  BIND_GEMM_FAMILY(fc, FcProblem);

  m.def(
      "bias_add",
      [](const BiasProblem& problem, py::object x, py::object bias, bool relu, py::object y,
         uintptr_t stream) {
        const float* px = in(x, "x", problem.count());
        const float* pbias = in(bias, "bias", problem.k);
        float* py_ = out(y, "y", problem.count());
        without_gil([&] { bias_add(problem, px, pbias, relu, py_, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "bias"_a, "relu"_a, "y"_a, "stream"_a = 0);
  m.def("bias_grad_workspace", &bias_grad_workspace, "problem"_a);
  m.def(
      "bias_grad",
      [](const BiasProblem& problem, py::object dy, py::object db, py::object workspace, uintptr_t stream) {
        const float* pdy = in(dy, "dy", problem.count());
        float* pdb = out(db, "db", problem.k);
        void* pspace = scratch(workspace, bias_grad_workspace(problem));
        without_gil([&] { bias_grad(problem, pdy, pdb, pspace, stream_of(stream)); });
      },
      "problem"_a, "dy"_a, "db"_a, "workspace"_a, "stream"_a = 0);

  m.def(
      "relu_forward",
      [](py::object x, py::object y, uintptr_t stream) {
        const int count = count_of(x, "x");
        const float* px = in(x, "x", count);
        float* py_ = out(y, "y", count);
        without_gil([&] { relu_forward(count, px, py_, stream_of(stream)); });
      },
      "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "relu_backward",
      [](py::object y, py::object dy, py::object dx, uintptr_t stream) {
        const int count = count_of(y, "y");
        const float* py_ = in(y, "y", count);
        const float* pdy = in(dy, "dy", count);
        float* pdx = out(dx, "dx", count);
        without_gil([&] { relu_backward(count, py_, pdy, pdx, stream_of(stream)); });
      },
      "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);
  m.def(
      "neuron_forward",
      [](const NeuronProblem& problem, py::object x, py::object y, uintptr_t stream) {
        const float* px = in(x, "x", problem.count);
        float* py_ = out(y, "y", problem.count);
        without_gil([&] { neuron_forward(problem, px, py_, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "neuron_backward",
      [](const NeuronProblem& problem, py::object x, py::object y, py::object dy, py::object dx,
         uintptr_t stream) {
        const float* px = in(x, "x", problem.count);
        const float* py_ = in(y, "y", problem.count);
        const float* pdy = in(dy, "dy", problem.count);
        float* pdx = out(dx, "dx", problem.count);
        without_gil([&] { neuron_backward(problem, px, py_, pdy, pdx, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);

  m.def(
      "lrn_forward",
      [](const LrnProblem& problem, py::object x, py::object y, uintptr_t stream) {
        const float* px = in(x, "x", problem.count());
        float* py_ = out(y, "y", problem.count());
        without_gil([&] { lrn_forward(problem, px, py_, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def("lrn_backward_workspace", &lrn_backward_workspace, "problem"_a);
  m.def(
      "lrn_backward",
      [](const LrnProblem& problem, py::object x, py::object dy, py::object dx, py::object workspace,
         uintptr_t stream) {
        const float* px = in(x, "x", problem.count());
        const float* pdy = in(dy, "dy", problem.count());
        float* pdx = out(dx, "dx", problem.count());
        void* pspace = scratch(workspace, lrn_backward_workspace(problem));
        without_gil([&] { lrn_backward(problem, px, pdy, pdx, pspace, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "dy"_a, "dx"_a, "workspace"_a, "stream"_a = 0);

  m.def("contrast_norm_forward_workspace", &contrast_norm_forward_workspace, "problem"_a);
  m.def("contrast_norm_backward_workspace", &contrast_norm_backward_workspace, "problem"_a);
  m.def(
      "contrast_norm_forward",
      [](const ContrastNormProblem& problem, py::object x, py::object y, py::object workspace,
         uintptr_t stream) {
        const float* px = in(x, "x", problem.count());
        float* py_ = out(y, "y", problem.count());
        void* pspace = scratch(workspace, contrast_norm_forward_workspace(problem));
        without_gil([&] { contrast_norm_forward(problem, px, py_, pspace, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "workspace"_a, "stream"_a = 0);
  m.def(
      "contrast_norm_backward",
      [](const ContrastNormProblem& problem, py::object x, py::object dy, py::object dx, py::object workspace,
         uintptr_t stream) {
        const float* px = in(x, "x", problem.count());
        const float* pdy = in(dy, "dy", problem.count());
        float* pdx = out(dx, "dx", problem.count());
        void* pspace = scratch(workspace, contrast_norm_backward_workspace(problem));
        without_gil([&] { contrast_norm_backward(problem, px, pdy, pdx, pspace, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "dy"_a, "dx"_a, "workspace"_a, "stream"_a = 0);

  m.def(
      "maxpool_forward",
      [](const PoolProblem& problem, py::object x, py::object y, uintptr_t stream) {
        const float* px = in(x, "x", problem.x_count());
        float* py_ = out(y, "y", problem.y_count());
        without_gil([&] { maxpool_forward(problem, px, py_, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "maxpool_backward",
      [](const PoolProblem& problem, py::object x, py::object y, py::object dy, py::object dx,
         uintptr_t stream) {
        const float* px = in(x, "x", problem.x_count());
        const float* py_ = in(y, "y", problem.y_count());
        const float* pdy = in(dy, "dy", problem.y_count());
        float* pdx = out(dx, "dx", problem.x_count());
        without_gil([&] { maxpool_backward(problem, px, py_, pdy, pdx, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);
  m.def(
      "avgpool_forward",
      [](const PoolProblem& problem, py::object x, py::object y, uintptr_t stream) {
        const float* px = in(x, "x", problem.x_count());
        float* py_ = out(y, "y", problem.y_count());
        without_gil([&] { avgpool_forward(problem, px, py_, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);
  m.def(
      "avgpool_backward",
      [](const PoolProblem& problem, py::object dy, py::object dx, uintptr_t stream) {
        const float* pdy = in(dy, "dy", problem.y_count());
        float* pdx = out(dx, "dx", problem.x_count());
        without_gil([&] { avgpool_backward(problem, pdy, pdx, stream_of(stream)); });
      },
      "problem"_a, "dy"_a, "dx"_a, "stream"_a = 0);

  m.def(
      "eltmax_forward",
      [](py::object a, py::object b, py::object y, uintptr_t stream) {
        const int count = count_of(a, "a");
        const float* pa = in(a, "a", count);
        const float* pb = in(b, "b", count);
        float* py_ = out(y, "y", count);
        without_gil([&] { eltmax_forward(count, pa, pb, py_, stream_of(stream)); });
      },
      "a"_a, "b"_a, "y"_a, "stream"_a = 0);
  m.def(
      "eltmax_backward",
      [](py::object x, py::object y, py::object dy, py::object dx, uintptr_t stream) {
        const int count = count_of(x, "x");
        const float* px = in(x, "x", count);
        const float* py_ = in(y, "y", count);
        const float* pdy = in(dy, "dy", count);
        float* pdx = out(dx, "dx", count);
        without_gil([&] { eltmax_backward(count, px, py_, pdy, pdx, stream_of(stream)); });
      },
      "x"_a, "y"_a, "dy"_a, "dx"_a, "stream"_a = 0);

  m.def(
      "dropout",
      [](const DropoutProblem& problem, py::object x, py::object y, uintptr_t stream) {
        const float* px = in(x, "x", problem.count);
        float* py_ = out(y, "y", problem.count);
        without_gil([&] { dropout(problem, px, py_, stream_of(stream)); });
      },
      "problem"_a, "x"_a, "y"_a, "stream"_a = 0);

  m.def(
      "softmax_forward",
      [](const SoftmaxProblem& problem, py::object logits, py::object probabilities, uintptr_t stream) {
        const float* plogits = in(logits, "logits", problem.count());
        float* pprobabilities = out(probabilities, "probabilities", problem.count());
        without_gil([&] { softmax_forward(problem, plogits, pprobabilities, stream_of(stream)); });
      },
      "problem"_a, "logits"_a, "probabilities"_a, "stream"_a = 0);
  m.def(
      "softmax_cross_entropy_forward",
      [](const SoftmaxProblem& problem, py::object logits, py::object labels, py::object probabilities,
         py::object loss, py::object rank, uintptr_t stream) {
        const float* plogits = in(logits, "logits", problem.count());
        const int32_t* plabels = in<int32_t>(labels, "labels", problem.n);
        float* pprobabilities = out(probabilities, "probabilities", problem.count());
        float* ploss = out(loss, "loss", problem.n);
        int32_t* prank = out<int32_t>(rank, "rank", problem.n);
        without_gil([&] {
          softmax_cross_entropy_forward(problem, plogits, plabels, pprobabilities, ploss, prank,
                                        stream_of(stream));
        });
      },
      "problem"_a, "logits"_a, "labels"_a, "probabilities"_a, "loss"_a, "rank"_a, "stream"_a = 0);
  m.def(
      "softmax_cross_entropy_backward",
      [](const SoftmaxProblem& problem, py::object probabilities, py::object labels, float scale,
         py::object dlogits, uintptr_t stream) {
        const float* pprobabilities = in(probabilities, "probabilities", problem.count());
        const int32_t* plabels = in<int32_t>(labels, "labels", problem.n);
        float* pdlogits = out(dlogits, "dlogits", problem.count());
        without_gil([&] {
          softmax_cross_entropy_backward(problem, pprobabilities, plabels, scale, pdlogits,
                                         stream_of(stream));
        });
      },
      "problem"_a, "probabilities"_a, "labels"_a, "scale"_a, "dlogits"_a, "stream"_a = 0);

  m.def(
      "sgd_update",
      [](const SgdProblem& problem, py::object g, py::object v, py::object w, uintptr_t stream) {
        const float* pg = in(g, "g", problem.count);
        float* pv = out(v, "v", problem.count);
        float* pw = out(w, "w", problem.count);
        without_gil([&] { sgd_update(problem, pg, pv, pw, stream_of(stream)); });
      },
      "problem"_a, "g"_a, "v"_a, "w"_a, "stream"_a = 0);

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
        const uint8_t* pimages = in<uint8_t>(images, "images", problem.images_count());
        const int32_t* ptop = in<int32_t>(top, "top", problem.n);
        const int32_t* pleft = in<int32_t>(left, "left", problem.n);
        const uint8_t* pmirror = in<uint8_t>(mirror, "mirror", problem.n);
        const float* pmean = in_or_null(mean, "mean", int64_t{problem.h} * problem.w * problem.c);
        const float* pshift = in_or_null(shift, "shift", int64_t{problem.n} * problem.c);
        float* py_ = out(y, "y", problem.y_count());
        without_gil([&] {
          input_transform(problem, pimages, ptop, pleft, pmirror, pmean, pshift, scale, py_,
                          stream_of(stream));
        });
      },
      "problem"_a, "images"_a, "top"_a, "left"_a, "mirror"_a, "mean"_a, "shift"_a, "scale"_a, "y"_a,
      "stream"_a = 0);

  m.def(
      "add",
      [](py::object a, py::object b, py::object y, uintptr_t stream, float alpha, float beta) {
        const int count = count_of(a, "a");
        const float* pa = in(a, "a", count);
        const float* pb = in(b, "b", count);
        float* py_ = out(y, "y", count);
        without_gil([&] { add(count, alpha, pa, beta, pb, py_, stream_of(stream)); });
      },
      "a"_a, "b"_a, "y"_a, "stream"_a = 0, "alpha"_a = 1.0f, "beta"_a = 1.0f);
  m.def(
      "copy",
      [](py::object target, int target_device, py::object source, int source_device, uintptr_t stream) {
        const int count = count_of(source, "source");
        const float* psource = in(source, "source", count);
        float* ptarget = out(target, "target", count);
        without_gil([&] {
          copy(ptarget, target_device, psource, source_device, count * sizeof(float), stream_of(stream));
        });
      },
      "target"_a, "target_device"_a, "source"_a, "source_device"_a, "stream"_a = 0);

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
