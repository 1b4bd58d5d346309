// Errors of the emulator, and the place in a kernel's source that they name.
#pragma once

#include <cstring>
#include <stdexcept>

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

}  // namespace cconvnet::emulator
