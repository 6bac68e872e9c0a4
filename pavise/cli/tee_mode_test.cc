// One agreement, two modes: a measured host, and a confidential guest whose reports come through a
// stand-in for configfs-tsm, which answers with one recorded report whatever it is asked to sign. A
// broker behind its HTTP server; evidence is collected as `pavise run` collects it.

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "pavise/agent/kbs_broker.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/configuration.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/machine/appraisal_policy.h"
#include "pavise/evidence/appraise/machine/recorded_tee.h"
#include "pavise/evidence/appraise/testing/test_intel.h"
#include "pavise/evidence/appraise/testing/test_snp.h"
#include "pavise/evidence/collect/session.h"
#include "pavise/kbs/token.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using broker::testing::ContentKeyOf;
using broker::testing::TestBroker;
using crypto::testing::ReadText;
using crypto::testing::VectorsDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAreArray;

struct Recording {
  std::string provider;  // "sev_guest", "tdx_guest"
  Bytes report;
  Bytes auxiliary;
  std::map<std::string, Bytes> trust;  // the agreement's trust folder
};

Bytes BytesOf(std::string_view text) {
  const ByteSpan bytes = AsBytes(text);
  return {bytes.begin(), bytes.end()};
}

// The table that an SNP host hands its guest: one entry, a VCEK (GHCB 2.03, 4.1.8.1).
Bytes CertificateTable(ByteSpan der) {
  constexpr uint8_t kEntryBytes = 24;
  Bytes table(2 * kEntryBytes);
  const Bytes vcek_guid = FromHex("63da758de6644564adc5f4b93be8accd", "GUID").value();
  std::copy(vcek_guid.begin(), vcek_guid.end(), table.begin());
  table[16] = 2 * kEntryBytes;
  for (size_t i = 0; i < 4; ++i) table[20 + i] = static_cast<uint8_t>(der.size() >> (8 * i));
  table.insert(table.end(), der.begin(), der.end());
  return table;
}

class TeeModeTest : public ::testing::Test {
 protected:
  // The stand-in: a request's files as the kernel shows them. What is written to it changes
  // nothing.
  void Answer(const Recording& recording) const {
    guest_.Write("inblob", "");
    guest_.Write("outblob", AsText(recording.report));
    if (!recording.auxiliary.empty()) guest_.Write("auxblob", AsText(recording.auxiliary));
    guest_.Write("provider", recording.provider + "\n");
    guest_.Write("generation", "1\n");
  }

  void Agree(const Recording& recording) {
    Answer(recording);
    policy::EvidenceRules rules;
    broker_.files.Add("tee.json", R"({"pavise_appraisal_policy":1,"required":["tee"]})");
    rules.policy = broker_.files.DigestOf("tee.json");
    for (const auto& [name, content] : recording.trust) {
      broker_.files.Add(name, AsText(content));
      rules.anchors[name] = broker_.files.DigestOf(name);
    }
    policy::Agreement agreement = broker_.agreement;
    agreement.stages.at("train").modes[policy::Mode::kTee] = rules;
    agreement.stages.at("train").findings_to_host = true;
    agreement.stages.at("train").limits.runs = 10;
    broker_.Agree(agreement);
    broker::HttpServerOptions server;
    server.address = "127.0.0.1:0";
    server.body_limit = [&](std::string_view method, std::string_view path) {
      return broker_.service().BodyLimit(method, path);
    };
    server_ = broker::HttpServer::Start(server, [&](const broker::HttpRequest& request) {
                return broker_.service().Handle(request);
              }).value();
    kbs::ClientOptions client;
    client.base_url = StrCat("http://127.0.0.1:", server_->port());
    client.allow_plain_loopback = true;
    client_.emplace(kbs::Client::Create(client).value());
  }

  // A broker that the test has told what to set aside.
  void SetAside(const evidence::RecordedTee& recorded) {
    recorded_ = recorded;
    broker_.recorded_tee = &*recorded_;
    broker_.Restart();
  }

