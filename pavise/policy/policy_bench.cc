// A decision about one key: an agreement of 3 owners, and one of 20 owners with a rule each.

#include <cstdlib>
#include <string>

#include "pavise/base/strings.h"
#include "pavise/policy/decision.h"
#include "pavise/policy/testing/test_agreement.h"

#include "benchmark/benchmark.h"

namespace pavise::policy {
namespace {

constexpr std::string_view kBroker =
    "00000000000000000000000000000000000000000000000000000000000000b0";

void BM_DecideKeyRelease(benchmark::State& state) {
  testing::TestFiles files;
  const testing::TestMachine machine;
  Agreement agreement = testing::ThreeOwners(machine.Rules(files));
  for (int64_t i = 3; i < state.range(0); ++i) {
    const std::string name = StrCat("clinic-", i);
    agreement.stakeholders.emplace(name, testing::StakeholderOf(name));
    agreement.assets[StrCat("scans-", i)] = agreement.assets["scans-a"];
    agreement.assets[StrCat("scans-", i)].owner = name;
    agreement.stages["train"].inputs.insert(StrCat("scans-", i));
    OwnerRule rule;
    rule.owner = name;
    rule.stages = {"train"};
    rule.modes = {Mode::kMeasured};
    rule.recipients = {"vendor"};
    rule.forbid_network = true;
    agreement.rules[StrCat("of-", i)] = rule;
  }
  const AgreementHistory history = testing::InForceHistory(agreement);
  const AgreementInForce in_force = *history.InForce();
  const Digest32 nonce{1};
  const StageAppraisal appraisal =
      StageEvidence::Prepare(in_force, "train", Mode::kMeasured, files)
          .value()
          .Appraise(machine.Evidence(nonce), nonce, testing::kTestTime);
  const VerifiedDeposit deposit =
      DepositVerifier::Verify(testing::Deposited(history, "scans-a", "clinic-a", kBroker), in_force,
                              kBroker)
          .value();
  size_t rules = 0;
  for (auto _ : state) {
    const Decision decision =
        DecideKeyRelease(in_force, appraisal, "scans-a", &deposit, {}, testing::kTestTime);
    if (!decision.allowed()) abort();
    rules = decision.rules.size();
    benchmark::DoNotOptimize(rules);
  }
  state.counters["rules"] = static_cast<double>(rules);
}
BENCHMARK(BM_DecideKeyRelease)->ArgName("owners")->Arg(3)->Arg(20)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace pavise::policy

BENCHMARK_MAIN();
