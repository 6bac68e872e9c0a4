#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/machine/recorded_tee.h"
#include "pavise/evidence/appraise/reference/reference_values.h"
#include "pavise/evidence/appraise/testing/test_snp.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"
#include "pavise/evidence/testing/log_writer.h"
#include "pavise/kbs/messages.h"

// broker_bench [SECONDS] [tpm|tpm-new-log|snp|sqlite|postgresql|CLIENTS ...]: what a broker spends
// on a machine that attests and gets one key (auth, attest, resource; a durable ledger entry each),
// at 1, 16 and 64 clients. The clients are threads of the same process that call the service
// without sockets; their own work (keys, quotes, JSON) is measured and taken off. Every answer is
// opened and compared.
//   tpm          a quote and an IMA log of 800 entries, which this machine sent before
//   tpm-new-log  the same, and the log is another one each time, as after a reboot
//   snp          a SEV-SNP report and its VCEK, under RSA-4096 authorities as AMD's are
//
// broker_bench start-up [ROWS ...]: how long Store::Open takes on a SQLite store of so many rows of
// 256 bytes, each checked, and how much CPU time. The file is made in $TMPDIR, else /tmp (about
// 650 bytes a row), and stays in the page cache.
namespace pavise::broker {
namespace {

using testing::ContentKeyOf;
using testing::TestBroker;
using testing::TestSession;

constexpr size_t kEntries = 800;
constexpr evidence::PcrBank kSha256 = evidence::PcrBank::kSha256;

double Seconds(const struct timespec& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}
double Clock(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return Seconds(time);
}

Bytes ToBytes(std::string_view text) {
  const ByteSpan bytes = AsBytes(text);
  return {bytes.begin(), bytes.end()};
}

// A machine that asks for keys, whose own rules accept it.
class Host {
 public:
  virtual ~Host() = default;
  virtual policy::Mode mode() const = 0;
  virtual policy::EvidenceRules Rules(policy::testing::TestFiles& files) const = 0;
  evidence::CompositeEvidence Evidence(const Digest32& nonce,
                                       const crypto::PublicKey& session_key) const {
    // Keys are for one thread at a time.
    const std::scoped_lock lock(mutex_);
    evidence::CompositeEvidence composite;
    composite.nonce = nonce;
    composite.session_key = session_key.der();
    const auto kind =
        mode() == policy::Mode::kTee ? evidence::PartKind::kTee : evidence::PartKind::kTpm;
    composite.parts.push_back(
        Part(evidence::BindingValue(kind, nonce, composite.session_key, {}).value()));
    return composite;
  }

 private:
  virtual evidence::EvidencePart Part(const Digest32& bound) const = 0;
  mutable std::mutex mutex_;
};

// Quotes PCR 0 to 10 and sends an IMA log, `logs` different ones in turns.
class TpmHost final : public Host {
 public:
  explicit TpmHost(size_t logs) {
    Bytes first_ten;
    evidence::PcrValues pcrs;
    for (uint32_t index = 0; index < 10; ++index) {
      const Bytes value(32, static_cast<uint8_t>(index + 1));
      if (!pcrs.Set(kSha256, index, value).ok()) abort();
      first_ten.insert(first_ten.end(), value.begin(), value.end());
    }
    const Bytes aggregate = *crypto::Digest(crypto::DigestAlgorithm::kSha256, first_ten);
    for (size_t log = 0; log < logs; ++log) {
      evidence::testing::ImaLogWriter ima;
      ima.Ng("boot_aggregate", aggregate);
      for (size_t i = 1; i < kEntries; ++i) {
        const size_t number = 1 + (i + log) % (kEntries - 1);
        const std::string path =
            StrCat("/usr/lib/x86_64-linux-gnu/package/library-", number, ".so");
        const Bytes digest = *crypto::Digest(crypto::DigestAlgorithm::kSha256, AsBytes(path));
        ima.Ng(path, digest);
        references_.files[path] = {{StrCat("sha256:", ToHex(digest)), "bench"}};
      }
      if (!pcrs.Set(kSha256, 10, *ima.per_bank().Get(kSha256, 10)).ok()) abort();
      boots_.push_back({pcrs, ima.bytes()});
    }
  }

