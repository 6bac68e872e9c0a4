// `pavise bench` as its users run it, and its plot.

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/rate_plot.h"
#include "pavise/cli/testing/command.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

const std::vector<std::string> kMeasures = {"blake3", "blake3-1MiB", "sha256-1MiB", "sha384-1MiB",
                                            "tag",    "tag-2-keys",  "copy"};

class BenchTest : public testing::CommandTest {
 protected:
  std::vector<std::string> Hash(std::vector<std::string> more) const {
    std::vector<std::string> words = {"bench", "hash", "--seconds", "0", "--json"};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
};

TEST_F(BenchTest, EveryMeasureOfEverySizeIsThereAndChecked) {
  const Json object = ExpectExit(0, Hash({"--sizes", "1MiB,3MiB"})).json();
  EXPECT_EQ(object["points_measured"], 14u);
  EXPECT_EQ(object["points_left"], 0u);
  EXPECT_THAT(object["left_out"], IsEmpty());
  std::set<std::pair<std::string, uint64_t>> seen;
  for (const Json& entry : object["results"]) {
    const uint64_t size_bytes = entry["size_bytes"].get<uint64_t>();
    const std::string measure = entry["measure"].get<std::string>();
    seen.emplace(measure, size_bytes);
    EXPECT_EQ(entry["device"], "cpu");
    EXPECT_GT(entry["gigabytes_per_second"].get<double>(), 0);
    EXPECT_GT(entry["answers"].get<uint64_t>(), 0u);
    EXPECT_EQ(entry["answers_checked"], entry["answers"]) << measure;
    EXPECT_EQ(entry["runs"], 3u);
    EXPECT_EQ(entry["upload_ns"], 0u);  // the memory is the host's
  }
  EXPECT_EQ(seen.size(), 14u);
  for (const std::string& measure : kMeasures) {
    EXPECT_TRUE(seen.contains({measure, uint64_t{1} << 20})) << measure;
    EXPECT_TRUE(seen.contains({measure, uint64_t{3} << 20})) << measure;
  }
  // A size at which nearly all of the time is the call's own does not stop the next.
  EXPECT_EQ(ExpectExit(0, Hash({"--sizes", "17,1MiB"})).json()["points_measured"], 14u);
  const std::string text =
      ExpectExit(0, {"bench", "hash", "--seconds", "0", "--sizes", "3MiB"}).out;
  EXPECT_THAT(text, HasSubstr("ANSWERS CHECKED"));
  EXPECT_THAT(text, HasSubstr("6 of 6"));  // two tags of each of three ranges
}

TEST_F(BenchTest, Usage) {
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--sizes", "0"},
                                             {"--sizes", "65GiB"},
                                             {"--sizes", "99999TB"},
                                             {"--sizes", "1MiB,1MiB"},
                                             {"--sizes", "1MiB,"},
                                             {"--seconds", "nan"},
                                             {"--seconds", "-1"},
                                             {"--device", ""},
                                             {"--device", "gpu"},
                                             {"--device", "opencl"},
                                             {"--device", "cpu:1"},
                                             {"--device", "cpu,cpu"},
                                             {"--device", "cpu,"}}) {
    EXPECT_THAT(ExpectExit(2, Hash(words)).reasons(), ElementsAre("usage"));
  }
  for (const char* device : {"opencl:999", "cuda:999", "cpu,cuda:999"}) {
    EXPECT_THAT(ExpectExit(1, Hash({"--sizes", "17", "--device", device})).reasons(),
                ElementsAre("unsupported"));
  }
}

TEST_F(BenchTest, ResumeGoesOnWhereItStopped) {
  const Json begun = ExpectExit(0, Hash({"--sizes", "1MiB", "--resume", "points.json"})).json();
  EXPECT_EQ(begun["points_measured"], 7u);
  const Json again =
      ExpectExit(0, Hash({"--sizes", "1MiB,2MiB", "--resume", "points.json"})).json();
  EXPECT_EQ(again["points_measured"], 7u);
  EXPECT_EQ(again["results"].size(), 14u);
  // What was measured before is what was measured then.
  for (size_t i = 0; i < begun["results"].size(); ++i) {
    EXPECT_EQ(again["results"][i], begun["results"][i]);
  }
  // A measure that is missing is the only one that is measured.
  Json file = Json::parse(Read("points.json"));
  ASSERT_EQ(file["points"].size(), 14u);
  file["points"].erase(3);
  Write("points.json", file.dump());
  EXPECT_EQ(ExpectExit(0, Hash({"--sizes", "1MiB,2MiB", "--resume", "points.json"}))
                .json()["points_measured"],
            1u);
  // Out of time before it began: nothing is measured, and that is said.
  const Json stopped =
      ExpectExit(0, Hash({"--sizes", "1MiB,4MiB", "--resume", "points.json", "--stop-after", "0"}))
          .json();
  EXPECT_EQ(stopped["points_measured"], 0u);
  EXPECT_EQ(stopped["points_left"], 7u);
  EXPECT_EQ(stopped["results"].size(), 7u);
}

