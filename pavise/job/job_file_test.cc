#include "pavise/job/job_file.h"

#include <string>
#include <tuple>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::job {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::Pair;

constexpr char kTraining[] = R"(agreement: received
stage: train
mode: obfuscated
scheme: shared
workers:
  - {address: "one.example:7700", operator: north}
  - {address: "two.example:7700", operator: south}
worker_tls: {authority: tls/ca.pem, certificate: tls/host.pem, key: tls/host.key}
broker: {url: "https://broker.example", authority: ca.pem}
assets: {trainer: trainer.sealed, scans: "https://files.example/scans.sealed"}
outputs: {tuned: [clinic, lab]}
train: {data: scans, data_file: scans.npz, base: base, output: tuned, network: resnet18, epochs: 3, learning_rate: 0.05, flip: true}
containment: {memory_mib: 8192, seconds: 3600, accept: [swap], read_only: [programs]}
evidence: {tcti: "swtpm:path=/run/tpm", no_ima_log: true, event_log: logs/boot}
output: out
ledger_reader: clinic.pem
)";

absl::StatusOr<Job> Parse(const std::string& text) {
  return ParseJob(AsBytes(text), "job.yaml", "/jobs/lungs");
}

void ExpectRefused(const std::string& text, Reason reason, const std::string& where,
                   const std::string& detail) {
  const absl::StatusOr<Job> job = Parse(text);
  ASSERT_FALSE(job.ok()) << where << "\n" << text;
  EXPECT_EQ(ReasonOf(job.status()), reason) << job.status();
  const Refusal found = RefusalsOf(job.status()).at(0);
  EXPECT_THAT(found.item, HasSubstr(where));
  EXPECT_THAT(found.detail, HasSubstr(detail));
}

TEST(JobFileTest, WhatItSaysIsWhatRuns) {
  const absl::StatusOr<Job> job = Parse(kTraining);
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->agreement, "/jobs/lungs/received");
  EXPECT_EQ(job->mode, TrustMode::kObfuscated);
  EXPECT_EQ(job->machine, policy::Mode::kMeasured);
  EXPECT_EQ(job->assets.at("trainer"), "/jobs/lungs/trainer.sealed");
  EXPECT_EQ(job->assets.at("scans"), "https://files.example/scans.sealed");
  EXPECT_THAT(job->outputs.at("tuned"), ElementsAre("clinic", "lab"));
  EXPECT_THAT(
      job->command,
      ElementsAre("pavise-train", "train", "--data", "/pavise/assets/scans/scans.npz", "--output",
                  "/pavise/outputs/tuned", "--no-signature", "--discard-checkpoint", "--base",
                  "/pavise/assets/base", "--network", "resnet18", "--epochs", "3",
                  "--learning-rate", "0.05", "--flip", "--mode", "obfuscated", "--scheme", "shared",
                  "--workers", "one.example:7700=north,two.example:7700=south", "--worker-ca",
                  "/pavise/assets/.host/worker-authority", "--cert",
                  "/pavise/assets/.host/worker-certificate", "--key",
                  "/pavise/assets/.host/worker-key"));
  EXPECT_FALSE(job->guards_weights) << "training changes them";
  EXPECT_TRUE(job->network);
  EXPECT_THAT(job->destinations, ElementsAre("one.example:7700", "two.example:7700"));
  EXPECT_THAT(Parse(StrCat(kTraining, "network: true\n"))->destinations, IsEmpty());
  EXPECT_EQ(job->containment.limits.memory_bytes, uint64_t{8} << 30);
  EXPECT_THAT(job->containment.read_only, ElementsAre("/jobs/lungs/programs"));
  EXPECT_THAT(job->containment.files,
              ElementsAre(Pair("worker-authority", "/jobs/lungs/tls/ca.pem"),
                          Pair("worker-certificate", "/jobs/lungs/tls/host.pem"),
                          Pair("worker-key", "/jobs/lungs/tls/host.key")));
  EXPECT_THAT(job->containment.accepted_shortfalls, ElementsAre("swap"));
  EXPECT_EQ(job->evidence.tcti, "swtpm:path=/run/tpm");
  EXPECT_FALSE(job->evidence.ima_log);
  EXPECT_TRUE(job->evidence.event_log);
  EXPECT_EQ(job->evidence.logs.event_log, "/jobs/lungs/logs/boot");
  EXPECT_EQ(job->evidence.logs.ima_log, evidence::KernelLogPaths().ima_log);
  EXPECT_EQ(job->ledger_reader, "/jobs/lungs/clinic.pem");
}

