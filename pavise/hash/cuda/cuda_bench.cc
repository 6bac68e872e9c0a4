// Measures what only CUDA has: reading its memory by a kernel, the ways in which the kernels load,
// and digests of host memory. All else is `pavise bench hash`. Checks every digest that it times.
//
// Usage: hash_cuda_bench [--output DIR] [--device N] [--max-gib N] [--seconds N]
//
// A step's result is DIR/<step>.json; steps that have one are not run again, so that a run that was
// cut short goes on where it stopped. No step begins after --seconds (default 480). Exit 0: all
// steps done; 3: some are left; 1: a wrong digest or a failure.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/cuda/kernels.h"
#include "pavise/hash/cuda/launch_plan.h"

namespace pavise::hash::cuda {

int LaunchRead(const uint8_t* bytes, uint64_t size_bytes, uint32_t* out, uint32_t multiprocessors,
               void* stream);

namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint64_t kGiB = uint64_t{1} << 30;
// The pattern repeats after this: an odd multiple of 16, so that no two of the timed ranges, which
// begin at multiples of 1 MiB, hold the same bytes.
constexpr uint64_t kPeriodBytes = 64 * kMiB + 16 * 1021;
constexpr int kRepetitions = 5;

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  std::exit(1);
}
void Check(int error, const char* call) {
  if (error != 0) {
    Fail(std::string(call) + ": " + cudaGetErrorString(static_cast<cudaError_t>(error)));
  }
}
void Check(const absl::Status& status, const char* call) {
  if (!status.ok()) Fail(std::string(call) + ": " + status.ToString());
}
void Expect(bool is_right, const std::string& what) {
  if (!is_right) Fail("WRONG ANSWER: " + what);
}

struct Options {
  std::string output = "hash_cuda_bench_results";
  int device = 0;
  uint64_t max_gib = 64;
  double seconds = 480;
};

