#include <chrono>
#include <memory>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/bench_hash.h"
#include "pavise/cli/bench_load.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/training.h"
#include "pavise/cli/verb.h"
#include "pavise/hash/file_pass.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kBenchGroup = "What is measured";

double SecondsSince(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

class BenchVerb final : public Verb {
 public:
  explicit BenchVerb(std::unique_ptr<Verb> modes) : modes_bench_(std::move(modes)) {}
  std::string_view name() const override { return "bench"; }
  std::string_view group() const override { return "This machine"; }
  std::string_view summary() const override {
    return "Measure this machine: hashing of memory (bench hash) or of files (bench file), what "
           "verification costs a load (bench load), and what trust costs a training job (bench "
           "modes).";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise bench hash\n"
           "  pavise bench hash --device cpu,cuda:0 --resume points.json --plot rates.svg\n"
           "  pavise bench hash --device opencl:0 --sizes 64MiB,1GiB\n"
           "  pavise bench file model.safetensors --algorithm blake3 --threads 1\n"
           "  pavise bench load --device cuda:0 --size 64GiB\n"
           "  pavise bench modes --network resnet18 --schemes tempo,orthogonal -o modes.svg";
  }

  void Declare(CLI::App& app) override {
    app.require_subcommand(1);
    hash_ = app.add_subcommand("hash",
                               "digests, keyed tags and copies of bytes in the memory of devices, "
                               "over sizes; answers are checked");
    hash_->group("What to measure");
    hash_bench_.Declare(*hash_);
    CLI::App* file = app.add_subcommand("file", "digest these files in one pass, once");
    file->group("What to measure");
    file->add_option("PATH", paths_, "the files")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(*file, "--algorithm", algorithm_, "blake3|sha256|sha384|blake2b",
              "the digest [blake3]", kBenchGroup);
    read_.Declare(*file);
    load_ =
        app.add_subcommand("load",
                           "verified against unverified loads of a model that it makes, and the "
                           "guard on a busy device");
    load_->group("What to measure");
    load_bench_.Declare(*load_);
    if (modes_bench_ == nullptr) return;
    modes_ =
        app.add_subcommand(std::string(modes_bench_->name()), std::string(modes_bench_->summary()));
    modes_->group("What to measure");
    modes_bench_->Declare(*modes_);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override {
    if (modes_ != nullptr && modes_->parsed()) return modes_bench_->Run(session);
    return hash_->parsed()   ? hash_bench_.Run()
           : load_->parsed() ? load_bench_.Run()
                             : BenchFile(session);
  }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "nothing was measured";
  }

 private:
  absl::StatusOr<Outcome> BenchFile(const Session& session) const;

  CLI::App* hash_ = nullptr;
  CLI::App* load_ = nullptr;
  CLI::App* modes_ = nullptr;
  HashBench hash_bench_;
  LoadBench load_bench_;
  std::unique_ptr<Verb> modes_bench_;  // nullptr: there is none
  std::vector<std::string> paths_;
  std::string algorithm_ = "blake3";
  ReadOptions read_;
};

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

std::unique_ptr<Verb> NewBenchVerb() { return NewBenchVerb(nullptr); }

std::unique_ptr<Verb> NewBenchVerb(std::unique_ptr<Verb> modes) {
  return std::make_unique<BenchVerb>(std::move(modes));
}

}  // namespace pavise::cli
