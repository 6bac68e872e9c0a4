// `pavise inspect` and `pavise diff`: reading signatures without the model.

#include "pavise/cli/testing/command.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class InspectTest : public testing::CommandTest {
 protected:
  void SetUp() override { MakeSignedModel(); }
};

TEST_F(InspectTest, SaysThatNothingIsVerified) {
  const testing::CommandOutput output = ExpectExit(0, {"inspect", "model.sig"});
  EXPECT_THAT(output.out, StartsWith("NOT VERIFIED"));
  EXPECT_THAT(output.out, HasSubstr("model.safetensors"));
  EXPECT_THAT(output.out, HasSubstr("3 tensors"));
  EXPECT_THAT(output.out, Not(HasSubstr("b.weight")));
  const Json object = ExpectExit(0, {"inspect", "model.sig", "--json"}).json();
  EXPECT_EQ(object["verified"], false);
  EXPECT_TRUE(object["signer"].is_null());
  EXPECT_EQ(object["tensors"], 3);
}

TEST_F(InspectTest, VerifiesTheSignatureFirstWhenToldWhomToTrust) {
  const testing::CommandOutput output =
      ExpectExit(0, {"inspect", "model.sig", "--public-key", "key.pub"});
  EXPECT_THAT(output.out, StartsWith("OK: "));
  EXPECT_THAT(output.out, Not(HasSubstr("NOT VERIFIED")));
  const Json object =
      ExpectExit(0, {"inspect", "model.sig", "--public-key", "key.pub", "--json"}).json();
  EXPECT_EQ(object["verified"], true);
  EXPECT_EQ(object["signer"]["method"], "key");

  MakeKey("p256", "other");
  ExpectExit(1, {"inspect", "model.sig", "--public-key", "other.pub"});
  Json bundle = Json::parse(Read("model.sig"));
  std::string payload = bundle["dsseEnvelope"]["payload"];
  payload[40] = payload[40] == 'A' ? 'B' : 'A';
  bundle["dsseEnvelope"]["payload"] = payload;
  Write("model.sig", bundle.dump());
  EXPECT_THAT(
      ExpectExit(1, {"inspect", "model.sig", "--public-key", "key.pub", "--json"}).reasons(),
      ElementsAre("signature-invalid"));
}

TEST_F(InspectTest, ListsTensors) {
  EXPECT_THAT(ExpectExit(0, {"inspect", "model.sig", "--tensors"}).out,
              HasSubstr("F32    [400000]  1600000"));
  const Json object = ExpectExit(0, {"inspect", "model.sig", "--tensors", "--json"}).json();
  for (const Json& resource : object["resources"]) {
    if (resource["name"] == "model.safetensors") {
      EXPECT_EQ(resource["tensors"].size(), 3u);
      EXPECT_EQ(resource["tensors"][1]["shape"], Json::parse("[400000]"));
    }
  }
}

TEST_F(InspectTest, RefusesWhatIsNoSignature) {
  ExpectExit(1, {"inspect", "model/config.json"});
  ExpectExit(1, {"inspect", "absent.sig"});
  ExpectExit(1, {"inspect", "model"});
  ExpectExit(2, {"inspect"});
  ExpectExit(2, {"inspect", "model.sig", "--model-name", "model"});
  Write("trust.yaml",
        "version: 1\nmodels:\n  - model: \"*\"\n    signers:\n      - key: key.pub\n");
  ExpectExit(2, {"inspect", "model.sig", "--trust", "trust.yaml"});
  ExpectExit(0, {"inspect", "model.sig", "--trust", "trust.yaml", "--model-name", "model"});
}

TEST_F(InspectTest, Diff) {
  const Json same = ExpectExit(0, {"diff", "model.sig", "model.sig", "--json"}).json();
  EXPECT_EQ(same["identical"], true);
  EXPECT_EQ(same["tensors_unchanged"], 3);

  Write(
      "model/model.safetensors",
      testing::SafetensorsBytes({{"a.weight", 300'000}, {"b.weight", 400'000}, {"d.bias", 50}}, 1));
  Write("model/new.txt", "new");
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem", "--signature", "new.sig"});
  const Json object = ExpectExit(0, {"diff", "model.sig", "new.sig", "--json"}).json();
  EXPECT_EQ(object["identical"], false);
  EXPECT_EQ(object["verified"], false);
  EXPECT_EQ(object["tensors_unchanged"], 2);
  std::vector<std::string> changes;
  for (const char* kind : {"files", "tensors"}) {
    for (const Json& entry : object[kind]) {
      changes.push_back(entry["change"].get<std::string>() + " " +
                        entry["name"].get<std::string>());
    }
  }
  EXPECT_THAT(changes, ::testing::UnorderedElementsAre("changed model.safetensors", "added new.txt",
                                                       "added d.bias", "removed c.bias"));
  const testing::CommandOutput text = ExpectExit(0, {"diff", "model.sig", "new.sig"});
  EXPECT_THAT(text.out, HasSubstr("NOT VERIFIED"));
  EXPECT_THAT(text.out, HasSubstr("Tensors: 1 added, 1 removed, 0 changed, 2 unchanged"));
  EXPECT_EQ(ExpectExit(0, {"diff", "model.sig", "new.sig", "--public-key", "key.pub", "--json"})
                .json()["verified"],
            true);
  MakeKey("p256", "other");
  ExpectExit(1, {"diff", "model.sig", "new.sig", "--public-key", "other.pub"});
  ExpectExit(2, {"diff", "model.sig"});
}

}  // namespace
}  // namespace pavise::cli
