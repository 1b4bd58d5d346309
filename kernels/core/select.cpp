// The log of the selection tables' choices. Every build of the operations is linked with it.
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>

#include "core/select.h"

namespace cconvnet {

bool logs_choices() {
  static const char* const wanted = std::getenv("CCONVNET_LOG_KERNELS");
  return wanted && std::string(wanted) == "1";
}

namespace {

std::set<std::string>& proven_rows() {
  static std::set<std::string> rows;
  return rows;
}

}  // namespace

void prove_rows(const std::vector<std::string>& rows) {
  proven_rows().insert(rows.begin(), rows.end());
}

bool is_open(const std::string& row) {
  static const char* const wanted = std::getenv("CCONVNET_ROWS");
  return (wanted && std::string(wanted) == "unproven") || proven_rows().count(row) > 0;
}

void log_choice(const std::string& row, const std::string& problem) {
  static std::mutex mutex;
  static std::set<std::string> seen;
  const std::string line = row + " serves " + problem;
  const std::lock_guard<std::mutex> lock(mutex);
  if (seen.insert(line).second) std::fprintf(stderr, "cconvnet: %s\n", line.c_str());
}

}  // namespace cconvnet
