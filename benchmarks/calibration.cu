// Speed of each resource of a GPU that kernels use, measured by a loop that uses nothing else.
//
// Compiled by nvcc for a GPU, or for the emulator, which runs every loop once and times nothing.
// calibration.py builds it and adds the machine to its output. The headers in calibration/ contain the loops
// by resource; this file lists and times them.
//
//   calibration [--device N] [--seconds S] [name...]
//
// S is for all measurements together. The output is a line of JSON for each: name, unit and value. If a kernel
// was timed, the line also contains the number of runs, their median and least milliseconds, and the clock.
// Rates are per cycle and multiprocessor, by the kernel's own count of cycles, so they do not depend on the
// clock's rate.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "calibration/arithmetic.cuh"
#include "calibration/memory.cuh"
#include "calibration/shared_memory.cuh"

namespace {

// ---- launches ---------------------------------------------------------------------------------------------

__global__ void nothing(Given given) {
  if (given.iterations < 0) *given.sink = 1;
}

// ---- what is measured -------------------------------------------------------------------------------------

using Kernel = void (*)(Given);

enum class Figure { rate, latency, bandwidth };

struct Loop {
  const char* name;
  const char* unit;
  Figure figure;
  Kernel kernel;
  int threads;
  double work;  // of a thread in an iteration: rates; steps in an iteration: latencies; bytes of a vector:
                // bandwidth
  int blocks;   // 0: as many as the GPU holds at once; -n: n for each SM
  Kernel prepare = nullptr;  // runs once before
};

constexpr double kFused = kSteps * kChains;
constexpr double kBytes = kSteps * sizeof(uint4);

// A warp's product is 16 x 8 x 16 multiply-adds of bfloat16s, half as many of tf32s.
constexpr double flops(int products, bool bf16, int steps = kSteps) {
  return 2.0 * 16 * 8 * (bf16 ? 16 : 8) * products * steps / 32;
}
constexpr int kFedProducts = kTileRows * kTileColumns;

const Loop kLoops[] = {
    {"fused multiply-add, fp32", "FMA/cycle/SM", Figure::rate, fused_multiply_add, kWide, kFused, 0},
    {"issue, as many FMA as integer operations", "instructions/cycle/SM", Figure::rate, mixed_issue, kWide,
     kSteps * kChains * 2.0, 0},
    {"special function (sine)", "operations/cycle/SM", Figure::rate, special_function, kWide, kFused, 0},
    {"rounding to bf16", "values/cycle/SM", Figure::rate, round_pairs, kWide, kFused, 0},
    {"rounding to tf32", "values/cycle/SM", Figure::rate, round_to_tf32, kWide, kFused, 0},
    {"mma.m16n8k16.bf16", "flop/cycle/SM", Figure::rate, warp_products<true, kProducts>, kWide,
     flops(kProducts, true), 0},
    {"mma.m16n8k8.tf32", "flop/cycle/SM", Figure::rate, warp_products<false, kProducts>, kWide,
     flops(kProducts, false), 0},
    {"mma.m16n8k16.bf16, one warp a scheduler", "flop/cycle/SM", Figure::rate, warp_products<true, kProducts>,
     128, flops(kProducts, true), -1},
    {"mma.m16n8k16.bf16, two warps a scheduler", "flop/cycle/SM", Figure::rate,
     warp_products<true, kProducts>, 256, flops(kProducts, true), -1},
    {"mma.m16n8k16.bf16, fed by ldmatrix", "flop/cycle/SM", Figure::rate, fed_products<true>, 256,
     flops(kFedProducts, true, kFedSteps), 0},
    {"mma.m16n8k8.tf32, fed by ldmatrix", "flop/cycle/SM", Figure::rate, fed_products<false>, 256,
     flops(kFedProducts, false, kFedSteps), 0},
    {"mma.m16n8k16.bf16, one after the other", "cycles", Figure::latency, warp_products<true, 1>, 32, kSteps,
     1},
    {"mma.m16n8k8.tf32, one after the other", "cycles", Figure::latency, warp_products<false, 1>, 32, kSteps,
     1},
    {"shared memory, loads of 16 bytes", "bytes/cycle/SM", Figure::rate, shared_loads, kWide, kBytes, 0},
    {"ldmatrix", "bytes/cycle/SM", Figure::rate, matrix_loads<false>, kWide, kBytes, 0},
    {"ldmatrix.trans", "bytes/cycle/SM", Figure::rate, matrix_loads<true>, kWide, kBytes, 0},
    {"shuffle", "values/cycle/SM", Figure::rate, shuffles, kWide, kFused, 0},
    {"barrier of 128 threads", "cycles", Figure::latency, barriers<128>, 128, kSteps, 1},
    {"barrier of 512 threads", "cycles", Figure::latency, barriers<512>, 512, kSteps, 1},
    {"L2, loads of 16 bytes by all SMs", "bytes/cycle/SM", Figure::rate, l2_loads, kWide, kBytes, 0},
    {"L2, loads of 16 bytes by one SM", "bytes/cycle/SM", Figure::rate, l2_loads, kWide, kBytes, 1},
    {"L2, cp.async by all SMs", "bytes/cycle/SM", Figure::rate, l2_copies, kWide, kBytes, 0},
    {"cp.async from L2, one after the other", "cycles", Figure::latency, copy_latency, 32, kSteps, 1},
    {"load from L2, one after the other", "cycles", Figure::latency, load_chain<false>, 32, kSteps, 1,
     write_chains},
    {"load from memory, one after the other", "cycles", Figure::latency, load_chain<true>, 32, kSteps, 1,
     write_chains},
    {"load from shared memory, one after the other", "cycles", Figure::latency, shared_chain, 32, kSteps, 1},
    {"memory, copy (read and written)", "GB/s", Figure::bandwidth, memory_traffic<Traffic::copy>, kWide,
     2 * sizeof(uint4), 0},
    {"memory, read", "GB/s", Figure::bandwidth, memory_traffic<Traffic::read>, kWide, sizeof(uint4), 0},
    {"memory, write", "GB/s", Figure::bandwidth, memory_traffic<Traffic::write>, kWide, sizeof(uint4), 0},
};

const char* const kLaunches[][2] = {
    {"kernel launch, on the host", "us"},
    {"kernel launch, in a stream", "us"},
    {"graph node, in a chain", "us"},
    {"graph launch, on the host", "us"},
    {"event recorded and waited for, on the host", "us"},
    {"start of a block of 32 threads", "ns"},
};

// Print a measurement; its value is null if nothing was timed.
void print(const char* name, const char* unit, const double* value, const std::string& more = "") {
  std::printf("{\"name\": \"%s\", \"unit\": \"%s\", \"value\": ", name, unit);
  if (value) {
    std::printf("%.6g", *value);
  } else {
    std::printf("null");
  }
  std::printf("%s}\n", more.c_str());
  std::fflush(stdout);
}

#ifdef __CUDACC__

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

class Gpu {
 public:
  Gpu(int device, double seconds) : seconds_(seconds / (std::size(kLoops) + std::size(kLaunches))) {
    CCONVNET_CHECK(cudaSetDevice(device));
    CCONVNET_CHECK(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device));
    CCONVNET_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    CCONVNET_CHECK(cudaEventCreate(&begin_));
    CCONVNET_CHECK(cudaEventCreate(&end_));
    size_t free = 0, total = 0;
    CCONVNET_CHECK(cudaMemGetInfo(&free, &total));
    const size_t bytes = std::min(size_t{1} << 30, free / 4) / 4096 * 4096;
    given_.vectors = bytes / sizeof(uint4);
    CCONVNET_CHECK(cudaMalloc(&given_.in, bytes));
    CCONVNET_CHECK(cudaMalloc(&given_.out, bytes));
    CCONVNET_CHECK(cudaMalloc(&given_.sink, sizeof(unsigned)));
    CCONVNET_CHECK(cudaMalloc(&given_.cycles, kMostBlocks * sizeof(long long)));
    // Numbers near 0.0115, as floats and as bfloat16s.
    CCONVNET_CHECK(cudaMemset(const_cast<uint4*>(given_.in), 0x3c, bytes));
    CCONVNET_CHECK(cudaMemset(given_.out, 0, bytes));
    CCONVNET_CHECK(cudaDeviceSynchronize());
  }

