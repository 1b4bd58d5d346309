// Descriptions of operations, from which call.h makes Python functions. Each family has a file with one list:
//
//   const Operations kOperations = {
//       operation("maxpool_forward", maxpool_forward<float>, maxpool_forward<bfloat16>, "problem",
//                 array("x", &PoolProblem::x_count), array("y", &PoolProblem::y_count), stream()),
//   };
//
// The list adds itself to all(), which module.cpp binds, so a new family edits no other file. Nothing here
// needs pybind11: such a file compiles in half a second, and its object serves all three modules.
//
// There is one declaration for each parameter of the C++ function, in its order, which is Python's order too.
// The parameter's type completes it: a reference is a problem; a pointer to const is read, another is
// written; a pointer whose type differs between the two functions has the element type of the call.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "api.h"

namespace cconvnet::bindings {

// The problems of a call, by their types.
class Problems {
 public:
  void add(const std::type_info& type, const void* problem) { problems_.at(count_++) = {&type, problem}; }

  template <class Problem>
  const Problem& get() const {
    for (size_t i = 0; i < count_; ++i) {
      if (*problems_[i].first == typeid(Problem)) return *static_cast<const Problem*>(problems_[i].second);
    }
    throw std::logic_error("an argument's size is declared by a problem that the operation does not have");
  }

 private:
  std::array<std::pair<const std::type_info*, const void*>, 2> problems_;
  size_t count_ = 0;
};

// `call` is float32 or bfloat16, the same for all such arrays of a call: that of the problem's precision if
// it has one, otherwise that of the first such array that is read, or of the first that is written.
enum class Element { float32, bfloat16, int64, int32, uint8, call };

struct Argument {
  enum class Kind { by_type, problem, count, array, update, workspace, real, integer, flag, impl, stream };

  // A problem or a scalar, by the parameter's type.
  Argument(const char* name) : name(name) {}
  Argument(Kind kind, const char* name) : kind(kind), name(name) {}

  Kind kind = Kind::by_type;
  const char* name;
  bool nullable = false;                         // None, which is also the default, is a null pointer
  std::optional<double> initial;                 // the default of a scalar
  const std::type_info* type = nullptr;          // of a problem
  Element element = Element::call;               // of an array
  bool written = false;                          // of an array
  bool sums = false;                             // of one whose presence, or a flag that, asks for sums
  std::function<int64_t(const Problems&)> size;  // in elements; without one, the call's count
  // Of a workspace; `sums` is whether an output by sums over rows is also asked for (with_sums).
  std::function<size_t(const Problems&, const char* impl, bool sums)> bytes;
};

// An argument as the kernels' function receives it.
union Value {
  void* pointer;
  double real;
  int64_t integer;
};

struct Operation {
  using Run = std::function<void(const Value*)>;

  std::string name;
  std::vector<Argument> arguments;
  Run run_float32, run_bfloat16;  // by the element type of the call
  int typed = -1, counted = -1;   // the arrays that decide the element type and the count, if any
  std::function<Precision(const Problems&)> precision;
  std::function<std::vector<std::string>(const Problems&)> impls;  // NAME_impls for Python

