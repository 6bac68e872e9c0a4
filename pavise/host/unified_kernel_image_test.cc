#include "pavise/host/unified_kernel_image.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/host/pe_image.h"
#include "pavise/host/predicted_boot.h"
#include "pavise/host/testing/test_image.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::host {
namespace {

using evidence::PcrBank;
using evidence::PcrValues;
using ::testing::SizeIs;
using testing::TestImage;

UnifiedKernelParts Parts() {
  UnifiedKernelParts parts;
  parts.stub = TestImage("stub");
  parts.linux_image = TestImage("kernel");
  parts.initrd = Bytes(5000, 7);
  parts.cmdline = "quiet";
  parts.os_release = "ID=test\n";
  return parts;
}

PcrValues Predict(const UnifiedKernelParts& parts) {
  const Bytes image = BuildUnifiedKernelImage(parts).value();
  return PredictPcrs(image, "image").value();
}

Bytes Sha256(ByteSpan bytes) {
  return crypto::Digest(crypto::DigestAlgorithm::kSha256, bytes).value();
}

TEST(UnifiedKernelImageTest, ACommandLineIsOneLineOfAscii) {
  for (const std::string& line : {std::string(), std::string("a\nb"), std::string("\xc3\xa4")}) {
    UnifiedKernelParts parts = Parts();
    parts.cmdline = line;
    EXPECT_EQ(ReasonOf(BuildUnifiedKernelImage(parts).status()), Reason::kMalformed);
  }
  UnifiedKernelParts parts = Parts();
  parts.linux_image = Bytes(100, 0);
  EXPECT_EQ(ReasonOf(BuildUnifiedKernelImage(parts).status()), Reason::kMalformed);
  parts = Parts();
  parts.initrd.clear();
  EXPECT_EQ(ReasonOf(BuildUnifiedKernelImage(parts).status()), Reason::kMalformed);
}

// Written out once more, from the events that firmware, stub and kernel log.
TEST(PredictedBootTest, AreTheEventsOfABoot) {
  const UnifiedKernelParts parts = Parts();
  const Bytes image = BuildUnifiedKernelImage(parts).value();
  const PcrValues predicted = Predict(parts);
  const auto extend = [](PcrValues& values, uint32_t index, const Bytes& digest) {
    ASSERT_TRUE(values.Extend(PcrBank::kSha256, index, digest).ok());
  };
  PcrValues expected;
  const Bytes separator(4, 0);
  extend(expected, 4, Sha256(AsBytes("Calling EFI Application from Boot Option")));
  extend(expected, 4, Sha256(separator));
  extend(expected, 4, AuthenticodeDigest(crypto::DigestAlgorithm::kSha256, image, "i").value());
  extend(expected, 4,
         AuthenticodeDigest(crypto::DigestAlgorithm::kSha256, parts.linux_image, "i").value());
  extend(expected, 9, Sha256(AsBytes(std::string_view("q\0u\0i\0e\0t\0\0\0", 12))));
  extend(expected, 9, Sha256(parts.initrd));
  extend(expected, 11, Sha256(AsBytes(std::string_view(".linux\0", 7))));
  extend(expected, 11, Sha256(parts.linux_image));
  extend(expected, 11, Sha256(AsBytes(std::string_view(".osrel\0", 7))));
  extend(expected, 11, Sha256(AsBytes("ID=test\n")));
  extend(expected, 11, Sha256(AsBytes(std::string_view(".cmdline\0", 9))));
  extend(expected, 11, Sha256(AsBytes("quiet")));
  extend(expected, 11, Sha256(AsBytes(std::string_view(".initrd\0", 8))));
  extend(expected, 11, Sha256(parts.initrd));
  for (const uint32_t index : {4u, 9u, 11u}) {
    EXPECT_EQ(*predicted.Get(PcrBank::kSha256, index), *expected.Get(PcrBank::kSha256, index))
        << index;
  }
  for (const auto& [bank, values] : predicted.banks()) {
    for (const uint32_t index : {2u, 3u, 6u}) {
      PcrValues separated;
      const auto digest = crypto::Digest(evidence::PcrBankDigest(bank), separator);
      ASSERT_TRUE(separated.Extend(bank, index, *digest).ok());
      EXPECT_EQ(*predicted.Get(bank, index), *separated.Get(bank, index)) << index;
    }
    EXPECT_THAT(values, SizeIs(9));
  }
  // As seen in QEMU with OVMF and no option ROM.
  EXPECT_EQ(ToHex(*predicted.Get(PcrBank::kSha256, 2)),
            "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969");
  EXPECT_EQ(*predicted.Get(PcrBank::kSha256, 12), Bytes(32, 0));
  EXPECT_EQ(*predicted.Get(PcrBank::kSha1, 13), Bytes(20, 0));
  // As seen in QEMU with OVMF: no part of the image goes into it.
  EXPECT_EQ(ToHex(*predicted.Get(PcrBank::kSha256, 5)),
            "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0");
}

TEST(PredictedBootTest, EveryPartShows) {
  const PcrValues before = Predict(Parts());
  const auto changed = [&](const UnifiedKernelParts& parts) {
    std::vector<uint32_t> indices;
    const PcrValues after = Predict(parts);
    for (const auto& [index, value] : after.banks().at(PcrBank::kSha256)) {
      if (value != *before.Get(PcrBank::kSha256, index)) indices.push_back(index);
    }
    return indices;
  };
  using Indices = std::vector<uint32_t>;
  UnifiedKernelParts parts = Parts();
  EXPECT_EQ(changed(parts), Indices());
  parts.stub = TestImage("stab");
  EXPECT_EQ(changed(parts), Indices({4}));
  parts = Parts();
  parts.linux_image = TestImage("kernels");
  EXPECT_EQ(changed(parts), Indices({4, 11}));
  parts = Parts();
  parts.initrd.back() ^= 1;
  EXPECT_EQ(changed(parts), Indices({4, 9, 11}));
  parts = Parts();
  parts.cmdline += " debug";
  EXPECT_EQ(changed(parts), Indices({4, 9, 11}));
  parts = Parts();
  parts.os_release = "ID=other\n";
  EXPECT_EQ(changed(parts), Indices({4, 11}));
}

TEST(PredictedBootTest, NeedsAnImageOfOurs) {
  EXPECT_EQ(ReasonOf(PredictPcrs(TestImage("stub"), "image").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(PredictPcrs(Bytes(10, 0), "image").status()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::host
