// The record of the launches that are counted (counting.cpp), with the costs of requests and the races of each.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "counting.h"
#include "races.h"
#include "requests.h"
#include "sites.h"

namespace cconvnet::emulator::counting {

constexpr unsigned widest = 16;  // bytes of the widest access of a lane

struct Entry {
  uint32_t site;
  uint64_t address;
};

struct SharedObject {
  const char* name;
  uintptr_t begin;
  size_t bytes;
  Words words;
};

struct NamedArray {
  const char* name;
  uintptr_t begin;
};

inline thread_local std::vector<NamedArray> named_arrays;

class Counter {
 public:
  explicit Counter(const Options& options) : options(options), cache_(options.cache_bytes) {}

  const Options options;
  std::vector<Launch> launches;

  // ---- launches and blocks ------------------------------------------------------------------------------

  void begin_launch(Launch launch) {
    launches.push_back(std::move(launch));
    arrays_ = named_arrays;
    std::sort(arrays_.begin(), arrays_.end(),
              [](const NamedArray& a, const NamedArray& b) { return a.begin < b.begin; });
    costs_.clear();
    operations_.clear();
    races_.clear();
    global_.clear();
    most_events_ = all_events_ = clusters_run_ = 0;
  }

  void end_launch() {
    Launch& launch = launches.back();
    for (const auto& [key, access] : costs_) launch.accesses.push_back(access);
    for (const auto& [key, warps] : operations_) {
      launch.operations.push_back({std::get<0>(key), std::get<1>(key), std::get<2>(key), warps});
    }
    for (const auto& [key, race] : races_) launch.races.push_back(race);
    launch.busiest = all_events_ > 0 ? static_cast<double>(most_events_ * clusters_run_) / all_events_ : 1;
  }

  void begin_block(uint64_t number, int threads, int blocks) {
    block_threads_ = threads;
    blocks_ = blocks;
    barriers_.assign(blocks, 0);
    events_ = 0;
    shared_.clear();
    thread_operations_.clear();
    order_.begin_block(static_cast<uint32_t>(number), threads, blocks);
    cache_.clear();
    const auto all = static_cast<size_t>(threads * blocks);
    if (logs_.size() < all) logs_.resize(all);
    for (std::vector<Entry>& log : logs_) log.clear();  // a block that failed leaves some
    launches.back().blocks_run += blocks;
    ++clusters_run_;
  }

  void end_block() {
    for (int warp = 0; warp * 32 < block_threads_ * blocks_; ++warp) count_requests(warp);
    for (const auto& [key, of_threads] : thread_operations_) {
      // The n-th of all lanes are one.
      for (auto first = of_threads.begin(); first != of_threads.end(); first += 32) {
        operations_[key] += *std::max_element(first, first + 32);
      }
    }
    most_events_ = std::max(most_events_, events_);
    all_events_ += events_;
    uint64_t bytes = 0;
    for (const SharedObject& object : shared_) bytes += std::strcmp(object.name, "shared") ? 0 : object.bytes;
    launches.back().shared_bytes = std::max(launches.back().shared_bytes, bytes / blocks_);
  }

  void add_shared(const char* name, const void* memory, size_t bytes) {
    shared_.push_back({name, reinterpret_cast<uintptr_t>(memory), bytes, {}});
    if (options.races) shared_.back().words.resize(bytes);
  }

  bool pass_barrier(const char* operation, const char* file, int line, int block) {
    for (int warp = 0; warp * 32 < block_threads_; ++warp) {
      count_requests(block * block_threads_ / 32 + warp);
      count_operation(operation, file, line);
    }
    order_.pass_barrier(block);
    ++launches.back().barriers;
    if (++barriers_[block] < options.barriers) return false;
    launches.back().cut_blocks += blocks_;
    return true;
  }

  void count_operation(const char* operation, const char* file, int line) {
    ++operations_[{operation, file, line}];
    ++events_;
  }

  void count_thread_operation(const char* operation, const char* file, int line) {
    std::vector<uint32_t>& of_threads = thread_operations_[{operation, file, line}];
    if (of_threads.empty()) of_threads.resize(block_threads_ * blocks_);
    ++of_threads[state.thread];
  }

  void join(uint32_t lanes) { order_.join(state.thread / 32, lanes); }

  // ---- accesses -----------------------------------------------------------------------------------------

  // `address` is neither on a stack nor in the image.
  void access(uintptr_t address, size_t bytes, Kind kind, void* caller, Role role) {
    SharedObject* const object = shared_at(address);
    if (!object && state.early) *state.early = true;
    Site site{reinterpret_cast<uintptr_t>(caller), kind, object ? Space::shared : Space::global, 0, 0};
    // Chips have accesses of 1, 2, 4, 8 and 16 bytes: a structure of three words takes three of 4 bytes.
    site.bytes = static_cast<uint8_t>(std::min<size_t>(bytes & -bytes, widest));
    while (bytes > 0) {
      const uint32_t number = sites.number(site);
      logs_[state.thread].push_back({number, object ? address - object->begin : address});
      if (options.races) look_for_races(object, address, site.bytes, number, role);
      address += site.bytes;
      bytes -= site.bytes;
      ++site.piece;
    }
  }

