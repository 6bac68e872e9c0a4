#include "pavise/broker/tpm/broker_tpm.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/testing/test_databases.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/testing/swtpm.h"

#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using evidence::testing::Swtpm;
using evidence::testing::SwtpmAuthority;
using testing::TestRootKey;

class BrokerTpmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string missing = evidence::testing::SwtpmMissing();
    if (!missing.empty()) GTEST_SKIP() << missing;
    swtpm_ = Swtpm::Start(authority_);
    ASSERT_NE(swtpm_, nullptr);
    Open();
  }
  void Open() {
    tpm_.reset();  // it serves one client at a time
    auto opened = BrokerTpm::Open(swtpm_->tcti());
    ASSERT_TRUE(opened.ok()) << opened.status();
    tpm_ = *std::move(opened);
  }

  SwtpmAuthority authority_;
  std::unique_ptr<Swtpm> swtpm_;
  std::unique_ptr<BrokerTpm> tpm_;
};

TEST_F(BrokerTpmTest, SealsAndUnseals) {
  const auto sealed = tpm_->Seal(TestRootKey(7), {});
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  Open();
  const auto unsealed = tpm_->Unseal(*sealed, "key");
  ASSERT_TRUE(unsealed.ok()) << unsealed.status();
  EXPECT_TRUE(unsealed->Equals(TestRootKey(7)));

  // Every byte counts.
  for (size_t i = 0; i < sealed->size(); i += 11) {
    Bytes changed = *sealed;
    changed[i] ^= 0x10;
    EXPECT_FALSE(tpm_->Unseal(changed, "key").ok()) << "byte " << i;
  }
  Bytes longer = *sealed;
  longer.push_back(0);
  EXPECT_EQ(ReasonOf(tpm_->Unseal(longer, "key").status()), Reason::kMalformed);
  Bytes shorter(sealed->begin(), sealed->end() - 1);
  EXPECT_EQ(ReasonOf(tpm_->Unseal(shorter, "key").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(tpm_->Unseal({}, "key").status()), Reason::kMalformed);
  EXPECT_EQ(ExitCodeOf(tpm_->Seal(SecretBytes(Bytes(129)), {}).status()), 2);
  EXPECT_EQ(ExitCodeOf(tpm_->Seal(SecretBytes(), {}).status()), 2);
  EXPECT_EQ(ExitCodeOf(tpm_->Seal(TestRootKey(1), {{evidence::PcrBank::kSha256, {24}}}).status()),
            2);
  EXPECT_TRUE(tpm_->Unseal(*sealed, "key").ok());

  const std::unique_ptr<Swtpm> other = Swtpm::Start(authority_);
  ASSERT_NE(other, nullptr);
  auto other_tpm = BrokerTpm::Open(other->tcti());
  ASSERT_TRUE(other_tpm.ok()) << other_tpm.status();
  EXPECT_EQ(ReasonOf((*other_tpm)->Unseal(*sealed, "key").status()), Reason::kBindingMismatch);
}

TEST_F(BrokerTpmTest, SealsToPcrs) {
  if (!crypto::testing::HasProgram("tpm2_pcrextend")) GTEST_SKIP() << "no tpm2-tools";
  const evidence::PcrIndices pcrs = {{evidence::PcrBank::kSha256, {4, 16}}};
  const auto sealed = tpm_->Seal(TestRootKey(7), pcrs);
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  const auto unsealed = tpm_->Unseal(*sealed, "key");
  ASSERT_TRUE(unsealed.ok()) << unsealed.status();
  EXPECT_TRUE(unsealed->Equals(TestRootKey(7)));
  tpm_.reset();
  const auto extended = crypto::testing::RunCommand("tpm2_pcrextend -T " + swtpm_->tcti() +
                                                    " 16:sha256=" + ToHex(Bytes(32, 1)));
  ASSERT_EQ(extended.exit_code, 0) << extended.output;
  Open();
  EXPECT_EQ(ReasonOf(tpm_->Unseal(*sealed, "key").status()), Reason::kMeasurementMismatch);
}

// Without a resource manager a TPM keeps what its dead clients loaded, and has room for three.
TEST_F(BrokerTpmTest, KilledBrokersDoNotFillTheTpm) {
  const auto sealed = tpm_->Seal(TestRootKey(7), {});
  ASSERT_TRUE(sealed.ok()) << sealed.status();
  tpm_.reset();
  for (int i = 0; i < 8; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      const auto opened = BrokerTpm::Open(swtpm_->tcti());
      if (!opened.ok()) std::fprintf(stderr, "%s\n", opened.status().ToString().c_str());
      _exit(opened.ok() ? 0 : 1);  // as a kill would: nothing is flushed
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0) << "broker " << i;
  }
  Open();
  ASSERT_NE(tpm_, nullptr);
  EXPECT_TRUE(tpm_->Unseal(*sealed, "key")->Equals(TestRootKey(7)));
}