class Bench {
 public:
  explicit Bench(const Options& options)
      : options_(options), start_(std::chrono::steady_clock::now()) {
    std::filesystem::create_directories(options.output);
    auto device = NewCudaDevice(options.device);
    Check(device.status(), "NewCudaDevice");
    device_ = *std::move(device);
    const auto devices = ListCudaDevices();
    Check(devices.status(), "ListCudaDevices");
    info_ = devices->at(static_cast<size_t>(options.device));
    Check(cudaSetDevice(options.device), "cudaSetDevice");
    Check(cudaStreamCreateWithFlags(&raw_stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    auto stream = WrapCudaStream(*device_, raw_stream_);
    Check(stream.status(), "WrapCudaStream");
    stream_ = *std::move(stream);
    std::printf("%s\n%-30s %12s %10s %10s   %s\n", device_->description().c_str(), "step", "bytes",
                "ms", "GB/s", "checked");
  }

  int Run() {
    const uint64_t most = options_.max_gib * kGiB;
    const uint64_t compared = std::min(16 * kGiB, most);
    Step("read", [&] { return Read(); });
    // The two ways to load, kernels alone, for whoever tunes them.
    for (const Loads loads : {Loads::kByLane, Loads::kStaged}) {
      const std::string suffix = loads == Loads::kStaged ? "_staged" : "_by_lane";
      Step("kernel_sha256" + suffix, [&] { return TimeSha256Kernel(most, loads); });
      for (const uint64_t offset : {0, 8}) {
        if (offset != 0 && loads == Loads::kStaged) continue;
        for (const uint32_t chunks : {1u, 8u}) {
          Step("kernel_blake3_" + std::to_string(chunks) + "_chunks" + suffix +
                   (offset != 0 ? "_at_8" : ""),
               [&] { return TimeBlake3Kernels(compared, chunks, loads, offset); });
        }
      }
    }
    Step("blake3_from_host", [&] { return TimeHost(std::min(4 * kGiB, most)); });
    if (steps_left_ != 0) std::printf("%d steps left: run again\n", steps_left_);
    return steps_left_ == 0 ? 0 : 3;
  }

 private:
  struct Result {
    uint64_t bytes = 0;
    double milliseconds = 0;  // median of kRepetitions
    double least_milliseconds = 0;
    std::string checked;
  };

  template <class Function>
  void Step(const std::string& name, Function function) {
    const std::filesystem::path path = std::filesystem::path(options_.output) / (name + ".json");
    if (std::ifstream done(path); done) {
      std::ostringstream text;
      text << done.rdbuf();
      std::printf("%-30s done before: %s", name.c_str(), text.str().c_str());
      return;
    }
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
    if (elapsed.count() > options_.seconds) {
      ++steps_left_;
      return;
    }
    const std::optional<Result> result = function();
    if (!result.has_value()) {
      std::printf("%-30s SKIPPED: not enough memory on the device\n", name.c_str());
      return;
    }
    const double rate = static_cast<double>(result->bytes) / result->milliseconds / 1e6;
    std::printf("%-30s %12llu %10.3f %10.1f   %s\n", name.c_str(),
                static_cast<unsigned long long>(result->bytes), result->milliseconds, rate,
                result->checked.c_str());
    std::fflush(stdout);
    // Appears whole or not at all.
    const std::filesystem::path partial = path.string() + ".partial";
    std::ofstream(partial) << "{\"step\": \"" << name << "\", \"device\": \"" << info_.name
                           << "\", \"bytes\": " << result->bytes
                           << ", \"median_ms\": " << result->milliseconds
                           << ", \"least_ms\": " << result->least_milliseconds
                           << ", \"gb_per_s\": " << rate << ", \"checked\": \"" << result->checked
                           << "\"}\n";
    std::filesystem::rename(partial, path);
  }

  // The time of what `queue` queues on the stream, after one run to warm up.
  template <class Queue>
  Result Time(uint64_t bytes, Queue queue) {
    cudaEvent_t begin;
    cudaEvent_t end;
    Check(cudaEventCreate(&begin), "cudaEventCreate");
    Check(cudaEventCreate(&end), "cudaEventCreate");
    std::vector<double> times;
    for (int i = 0; i <= kRepetitions; ++i) {
      Check(cudaEventRecord(begin, raw_stream_), "cudaEventRecord");
      queue();
      Check(cudaEventRecord(end, raw_stream_), "cudaEventRecord");
      Check(stream_->Wait(), "Wait");
      Check(cudaStreamSynchronize(raw_stream_), "cudaStreamSynchronize");
      float milliseconds = 0;
      Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
      if (i != 0) times.push_back(milliseconds);
    }
    (void)cudaEventDestroy(begin);
    (void)cudaEventDestroy(end);
    std::sort(times.begin(), times.end());
    return {bytes, times[times.size() / 2], times.front(), ""};
  }

  // Device memory with the pattern in it; false where it does not fit.
  bool Fill(uint64_t size_bytes) {
    if (pattern_.empty()) {
      pattern_.resize(kPeriodBytes + kMiB);
      std::mt19937_64 random(20);
      for (uint64_t i = 0; i < kPeriodBytes; i += 8) {
        const uint64_t word = random();
        std::memcpy(&pattern_[i], &word, 8);
      }
      // Wraps around, so that any 1 MiB of the data is in one piece here.
      std::memcpy(&pattern_[kPeriodBytes], pattern_.data(), kMiB);
    }
    if (data_bytes_ >= size_bytes) return true;
    (void)cudaFree(data_);
    data_ = nullptr;
    data_bytes_ = 0;
    const cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&data_), size_bytes);
    if (error == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();
      return false;
    }
    Check(error, "cudaMalloc");
    uint64_t filled = std::min(size_bytes, kPeriodBytes);
    Check(cudaMemcpy(data_, pattern_.data(), filled, cudaMemcpyHostToDevice), "cudaMemcpy");
    while (filled < size_bytes) {
      const uint64_t more = std::min(filled, size_bytes - filled);
      // Whole periods come before `filled`, so a copy of the beginning goes on with the pattern.
      Check(cudaMemcpy(data_ + filled, data_, more, cudaMemcpyDeviceToDevice), "cudaMemcpy");
      filled += more;
    }
    data_bytes_ = size_bytes;
    return true;
  }
  ByteSpan PatternAt(uint64_t offset, uint64_t size_bytes) const {
    return ByteSpan(pattern_).subspan(offset % kPeriodBytes, size_bytes);
  }

  std::optional<Result> Read() {
    const uint64_t bytes = std::min(16 * kGiB, options_.max_gib * kGiB);
    if (!Fill(bytes)) return std::nullopt;
    uint32_t* sum = nullptr;
    Check(cudaMalloc(reinterpret_cast<void**>(&sum), 4), "cudaMalloc");
    Result result = Time(bytes, [&] {
      Check(cudaMemsetAsync(sum, 0, 4, raw_stream_), "cudaMemsetAsync");
      Check(
          LaunchRead(data_, bytes, sum, static_cast<uint32_t>(info_.multiprocessors), raw_stream_),
          "read kernel");
    });
    uint32_t measured = 0;
    Check(cudaMemcpy(&measured, sum, 4, cudaMemcpyDeviceToHost), "cudaMemcpy");
    (void)cudaFree(sum);
    // Of whole periods and a rest.
    const auto sum_of = [&](uint64_t size_bytes) {
      uint32_t expected = 0;
      for (uint64_t i = 0; i < size_bytes; i += 4) {
        uint32_t word;
        std::memcpy(&word, &pattern_[i], 4);
        expected ^= word;
      }
      return expected;
    };
    const uint32_t whole = bytes / kPeriodBytes % 2 == 1 ? sum_of(kPeriodBytes) : 0;
    Expect(measured == (whole ^ sum_of(bytes % kPeriodBytes)), "sum of the read kernel");
    result.checked = "XOR of all words";
    return result;
  }

