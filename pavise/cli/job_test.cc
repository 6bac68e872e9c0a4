// Jobs from their files to verified results, against a broker behind its HTTP server: what a plan
// refuses, a job that is killed at each of its steps, and a result of which one byte is changed.

#include <fcntl.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/cli/testing/command.h"
#ifdef PAVISE_WORKER
#include "pavise/cli/testing/training_programs.h"
#endif
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/job/report.h"
#include "pavise/job/run_job.h"
#include "pavise/ledger/bundle.h"
#include "pavise/ledger/testing/example_log.h"
#include "pavise/policy/owner_statement.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/sign.h"
#include "pavise/train/metrics.h"
#include "pavise/vault/seal.h"
#include "pavise/vault/sealed_asset.h"

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::job {
namespace {

namespace fs = std::filesystem;

using broker::HttpRequest;
using broker::HttpResponse;
using broker::testing::JsonOf;
using broker::testing::TestBroker;
using pavise::testing::ContentOf;
using pavise::testing::TemporaryDirectory;
using policy::testing::SigningKey;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kTrainer[] =
    "cat /pavise/assets/base/file /pavise/assets/scans-a/file /pavise/assets/scans-b/file "
    "> /pavise/outputs/tuned\n";
constexpr char kTuned[] = "the model\nscans of a\nscans of b\n";

class JobTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Seal("trainer", "vendor", "train.sh", kTrainer);
    Seal("base", "vendor", "file", "the model\n");
    Seal("scans-a", "clinic-a", "file", "scans of a\n");
    Seal("scans-b", "clinic-b", "file", "scans of b\n");
    policy::Stage& stage = broker_.agreement.stages.at("train");
    stage.command = {"sh", "/pavise/assets/trainer/train.sh"};
    stage.limits.runs = 1000;
    Change(broker_.agreement);
    broker_.Agree(broker_.agreement);
    WriteAgreement();
    broker::HttpServerOptions server;
    server.address = "127.0.0.1:0";
    server.body_limit = [&](std::string_view method, std::string_view path) {
      return broker_.service().BodyLimit(method, path);
    };
    server_ = broker::HttpServer::Start(server, [&](const HttpRequest& request) {
                return Answer(request);
              }).value();
    text_ = absl::StrFormat(
        "agreement: received\nstage: train\nmode: measured\n"
        "broker: {url: \"http://127.0.0.1:%d\", plain_loopback: true}\n"
        "assets: {trainer: trainer.sealed, base: base.sealed, scans-a: scans-a.sealed, "
        "scans-b: scans-b.sealed}\n"
        "outputs: {tuned: [vendor]}\n"
        "command: [sh, /pavise/assets/trainer/train.sh]\n"
        "containment: {memory_mib: 256, storage_mib: 64, "
        "accept: [memory-limit, cpu-limit, swap]}\noutput: out\n",
        server_->port());
  }

  // What a test wants otherwise in the agreement.
  virtual void Change(policy::Agreement&) {}

  HttpResponse Answer(const HttpRequest& request) {
    HttpResponse answer;
    if (request.path == "/test/ledger") {
      return broker_.Ask("vendor", "GET", broker_.Target("/ledger"));
    }
    if (request.path == "/test/evidence") {
      const std::pair<std::string, std::string> parts = absl::StrSplit(request.query, '&');
      const Digest32 nonce = Digest32FromHex(parts.first, "nonce").value();
      const Bytes der = FromHex(parts.second, "key").value();
      const auto key = crypto::PublicKey::FromDer(der, "key").value();
      answer.body = AsText(evidence::ToCbor(broker_.machine.Evidence(nonce, key)).value());
      answer.content_type = "application/cbor";
      return answer;
    }
    answer = broker_.service().Handle(request);
    if (request.path.starts_with("/kbs/v0/resource/") && answer.status == 200) ++released_;
    return answer;
  }

  void Seal(const std::string& name, const std::string& owner, const std::string& file,
            const std::string& content) {
    directory_.Write(StrCat(name, "/", file), content);
    SealFolder(name, owner);
  }
  // Signed and sealed by its owner, as the agreement then names it.
  void SealFolder(const std::string& name, const std::string& owner) {
    signing::SignOptions sign;
    sign.model_path = directory_ / name;
    sign.signature_path = directory_ / (name + ".sig");
    sign.signer = &SigningKey(owner);
    ASSERT_TRUE(signing::SignModel(sign).ok());
    vault::SealOptions seal;
    seal.signature = ReadFile(sign.signature_path, 1 << 20).value();
    seal.statement_sha256 =
        crypto::Sha256(signing::ParseBundle(seal.signature, name)->payload).value();
    const FileDescriptor root(open(sign.model_path.c_str(), O_RDONLY | O_DIRECTORY));
    for (const auto& entry : fs::directory_iterator(directory_ / name)) {
      const std::string file = entry.path().filename();
      const auto mode = entry.status().permissions();
      seal.files.push_back({.path = file,
                            .identity = IdentityOf(*OpenBeneath(root, file, false), file).value(),
                            .is_executable = (mode & fs::perms::owner_exec) != fs::perms::none});
    }
    seal.open = [&](const std::string& path) { return OpenBeneath(root, path, false); };
    absl::StatusOr<vault::SealReport> report = vault::Seal(seal, directory_ / (name + ".sealed"));
    ASSERT_TRUE(report.ok()) << report.status();
    policy::Asset& asset = broker_.agreement.assets.at(name);
    asset.statement = *seal.statement_sha256;
    asset.sealed = Digest32FromHex(report->asset_id, name).value();
    broker_.content_keys[name] = std::move(report->content_key);
  }

  // As `pavise policy show --output` does.
  void WriteAgreement() {
    fs::remove_all(directory_ / "received");
    const Json answer = JsonOf(broker_.Ask("vendor", "GET", broker_.Target("/statements")));
    int number = 0;
    for (const Json& each : answer["statements"]) {
      const std::string text = each["envelope"];
      const std::string type = Json::parse(text)["payloadType"];
      const std::string kind = type == policy::kAgreementType  ? "agreement"
                               : type == policy::kApprovalType ? "approval"
                                                               : "withdrawal";
      directory_.Write(absl::StrFormat("received/%03d-%s.json", ++number, kind), text);
    }
    const policy::EvidenceRules& rules =
        broker_.agreement.stages.at("train").modes.at(policy::Mode::kMeasured);
    std::vector<Digest32> pinned = {rules.policy};
    for (const auto& [name, digest] : rules.files) pinned.push_back(digest);
    for (const Digest32& digest : pinned) {
      directory_.Write(StrCat("received/attachments/", ToHex(digest)),
                       AsText(broker_.files.Read(digest).value()));
    }
  }

  JobServices Services() {
    JobServices services;
    services.machine.clock = &broker_.clock;
    services.machine.evidence = [&](const Digest32& nonce, const crypto::PublicKey& key) {
      return absl::StatusOr<evidence::CompositeEvidence>(broker_.machine.Evidence(nonce, key));
    };
    services.fetch_ledger = [&](const std::string& agreement) -> absl::StatusOr<Bytes> {
      EXPECT_EQ(agreement, broker_.id);
      const std::string body = broker_.Ask("vendor", "GET", broker_.Target("/ledger")).body;
      return Bytes(AsBytes(body).begin(), AsBytes(body).end());
    };
    return services;
  }

  Job Parsed() { return ReadJob(directory_.Write("job.yaml", text_)).value(); }

  ResultTrust Trust() {
    const Json told = JsonOf(broker_.Send("GET", "/pavise/v1/broker"));
    return {broker_.service().keys().signing.public_key(),
            {ledger::NoteKey::Parse(std::string(told["ledger_key"]), "log").value(), {}, 0},
            Digest32FromHex(broker_.id, "id").value()};
  }

  uint64_t Entries(ledger::EntryKind kind) {
    const std::string body = broker_.Ask("vendor", "GET", broker_.Target("/ledger")).body;
    const auto bundle = ledger::BundleVerifier::Verify(
        ledger::ParseBundle(AsBytes(body), "ledger").value(), Trust().log, "ledger");
    EXPECT_TRUE(bundle.ok()) << bundle.status();
    uint64_t count = 0;
    for (const ledger::ProvenEntry& proven : (*bundle)->entries) count += proven.entry.kind == kind;
    return count;
  }

  // What its recipient gets, when the owners of the data have approved it: in "unsealed".
  std::string Received(const agent::Provenance& run) {
    const std::string refused = Unseal(run);
    return refused.empty() ? ContentOf(directory_ / "unsealed/tuned") : refused;
  }
  std::string Unseal(const agent::Provenance& run) {
    for (const char* owner : {"clinic-a", "clinic-b"}) {
      policy::OutputApproval approval;
      approval.agreement = Digest32FromHex(broker_.id, "id").value();
      approval.run = run.run;
      approval.output = "tuned";
      approval.sealed = run.outputs.at("tuned").sealed;
      approval.recipients = {"vendor"};
      approval.approved = true;
      approval.time = broker_.clock.Now();
      const HttpResponse answer =
          broker_.Post(broker_.Target("/output-approvals"),
                       policy::testing::Signed(policy::kOutputApprovalType,
                                               policy::Format(approval).value(), owner));
      EXPECT_LT(answer.status, 300) << answer.body;
    }
    const HttpResponse answer = broker_.Ask(
        "vendor", "GET", broker_.Target(StrCat("/runs/", run.run, "/outputs/tuned/key")));
    EXPECT_EQ(answer.status, 200) << answer.body;
    const auto key =
        crypto::DecryptJwe(JsonOf(answer), policy::testing::EncryptionKey("vendor"), "key");
    if (!key.ok()) return "no key";
    const auto sealed = vault::SealedAsset::Open(directory_ / "out/result/outputs/tuned.sealed");
    const auto unlocked = sealed->Unlock(*key);
    if (!unlocked.ok()) return "another key";
    fs::remove_all(directory_ / "unsealed");
    EXPECT_TRUE(unlocked->Unseal({.directory = directory_ / "unsealed"}).ok());
    return "";
  }

  static std::vector<std::pair<Reason, std::string>> ItemsOf(const absl::Status& status) {
    std::vector<std::pair<Reason, std::string>> items;
    for (const Refusal& finding : RefusalsOf(status))
      items.emplace_back(finding.reason, finding.item);
    return items;
  }

  // All findings of the plan of `text`.
  std::vector<Refusal> PlanRefusals(const std::string& from, const std::string& to) {
    const std::string text = absl::StrReplaceAll(text_, {{from, to}});
    EXPECT_TRUE(from.empty() || text != text_) << from;
    const absl::StatusOr<Job> job = ReadJob(directory_.Write("job.yaml", text));
    EXPECT_TRUE(job.ok()) << job.status();
    const uint64_t before = released_;
    const absl::StatusOr<Plan> plan = MakePlan(*job, Services().machine);
    EXPECT_FALSE(plan.ok());
    // Nor does a run begin.
    EXPECT_EQ(ItemsOf(RunJob(*job, false, Services()).status()), ItemsOf(plan.status()));
    EXPECT_EQ(released_, before);
    EXPECT_EQ(Entries(ledger::EntryKind::kRunBegun), 0u);
    return RefusalsOf(plan.status());
  }

  TemporaryDirectory directory_;
  TestBroker broker_;
  std::atomic<uint64_t> released_ = 0;
  std::unique_ptr<broker::HttpServer> server_;
  std::string text_;
};

