// The other file. The schedule set here holds for launches there, too: there is one machine.
#include "program.h"

void reverse_of_eight(int* y);

namespace {

struct Shared {
  int length;
};

__global__ void kernel(int* order) {
  Shared& shared = cconvnet::shared_memory<Shared>();
  if (threadIdx.x == blockDim.x - 1) shared.length = 0;  // the first to run, in reverse
  order[shared.length++] = static_cast<int>(threadIdx.x);
}

}  // namespace

int main() {
  std::vector<int> reversed(8), order(8);
  cconvnet::emulator::set_schedule(program::Schedule::reverse);
  reverse_of_eight(reversed.data());
  CCONVNET_LAUNCH(kernel, 1, 8, nullptr, order.data());
  program::print("reversed", reversed);
  program::print("order", order);
}
