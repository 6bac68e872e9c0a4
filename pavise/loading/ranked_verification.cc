#include "pavise/loading/ranked_verification.h"

#include <algorithm>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/loading/ranked_pass.h"

namespace pavise::loading {
namespace {

// hash::RunFilePass for one rank.
class CpuPass final : public hash::FilePass {
 public:
  explicit CpuPass(const hash::PassOptions& options) : options_(options) {}

  absl::StatusOr<std::vector<absl::StatusOr<hash::FileResult>>> Run(
      const std::vector<hash::FileRequest>& files, Progress* progress) override {
    hash::PassOptions options = options_;
    options.progress = progress;
    // Several digests of the same bytes: of one private copy (ReadMode has the reason).
    const bool compares = std::any_of(files.begin(), files.end(), [](const auto& file) {
      return file.tree ? !file.digests.empty() : file.digests.size() > 1;
    });
    if (compares && options.mode == hash::ReadMode::kAuto) {
      options.mode = hash::ReadMode::kBuffered;
    }
    return hash::RunFilePass(files, options);
  }
  std::string description() const override {
    const unsigned threads = options_.threads == 0 ? hash::UsableCpus() : options_.threads;
    return StrCat("CPU, ", hash::Blake3Target(), ", ", threads,
                  threads == 1 ? " thread" : " threads");
  }

 private:
  const hash::PassOptions options_;
};

}  // namespace

absl::StatusOr<RankedVerification> VerifyInRanks(const signing::VerifyOptions& options,
                                                 RankedRun& run) {
  CpuPass cpu(options.pass);
  hash::FilePass& inner = options.file_pass != nullptr ? *options.file_pass : cpu;
  RankedPass pass(run, inner, RankedPass::Cut::kAtSubtrees);
  signing::VerifyOptions ranked = options;
  ranked.file_pass = &pass;
  absl::StatusOr<signing::VerifiedModel> verified =
      options.fips ? Refuse(Reason::kUnsupported, "--fips", "is not divided among ranks",
                            "verify on each rank alone, with --no-mpi")
                   : signing::ModelVerifier::Verify(ranked);
  RankPart part;
  part.device = inner.description();
  part.bytes_read = pass.bytes_read();
  part.copy = pass.copy();
  PAVISE_ASSIGN_OR_RETURN(
      std::vector<RankPart> parts,
      run.Conclude(verified.status(),
                   verified.ok() ? VerdictFacts(options, **verified) : RankFacts(), part));
  // An agreement of all of which this rank is one.
  if (!verified.ok()) return verified.status();
  return RankedVerification{*std::move(verified), std::move(parts)};
}

}  // namespace pavise::loading
