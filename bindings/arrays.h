// Arrays from Python, checked for type, contiguity, writability and size, so that no call can make a kernel
// leave its buffers. With CCONVNET_DEVICE_ARRAYS they are those of a GPU (anything with
// __cuda_array_interface__, such as CuPy's), otherwise those of the host (anything with the buffer protocol).
// NumPy and CuPy have no bfloat16: an array of uint16 is one of bfloat16s, by their bits.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "operation.h"

namespace cconvnet::bindings {

namespace py = pybind11;

[[noreturn]] inline void reject(const char* name, const std::string& what) {
  throw py::value_error(std::string(name) + " " + what);
}

// An element type's name for people, in CuPy's interface and in the buffer protocol.
struct ElementType {
  const char* name;
  const char* typestr;
  const char* format;
  size_t bytes;
};

inline const ElementType& type_of(Element element) {
  static constexpr ElementType types[] = {{"float32", "<f4", "f", 4},
                                          {"uint16 (bfloat16's bits)", "<u2", "H", 2},
                                          {"int64", "<i8", "l", 8},
                                          {"int32", "<i4", "i", 4},
                                          {"uint8", "|u1", "B", 1}};
  return types[static_cast<int>(element)];
}

// An array as its producer describes it.
struct View {
  void* data;
  size_t bytes;
  std::string type;
  bool contiguous, readonly;
};

#ifdef CCONVNET_DEVICE_ARRAYS

inline bool is_of(const View& view, const ElementType& type) {
  return view.type == type.typestr;
}

inline std::string type_for_people(const View& view) {
  return view.type;
}

inline View view_of(py::handle array, const char* name) {
  if (!py::hasattr(array, "__cuda_array_interface__")) {
    throw py::type_error(std::string(name) + " must be an array on a CUDA device");
  }
  const py::dict interface = array.attr("__cuda_array_interface__");
  const py::tuple data = interface["data"], shape = interface["shape"];
  View view;
  view.data = reinterpret_cast<void*>(data[0].cast<uintptr_t>());
  view.readonly = data[1].cast<bool>();
  view.type = py::str(interface["typestr"]);
  const size_t item = view.type.back() - '0';
  view.bytes = item;
  for (py::handle extent : shape) view.bytes *= extent.cast<size_t>();
  view.contiguous = true;
  if (interface.contains("strides") && !interface["strides"].is_none() && view.bytes > 0) {
    const py::tuple strides = interface["strides"];
    size_t dense = item;
    for (size_t axis = shape.size(); axis-- > 0;) {
      const size_t extent = shape[axis].cast<size_t>();
      if (extent != 1 && strides[axis].cast<int64_t>() != static_cast<int64_t>(dense)) {
        view.contiguous = false;
      }
      dense *= extent;
    }
  }
  return view;
}

#else

inline bool is_of(const View& view, const ElementType& type) {
  return view.type == type.format;
}

inline std::string type_for_people(const View& view) {
  return "buffer format '" + view.type + "'";
}

inline View view_of(py::handle array, const char* name) {
  Py_buffer buffer;
  if (PyObject_GetBuffer(array.ptr(), &buffer, PyBUF_STRIDES | PyBUF_FORMAT) != 0) {
    PyErr_Clear();
    throw py::type_error(std::string(name) + " must be a NumPy array");
  }
  const View view{buffer.buf, static_cast<size_t>(buffer.len), buffer.format ? buffer.format : "B",
                  PyBuffer_IsContiguous(&buffer, 'C') != 0, buffer.readonly != 0};
  // The array outlives the call, and NumPy never moves an array's memory.
  PyBuffer_Release(&buffer);
  return view;
}

#endif

inline View checked(py::handle array, const char* name, Element element, bool written) {
  const View view = view_of(array, name);
  const ElementType& type = type_of(element);
  if (!is_of(view, type)) {
    reject(name, std::string("must be ") + type.name + ", not " + type_for_people(view));
  }
  if (!view.contiguous) reject(name, "must be C-contiguous");
  if (written && view.readonly) reject(name, "must be writable");
  return view;
}

// The data of an array of `count` elements.
inline void* data_of(py::handle array, const char* name, Element element, int64_t count, bool written) {
  const View view = checked(array, name, element, written);
  const size_t item = type_of(element).bytes;
  if (view.bytes != count * item) {
    reject(name,
           "must have " + std::to_string(count) + " elements, not " + std::to_string(view.bytes / item));
  }
  return view.data;
}

// The number of elements of an array that says the size of a call.
inline int count_of(py::handle array, const char* name, Element element) {
  const size_t count = checked(array, name, element, false).bytes / type_of(element).bytes;
  if (count == 0) reject(name, "must not be empty");
  if (count > INT32_MAX) reject(name, "has more than 2^31 - 1 elements");
  return static_cast<int>(count);
}

// float32 or bfloat16; an array of another type is rejected when its data is taken.
inline Element element_of(py::handle array, const char* name) {
  return is_of(view_of(array, name), type_of(Element::bfloat16)) ? Element::bfloat16 : Element::float32;
}

// A workspace is bytes, at least as many as needed.
inline void* workspace_of(py::handle array, size_t needed) {
  const std::string least = "must have at least " + std::to_string(needed) + " bytes, not ";
  if (array.is_none()) {
    if (needed > 0) reject("workspace", least + "be None");
    return nullptr;
  }
  const View view = checked(array, "workspace", Element::uint8, true);
  if (view.bytes < needed) reject("workspace", least + std::to_string(view.bytes));
  return view.data;
}

}  // namespace cconvnet::bindings