  void measure(const Loop& loop) {
    // All blocks of the grid must run at once, however much the driver would reserve for the first-level cache.
    CCONVNET_CHECK(cudaFuncSetAttribute(loop.kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                        cudaSharedmemCarveoutMaxShared));
    int held = 0;
    CCONVNET_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&held, loop.kernel, loop.threads, 0));
    if (loop.blocks < 0) held = -loop.blocks;
    const int blocks = loop.blocks > 0 ? loop.blocks : multiprocessors_ * held;
    const double blocks_per_sm = loop.blocks > 0 ? loop.blocks : held;
    if (loop.prepare) CCONVNET_LAUNCH(loop.prepare, 1024, kWide, stream_, given_);
    // The number of iterations with which seven runs take the available time.
    given_.iterations = loop.figure == Figure::bandwidth ? 1 : 64;
    run(loop, blocks);
    const double trial = run(loop, blocks);
    const double factor = seconds_ * 1e3 / 7 / std::max(trial, 1e-3);
    given_.iterations = static_cast<int>(std::min(std::max(given_.iterations * factor, 1.0), 1e8));
    std::vector<double> times, cycles;
    for (int i = 0; i < 5; ++i) {
      times.push_back(run(loop, blocks));
      if (loop.figure != Figure::bandwidth) cycles.push_back(block_cycles(blocks));
    }
    const double ms = median(times), least = *std::min_element(times.begin(), times.end());
    char more[256];
    double value = 0;
    if (loop.figure == Figure::bandwidth) {
      value = loop.work * static_cast<double>(given_.vectors) * given_.iterations / (ms * 1e6);
      std::snprintf(more, sizeof more,
                    ", \"runs\": 5, \"iterations\": %d, \"median_ms\": %.6g, \"least_ms\": %.6g",
                    given_.iterations, ms, least);
    } else {
      const double own = median(cycles);
      value = loop.figure == Figure::latency
                  ? own / (loop.work * given_.iterations)
                  : loop.work * loop.threads * blocks_per_sm * given_.iterations / own;
      std::snprintf(
          more, sizeof more,
          ", \"runs\": 5, \"iterations\": %d, \"median_ms\": %.6g, \"least_ms\": %.6g, \"clock_ghz\": "
          "%.4g, \"threads_per_sm\": %.0f",
          given_.iterations, ms, least, own / (ms * 1e6), loop.threads * blocks_per_sm);
    }
    print(loop.name, loop.unit, &value, more);
  }

  void measure_launch(int which) {
    given_.iterations = 0;
    std::vector<double> values;
    for (int i = 0; i < 6; ++i) values.push_back(launch_figure(which));
    values.erase(values.begin());
    const double value = median(values);
    print(kLaunches[which][0], kLaunches[which][1], &value, ", \"runs\": 5");
  }

 private:
  static constexpr size_t kMostBlocks = 1 << 16;
  static constexpr int kLaunched = 500;  // fewer than a stream takes before the host must wait

  double run(const Loop& loop, int blocks) {
    CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
    CCONVNET_LAUNCH(loop.kernel, blocks, loop.threads, stream_, given_);
    return ended();
  }

  // Milliseconds since begin_.
  double ended() {
    float ms = 0;
    CCONVNET_CHECK(cudaEventRecord(end_, stream_));
    CCONVNET_CHECK(cudaEventSynchronize(end_));
    CCONVNET_CHECK(cudaEventElapsedTime(&ms, begin_, end_));
    return ms;
  }

  double block_cycles(int blocks) {
    std::vector<long long> cycles(blocks);
    CCONVNET_CHECK(
        cudaMemcpy(cycles.data(), given_.cycles, blocks * sizeof(long long), cudaMemcpyDeviceToHost));
    return median({cycles.begin(), cycles.end()});
  }

  template <class Work>
  double host_microseconds(const Work& work) {
    CCONVNET_CHECK(cudaStreamSynchronize(stream_));
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < kLaunched; ++i) work();
    const std::chrono::duration<double, std::micro> passed = std::chrono::steady_clock::now() - begin;
    CCONVNET_CHECK(cudaStreamSynchronize(stream_));
    return passed.count() / kLaunched;
  }

  double launch_figure(int which) {
    const auto launch = [&] { CCONVNET_LAUNCH(nothing, 1, 32, stream_, given_); };
    switch (which) {
      case 0:
        return host_microseconds(launch);
      case 1: {
        CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
        for (int i = 0; i < kLaunched; ++i) launch();
        return ended() * 1e3 / kLaunched;
      }
      case 2: {
        const Graph graph(stream_, [&] {
          for (int i = 0; i < kLaunched; ++i) launch();
        });
        graph.launch(stream_);
        CCONVNET_CHECK(cudaStreamSynchronize(stream_));
        CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
        graph.launch(stream_);
        return ended() * 1e3 / kLaunched;
      }
      case 3: {
        const Graph graph(stream_, launch);
        graph.launch(stream_);
        return host_microseconds([&] { graph.launch(stream_); });
      }
      case 4: {
        cudaStream_t other;
        cudaEvent_t event;
        CCONVNET_CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
        CCONVNET_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
        const double value = host_microseconds([&] {
          CCONVNET_CHECK(cudaEventRecord(event, stream_));
          CCONVNET_CHECK(cudaStreamWaitEvent(other, event, 0));
        });
        CCONVNET_CHECK(cudaEventDestroy(event));
        CCONVNET_CHECK(cudaStreamDestroy(other));
        return value;
      }
      default: {
        constexpr int BLOCKS = 1 << 20;
        CCONVNET_CHECK(cudaEventRecord(begin_, stream_));
        CCONVNET_LAUNCH(nothing, BLOCKS, 32, stream_, given_);
        return ended() * 1e6 / BLOCKS;
      }
    }
  }

  // The graph of a stream's captured work.
  class Graph {
   public:
    template <class Work>
    Graph(cudaStream_t stream, const Work& work) {
      cudaGraph_t graph;
      CCONVNET_CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
      work();
      CCONVNET_CHECK(cudaStreamEndCapture(stream, &graph));
      CCONVNET_CHECK(cudaGraphInstantiateWithFlags(&made_, graph, 0));
      CCONVNET_CHECK(cudaGraphDestroy(graph));
    }
    ~Graph() { cudaGraphExecDestroy(made_); }
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    void launch(cudaStream_t stream) const { CCONVNET_CHECK(cudaGraphLaunch(made_, stream)); }

   private:
    cudaGraphExec_t made_;
  };

  double seconds_;
  int multiprocessors_ = 0;
  cudaStream_t stream_;
  cudaEvent_t begin_, end_;
  Given given_{};
};