MATCHER_P2(Finding, reason, text, "") {
  return arg.reason == reason &&
         StrCat(arg.item, "\n", arg.detail, "\n", arg.remedy).find(text) != std::string::npos;
}

TEST_F(JobTest, FromSealedAssetsToAVerifiedResult) {
  const Job job = Parsed();
  const absl::StatusOr<Plan> plan = MakePlan(job, Services().machine);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->agreement, broker_.id);
  EXPECT_THAT(plan->trusted, ::testing::Contains(HasSubstr("this machine's TPM")));
  EXPECT_THAT(plan->leaks, ::testing::Contains(HasSubstr("output tuned goes to vendor")));
  EXPECT_THAT(plan->cost, ::testing::Contains(HasSubstr("4 keys released")));
  EXPECT_THAT(plan->cost, ::testing::Contains(HasSubstr("not measured before the run")));
  EXPECT_EQ(released_, 0u);
  EXPECT_EQ(ReasonOf(ReadJobState(job).status()), Reason::kFileMissing);

  const absl::StatusOr<VerifiedResult> result = RunJob(job, false, Services());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(released_, 4u);
  EXPECT_EQ(Entries(ledger::EntryKind::kRelease), 4u);
  EXPECT_EQ(ReadJobState(job)->step, JobStep::kDone);
  EXPECT_EQ(ReadJobState(job)->run, (*result)->run.run);

  const absl::StatusOr<VerifiedResult> verified =
      ResultVerifier::Verify(ResultFolder(job), Trust());
  ASSERT_TRUE(verified.ok()) << verified.status();
  const ResultClaims& claims = **verified;
  EXPECT_EQ(claims.run.command, job.command);
  std::vector<std::string> steps;
  for (const SignedStep& step : claims.agreement) {
    steps.push_back(StrCat(step.kind, " ", step.stakeholder));
  }
  EXPECT_THAT(steps, ElementsAre("agreement-proposed clinic-a", "approval clinic-a",
                                 "approval clinic-b", "approval vendor"));
  EXPECT_TRUE(claims.decision.allowed());
  EXPECT_EQ(Received(claims.run), kTuned);

  // Once is enough.
  EXPECT_EQ(ExitCodeOf(RunJob(job, false, Services()).status()), 2);
  const absl::StatusOr<VerifiedResult> again = RunJob(job, true, Services());
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->run, claims.run);
  EXPECT_EQ(released_, 4u);
  // What says something else is another job; what only looks otherwise is not.
  text_ += "# more\n";
  EXPECT_TRUE(RunJob(Parsed(), true, Services()).ok());
  text_ += "ledger_reader: key.pem\n";
  EXPECT_EQ(ReasonOf(RunJob(Parsed(), true, Services()).status()), Reason::kContentMismatch);
}

TEST_F(JobTest, WithoutAReaderOfTheLedgerTheResultWaits) {
  const Job job = Parsed();
  JobServices services = Services();
  const auto fetch = std::exchange(services.fetch_ledger, nullptr);
  const absl::Status waits = RunJob(job, false, services).status();
  EXPECT_EQ(ReasonOf(waits), Reason::kEvidenceMissing) << waits;
  EXPECT_EQ(ReadJobState(job)->step, JobStep::kRan);
  EXPECT_EQ(ExitCodeOf(RunJob(job, true, services).status()), 1);
  // A stakeholder brings it.
  directory_.Write("out/attempt-1/ledger.json", AsText(fetch(broker_.id).value()));
  const absl::StatusOr<VerifiedResult> result = RunJob(job, true, services);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(released_, 4u);
}

TEST_F(JobTest, WhatAPlanRefuses) {
  EXPECT_THAT(PlanRefusals("stage: train", "stage: infer"),
              ElementsAre(Finding(Reason::kPolicyDenied, "one of audit, train")));
  EXPECT_THAT(PlanRefusals("mode: measured", "mode: tee"),
              ElementsAre(Finding(Reason::kPolicyDenied, "tee is not allowed")));
  EXPECT_THAT(PlanRefusals("train.sh]", "other.sh]"),
              ElementsAre(Finding(Reason::kPolicyDenied, "other.sh")));
  EXPECT_THAT(PlanRefusals("base: base.sealed, ", ""),
              ElementsAre(Finding(Reason::kFileMissing, "the stage uses base")));
  EXPECT_THAT(PlanRefusals("base: base.sealed", "base: base.sealed, more: base.sealed"),
              ElementsAre(Finding(Reason::kPolicyDenied, "assets.more")));
  EXPECT_THAT(PlanRefusals("base: base.sealed", "base: scans-a.sealed"),
              ElementsAre(Finding(Reason::kContentMismatch, "scans-a.sealed")));
  EXPECT_THAT(PlanRefusals("base: base.sealed", "base: none.sealed"),
              ElementsAre(Finding(Reason::kFileUnreadable, "none.sealed")));
  EXPECT_THAT(PlanRefusals("tuned: [vendor]", "tuned: [vendor, clinic-a]"),
              ElementsAre(Finding(Reason::kPolicyDenied, "outputs.tuned")));
  EXPECT_THAT(PlanRefusals("tuned: [vendor]", "tuned: [vendor], log: [vendor]"),
              ElementsAre(Finding(Reason::kPolicyDenied, "outputs.log")));
  EXPECT_THAT(PlanRefusals("containment:", "network: true\ncontainment:"),
              ElementsAre(Finding(Reason::kPolicyDenied, "network")));
  EXPECT_THAT(PlanRefusals("memory-limit, cpu-limit, swap]}", "cpu-limit, swap], cgroup: /none}"),
              ElementsAre(Finding(Reason::kUnsupported, "memory-limit")));
  // Several at once.
  EXPECT_THAT(
      PlanRefusals("base: base.sealed, scans-a: scans-a.sealed, ", ""),
      ElementsAre(Finding(Reason::kFileMissing, "base"), Finding(Reason::kFileMissing, "scans-a")));
}