TEST_F(BenchTest, AResumeFileOfSomethingElseIsRefused) {
  ExpectExit(0, Hash({"--sizes", "17", "--resume", "points.json"}));
  const std::string good = Read("points.json");
  const Json parsed = Json::parse(good);
  const auto refused = [&](const Json& file) {
    Write("points.json", file.dump());
    const testing::CommandOutput output =
        ExpectExit(1, Hash({"--sizes", "17", "--resume", "points.json"}));
    EXPECT_EQ(Read("points.json"), file.dump());  // and it stays as it was
    return output.reasons();
  };
  size_t cases = 0;
  for (const char* member : {"pavise", "machine", "format", "seconds"}) {
    Json other = parsed;
    other["measured_by"][member] = "another";
    EXPECT_THAT(refused(other), ElementsAre("unsupported")) << member;
    ++cases;
  }
  Json device = parsed;
  device["measured_by"]["devices"]["cpu"] = "CPU, another";
  EXPECT_THAT(refused(device), ElementsAre("unsupported"));
  Json more = parsed;
  more["measured_by"]["devices"]["cuda:0"] = "a GPU";
  EXPECT_THAT(refused(more), ElementsAre("unsupported"));
  Json unknown = parsed;
  unknown["points"][0]["measure"] = "md5";
  EXPECT_THAT(refused(unknown), ElementsAre("malformed"));
  Json twice = parsed;
  twice["points"].push_back(parsed["points"][0]);
  EXPECT_THAT(refused(twice), ElementsAre("malformed"));
  Json timeless = parsed;
  timeless["points"][0]["median_ns"] = 0;
  EXPECT_THAT(refused(timeless), ElementsAre("malformed"));
  Json extra = parsed;
  extra["points"][0]["note"] = "";
  EXPECT_THAT(refused(extra), ElementsAre("malformed"));
  EXPECT_THAT(refused(Json("text")), ElementsAre("malformed"));
  cases += 7;
  EXPECT_EQ(cases, 11u);
  // Another number of threads is another device.
  Write("points.json", good);
  EXPECT_THAT(ExpectExit(1, Hash({"--sizes", "17", "--resume", "points.json", "--threads", "1000"}))
                  .reasons(),
              ElementsAre("unsupported"));
  ExpectExit(0, Hash({"--sizes", "17", "--resume", "points.json"}));
}

TEST_F(BenchTest, ADeviceOfItsOwnMemory) {
  const testing::CommandOutput measured =
      Pavise(Hash({"--sizes", "1MiB", "--device", "cpu,opencl:0", "--plot", "rates.svg"}));
  if (measured.exit_code == 1) {
    EXPECT_THAT(measured.reasons(), ElementsAre("unsupported"));
    GTEST_SKIP() << "no OpenCL device";
  }
  ASSERT_EQ(measured.exit_code, 0) << measured.error;
  const Json object = measured.json();
  EXPECT_EQ(object["results"].size(), 14u);
  EXPECT_THAT(object["devices"]["opencl:0"].get<std::string>(), StartsWith("OpenCL "));
  EXPECT_GT(object["results"][7]["upload_ns"].get<uint64_t>(), 0u);
  EXPECT_THAT(ExpectExit(2, Hash({"--sizes", "17", "--device", "opencl:0", "--threads", "2"})).out,
              HasSubstr("--threads"));
  const std::string svg = Read("rates.svg");
  for (const std::string& measure : kMeasures) {
    for (const char* device : {"cpu", "opencl:0"}) {
      EXPECT_THAT(svg, HasSubstr(StrCat("<title>", measure, ", ", device, "</title>")));
    }
  }
}

