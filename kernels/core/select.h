// Selection tables: one ordered table of rows for each operation that has several kernels.
//
// A row separates what it can do (`supports`) from what it is good at (`prefers`, `cost`). Of the rows that
// support and prefer the problem, and whose alignment the arguments have, the one of the least cost is
// launched; of equal ones, and where rows have no cost, the first. A row requested by name need not prefer
// the problem, so that tests reach every row with small shapes. For every problem a table has a row that
// supports and prefers it and takes any alignment: usually the last.
// CCONVNET_LOG_KERNELS=1 prints each choice to stderr, once per problem.
//
// Operations with a single kernel have no table. The elementwise ones are among them: a kernel compiled for
// vectors and for single elements (launch_elementwise in core/vector.cuh).
#pragma once

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "api.h"
#include "core/repr.h"

namespace cconvnet {

// Rows that a new kind of chip is to prove are not chosen by themselves until prove_rows() names them, unless
// CCONVNET_ROWS=unproven.
bool is_open(const std::string& row);

// Arguments has `bool aligned() const`, which returns whether its arrays lie on 16-byte boundaries, and
// `void* workspace`.
template <class Problem, class Arguments>
struct Row {
  std::string name;
  bool needs_alignment;
  bool (*supports)(const Problem&);
  bool (*prefers)(const Problem&);
  size_t (*workspace)(const Problem&);  // bytes
  void (*launch)(const Problem&, const Arguments&, Stream);
  int64_t (*cost)(const Problem&) = nullptr;  // predicted cycles, or null: equal to all others
  bool needs_proof = false;                   // chosen by itself only where a chip has proven it (is_open)

  bool prefers_itself(const Problem& problem) const {
    return prefers(problem) && (!needs_proof || is_open(name));
  }
  int64_t cost_of(const Problem& problem) const { return cost ? cost(problem) : 0; }
};

template <class Problem>
bool always(const Problem&) {
  return true;
}

template <class Problem>
size_t no_workspace(const Problem&) {
  return 0;
}

// The log of all tables, in select.cpp: what it needs would be compiled with every table.
bool logs_choices();
void log_choice(const std::string& row, const std::string& problem);

// The rows of two files.
template <class Row>
std::vector<Row> joined(std::vector<Row> rows, const std::vector<Row>& more) {
  rows.insert(rows.end(), more.begin(), more.end());
  return rows;
}

template <class Problem, class Arguments>
class SelectionTable {
 public:
  using Row = cconvnet::Row<Problem, Arguments>;

  // `more` are rows of another file.
  SelectionTable(std::string operation, std::vector<Row> rows, const std::vector<Row>& more = {})
      : operation_(std::move(operation)), rows_(std::move(rows)) {
    rows_.insert(rows_.end(), more.begin(), more.end());
  }

  const std::vector<Row>& rows() const { return rows_; }

  // The rows that support the problem: first those that prefer it, and among them those of least cost.
  std::vector<std::string> impls(const Problem& problem) const {
    std::vector<std::tuple<bool, int64_t, size_t>> ranks;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Row& row = rows_[i];
      if (row.supports(problem)) ranks.emplace_back(!row.prefers_itself(problem), row.cost_of(problem), i);
    }
    std::sort(ranks.begin(), ranks.end());
    std::vector<std::string> names;
    for (const auto& rank : ranks) names.push_back(rows_[std::get<2>(rank)].name);
    return names;
  }

  // The bytes the operation may need. The arguments' alignment, and so the row, is not known yet.
  size_t workspace(const Problem& problem, const char* impl) const {
    if (impl) return named(problem, impl).workspace(problem);
    return std::max(preferred(problem, true).workspace(problem),
                    preferred(problem, false).workspace(problem));
  }

  void run(const Problem& problem, const Arguments& args, Stream stream, const char* impl) const {
    const Row& row = impl ? named(problem, impl) : preferred(problem, args.aligned());
    detail::require(!row.needs_alignment || args.aligned(),
                    "impl '" + row.name + "' needs inputs on 16-byte boundaries");
    detail::require(args.workspace || row.workspace(problem) == 0,
                    "workspace must not be null: " + row.name + " needs " +
                        std::to_string(row.workspace(problem)) + " bytes");
    if (logs_choices()) log_choice(row.name, repr(problem));
    row.launch(problem, args, stream);
  }

 private:
  const Row& preferred(const Problem& problem, bool aligned) const {
    const Row* best = nullptr;
    int64_t least = 0;
    for (const Row& row : rows_) {
      if ((!aligned && row.needs_alignment) || !row.supports(problem) || !row.prefers_itself(problem))
        continue;
      const int64_t cost = row.cost_of(problem);
      if (!best || cost < least) best = &row, least = cost;
    }
    if (!best) throw std::logic_error(operation_ + ": no row takes " + repr(problem));
    return *best;
  }

  const Row& named(const Problem& problem, const std::string& impl) const {
    std::string names;
    for (const Row& row : rows_) {
      if (row.name == impl) {
        detail::require(row.supports(problem), "impl '" + impl + "' does not support " + repr(problem));
        return row;
      }
      names += (names.empty() ? "" : ", ") + row.name;
    }
    throw std::invalid_argument("impl must be one of " + names + ", not '" + impl + "'");
  }

  std::string operation_;
  std::vector<Row> rows_;
};

}  // namespace cconvnet