TEST_F(JobTest, APlanRefusesBrokenAssets) {
  const std::string sealed = ContentOf(directory_ / "scans-b.sealed");
  directory_.Write("scans-b.sealed", sealed.substr(0, sealed.size() - 1));
  EXPECT_THAT(PlanRefusals("", ""),
              ElementsAre(Finding(Reason::kContentMismatch, "scans-b.sealed")));
  std::string changed = sealed;
  changed[40] ^= 1;
  directory_.Write("scans-b.sealed", changed);
  EXPECT_EQ(PlanRefusals("", "").size(), 1u);
  // Inside of a segment it shows with the key only: the run is refused, and leaves no result.
  changed = sealed;
  changed.back() ^= 1;
  directory_.Write("scans-b.sealed", changed);
  const absl::Status refused = RunJob(Parsed(), false, Services()).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kContentMismatch) << refused;
  EXPECT_FALSE(fs::exists(directory_ / "out/result"));
  EXPECT_EQ(released_, Entries(ledger::EntryKind::kRelease));
  // With the file put right the job goes on.
  directory_.Write("scans-b.sealed", sealed);
  const absl::StatusOr<VerifiedResult> result = RunJob(Parsed(), true, Services());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(Received((*result)->run), kTuned);
  EXPECT_EQ(released_, Entries(ledger::EntryKind::kRelease));
}

TEST_F(JobTest, APlanRefusesWhatIsOverOrWithdrawn) {
  const Bytes withdrawn = policy::testing::Withdrawn(broker_.history(), {"scans-a"}, "clinic-a",
                                                     broker_.clock.Now() + absl::Seconds(1));
  broker_.clock.Advance(absl::Seconds(2));
  ASSERT_EQ(broker_.Post(broker_.Target("/withdrawals"), withdrawn).status, 200);
  WriteAgreement();
  EXPECT_THAT(PlanRefusals("", ""), ElementsAre(Finding(Reason::kPolicyDenied, "scans-a")));
  fs::remove(directory_ / "received/005-withdrawal.json");
  broker_.clock.Advance(absl::Hours(24 * 31));
  EXPECT_THAT(PlanRefusals("", ""), ElementsAre(Finding(Reason::kPolicyDenied, "2027-02-14")));
}

TEST_F(JobTest, APlanRefusesAMachineThatIsNotTheOwners) {
  broker_.machine.Boot("something else");
  EXPECT_THAT(PlanRefusals("", ""),
              ::testing::Contains(Finding(Reason::kMeasurementMismatch, "PCR 4")));
  // Nor one without a TPM.
  Machine machine = ThisMachine(Parsed());
  machine.clock = &broker_.clock;
  machine.evidence = [](const Digest32&, const crypto::PublicKey&) {
    return absl::StatusOr<evidence::CompositeEvidence>(
        MachineFailure("device:/dev/tpmrm0", "is not there"));
  };
  const absl::Status refused = MakePlan(Parsed(), machine).status();
  EXPECT_THAT(RefusalsOf(refused),
              ::testing::Contains(Finding(Reason::kUnsupported, "cannot offer it")));
}

TEST_F(JobTest, APlanRefusesAnAgreementThatIsNotInForce) {
  fs::remove(directory_ / "received/004-approval.json");
  EXPECT_THAT(PlanRefusals("", ""), ElementsAre(Finding(Reason::kEvidenceMissing, "in force")));
  WriteAgreement();
  std::string text = ContentOf(directory_ / "received/003-approval.json");
  text[text.size() / 2] ^= 1;
  directory_.Write("received/003-approval.json", text);
  const std::vector<Refusal> changed = PlanRefusals("", "");
  ASSERT_EQ(changed.size(), 1u);
  EXPECT_THAT(changed[0].item, HasSubstr("003-approval.json"));
  WriteAgreement();
  directory_.Write("received/note.txt", "hello");
  EXPECT_THAT(PlanRefusals("", ""), ElementsAre(Finding(Reason::kFileUnsigned, "note.txt")));
}

// Workers that the stage grants, one of which is there.
class WorkersTest : public JobTest {
 protected:
  void Change(policy::Agreement& agreement) override {
    policy::Stage& stage = agreement.stages.at("train");
    stage.command = {"pavise-train",
                     "train",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*",
                     "*"};
    stage.network = {"127.0.0.1:9", "127.0.0.1:10", "127.0.0.1:12"};
  }
  void SetUp() override {
    JobTest::SetUp();
    text_ = absl::StrReplaceAll(text_, {{"mode: measured",
                                         "mode: obfuscated\nscheme: shared\nworkers: [WORKERS]\n"
                                         "worker_tls: {authority: a, certificate: c, key: k}"},
                                        {"command: [sh, /pavise/assets/trainer/train.sh]",
                                         "train: {data: scans-a, output: tuned, network: mlp}"}});
    for (const char* file : {"a", "c", "k"}) directory_.Write(file, "pem");
  }
};

TEST_F(WorkersTest, APlanRefusesWorkersThatAreNotThereOrOneOperators) {
  const std::vector<Refusal> found = PlanRefusals(
      "WORKERS",
      "{address: \"127.0.0.1:9\", operator: north}, {address: \"127.0.0.1:10\", operator: north}, "
      "{address: \"127.0.0.1:12\"}");
  EXPECT_THAT(found, ::testing::Contains(Finding(Reason::kPolicyDenied, "distinct ones, and 1")));
  EXPECT_THAT(found, ::testing::Contains(Finding(Reason::kStateMissing, "127.0.0.1:9")));
  EXPECT_THAT(found, ::testing::Contains(Finding(Reason::kStateMissing, "127.0.0.1:10")));
  EXPECT_THAT(PlanRefusals("WORKERS", "{address: \"127.0.0.1:9\", operator: north}"),
              ::testing::Contains(Finding(Reason::kPolicyDenied, "needs 3 workers")));
  EXPECT_THAT(PlanRefusals("WORKERS", "{address: \"127.0.0.1:11\", operator: north}"),
              ::testing::Contains(Finding(Reason::kPolicyDenied, "no destination")));
}

// ---- kill -9 ----

class JobCrashTest : public JobTest {
 protected:
  // Before the command begins, when it has ended, and when the statement is there.
  void KillAndResume() {
    Parsed();
    Crasher(12, false, 0, SIGKILL);
    Crasher(13, true, 0, SIGKILL);
    EXPECT_EQ(ReadJobState(Parsed())->step, JobStep::kRunning);
    Crasher(18, true, 0, SIGKILL);
    EXPECT_EQ(ReadJobState(Parsed())->attempt, 3u);
    Crasher(0, true, 0, 0);
    EXPECT_EQ(ReadJobState(Parsed())->attempt, 3u) << "what is stated is not repeated";
    EXPECT_EQ(released_, Entries(ledger::EntryKind::kRelease));
  }

  // The steps that it told of.
  std::vector<std::string> Crasher(int steps, bool resume, int expected_exit, int signal) {
    cli::testing::CommandSetting setting;
    setting.directory = directory_.path();
    const cli::testing::CommandOutput output =
        cli::testing::RunProgram({JOB_CRASHER, directory_ / "job.yaml", StrCat(server_->port()),
                                  StrCat(steps), resume ? "resume" : "run"},
                                 setting);
    EXPECT_EQ(output.signal, signal) << output.error;
    EXPECT_EQ(output.exit_code, signal == 0 ? expected_exit : -1) << output.error;
    return absl::StrSplit(output.out, '\n', absl::SkipEmpty());
  }
};