  void finish_copy(uintptr_t target, size_t bytes) {
    SharedObject* const object = shared_at(target);
    if (!object || !options.races) return;
    object->words.visit(target - object->begin, bytes, [&](Cell& cell, uint64_t) {
      if (cell.write_role != Role::copy || cell.write.thread != state.thread) return;
      cell.write = order_.stamp(state.thread, cell.write.site);
      cell.write_role = Role::write;
    });
  }

  // ---- barriers of some threads, and work beside them -----------------------------------------------------

  Order& order() { return order_; }

  // A write or a read of shared memory by an agent's work, of which stamp(site) is the stamp. before(earlier) is true
  // if an earlier access is ordered before its start.
  template <class MakeStamp, class Before>
  void access_beside(const void* memory, size_t bytes, Kind kind, void* caller, MakeStamp make_stamp,
                     Before before) {
    const auto address = reinterpret_cast<uintptr_t>(memory);
    SharedObject* const object = shared_at(address);
    if (!object || !options.races) return;
    const Site site{reinterpret_cast<uintptr_t>(caller), kind, Space::shared, widest, 0};
    const Stamp now = make_stamp(sites.number(site));
    const Role role = kind == Kind::copy ? Role::write : Role::read;
    object->words.visit(address - object->begin, bytes, [&](Cell& cell, uint64_t position) {
      note(cell, before, now, role, [&](const Stamp& earlier) { add_race(object, position, earlier, now); });
    });
  }

  // ---- the copy engine and the tensor cores -----------------------------------------------------------------

  // Of a line all sectors that it touches are read or written.
  void move_box(Kind kind, const std::vector<BoxLine>& lines, size_t bytes, void* caller) {
    const uintptr_t first = lines.empty() ? 0 : reinterpret_cast<uintptr_t>(lines.front().first);
    const NamedArray* const array = array_at(first);
    const uint64_t shift = array ? array->begin % 256 / 16 * 16 : 0;
    Access& global =
        access_of(sites.number({reinterpret_cast<uintptr_t>(caller), kind, Space::global, widest, 0}), array);
    uint64_t covered = 0;
    for (const BoxLine& line : lines) {
      const uint64_t begin = reinterpret_cast<uintptr_t>(line.first) - shift;
      global.sectors += (begin + line.bytes - 1) / sector_bytes - begin / sector_bytes + 1;
      covered += line.bytes;
    }
    global.misses = global.sectors;
    ++global.requests;
    global.lanes += covered / widest;
    global.least_sectors += (covered + sector_bytes - 1) / sector_bytes;
    pass_banks(kind, bytes, caller);
  }

  // Swizzles let neither a box nor a factor meet conflicts of banks.
  void pass_banks(Kind kind, size_t bytes, void* caller) {
    Access& shared = access_of(
        sites.number({reinterpret_cast<uintptr_t>(caller), kind, Space::shared, widest, 0}), nullptr);
    const uint64_t wavefronts = (bytes + bank_count * bank_bytes - 1) / (bank_count * bank_bytes);
    ++shared.requests;
    shared.lanes += bytes / widest;
    shared.wavefronts += wavefronts;
    shared.least_wavefronts += wavefronts;
    ++events_;
  }

  Sites sites;
  Image image;

 private:
  SharedObject* shared_at(uintptr_t address) {
    for (SharedObject& object : shared_) {
      if (address - object.begin < object.bytes) return &object;
    }
    return nullptr;
  }

  Instruction instruction(uint32_t number) const {
    const Site& site = sites[number];
    return {site.caller - image.base, site.kind, site.space, site.bytes};
  }

  // The costs of an instruction and an array.
  Access& access_of(uint32_t site, const NamedArray* array) {
    const uint64_t key = uint64_t{site} << 8 | (array ? array - arrays_.data() + 1 : 0);
    const auto [place, added] = costs_.try_emplace(key);
    Access& access = place->second;
    if (added) {
      access = {};
      access.instruction = instruction(site);
      if (array) access.array = array->name;
    }
    return access;
  }

  // The last array that begins at or below an address.
  const NamedArray* array_at(uintptr_t address) const {
    const auto above = std::upper_bound(arrays_.begin(), arrays_.end(), address,
                                        [](uintptr_t a, const NamedArray& array) { return a < array.begin; });
    return above == arrays_.begin() ? nullptr : &*(above - 1);
  }

  // ---- requests -----------------------------------------------------------------------------------------