// Parses as XML, in another program; how often each element occurs there, one a line.
testing::CommandOutput Elements(const std::string& path, const testing::CommandSetting& setting) {
  return testing::RunProgram(
      {"python3", "-c",
       "import sys, collections, xml.etree.ElementTree as x\n"
       "c = collections.Counter(e.tag.split('}')[1] for e in x.parse(sys.argv[1]).iter())\n"
       "print(c['svg'], c['desc'], c['title'], c['rect'])",
       path},
      setting);
}

TEST_F(BenchTest, ThePlotIsWellFormedAndHoldsEverySeries) {
  ExpectExit(0, Hash({"--sizes", "1MiB,3MiB", "--plot", "rates.svg"}));
  const std::string svg = Read("rates.svg");
  for (const std::string& measure : kMeasures) {
    EXPECT_THAT(svg, HasSubstr(StrCat("<title>", measure, ", cpu</title>")));
    EXPECT_THAT(svg, HasSubstr(StrCat(">", measure, "</text>")));  // the legend
  }
  EXPECT_THAT(svg, HasSubstr("GB/s"));
  EXPECT_THAT(svg, HasSubstr(">size (bytes)</text>"));
  EXPECT_THAT(svg, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
  if (!crypto::testing::HasProgram("python3")) GTEST_SKIP() << "python3 is not installed";
  const testing::CommandOutput parsed = Elements(Path("rates.svg"), setting_);
  ASSERT_EQ(parsed.exit_code, 0) << parsed.error;
  EXPECT_EQ(parsed.out, "1 1 8 2\n");  // the picture's title and seven lines'; page and frame
}

TEST_F(BenchTest, APlotSurvivesAnyText) {
  const RatePlot plot = {"<title> & \"quotes\"",
                         {"a device\x1b[31m called ]]> \xff"},
                         {"cpu", "a<b"},
                         {{0, "x&y", {{1, 1e-6}, {uint64_t{64} << 30, 5e3}}}, {1, "empty", {}}}};
  const std::string svg = RenderRatePlot(plot);
  EXPECT_EQ(svg.find('\x1b'), std::string::npos);
  EXPECT_THAT(svg, HasSubstr("x&amp;y"));
  Write("any.svg", svg);
  Write("none.svg", RenderRatePlot({"nothing was measured", {}, {}, {}}));
  if (!crypto::testing::HasProgram("python3")) GTEST_SKIP() << "python3 is not installed";
  EXPECT_EQ(Elements(Path("any.svg"), setting_).out, "1 1 2 3\n");
  EXPECT_EQ(Elements(Path("none.svg"), setting_).out, "1 1 1 2\n");
}

TEST(RatePlotTest, SizesAreExact) {
  EXPECT_EQ(SizeLabel(1), "1 B");
  EXPECT_EQ(SizeLabel(1000), "1000 B");
  EXPECT_EQ(SizeLabel(3u << 20), "3 MiB");
  EXPECT_EQ(SizeLabel(uint64_t{64} << 30), "64 GiB");
  EXPECT_EQ(SizeLabel((uint64_t{1} << 30) + 1024), "1048577 KiB");
}

TEST_F(BenchTest, Load) {
  const Json object = ExpectExit(0, {"bench", "load", "--size", "3MiB", "--repeats", "2",
                                     "--seconds", "0", "--json"})
                          .json();
  EXPECT_EQ(object["size_bytes"], uint64_t{3} << 20);
  EXPECT_EQ(object["verified_to_unverified_all"].size(), 2u);
  EXPECT_EQ(object["guard_slowdown_all"].size(), 2u);
  EXPECT_GT(object["verified_seconds"].get<double>(), 0);
  EXPECT_GT(object["resident_seconds"].get<double>(), 0);
  EXPECT_EQ(object["guard_hash"], "tag");
  // The model is gone with the run.
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  for (const std::vector<std::string>& words :
       std::vector<std::vector<std::string>>{{"--size", "0"},
                                             {"--size", "129GiB"},
                                             {"--repeats", "0"},
                                             {"--seconds", "nan"},
                                             {"--device", "gpu"}}) {
    std::vector<std::string> command = {"bench", "load", "--json"};
    command.insert(command.end(), words.begin(), words.end());
    ExpectExit(2, command);
  }
  ExpectExit(1, {"bench", "load", "--directory", "absent"});
}

}  // namespace
}  // namespace pavise::cli
