#include "pavise/crypto/secret_sharing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"

namespace pavise::crypto {
namespace {

using ::testing::HasSubstr;

constexpr size_t kPrefixBytes = 15;  // "pavise-share-1:"
constexpr size_t kBlindBytes = 32;

// Bytes that the test chose.
class ChosenBytes final : public RandomSource {
 public:
  explicit ChosenBytes(Bytes bytes) : bytes_(std::move(bytes)) {}
  absl::Status Fill(std::span<uint8_t> out) override {
    if (out.size() > bytes_.size()) return MachineFailure("random", "used up");
    std::copy_n(bytes_.begin(), out.size(), out.begin());
    return absl::OkStatus();
  }

 private:
  Bytes bytes_;
};

SecretBytes Copy(const SecretBytes& share) { return SecretBytes(share.Reveal()); }

std::vector<SecretBytes> Pick(const SecretShares& set, const std::vector<int>& which) {
  std::vector<SecretBytes> picked;
  for (const int i : which) picked.push_back(Copy(set.shares[static_cast<size_t>(i)]));
  return picked;
}

Bytes Decoded(const SecretBytes& share) {
  return FromBase64Url(share.RevealText().substr(kPrefixBytes), "share").value();
}

SecretBytes Encoded(ByteSpan bytes) { return SecretBytes("pavise-share-1:" + ToBase64Url(bytes)); }

// The value of a share: what stands behind the digests and the index.
ByteSpan ValueOf(ByteSpan share) { return share.subspan(2 + 32 * size_t{share[1]} + 1); }

TEST(SecretSharingTest, EverySubsetOfTheThresholdGivesTheSecret) {
  const SecretBytes secret("a key of 32 bytes, more or less.");
  int combined = 0, refused = 0;
  for (const auto& [threshold, count] :
       {std::pair(1, 1), std::pair(1, 3), std::pair(2, 3), std::pair(3, 5), std::pair(6, 6)}) {
    const SecretShares set = SplitSecret(secret, threshold, count).value();
    ASSERT_EQ(set.shares.size(), static_cast<size_t>(count));
    for (unsigned subset = 0; subset < 1u << count; ++subset) {
      std::vector<int> which;
      for (int i = count - 1; i >= 0; --i) {
        if (subset >> i & 1) which.push_back(i);
      }
      const auto result = CombineShares(Pick(set, which), set.set_id);
      if (which.size() >= static_cast<size_t>(threshold)) {
        ASSERT_TRUE(result.ok()) << result.status();
        EXPECT_TRUE(result->Equals(secret));
        ++combined;
      } else {
        EXPECT_EQ(ReasonOf(result.status()), Reason::kEvidenceMissing);
        ++refused;
      }
    }
  }
  EXPECT_EQ(combined, 1 + 7 + 4 + 16 + 1);
  EXPECT_EQ(refused, 1 + 1 + 4 + 16 + 63);
}

// The values computed by another program, with tables of logarithms, from the same randomness.
TEST(SecretSharingTest, ValuesAreThoseOfThePolynomial) {
  Bytes chosen(3 * (4 + kBlindBytes));
  for (size_t i = 0; i < chosen.size(); ++i) chosen[i] = static_cast<uint8_t>(i * 37 + 11);
  ChosenBytes random(chosen);
  const SecretShares set = SplitSecret(SecretBytes(*FromHex("000153ff", "")), 3, 5, random).value();
  int executed = 0;
  for (const auto& [index, first] :
       {std::pair(1, "4cfd67b34b10a53a"), std::pair(2, "a99f981d3e9f8c49"),
        std::pair(5, "c135509f5a2bb608")}) {
    const Bytes share = Decoded(set.shares[static_cast<size_t>(index - 1)]);
    EXPECT_EQ(ToHex(ValueOf(share).first(8)), first);
    ++executed;
  }
  EXPECT_EQ(executed, 3);
  ChosenBytes too_short(Bytes(10));
  EXPECT_EQ(ExitCodeOf(SplitSecret(SecretBytes("x"), 2, 2, too_short).status()), 3);
}

// One share of a threshold of two: over all coefficients, its byte takes every value once, whatever
// the secret's byte is. So it says nothing.
TEST(SecretSharingTest, FewerSharesSayNothing) {
  for (const uint8_t secret : {0, 1, 0x80, 0xff}) {
    std::set<uint8_t> first, last;
    for (int coefficient = 0; coefficient < 256; ++coefficient) {
      Bytes chosen(2 * (1 + kBlindBytes));
      chosen[1 + kBlindBytes] = static_cast<uint8_t>(coefficient);
      ChosenBytes random(chosen);
      const SecretShares set = SplitSecret(SecretBytes(Bytes{secret}), 2, 255, random).value();
      first.insert(ValueOf(Decoded(set.shares[0]))[0]);
      last.insert(ValueOf(Decoded(set.shares[254]))[0]);
    }
    EXPECT_EQ(first.size(), 256u);
    EXPECT_EQ(last.size(), 256u);
  }
}

TEST(SecretSharingTest, ChangedSharesAreNamed) {
  const SecretShares set = SplitSecret(SecretBytes("secret"), 2, 3).value();
  const Bytes share = Decoded(set.shares[1]);
  size_t flipped = 0;
  for (size_t i = 0; i < share.size(); ++i, ++flipped) {
    Bytes other = share;
    other[i] ^= 1;
    std::vector<SecretBytes> shares = Pick(set, {0, 2});
    shares.push_back(Encoded(other));
    const absl::Status status = CombineShares(shares, set.set_id).status();
    ASSERT_TRUE(ReasonOf(status).has_value()) << i << status;
    // The one at fault is named, and only that one.
    ASSERT_EQ(RefusalsOf(status).size(), 1u) << status;
    EXPECT_EQ(RefusalsOf(status)[0].item, "share 3");
  }
  EXPECT_EQ(flipped, share.size());
  for (size_t size_bytes = 0; size_bytes < share.size(); ++size_bytes) {
    EXPECT_FALSE(DescribeShare(Encoded(ByteSpan(share).first(size_bytes)), "share").ok());
  }
  Bytes longer = share;
  longer.push_back(0);
  EXPECT_EQ(ReasonOf(DescribeShare(Encoded(longer), "share").status()), Reason::kContentMismatch);
  for (const char* text : {"", "pavise-share-1:", "pavise-share-2:AAAA", "secret"}) {
    EXPECT_EQ(ReasonOf(DescribeShare(SecretBytes(std::string_view(text)), "share").status()),
              Reason::kMalformed)
        << text;
  }
}

TEST(SecretSharingTest, SharesOfTwoSetsDoNotMix) {
  const SecretShares set = SplitSecret(SecretBytes("secret"), 2, 3).value();
  // Of the same secret, with the same numbers: still another set.
  const SecretShares other = SplitSecret(SecretBytes("secret"), 2, 3).value();
  EXPECT_NE(set.set_id, other.set_id);
  std::vector<SecretBytes> mixed = Pick(set, {0});
  mixed.push_back(Copy(other.shares[1]));
  absl::Status status = CombineShares(mixed).status();
  EXPECT_EQ(ReasonOf(status), Reason::kBindingMismatch);
  EXPECT_EQ(RefusalsOf(status).at(0).item, "share 2");
  EXPECT_THAT(RefusalsOf(status).at(0).detail, HasSubstr(other.set_id));
  // The set that was noted decides which one is foreign; all of them may be.
  status = CombineShares(mixed, other.set_id).status();
  EXPECT_EQ(RefusalsOf(status).at(0).item, "share 1");
  EXPECT_EQ(RefusalsOf(CombineShares(Pick(set, {0, 1}), other.set_id).status()).size(), 2u);
  // One share twice is no threshold.
  status = CombineShares(Pick(set, {1, 1}), set.set_id).status();
  EXPECT_EQ(ReasonOf(status), Reason::kBindingMismatch);

  const ShareDescription described = DescribeShare(set.shares[2], "share").value();
  EXPECT_EQ(described.set_id, set.set_id);
  EXPECT_EQ(described.threshold, 2);
  EXPECT_EQ(described.count, 3);
  EXPECT_EQ(described.index, 3);
}

TEST(SecretSharingTest, BoundsAreUsageErrors) {
  const SecretBytes secret("secret");
  for (const auto& [threshold, count] :
       {std::pair(0, 3), std::pair(4, 3), std::pair(2, 256), std::pair(-1, 3), std::pair(0, 0)}) {
    EXPECT_EQ(ExitCodeOf(SplitSecret(secret, threshold, count).status()), 2);
  }
  EXPECT_EQ(ExitCodeOf(SplitSecret(SecretBytes(), 2, 3).status()), 2);
  EXPECT_EQ(ExitCodeOf(SplitSecret(SecretBytes(Bytes(kMaxSharedSecretBytes + 1)), 2, 3).status()),
            2);
  const SecretBytes longest{Bytes(kMaxSharedSecretBytes, 7)};
  const SecretShares set = SplitSecret(longest, 255, 255).value();
  EXPECT_TRUE(CombineShares(set.shares, set.set_id)->Equals(longest));
}

}  // namespace
}  // namespace pavise::crypto
