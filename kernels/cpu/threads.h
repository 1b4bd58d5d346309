// How many threads OpenMP really grants, and teams of exactly so many.
//
// omp_get_max_threads() is a wish: a team has fewer threads under OMP_THREAD_LIMIT, OMP_DYNAMIC or
// OMP_MAX_ACTIVE_LEVELS, inside another parallel region, and where the system starts no more of them. A
// primitive of oneDNN that was made for more threads than it gets waits for them for ever.
#pragma once

#include <omp.h>

#include <string>

namespace cconvnet {

// The threads of a team that the calling thread may form now, found out by a trial where something changed.
int granted_threads();

// granted_threads() in words, and what grants no more: "1 thread, of 2 asked for (OMP_THREAD_LIMIT=1)".
std::string granted_threads_text();

// While it lives, what the calling thread starts has teams of `threads` threads.
class Team {
 public:
  explicit Team(int threads) : dynamic_(omp_get_dynamic()), threads_(omp_get_max_threads()) {
    omp_set_dynamic(0);
    omp_set_num_threads(threads);
  }
  ~Team() {
    omp_set_num_threads(threads_);
    omp_set_dynamic(dynamic_);
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

 private:
  int dynamic_, threads_;
};

}  // namespace cconvnet
