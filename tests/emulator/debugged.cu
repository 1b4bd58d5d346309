// A program for a debugger: one backward pass of response normalisation, in five blocks of 256 threads.
#include <cstdio>
#include <vector>

#include "api.h"

int main() {
  using namespace cconvnet;
  const LrnProblem problem =
      LrnProblem::make(2, 4, 4, 128, 1, 5, 1e-4f, 0.75f, 2.0f, LrnRegion::across_channels);
  std::vector<float> x(problem.count()), dy(x.size(), 1.0f), dx(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) / 1024;
  lrn_backward<float>(problem, x.data(), dy.data(), dx.data(), nullptr, nullptr);
  std::printf("dx[0] %g\n", dx[0]);
}