  policy::Mode mode() const override { return policy::Mode::kMeasured; }
  policy::EvidenceRules Rules(policy::testing::TestFiles& files) const override {
    files.Add("reference.json", evidence::FormatReferenceValues(references_));
    const std::string key = ToHex(evidence::ParseTpm2bPublic(tpm_.AkPublic(), "AK").value().name);
    const Json policy = {{"pavise_appraisal_policy", 1},
                         {"required", {"tpm"}},
                         {"reference_values", {"reference.json"}},
                         {"tpm",
                          {{"attestation_keys", {key}},
                           {"registers", {{"sha256", {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}}},
                           {"event_log", false},
                           {"ima", true},
                           {"host_protections", false}}}};
    files.Add("policy.json", policy.dump());
    return {.policy = files.DigestOf("policy.json"),
            .files = {{"reference.json", files.DigestOf("reference.json")}},
            .anchors = {}};
  }

 private:
  struct Boot {
    evidence::PcrValues pcrs;
    Bytes ima_log;
  };
  evidence::EvidencePart Part(const Digest32& bound) const override {
    const Boot& boot = boots_[next_++ % boots_.size()];
    const evidence::QuoteEvidence quote = tpm_.Quote(bound, boot.pcrs);
    return {"tpm-2.0",
            {{"attestation_key", quote.ak_public},
             {"quote", quote.quote},
             {"signature", quote.signature},
             {"pcr_values", ToBytes(evidence::FormatPcrValues(boot.pcrs))},
             {"ima_log", boot.ima_log}}};
  }

  mutable evidence::testing::TestTpm tpm_;
  mutable size_t next_ = 0;
  std::vector<Boot> boots_;
  evidence::ReferenceValues references_;
};

class SnpHost final : public Host {
 public:
  policy::Mode mode() const override { return policy::Mode::kTee; }
  policy::EvidenceRules Rules(policy::testing::TestFiles& files) const override {
    files.Add("ask.pem", platform_.ask.certificate.ToPem());
    files.Add("ark.pem", platform_.ark.certificate.ToPem());
    const Json policy = {{"pavise_appraisal_policy", 1},
                         {"required", {"tee"}},
                         {"snp", {{"measurement", {ToHex(Bytes(48, 0x3e))}}}}};
    files.Add("policy.json", policy.dump());
    return {.policy = files.DigestOf("policy.json"),
            .files = {},
            .anchors = {{"amd/ask.pem", files.DigestOf("ask.pem")},
                        {"amd/ark.pem", files.DigestOf("ark.pem")}}};
  }
  std::vector<evidence::SnpRoot> roots() const { return platform_.roots(); }

 private:
  evidence::EvidencePart Part(const Digest32& bound) const override {
    constexpr size_t kReportData = 0x50;  // 64 bytes
    const Bytes report = platform_.Report([&](Bytes& unsigned_report) {
      const auto data = unsigned_report.begin() + kReportData;
      std::fill(std::copy(bound.begin(), bound.end(), data), data + 64, uint8_t{0});
    });
    return {"amd-sev-snp",
            {{"report", report}, {"certificates", ToBytes(platform_.leaf.certificate.ToPem())}}};
  }

