// Jobs from their files to verified results, against a broker behind its HTTP server: what a plan
// refuses, a job that is killed at each of its steps, and a result of which one byte is changed.

#include <fcntl.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/cli/testing/command.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/job/report.h"
#include "pavise/job/run_job.h"
#include "pavise/ledger/bundle.h"
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
    seal.files.push_back(
        {.path = file, .identity = IdentityOf(*OpenBeneath(root, file, false), file).value()});
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

  // What its recipient gets, when the owners of the data have approved it.
  std::string Received(const agent::Provenance& run) {
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
    return ContentOf(directory_ / "unsealed/tuned");
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
  // Another text is another job.
  text_ += "# more\n";
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

}  // namespace
}  // namespace pavise::job