TEST_F(JobCrashTest, KilledAtEachStepItResumesToTheSameResult) {
  Parsed();
  const std::vector<std::string> steps = Crasher(0, false, 0, 0);
  EXPECT_EQ(steps.size(), 22u) << absl::StrJoin(steps, ", ");
  for (size_t last = 1; last <= steps.size(); ++last) {
    SCOPED_TRACE(StrCat("killed after ", last, ": ", steps[last - 1]));
    fs::remove_all(directory_ / "out");
    Crasher(static_cast<int>(last), false, 0, SIGKILL);
    const Job job = Parsed();
    const absl::StatusOr<JobState> state = ReadJobState(job);
    ASSERT_TRUE(state.ok()) << state.status();
    // Killed a second time, where something is left to do.
    if (state->step < JobStep::kDone) Crasher(1, true, 0, SIGKILL);
    Crasher(0, true, 0, 0);
    const absl::StatusOr<VerifiedResult> result =
        ResultVerifier::Verify(ResultFolder(job), Trust());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(Received((*result)->run), kTuned);
    EXPECT_EQ(ReadJobState(job)->step, JobStep::kDone);
    EXPECT_EQ(ReadJobState(job)->run, (*result)->run.run);
    EXPECT_FALSE(fs::exists(directory_ / "out/result.unfinished"));
    // No key left the broker that its ledger does not have.
    EXPECT_EQ(released_, Entries(ledger::EntryKind::kRelease));
  }
}

// ---- one byte ----

TEST_F(JobTest, AResultIsRefusedWhereverAByteIsChanged) {
  const Job job = Parsed();
  ASSERT_TRUE(RunJob(job, false, Services()).ok());
  const std::string folder = ResultFolder(job);
  const ResultTrust trust = Trust();
  ASSERT_TRUE(ResultVerifier::Verify(folder, trust).ok());
  size_t files = 0;
  size_t changes = 0;
  std::vector<std::string> paths;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) paths.push_back(entry.path().string());
  }
  for (const std::string& path : paths) {
    ++files;
    const std::string whole = ContentOf(path);
    const auto write = [&](const std::string& content) {
      std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
    };
    const auto expect_refused = [&](const std::string& what) {
      ++changes;
      const absl::Status status = ResultVerifier::Verify(folder, trust).status();
      EXPECT_FALSE(status.ok()) << path << ", " << what;
      EXPECT_TRUE(ReasonOf(status).has_value()) << path << ", " << what << ": " << status;
    };
    constexpr size_t kPlaces = 23;
    for (size_t i = 0; i < kPlaces; ++i) {
      const size_t at = i * (whole.size() - 1) / (kPlaces - 1);
      std::string changed = whole;
      changed[at] ^= 1;
      write(changed);
      expect_refused(StrCat("byte ", at, " of ", whole.size()));
    }
    write(whole + " ");
    expect_refused("one more");
    write(whole.substr(0, whole.size() - 1));
    expect_refused("one less");
    fs::remove(path);
    expect_refused("not there");
    write(whole);
  }
  EXPECT_EQ(files, 10u);
  EXPECT_EQ(changes, 10u * 26);
  std::ofstream(folder + "/outputs/more.sealed") << "x";
  EXPECT_EQ(ReasonOf(ResultVerifier::Verify(folder, trust).status()), Reason::kFileUnsigned);
  fs::remove(folder + "/outputs/more.sealed");
  ASSERT_TRUE(ResultVerifier::Verify(folder, trust).ok()) << "all is as it was";
  // Other roots.
  ResultTrust other = trust;
  other.agreement[0] ^= 1;
  EXPECT_EQ(ReasonOf(ResultVerifier::Verify(folder, other).status()), Reason::kBindingMismatch);
  other = trust;
  other.broker = SigningKey("vendor").public_key();
  EXPECT_EQ(ReasonOf(ResultVerifier::Verify(folder, other).status()), Reason::kKeyMismatch);
}

// A statement that came after the folder was written must be in the result, too.
TEST_F(JobTest, AnAgreementThatLacksAStatementIsFetchedAgain) {
  JobServices services = Services();
  bool first = true;
  services.machine.evidence = [&, evidence = services.machine.evidence](
                                  const Digest32& nonce, const crypto::PublicKey& key) {
    // After the plan: somebody votes for a second version, which changes nothing yet.
    if (!std::exchange(first, false)) return evidence(nonce, key);
    policy::Agreement next = policy::testing::NextOf(policy::testing::Payload(broker_.agreement));
    next.name = "another name";
    EXPECT_LT(
        broker_.Post("/pavise/v1/agreements", policy::testing::Proposed(next, "vendor")).status,
        300);
    return evidence(nonce, key);
  };
  const Job job = Parsed();
  const absl::Status lacking = RunJob(job, false, services).status();
  EXPECT_EQ(ReasonOf(lacking), Reason::kFileMissing) << lacking;
  WriteAgreement();
  const absl::StatusOr<VerifiedResult> result = RunJob(job, true, services);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(released_, 4u);
}

// ---- results that are made of genuine parts, and ledgers of a broker that is not honest ----

class ForgedResultTest : public JobTest {
 protected:
  void Change(policy::Agreement& agreement) override {
    agreement.stages.at("train").limits.runs = 1;
  }
  // A genuine result; the ledger's key is the test's from here on.
  void Make() {
    const Job job = Parsed();
    const absl::StatusOr<VerifiedResult> result = RunJob(job, false, Services());
    ASSERT_TRUE(result.ok()) << result.status();
    folder_ = ResultFolder(job);
    trust_ = Trust();
    trust_.log = {ledger::testing::LogKey(), {}, 0};
    bundle_ = ledger::ParseBundle(AsBytes(ContentOf(folder_ + "/ledger.json")), "ledger").value();
    for (const ledger::BundleEntry& each : bundle_.entries) {
      entries_[each.index] = ledger::ParseEntry(AsBytes(each.text), "entry").value();
    }
    EXPECT_EQ(Verdict(), std::nullopt);
  }
  uint64_t IndexOf(ledger::EntryKind kind) {
    return std::find_if(entries_.begin(), entries_.end(),
                        [&](const auto& each) { return each.second.kind == kind; })
        ->first;
  }
  // Takes one entry's place from it and gives it to a new one right behind `after`; those between
  // move up.
  ledger::LedgerEntry& Insert(uint64_t instead_of, uint64_t after) {
    for (uint64_t at = instead_of; at < after; ++at) entries_.at(at) = entries_.at(at + 1);
    return entries_.at(after);
  }
  // The reason for which the folder is refused with these entries.
  std::optional<Reason> Verdict() {
    ledger::testing::ExampleLog log;
    uint64_t sequence = 0;
    for (uint64_t at = 0; at <= entries_.rbegin()->first; ++at) {
      const auto found = entries_.find(at);
      if (found == entries_.end()) {
        log.AppendText(StrCat("entry ", at, " is somebody else's"));
        continue;
      }
      found->second.sequence = ++sequence;
      log.Append(found->second);
    }
    ledger::LedgerBundle bundle = log.BundleAt(log.texts.size());
    std::erase_if(bundle.entries,
                  [&](const ledger::BundleEntry& each) { return !entries_.contains(each.index); });
    directory_.Write("out/result/ledger.json", ledger::FormatBundle(bundle));
    const absl::Status status = ResultVerifier::Verify(folder_, trust_).status();
    EXPECT_EQ(status.ok(), !ReasonOf(status).has_value()) << status;
    return ReasonOf(status);
  }

  std::string folder_;
  ResultTrust trust_{SigningKey("vendor").public_key(), {ledger::testing::LogKey(), {}, 0}, {}};
  ledger::LedgerBundle bundle_;
  std::map<uint64_t, ledger::LedgerEntry> entries_;
};

TEST_F(ForgedResultTest, MoreRunsThanTheOwnersAllow) {
  Make();
  // Instead of a deposit: another run, of a stage that is not looked at, and of this one.
  ledger::LedgerEntry& other = entries_.at(IndexOf(ledger::EntryKind::kDeposit));
  const absl::Time time = other.time;
  other = entries_.at(IndexOf(ledger::EntryKind::kRunBegun));
  other.time = time;
  other.run->fill(9);
  other.stage = "audit";
  EXPECT_EQ(Verdict(), std::nullopt);
  other.stage = "train";
  EXPECT_EQ(Verdict(), Reason::kPolicyDenied);
}

