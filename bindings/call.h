// Python functions from the descriptions in operation.h: NAME, NAME_workspace for an operation that needs a
// workspace and NAME_impls for one with a selection table. Shapes are checked before, by cconvnet.ops.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>
#include <vector>

#include "arrays.h"
#include "operation.h"
#ifdef CCONVNET_COUNTING
#include "emulator/counting.h"
#endif

namespace cconvnet::bindings {

// One call from Python. Its objects are matched with the arguments; from them the kernels' values are read.
class Call {
 public:
  Call(const std::string& name, const std::vector<Argument>& arguments, const py::args& positional,
       const py::kwargs& named)
      : name_(name), arguments_(arguments) {
    match(positional, named);
    for (size_t i = 0; i < arguments.size(); ++i) values_[i] = read(arguments[i], objects_[i]);
  }

  void run(const Operation& operation) {
#ifdef CCONVNET_COUNTING
    emulator::counting::forget_arrays();
#endif
    const Element element = element_of_call(operation);
    const int64_t count = operation.counted < 0 ? 0 : count_of_call(operation.counted, element);
    for (size_t i = 0; i < arguments_.size(); ++i) read_array(i, element, count);
    const Operation::Run& run = element == Element::bfloat16 ? operation.run_bfloat16 : operation.run_float32;
    // Other Python threads, such as the data loader's, run while a kernel does.
    py::gil_scoped_release release;
    run(values_.data());
  }

  const Problems& problems() const { return problems_; }
  const char* impl() const { return impl_; }
  bool sums() const { return sums_; }

 private:
  using Kind = Argument::Kind;
  static constexpr size_t kMostArguments = 16;

  [[noreturn]] void refuse(const std::string& what) const { throw py::type_error(name_ + "() " + what); }

  // Finds the object of each argument. If it is left out, it is None where it may be, else a null handle.
  void match(const py::args& positional, const py::kwargs& named) {
    if (arguments_.size() > kMostArguments) throw std::logic_error(name_ + "() has too many arguments");
    size_t next = 0, found = 0;
    for (size_t i = 0; i < arguments_.size(); ++i) {
      const Argument& argument = arguments_[i];
      if (argument.kind == Kind::count) continue;
      py::handle object;
      if (next < positional.size()) {
        object = PyTuple_GET_ITEM(positional.ptr(), next++);
      } else if (named.size() > found) {
        object = PyDict_GetItemString(named.ptr(), argument.name);
        found += bool(object);
      }
      if (!object && !argument.nullable && !argument.initial) refuse("needs " + std::string(argument.name));
      objects_[i] = object || !argument.nullable ? object : py::handle(Py_None);
    }
    if (next < positional.size()) refuse("takes " + std::to_string(next) + " arguments at most");
    if (found < named.size()) refuse("got a keyword that is unknown or also given by position");
  }

  template <class T>
  T scalar(const Argument& argument, py::handle object, const char* kind) const {
    py::detail::make_caster<T> caster;
    if (!caster.load(object, true)) refuse(std::string(argument.name) + " must be " + kind);
    return py::detail::cast_op<T>(caster);
  }

  // Returns the value of an argument that is no array. Those of arrays depend on all others.
  Value read(const Argument& argument, py::handle object) {
    Value value{};
    if (argument.kind == Kind::problem) {
      py::detail::type_caster_generic caster(*argument.type);
      if (!caster.load(object, argument.nullable)) {
        const py::str type = py::detail::get_type_handle(*argument.type, true).attr("__name__");
        refuse(argument.name + (" must be of type " + std::string(type)) + ", not " +
               Py_TYPE(object.ptr())->tp_name);
      }
      value.pointer = caster.value;
      if (value.pointer) problems_.add(*argument.type, value.pointer);
    } else if (argument.kind == Kind::impl && !object.is_none()) {
      // The string keeps the characters.
      impl_ = PyUnicode_Check(object.ptr()) ? PyUnicode_AsUTF8(object.ptr()) : nullptr;
      if (!impl_) refuse("impl must be a string");
      value.pointer = const_cast<char*>(impl_);
    } else if (argument.kind == Kind::real) {
      value.real = object ? scalar<float>(argument, object, "a number") : *argument.initial;
    } else if (argument.kind == Kind::integer) {
      value.integer =
          object ? scalar<int>(argument, object, "an integer") : static_cast<int>(*argument.initial);
    } else if (argument.kind == Kind::flag) {
      value.integer = object ? scalar<bool>(argument, object, "a bool") : *argument.initial != 0;
    } else if (argument.kind == Kind::stream && object) {
      value.pointer = reinterpret_cast<Stream>(scalar<uintptr_t>(argument, object, "an integer"));
    }
    if (argument.sums) sums_ = argument.kind == Kind::flag ? value.integer : !object.is_none();
    return value;
  }

  Element element_of_call(const Operation& operation) const {
    if (operation.precision) {
      return operation.precision(problems_) == Precision::bf16 ? Element::bfloat16 : Element::float32;
    }
    if (operation.typed < 0) return Element::float32;
    return element_of(objects_[operation.typed], arguments_[operation.typed].name);
  }

