#include "pavise/broker/root_key.h"

#include <sys/stat.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/testing/test_databases.h"
#include "pavise/crypto/secret_sharing.h"
#include "pavise/evidence/testing/swtpm.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using ::testing::HasSubstr;
using testing::TestRootKey;

class RootKeyTest : public ::testing::Test {
 protected:
  StoreOptions Options(bool create = false) {
    StoreOptions options;
    options.location = directory_ / "store.db";
    options.create = create;
    return options;
  }
  bool Holds(const SecretBytes& key, BrokerTpm* tpm = nullptr,
             std::span<const SecretBytes> shares = {}) {
    const auto keys = LoadRootKeys(path_, tpm, shares);
    return keys.ok() && keys->current.has_value() && keys->current->Equals(key) &&
           !keys->next.has_value();
  }

  pavise::testing::TemporaryDirectory directory_;
  const std::string path_ = directory_ / "root.key";
};

TEST_F(RootKeyTest, FileIsItsOwnersAlone) {
  const auto key = NewRootKey();
  ASSERT_TRUE(key.ok()) << key.status();
  EXPECT_EQ(key->size_bytes(), kRootKeyBytes);
  ASSERT_TRUE(SaveRootKey(path_, *key, {}).ok());
  EXPECT_TRUE(Holds(*key));
  struct stat status;
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  // Never written over.
  EXPECT_EQ(ExitCodeOf(SaveRootKey(path_, TestRootKey(1), {})), 2);
  EXPECT_TRUE(Holds(*key));
  for (const mode_t mode : {0640, 0604, 0620}) {
    ASSERT_EQ(chmod(path_.c_str(), mode), 0);
    EXPECT_EQ(ReasonOf(LoadRootKeys(path_, nullptr, {}).status()), Reason::kPlatformInsecure);
  }
  EXPECT_EQ(ReasonOf(LoadRootKeys(directory_ / "absent", nullptr, {}).status()),
            Reason::kFileUnreadable);
  EXPECT_EQ(ExitCodeOf(SaveRootKey(directory_ / "short", SecretBytes(Bytes(31)), {})), 2);
}

TEST_F(RootKeyTest, MalformedFilesAreRefused) {
  const std::vector<std::pair<std::string, Reason>> files = {
      {"", Reason::kMalformed},
      {"{}", Reason::kMalformed},
      {R"({"format":"pavise-root-key/2","current":{}})", Reason::kUnsupported},
      {R"({"format":"pavise-root-key/1"})", Reason::kMalformed},
      {R"({"format":"pavise-root-key/1","current":{},"more":1})", Reason::kMalformed},
      {R"({"format":"pavise-root-key/1","current":{"kind":"other"}})", Reason::kUnsupported},
      {R"({"format":"pavise-root-key/1","current":{"kind":"plain","key":"AA=="}})",
       Reason::kMalformed},
      {R"({"format":"pavise-root-key/1","current":{"kind":"plain","key":"AA"}})",
       Reason::kMalformed},
      {R"({"format":"pavise-root-key/1","current":{"kind":"plain","key":"AA==","x":1}})",
       Reason::kMalformed},
      {R"({"format":"pavise-root-key/1","current":{"kind":"tpm","sealed":"AA=="}})",
       Reason::kEvidenceMissing},
      {R"({"format":"pavise-root-key/1","current":{"kind":"shares","set":"aa"}})",
       Reason::kEvidenceMissing},
  };
  for (const auto& [content, reason] : files) {
    directory_.Write("root.key", content);
    ASSERT_EQ(chmod(path_.c_str(), 0600), 0);
    const absl::Status refused = LoadRootKeys(path_, nullptr, {}).status();
    EXPECT_EQ(ReasonOf(refused), reason) << content << "\n" << refused;
  }
}

TEST_F(RootKeyTest, OwnersSharesOpenTheStore) {
  const SecretBytes key = TestRootKey(5);
  auto split = crypto::SplitSecret(key, 2, 3);
  ASSERT_TRUE(split.ok()) << split.status();
  RootKeyProtection protection;
  protection.kind = RootKeyProtection::Kind::kShares;
  EXPECT_EQ(ExitCodeOf(SaveRootKey(path_, key, protection)), 2);  // of which set?
  protection.share_set = split->set_id;
  ASSERT_TRUE(SaveRootKey(path_, key, protection).ok());
  // The file alone is nothing.
  const std::string content = pavise::testing::ContentOf(path_);
  EXPECT_EQ(content.find(ToBase64(key.Reveal())), std::string::npos);
  EXPECT_EQ(ReasonOf(OpenStore(Options(true), path_, nullptr, {}).status()),
            Reason::kEvidenceMissing);

  std::vector<SecretBytes>& shares = split->shares;
  ASSERT_TRUE(OpenStore(Options(true), path_, nullptr, shares).ok());
  for (size_t left_out = 0; left_out < 3; ++left_out) {
    std::vector<SecretBytes> two;
    for (size_t i = 0; i < 3; ++i) {
      if (i != left_out) two.emplace_back(shares[i].Reveal());
    }
    EXPECT_TRUE(OpenStore(Options(), path_, nullptr, two).ok());
    EXPECT_EQ(ReasonOf(OpenStore(Options(), path_, nullptr, {two.data(), 1}).status()),
              Reason::kEvidenceMissing);
  }
  // Shares of another set, though of the same key.
  auto other = crypto::SplitSecret(key, 2, 3);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(ReasonOf(OpenStore(Options(), path_, nullptr, other->shares).status()),
            Reason::kEvidenceMissing);
}