TEST_F(ForgedResultTest, AKeyThatMovedAfterItsOwnerWithdrew) {
  Make();
  const Bytes withdrawn =
      policy::testing::Withdrawn(broker_.history(), {"scans-a"}, "clinic-a", broker_.clock.Now());
  directory_.Write("out/result/agreement/005-withdrawal.json", AsText(withdrawn));
  ledger::LedgerEntry entry = entries_.at(IndexOf(ledger::EntryKind::kApproval));
  entry.kind = ledger::EntryKind::kWithdrawal;
  entry.actor = SigningKey("clinic-a").public_key().Fingerprint();
  entry.statement = crypto::Sha256(withdrawn).value();
  const std::map<uint64_t, ledger::LedgerEntry> whole = entries_;
  const auto withdraw_after = [&](ledger::EntryKind kind) {
    entries_ = whole;
    const uint64_t after = IndexOf(kind);
    entry.time = whole.at(after).time;
    Insert(IndexOf(ledger::EntryKind::kDeposit), after) = entry;
    return Verdict();
  };
  EXPECT_EQ(withdraw_after(ledger::EntryKind::kDeposit), Reason::kPolicyDenied) << "before it all";
  EXPECT_EQ(withdraw_after(ledger::EntryKind::kRunBegun), Reason::kRevoked);
  EXPECT_EQ(withdraw_after(ledger::EntryKind::kRelease), Reason::kRevoked);
  // When all was sealed it is too late for this run.
  EXPECT_EQ(withdraw_after(ledger::EntryKind::kOutputDeposited), std::nullopt);
}

TEST_F(ForgedResultTest, AStatementThatTheLedgerSaysIsAnothers) {
  Make();
  const std::map<uint64_t, ledger::LedgerEntry> whole = entries_;
  ledger::LedgerEntry& approval = entries_.at(IndexOf(ledger::EntryKind::kApproval));
  approval.actor = SigningKey("vendor").public_key().Fingerprint();
  EXPECT_EQ(Verdict(), Reason::kTransparencyInvalid);
  entries_ = whole;
  entries_.at(IndexOf(ledger::EntryKind::kApproval)).version = 2;
  EXPECT_EQ(Verdict(), Reason::kTransparencyInvalid);
  entries_ = whole;
  entries_.at(IndexOf(ledger::EntryKind::kApproval)).kind = ledger::EntryKind::kWithdrawal;
  EXPECT_EQ(Verdict(), Reason::kTransparencyInvalid);
}

// Each of these was signed or logged by nobody, and none changes what was.
TEST_F(ForgedResultTest, BytesThatNobodyVouchesFor) {
  Make();
  const auto refused = [&](const std::string& file) {
    const absl::Status status = ResultVerifier::Verify(folder_, trust_).status();
    const std::vector<Refusal> findings = RefusalsOf(status);
    EXPECT_EQ(findings.size(), 1u) << status;
    if (!findings.empty()) {
      EXPECT_THAT(findings[0].item, HasSubstr(file));
    }
    return ReasonOf(status);
  };
  const std::string more = ToHex(crypto::Sha256(AsBytes("more")).value());
  directory_.Write(StrCat("out/result/agreement/attachments/", more), "more");
  EXPECT_EQ(refused(more), Reason::kFileUnsigned);
  fs::remove(StrCat(folder_, "/agreement/attachments/", more));
  for (const char* const name :
       {"002-withdrawal.json", "0002-approval.json", "102-approval.json", "000-approval.json"}) {
    fs::rename(folder_ + "/agreement/002-approval.json", StrCat(folder_, "/agreement/", name));
    EXPECT_TRUE(refused("agreement/").has_value()) << name;
    fs::rename(StrCat(folder_, "/agreement/", name), folder_ + "/agreement/002-approval.json");
  }
  Json envelope = Json::parse(ContentOf(folder_ + "/provenance.json"));
  const std::string whole = ContentOf(folder_ + "/provenance.json");
  envelope["signatures"].push_back({{"keyid", std::string(64, 'a')}, {"sig", "AAAA"}});
  directory_.Write("out/result/provenance.json", envelope.dump());
  EXPECT_EQ(refused("provenance.json"), Reason::kMalformed);
  directory_.Write("out/result/provenance.json", whole);
  EXPECT_EQ(Verdict(), std::nullopt);
}

// A folder that somebody else could write to: the run is genuine, and another job's.
TEST_F(JobTest, AResultOfAnotherJobIsNotThisJobs) {
  ASSERT_TRUE(RunJob(Parsed(), false, Services()).ok());
  fs::rename(directory_ / "out/result", directory_ / "genuine");
  fs::remove_all(directory_ / "out");
  text_ = absl::StrReplaceAll(text_, {{"stage: train", "stage: audit"}});
  const Job other = Parsed();
  const JobState state{.job = other.digest,
                       .step = JobStep::kDone,
                       .attempt = 1,
                       .agreement = broker_.id,
                       .run = ""};
  directory_.Write("out/state.json", FormatJobState(state));
  fs::rename(directory_ / "genuine", directory_ / "out/result");
  const absl::Status status = RunJob(other, true, Services()).status();
  EXPECT_EQ(ReasonOf(status), Reason::kBindingMismatch) << status;
}

// Nor is its journal, which may be somebody else's or days old, taken for a plan.
TEST_F(JobTest, AJournalIsNoPlan) {
  JobState state{
      .job = {}, .step = JobStep::kPlanned, .attempt = 0, .agreement = broker_.id, .run = ""};
  const auto resume = [&](const std::string& text) {
    text_ = text;
    const Job job = Parsed();
    state.job = job.digest;
    directory_.Write("out/state.json", FormatJobState(state));
    return RunJob(job, true, Services()).status();
  };
  const std::string text = text_;
  const std::string swapped =
      absl::StrReplaceAll(text, {{"scans-b: scans-b.sealed", "scans-b: scans-a.sealed"}});
  EXPECT_EQ(ReasonOf(resume(swapped)), Reason::kContentMismatch);
  state.step = JobStep::kRunning;
  EXPECT_EQ(ReasonOf(resume(swapped)), Reason::kContentMismatch);
  state.attempt = ~uint64_t{0};
  EXPECT_EQ(ReasonOf(resume(swapped)), Reason::kContentMismatch);
  EXPECT_EQ(ReasonOf(resume(text)), Reason::kLimitExceeded);
  state.agreement = std::string(64, 'a');
  for (const JobStep step : {JobStep::kPlanned, JobStep::kRan, JobStep::kDone}) {
    state.step = step;
    EXPECT_EQ(ReasonOf(resume(text)), Reason::kContentMismatch);
  }
  EXPECT_EQ(released_, 0u);
  state = {.job = {}, .step = JobStep::kPlanned, .attempt = 0, .agreement = broker_.id, .run = ""};
  EXPECT_TRUE(resume(text).ok());
}

// What owners' code sees of the machine is the operator's to know before.
TEST_F(JobTest, APlanSaysWhatTheCommandSeesOfTheMachine) {
  text_ = absl::StrReplaceAll(text_, {{"{memory_mib: 256", "{read_only: [/etc], memory_mib: 256"}});
  const absl::StatusOr<Plan> plan = MakePlan(Parsed(), Services().machine);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->leaks, ::testing::Contains(HasSubstr("sees, beside programs and libraries: "
                                                         "/etc")));
}

// What stands in the way is its owner's.
TEST_F(JobTest, AJobRemovesNothingThatItDidNotMake) {
  for (const char* const name : {"result", "result.unfinished", "attempt-1"}) {
    directory_.Write(StrCat("out/", name, "/thesis.txt"), "years");
    EXPECT_EQ(ExitCodeOf(RunJob(Parsed(), false, Services()).status()), 2) << name;
    EXPECT_EQ(ContentOf(directory_ / StrCat("out/", name, "/thesis.txt")), "years");
    fs::remove_all(directory_ / "out");
  }
  EXPECT_EQ(released_, 0u);
}

