#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/composite/attestation_result.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"
#include "pavise/evidence/appraise/ima/ima_appraiser.h"
#include "pavise/evidence/appraise/nvidia/testing/test_gpu.h"
#include "pavise/evidence/appraise/testing/test_composite.h"
#include "pavise/evidence/appraise/testing/test_intel.h"
#include "pavise/evidence/appraise/testing/test_snp.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"
#include "pavise/evidence/testing/log_writer.h"

// Appraisals of each kind of evidence, made on the spot, on one thread: from the bytes that were
// sent to the verdict. What the relying party has before (trust, collateral, policy) is not timed,
// except where the appraiser takes it as bytes. bench/run.py runs this and makes the table.
namespace pavise::evidence {
namespace {

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

// Times `appraise`, a function from evidence to a status, which must accept `good` every time and
// must refuse `changed`. `entries`: of a log, all that an appraisal looks at.
template <typename Evidence, typename Appraise>
void TimeVerdict(benchmark::State& state, const Evidence& good, const Evidence& changed,
                 const Appraise& appraise, size_t entries = 0) {
  if (ExitCodeOf(appraise(changed)) != 1) return state.SkipWithError("accepts changed evidence");
  for (auto _ : state) {
    if (const absl::Status status = appraise(good); !status.ok()) {
      return state.SkipWithError(status.ToString().c_str());
    }
  }
  using benchmark::Counter;
  state.counters["appraisals_per_s"] = Counter(1, Counter::kIsIterationInvariantRate);
  if (entries == 0) return;
  state.counters["entries_per_s"] =
      Counter(static_cast<double>(entries), Counter::kIsIterationInvariantRate);
}

Bytes WithFlippedByte(Bytes bytes, size_t index) {
  bytes[index] ^= 0x01;
  return bytes;
}

void TpmQuote(benchmark::State& state) {
  testing::TestTpm tpm;
  PcrValues pcrs;
  for (uint32_t index = 0; index < kPcrCount; ++index) {
    if (!pcrs.Set(PcrBank::kSha256, index, Bytes(32, static_cast<uint8_t>(index))).ok()) abort();
  }
  QuoteExpectation expected;
  expected.nonce = Bytes(32, 0x77);
  for (uint32_t index = 0; index <= 14; ++index) expected.pcrs[PcrBank::kSha256].insert(index);
  expected.pinned_ak_names = {ToHex(ParseTpm2bPublic(tpm.AkPublic(), "AK").value().name)};
  const QuoteEvidence good = tpm.Quote(expected.nonce, pcrs);
  QuoteEvidence changed = good;
  changed.quote.back() ^= 0x01;
  TimeVerdict(state, good, changed, [&](const QuoteEvidence& evidence) {
    CheckList checks;
    return QuoteAppraiser::Appraise(evidence, expected, checks).status();
  });
}
BENCHMARK(TpmQuote)->Name("tpm-quote");

void TpmEndorsementKey(benchmark::State& state) {
  const testing::TestTpm tpm;
  const testing::TestTpm other;
  const TpmTrust trust = tpm.trust();
  const Bytes der = tpm.ek_certificate.der();
  TimeVerdict(state, tpm.EkPublic(), other.EkPublic(), [&](ByteSpan ek_public) {
    PAVISE_ASSIGN_OR_RETURN(const auto certificate, crypto::Certificate::FromDer(der, "EK"));
    CheckList checks;
    return EkAppraiser::Appraise(ek_public, certificate, trust, kNow, checks).status();
  });
}
BENCHMARK(TpmEndorsementKey)->Name("tpm-ek-chain");

// As firmware, shim and GRUB write them; both banks are quoted and replayed.
testing::EventLogWriter BootLog(size_t events) {
  testing::EventLogWriter log({PcrBank::kSha1, PcrBank::kSha256});
  log.Add(0, kEvSCrtmVersion, AsBytes("v1"));
  log.Add(7, kEvEfiVariableDriverConfig, testing::VariableEvent("SecureBoot", Bytes{1}));
  log.Add(7, kEvEfiVariableDriverConfig, testing::VariableEvent("db", Bytes(3000, 0xdb)));
  for (uint32_t index = 0; index < 8; ++index) log.Add(index, kEvSeparator, Bytes(4));
  for (size_t i = 11; i < events; ++i) {
    const std::string command = StrCat("insmod module", i);
    log.Add(8, kEvIpl, AsBytes(StrCat("grub_cmd: ", command, std::string(1, '\0'))),
            AsBytes(command));
  }
  return log;
}

void EventLogOf120(benchmark::State& state) {
  constexpr size_t kEvents = 120;
  const testing::EventLogWriter log = BootLog(kEvents);
  PcrValues quoted = log.values();
  for (const PcrBank bank : {PcrBank::kSha1, PcrBank::kSha256}) {
    for (const uint32_t index : {9u, 14u}) {
      if (!quoted.Set(bank, index, InitialPcrValue(bank, index)).ok()) abort();
    }
  }
  TimeVerdict(
      state, log.bytes(), BootLog(kEvents + 1).bytes(),
      [&](ByteSpan bytes) {
        PAVISE_ASSIGN_OR_RETURN(const EventLog parsed, ParseEventLog(bytes, "log"));
        CheckList checks;
        return EventLogAppraiser::Appraise(parsed, {}, quoted, "log", checks).status();
      },
      kEvents);
}
BENCHMARK(EventLogOf120)->Name("event-log-120");

constexpr size_t kAdded = 100;

// An IMA log of ima-sig entries without signatures, each listed in the policy. Both banks are
// quoted.
struct ImaMachine {
  testing::ImaLogWriter log;
  ImaRules rules;
  PcrValues first;   // quoted before the last kAdded entries
  PcrValues second;  // and after them
  size_t first_bytes = 0;