std::string With(std::string_view from, std::string_view to) {
  const std::string text = absl::StrReplaceAll(kTraining, {{ToAbsl(from), ToAbsl(to)}});
  EXPECT_NE(text, kTraining) << from;
  return text;
}

TEST(JobFileTest, InferenceVerifiesTheModelWhereItIsUsed) {
  const absl::StatusOr<Job> job =
      Parse(With("train: {data: scans, data_file: scans.npz, base: base, output: tuned, network: "
                 "resnet18, epochs: 3, learning_rate: 0.05, flip: true}",
                 "infer: {model: base, data: scans, output: tuned, split: test}"));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->use, offload::Use::kInference);
  const std::vector<std::string> front(job->command.begin(), job->command.begin() + 11);
  EXPECT_THAT(front, ElementsAre("pavise-train", "infer", "/pavise/assets/base", "--signature",
                                 "/pavise/assets/.signatures/base", "--public-key",
                                 "/pavise/assets/.owners/base", "--data", "/pavise/assets/scans",
                                 "--predictions", "/pavise/outputs/tuned"));
  EXPECT_TRUE(job->guards_weights);
  EXPECT_THAT(job->command, Not(Contains("--guard-hash"))) << "the trainer does it of itself";
}

TEST(JobFileTest, WhetherWeightsAreCheckedIsInTheCommandWhereItIsNotTheUsual) {
  const auto with = [](std::string_view more) {
    return With(
        "train: {data: scans, data_file: scans.npz, base: base, output: tuned, network: resnet18, "
        "epochs: 3, learning_rate: 0.05, flip: true}",
        StrCat("infer: {model: base, data: scans, output: tuned, ", more, "}"));
  };
  for (const std::string hash : {"blake3", "none"}) {
    const absl::StatusOr<Job> job = Parse(with(StrCat("guard_hash: ", hash, ", guard_share: 2.5")));
    ASSERT_TRUE(job.ok()) << job.status();
    EXPECT_EQ(job->guards_weights, hash != "none");
    for (const std::string& word : {std::string("--guard-hash"), hash, std::string("2.5")}) {
      EXPECT_THAT(job->command, Contains(word));
    }
  }
  ExpectRefused(with("guard_hash: md5"), Reason::kMalformed, "infer.guard_hash", "one of tag");
  ExpectRefused(With("flip: true", "flip: true, guard_hash: tag"), Reason::kMalformed,
                "train.guard_hash", "not known");
}

TEST(JobFileTest, ModesOfThisMachine) {
  const std::string plain =
      "agreement: a\nstage: s\nmode: tee\nbroker: {url: 'unix:/b'}\nassets: {x: y}\n"
      "outputs: {o: [p]}\ncommand: [sh, '-c', 'exit 0']\noutput: out\n";
  const absl::StatusOr<Job> tee = Parse(plain);
  ASSERT_TRUE(tee.ok()) << tee.status();
  EXPECT_TRUE(tee->evidence.tee);
  EXPECT_FALSE(tee->evidence.gpus);
  EXPECT_FALSE(tee->evidence.tcti.has_value());
  EXPECT_FALSE(tee->network);
  EXPECT_FALSE(tee->use.has_value());
  const absl::StatusOr<Job> gpu =
      Parse(absl::StrReplaceAll(plain, {{"mode: tee", "mode: confidential-gpu"}}));
  ASSERT_TRUE(gpu.ok()) << gpu.status();
  EXPECT_TRUE(gpu->evidence.gpus);
  ExpectRefused(plain + "scheme: tempo\n", Reason::kMalformed, "line 9, scheme", "obfuscated only");
  ExpectRefused(absl::StrReplaceAll(plain, {{"mode: tee",
                                             "mode: obfuscated\nscheme: tempo\n"
                                             "workers: in-process:1"}}),
                Reason::kMalformed, "command", "train or infer");
}

TEST(JobFileTest, AnotherJobIsOneThatSaysSomethingElse) {
  const Digest32 digest = Parse(kTraining)->digest;
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"stage: train", "stage: train  # the same"},
           {"one.example:7700", "three.example:7700"},
           {"operator: south", "operator: west"},
           {"key: tls/host.key", "key: tls/other.key"}}) {
    EXPECT_EQ(Parse(With(from, to))->digest, digest) << to;
  }
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"stage: train", "stage: training"},
           {"scheme: shared", "scheme: tempo"},
           {"epochs: 3", "epochs: 4"},
           {"authority: ca.pem", "authority: other.pem"},
           {"flip: true", "flip: false"},
           {"[clinic, lab]", "[clinic, lab, south]"}}) {
    EXPECT_NE(Parse(With(from, to))->digest, digest) << to;
  }
}

