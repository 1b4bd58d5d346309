// Code that must not compile, and the expected messages; each case is chosen by a macro.
#include "core/launch.cuh"

#ifdef FLOAT_ATOMIC
__global__ void kernel(float* sum) {
  atomicAdd(sum, 1.0f);
}
#endif

#ifdef SHARED_KEYWORD
__global__ void kernel() {
  __shared__ float values[4];
}
#endif

#ifdef TOO_LARGE
struct TooLarge {
  char bytes[48 * 1024 + 1];
};
__global__ void kernel() {
  cconvnet::shared_memory<TooLarge>();
}
#endif

#ifdef CONSTRUCTOR
struct HasConstructor {
  int value = 3;
};
__global__ void kernel() {
  cconvnet::shared_memory<HasConstructor>();
}
#endif

#ifdef REFERENCE
__global__ void kernel(int&) {}
void launch(int& value) {
  CCONVNET_LAUNCH(kernel, 1, 1, nullptr, value);
}
#endif

#ifdef SHORT_SHUFFLE
__global__ void kernel(short* y) {
  *y = __shfl_sync(0xffffffffu, *y, 0);
}
#endif