  // The key of the agreement's model, for a new session.
  absl::StatusOr<SecretBytes> KeyOfBase(policy::Mode mode) {
    const crypto::PrivateKey key = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
    agent::RunOptions options;
    options.agreement = broker_.id;
    options.stage = "train";
    options.mode = mode;
    options.clock = &broker_.clock;
    agent::KbsBroker run(*client_, key, options);
    PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, run.Challenge());
    evidence::CompositeEvidence collected;
    if (mode == policy::Mode::kTee) {
      evidence::CollectionOptions collection;
      collection.tcti.reset();
      collection.tee = true;
      collection.tsm_request = guest_.path();
      collection.event_log = false;
      PAVISE_ASSIGN_OR_RETURN(collected,
                              evidence::CollectEvidence(collection, nonce, key.public_key()));
      // This challenge and this key are what it was asked to sign, whatever it signs.
      Bytes asked(64);
      const Digest32 bound =
          evidence::BindingValue(evidence::PartKind::kTee, nonce, key.public_key().der(), {})
              .value();
      std::copy(bound.begin(), bound.end(), asked.begin());
      EXPECT_EQ(ReadText(guest_ / "inblob"), AsText(asked));
    } else {
      collected = broker_.machine.Evidence(nonce, key.public_key());
    }
    PAVISE_ASSIGN_OR_RETURN(token_, run.Attest(collected));
    PAVISE_RETURN_IF_ERROR(run.Agreement().status());
    return run.Key("base");
  }
  // Why there is no key; empty where there is, and it is the deposited one.
  std::vector<std::string> Refused(policy::Mode mode = policy::Mode::kTee) {
    const auto key = KeyOfBase(mode);
    std::vector<std::string> reasons;
    for (const Refusal& refusal : RefusalsOf(key.status())) {
      reasons.emplace_back(ReasonName(refusal.reason));
    }
    EXPECT_EQ(key.ok(), reasons.empty()) << key.status();
    if (key.ok()) {
      EXPECT_TRUE(key->Equals(ContentKeyOf("base")));
    }
    return reasons;
  }

  // What the last token says.
  std::string Told() {
    const auto claims = kbs::VerifyToken(token_, broker_.service().keys().signing.public_key(),
                                         broker_.clock.Now(), "token");
    EXPECT_TRUE(claims.ok()) << claims.status();
    return claims.ok() ? claims->claims.dump() : "";
  }

  TestBroker broker_;
  testing::TemporaryDirectory guest_;
  std::unique_ptr<broker::HttpServer> server_;
  std::optional<kbs::Client> client_;
  std::optional<evidence::RecordedTee> recorded_;
  std::string token_;
};

// Reports of the test's own platforms, signed before there was any broker. Both have 64 times 0xd0
// where the binding value has to be.
struct OwnPlatform {
  Recording recording;
  evidence::RecordedTee roots;  // the test's in place of the vendors'
};

OwnPlatform OwnSnp(const std::function<void(Bytes&)>& change = [](Bytes&) {}) {
  evidence::testing::SnpPlatform platform(evidence::SnpProduct::kMilan);
  OwnPlatform own;
  own.recording = {"sev_guest",
                   platform.Report(change),
                   CertificateTable(platform.leaf.certificate.der()),
                   {{"amd/authorities.pem", BytesOf(platform.ask.certificate.ToPem() +
                                                    platform.ark.certificate.ToPem())}}};
  own.roots.snp_roots = platform.roots();
  return own;
}

OwnPlatform OwnTdx(const std::function<void(Bytes&)>& change = nullptr) {
  evidence::testing::IntelPlatform platform;
  const evidence::IntelCollateral collateral = platform.Collateral(/*tdx=*/true);
  evidence::testing::QuoteOptions options;
  options.body = change;
  OwnPlatform own;
  own.recording = {"tdx_guest",
                   platform.Quote(options),
                   {},
                   {{"intel/tdx/tcb_info.json", collateral.tcb_info},
                    {"intel/tdx/tcb_info_chain.pem", collateral.tcb_info_issuer_chain},
                    {"intel/tdx/qe_identity.json", collateral.qe_identity},
                    {"intel/root.crl", collateral.root_crl},
                    {"intel/pck.crl", collateral.pck_crl}}};
  // GetQuote fills a buffer of fixed size: what the kernel hands out ends in zeros.
  own.recording.report.resize(8000);
  own.roots.intel_root_fingerprint = platform.root_fingerprint();
  return own;
}

class OwnPlatformTest : public TeeModeTest, public ::testing::WithParamInterface<const char*> {
 protected:
  bool is_snp() const { return GetParam() == std::string_view("Snp"); }
  OwnPlatform Own() const { return is_snp() ? OwnSnp() : OwnTdx(); }
};