  explicit ImaMachine(size_t entries) {
    log.Ng("boot_aggregate", *crypto::Digest(crypto::DigestAlgorithm::kSha256, Bytes(320)));
    for (size_t i = 1; i < entries + kAdded; ++i) {
      if (i == entries) {
        first = Quoted();
        first_bytes = log.bytes().size();
      }
      const std::string path = StrCat("/usr/lib/x86_64-linux-gnu/package/library-", i, ".so");
      const Bytes digest = *crypto::Digest(crypto::DigestAlgorithm::kSha256, AsBytes(path));
      log.Sig(path, digest, {});
      rules.files[path] = {StrCat("sha256:", ToHex(digest))};
    }
    second = Quoted();
  }

  PcrValues Quoted() const {
    PcrValues quoted;
    for (uint32_t index = 0; index < kImaRegister; ++index) {
      if (!quoted.Set(PcrBank::kSha256, index, Bytes(32)).ok()) abort();
    }
    for (const PcrBank bank : {PcrBank::kSha1, PcrBank::kSha256}) {
      if (!quoted.Set(bank, kImaRegister, *log.per_bank().Get(bank, kImaRegister)).ok()) abort();
    }
    return quoted;
  }
};

absl::Status AppraiseIma(ByteSpan bytes, const PcrValues& quoted, const ImaPolicy& policy,
                         ImaState& state) {
  PAVISE_ASSIGN_OR_RETURN(const ImaLog log, ParseImaLog(bytes, ImaForm::kLittleEndian, "log"));
  CheckList checks;
  return ImaAppraiser::Appraise(log, PcrBank::kSha256, quoted, policy, "log", state, checks)
      .status();
}

void ImaWhole(benchmark::State& state) {
  const auto entries = static_cast<size_t>(state.range(0));
  const ImaMachine machine(entries);
  const ImaPolicy policy = *ImaPolicy::Create(machine.rules);
  Bytes log = machine.log.bytes();
  log.resize(machine.first_bytes);
  TimeVerdict(
      state, log, WithFlippedByte(log, log.size() / 2),
      [&](ByteSpan bytes) {
        ImaState none;
        return AppraiseIma(bytes, machine.first, policy, none);
      },
      entries);
}
BENCHMARK(ImaWhole)->Name("ima-log")->Arg(826)->Arg(100'000);

void ImaContinued(benchmark::State& state) {
  const ImaMachine machine(static_cast<size_t>(state.range(0)));
  const ImaPolicy policy = *ImaPolicy::Create(machine.rules);
  const ByteSpan whole = machine.log.bytes();
  ImaState accepted;
  if (!AppraiseIma(whole.first(machine.first_bytes), machine.first, policy, accepted).ok()) {
    return state.SkipWithError("the first entries are refused");
  }
  const ByteSpan added = whole.subspan(machine.first_bytes);
  const Bytes good(added.begin(), added.end());
  TimeVerdict(
      state, good, WithFlippedByte(good, good.size() / 2),
      [&](ByteSpan bytes) {
        ImaState next = accepted;
        return AppraiseIma(bytes, machine.second, policy, next);
      },
      kAdded);
}
BENCHMARK(ImaContinued)->Name("ima-log-100-more")->Arg(826)->Arg(100'000);

void SnpReport(benchmark::State& state) {
  testing::SnpPlatform platform(SnpProduct::kGenoa);
  const SnpEndorsements endorsements = platform.endorsements();
  const std::vector<SnpRoot> roots = platform.roots();
  SnpExpectations expectations;
  expectations.report_data = Bytes(64, 0xd0);
  expectations.measurement = {{Bytes(48, 0x3e)}};
  const Bytes good = platform.Report();
  TimeVerdict(state, good, WithFlippedByte(good, 0x90), [&](ByteSpan report) {
    CheckList checks;
    return SnpAppraiser::Appraise(report, endorsements, expectations, kNow, checks, roots).status();
  });
}
BENCHMARK(SnpReport)->Name("snp-report");

void IntelQuote(benchmark::State& state, bool tdx) {
  testing::IntelPlatform platform;
  const IntelCollateral collateral = platform.Collateral(tdx);
  IntelExpectations expectations;
  expectations.report_data = Bytes(64, 0xd0);
  expectations.td.mr_td = {{Bytes(48, 0x3d)}};
  expectations.sgx.mr_enclave = {{Bytes(32, 0x3e)}};
  const std::string root = platform.root_fingerprint();
  const uint16_t version = tdx ? 4 : 3;
  const Bytes good = platform.Quote({.version = version, .tdx = tdx});
  // In the report's body.
  TimeVerdict(state, good, WithFlippedByte(good, 200), [&](ByteSpan quote) {
    CheckList checks;
    return IntelQuoteAppraiser::Appraise(quote, collateral, expectations, kNow, checks, root)
        .status();
  });
}
BENCHMARK_CAPTURE(IntelQuote, tdx, true)->Name("tdx-quote-v4");
BENCHMARK_CAPTURE(IntelQuote, sgx, false)->Name("sgx-quote-v3");

// A Hopper report of 64 measurements, each with a golden value in one of the two manifests.
void GpuReport(benchmark::State& state) {
  testing::TestGpu gpu = testing::MakeTestGpu();
  const testing::TestRimPublisher publisher = testing::MakeTestRimPublisher();
  const testing::RimOptions vbios = testing::VbiosRimOptions();
  testing::RimOptions driver;
  driver.measurements.clear();
  for (uint32_t index = 0; index < testing::TestMeasurements().size(); ++index) {
    bool is_vbios = false;
    for (const testing::TestGolden& golden : vbios.measurements) is_vbios |= golden.index == index;
    if (!is_vbios) driver.measurements.push_back({index});
  }
  const std::string driver_rim = publisher.Rim(driver);
  const std::string vbios_rim = publisher.Rim(vbios);
  const std::string rim_root = publisher.root_fingerprint();
  Digest32 nonce;
  nonce.fill(0x77);
  const Bytes good = gpu.Report({.nonce = nonce});
  TimeVerdict(state, good, WithFlippedByte(good, good.size() - 1), [&](ByteSpan report) {
    CheckList checks;
    return GpuAppraiser::Appraise(
               {report, gpu.certificates}, {AsBytes(driver_rim), AsBytes(vbios_rim)}, nonce,
               testing::kTestTime, {.device_root = gpu.root_fingerprint, .rim_root = rim_root},
               checks)
        .status();
  });
}
BENCHMARK(GpuReport)->Name("gpu-report");

// Three parts that were appraised before: the CBOR is read, the parts are joined, and the result is
// signed as an EAR token (P-256).
void Composite(benchmark::State& state) {
  const testing::TestSession session;
  crypto::PrivateKey verifier = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  CompositePolicy policy;
  policy.required = {PartKind::kGpu, PartKind::kTpm, PartKind::kTee};
  const Bytes good = *ToCbor(session.evidence);
  TimeVerdict(state, good, WithFlippedByte(good, good.size() / 2), [&](ByteSpan bytes) {
    PAVISE_ASSIGN_OR_RETURN(const CompositeEvidence evidence, FromCbor(bytes, "evidence"));
    CheckList checks;
    PAVISE_ASSIGN_OR_RETURN(const VerifiedComposite composite,
                            CompositeAppraiser::Appraise(evidence, session.parts, session.nonce,
                                                         policy, testing::kTestTime, checks));
    return SignEar(composite, {}, verifier).status();
  });
}
BENCHMARK(Composite)->Name("composite-and-token");

}  // namespace
}  // namespace pavise::evidence

BENCHMARK_MAIN();
