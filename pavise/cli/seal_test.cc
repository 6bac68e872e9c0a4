// `pavise seal` and `pavise unseal`, as their users run them.

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class SealTest : public testing::CommandTest {
 protected:
  SealTest() {
    MakeSignedModel();
    MakeKey("p256", "reader");
  }
};

TEST_F(SealTest, ASealedModelStillVerifies) {
  const Json sealed = ExpectExit(0, {"seal", "model", "-o", "m.sealed", "--recipient", "reader.pub",
                                     "--signature", "model.sig", "--name", "llm", "--json"})
                          .json();
  EXPECT_EQ(sealed["recipients"].size(), 1u);
  EXPECT_EQ(sealed["name"], "llm");
  EXPECT_THAT(Read("m.sealed"), Not(HasSubstr("safetensors")));
  const Json unsealed =
      ExpectExit(0, {"unseal", "m.sealed", "-o", "out", "--private-key", "reader.pem", "--json"})
          .json();
  EXPECT_EQ(unsealed["asset_id"], sealed["asset_id"]);
  EXPECT_EQ(unsealed["statement_sha256"], sealed["statement_sha256"]);
  EXPECT_EQ(unsealed["signature"], "out.sig");
  ExpectExit(0, {"verify", "out", "--signature", "out.sig", "--public-key", "key.pub"});
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

TEST_F(SealTest, OthersAndChangedFilesAreRefused) {
  ExpectExit(0, {"seal", "model", "-o", "m.sealed", "--recipient", "reader.pub"});
  MakeKey("p256", "other");
  EXPECT_THAT(
      ExpectExit(1, {"unseal", "m.sealed", "-o", "out", "--private-key", "other.pem", "--json"})
          .reasons(),
      ElementsAre("key-mismatch"));
  ExpectExit(2, {"unseal", "m.sealed", "-o", "model", "--private-key", "reader.pem"});
  FlipBit("m.sealed", Read("m.sealed").size() - 100);
  EXPECT_THAT(
      ExpectExit(1, {"unseal", "m.sealed", "-o", "out", "--private-key", "reader.pem", "--json"})
          .reasons(),
      ElementsAre("content-mismatch"));
  EXPECT_FALSE(Exists("out"));
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

TEST_F(SealTest, OneFileKeepsItsName) {
  Write("table.csv", "1,2,3\n");
  ExpectExit(0, {"seal", "table.csv", "-o", "t.sealed", "--recipient", "reader.pub", "--recipient",
                 "key.pub", "--hide-names"});
  EXPECT_THAT(Read("t.sealed"), Not(HasSubstr("table")));
  ExpectExit(0, {"unseal", "t.sealed", "-o", "out", "--private-key", "key.pem"});
  EXPECT_EQ(Read("out/table.csv"), "1,2,3\n");
}

TEST_F(SealTest, OptionsThatMakeNoSense) {
  ExpectExit(2, {"seal", "model", "-o", "m.sealed"});
  ExpectExit(2, {"seal", "model", "-o", "m.sealed", "--recipient", "reader.pub", "--name", "x",
                 "--hide-names"});
  MakeKey("ed25519", "signer");
  EXPECT_THAT(
      ExpectExit(1, {"seal", "model", "-o", "m.sealed", "--recipient", "signer.pub", "--json"})
          .reasons(),
      ElementsAre("key-unsupported"));
  // A signature that is none, and a key that opens nothing.
  EXPECT_THAT(ExpectExit(1, {"seal", "model", "-o", "m.sealed", "--recipient", "reader.pub",
                             "--signature", "key.pub", "--json"})
                  .reasons(),
              ElementsAre("malformed"));
  EXPECT_FALSE(Exists("m.sealed"));
}

}  // namespace
}  // namespace pavise::cli
