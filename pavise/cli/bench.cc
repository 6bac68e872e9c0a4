#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/digest.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/devices.h"
#include "pavise/hash/file_pass.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

constexpr const char* kBenchGroup = "What is measured";
constexpr hash::Algorithm kAlgorithms[] = {hash::Algorithm::kBlake3, hash::Algorithm::kSha256,
                                           hash::Algorithm::kSha384, hash::Algorithm::kBlake2b};
// A serial digest is one chain: only several inputs keep several threads busy.
constexpr uint64_t kSerialInputs = 16;
constexpr uint64_t kSerialInputsOfGpu = 4096;
constexpr int kRuns = 3;  // the quickest counts: interruptions only ever slow a run down
constexpr uint64_t kMostBufferBytes = uint64_t{64} << 30;

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Memory filled with a pattern of period 251, so that swapped blocks would show.
class TestData {
 public:
  static absl::StatusOr<TestData> Make(uint64_t size_bytes) {
    void* memory =
        mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
      return MachineFailure("--size", StrCat("no memory for ", HumanBytes(size_bytes)));
    }
    TestData data;
    data.bytes_ = {static_cast<uint8_t*>(memory), size_bytes};
    for (uint64_t i = 0; i < size_bytes; ++i) data.bytes_[i] = static_cast<uint8_t>(i % 251);
    return data;
  }
  TestData(TestData&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  TestData& operator=(TestData&&) = delete;
  ~TestData() {
    if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
  }
  ByteSpan bytes() const { return bytes_; }

 private:
  TestData() = default;
  std::span<uint8_t> bytes_;
};

// The digest by other code than the device's: OpenSSL, or the plain BLAKE3 written for reading.
absl::StatusOr<Bytes> ReferenceDigest(hash::Algorithm algorithm, ByteSpan bytes) {
  switch (algorithm) {
    case hash::Algorithm::kBlake3: {
      const Digest32 digest = hash::reference::Blake3(bytes);
      return Bytes(digest.begin(), digest.end());
    }
    case hash::Algorithm::kSha256:
      return crypto::Digest(crypto::DigestAlgorithm::kSha256, bytes);
    case hash::Algorithm::kSha384:
      return crypto::Digest(crypto::DigestAlgorithm::kSha384, bytes);
    case hash::Algorithm::kBlake2b:
      return crypto::Digest(crypto::DigestAlgorithm::kBlake2b512, bytes);
  }
  return MachineFailure("bench", "unknown algorithm");
}

// A device with the test data in its memory.
struct Bench {
  std::unique_ptr<hash::Device> device;
  std::unique_ptr<hash::Buffer> buffer;
  std::unique_ptr<hash::Stream> stream;
  unsigned threads = 0;  // of the CPU; 0 for other devices
  double upload_s = 0;
};

// The CPU with each of `thread_counts`, over the caller's memory.
absl::StatusOr<std::vector<Bench>> CpuBenches(const std::vector<unsigned>& thread_counts,
                                              ByteSpan data) {
  std::vector<Bench> benches;
  for (const unsigned threads : thread_counts) {
    Bench& bench = benches.emplace_back();
    bench.threads = threads;
    bench.device = hash::NewCpuDevice(threads);
    bench.buffer = hash::WrapHostMemory(*bench.device, data);
    PAVISE_ASSIGN_OR_RETURN(bench.stream, bench.device->NewStream());
  }
  return benches;
}

absl::StatusOr<Bench> UploadedBench(std::unique_ptr<hash::Device> device, ByteSpan data) {
  Bench bench;
  bench.device = std::move(device);
  PAVISE_ASSIGN_OR_RETURN(bench.stream, bench.device->NewStream());
  const auto begin = std::chrono::steady_clock::now();
  PAVISE_ASSIGN_OR_RETURN(bench.buffer, bench.device->Upload(data));
  bench.upload_s = SecondsSince(begin);
  return bench;
}

// One BLAKE3 input; as many serial ones of like size as the device needs to be busy.
std::vector<hash::Range> InputsOf(hash::Algorithm algorithm, uint64_t size_bytes, bool is_cpu) {
  if (algorithm == hash::Algorithm::kBlake3) return {{0, size_bytes}};
  const uint64_t inputs = std::min(is_cpu ? kSerialInputs : kSerialInputsOfGpu, size_bytes);
  std::vector<hash::Range> ranges;
  for (uint64_t i = 0; i < inputs; ++i) {
    const uint64_t begin = size_bytes / inputs * i;
    const uint64_t end = i + 1 == inputs ? size_bytes : size_bytes / inputs * (i + 1);
    ranges.push_back({begin, end - begin});
  }
  return ranges;
}