#else

// Runs each loop once.
class Gpu {
 public:
  Gpu(int, double)
      : vectors_(kVectors, uint4{0x3c3c3c3c, 0x3c3c3c3c, 0x3c3c3c3c, 0x3c3c3c3c}), out_(kVectors) {}

  void measure(const Loop& loop) {
    unsigned sink = 0;
    long long cycles[2] = {-1, -1};
    if (loop.prepare) {
      CCONVNET_LAUNCH(loop.prepare, 2, kWide, nullptr,
                      (Given{1, vectors_.data(), out_.data(), &sink, cycles, kVectors}));
    }
    CCONVNET_LAUNCH(loop.kernel, loop.blocks > 0 ? loop.blocks : 2, loop.threads, nullptr,
                    (Given{1, vectors_.data(), out_.data(), &sink, cycles, kVectors}));
    print(loop.name, loop.unit, nullptr);
  }

  void measure_launch(int which) {
    CCONVNET_LAUNCH(nothing, 1, 32, nullptr, Given{});
    print(kLaunches[which][0], kLaunches[which][1], nullptr);
  }

 private:
  static constexpr size_t kVectors = 8192;
  std::vector<uint4> vectors_, out_;
};

#endif

int run(int argc, char** argv) {
  std::vector<std::string> wanted;
  int device = 0;
  double seconds = 10;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--device" && i + 1 < argc) {
      device = std::atoi(argv[++i]);
    } else if (word == "--seconds" && i + 1 < argc) {
      seconds = std::atof(argv[++i]);
    } else {
      wanted.push_back(word);
    }
  }
  const auto chosen = [&](const char* name) {
    return wanted.empty() || std::find(wanted.begin(), wanted.end(), name) != wanted.end();
  };
  Gpu gpu(device, seconds);
  for (const Loop& loop : kLoops) {
    if (chosen(loop.name)) gpu.measure(loop);
  }
  for (size_t i = 0; i < std::size(kLaunches); ++i) {
    if (chosen(kLaunches[i][0])) gpu.measure_launch(static_cast<int>(i));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