TEST_F(RootKeyTest, RotatesToAnotherProtection) {
  ASSERT_TRUE(SaveRootKey(path_, TestRootKey(1), {}).ok());
  auto store = OpenStore(Options(true), path_, nullptr, {});
  ASSERT_TRUE(store.ok()) << store.status();
  auto split = crypto::SplitSecret(TestRootKey(2), 2, 2);
  ASSERT_TRUE(split.ok());
  RootKeyProtection protection;
  protection.kind = RootKeyProtection::Kind::kShares;
  protection.share_set = split->set_id;
  ASSERT_TRUE(RotateRootKey(**store, path_, TestRootKey(2), protection).ok());
  store->reset();
  EXPECT_TRUE(Holds(TestRootKey(2), nullptr, split->shares));
  EXPECT_EQ(ReasonOf(OpenStore(Options(), path_, nullptr, {}).status()), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonOf(Store::Open(Options(), TestRootKey(1)).status()), Reason::kKeyMismatch);
  EXPECT_TRUE(OpenStore(Options(), path_, nullptr, split->shares).ok());
}

// A store that fails before anything is encrypted anew.
TEST_F(RootKeyTest, ARotationThatFailedKeepsTheOldKey) {
  ASSERT_TRUE(SaveRootKey(path_, TestRootKey(1), {}).ok());
  auto store = OpenStore(Options(true), path_, nullptr, {});
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE((*store)
                  ->Commit([](StoreTransaction& transaction) {
                    return transaction.Put(Table::kMeta, "", "", SecretBytes("1"));
                  })
                  .ok());
  // A file that kept its new key, as a crash leaves it.
  const std::string rotated = pavise::testing::ContentOf(path_);
  directory_.Write("root.key",
                   R"({"current":{"key":")" + ToBase64(TestRootKey(1).Reveal()) +
                       R"(","kind":"plain"},"format":"pavise-root-key/1","next":{"key":")" +
                       ToBase64(TestRootKey(2).Reveal()) + R"(","kind":"plain"}})");
  EXPECT_EQ(ReasonOf(RotateRootKey(**store, path_, TestRootKey(3), {})), Reason::kFileUnstable);
  store->reset();
  EXPECT_TRUE(OpenStore(Options(), path_, nullptr, {}).ok());
  EXPECT_TRUE(Holds(TestRootKey(1)));
}

TEST_F(RootKeyTest, SealedToATpm) {
  const std::string missing = evidence::testing::SwtpmMissing();
  if (!missing.empty()) GTEST_SKIP() << missing;
  const evidence::testing::SwtpmAuthority authority;
  const auto swtpm = evidence::testing::Swtpm::Start(authority);
  ASSERT_NE(swtpm, nullptr);
  auto tpm = BrokerTpm::Open(swtpm->tcti());
  ASSERT_TRUE(tpm.ok()) << tpm.status();
  RootKeyProtection protection;
  protection.kind = RootKeyProtection::Kind::kTpm;
  EXPECT_EQ(ExitCodeOf(SaveRootKey(path_, TestRootKey(1), protection)), 2);
  protection.tpm = tpm->get();
  protection.pcrs = {{evidence::PcrBank::kSha256, {7}}};
  ASSERT_TRUE(SaveRootKey(path_, TestRootKey(1), protection).ok());
  EXPECT_EQ(pavise::testing::ContentOf(path_).find(ToBase64(TestRootKey(1).Reveal())),
            std::string::npos);
  EXPECT_TRUE(Holds(TestRootKey(1), tpm->get()));
  EXPECT_EQ(ReasonOf(LoadRootKeys(path_, nullptr, {}).status()), Reason::kEvidenceMissing);
  auto store = OpenStore(Options(true), path_, tpm->get(), {});
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE(RotateRootKey(**store, path_, TestRootKey(2), protection).ok());
  EXPECT_TRUE(Holds(TestRootKey(2), tpm->get()));
}

}  // namespace
}  // namespace pavise::broker
