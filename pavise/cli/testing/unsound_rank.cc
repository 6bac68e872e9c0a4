// A rank among ranks of `pavise verify` that dies or lies at a chosen step. Usage:
//   unsound_rank die|lie ROUND MODEL SIGNATURE PUBLIC_KEY
// Rounds: 0, before its request is sent; 1, after its share was read; 2, before its verdict.

#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>

#include "pavise/crypto/keys.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/loading/mpi/mpi_ranks.h"
#include "pavise/loading/ranked_verification.h"

namespace pavise::cli {
namespace {

class UnsoundRank final : public loading::RankGroup {
 public:
  UnsoundRank(loading::RankGroup& sound, bool lies, int bad_round)
      : sound_(sound), lies_(lies), bad_round_(bad_round) {}
  unsigned rank() const override { return sound_.rank(); }
  unsigned size() const override { return sound_.size(); }
  absl::StatusOr<std::vector<Bytes>> AllGather(ByteSpan mine) override {
    Bytes message(mine.begin(), mine.end());
    if (round_++ == bad_round_) {
      if (!lies_) raise(SIGKILL);
      message.back() ^= 1;
    }
    return sound_.AllGather(message);
  }

 private:
  loading::RankGroup& sound_;
  const bool lies_;
  const int bad_round_;
  int round_ = 0;
};

absl::Status Run(char** argv) {
  PAVISE_ASSIGN_OR_RETURN(const auto group, loading::JoinLaunchedRanks());
  if (group == nullptr) return UsageError("start it with mpirun");
  UnsoundRank unsound(*group, std::string_view(argv[1]) == "lie", std::atoi(argv[2]));
  signing::VerifyOptions options;
  options.model_path = argv[3];
  options.signature_path = argv[4];
  // As the verb does.
  options.ignore_paths.assign(std::begin(signing::kGitPaths), std::end(signing::kGitPaths));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key,
                          crypto::PublicKey::FromPem(crypto::testing::ReadText(argv[5]), argv[5]));
  signing::TrustedSigners signers;
  signers.keys.push_back({std::move(key)});
  options.policy = signing::TrustPolicy::ForSigners(std::move(signers));
  loading::RankedRun run(unsound);
  return loading::VerifyInRanks(options, run).status();
}

}  // namespace
}  // namespace pavise::cli

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  const absl::Status status = pavise::cli::Run(argv);
  if (!status.ok()) std::fprintf(stderr, "unsound rank: %s\n", status.ToString().c_str());
  return pavise::ExitCodeOf(status);
}
