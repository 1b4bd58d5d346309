// Proven rows of the selection tables, and the log of their choices. Every build of the operations is linked with it.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "core/proofs.h"
#include "core/select.h"

namespace cconvnet {

bool logs_choices() {
  static const char* const wanted = std::getenv("CCONVNET_LOG_KERNELS");
  return wanted && std::string(wanted) == "1";
}

namespace {

using Names = std::set<std::string>;

// Replaced and never changed, since threads that select rows read it without a lock. What is replaced, once for a kind
// of GPU, is kept.
std::atomic<const Names*> proven{new Names};

}  // namespace

void prove_rows(const std::vector<std::string>& rows) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  Names names = *proven.load();
  const size_t before = names.size();
  names.insert(rows.begin(), rows.end());
  if (names.size() > before) proven = new Names(std::move(names));
}

bool is_proven(const std::string& row) {
  return proven.load()->count(row) > 0;
}

bool is_open(const std::string& row) {
  static const char* const wanted = std::getenv("CCONVNET_ROWS");
  static const bool all = wanted && std::string(wanted) == "unproven";
  return all || is_proven(row);
}

void log_choice(const std::string& row, const std::string& problem) {
  static std::mutex mutex;
  static std::set<std::string> seen;
  const std::string line = row + " serves " + problem;
  const std::lock_guard<std::mutex> lock(mutex);
  if (seen.insert(line).second) std::fprintf(stderr, "cconvnet: %s\n", line.c_str());
}

}  // namespace cconvnet