// The quickest of kRuns, each of which must give the `expected` digests.
absl::StatusOr<double> QuickestSeconds(const Bench& bench, hash::Algorithm algorithm,
                                       std::span<const hash::Range> ranges, const Bytes& expected) {
  double quickest_s = 0;
  for (int run = 0; run < kRuns; ++run) {
    Bytes digests(expected.size());
    const auto begin = std::chrono::steady_clock::now();
    PAVISE_RETURN_IF_ERROR(
        bench.device->Digest(algorithm, *bench.buffer, ranges, *bench.stream, digests));
    PAVISE_RETURN_IF_ERROR(bench.stream->Wait());
    const double seconds = SecondsSince(begin);
    if (run == 0 || seconds < quickest_s) quickest_s = seconds;
    if (digests != expected) {
      return MachineFailure(hash::AlgorithmName(algorithm),
                            StrCat("a wrong answer from ", bench.device->description()));
    }
  }
  return quickest_s;
}

class BenchVerb final : public Verb {
 public:
  std::string_view name() const override { return "bench"; }
  std::string_view group() const override { return "This machine"; }
  std::string_view summary() const override {
    return "Measure hashing on this machine: of memory (bench hash) or of files (bench file).";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise bench hash\n"
           "  pavise bench hash --size 1GiB --threads 2\n"
           "  pavise bench hash --device opencl:0\n"
           "  pavise bench file model.safetensors --algorithm blake3 --threads 1";
  }

  void Declare(CLI::App& app) override {
    app.require_subcommand(1);
    hash_ = app.add_subcommand("hash",
                               "every digest over memory, on one and on all CPUs or on another "
                               "device; answers are checked");
    hash_->group("What to measure");
    AddOption(*hash_, "--size", size_, "SIZE", "bytes to hash, or with a unit [256MiB]",
              kBenchGroup);
    AddOption(*hash_, "--threads", threads_, "N", "this many threads only [1, and one a CPU]",
              kBenchGroup);
    AddOption(*hash_, "--device", device_, "NAME",
              "cpu, opencl:N (doctor lists them), or auto: the first GPU, else the CPU [cpu]",
              kBenchGroup);
    CLI::App* file = app.add_subcommand("file", "digest these files in one pass, once");
    file->group("What to measure");
    file->add_option("PATH", paths_, "the files")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(*file, "--algorithm", algorithm_, "blake3|sha256|sha384|blake2b",
              "the digest [blake3]", kBenchGroup);
    read_.Declare(*file);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override {
    return hash_->parsed() ? BenchHash() : BenchFile(session);
  }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "nothing was measured";
  }

 private:
  absl::StatusOr<Outcome> BenchHash() const;
  absl::StatusOr<Outcome> BenchFile(const Session& session) const;

  CLI::App* hash_ = nullptr;
  std::string size_ = "256MiB";
  std::string threads_;
  std::string device_ = "cpu";
  std::vector<std::string> paths_;
  std::string algorithm_ = "blake3";
  ReadOptions read_;
};