TEST_F(BrokerTpmTest, CountsUnderItsSecretOnly) {
  const auto name = tpm_->Create(TestRootKey(1));
  ASSERT_TRUE(name.ok()) << name.status();
  EXPECT_EQ(*name, "TPM counter 0x01827000");
  const auto value = tpm_->Read(*name, TestRootKey(1));
  ASSERT_TRUE(value.ok()) << value.status();
  for (uint64_t i = 1; i <= 3; ++i) {
    const auto advanced = tpm_->Advance(*name, TestRootKey(1));
    ASSERT_TRUE(advanced.ok()) << advanced.status();
    EXPECT_EQ(*advanced, *value + i);
  }
  Open();
  EXPECT_EQ(*tpm_->Read(*name, TestRootKey(1)), *value + 3);
  EXPECT_EQ(ReasonOf(tpm_->Read(*name, TestRootKey(2)).status()), Reason::kBindingMismatch);
  EXPECT_EQ(ReasonOf(tpm_->Advance(*name, TestRootKey(2)).status()), Reason::kBindingMismatch);
  EXPECT_EQ(*tpm_->Read(*name, TestRootKey(1)), *value + 3);
  EXPECT_EQ(ReasonOf(tpm_->Read("TPM counter 0x01827001", TestRootKey(1)).status()),
            Reason::kEvidenceMissing);
  for (const char* bad : {"", "TPM counter 0x", "TPM counter 0x01c00002", "counter", "x"}) {
    EXPECT_EQ(ReasonOf(tpm_->Read(bad, TestRootKey(1)).status()), Reason::kMalformed) << bad;
  }
  const auto second = tpm_->Create(TestRootKey(3));
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(*second, "TPM counter 0x01827001");
}

// Whoever owns the TPM can remove a counter, and make another in its place: never one that says
// what the first one said.
TEST_F(BrokerTpmTest, AReplacedCounterGoesOnAboveTheOldOne) {
  if (!crypto::testing::HasProgram("tpm2_nvundefine")) GTEST_SKIP() << "no tpm2-tools";
  const auto name = tpm_->Create(TestRootKey(1));
  ASSERT_TRUE(name.ok()) << name.status();
  const auto value = tpm_->Advance(*name, TestRootKey(1));
  ASSERT_TRUE(value.ok()) << value.status();
  tpm_.reset();
  const auto removed =
      crypto::testing::RunCommand("tpm2_nvundefine -T " + swtpm_->tcti() + " 0x01827000");
  ASSERT_EQ(removed.exit_code, 0) << removed.output;
  Open();
  EXPECT_EQ(ReasonOf(tpm_->Read(*name, TestRootKey(1)).status()), Reason::kEvidenceMissing);
  EXPECT_EQ(*tpm_->Create(TestRootKey(1)), *name);
  EXPECT_GT(*tpm_->Read(*name, TestRootKey(1)), *value);
}

TEST_F(BrokerTpmTest, StoreRefusesAnOldImage) {
  const pavise::testing::TemporaryDirectory directory;
  StoreOptions options;
  options.location = directory / "store.db";
  options.counter = tpm_.get();
  options.create = true;
  ASSERT_TRUE(Store::Open(options, TestRootKey(1)).ok());
  options.create = false;
  std::filesystem::copy_file(directory / "store.db", directory / "old.db");
  {
    auto store = Store::Open(options, TestRootKey(1));
    ASSERT_TRUE(store.ok()) << store.status();
    for (int i = 0; i < 5; ++i) {
      EXPECT_TRUE((*store)
                      ->Commit([&](StoreTransaction& transaction) {
                        return transaction.Put(Table::kMeta, "", std::to_string(i),
                                               SecretBytes("value"));
                      })
                      .ok());
    }
    EXPECT_EQ((*store)->GetStatus()->rollback, RollbackDetection::kCounter);
  }
  EXPECT_TRUE(Store::Open(options, TestRootKey(1)).ok());
  StoreOptions old = options;
  old.location = directory / "old.db";
  EXPECT_EQ(ReasonOf(Store::Open(old, TestRootKey(1)).status()), Reason::kVersionTooOld);
  // Another machine's TPM.
  const std::unique_ptr<Swtpm> other = Swtpm::Start(authority_);
  ASSERT_NE(other, nullptr);
  auto other_tpm = BrokerTpm::Open(other->tcti());
  ASSERT_TRUE(other_tpm.ok()) << other_tpm.status();
  options.counter = other_tpm->get();
  EXPECT_EQ(ReasonOf(Store::Open(options, TestRootKey(1)).status()), Reason::kEvidenceMissing);
}

}  // namespace
}  // namespace pavise::broker