  mutable evidence::testing::SnpPlatform platform_{evidence::SnpProduct::kGenoa, /*vlek=*/false,
                                                   crypto::KeyType::kRsa};
};

// Seconds that this thread spent in the broker, of which `client_cpu` gets none.
bool AttestAndRelease(TestBroker& broker, const Host& host, double& latency, double& client_cpu) {
  const double cpu_begin = Clock(CLOCK_THREAD_CPUTIME_ID);
  double in_broker = 0;
  const auto timed = [&](auto&& call) {
    const double begin = Clock(CLOCK_MONOTONIC);
    const double cpu = Clock(CLOCK_THREAD_CPUTIME_ID);
    HttpResponse response = call();
    in_broker += Clock(CLOCK_THREAD_CPUTIME_ID) - cpu;
    latency += Clock(CLOCK_MONOTONIC) - begin;
    return response;
  };
  TestSession session(broker);
  session.mode = policy::ModeName(host.mode());
  latency = 0;
  if (timed([&] { return session.Auth(); }).status != 200) return false;
  kbs::Attestation attestation{
      kbs::MakeRuntimeData(session.nonce, session.key.public_key()).value(), {}, "", {}};
  attestation.primary_evidence =
      Json::parse(evidence::ToJson(host.Evidence(session.nonce, session.key.public_key())).value());
  const std::string body = kbs::FormatAttestation(attestation);
  const HttpResponse attested = timed([&] { return session.Attest(body); });
  if (attested.status != 200) {
    std::fprintf(stderr, "%s\n", attested.body.c_str());
    return false;
  }
  const HttpResponse released = timed([&] { return session.Get("base"); });
  if (released.status != 200 || session.Key(released) != ContentKeyOf("base").RevealText()) {
    std::fprintf(stderr, "%s\n", released.body.c_str());
    return false;
  }
  client_cpu += Clock(CLOCK_THREAD_CPUTIME_ID) - cpu_begin - in_broker;
  return true;
}

bool Measure(TestBroker& broker, const Host& host, const std::string& name, int clients,
             double seconds) {
  std::atomic<bool> failed = false;
  std::mutex mutex;
  std::vector<double> latencies;
  double client_cpu = 0;
  const double cpu_begin = Clock(CLOCK_PROCESS_CPUTIME_ID);
  const double begin = Clock(CLOCK_MONOTONIC);
  std::vector<std::thread> threads;
  for (int i = 0; i < clients; ++i) {
    threads.emplace_back([&] {
      std::vector<double> own;
      double own_cpu = 0;
      while (!failed && Clock(CLOCK_MONOTONIC) - begin < seconds) {
        double latency = 0;
        if (!AttestAndRelease(broker, host, latency, own_cpu)) failed = true;
        own.push_back(latency);
      }
      const std::scoped_lock lock(mutex);
      latencies.insert(latencies.end(), own.begin(), own.end());
      client_cpu += own_cpu;
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double took = Clock(CLOCK_MONOTONIC) - begin;
  const double cpu = Clock(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin - client_cpu;
  if (failed || latencies.empty()) return false;
  std::sort(latencies.begin(), latencies.end());
  const auto count = static_cast<double>(latencies.size());
  std::printf("| %s | %d | %.2f | %.0f | %.1f | %.1f |\n", name.c_str(), clients, cpu / count * 1e3,
              count / took, latencies[latencies.size() / 2] * 1e3,
              latencies[latencies.size() * 99 / 100] * 1e3);
  std::fflush(stdout);
  return true;
}

int RunStartUp(const std::vector<int>& row_counts) {
  constexpr uint64_t kRowsOfCommit = 20'000;
  constexpr uint64_t kRowsOfGroup = 1000;
  constexpr int kStarts = 3;
  std::printf("| rows | start-up ms | CPU ms |\n|---|---|---|\n");
  const auto database = testing::MakeSqliteDatabase();
  StoreOptions options = database->options();
  options.create = true;
  uint64_t rows = 0;
  for (const int wanted : row_counts) {
    auto store = Store::Open(options, testing::TestRootKey(1)).value();
    options.create = false;
    while (rows < static_cast<uint64_t>(wanted)) {
      const absl::Status committed = store->Commit([&](StoreTransaction& transaction) {
        for (uint64_t i = rows; i < rows + kRowsOfCommit; ++i) {
          PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kDecisions, StrCat("g", i / kRowsOfGroup),
                                                 StrCat(i), SecretBytes(Bytes(256, 1))));
        }
        return absl::OkStatus();
      });
      if (!committed.ok()) return 1;
      rows += kRowsOfCommit;
    }
    std::vector<double> took, cpu;
    for (int i = 0; i < kStarts; ++i) {
      store.reset();
      const double begin = Clock(CLOCK_MONOTONIC);
      const double cpu_begin = Clock(CLOCK_PROCESS_CPUTIME_ID);
      store = Store::Open(options, testing::TestRootKey(1)).value();
      took.push_back(Clock(CLOCK_MONOTONIC) - begin);
      cpu.push_back(Clock(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin);
    }
    if (store->GetStatus()->rows != rows) return 1;
    std::ranges::sort(took);
    std::ranges::sort(cpu);
    std::printf("| %llu | %.0f | %.0f |\n", static_cast<unsigned long long>(rows),
                took[kStarts / 2] * 1e3, cpu[kStarts / 2] * 1e3);
    std::fflush(stdout);
  }
  return 0;
}

std::unique_ptr<Host> HostNamed(const std::string& name) {
  if (name == "snp") return std::make_unique<SnpHost>();
  // More logs than one is remembered of, so that few clients meet their own again.
  return std::make_unique<TpmHost>(name == "tpm-new-log" ? 100 : 1);
}

struct Choices {
  std::vector<std::string> evidence;
  std::vector<std::string> stores;
  std::vector<int> clients;
};

int Run(double seconds, const Choices& choices) {
  std::printf(
      "| evidence | store | clients | broker CPU ms each | attest-and-release a second | p50 "
      "ms | p99 ms |\n|---|---|---|---|---|---|---|\n");
  for (const std::string& evidence : choices.evidence) {
    const std::unique_ptr<Host> host = HostNamed(evidence);
    evidence::RecordedTee test_roots;
    if (const auto* const snp = dynamic_cast<const SnpHost*>(host.get())) {
      test_roots.snp_roots = snp->roots();
    }
    for (const std::string& store : choices.stores) {
      auto database =
          store == "sqlite" ? testing::MakeSqliteDatabase() : testing::MakePostgresqlDatabase();
      if (database == nullptr) {
        std::fprintf(stderr, "%s: not here\n", store.c_str());
        continue;
      }
      TestBroker broker(std::move(database));
      broker.recorded_tee = &test_roots;
      policy::Agreement agreement = policy::testing::ThreeOwners(host->Rules(broker.files));
      for (auto& [name, stage] : agreement.stages) {
        const policy::EvidenceRules rules = stage.modes.begin()->second;
        stage.modes = {{host->mode(), rules}};
        stage.limits.runs = 1'000'000;
      }
      broker.Agree(agreement);
      broker.log_requests = false;
      for (const int count : choices.clients) {
        if (!Measure(broker, *host, StrCat(evidence, " | ", store), count, seconds)) return 1;
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace pavise::broker

int main(int argc, char** argv) {
  pavise::broker::KeepRequestMemory();  // as the broker does
  const double seconds = argc > 1 ? std::strtod(argv[1], nullptr) : 5;
  pavise::broker::Choices choices;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    if (std::atoi(argv[i]) > 0) {
      choices.clients.push_back(std::atoi(argv[i]));
    } else if (word == "sqlite" || word == "postgresql") {
      choices.stores.push_back(word);
    } else {
      choices.evidence.push_back(word);
    }
  }
  if (argc > 1 && std::string_view(argv[1]) == "start-up") {
    if (choices.clients.empty()) choices.clients = {1'000'000, 3'000'000};
    return pavise::broker::RunStartUp(choices.clients);
  }
  if (choices.evidence.empty()) choices.evidence = {"tpm", "tpm-new-log", "snp"};
  if (choices.stores.empty()) choices.stores = {"sqlite", "postgresql"};
  if (choices.clients.empty()) choices.clients = {1, 16, 64};
  return pavise::broker::Run(seconds, choices);
}
