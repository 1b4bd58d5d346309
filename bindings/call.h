// Python functions made of the descriptions in operation.h: NAME, NAME_workspace for an operation that needs
// a workspace and NAME_impls for one with a selection table. Shapes are checked before, in cconvnet/ops.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "arrays.h"
#include "operation.h"

namespace cconvnet::bindings {

// The arguments of one call: first the objects that Python passed, then the values that the kernels receive.
class Call {
 public:
  Call(const std::string& name, const std::vector<Argument>& arguments, const py::args& positional,
       const py::kwargs& named)
      : name_(name), arguments_(arguments) {
    if (arguments.size() > kMost) throw std::logic_error(name + " has too many arguments");
    bind(positional, named);
    for (size_t i = 0; i < arguments.size(); ++i) load(i);
  }

  // The values of operation's arguments, with arrays of the element type that is returned too.
  Element check_arrays(const Operation& operation) {
    const Element element = element_of_call(operation);
    const int64_t count = count_of_call(element);
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const Argument& argument = arguments_[i];
      if (argument.kind == Argument::Kind::count) values[i].integer = count;
      if (argument.kind == Argument::Kind::array) {
        values[i].pointer = array(i, element, argument.size ? argument.size(problems) : count);
      } else if (argument.kind == Argument::Kind::update && !objects_[i].is_none()) {
        read_update(objects_[i], argument.size(problems));
        values[i].pointer = &update_;
      } else if (argument.kind == Argument::Kind::workspace) {
        values[i].pointer = workspace_of(objects_[i], argument.bytes(problems, impl));
      }
    }
    return element;
  }

  Problems problems;
  const char* impl = nullptr;
  static constexpr size_t kMost = 16;
  std::array<Value, kMost> values{};

 private:
  using Kind = Argument::Kind;

  [[noreturn]] void refuse(const std::string& what) const { throw py::type_error(name_ + "() " + what); }

  bool is_passed(const Argument& argument) const { return argument.kind != Kind::count; }

  // Finds the object of each argument; the missing ones that may be are None, or have no object.
  void bind(const py::args& positional, const py::kwargs& named) {
    size_t next = 0, found = 0;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const Argument& argument = arguments_[i];
      if (!is_passed(argument)) continue;
      const py::handle by_name = named.size() ? PyDict_GetItemString(named.ptr(), argument.name) : nullptr;
      found += bool(by_name);
      if (next < positional.size()) {
        if (by_name) refuse("got two values for " + std::string(argument.name));
        objects_[i] = PyTuple_GET_ITEM(positional.ptr(), next++);
      } else if (by_name) {
        objects_[i] = by_name;
      } else if (argument.nullable) {
        objects_[i] = Py_None;
      } else if (!argument.initial) {
        refuse("needs " + std::string(argument.name));
      }
    }
    if (next < positional.size()) refuse("takes " + std::to_string(next) + " arguments at most");
    if (found < named.size()) refuse("got an argument of an unknown name");
  }

  template <class T>
  T scalar(size_t i, const char* kind) const {
    py::detail::make_caster<T> caster;
    if (!caster.load(objects_[i], true)) refuse(std::string(arguments_[i].name) + " must be " + kind);
    return py::detail::cast_op<T>(caster);
  }

  // A string's characters, which it keeps.
  const char* text(size_t i) const {
    const char* characters =
        PyUnicode_Check(objects_[i].ptr()) ? PyUnicode_AsUTF8(objects_[i].ptr()) : nullptr;
    if (!characters) refuse(std::string(arguments_[i].name) + " must be a string");
    return characters;
  }

  // The values of all arguments but arrays, which depend on the others.
  void load(size_t i) {
    const Argument& argument = arguments_[i];
    Value& value = values[i];
    if (argument.kind == Kind::problem) {
      py::detail::type_caster_generic caster(*argument.type);
      if (!caster.load(objects_[i], argument.nullable)) {
        refuse(std::string(argument.name) + " must be another problem, not " +
               std::string(py::str(py::type::of(objects_[i]).attr("__name__"))));
      }
      value.pointer = caster.value;
      if (value.pointer) problems.add(*argument.type, value.pointer);
    } else if (argument.kind == Kind::impl) {
      if (!objects_[i].is_none()) impl = text(i);
      value.pointer = const_cast<char*>(impl);
    } else if (argument.kind == Kind::real) {
      value.real = objects_[i] ? scalar<float>(i, "a number") : *argument.initial;
    } else if (argument.kind == Kind::integer) {
      value.integer = scalar<int>(i, "an integer");
    } else if (argument.kind == Kind::flag) {
      value.integer = scalar<bool>(i, "a bool");
    } else if (argument.kind == Kind::stream) {
      value.pointer = objects_[i] ? reinterpret_cast<Stream>(scalar<uintptr_t>(i, "an integer")) : nullptr;
    }
  }

  // The first array that is read and satisfies a condition, or the first of any such; all arguments' number
  // if none.
  template <class Condition>
  size_t first_array(const Condition& condition) const {
    size_t written = arguments_.size();
    for (size_t i = arguments_.size(); i-- > 0;) {
      if (arguments_[i].kind == Kind::array && condition(arguments_[i]) && arguments_[i].written) written = i;
    }
    for (size_t i = 0; i < arguments_.size(); ++i) {
      if (arguments_[i].kind == Kind::array && condition(arguments_[i]) && !arguments_[i].written) return i;
    }
    return written;
  }

  Element element_of_call(const Operation& operation) const {
    if (operation.precision) {
      return operation.precision(problems) == Precision::bf16 ? Element::bfloat16 : Element::float32;
    }
    const size_t i = first_array([](const Argument& argument) { return argument.element == Element::call; });
    return i == arguments_.size() ? Element::float32 : element_of(objects_[i], arguments_[i].name);
  }

  int64_t count_of_call(Element element) const {
    const size_t i = first_array([](const Argument& argument) { return !argument.size; });
    return i == arguments_.size() ? 0
                                  : count_of(objects_[i], arguments_[i].name, own(arguments_[i], element));
  }

  static Element own(const Argument& argument, Element call) {
    return argument.element == Element::call ? call : argument.element;
  }

  void* array(size_t i, Element element, int64_t count) const {
    const Argument& argument = arguments_[i];
    if (argument.nullable && objects_[i].is_none()) return nullptr;
    return data_of(objects_[i], argument.name, own(argument, element), count, argument.written);
  }

  void read_update(py::handle object, int64_t count) {
    const py::tuple fields =
        py::isinstance<py::tuple>(object) ? py::reinterpret_borrow<py::tuple>(object) : py::tuple();
    if (fields.size() != 6) reject("update", "must be (problem, v, w, w_bf16, rates, halt)");
    const auto optional = [&](int i, const char* name, Element element, int64_t size, bool written) {
      return fields[i].is_none() ? nullptr : data_of(fields[i], name, element, size, written);
    };
    update_.problem = fields[0].cast<SgdProblem>();
    if (update_.problem.count != count) {
      reject("update", "must be of " + std::to_string(count) + " elements, not " +
                           std::to_string(update_.problem.count));
    }
    update_.v = static_cast<float*>(data_of(fields[1], "v", Element::float32, count, true));
    update_.w = static_cast<float*>(data_of(fields[2], "w", Element::float32, count, true));
    update_.w_bf16 = static_cast<bfloat16*>(optional(3, "w_bf16", Element::bfloat16, count, true));
    update_.rates = static_cast<const float*>(optional(4, "rates", Element::float32, 2, false));
    update_.halt = static_cast<const int32_t*>(optional(5, "halt", Element::int32, 1, false));
  }

  const std::string& name_;
  const std::vector<Argument>& arguments_;
  std::array<py::handle, kMost> objects_;
  Update update_;
};