absl::StatusOr<Outcome> BenchVerb::BenchHash() const {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, ParseSize("--size", size_));
  if (size_bytes == 0 || size_bytes > kMostBufferBytes) {
    return UsageError(StrCat("--size: from 1 byte to ", HumanBytes(kMostBufferBytes)));
  }
  PAVISE_ASSIGN_OR_RETURN(const unsigned given_threads, ParseThreads(threads_));
  std::vector<unsigned> thread_counts = {1};
  if (given_threads != 0) {
    thread_counts = {given_threads};
  } else if (hash::UsableCpus() > 1) {
    thread_counts.push_back(hash::UsableCpus());
  }
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<hash::Device> device, hash::OpenDevice(device_));
  const bool is_cpu = device->name() == "cpu";
  if (!is_cpu && given_threads != 0) {
    return UsageError(StrCat("--threads: for the CPU, and this is ", device->name()));
  }
  PAVISE_ASSIGN_OR_RETURN(const TestData data, TestData::Make(size_bytes));
  std::vector<Bench> benches;
  if (is_cpu) {
    PAVISE_ASSIGN_OR_RETURN(benches, CpuBenches(thread_counts, data.bytes()));
  } else {
    PAVISE_ASSIGN_OR_RETURN(Bench bench, UploadedBench(std::move(device), data.bytes()));
    benches.push_back(std::move(bench));
  }

  Outcome outcome;
  std::vector<std::vector<std::string>> rows = {
      {"DIGEST", "INPUTS", is_cpu ? "THREADS" : "DEVICE", "GB/S"}};
  OrderedJson measured = OrderedJson::array();
  OrderedJson left_out = OrderedJson::array();
  for (const hash::Algorithm algorithm : kAlgorithms) {
    const std::string algorithm_name(hash::AlgorithmName(algorithm));
    if (!benches[0].device->supports(algorithm)) {
      left_out.push_back(algorithm_name);
      continue;
    }
    const std::vector<hash::Range> ranges = InputsOf(algorithm, size_bytes, is_cpu);
    Bytes expected;
    for (const hash::Range& range : ranges) {
      PAVISE_ASSIGN_OR_RETURN(
          const Bytes digest,
          ReferenceDigest(algorithm, data.bytes().subspan(range.offset_bytes, range.size_bytes)));
      expected.insert(expected.end(), digest.begin(), digest.end());
    }
    for (const Bench& bench : benches) {
      PAVISE_ASSIGN_OR_RETURN(const double quickest_s,
                              QuickestSeconds(bench, algorithm, ranges, expected));
      const double rate = GigabytesPerSecond(size_bytes, quickest_s);
      rows.push_back({algorithm_name, StrCat(ranges.size()),
                      is_cpu ? StrCat(bench.threads) : bench.device->name(),
                      absl::StrFormat("%.2f", rate)});
      OrderedJson& entry = measured.emplace_back(
          OrderedJson{{"algorithm", algorithm_name}, {"inputs", ranges.size()}});
      if (is_cpu) entry["threads"] = bench.threads;
      entry["seconds"] = quickest_s;
      entry["gigabytes_per_second"] = rate;
    }
  }
  const std::string description = benches.back().device->description();
  outcome.headline = StrCat(HumanBytes(size_bytes), " of memory, ", Printable(description),
                            ", best of ", kRuns, " runs, all answers checked");
  outcome.text = AlignedTable(rows, {1, 2, 3});
  outcome.json = {{"size_bytes", size_bytes}, {"device", description}, {"results", measured}};
  if (!is_cpu) {
    StrAppend(&outcome.text,
              "\nUpload, not counted above: ", Throughput(size_bytes, benches[0].upload_s), "\n");
    for (const OrderedJson& name : left_out) {
      StrAppend(&outcome.text, benches[0].device->name(), " does not compute ",
                name.get<std::string>(), "\n");
    }
    outcome.json["upload_seconds"] = benches[0].upload_s;
    outcome.json["not_computed"] = left_out;
  }
  return outcome;
}

absl::StatusOr<Outcome> BenchVerb::BenchFile(const Session& session) const {
  PAVISE_ASSIGN_OR_RETURN(const hash::PassOptions pass, read_.Resolve(session));
  const hash::Algorithm algorithm =
      hash::AlgorithmFromName(algorithm_).value_or(hash::Algorithm::kBlake3);
  const auto begin = std::chrono::steady_clock::now();
  std::vector<hash::FileRequest> requests;
  uint64_t total_bytes = 0;
  for (const std::string& path : paths_) {
    PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
    hash::FileRequest request;
    request.name = path;
    request.open = [path] { return OpenRegularFile(path); };
    PAVISE_ASSIGN_OR_RETURN(request.expected_identity, IdentityOf(file, path));
    request.size_bytes = request.expected_identity.size_bytes;
    if (algorithm == hash::Algorithm::kBlake3) {
      request.tree = true;
    } else {
      request.digests.push_back({algorithm, {0, request.size_bytes}});
    }
    total_bytes += request.size_bytes;
    requests.push_back(std::move(request));
  }
  PAVISE_ASSIGN_OR_RETURN(const auto results, hash::RunFilePass(requests, pass));
  const double seconds = SecondsSince(begin);

  Outcome outcome;
  OrderedJson files = OrderedJson::array();
  std::string_view sha256_by;
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].ok()) return results[i].status();
    const hash::FileResult& result = *results[i];
    sha256_by = result.sha256_by;
    const std::string digest =
        algorithm == hash::Algorithm::kBlake3 ? ToHex(result.root) : ToHex(result.digests.front());
    StrAppend(&outcome.text, digest, "  ", Printable(paths_[i]), "\n");
    files.push_back(
        {{"path", paths_[i]}, {"digest", digest}, {"size_bytes", requests[i].size_bytes}});
  }
  StrAppend(&outcome.text, algorithm_, ": ", Throughput(total_bytes, seconds), "\n");
  outcome.json = {{"algorithm", algorithm_},
                  {"files", files},
                  {"sha256_by", TextOrNull(sha256_by)},
                  {"bytes_hashed", total_bytes},
                  {"seconds", seconds},
                  {"gigabytes_per_second", GigabytesPerSecond(total_bytes, seconds)}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewBenchVerb() { return std::make_unique<BenchVerb>(); }

}  // namespace pavise::cli