// The owners agreed on another version after the operator's folder was written: no key moves for
// recipients that the operator did not write.
TEST_F(JobTest, RecipientsOfALaterVersionAreNotTheJobs) {
  policy::Agreement next = policy::testing::NextOf(policy::testing::Payload(broker_.agreement));
  next.stages.at("train").outputs.at("tuned").recipients.insert("clinic-a");
  const Bytes proposal = policy::testing::Proposed(next, "vendor");
  broker_.clock.Advance(absl::Seconds(1));
  ASSERT_LT(broker_.Post("/pavise/v1/agreements", proposal).status, 300);
  ASSERT_TRUE(broker_.history().Append(proposal, broker_.clock.Now()).ok());
  for (const auto& [owner, word] :
       {std::pair("clinic-b", policy::Vote::kAbstain), std::pair("vendor", policy::Vote::kApprove),
        std::pair("clinic-a", policy::Vote::kApprove)}) {
    const Bytes vote =
        policy::testing::Voted(broker_.history(), next, owner, broker_.clock.Now(), word);
    const HttpResponse answer = broker_.Post(broker_.Target("/approvals"), vote);
    ASSERT_LT(answer.status, 300) << answer.body;
    ASSERT_TRUE(broker_.history().Append(vote, broker_.clock.Now()).ok());
  }
  const absl::Status status = RunJob(Parsed(), false, Services()).status();
  EXPECT_EQ(ReasonOf(status), Reason::kVersionTooOld) << status;
  EXPECT_EQ(released_, 0u);
  WriteAgreement();
  text_ = absl::StrReplaceAll(text_, {{"[vendor]", "[vendor, clinic-a]"}, {": out\n", ": out2\n"}});
  const absl::StatusOr<VerifiedResult> result = RunJob(Parsed(), false, Services());
  ASSERT_TRUE(result.ok()) << result.status();
  // Who abstained has not approved.
  std::vector<std::string> steps;
  for (const SignedStep& step : (*result)->agreement) {
    if (step.version == 2) steps.push_back(StrCat(step.kind, " ", step.stakeholder));
  }
  EXPECT_THAT(steps, ElementsAre("agreement-proposed vendor", "abstention clinic-b",
                                 "approval vendor", "approval clinic-a"));
}

TEST_F(JobTest, ASupersededPlanMovesNoKey) {
  policy::Agreement next = policy::testing::NextOf(policy::testing::Payload(broker_.agreement));
  next.name = "another name";
  const Bytes proposal = policy::testing::Proposed(next, "vendor");
  ASSERT_EQ(broker_.Post("/pavise/v1/agreements", proposal).status, 200);
  ASSERT_TRUE(broker_.history().Append(proposal, broker_.clock.Now()).ok());
  for (const char* owner : {"vendor", "clinic-a", "clinic-b"}) {
    const Bytes vote = policy::testing::Voted(broker_.history(), next, owner, broker_.clock.Now());
    // The change rule may have enough before the last one.
    const bool is_open = broker_.history().Append(vote, broker_.clock.Now()).ok();
    EXPECT_EQ(broker_.Post(broker_.Target("/approvals"), vote).status == 200, is_open);
  }
  const Job job = Parsed();
  const absl::Status refused = RunJob(job, false, Services()).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kVersionTooOld) << refused;
  EXPECT_THAT(RefusalsOf(refused), ElementsAre(Finding(Reason::kVersionTooOld, "version 2 is in")));
  EXPECT_EQ(released_, 0u);
  EXPECT_EQ(Entries(ledger::EntryKind::kRunBegun), 0u);
  WriteAgreement();
  const absl::StatusOr<VerifiedResult> result = RunJob(job, true, Services());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ((*result)->run.version, 2u);
}

// ---- what a measured host's agent sent ----

TEST_F(JobTest, WhatAnAgentSentBecomesAResult) {
  const absl::StatusOr<VerifiedResult> here = RunJob(Parsed(), false, Services());
  ASSERT_TRUE(here.ok()) << here.status();
  const std::map<std::string, std::string> sent = {
      {"provenance.json", ContentOf(directory_ / "out/result/provenance.json")},
      {"evidence.cbor", ContentOf(directory_ / "out/result/evidence.cbor")},
      {"tuned.sealed", ContentOf(directory_ / "out/result/outputs/tuned.sealed")}};
  const auto collect = [&](const std::map<std::string, std::string>& files,
                           const std::string& text) {
    fs::remove_all(directory_ / "out");
    fs::remove_all(directory_ / "sent");
    fs::create_directory(directory_ / "sent");
    for (const auto& [name, content] : files) directory_.Write("sent/" + name, content);
    return CollectJob(ReadJob(directory_.Write("job.yaml", text)).value(), directory_ / "sent",
                      Services());
  };
  const absl::StatusOr<VerifiedResult> collected = collect(sent, text_);
  ASSERT_TRUE(collected.ok()) << collected.status();
  EXPECT_EQ((*collected)->run, (*here)->run);
  EXPECT_EQ(ReadJobState(Parsed())->step, JobStep::kDone);
  EXPECT_EQ(Received((*collected)->run), kTuned);
  EXPECT_EQ(released_, 4u);
  EXPECT_EQ(ExitCodeOf(CollectJob(Parsed(), directory_ / "sent", Services()).status()), 2)
      << "once is enough";
  ASSERT_TRUE(RunJob(Parsed(), true, Services()).ok());

  for (const auto& [name, content] : sent) {
    std::map<std::string, std::string> changed = sent;
    changed[name][content.size() / 2] ^= 1;
    const absl::Status refused = collect(changed, text_).status();
    EXPECT_TRUE(ReasonOf(refused).has_value()) << name << ": " << refused;
    EXPECT_NE(ReadJobState(Parsed())->step, JobStep::kDone) << name;
    changed.erase(name);
    EXPECT_TRUE(ReasonOf(collect(changed, text_).status()).has_value()) << name << " is missing";
  }
  const std::string other = absl::StrReplaceAll(text_, {{"stage: train", "stage: audit"}});
  EXPECT_EQ(ReasonOf(collect(sent, other).status()), Reason::kBindingMismatch);
}

// ---- the page ----

// Its command says what a hostile operator may want a reader's browser to do.
class ReportTest : public JobTest {
 protected:
  void Change(policy::Agreement& agreement) override {
    agreement.stages.at("train").command.emplace_back("*");
  }
  void SetUp() override {
    JobTest::SetUp();
    text_ = absl::StrReplaceAll(text_, {{"train.sh]",
                                         "train.sh, \"</code><script>alert('x')</script><img src=x "
                                         "onerror=alert(1)>&amp;\"]"}});
  }
  std::string Page() {
    const Job job = Parsed();
    EXPECT_TRUE(RunJob(job, false, Services()).ok());
    ReportInput input{"out/<b>result", ResultVerifier::Verify(ResultFolder(job), Trust()), {}};
    EXPECT_TRUE(input.verified.ok()) << input.verified.status();
    run_ = (*input.verified)->run;
    train::Metrics metrics;
    for (uint64_t epoch = 1; epoch <= 3; ++epoch) {
      const auto at = static_cast<double>(epoch);
      metrics.steps.push_back({epoch, epoch, 1 / at, 0.05});
      metrics.epochs.push_back({epoch, epoch, 1 / at, at / 4, 1.1 / at, at / 5, 100});
    }
    input.metrics = metrics;
    return RenderReport(input);
  }
  static size_t Count(const std::string& text, const std::string& part) {
    size_t count = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
    return count;
  }

  agent::Provenance run_;
};

TEST_F(ReportTest, SaysWhatWasVerifiedAndRunsNothingOfIt) {
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr("Accepted"));
  // What is hostile is text.
  EXPECT_THAT(page, HasSubstr("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"));
  EXPECT_THAT(page, HasSubstr("out/&lt;b&gt;result"));
  for (const char* part : {"<script", "<b>", "<img src=x", "onerror=alert(1)>", "href", "url(h"}) {
    EXPECT_EQ(Count(page, part), 0u) << part;
  }
  // The namespace of SVG is a name; nothing is fetched.
  EXPECT_EQ(Count(page, "http://") + Count(page, "https://"), 1u);
  EXPECT_THAT(page, HasSubstr("default-src 'none'"));
  // Every digest, in full.
  for (const agent::ProvenanceMaterial& material : run_.materials) {
    EXPECT_THAT(page, HasSubstr(ToHex(material.sealed)));
    EXPECT_THAT(page, HasSubstr(ToHex(material.statement)));
  }
  EXPECT_THAT(page, HasSubstr(ToHex(run_.outputs.at("tuned").file_sha256)));
  EXPECT_THAT(page, HasSubstr(ToHex(run_.evidence)));
  // For readers who do not see it.
  EXPECT_THAT(page, HasSubstr("<html lang=\"en\">"));
  EXPECT_EQ(Count(page, "<h1>"), 1u);
  EXPECT_EQ(Count(page, "<h2>"), 9u);
  EXPECT_EQ(Count(page, "<table>"), Count(page, "<caption>"));
  EXPECT_EQ(Count(page, "<th"), Count(page, "<th scope=") + Count(page, "<thead>"));
  EXPECT_THAT(page, HasSubstr("role=\"img\" aria-labelledby=\"chain-title chain-description\""));
  EXPECT_EQ(Count(page, "<img "), Count(page, "<img alt=\""));
  EXPECT_THAT(page, HasSubstr("@media print"));
}