// "name(problem, x, y, stream=0)"
inline std::string signature(const std::string& name, const std::vector<Argument>& arguments) {
  std::string text;
  for (const Argument& argument : arguments) {
    if (argument.kind == Argument::Kind::count) continue;
    text += (text.empty() ? "" : ", ") + std::string(argument.name);
    if (argument.nullable) text += "=None";
    if (argument.initial) text += "=" + std::to_string(static_cast<int>(*argument.initial));
  }
  return name + "(" + text + ")";
}

// Adds `function(call)` to the module, as a function of these arguments.
template <class Function>
void define(py::module_& m, const std::string& name, std::vector<Argument> arguments, Function function) {
  const std::string doc = signature(name, arguments);
  m.def(
      name.c_str(),
      [=](const py::args& positional, const py::kwargs& named) {
        Call call(name, arguments, positional, named);
        return function(call);
      },
      doc.c_str());
}

inline void define(py::module_& m, const Operation& operation) {
  using Kind = Argument::Kind;
  define(m, operation.name, operation.arguments, [&operation](Call& call) {
    const Element element = call.check_arrays(operation);
    const auto& run = element == Element::bfloat16 ? operation.run_bfloat16 : operation.run_float32;
    // Other Python threads, the data loader's among them, run while a kernel does.
    py::gil_scoped_release release;
    run(call.values.data());
  });
  std::vector<Argument> problems;
  for (const Argument& argument : operation.arguments) {
    if (argument.kind == Kind::problem && !argument.nullable) problems.push_back(argument);
  }
  if (operation.impls) {
    define(m, operation.name + "_impls", problems,
           [&operation](const Call& call) { return operation.impls(call.problems); });
    problems.push_back(impl());
  }
  for (const Argument& argument : operation.arguments) {
    if (argument.kind != Kind::workspace) continue;
    define(m, operation.name + "_workspace", problems,
           [&argument](const Call& call) { return argument.bytes(call.problems, call.impl); });
  }
}

}  // namespace cconvnet::bindings