  // Puts the accesses of a warp's lanes since the last barrier side by side.
  void count_requests(int warp) {
    ++gathering_;
    request_count_ = 0;
    grouped_.resize(sites.size());
    for (int lane = 0; lane < 32; ++lane) {
      std::vector<Entry>& log = logs_[warp * 32 + lane];
      for (const Entry& entry : log) {
        Group& group = grouped_[entry.site];
        if (group.gathering != gathering_) {
          group.gathering = gathering_;
          group.requests.clear();
          group.lane = -1;
        }
        if (group.lane != lane) {
          group.lane = lane;
          group.next = 0;
        }
        if (group.next == group.requests.size()) {
          if (request_count_ == requests_.size()) requests_.emplace_back();
          Request& request = requests_[request_count_];
          request.site = entry.site;
          request.lanes = 0;
          group.requests.push_back(static_cast<uint32_t>(request_count_++));
        }
        Request& request = requests_[group.requests[group.next++]];
        request.lanes |= 1u << lane;
        request.address[lane] = entry.address;
      }
      log.clear();
    }
    for (size_t i = 0; i < request_count_; ++i) count_request(requests_[i]);
  }

  void count_request(Request& request) {
    const Site& site = sites[request.site];
    const NamedArray* array = nullptr;
    if (site.space == Space::global) {
      array = array_at(request.address[__builtin_ctz(request.lanes)]);
      if (array) {
        // As if the array began on a boundary of 256 bytes, which 16 bytes of its address do not change.
        const uint64_t shift = array->begin % 256 / 16 * 16;
        for (uint64_t& address : request.address) address -= shift;
      }
    }
    Access& access = access_of(request.site, array);
    ++events_;
    ++access.requests;
    access.lanes += __builtin_popcount(request.lanes);
    if (site.space == Space::shared) {
      const Wavefronts wavefronts = wavefronts_of(request, site.bytes);
      access.wavefronts += wavefronts.needed;
      access.least_wavefronts += wavefronts.least;
    } else {
      const bool cached = site.kind == Kind::load;
      const Sectors sectors = sectors_of(request, site.bytes, [&](uint64_t sector) {
        if (cached) access.misses += cache_.misses(sector);
      });
      access.sectors += sectors.touched;
      access.least_sectors += sectors.least;
      if (!cached) access.misses += sectors.touched;
    }
  }

  // ---- races --------------------------------------------------------------------------------------------

  void look_for_races(SharedObject* object, uintptr_t address, size_t bytes, uint32_t site, Role role) {
    const Stamp now = order_.stamp(state.thread, site);
    const auto visit = [&](Cell& cell, uint64_t position) {
      const auto before = [&](const Stamp& earlier) { return order_.before(earlier, now.thread); };
      note(cell, before, now, role, [&](const Stamp& earlier) { add_race(object, position, earlier, now); });
    };
    if (object) {
      object->words.visit(address - object->begin, bytes, visit);
    } else {
      global_.visit(address, bytes, visit);
    }
  }

  void add_race(const SharedObject* object, uint64_t position, const Stamp& earlier, const Stamp& now) {
    Race& race = races_[{earlier.site, now.site}];
    if (race.occurrences++ > 0) return;
    race.first = racing(earlier);
    race.second = racing(now);
    race.position = position;
    if (object) {
      race.array = object->name;
    } else if (const NamedArray* array = array_at(position)) {
      race.array = array->name;
      race.position -= array->begin;
    }
  }

  RacingAccess racing(const Stamp& stamp) const {
    const int thread = order_.thread_of(stamp);
    return {instruction(stamp.site), stamp.block - 1 + thread / static_cast<uint64_t>(block_threads_),
            thread % block_threads_};
  }

  // The launch.
  std::vector<NamedArray> arrays_;
  std::unordered_map<uint64_t, Access> costs_;  // by site and array
  std::map<std::tuple<const char*, const char*, int>, uint64_t> operations_;
  std::map<std::pair<uint32_t, uint32_t>, Race> races_;
  Pages global_;
  uint64_t clusters_run_ = 0;                  // or blocks
  uint64_t most_events_ = 0, all_events_ = 0;  // requests and operations of the busiest of these, and of all

  // The block, or the blocks of a cluster.
  int block_threads_ = 0, blocks_ = 1;  // in whole warps
  std::vector<uint64_t> barriers_;      // of each
  uint64_t events_ = 0;
  std::vector<SharedObject> shared_;
  Order order_;
  Cache cache_;
  std::vector<std::vector<Entry>> logs_;  // by thread
  std::map<std::tuple<const char*, const char*, int>, std::vector<uint32_t>>
      thread_operations_;  // of each thread

  // Requests of a warp. The requests of a site are in the order of their first lane's accesses.
  struct Group {
    uint64_t gathering = 0;
    int lane = -1;
    size_t next = 0;
    std::vector<uint32_t> requests;
  };
  uint64_t gathering_ = 0;
  std::vector<Group> grouped_;  // by site
  std::vector<Request> requests_;
  size_t request_count_ = 0;
};

}  // namespace cconvnet::emulator::counting
