// The text of where the threads of a block wait.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "limits.h"
#include "thread.h"

namespace cconvnet::emulator {

inline std::string name(const Thread& thread) {
  return triple(thread.index.x, thread.index.y, thread.index.z);
}

// Empty if it returned.
inline std::string place(const Thread& thread) {
  if (!thread.fiber) return "";
  return name_with_line(thread.site) + (thread.mask ? " for lanes " + hex(thread.mask) : "") +
         (thread.condition ? " for " + thread.condition->text() : "");
}

// Names threads as runs, the first few of them: "9 threads (0,0,0) to (7,0,0),
// (9,0,0)".
inline std::string list(const Thread* threads, const std::vector<int>& numbers) {
  constexpr int most_runs = 4;
  std::string text = numbers.size() == 1 ? "thread" : std::to_string(numbers.size()) + " threads";
  int runs = 0;
  for (size_t begin = 0, end; begin < numbers.size(); begin = end) {
    end = begin + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    if (runs++ == most_runs) return text + ", ...";
    text += (begin == 0 ? " " : ", ") + name(threads[numbers[begin]]);
    if (end - begin > 1) text += " to " + name(threads[numbers[end - 1]]);
  }
  return text;
}

// One clause for all threads at the same line, in the order of the first of
// each.
inline std::string describe_waiting(const Thread* threads, int count) {
  std::vector<std::string> places;
  std::map<std::string, std::vector<int>> groups;
  for (int i = 0; i < count; ++i) {
    const std::string at = place(threads[i]);
    if (groups[at].empty()) places.push_back(at);
    groups[at].push_back(i);
  }
  std::string text;
  for (const std::string& at : places) {
    const std::vector<int>& group = groups[at];
    const char* waits = group.size() == 1 ? " waits at " : " wait at ";
    text += (text.empty() ? "" : "; ") + list(threads, group) + (at.empty() ? " returned" : waits + at);
  }
  return text;
}

}  // namespace cconvnet::emulator
