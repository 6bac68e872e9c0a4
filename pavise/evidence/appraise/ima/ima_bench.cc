#include <benchmark/benchmark.h>

#include <cstdint>

#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/ima/ima_appraiser.h"
#include "pavise/evidence/testing/log_writer.h"

// A log of 100,000 entries, parsed, replayed and held against as many reference values, one thread;
// then 100 added entries alone. Both banks are quoted, by the rule that is tried first. Each run
// checks its verdict.
namespace pavise::evidence {
namespace {

constexpr size_t kEntries = 100'000;
constexpr size_t kAdded = 100;

struct Machine {
  testing::ImaLogWriter log;
  ImaRules rules;
  PcrValues first;  // quoted after kEntries
  PcrValues second;
  size_t first_bytes = 0;

  Machine() {
    PcrValues boot;
    for (uint32_t index = 0; index < 10; ++index) {
      if (!boot.Set(PcrBank::kSha256, index, Bytes(32)).ok()) abort();
    }
    log.Ng("boot_aggregate", *crypto::Digest(crypto::DigestAlgorithm::kSha256, Bytes(320)));
    for (size_t i = 1; i < kEntries + kAdded; ++i) {
      if (i == kEntries) {
        first = Quoted(boot);
        first_bytes = log.bytes().size();
      }
      const std::string path = StrCat("/usr/lib/x86_64-linux-gnu/package/library-", i, ".so");
      const Bytes digest = *crypto::Digest(crypto::DigestAlgorithm::kSha256, AsBytes(path));
      log.Sig(path, digest, {});
      rules.files[path] = {StrCat("sha256:", ToHex(digest))};
    }
    second = Quoted(boot);
  }

  PcrValues Quoted(const PcrValues& boot) const {
    PcrValues quoted = boot;
    for (const PcrBank bank : {PcrBank::kSha1, PcrBank::kSha256}) {
      if (!quoted.Set(bank, kImaRegister, *log.per_bank().Get(bank, kImaRegister)).ok()) abort();
    }
    return quoted;
  }
};

bool Appraise(ByteSpan bytes, const PcrValues& quoted, const ImaPolicy& policy, ImaState& state) {
  const auto log = ParseImaLog(bytes, ImaForm::kLittleEndian, "log");
  CheckList checks;
  return log.ok() &&
         ImaAppraiser::Appraise(*log, PcrBank::kSha256, quoted, policy, "log", state, checks).ok();
}

void BM_ImaLog(benchmark::State& state) {
  const Machine machine;
  const ImaPolicy policy = *ImaPolicy::Create(machine.rules);
  const ByteSpan bytes = machine.log.bytes();
  ImaState accepted;
  if (!Appraise(bytes.first(machine.first_bytes), machine.first, policy, accepted)) {
    state.SkipWithError("refused");
    return;
  }
  const bool continued = state.range(0) == 1;
  for (auto _ : state) {
    ImaState next = continued ? accepted : ImaState();
    const bool ok = continued
                        ? Appraise(bytes.subspan(machine.first_bytes), machine.second, policy, next)
                        : Appraise(bytes.first(machine.first_bytes), machine.first, policy, next);
    if (!ok) state.SkipWithError("refused");
  }
  state.SetItemsProcessed(
      static_cast<int64_t>(state.iterations() * (continued ? kAdded : kEntries)));
}
BENCHMARK(BM_ImaLog)->ArgName("continued")->Arg(0)->Arg(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace pavise::evidence

BENCHMARK_MAIN();
