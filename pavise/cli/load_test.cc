// `pavise load` and `pavise verify --device`: hashing in the memory of a device.

#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/hash/opencl/opencl_device.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class LoadTest : public testing::CommandTest {
 protected:
  void SetUp() override {
    MakeSignedModel();
    devices_ = {"cpu"};
    if (!hash::ListOpenClDevices().empty()) devices_.push_back("opencl:0");
  }

  std::vector<std::string> Command(const std::string& verb, const std::string& device,
                                   std::vector<std::string> more = {}) const {
    std::vector<std::string> words = {verb, "model", "--public-key", "key.pub", "--device", device};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }

  std::vector<std::string> devices_;
};

TEST_F(LoadTest, SaysWhatLiesWhere) {
  for (const std::string& device : devices_) {
    SCOPED_TRACE(device);
    const testing::CommandOutput people = ExpectExit(0, Command("load", device));
    EXPECT_THAT(people.error, IsEmpty());
    for (const char* part : {"OK: model is in memory and is what was signed", "signed by",
                             "blake3-annotation", "3 files", "device", "channel", "sampled"}) {
      EXPECT_THAT(people.out, HasSubstr(part));
    }
    const Json object = ExpectExit(0, Command("load", device, {"--json"})).json();
    EXPECT_EQ(object["verb"], "load");
    EXPECT_EQ(object["channel"], device == "cpu" ? "host-memory" : "plain");
    EXPECT_FALSE(object["channel_because"].get<std::string>().empty());
    EXPECT_EQ(object["read_by"], Json::array({device == "cpu" ? "read" : "read, copied"}));
    EXPECT_GT(object["answers_sampled"].get<int>(), 0);
    EXPECT_GT(object["tensors_loaded"].get<int>(), 1);
    EXPECT_EQ(object["partial"], false);
  }
}

TEST_F(LoadTest, OnlyTheTensorsThatWereAskedFor) {
  for (const std::string& device : devices_) {
    SCOPED_TRACE(device);
    const Json object =
        ExpectExit(0, Command("load", device, {"--tensors", "b.weight", "--json"})).json();
    EXPECT_EQ(object["tensors_loaded"], 1);
    EXPECT_EQ(object["partial"], true);
    EXPECT_THAT(ExpectExit(1, Command("load", device, {"--tensors", "none", "--json"})).reasons(),
                Contains("file-missing"));
  }
}

