#include <sys/stat.h>

#include "pavise/base/strings.h"
#include "pavise/cli/testing/command.h"
#include "pavise/crypto/keys.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

class KeygenTest : public testing::CommandTest {
 protected:
  mode_t ModeOf(const std::string& name) const {
    struct stat status = {};
    EXPECT_EQ(stat(Path(name).c_str(), &status), 0);
    return status.st_mode & 07777;
  }
};

TEST_F(KeygenTest, WritesAKeyPairOfEachCurve) {
  for (const auto& [curve, type] :
       {std::pair("p256", crypto::KeyType::kEcP256), std::pair("p384", crypto::KeyType::kEcP384),
        std::pair("p521", crypto::KeyType::kEcP521)}) {
    const std::string name = StrCat("key-", curve);
    const Json result =
        ExpectExit(0, {"keygen", "-o", name + ".pem", "--curve", curve, "--json"}).json();
    EXPECT_EQ(result["public_key"], name + ".pub");
    EXPECT_EQ(result["encrypted"], false);
    EXPECT_EQ(ModeOf(name + ".pem"), 0600u);
    const auto public_key = crypto::PublicKey::FromPem(Read(name + ".pub"), "public");
    ASSERT_TRUE(public_key.ok()) << public_key.status();
    EXPECT_EQ(public_key->type(), type);
    EXPECT_EQ(public_key->Fingerprint(), result["key_sha256"].get<std::string>());
    const auto private_key =
        crypto::PrivateKey::FromPem(SecretBytes(Read(name + ".pem")), SecretBytes(), "private");
    ASSERT_TRUE(private_key.ok()) << private_key.status();
    EXPECT_EQ(private_key->public_key(), *public_key);
  }
}

TEST_F(KeygenTest, ThePrivateKeyIsPrivateUnderAnyUmask) {
  const mode_t before = umask(0);
  ExpectExit(0, {"keygen", "-o", "key.pem"});
  umask(before);
  EXPECT_EQ(ModeOf("key.pem"), 0600u);
}

TEST_F(KeygenTest, NeverOverwritesUnasked) {
  Write("key.pub", "mine");
  EXPECT_THAT(ExpectExit(2, {"keygen", "-o", "key.pem"}).error, HasSubstr("--force"));
  EXPECT_FALSE(Exists("key.pem"));
  EXPECT_EQ(Read("key.pub"), "mine");
  ExpectExit(0, {"keygen", "-o", "key.pem", "--force"});
  EXPECT_THAT(Read("key.pub"), StartsWith("-----BEGIN PUBLIC KEY"));
}

TEST_F(KeygenTest, EncryptsUnderAPassword) {
  Write("password.txt", "correct horse\n");
  const Json result =
      ExpectExit(0, {"keygen", "-o", "key.pem", "--password-file", "password.txt", "--json"})
          .json();
  EXPECT_EQ(result["encrypted"], true);
  EXPECT_THAT(Read("key.pem"), StartsWith("-----BEGIN ENCRYPTED PRIVATE KEY"));
  EXPECT_TRUE(crypto::PrivateKey::FromPem(SecretBytes(Read("key.pem")),
                                          SecretBytes(std::string_view("correct horse")), "key")
                  .ok());
  EXPECT_FALSE(
      crypto::PrivateKey::FromPem(SecretBytes(Read("key.pem")), SecretBytes(), "key").ok());
}

TEST_F(KeygenTest, RefusesOddPasswordFiles) {
  Write("empty.txt", "\n");
  Write("lines.txt", "one\ntwo\n");
  Write("long.txt", std::string(5000, 'x'));
  for (const char* file : {"empty.txt", "lines.txt", "long.txt", "absent.txt"}) {
    ExpectExit(1, {"keygen", "-o", "key.pem", "--password-file", file});
    EXPECT_FALSE(Exists("key.pem")) << file;
    EXPECT_FALSE(Exists("key.pub")) << file;
  }
}

TEST_F(KeygenTest, WritesNothingWhereItCannotWriteBoth) {
  ExpectExit(1, {"keygen", "-o", "absent/key.pem"});
  ExpectExit(2, {"keygen", "-o", "key.pem", "--curve", "secp256k1"});
  ExpectExit(2, {"keygen"});
  EXPECT_FALSE(Exists("key.pem"));
  EXPECT_THAT(TemporaryFiles(), IsEmpty());
}

}  // namespace
}  // namespace pavise::cli