TEST_P(OwnPlatformTest, TheNonceRuleRefusesARecordingUntilATestSetsItAside) {
  OwnPlatform own = Own();
  Agree(own.recording);
  // The measured host of the same agreement, before and after.
  EXPECT_THAT(Refused(policy::Mode::kMeasured), IsEmpty());
  // As production has it: neither its root nor what it signed. Of TDX, TCB info and QE identity
  // have a chain each.
  std::vector<std::string> production(is_snp() ? 1 : 3, "certificate-invalid");
  production.emplace_back("nonce-mismatch");
  EXPECT_THAT(Refused(), UnorderedElementsAreArray(production));
  SetAside(own.roots);
  EXPECT_THAT(Refused(), ElementsAre("nonce-mismatch"));
  const Json decision = broker_.Decisions("clinic-a").back();
  EXPECT_THAT(decision.dump(), HasSubstr("report data"));

  own.roots.report_data = Bytes(64, 0xd1);
  SetAside(own.roots);
  EXPECT_THAT(Refused(), ElementsAre("nonce-mismatch"));
  own.roots.report_data = Bytes(64, 0xd0);
  SetAside(own.roots);
  EXPECT_THAT(Refused(), IsEmpty());
  // The broker's own word names what was waived.
  const std::string waived = "neither this challenge, nor this session key";
  EXPECT_THAT(Told(), HasSubstr(waived));
  EXPECT_THAT(Refused(policy::Mode::kMeasured), IsEmpty());
  EXPECT_THAT(Told(), Not(HasSubstr(waived)));
  broker_.recorded_tee = nullptr;
  broker_.Restart();
  EXPECT_THAT(Refused(), UnorderedElementsAreArray(production));
}