// The command is the operator's within the agreement's pattern.
TEST_F(ReportTest, ASchemeInAnotherSpellingIsNotHidden) {
  text_ = absl::StrReplaceAll(text_, {{"\"</code><script>alert('x')</script><img src=x "
                                       "onerror=alert(1)>&amp;\"",
                                       "\"--scheme=tempo\""}});
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr("What each worker sees under the scheme tempo"));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("nothing was sent")));
}

// What a command does with a network that it has nobody has seen.
class NetworkReportTest : public ReportTest {
 protected:
  void Change(policy::Agreement& agreement) override {
    ReportTest::Change(agreement);
    agreement.stages.at("train").network = {"mirror.example:443"};
  }
};

TEST_F(NetworkReportTest, SaysWhereTheCommandMayReach) {
  const std::string page = Page();
  EXPECT_THAT(page, HasSubstr("mirror.example:443"));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("nothing was sent")));
}

TEST_F(ReportTest, ARefusalIsAllThatItSays) {
  Page();
  const std::string folder = directory_ / "out/result";
  std::string text = ContentOf(folder + "/outputs/tuned.sealed");
  text.back() ^= 1;
  directory_.Write("out/result/outputs/tuned.sealed", text);
  const std::string page =
      RenderReport({"<result>", ResultVerifier::Verify(folder, Trust()), std::nullopt});
  EXPECT_THAT(page, HasSubstr("Refused"));
  EXPECT_THAT(page, HasSubstr("content-mismatch"));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("Accepted")));
  EXPECT_THAT(page, ::testing::Not(HasSubstr(run_.run)));
  EXPECT_THAT(page, ::testing::Not(HasSubstr("<result>")));
}

TEST_F(ReportTest, FitsAWindowAndAPhone) {
  const cli::testing::CommandSetting setting{.directory = directory_.path(),
                                             .environment = {{"HOME", directory_.path()}}};
  if (cli::testing::RunProgram({"sh", "-c", "command -v chromium"}, setting).exit_code != 0) {
    GTEST_SKIP() << "no chromium on this machine: the page is not looked at";
  }
  const std::string page = Page();
  directory_.Write("report.html", page);
  // The same page with a ruler, which its own policy would stop.
  std::string ruled = absl::StrReplaceAll(
      page, {{"default-src 'none'", "default-src 'unsafe-inline'"},
             {"</main>",
              "</main><script>document.title = document.documentElement.scrollWidth + "
              "' of ' + document.documentElement.clientWidth + ', ' + "
              "document.querySelector('figure svg').getBBox().height + ' high, ' + "
              "[...document.querySelectorAll('figure svg text')].filter(t => "
              "t.getBBox().x + t.getBBox().width > 720).length + ' outside';</script>"}});
  directory_.Write("ruled.html", ruled);
  for (const char* const size : {"1280,1000", "500,900"}) {
    const auto browse = [&](std::vector<std::string> more, const std::string& file) {
      std::vector<std::string> words = {"chromium",
                                        "--headless",
                                        "--no-sandbox",
                                        "--disable-gpu",
                                        "--disable-dev-shm-usage",
                                        StrCat("--window-size=", size)};
      words.insert(words.end(), more.begin(), more.end());
      words.push_back("file://" + (directory_ / file));
      return cli::testing::RunProgram(words, setting);
    };
    const cli::testing::CommandOutput dom = browse({"--dump-dom"}, "ruled.html");
    ASSERT_EQ(dom.exit_code, 0) << dom.error;
    const size_t title = dom.out.find("<title>") + 7;
    unsigned wide = 0;
    unsigned window = 0;
    double high = 0;
    unsigned outside = 9;
    ASSERT_EQ(sscanf(dom.out.c_str() + title, "%u of %u, %lf high, %u outside", &wide, &window,
                     &high, &outside),
              4)
        << dom.out.substr(title, 80);
    EXPECT_LE(wide, window) << "scrolls sideways at " << size;
    EXPECT_GT(high, 300) << "the picture is not there";
    EXPECT_EQ(outside, 0u) << "text leaves the picture";
    const std::string picture = StrCat("picture-", window, ".png");
    ASSERT_EQ(browse({"--screenshot=" + (directory_ / picture)}, "report.html").exit_code, 0);
    EXPECT_GT(fs::file_size(directory_ / picture), 20'000u) << "an empty page";
  }
}

#ifdef PAVISE_WORKER
// ---- the trainer, contained ----

// pavise-train as the job's command: from the code asset, over data that are sealed, with workers
// where the mode has some. The agreement allows the job's own words and no others, but for its
// workers.
class TrainerJobTest : public JobCrashTest {
 protected:
  static constexpr char kMeasured[] = "mode: measured\n";
  static constexpr char kInProcess[] =
      "mode: obfuscated\nscheme: orthogonal\nworkers: in-process:2\n";

  // The rest is Begin's.
  void SetUp() override {
    cli::testing::WriteCertificates(directory_, {"worker"}, "serverAuth");
    cli::testing::WriteCertificates(directory_, {"coordinator"}, "clientAuth");
  }
  static std::string WorkersAt(const std::string& address) {
    return StrCat("mode: obfuscated\nscheme: orthogonal\nworkers: [{address: \"", address,
                  "\", operator: north}]\nworker_tls: {authority: worker-ca.pem, certificate: "
                  "coordinator.pem, key: coordinator.key}\n");
  }
  std::string Train(const std::string& more = "") const {
    return StrCat("train: {program: \"", program_,
                  "\", data: scans-a, output: tuned, network: mlp, epochs: 1, batch_size: 8, "
                  "threads: 1",
                  more, "}\n");
  }
  std::string Infer(const std::string& more = "") const {
    return StrCat("infer: {program: \"", program_,
                  "\", model: base, data: scans-a, output: tuned, batch_size: 4, threads: 1", more,
                  "}\n");
  }

  // false: this machine contains nothing, which the test then says.
  bool Begin(const std::string& mode, const std::string& command,
             const std::set<std::string>& destinations = {}) {
    agent::ContainmentOptions any;
    any.accepted_shortfalls = {"memory-limit", "cpu-limit", "swap"};
    const absl::Status contained = agent::Containment::Create(any, {"true"}).status();
    if (ReasonOf(contained) == Reason::kUnsupported) {
      skipped_ = std::string(FromAbsl(contained.message()));
      return false;
    }
    mode_ = mode;
    command_ = command;
    destinations_ = destinations;
    JobTest::SetUp();
    text_ = Text(mode_, server_->port());
    return true;
  }
  std::string Text(const std::string& mode, int port) const {
    return StrCat("agreement: received\nstage: train\n", mode,
                  "broker: {url: \"http://127.0.0.1:", port, "\", plain_loopback: true}\n",
                  "assets: {trainer: trainer.sealed, base: base.sealed, scans-a: scans-a.sealed, "
                  "scans-b: scans-b.sealed}\noutputs: {tuned: [vendor]}\n",
                  command_, read_only_,
                  "storage_mib: 256, processes: 256, "
                  "accept: [memory-limit, cpu-limit, swap]}\noutput: out\n");
  }
  void Change(policy::Agreement& agreement) override {
    const fs::path programs = fs::path(PAVISE_WORKER).parent_path();
    Anew("trainer");
    fs::copy_file(programs / "pavise-train", directory_ / "trainer/pavise-train");
    SealFolder("trainer", "vendor");
    Anew("scans-a");
    for (const auto& [prefix, count] : {std::pair("train", 48u), std::pair("t10k", 16u)}) {
      cli::testing::WriteHalves(prefix, count,
                                [&](const std::string& name, const std::string& all) {
                                  directory_.Write(StrCat("scans-a/", name), all);
                                });
    }
    SealFolder("scans-a", "clinic-a");
    if (command_.starts_with("infer")) {
      const cli::testing::CommandSetting here{.directory = directory_.path()};
      const cli::testing::CommandOutput made = cli::testing::RunProgram(
          {programs / "pavise-train", "train", "--data", "scans-a", "--output", "made", "--network",
           "mlp", "--epochs", "2", "--batch-size", "16", "--threads", "1", "--no-signature"},
          here);
      ASSERT_EQ(made.exit_code, 0) << made.error << made.out;
      Anew("base");
      fs::remove(directory_ / "base");
      fs::rename(directory_ / "made/model", directory_ / "base");
      SealFolder("base", "vendor");
    }
    policy::Stage& stage = agreement.stages.at("train");
    stage.command = ReadJob(directory_.Write("job.yaml", Text(mode_, 1)))->command;
    for (std::string& word : stage.command) {
      if (word.starts_with("localhost:")) word = "*";
    }
    stage.network = destinations_;
  }
  // An empty folder of that name, and nothing that was made of the one before.
  void Anew(const std::string& name) {
    fs::remove_all(directory_ / name);
    fs::remove(directory_ / (name + ".sealed"));
    fs::create_directory(directory_ / name);
  }

  std::vector<std::string> WorkerWords() const {
    return {"--cert", "worker.pem", "--key", "worker.key", "--client-ca", "coordinator-ca.pem"};
  }
  // What the recipient unseals.
  std::set<std::string> Files() const {
    std::set<std::string> files;
    const fs::path root = directory_ / "unsealed";
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (entry.is_regular_file()) files.insert(fs::relative(entry.path(), root));
    }
    return files;
  }
  void ExpectTrained(const absl::StatusOr<VerifiedResult>& result) {
    ASSERT_TRUE(result.ok()) << result.status();
    const agent::Provenance& run = (*result)->run;
    EXPECT_EQ(Unseal(run), "");
    // No checkpoint: it holds the key of the offload.
    EXPECT_THAT(Files(), ElementsAre("curves.svg", "metrics.jsonl", "model/model.safetensors",
                                     "model/network.json"));
    const auto metrics =
        train::ParseMetrics(AsBytes(ContentOf(directory_ / "unsealed/metrics.jsonl")), "metrics");
    ASSERT_TRUE(metrics.ok()) << metrics.status();
    EXPECT_EQ(metrics->steps.size(), 6u);
    EXPECT_EQ(metrics->epochs.size(), 1u);
    EXPECT_EQ(run.resident_weights, std::nullopt);
  }
  void ExpectInferred(const absl::StatusOr<VerifiedResult>& result, const std::string& hash) {
    ASSERT_TRUE(result.ok()) << result.status();
    const agent::Provenance& run = (*result)->run;
    const std::string predictions = Received(run);
    EXPECT_THAT(predictions, HasSubstr("image,label,prediction,probability\n"));
    EXPECT_EQ(std::count(predictions.begin(), predictions.end(), '\n'), 17);
    ASSERT_EQ(run.resident_weights.has_value(), !hash.empty());
    if (hash.empty()) return;
    EXPECT_EQ(run.resident_weights->hash, hash);
    EXPECT_GE(run.resident_weights->passes, 1u);
    EXPECT_EQ(run.resident_weights->ranges, 3u);  // 1.2 MiB of weights, and network.json
  }

  std::string mode_, command_, skipped_;
  std::string program_ = "/pavise/assets/trainer/pavise-train";
  std::string read_only_ = "containment: {";
  std::set<std::string> destinations_;
};

