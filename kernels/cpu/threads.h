// The number of threads that OpenMP really grants, and teams of exactly that size.
//
// omp_get_max_threads() is only a request. A team has fewer threads under OMP_THREAD_LIMIT, OMP_DYNAMIC or
// OMP_MAX_ACTIVE_LEVELS, inside another parallel region, and where the system starts no more of them. A
// primitive of oneDNN that was made for more threads than it gets waits for them for ever.
#pragma once

#include <omp.h>

#include <string>

namespace cconvnet {

// The size of a team that the calling thread may form now, found by a trial after each change of settings.
int granted_threads();

// granted_threads() in words, with the reason if fewer are granted: "1 thread, of 2 asked for
// (OMP_THREAD_LIMIT=1)".
std::string granted_threads_text();

// Sets the size of the teams that the calling thread starts, as long as this object exists.
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