TEST_P(OwnPlatformTest, WhatIsSetAsideIsTheBindingAlone) {
  OwnPlatform own = Own();
  own.roots.report_data = Bytes(64, 0xd0);
  Agree(own.recording);
  SetAside(own.roots);
  ASSERT_THAT(Refused(), IsEmpty());
  // One flipped bit in what the TEE says of the guest.
  Recording changed = own.recording;
  changed.report[is_snp() ? 0x90 : 48 + 136] ^= 1;
  Answer(changed);
  EXPECT_THAT(Refused(), ElementsAre("signature-invalid"));
  // Another platform of the same make.
  Answer(Own().recording);
  EXPECT_THAT(Refused(), Not(IsEmpty()));
  // Nothing but the end of a buffer may follow a quote; a report has one size.
  changed = own.recording;
  changed.report.push_back(is_snp() ? 0 : 1);
  Answer(changed);
  EXPECT_THAT(Refused(), ElementsAre("malformed"));
  Answer(own.recording);
  EXPECT_THAT(Refused(), IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(TeeMode, OwnPlatformTest, ::testing::Values("Snp", "Tdx"),
                         [](const auto& of) { return std::string(of.param); });

TEST_F(TeeModeTest, AGuestUnderDebugGetsNoKey) {
  OwnPlatform snp = OwnSnp([](Bytes& report) { report[0x0a] |= 1u << 3; });
  snp.roots.report_data = Bytes(64, 0xd0);
  Agree(snp.recording);
  SetAside(snp.roots);
  EXPECT_THAT(Refused(), ElementsAre("platform-insecure"));
}

// What stock clients of Trustee's send.
TEST_F(TeeModeTest, RawReportsAreRefusedBeforeTheyAreSent) {
  broker_.Agree(broker_.agreement);
  const std::string purpose =
      StrCat(R"({"agreement":")", broker_.id, R"(","stage":"train","mode":"tee"})");
  for (const char* tee : {"snp", "tdx"}) {
    for (const std::string& parameters : {purpose, std::string("\"\"")}) {
      const broker::HttpResponse answer = broker_.Send(
          "POST", "/kbs/v0/auth",
          StrCat(R"({"version":"0.4.0","tee":")", tee, R"(","extra-params":)", parameters, "}"));
      EXPECT_EQ(answer.status, 401);
      EXPECT_EQ(broker::testing::ReasonOfProblem(answer), "unsupported");
      EXPECT_THAT(answer.body, HasSubstr("composite evidence"));
      EXPECT_EQ(broker::testing::HeaderOf(answer, "Set-Cookie"), "");
    }
  }
}

TEST_F(TeeModeTest, NoFileLeadsThere) {
  const std::string policy = R"({"pavise_appraisal_policy":1,"required":["tee"],)";
  const std::string broker = R"({"pavise_broker":1,"name":"n","listen":"127.0.0.1:0","metrics":"",)"
                             R"("sqlite":"d","root_key":"k")";
  const std::string data(128, 'd');
  ASSERT_TRUE(broker::ParseConfiguration(AsBytes(broker + "}"), "broker").ok());
  size_t executed = 0;
  for (const char* member :
       {"report_data", "recorded_tee", "snp_roots", "intel_root_fingerprint"}) {
    for (const char* kind : {"snp", "intel"}) {
      const std::string text = StrCat(policy, "\"", kind, "\":{\"", member, "\":\"", data, "\"}}");
      EXPECT_EQ(ReasonOf(evidence::ParseAppraisalPolicy(AsBytes(text), "policy").status()),
                Reason::kMalformed)
          << text;
      ++executed;
    }
    const std::string text = StrCat(broker, ",\"", member, "\":\"", data, "\"}");
    EXPECT_FALSE(broker::ParseConfiguration(AsBytes(text), "broker").ok()) << text;
    ++executed;
  }
  EXPECT_EQ(executed, 12u);
}

// Its constructor is in test code, so that a program which used it would not link.
TEST_F(TeeModeTest, NoProgramHasIt) {
  const auto has = [](const std::string& path) {
    const std::string program = ReadText(path);
    EXPECT_GT(program.size(), 100'000u) << path;
    return program.find("11RecordedTeeC") != program.npos;
  };
  EXPECT_TRUE(has("/proc/self/exe"));
  EXPECT_FALSE(has(PAVISE_PROGRAM));
  EXPECT_FALSE(has(StrCat(PAVISE_PROGRAM, "-all")));
}

// Reports of real guests, and the vendors' own roots.
TEST_F(TeeModeTest, RealRecordings) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no ../shared/vectors: no real report is read";
  const std::string folder = *vectors + "/attest/";
  const auto vcek =
      crypto::Certificate::FromDer(AsBytes(ReadText(folder + "snp/milan_vcek.der")), "VCEK");
  ASSERT_TRUE(vcek.ok()) << vcek.status();
  Recording snp = {"sev_guest",
                   BytesOf(ReadText(folder + "snp/milan_report.bin")),
                   CertificateTable(vcek->der()),
                   {{"amd/authorities.pem", BytesOf(ReadText(folder + "snp/ask_ark_milan.pem"))}}};
  // Intel's TCB signing chain is in no sample: of this quote's platform there is no collateral.
  Recording tdx = {"tdx_guest", BytesOf(ReadText(folder + "tdx/cos-113-tdx-quote.dat")), {}, {}};
  const struct {
    Recording& recording;
    Bytes report_data;
    std::vector<std::string> without_nonce_rule;
  } cases[] = {
      // That guest allows debugging.
      {snp, Bytes(snp.report.begin() + 0x50, snp.report.begin() + 0x90), {"platform-insecure"}},
      {tdx, BytesOf(ReadText(folder + "tdx/nonce.dat")),
       std::vector<std::string>(5, "evidence-missing")},
  };
  // Under one agreement: AMD's authorities are in the trust folder, Intel's collateral is not.
  Agree(snp);
  int executed = 0;
  for (const auto& [recording, report_data, rest] : cases) {
    std::filesystem::remove(guest_ / "auxblob");
    Answer(recording);
    broker_.recorded_tee = nullptr;
    broker_.Restart();
    std::vector<std::string> refused = rest;
    refused.emplace_back("nonce-mismatch");
    EXPECT_THAT(Refused(), UnorderedElementsAreArray(refused));
    ++executed;
    evidence::RecordedTee fixed;
    fixed.report_data = report_data;
    SetAside(fixed);
    EXPECT_THAT(Refused(), UnorderedElementsAreArray(rest));
    ++executed;
  }
  // A sample that Intel's quoting service never hands out: text behind the quote.
  Recording padded = tdx;
  padded.report = BytesOf(ReadText(folder + "tdx/tdx_prod_quote_SPR_E4.dat"));
  Answer(padded);
  EXPECT_THAT(Refused(), ElementsAre("malformed"));
  ++executed;
  EXPECT_EQ(executed, 5);
}

}  // namespace
}  // namespace pavise::cli