TEST_F(LoadTest, AShareOfATensor) {
  for (const std::string& device : devices_) {
    SCOPED_TRACE(device);
    const std::vector<std::string> more = {"--slice",   "b.*:0",  "--rank", "3/4",
                                           "--tensors", "c.bias", "--json"};
    const Json object = ExpectExit(0, Command("load", device, more)).json();
    EXPECT_EQ(object["tensors_loaded"], 2);
    EXPECT_EQ(object["partial"], true);
    ASSERT_EQ(object["slices"].size(), 1u);
    const Json& share = object["slices"][0];
    EXPECT_EQ(share["tensor"], "b.weight");
    EXPECT_EQ(share["rank"], 3);
    EXPECT_EQ(share["shape"], Json::array({100'000}));
    EXPECT_EQ(share["end_bytes"].get<uint64_t>() - share["begin_bytes"].get<uint64_t>(), 400'000u);
  }
  EXPECT_THAT(ExpectExit(0, Command("load", "cpu", {"--slice", "b.*:0", "--rank", "0/2"})).out,
              HasSubstr("rank 0 of 2, 1 share: b.weight [200000] along 0"));
  EXPECT_THAT(ExpectExit(1, Command("load", "cpu", {"--slice", "b.*:0", "--rank", "0/7", "--json"}))
                  .reasons(),
              Contains("unsupported"));
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{"--slice", "b.*:0"},
                                             {"--rank", "0/2"},
                                             {"--slice", "b.*:0", "--rank", "2/2"},
                                             {"--slice", "b.*:0", "--rank", "1"},
                                             {"--slice", "b.*", "--rank", "0/2"},
                                             {"--slice", "b.*:x", "--rank", "0/2"},
                                             {"--slice", ":0", "--rank", "0/2"}}) {
    ExpectExit(2, Command("load", "cpu", wrong));
  }
}

TEST_F(LoadTest, AWeakerChannelOrAMissingReaderIsRefused) {
  size_t refused = 0;
  for (const std::string& device : devices_) {
    SCOPED_TRACE(device);
    ExpectExit(0, Command("load", device, {"--channel", "plain", "--gds", "off"}));
    for (const char* channel : {"confidential-gpu", "host-memory"}) {
      const std::vector<std::string> words =
          Command("load", device, {"--channel", channel, "--json"});
      if (device == "cpu") {  // nothing crosses a bus
        ExpectExit(0, words);
        continue;
      }
      EXPECT_THAT(ExpectExit(1, words).reasons(), Contains("unsupported"));
      ++refused;
    }
    EXPECT_THAT(ExpectExit(1, Command("load", device, {"--gds", "on", "--json"})).reasons(),
                Contains("unsupported"));
    ++refused;
  }
  EXPECT_EQ(refused, 3 * devices_.size() - 2);
  ExpectExit(2, Command("load", "cpu", {"--channel", "secret"}));
  ExpectExit(2, Command("load", "cpu", {"--gds", "maybe"}));
}

TEST_F(LoadTest, AChangedByteIsRefusedOnEveryDevice) {
  FlipBit("model/model.safetensors", 1'500'000);
  for (const std::string& device : devices_) {
    SCOPED_TRACE(device);
    for (const char* verb : {"load", "verify"}) {
      const testing::CommandOutput output = ExpectExit(1, Command(verb, device, {"--json"}));
      EXPECT_THAT(output.reasons(), Contains("content-mismatch"));
      EXPECT_EQ(output.json()["error"], "model does not match its signature");
    }
  }
}

TEST_F(LoadTest, VerifyTakesEveryDevice) {
  for (const std::string& device : devices_) {
    SCOPED_TRACE(device);
    const Json object = ExpectExit(0, Command("verify", device, {"--json"})).json();
    EXPECT_EQ(object["device"].get<std::string>().starts_with("CPU"), device == "cpu");
    EXPECT_EQ(object.contains("answers_sampled"), device != "cpu");
    ExpectExit(0, Command("verify", device, {"--all-digests"}));
    ExpectExit(0, Command("verify", device, {"--oms-digests-only"}));
  }
}

TEST_F(LoadTest, TheGuardReportsWhatItChecked) {
  for (const char* hash : {"tag", "blake3"}) {
    SCOPED_TRACE(hash);
    const std::vector<std::string> guard = {"--guard", "--guard-hash",    hash, "--guard-share",
                                            "100",     "--guard-seconds", "1"};
    const testing::CommandOutput people = ExpectExit(0, Command("load", "cpu", guard));
    for (const char* part : {"guard", "nothing changed", "unseen"}) {
      EXPECT_THAT(people.out, HasSubstr(part));
    }
    std::vector<std::string> as_json = guard;
    as_json.push_back("--json");
    const Json object = ExpectExit(0, Command("load", "cpu", as_json)).json()["guard"];
    EXPECT_EQ(object["hash"], hash);
    EXPECT_GT(object["ranges"].get<int>(), 3);
    for (const char* number : {"passes_completed", "coverage", "longest_unchecked_seconds",
                               "now_unchecked_seconds", "share_of_time", "samples"}) {
      EXPECT_TRUE(object[number].is_number()) << number;
    }
  }
  for (const std::string& device : devices_) {
    for (const char* hash : {"tag", "blake3"}) {
      const testing::CommandOutput output =
          ExpectExit(0, Command("load", device,
                                {"--guard", "--guard-hash", hash, "--guard-share", "100",
                                 "--guard-seconds", "1", "--json"}));
      EXPECT_EQ(output.json()["guard"]["hash"], hash) << device;
    }
  }
}

TEST_F(LoadTest, GuardOptionsThatMakeNoSense) {
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--guard-seconds", "1"},
                                             {"--guard", "--guard-share", "0"},
                                             {"--guard", "--guard-share", "101"},
                                             {"--guard", "--guard-share", "nan"},
                                             {"--guard", "--guard-seconds", "-1"},
                                             {"--guard", "--guard-hash", "md5"}}) {
    ExpectExit(2, Command("load", "cpu", more));
  }
}

TEST_F(LoadTest, DevicesThatAreNotThereAreRefused) {
  for (const char* verb : {"load", "verify"}) {
    EXPECT_THAT(ExpectExit(1, Command(verb, "opencl:99", {"--json"})).reasons(),
                Contains("unsupported"));
    EXPECT_THAT(ExpectExit(2, Command(verb, "abacus")).error, HasSubstr("abacus"));
  }
  ExpectExit(2, Command("load", "cpu", {"--sampled-answers", "many"}));
}

}  // namespace
}  // namespace pavise::cli