  int64_t count_of_call(int counted, Element element) const {
    const Argument& argument = arguments_[counted];
    return count_of(objects_[counted], argument.name, own(argument, element));
  }

  static Element own(const Argument& argument, Element element) {
    return argument.element == Element::call ? element : argument.element;
  }

  // Sets the value of an argument that is made of arrays or depends on them.
  void read_array(size_t i, Element element, int64_t count) {
    const Argument& argument = arguments_[i];
    const py::handle object = objects_[i];
    if (argument.kind == Kind::count) {
      values_[i].integer = count;
    } else if (argument.kind == Kind::workspace) {
      values_[i].pointer = workspace_of(object, argument.bytes(problems_, impl_, sums_));
    } else if (argument.kind == Kind::array && !(argument.nullable && object.is_none())) {
      if (argument.size) count = argument.size(problems_);
      values_[i].pointer = data_of(object, argument.name, own(argument, element), count, argument.written);
    } else if (argument.kind == Kind::update && !object.is_none()) {
      read_update(object, argument.size(problems_));
      values_[i].pointer = &update_;
    }
    if (argument.kind == Kind::workspace || argument.kind == Kind::array) {
      name_for_counts(argument.name, values_[i].pointer);
    }
  }

  static void name_for_counts([[maybe_unused]] const char* name, [[maybe_unused]] const void* array) {
#ifdef CCONVNET_COUNTING
    emulator::counting::name_array(name, array);
#endif
  }

  void read_update(py::handle object, int64_t count) {
    if (!py::isinstance<py::tuple>(object) || py::len(object) != 6) {
      reject("update", "must be (problem, v, w, w_bf16, rates, halt)");
    }
    const auto fields = py::reinterpret_borrow<py::tuple>(object);
    const auto data = [&](int i, const char* name, Element element, int64_t size, bool written) {
      const bool absent = i > 2 && fields[i].is_none();
      void* const array = absent ? nullptr : data_of(fields[i], name, element, size, written);
      name_for_counts(name, array);
      return array;
    };
    update_.problem = fields[0].cast<SgdProblem>();
    if (update_.problem.count != count) {
      reject("update", "must be of " + std::to_string(count) + " elements, not " +
                           std::to_string(update_.problem.count));
    }
    update_.v = static_cast<float*>(data(1, "v", Element::float32, count, true));
    update_.w = static_cast<float*>(data(2, "w", Element::float32, count, true));
    update_.w_bf16 = static_cast<bfloat16*>(data(3, "w_bf16", Element::bfloat16, count, true));
    update_.rates = static_cast<const float*>(data(4, "rates", Element::float32, 2, false));
    update_.halt = static_cast<const int32_t*>(data(5, "halt", Element::int32, 1, false));
  }

  const std::string& name_;
  const std::vector<Argument>& arguments_;
  std::array<py::handle, kMostArguments> objects_;
  std::array<Value, kMostArguments> values_;
  Problems problems_;
  const char* impl_ = nullptr;
  bool sums_ = false;
  Update update_;
};

// Adds a function of `arguments`, which returns function(call), to the module.
template <class Function>
void define(py::module_& m, const std::string& name, const std::vector<Argument>& arguments,
            const Function& function) {
  std::string signature;
  for (const Argument& argument : arguments) {
    if (argument.kind == Argument::Kind::count) continue;
    signature += (signature.empty() ? "" : ", ") + std::string(argument.name);
    if (argument.nullable) signature += "=None";
    if (argument.initial) signature += "=" + std::to_string(static_cast<int>(*argument.initial));
  }
  const auto call = [=](const py::args& positional, const py::kwargs& named) {
    Call call(name, arguments, positional, named);
    return function(call);
  };
  m.def(name.c_str(), call, (name + "(" + signature + ")").c_str());
}

inline void define(py::module_& m, const Operation& operation) {
  define(m, operation.name, operation.arguments, [&](Call& call) { call.run(operation); });
  std::vector<Argument> arguments;
  for (const Argument& argument : operation.arguments) {
    if (argument.kind == Argument::Kind::problem && !argument.nullable) arguments.push_back(argument);
  }
  if (operation.impls) {
    define(m, operation.name + "_impls", arguments,
           [&](const Call& call) { return operation.impls(call.problems()); });
    arguments.push_back(impl());
  }
  for (const Argument& argument : operation.arguments) {
    if (!argument.sums) continue;
    Argument sums = with_default({Argument::Kind::flag, "sums"}, 0);
    sums.sums = true;
    arguments.push_back(sums);
  }
  for (const Argument& argument : operation.arguments) {
    if (argument.kind != Argument::Kind::workspace) continue;
    define(m, operation.name + "_workspace", arguments,
           [&](const Call& call) { return argument.bytes(call.problems(), call.impl(), call.sums()); });
  }
}

}  // namespace cconvnet::bindings