  // Which of `count` ranges are computed on the CPU too: all of a small size, else 256 of them,
  // with the first and the last.
  static std::vector<uint64_t> Sample(uint64_t count) {
    std::vector<uint64_t> sample;
    const uint64_t wanted = std::min<uint64_t>(count, 256);
    for (uint64_t i = 0; i < wanted; ++i) {
      sample.push_back(wanted == 1 ? 0 : i * (count - 1) / (wanted - 1));
    }
    return sample;
  }

  // The BLAKE3 digest of the first `bytes` (whole MiB) of the data, or of those from `offset` on,
  // from the device's chaining values of 1 MiB, a sample of which the CPU confirms.
  Digest32 ConfirmedBlake3(uint64_t bytes, uint64_t offset) {
    auto buffer = WrapDeviceMemory(*device_, data_, bytes);
    Check(buffer.status(), "WrapDeviceMemory");
    std::vector<SubtreeRange> ranges;
    for (uint64_t at = offset; at < bytes; at += kMiB) {
      ranges.push_back({{at, std::min(kMiB, bytes - at)}, (at - offset) / kBlake3ChunkBytes});
    }
    std::vector<ChainingValue> values(ranges.size());
    Check(device_->Blake3Subtrees(**buffer, ranges, *stream_, values), "Blake3Subtrees");
    Check(stream_->Wait(), "Wait");
    for (const uint64_t i : Sample(ranges.size())) {
      Expect(values[i] ==
                 Blake3Subtree(PatternAt(ranges[i].range.offset_bytes, ranges[i].range.size_bytes),
                               ranges[i].first_chunk),
             "chaining value of MiB " + std::to_string(i));
    }
    if (values.size() == 1) return Blake3(PatternAt(offset, bytes - offset));
    return Blake3RootFromSubtrees(values);
  }
  static std::string Checked(uint64_t count) {
    return std::to_string(Sample(count).size()) + " of " + std::to_string(count) +
           " MiB on the CPU";
  }

  void ConfirmSha256(const Bytes& digests, uint64_t count) {
    for (const uint64_t i : Sample(count)) {
      const auto expected =
          crypto::Digest(crypto::DigestAlgorithm::kSha256, PatternAt(i * kMiB, kMiB));
      Check(expected.status(), "crypto::Digest");
      Expect(std::equal(expected->begin(), expected->end(),
                        digests.begin() + static_cast<ptrdiff_t>(i * sizeof(Digest32))),
             "digest of MiB " + std::to_string(i));
    }
  }

