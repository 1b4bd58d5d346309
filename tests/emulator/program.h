// Helpers of the test programs: each case is run by name and prints lines "name: value value ...".
#pragma once

#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/launch.cuh"

namespace program {

using cconvnet::emulator::Schedule;

struct NamedSchedule {
  const char* name;
  Schedule schedule;
};
constexpr NamedSchedule schedules[] = {
    {"forward", Schedule::forward}, {"reverse", Schedule::reverse}, {"random", Schedule::random}};

inline void print(const std::string& name, const std::vector<int>& values) {
  std::printf("%s:", name.c_str());
  for (int value : values) std::printf(" %d", value);
  std::printf("\n");
}

// Runs the cases named on the command line, or all of them.
inline int run(int argc, char** argv, const std::map<std::string, std::function<void()>>& cases) {
  for (const auto& [name, body] : cases) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || name == argv[i];
    if (wanted) body();
  }
  return 0;
}

}  // namespace program
