#include "pavise/job/cost.h"

#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::job {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

// 32 images in 4 s (tee), in 2 s (tempo); sent and received 64,000 bytes an image.
OrderedJson Figures() {
  const auto mode = [](const char* name, const OrderedJson& scheme, double seconds) {
    return OrderedJson{{"mode", name},
                       {"scheme", scheme},
                       {"why_not", nullptr},
                       {"threads", 2},
                       {"images", 32},
                       {"seconds", seconds},
                       {"setup_seconds", 10.0},
                       {"coordinator_cpu_seconds_per_image", 0.05},
                       {"sent_bytes", scheme.is_null() ? 0 : 32 * 48'000},
                       {"received_bytes", scheme.is_null() ? 0 : 32 * 16'000},
                       {"setup_sent_bytes", 0},
                       {"setup_received_bytes", 0}};
  };
  const OrderedJson missing = {
      {"mode", "confidential-gpu"}, {"scheme", nullptr}, {"why_not", "GPU: there is none"}};
  return {{"pavise_bench_modes", 1},
          {"machine", "a CPU"},
          {"load_before", 0.5},
          {"tee_guest", false},
          {"workers", "in-process"},
          {"data", "synthetic noise"},
          {"image", {3, 32, 32}},
          {"network", "mlp"},
          {"batch_size", 32},
          {"optimizer", "sgd"},
          {"wire", "bf16"},
          {"convolutions", "im2col"},
          {"least_width", "32"},
          {"micro_batches", "1"},
          {"defaults",
           {{"optimizer", "sgd"},
            {"wire", "bf16"},
            {"convolutions", "im2col"},
            {"least_width", "32"},
            {"micro_batches", "1"}}},
          {"modes", {mode("tee", nullptr, 4), mode("obfuscated", "tempo", 2), missing}}};
}

absl::StatusOr<RecordedFigures> Parsed(const OrderedJson& json) {
  return ParseFigures(AsBytes(DumpJson(json)), "modes.json");
}

class CostTest : public ::testing::Test {
 protected:
  CostTest() {
    job_.use = offload::Use::kTraining;
    job_.mode = TrustMode::kObfuscated;
    job_.obfuscation = Obfuscation{.scheme = "tempo", .workers = {{"gpu:1", "north"}}};
    job_.command = {"pavise-train", "train", "--network",      "mlp", "--batch-size", "32",
                    "--epochs",     "3",     "--train-images", "1000"};
  }
  void Set(const std::string& option, const std::string& value) {
    job_.command.insert(job_.command.end(), {option, value});
  }
  std::vector<std::string> Cost(const OrderedJson& json, std::string_view machine = "a CPU") {
    const auto figures = Parsed(json);
    EXPECT_TRUE(figures.ok()) << figures.status();
    return figures.ok() ? ExpectedCost(job_, &*figures, machine) : std::vector<std::string>();
  }
  Job job_;
};

TEST_F(CostTest, IsTheMeasuredRateTimesWhatTheJobSays) {
  // 10 s and 3,000 x 2/32 s; 3,000 x 0.05 s; 3,000 x 64,000 bytes.
  EXPECT_THAT(
      Cost(Figures()),
      ElementsAre(
          AllOf(HasSubstr("expected 3.3 min"), HasSubstr("2.5 min of this machine's CPU time"),
                HasSubstr(StrCat(HumanBytes(192'000'000), " to and from workers")),
                HasSubstr("3 epochs of 1000 images; without evaluations")),
          AllOf(HasSubstr("modes.json"), HasSubstr("measured on a CPU (load before: 0.5)"),
                HasSubstr("synthetic noise of 3 x 32 x 32"), Not(HasSubstr("another one")),
                HasSubstr("not the job's own workers"))));
  EXPECT_THAT(Cost(Figures(), "a second CPU")[1],
              HasSubstr("this machine is another one: a second CPU"));
  job_.mode = TrustMode::kTee;
  job_.obfuscation.reset();
  EXPECT_THAT(Cost(Figures()),
              ElementsAre(AllOf(HasSubstr("expected 6.4 min"), Not(HasSubstr("workers"))),
                          HasSubstr("outside of a TEE")));
}

TEST_F(CostTest, WhatTheJobLeavesOpenIsSaid) {
  job_.command = {"pavise-train", "train", "--network", "mlp", "--batch-size", "32"};
  EXPECT_THAT(Cost(Figures())[0],
              AllOf(HasSubstr("expected 72.5 s"), HasSubstr("for each epoch"),
                    HasSubstr("of every 1,000 images"), HasSubstr("the data is sealed")));
}

TEST_F(CostTest, OfAnythingElseItIsNotMeasured) {
  int cases = 0;
  const auto expect = [&](const std::string& why, const OrderedJson& json) {
    EXPECT_THAT(Cost(json), ElementsAre(AllOf(HasSubstr("not measured"), HasSubstr(why),
                                              HasSubstr("pavise bench modes --report-json"),
                                              Not(HasSubstr("expected")))));
    ++cases;
  };
  const Job whole = job_;
  const auto with = [&](const std::string& option, const std::string& value) {
    job_ = whole;
    Set(option, value);
  };
  for (const char* member :
       {"network", "optimizer", "wire", "convolutions", "least_width", "micro_batches"}) {
    OrderedJson other = Figures();
    other[member] = "other";
    expect("other, the job's is", other);
  }
  // The trainer's default, where the job says nothing, is another than what was measured.
  OrderedJson other = Figures();
  other["wire"] = "fp32";
  expect("wire fp32, the job's is bf16", other);
  with("--wire", "fp32");
  expect("wire bf16, the job's is fp32", Figures());
  with("--optimizer", "adamw");
  expect("optimizer sgd, the job's is adamw", Figures());
  with("--threads", "1");
  expect("no figures of this mode", Figures());
  job_ = whole;
  job_.obfuscation->scheme = "shared";
  expect("no figures of this mode", Figures());
  job_ = whole;
  job_.mode = TrustMode::kConfidentialGpu;
  job_.obfuscation.reset();
  expect("no figures of this mode", Figures());
  job_ = whole;
  job_.command = {"pavise-train", "train", "--network", "mlp"};
  expect("leaves its batch-size open", Figures());
  EXPECT_EQ(cases, 13);

  job_ = whole;
  EXPECT_THAT(ExpectedCost(job_, nullptr, ""),
              ElementsAre(AllOf(HasSubstr("not measured"), HasSubstr("--schemes tempo"))));
  job_.use.reset();
  const auto figures = Parsed(Figures());
  EXPECT_THAT(ExpectedCost(job_, &*figures, ""),
              ElementsAre(AllOf(HasSubstr("not measured"), Not(HasSubstr("bench modes")))));
}

TEST(FiguresTest, WhatIsNoneIsRefused) {
  const OrderedJson whole = Figures();
  EXPECT_EQ(Parsed(whole)->modes.size(), 2u);  // that which was not offered is none
  int cases = 0;
  const auto refused = [&](const OrderedJson& json) {
    ++cases;
    return ReasonOf(Parsed(json).status());
  };
  for (const auto& [key, value] : whole.items()) {
    OrderedJson json = Figures();
    json.erase(key);
    EXPECT_EQ(refused(json), Reason::kMalformed) << key;
    json = Figures();
    json[key] = true;
    if (key != "tee_guest") {
      EXPECT_EQ(refused(json), Reason::kMalformed) << key;
    }
  }
  for (const auto& [key, value] : whole["modes"][0].items()) {
    OrderedJson json = Figures();
    json["modes"][0].erase(key);
    EXPECT_EQ(refused(json), Reason::kMalformed) << key;
  }
  for (const char* key : {"images", "seconds"}) {
    OrderedJson json = Figures();
    json["modes"][0][key] = 0;
    EXPECT_EQ(refused(json), Reason::kMalformed) << key;
    json["modes"][0][key] = -1;
    EXPECT_EQ(refused(json), Reason::kMalformed) << key;
  }
  OrderedJson json = Figures();
  json["pavise_bench_modes"] = 2;
  EXPECT_EQ(refused(json), Reason::kUnsupported);
  EXPECT_EQ(cases, 16 + 15 + 12 + 4 + 1);
  EXPECT_EQ(ReasonOf(ParseFigures(AsBytes("{"), "modes.json").status()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::job