  // Adds the selection table, whose rows for a problem `names` returns.
  template <class Problem>
  Operation chosen_from(std::vector<std::string> (*names)(const Problem&)) && {
    impls = [names](const Problems& problems) { return names(problems.get<Problem>()); };
    return std::move(*this);
  }
};

// The operations of every family, in no particular order.
inline std::vector<Operation>& all() {
  static std::vector<Operation> operations;
  return operations;
}

struct Operations {
  Operations(std::initializer_list<Operation> operations) {
    all().insert(all().end(), operations.begin(), operations.end());
  }
};

// ---- declarations ---------------------------------------------------------------------------------------

// An array with as many elements as a member of the problem, or a function of it, says.
template <class Problem, class Size>
Argument sized_array(const char* name, Size size) {
  Argument argument(Argument::Kind::array, name);
  argument.size = [size](const Problems& problems) { return std::invoke(size, problems.get<Problem>()); };
  return argument;
}

template <class Problem>
Argument array(const char* name, int (Problem::*size)() const) {
  return sized_array<Problem>(name, size);
}

template <class Problem>
Argument array(const char* name, int Problem::* size) {
  return sized_array<Problem>(name, size);
}

template <class Problem>
Argument array(const char* name, int64_t (*size)(const Problem&)) {
  return sized_array<Problem>(name, size);
}

inline Argument array(const char* name, int64_t size) {
  Argument argument(Argument::Kind::array, name);
  argument.size = [size](const Problems&) { return size; };
  return argument;
}

// An array of the call's count, which is the number of elements of the first such array that is read.
inline Argument array(const char* name) {
  return {Argument::Kind::array, name};
}

// The call's count, which Python does not pass.
inline Argument count() {
  return {Argument::Kind::count, "count"};
}

inline Argument optional(Argument argument) {
  argument.nullable = true;
  return argument;
}

inline Argument with_default(Argument argument, double initial) {
  argument.initial = initial;
  return argument;
}

// The workspace, of the bytes that `size` returns; Python asks for them by NAME_workspace.
template <class... Problem>
Argument workspace(size_t (*size)(const Problem&...)) {
  Argument argument = optional({Argument::Kind::workspace, "workspace"});
  argument.bytes = [size](const Problems& problems, const char*, bool) {
    return size(problems.get<Problem>()...);
  };
  return argument;
}

template <class Problem>
Argument workspace(size_t (*size)(const Problem&, bool sums)) {
  Argument argument = optional({Argument::Kind::workspace, "workspace"});
  argument.bytes = [size](const Problems& problems, const char*, bool sums) {
    return size(problems.get<Problem>(), sums);
  };
  return argument;
}

template <class Problem, class Other>
Argument workspace(size_t (*size)(const Problem&, const Other&, bool sums)) {
  Argument argument = optional({Argument::Kind::workspace, "workspace"});
  argument.bytes = [size](const Problems& problems, const char*, bool sums) {
    return size(problems.get<Problem>(), problems.get<Other>(), sums);
  };
  return argument;
}

template <class Problem>
Argument workspace(size_t (*size)(const Problem&, const char* impl)) {
  Argument argument = optional({Argument::Kind::workspace, "workspace"});
  argument.bytes = [size](const Problems& problems, const char* impl, bool) {
    return size(problems.get<Problem>(), impl);
  };
  return argument;
}

template <class Problem>
Argument workspace(size_t (*size)(const Problem&, const char* impl, bool sums)) {
  Argument argument = optional({Argument::Kind::workspace, "workspace"});
  argument.bytes = [size](const Problems& problems, const char* impl, bool sums) {
    return size(problems.get<Problem>(), impl, sums);
  };
  return argument;
}

// An Update of as many weights as the array `weights` has elements. Python passes it as a tuple (SgdProblem, v,
// w, w_bf16, rates, halt), of which the last three may be None.
inline Argument update(Argument weights) {
  weights.kind = Argument::Kind::update;
  weights.name = "update";
  return optional(std::move(weights));
}

// An output that a pass computes too if it is given, by sums over rows: the gradient of the bias of the layer
// before, or the mean of the output. Python asks for the workspace that this needs by NAME_workspace's `sums`.
inline Argument with_sums(Argument argument) {
  argument.sums = true;
  return optional(std::move(argument));
}

inline Argument impl() {
  return optional({Argument::Kind::impl, "impl"});
}

inline Argument stream() {
  return with_default({Argument::Kind::stream, "stream"}, 0);
}

inline InputEpilogue input_epilogue(const void* masked_by, float scale, float* db) {
  cconvnet::detail::require(db || !masked_by, "masked_by must not be given without db");
  return {masked_by, scale, db};
}

// ---- operations -----------------------------------------------------------------------------------------

namespace detail {

// Of void it is the problem's precision that says the element type.
template <class T>
constexpr Element element_of() {
  return std::is_same_v<T, float>      ? Element::float32
         : std::is_same_v<T, bfloat16> ? Element::bfloat16
         : std::is_same_v<T, int64_t>  ? Element::int64
         : std::is_same_v<T, int32_t>  ? Element::int32
         : std::is_same_v<T, uint8_t>  ? Element::uint8
                                       : Element::call;
}

// Completes an argument by its parameter's types in the functions for float and for bfloat16.
template <class Parameter, class Other>
Argument completed(Argument argument) {
  using Kind = Argument::Kind;
  using Target = std::remove_pointer_t<std::remove_reference_t<Parameter>>;
  if (argument.kind == Kind::array) {
    if (std::is_same_v<Parameter, Other>) argument.element = element_of<std::remove_const_t<Target>>();
    argument.written = !std::is_const_v<Target>;
  } else if (argument.kind == Kind::by_type) {
    if constexpr (std::is_class_v<Target>) {
      argument.kind = Kind::problem;
      argument.type = &typeid(Target);
      argument.nullable = std::is_pointer_v<Parameter>;
    } else {
      if (std::is_pointer_v<Parameter>) throw std::logic_error(argument.name + std::string(" is only named"));
      argument.kind = std::is_same_v<Parameter, float>  ? Kind::real
                      : std::is_same_v<Parameter, bool> ? Kind::flag
                                                        : Kind::integer;
    }
  }
  return argument;
}

template <class Parameter>
Parameter parameter(const Value& value) {
  if constexpr (std::is_reference_v<Parameter>) {
    return *static_cast<std::remove_reference_t<Parameter>*>(value.pointer);
  } else if constexpr (std::is_pointer_v<Parameter>) {
    return static_cast<Parameter>(value.pointer);
  } else if constexpr (std::is_same_v<Parameter, float>) {
    return static_cast<float>(value.real);
  } else {
    return static_cast<Parameter>(value.integer);
  }
}

template <class... Parameters, size_t... kIndex>
Operation::Run run(void (*function)(Parameters...), std::index_sequence<kIndex...>) {
  return [function](const Value* values) { function(parameter<Parameters>(values[kIndex])...); };
}

template <class Problem, class = void>
struct PrecisionOf {
  static void note(Operation&) {}
};
template <class Problem>
struct PrecisionOf<const Problem&, std::void_t<decltype(Problem::precision)>> {
  static void note(Operation& operation) {
    operation.precision = [](const Problems& problems) { return problems.get<Problem>().precision; };
  }
};

// The first array that is read and meets `condition`, else the first that is written and does, else -1.
template <class Condition>
int first_array(const std::vector<Argument>& arguments, const Condition& condition) {
  for (bool written : {false, true}) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const Argument& argument = arguments[i];
      if (argument.kind == Argument::Kind::array && argument.written == written && condition(argument)) {
        return static_cast<int>(i);
      }
    }
  }
  return -1;
}

template <class T>
struct OneArgument {
  using type = Argument;
};

}  // namespace detail

// An operation whose arrays are of float or bfloat16.
template <class... Parameters, class... Others>
Operation operation(const char* name, void (*floats)(Parameters...), void (*bfloat16s)(Others...),
                    typename detail::OneArgument<Parameters>::type... arguments) {
  const auto indices = std::index_sequence_for<Parameters...>();
  Operation result;
  result.name = name;
  result.arguments = {detail::completed<Parameters, Others>(std::move(arguments))...};
  result.run_float32 = detail::run(floats, indices);
  result.run_bfloat16 = detail::run(bfloat16s, indices);
  (detail::PrecisionOf<Parameters>::note(result), ...);
  result.typed = detail::first_array(
      result.arguments, [](const Argument& argument) { return argument.element == Element::call; });
  result.counted =
      detail::first_array(result.arguments, [](const Argument& argument) { return !argument.size; });
  return result;
}

// An operation of which there is one function.
template <class... Parameters>
Operation operation(const char* name, void (*function)(Parameters...),
                    typename detail::OneArgument<Parameters>::type... arguments) {
  return operation(name, function, function, std::move(arguments)...);
}

}  // namespace cconvnet::bindings
