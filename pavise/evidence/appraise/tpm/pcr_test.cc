#include "pavise/evidence/appraise/tpm/pcr.h"

#include <vector>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

constexpr PcrBank kBanks[] = {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512};

TEST(PcrTest, BanksAreTheirAlgorithms) {
  const std::vector<size_t> sizes = {20, 32, 48, 64};
  for (size_t i = 0; i < sizes.size(); ++i) {
    EXPECT_EQ(PcrSizeBytes(kBanks[i]), sizes[i]);
    EXPECT_EQ(PcrBankOfAlgorithm(AlgorithmOfPcrBank(kBanks[i])), kBanks[i]);
  }
  EXPECT_EQ(PcrBankOfAlgorithm(0x0012), std::nullopt);  // SM3
  EXPECT_EQ(PcrName(PcrBank::kSha256, 10), "PCR 10 (sha256)");
}

TEST(PcrTest, StartsAtZeroOrAtAllOnes) {
  for (const PcrBank bank : kBanks) {
    for (uint32_t index = 0; index < kPcrCount; ++index) {
      const uint8_t byte = index >= 17 && index <= 22 ? 0xff : 0;
      EXPECT_EQ(InitialPcrValue(bank, index), Bytes(PcrSizeBytes(bank), byte)) << index;
    }
  }
}

TEST(PcrTest, ExtendsFromTheValueThatIsThere) {
  PcrValues values;
  EXPECT_EQ(values.Get(PcrBank::kSha256, 4), nullptr);
  ASSERT_TRUE(values.Extend(PcrBank::kSha256, 4, Bytes(32, 0)).ok());
  // SHA-256 of 64 zero bytes.
  const char kOnce[] = "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b";
  ASSERT_NE(values.Get(PcrBank::kSha256, 4), nullptr);
  EXPECT_EQ(ToHex(*values.Get(PcrBank::kSha256, 4)), kOnce);
  EXPECT_EQ(values.Get(PcrBank::kSha1, 4), nullptr);
  EXPECT_EQ(values.Get(PcrBank::kSha256, 5), nullptr);

  PcrValues set;
  ASSERT_TRUE(set.Set(PcrBank::kSha256, 4, Bytes(32, 0)).ok());
  EXPECT_NE(set, values);
  ASSERT_TRUE(set.Extend(PcrBank::kSha256, 4, Bytes(32, 0)).ok());
  EXPECT_EQ(set, values);
  ASSERT_TRUE(set.Extend(PcrBank::kSha256, 4, Bytes(32, 0)).ok());
  EXPECT_NE(set, values);
}

TEST(PcrTest, RefusesWhatIsNoPcr) {
  PcrValues values;
  EXPECT_EQ(ReasonOf(values.Set(PcrBank::kSha1, 24, Bytes(20))), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(values.Extend(PcrBank::kSha1, 24, Bytes(20))), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(values.Set(PcrBank::kSha1, 0, Bytes(32))), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(values.Extend(PcrBank::kSha384, 0, Bytes(47))), Reason::kMalformed);
  EXPECT_TRUE(values.empty());
}

}  // namespace
}  // namespace pavise::evidence
