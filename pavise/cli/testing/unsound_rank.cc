// A rank among ranks of `pavise verify` that dies or lies at a chosen step, or is of another
// version of the program from then on. Usage:
//   unsound_rank die|lie|foreign ROUND MODEL SIGNATURE PUBLIC_KEY
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
  UnsoundRank(loading::RankGroup& sound, std::string_view fault, int bad_round)
      : sound_(sound), fault_(fault), bad_round_(bad_round) {}
  unsigned rank() const override { return sound_.rank(); }
  unsigned size() const override { return sound_.size(); }
  absl::StatusOr<std::vector<Bytes>> AllGather(ByteSpan mine) override {
    Bytes message(mine.begin(), mine.end());
    const int round = round_++;
    if (fault_ == "foreign" && round >= bad_round_) return GatherAsAnotherVersion(message);
    if (round == bad_round_) {
      if (fault_ == "die") raise(SIGKILL);
      message.back() ^= 1;
    }
    return sound_.AllGather(message);
  }

 private:
  // Whose name stands at the beginning of each message.
  absl::StatusOr<std::vector<Bytes>> GatherAsAnotherVersion(Bytes message) {
    constexpr size_t kInName = 10;
    message[kInName] ^= 1;
    PAVISE_ASSIGN_OR_RETURN(std::vector<Bytes> all, sound_.AllGather(message));
    for (Bytes& one : all) one[kInName] ^= 1;
    return all;
  }

  loading::RankGroup& sound_;
  const std::string_view fault_;
  const int bad_round_;
  int round_ = 0;
};

absl::Status Run(char** argv) {
  PAVISE_ASSIGN_OR_RETURN(const auto group, loading::JoinLaunchedRanks());
  if (group == nullptr) return UsageError("start it with mpirun");
  UnsoundRank unsound(*group, argv[1], std::atoi(argv[2]));
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
