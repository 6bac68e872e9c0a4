#include "pavise/train/metrics.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/train/training_options.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::train {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const StepMetrics kStep = {1, 1, 2.5, 0.1};
const EpochMetrics kEpoch = {1, 1, 2.5, 0.25, 2.25, 0.5, 100};

TEST(MetricsTest, LinesAreReadBack) {
  const std::string text = MetricsLine(kStep) + MetricsLine(kEpoch);
  const auto metrics = ParseMetrics(AsBytes(text), "m");
  ASSERT_TRUE(metrics.ok()) << metrics.status();
  ASSERT_EQ(metrics->steps.size(), 1u);
  EXPECT_EQ(metrics->steps[0].loss, 2.5);
  ASSERT_EQ(metrics->epochs.size(), 1u);
  EXPECT_EQ(metrics->epochs[0].test_accuracy, 0.5);
  for (const std::string& wrong :
       {text + "{", text + "{}\n", text + "\n", text.substr(0, text.size() - 1),
        std::string("{\"step\":1,\"epoch\":1,\"loss\":\"x\",\"learning_rate\":1}\n"),
        std::string("{\"step\":-1,\"epoch\":1,\"loss\":1,\"learning_rate\":1}\n")}) {
    EXPECT_EQ(ReasonOf(ParseMetrics(AsBytes(wrong), "m").status()), Reason::kMalformed) << wrong;
  }
}

// The axis of a loss near the largest double would have no end.
TEST(MetricsTest, NumbersOfNoTrainingAreRefused) {
  for (const char* loss : {"1.79e308", "-1.79e308", "1e101"}) {
    const std::string line =
        StrCat(R"({"step":1,"epoch":1,"loss":)", loss, R"(,"learning_rate":0.1})", "\n");
    EXPECT_EQ(ReasonOf(ParseMetrics(AsBytes(line), "m").status()), Reason::kLimitExceeded) << loss;
  }
  Metrics metrics;
  metrics.epochs.push_back({1, 1, 1e100, 1e100, 1e100, 1e100, 1});
  EXPECT_LT(RenderCurves("large", metrics).size(), 10'000u);
}

TEST(MetricsTest, AFileGoesOnWhereItsCheckpointWas) {
  const pavise::testing::TemporaryDirectory directory;
  const std::string path = directory.Write("metrics.jsonl", "kept\nlost\n");
  {
    auto file = MetricsFile::Open(path, 5);
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE(file->Append("new\n").ok());
    ASSERT_TRUE(file->Sync().ok());
    EXPECT_EQ(file->size_bytes(), 9u);
    EXPECT_EQ(ReasonOf(MetricsFile::Open(path, 5).status()), Reason::kPolicyDenied);
  }
  EXPECT_EQ(pavise::testing::ContentOf(path), "kept\nnew\n");
  EXPECT_EQ(ReasonOf(MetricsFile::Open(path, 10).status()), Reason::kContentMismatch);
  EXPECT_EQ(pavise::testing::ContentOf(path), "kept\nnew\n");
}

TEST(MetricsTest, CurvesHoldEveryLine) {
  Metrics metrics;
  for (uint64_t step = 1; step <= 1000; ++step) metrics.steps.push_back({step, 1, 1, 1});
  metrics.epochs = {kEpoch, kEpoch};
  const std::string svg = RenderCurves("a <b> & c\x1b", metrics);
  EXPECT_THAT(svg, HasSubstr("a &lt;b&gt; &amp; c\\x1b"));
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
  size_t lines = 0;
  for (size_t at = 0; (at = svg.find("<polyline", at)) != std::string::npos; ++at) ++lines;
  EXPECT_EQ(lines, 4u);
  // 1,000 points on 400 pixels are averaged by threes.
  const size_t begin = svg.find("points=\"");
  EXPECT_EQ(std::count(svg.begin() + static_cast<ptrdiff_t>(begin),
                       svg.begin() + static_cast<ptrdiff_t>(svg.find("/>", begin)), ','),
            334);
  // Ticks are round numbers, and those of steps and epochs whole.
  for (const char* tick : {">0.5<", ">2.5<", ">200<", ">800<", ">20<", ">100<"}) {
    EXPECT_THAT(svg, HasSubstr(tick));
  }
  EXPECT_THAT(svg, Not(HasSubstr(">2.25<")));
  EXPECT_THAT(RenderCurves("nothing yet", {}), HasSubstr("</svg>"));
}

TEST(TrainingOptionsTest, LearningRates) {
  TrainingOptions options;
  options.learning_rate = 2;
  EXPECT_EQ(LearningRateAt(options, 1, 100), 2);
  EXPECT_DOUBLE_EQ(LearningRateAt(options, 51, 100), 1);
  EXPECT_LT(LearningRateAt(options, 100, 100), 0.01);
  EXPECT_GT(LearningRateAt(options, 100, 100), 0);
  options.warmup_steps = 4;
  EXPECT_EQ(LearningRateAt(options, 1, 100), 0.5);
  EXPECT_EQ(LearningRateAt(options, 4, 100), 2);
  EXPECT_EQ(LearningRateAt(options, 5, 100), 2);
  options.cosine = false;
  EXPECT_EQ(LearningRateAt(options, 100, 100), 2);
}

TEST(TrainingOptionsTest, RefusesNumbersOutOfRange) {
  const auto code = [](auto change) {
    TrainingOptions options;
    change(options);
    return ExitCodeOf(CheckOptions(options));
  };
  EXPECT_EQ(code([](TrainingOptions&) {}), 0);
  EXPECT_EQ(code([](TrainingOptions& o) { o.epochs = 0; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.batch_size = 1; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.learning_rate = 0; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.learning_rate = NAN; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.momentum = 1; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.weight_decay = -1; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.threads = 0; }), 2);
  EXPECT_EQ(code([](TrainingOptions& o) { o.optimizer = offload::Optimizer::kMuon; }), 0);
  EXPECT_EQ(BatchesOf(10, 4), 3u);
  EXPECT_EQ(BatchesOf(9, 4), 2u);
  EXPECT_EQ(BatchesOf(8, 4), 2u);
}

}  // namespace
}  // namespace pavise::train
