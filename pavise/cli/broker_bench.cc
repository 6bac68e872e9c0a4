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
#include "pavise/evidence/appraise/reference/reference_values.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/appraise/tpm/tpm_structures.h"
#include "pavise/evidence/testing/log_writer.h"
#include "pavise/kbs/messages.h"

// broker_bench [SECONDS] [sqlite|postgresql ...]: what a broker spends on a machine that attests
// and gets one key (auth, attest, resource; a durable ledger entry each), with TPM evidence and an
// IMA log of 800 entries, at 1, 16 and 64 clients. The clients are threads of the same process that
// call the service without sockets; their own work (keys, quotes, JSON) is measured and taken off.
// Every answer is opened and compared.
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

// A host that quotes PCR 0 to 10 and sends its IMA log.
struct Host {
  Host() {
    Bytes first_ten;
    for (uint32_t index = 0; index < 10; ++index) {
      const Bytes value(32, static_cast<uint8_t>(index + 1));
      if (!pcrs.Set(kSha256, index, value).ok()) abort();
      first_ten.insert(first_ten.end(), value.begin(), value.end());
    }
    ima.Ng("boot_aggregate", *crypto::Digest(crypto::DigestAlgorithm::kSha256, first_ten));
    for (size_t i = 1; i < kEntries; ++i) {
      const std::string path = StrCat("/usr/lib/x86_64-linux-gnu/package/library-", i, ".so");
      const Bytes digest = *crypto::Digest(crypto::DigestAlgorithm::kSha256, AsBytes(path));
      ima.Ng(path, digest);
      references.files[path] = {{StrCat("sha256:", ToHex(digest)), "bench"}};
    }
    if (!pcrs.Set(kSha256, 10, *ima.per_bank().Get(kSha256, 10)).ok()) abort();
  }

  policy::EvidenceRules Rules(policy::testing::TestFiles& files) const {
    files.Add("reference.json", evidence::FormatReferenceValues(references));
    const std::string key = ToHex(evidence::ParseTpm2bPublic(tpm.AkPublic(), "AK").value().name);
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

  evidence::CompositeEvidence Evidence(const Digest32& nonce,
                                       const crypto::PublicKey& session_key) const {
    // Keys are for one thread at a time.
    const std::scoped_lock lock(mutex);
    evidence::CompositeEvidence composite;
    composite.nonce = nonce;
    composite.session_key = session_key.der();
    const Digest32 bound =
        evidence::BindingValue(evidence::PartKind::kTpm, nonce, composite.session_key, {}).value();
    const evidence::QuoteEvidence quote = tpm.Quote(bound, pcrs);
    composite.parts.push_back({"tpm-2.0",
                               {{"attestation_key", quote.ak_public},
                                {"quote", quote.quote},
                                {"signature", quote.signature},
                                {"pcr_values", ToBytes(evidence::FormatPcrValues(pcrs))},
                                {"ima_log", ima.bytes()}}});
    return composite;
  }

  mutable std::mutex mutex;
  mutable evidence::testing::TestTpm tpm;
  evidence::testing::ImaLogWriter ima;
  evidence::PcrValues pcrs;
  evidence::ReferenceValues references;
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

bool Measure(TestBroker& broker, const Host& host, const std::string& store, int clients,
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
  std::printf("| %s | %d | %.2f | %.0f | %.1f | %.1f |\n", store.c_str(), clients,
              cpu / count * 1e3, count / took, latencies[latencies.size() / 2] * 1e3,
              latencies[latencies.size() * 99 / 100] * 1e3);
  std::fflush(stdout);
  return true;
}

int Run(double seconds, const std::vector<std::string>& stores) {
  std::printf(
      "| store | clients | broker CPU ms each | attest-and-release a second | p50 ms | p99 ms |\n");
  std::printf("|---|---|---|---|---|---|\n");
  for (const std::string& store : stores) {
    auto database =
        store == "sqlite" ? testing::MakeSqliteDatabase() : testing::MakePostgresqlDatabase();
    if (database == nullptr) {
      std::fprintf(stderr, "%s: not here\n", store.c_str());
      continue;
    }
    const Host host;
    TestBroker broker(std::move(database));
    policy::Agreement agreement = policy::testing::ThreeOwners(host.Rules(broker.files));
    agreement.stages.at("train").limits.runs = 1'000'000;
    broker.Agree(agreement);
    broker.log_requests = false;
    for (const int clients : {1, 16, 64}) {
      if (!Measure(broker, host, store, clients, seconds)) return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace pavise::broker

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::strtod(argv[1], nullptr) : 5;
  std::vector<std::string> stores(argv + std::min(argc, 2), argv + argc);
  if (stores.empty()) stores = {"sqlite", "postgresql"};
  return pavise::broker::Run(seconds, stores);
}
