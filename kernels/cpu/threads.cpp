// Trials of how many threads OpenMP and the system grant, and their results in words.
#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace cconvnet {
namespace {

// The number of forks between this process and the one that loaded the module. In a child, the threads of the
// parent are gone.
std::atomic<int> forks{0};

enum class Limit { none, thread_limit, active_levels, region, fork, system };

// The result of a thread's last trial, and the settings that it depended on.
struct Trial {
  int asked = 0, levels = 0;
  int granted = 1;
  Limit limit = Limit::none;
};

// The number of threads, of `count`, that the system starts, all of them alive at once.
int startable(int count) {
  std::mutex mutex;
  std::condition_variable all_tried;
  bool done = false;
  std::vector<std::thread> threads;
  try {
    threads.reserve(count);
    while (static_cast<int>(threads.size()) < count) {
      threads.emplace_back([&] {
        std::unique_lock<std::mutex> lock(mutex);
        all_tried.wait(lock, [&] { return done; });
      });
    }
  } catch (const std::system_error&) {
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    done = true;
  }
  all_tried.notify_all();
  for (std::thread& thread : threads) thread.join();
  return static_cast<int>(threads.size());
}

// Runs in a thread of its own, whose team ends with it: the calling thread may be about to fork.
int size_of_team(int asked, int levels) {
  int size = 1;
  std::thread([&] {
    omp_set_max_active_levels(levels);
    const Team team(asked);
#pragma omp parallel num_threads(asked)
    {
#pragma omp single
      size = omp_get_num_threads();
    }
  }).join();
  return size;
}

Trial tried(int asked) {
  Trial trial;
  trial.asked = asked;
  trial.levels = omp_get_max_active_levels();
  int possible = std::min(asked, omp_get_thread_limit());
  // OpenMP ends the process if it cannot start a thread, so starting them is tried first. Using half of the
  // available threads leaves some for loading and saving.
  if (possible > 1) {
    const int others = startable(possible - 1);
    if (others < possible - 1) {
      possible = 1 + others / 2;
      trial.limit = Limit::system;
    }
  }
  trial.granted = possible > 1 ? size_of_team(possible, trial.levels) : 1;
  if (trial.granted < asked && trial.limit == Limit::none) {
    trial.limit = trial.granted == omp_get_thread_limit() ? Limit::thread_limit
                  : trial.levels == 0                     ? Limit::active_levels
                                                          : Limit::system;
  }
  return trial;
}

// Of the calling thread: its last trial, and in which process it last had a team.
thread_local Trial trial;
thread_local int forks_at_team = -1;

const Trial& current_trial() {
  [[maybe_unused]] static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  const int asked = omp_get_max_threads(), levels = omp_get_max_active_levels();
  if (forks_at_team >= 0 && forks_at_team != forks) {
    // A team would wait for threads that the fork did not copy.
    trial = {asked, levels, 1, Limit::fork};
  } else if (trial.asked != asked || trial.levels != levels) {
    trial = tried(asked);
  }
  return trial;
}

}  // namespace

int granted_threads() {
  if (omp_get_max_threads() == 1 || omp_in_parallel()) return 1;
  const int granted = current_trial().granted;
  if (granted > 1) forks_at_team = forks;
  return granted;
}

std::string granted_threads_text() {
  const int asked = omp_get_max_threads();
  const int granted = asked == 1 || omp_in_parallel() ? 1 : current_trial().granted;
  std::string text = std::to_string(granted) + (granted == 1 ? " thread" : " threads");
  if (granted >= asked) return text;
  text += ", of " + std::to_string(asked) + " asked for (";
  switch (omp_in_parallel() ? Limit::region : current_trial().limit) {
    case Limit::thread_limit:
      text += "OMP_THREAD_LIMIT=" + std::to_string(omp_get_thread_limit());
      break;
    case Limit::active_levels:
      text += "OMP_MAX_ACTIVE_LEVELS=0";
      break;
    case Limit::region:
      text += "called inside a parallel region";
      break;
    case Limit::fork:
      text += "the process was forked after it used more";
      break;
    default:
      text += "the system starts no more";
  }
  return text + ")";
}

}  // namespace cconvnet