TEST_F(TrainerJobTest, TrainsOnTheMachineAlone) {
  if (!Begin(kMeasured, Train())) GTEST_SKIP() << skipped_;
  ExpectTrained(RunJob(Parsed(), false, Services()));
}

TEST_F(TrainerJobTest, TrainsWithWorkersInTheProcessFromAFolderOfTheHosts) {
  const fs::path programs = fs::path(PAVISE_WORKER).parent_path();
  fs::permissions(directory_.path(), fs::perms{0755});
  fs::create_directory(directory_ / "programs");
  fs::copy_file(programs / "pavise-train", directory_ / "programs/pavise-train");
  program_ = directory_ / "programs/pavise-train";
  read_only_ = "containment: {read_only: [programs], ";
  if (!Begin(kInProcess, Train())) GTEST_SKIP() << skipped_;
  ExpectTrained(RunJob(Parsed(), false, Services()));
}

TEST_F(TrainerJobTest, TrainsWithWorkersOverTlsAndGoesOnWithOthers) {
  auto first = std::make_unique<cli::testing::WorkerProgram>(WorkerWords(), directory_.path());
  const cli::testing::WorkerProgram second(WorkerWords(), directory_.path());
  if (!Begin(WorkersAt(first->Address()), Train(), {first->Address(), second.Address()})) {
    GTEST_SKIP() << skipped_;
  }
  // The worker ends when all is unsealed and the command is about to begin.
  const std::string before = first->Address();
  JobServices services = Services();
  int unsealed = 0;
  services.on_step = [&](std::string_view step) {
    if (step == "unsealed" && ++unsealed == 4) first.reset();
  };
  const absl::Status failed = RunJob(Parsed(), false, services).status();
  EXPECT_EQ(ExitCodeOf(failed), 3) << failed;
  EXPECT_EQ(ReadJobState(Parsed())->step, JobStep::kRunning);
  // As long as the job names it, the plan says what to do.
  const absl::Status gone = RunJob(Parsed(), true, Services()).status();
  EXPECT_THAT(RefusalsOf(gone), ElementsAre(Finding(Reason::kStateMissing, before)));
  EXPECT_THAT(RefusalsOf(gone), ElementsAre(Finding(Reason::kStateMissing, "another one")));
  // One that the agreement does not grant is no help.
  text_ = Text(WorkersAt("localhost:9"), server_->port());
  EXPECT_THAT(RefusalsOf(RunJob(Parsed(), true, Services()).status()),
              ::testing::Contains(Finding(Reason::kPolicyDenied, "localhost:9")));
  text_ = Text(WorkersAt(second.Address()), server_->port());
  const absl::StatusOr<VerifiedResult> result = RunJob(Parsed(), true, Services());
  ExpectTrained(result);
  EXPECT_THAT((*result)->run.command, ::testing::Contains(StrCat(second.Address(), "=north")));
  EXPECT_EQ(ReadJobState(Parsed())->attempt, 2u);
  EXPECT_EQ(released_, Entries(ledger::EntryKind::kRelease));
}

TEST_F(TrainerJobTest, InfersAndSaysHowOftenTheWeightsWereChecked) {
  if (!Begin(kMeasured, Infer())) GTEST_SKIP() << skipped_;
  ExpectInferred(RunJob(Parsed(), false, Services()), "tag");
}

TEST_F(TrainerJobTest, InfersWithTheSignedTreeAsTheCheck) {
  if (!Begin(kInProcess, Infer(", guard_hash: blake3, guard_share: 50"))) GTEST_SKIP() << skipped_;
  ExpectInferred(RunJob(Parsed(), false, Services()), "blake3");
}

TEST_F(TrainerJobTest, InfersWithWorkersOverTlsWithoutACheck) {
  const cli::testing::WorkerProgram worker(WorkerWords(), directory_.path());
  if (!Begin(WorkersAt(worker.Address()), Infer(", guard_hash: none"), {worker.Address()})) {
    GTEST_SKIP() << skipped_;
  }
  const absl::StatusOr<Plan> plan = MakePlan(Parsed(), Services().machine);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_THAT(plan->trusted, ::testing::Contains(HasSubstr("guard_hash: none")));
  ExpectInferred(RunJob(Parsed(), false, Services()), "");
}

TEST_F(TrainerJobTest, WhatTheOwnersDidNotAgreeToIsNotLeftOut) {
  if (!Begin(kMeasured, Infer())) GTEST_SKIP() << skipped_;
  EXPECT_THAT(PlanRefusals("threads: 1}", "threads: 1, guard_hash: none}"),
              ElementsAre(Finding(Reason::kPolicyDenied, "command")));
}

TEST_F(TrainerJobTest, KilledWhileItTrainsItResumes) {
  if (!Begin(kInProcess, Train())) GTEST_SKIP() << skipped_;
  KillAndResume();
  ExpectTrained(ResultVerifier::Verify(ResultFolder(Parsed()), Trust()));
}

TEST_F(TrainerJobTest, KilledWhileItInfersItResumes) {
  if (!Begin(kMeasured, Infer())) GTEST_SKIP() << skipped_;
  KillAndResume();
  ExpectInferred(ResultVerifier::Verify(ResultFolder(Parsed()), Trust()), "tag");
}
#endif

}  // namespace
}  // namespace pavise::job