TEST(JobFileTest, WhatIsWrongIsNamedByLineAndMember) {
  const std::tuple<std::string, std::string, std::string, std::string> kCases[] = {
      {"stage: train\n", "", "job.yaml, line 1, stage", "missing"},
      {"stage: train", "stage: [train]", "line 2, stage", "text"},
      {"stage: train", "stage: train\nseed: 4", "line 3, seed", "not known"},
      {"stage: train", "stage: train\nstage: infer", "line 3", "twice"},
      {"mode: obfuscated", "mode: trusted", "line 3, mode", "one of measured"},
      {"scheme: shared", "scheme: rot13", "line 4, scheme", "one of none"},
      {"scheme: shared\n", "", "scheme", "missing"},
      {"two.example:7700", "one.example:7700", "workers[1].address", "twice"},
      {"two.example:7700", "two.example", "workers[1].address", "HOST:PORT"},
      {"two.example:7700", "two.example:70000", "workers[1].address", "HOST:PORT"},
      {"two.example:7700", "two.example=x:7700", "workers[1].address", "HOST:PORT"},
      {"operator: south", "operator: 'south,evil:1'", "workers[1].operator", "comma"},
      {"operator: south", "owner: south", "workers[1].owner", "not known"},
      {"key: tls/host.key", "keys: tls/host.key", "worker_tls.key", "missing"},
      {"outputs: {tuned: [clinic, lab]}", "outputs: {}", "outputs", "no output"},
      {"[clinic, lab]", "[clinic, clinic]", "outputs.tuned", "each once"},
      {"[clinic, lab]", "clinic", "outputs.tuned", "list"},
      {"outputs: {tuned", "outputs: {'../tuned'", "outputs.../tuned", "name"},
      {"outputs: {tuned", "outputs: {..: [lab], tuned", "outputs...", "name"},
      {"output: tuned", "output: tuned, epoch: 3", "train.epoch", "not known"},
      {"epochs: 3", "epochs: --data", "train.epochs", "minus"},
      {"flip: true", "flip: yes", "train.flip", "true or false"},
      {"output: out", "output: out\ncommand: [sh]", "line 1", "one of command"},
      {"memory_mib: 8192", "memory_mib: '8192'", "containment.memory_mib", "integer"},
      {"memory_mib: 8192", "memory_mib: 0", "containment.memory_mib", "integer"},
      {"memory_mib: 8192", "memory_mib: 08192", "containment.memory_mib", "integer"},
      {"no_ima_log: true", "no_ima_log: true, tsm_report: /x", "evidence.tsm_report", "guest"},
      {"no_ima_log: true", "no_ima_log: true, ima_log: /x", "evidence.ima_log", "left out"},
      {"broker: {url", "broker: {insecure: true, url", "broker.insecure", "not known"},
      {"agreement: received", "agreement: &a received", "line 1", "anchor"},
  };
  for (const auto& [from, to, where, detail] : kCases) {
    ExpectRefused(With(from, to), Reason::kMalformed, where, detail);
  }
  ExpectRefused(With("stage: train", StrCat("stage: ", std::string(5000, 'a'))),
                Reason::kLimitExceeded, "stage", "4096");
  ExpectRefused(std::string(kMaxJobBytes + 1, ' '), Reason::kLimitExceeded, "job.yaml", "");
  ExpectRefused("", Reason::kMalformed, "job.yaml", "");
}

TEST(JobFileTest, WorkersWithinTheProcess) {
  const std::string list =
      "workers:\n  - {address: \"one.example:7700\", operator: north}\n"
      "  - {address: \"two.example:7700\", operator: south}\n"
      "worker_tls: {authority: tls/ca.pem, certificate: tls/host.pem, key: tls/host.key}\n";
  const absl::StatusOr<Job> job = Parse(With(list, "workers: in-process:2\n"));
  ASSERT_TRUE(job.ok()) << job.status();
  EXPECT_EQ(job->obfuscation->in_process, 2u);
  EXPECT_FALSE(job->network) << "nobody is to be reached";
  for (const char* wrong : {"in-process:0", "in-process:65", "in-process:", "in-process:02", "x"}) {
    ExpectRefused(With(list, StrCat("workers: '", wrong, "'\n")), Reason::kMalformed, "workers",
                  "in-process");
  }
}

}  // namespace
}  // namespace pavise::job
