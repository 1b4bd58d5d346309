// Errors of the emulator, and the place in a kernel's source that they name.
#pragma once

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>

namespace cconvnet::emulator {

// Thrown when a kernel does something that CUDA forbids or leaves undefined.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Thrown when threads wait for others that will never arrive.
struct DivergenceError : KernelError {
  using KernelError::KernelError;
};

// The source line where a thread waits. The operation is a string constant.
struct Site {
  const char* operation;
  const char* file;
  int line;

  bool operator==(const Site& other) const {
    return line == other.line &&
           (operation == other.operation || std::strcmp(operation, other.operation) == 0) &&
           (file == other.file || std::strcmp(file, other.file) == 0);
  }
};

inline std::string hex(unsigned mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

// A kernel's name as written in the launch, without the parentheses around its commas.
inline std::string kernel_name(const Site& site) {
  std::string name = site.operation;
  if (name.front() == '(' && name.back() == ')') name = name.substr(1, name.size() - 2);
  return name;
}

inline std::string name_with_line(const Site& site) {
  return std::string(site.operation) + ", " + site.file + ":" + std::to_string(site.line);
}

}  // namespace cconvnet::emulator
