// `pavise bench modes`: pavise-train, on noise for images. What makes an answer a wrong one is
// train/torch/modes_test.cc's.
#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/mode_plot.h"
#include "pavise/cli/testing/command.h"
#include "pavise/job/cost.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

class BenchModesTest : public testing::CommandTest {
 protected:
  static std::vector<std::string> Words(const std::vector<std::string>& more) {
    std::vector<std::string> words = {"bench", "modes", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    // An option is given once.
    for (const auto& [option, value] : {std::pair("--rounds", "1"), std::pair("--batch-size", "4"),
                                        std::pair("--steps", "1"), std::pair("--threads", "1")}) {
      if (std::find(more.begin(), more.end(), option) != more.end()) continue;
      words.insert(words.end(), {option, value});
    }
    return words;
  }
};

std::set<std::string> KeysOf(const Json& object) {
  std::set<std::string> keys;
  for (const auto& [key, value] : object.items()) keys.insert(key);
  return keys;
}

TEST_F(BenchModesTest, EveryModeHasARowOfFiguresThatAddUp) {
  const testing::CommandOutput output =
      ExpectExit(0, {"bench", "modes", "--json", "--rounds", "2", "--batch-size", "4", "--steps",
                     "2", "--threads", "2", "--report-json", "modes.json", "-o", "modes.svg"});
  const Json result = output.json();
  EXPECT_THAT(
      KeysOf(result),
      ::testing::UnorderedElementsAre(
          "ok", "exit_code", "verb", "pavise_bench_modes", "machine", "load_before", "tee_guest",
          "blas", "network", "data", "synthetic", "image", "classes", "batch_size", "steps",
          "rounds", "optimizer", "threads", "workers", "wire", "convolutions", "least_width",
          "micro_batches", "defaults", "modes", "keys_of", "notes"));
  EXPECT_EQ(result["pavise_bench_modes"], 1);
  EXPECT_EQ(result["network"], "mlp");
  EXPECT_EQ(result["data"], "synthetic noise");
  EXPECT_EQ(result["synthetic"], true);
  EXPECT_EQ(result["image"], Json({3, 32, 32}));
  const std::string notes = result["notes"].dump();
  EXPECT_THAT(notes, AllOf(HasSubstr("it trains nothing of use"), HasSubstr("not measured yet")));

  std::vector<std::string> names;
  for (const Json& mode : result["modes"]) {
    names.push_back(mode["name"]);
    SCOPED_TRACE(names.back());
    EXPECT_EQ(mode["key_releases"], 2);  // a trainer and a dataset
    EXPECT_THAT(mode["trusted"], Not(IsEmpty()));
    EXPECT_THAT(mode["leaks"].get<std::string>(), Not(IsEmpty()));
    if (mode["mode"] == "confidential-gpu") {
      EXPECT_THAT(mode["why_not"].get<std::string>(), Not(IsEmpty()));
      EXPECT_FALSE(mode.contains("seconds"));
      continue;
    }
    EXPECT_THAT(mode["why_not"], Json(nullptr));
    EXPECT_THAT(mode, SizeIs(26));
    const bool is_offloaded = mode["mode"] == "obfuscated";
    EXPECT_EQ(mode["images"], 8);
    EXPECT_EQ(mode["offloaded_layers"], is_offloaded ? 1 : 0);
    EXPECT_EQ(mode["seconds_all"].size(), 2u);
    EXPECT_EQ(mode["speed_to_tee_all"].size(), 2u);
    const double seconds = mode["seconds"];
    EXPECT_NEAR(mode["images_per_second"].get<double>() * seconds, 8, 1e-9);
    EXPECT_GT(mode["coordinator_cpu_seconds_per_image"].get<double>(), 0);
    EXPECT_EQ(mode["worker_cpu_seconds_per_image"].get<double>() > 0, is_offloaded);
    for (const char* bytes : {"sent_bytes", "received_bytes", "setup_sent_bytes"}) {
      EXPECT_EQ(mode[bytes].get<uint64_t>() > 0, is_offloaded) << bytes;
    }
    EXPECT_LT(mode["loss_difference"].get<double>(), 0.05);
    EXPECT_LT(mode["update_difference"].get<double>(), 0.5);  // of an MLP
  }
  EXPECT_THAT(
      names, ElementsAre("tee", "tee, 1 thread", "measured", "confidential-gpu", "obfuscated: none",
                         "obfuscated: tempo", "obfuscated: orthogonal", "obfuscated: shared"));
  const Json& modes = result["modes"];
  EXPECT_EQ(modes[0]["speed_to_tee"], 1.0);
  EXPECT_EQ(modes[0]["update_difference"], 0.0);
  EXPECT_EQ(modes[2]["update_difference"], 0.0);  // the same computation
  EXPECT_GT(modes[5]["update_difference"].get<double>(), 0.0);
  EXPECT_EQ(modes[4]["leaks"],
            "to each worker: inputs visible, weights visible, outputs visible, gradients visible");
  EXPECT_THAT(modes[7]["leaks"].get<std::string>(), HasSubstr("inputs uniform, weights uniform"));
  EXPECT_THAT(modes[7]["trusted"].dump(), HasSubstr("no two of the three workers share"));
  // Three workers are sent more than one.
  EXPECT_GT(modes[7]["sent_bytes"].get<uint64_t>(), modes[5]["sent_bytes"].get<uint64_t>());

  // What is written is what was printed, and a plan reads it.
  Json report = Json::parse(Read("modes.json"));
  EXPECT_EQ(report["modes"], result["modes"]);
  const std::string text = Read("modes.json");
  const auto figures = job::ParseFigures(AsBytes(text), "modes.json");
  ASSERT_TRUE(figures.ok()) << figures.status();
  EXPECT_THAT(figures->modes, SizeIs(7));
  const std::string svg = Read("modes.svg");
  for (const std::string& name : names) EXPECT_THAT(svg, HasSubstr(StrCat(">", name, "</text>")));
  EXPECT_THAT(svg, AllOf(HasSubstr("not offered here"), HasSubstr("images a second")));
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

TEST_F(BenchModesTest, ATableForPeople) {
  const std::string text = ExpectExit(0, {"bench", "modes", "--rounds", "1", "--batch-size", "4",
                                          "--steps", "1", "--threads", "1", "--modes",
                                          "tee,measured,obfuscated", "--schemes", "orthogonal"})
                               .out;
  EXPECT_THAT(text, AllOf(HasSubstr("IMAGES/S"), HasSubstr("WORKERS' MS"), HasSubstr("same bits"),
                          HasSubstr("obfuscated: orthogonal"), HasSubstr("leaks: to each worker"),
                          HasSubstr("synthetic noise"), HasSubstr("load before")));
  EXPECT_THAT(text, AllOf(Not(HasSubstr("tempo")), Not(HasSubstr("confidential-gpu")),
                          Not(HasSubstr("1 thread"))));
}

TEST_F(BenchModesTest, UsersData) {
  // 10 images for two steps of 4 and one before them: some come twice.
  std::string images("\0\0\x08\x03\0\0\0\x0a\0\0\0\x08\0\0\0\x08", 16);
  std::string labels("\0\0\x08\x01\0\0\0\x0a", 8);
  for (int image = 0; image < 10; ++image) {
    for (int pixel = 0; pixel < 64; ++pixel) {
      images.push_back(static_cast<char>(image * 19 + pixel * 7));
    }
    labels.push_back(static_cast<char>(image % 2));
  }
  for (const char* split : {"train", "t10k"}) {
    Write(StrCat("data/", split, "-images-idx3-ubyte"), images);
    Write(StrCat("data/", split, "-labels-idx1-ubyte"), labels);
  }
  const Json result =
      ExpectExit(0, Words({"--data", "data", "--modes", "tee", "--steps", "2", "--images", "9"}))
          .json();
  EXPECT_EQ(result["data"], "IDX");
  EXPECT_EQ(result["synthetic"], false);
  EXPECT_EQ(result["image"], Json({1, 8, 8}));
  EXPECT_THAT(result["notes"].dump(), Not(HasSubstr("it trains nothing of use")));
  EXPECT_THAT(result["modes"], SizeIs(1));
  EXPECT_THAT(ExpectExit(1, Words({"--data", "absent"})).reasons(), Contains("file-missing"));
}

TEST_F(BenchModesTest, WhatCannotBeMeasuredIsRefused) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--schemes", "rot13"},
                                             {"--schemes", ""},
                                             {"--schemes", "tempo,tempo"},
                                             {"--schemes", "tempo,"},
                                             {"--modes", "trusted"},
                                             {"--modes", "tee,tee"},
                                             {"--network", "mpl"},
                                             {"--steps", "0"},
                                             {"--steps", "1001"},
                                             {"--rounds", "0"},
                                             {"--rounds", "many"},
                                             {"--batch-size", "1"},
                                             {"--batch-size", "65536", "--steps", "4"},
                                             {"--images", "1"},
                                             {"--threads", "-1"},
                                             {"--wire", "int8"},
                                             {"--workers", "in-process:0"},
                                             {"--workers", "in-process:1@tpu"},
                                             {"--scheme", "tempo"}}) {
    EXPECT_THAT(ExpectExit(2, Words(words)).reasons(), ElementsAre("usage"))
        << ::testing::PrintToString(words);
  }
  EXPECT_THAT(ExpectExit(1, Words({"--job", "absent.yaml"})).reasons(), SizeIs(1));
  // Too few workers: that scheme is not offered, and the others are measured.
  const Json result =
      ExpectExit(0, Words({"--workers", "in-process:1", "--schemes", "none,shared"})).json();
  const Json& shared = result["modes"].back();
  EXPECT_EQ(shared["scheme"], "shared");
  EXPECT_THAT(shared["why_not"].get<std::string>(), Not(IsEmpty()));
  EXPECT_EQ(result["modes"][result["modes"].size() - 2]["why_not"], Json(nullptr));
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

TEST(ModePlotTest, SurvivesAnyTextAndNoFigures) {
  const std::string svg = RenderModePlot({"<title> & \"quotes\"",
                                          {"a\x1b[31m ]]> \xff"},
                                          {{"a<b", "", 1e-3, 1e6, 0.0}, {"c", "d&e"}}});
  EXPECT_EQ(svg.find('\x1b'), std::string::npos);
  EXPECT_THAT(svg, AllOf(HasSubstr("a&lt;b"), HasSubstr("d&amp;e")));
  EXPECT_THAT(RenderModePlot({"none", {}, {}}), HasSubstr("</svg>"));
}

}  // namespace
}  // namespace pavise::cli