  template <class T>
  T* OnDevice(const std::vector<T>& values) {
    T* copy = nullptr;
    Check(cudaMalloc(reinterpret_cast<void**>(&copy), values.size() * sizeof(T)), "cudaMalloc");
    Check(cudaMemcpy(copy, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    owned_.push_back(copy);
    return copy;
  }
  void FreeOwned() {
    for (void* pointer : owned_) (void)cudaFree(pointer);
    owned_.clear();
  }

  std::optional<Result> TimeSha256Kernel(uint64_t bytes, Loads loads) {
    if (!Fill(bytes)) return std::nullopt;
    std::vector<RangeDescriptor> ranges;
    for (uint64_t i = 0; i < bytes / kMiB; ++i) ranges.push_back({i * kMiB, kMiB, 0, i, 0, 0});
    Bytes digests(ranges.size() * 32);
    const Sha2Arguments arguments = {.base = data_,
                                     .ranges = OnDevice(ranges),
                                     .range_count = static_cast<uint32_t>(ranges.size()),
                                     .out = OnDevice(digests)};
    Result result =
        Time(bytes, [&] { Check(LaunchSha256(arguments, loads, raw_stream_), "LaunchSha256"); });
    Check(cudaMemcpy(digests.data(), arguments.out, digests.size(), cudaMemcpyDeviceToHost),
          "cudaMemcpy");
    FreeOwned();
    ConfirmSha256(digests, ranges.size());
    result.checked = Checked(ranges.size());
    return result;
  }

  std::optional<Result> TimeBlake3Kernels(uint64_t bytes, uint32_t chunks, Loads loads,
                                          uint64_t offset) {
    if (!Fill(bytes)) return std::nullopt;
    const std::vector<RangeDescriptor> ranges = {{offset, bytes - offset, 0, 0, kRangeIsRoot, 0}};
    const Blake3Plan plan = PlanBlake3(ranges, chunks == 8 ? 0 : ~uint64_t{0});
    const RangeDescriptor* const on_device = OnDevice(ranges);
    uint8_t* const out = OnDevice(Bytes(kNodeBytes));
    std::vector<const uint64_t*> levels;
    std::vector<uint8_t*> nodes;
    for (size_t level = 0; level < plan.levels.size(); ++level) {
      levels.push_back(OnDevice(plan.levels[level]));
      void* memory = nullptr;
      Check(cudaMalloc(&memory, plan.count(level) * kNodeBytes), "cudaMalloc");
      owned_.push_back(memory);
      nodes.push_back(static_cast<uint8_t*>(memory));
    }
    Result result = Time(bytes - offset, [&] {
      Check(LaunchBlake3Leaves({.base = data_,
                                .ranges = on_device,
                                .first_item = levels[0],
                                .item_count = plan.count(0),
                                .range_count = 1,
                                .nodes = nodes[0],
                                .out = out},
                               chunks, loads, raw_stream_),
            "LaunchBlake3Leaves");
      for (size_t level = 1; level < plan.levels.size(); ++level) {
        Check(LaunchBlake3Tree({.nodes = nodes[level - 1],
                                .ranges = on_device,
                                .first_node = levels[level - 1],
                                .first_group = levels[level],
                                .group_count = plan.count(level),
                                .range_count = 1,
                                .out_nodes = nodes[level],
                                .out = out},
                               raw_stream_),
              "LaunchBlake3Tree");
      }
    });
    Digest32 digest = {};
    Check(cudaMemcpy(digest.data(), out, digest.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    FreeOwned();
    Expect(digest == ConfirmedBlake3(bytes, offset), "BLAKE3 by the kernels");
    result.checked = "root; " + Checked((bytes - 1) / kMiB + 1);
    return result;
  }

  // Copies included, wall-clock time.
  std::optional<Result> TimeHost(uint64_t bytes) {
    if (!Fill(bytes)) return std::nullopt;
    Bytes host(bytes);
    Check(cudaMemcpy(host.data(), data_, bytes, cudaMemcpyDeviceToHost), "cudaMemcpy");
    Digest32 digest = {};
    std::vector<double> times;
    for (int i = 0; i < 3; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      Check(DigestHostMemory(*device_, Algorithm::kBlake3, host, std::vector<Range>{{0, bytes}},
                             digest),
            "DigestHostMemory");
      times.push_back(
          std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin)
              .count());
    }
    std::sort(times.begin(), times.end());
    Expect(digest == ConfirmedBlake3(bytes, 0), "BLAKE3 of host memory");
    return Result{bytes, times[1], times[0], "root; " + Checked(bytes / kMiB)};
  }

  const Options options_;
  const std::chrono::steady_clock::time_point start_;
  std::unique_ptr<Device> device_;
  CudaDeviceInfo info_;
  cudaStream_t raw_stream_ = nullptr;
  std::unique_ptr<Stream> stream_;
  Bytes pattern_;
  uint8_t* data_ = nullptr;
  uint64_t data_bytes_ = 0;
  std::vector<void*> owned_;
  int steps_left_ = 0;
};

}  // namespace
}  // namespace pavise::hash::cuda

int main(int count, char** arguments) {
  pavise::hash::cuda::Options options;
  for (int i = 1; i < count; i += 2) {
    const std::string name = arguments[i];
    const char* const value = i + 1 < count ? arguments[i + 1] : nullptr;
    if (value != nullptr && name == "--output") {
      options.output = value;
    } else if (value != nullptr && name == "--device") {
      options.device = std::atoi(value);
    } else if (value != nullptr && name == "--max-gib") {
      options.max_gib = std::max<uint64_t>(1, std::strtoull(value, nullptr, 10));
    } else if (value != nullptr && name == "--seconds") {
      options.seconds = std::atof(value);
    } else {
      std::fprintf(
          stderr,
          "usage: hash_cuda_bench [--output DIR] [--device N] [--max-gib N] [--seconds N]\n");
      return 2;
    }
  }
  return pavise::hash::cuda::Bench(options).Run();
}
