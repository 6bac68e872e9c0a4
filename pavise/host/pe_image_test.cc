#include "pavise/host/pe_image.h"

#include <algorithm>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/host/testing/test_image.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::host {
namespace {

using crypto::DigestAlgorithm;
using crypto::testing::HasProgram;
using crypto::testing::RunCommand;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using testing::TestImage;

constexpr char kStub[] = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

Bytes Text(std::string_view text) { return Bytes(text.begin(), text.end()); }

TEST(PeImageTest, ReadsHeadersAndSections) {
  const Bytes image = TestImage("content");
  const PeHeaders headers = ParsePe(image, "image").value();
  ASSERT_THAT(headers.sections, SizeIs(1));
  EXPECT_EQ(headers.sections[0].name, ".text");
  EXPECT_EQ(headers.section_alignment, 4096u);
  EXPECT_EQ(headers.file_alignment, 512u);
  EXPECT_EQ(headers.certificates_size_bytes, 0u);
}

TEST(PeImageTest, WhatIsNoImageIsRefused) {
  const Bytes image = TestImage("content");
  for (size_t size = 0; size < image.size(); ++size) {
    EXPECT_EQ(ReasonOf(ParsePe(ByteSpan(image).first(size), "image").status()), Reason::kMalformed)
        << size;
  }
  size_t executed = 0;
  for (const size_t offset :
       {0u, 0x80u, 0x84u, 0x98u, 0x98u + 32, 0x98u + 36, 0x98u + 61, 0x98u + 108}) {
    Bytes changed = image;
    changed[offset] ^= 0xff;
    EXPECT_EQ(ReasonOf(ParsePe(changed, "image").status()), Reason::kMalformed) << offset;
    ++executed;
  }
  EXPECT_EQ(executed, 8u);
}

TEST(PeImageTest, TheDigestCoversAllButChecksumAndCertificates) {
  const Bytes image = TestImage("content");
  const auto digest = [](const Bytes& bytes) {
    return AuthenticodeDigest(DigestAlgorithm::kSha256, bytes, "image").value();
  };
  const PeHeaders headers = ParsePe(image, "image").value();
  const size_t checksum = headers.optional_offset + 64;
  const size_t entry = headers.optional_offset + 144;
  size_t covered = 0;
  for (size_t i = 0; i < image.size(); ++i) {
    Bytes changed = image;
    changed[i] ^= 1;
    const auto result = AuthenticodeDigest(DigestAlgorithm::kSha256, changed, "image");
    const bool is_excluded = (i >= checksum && i < checksum + 4) || (i >= entry && i < entry + 8);
    if (!result.ok()) continue;  // no image any more
    // Where a certificate table is entered, the end of the file is no longer covered.
    if (!is_excluded) {
      EXPECT_NE(*result, digest(image)) << i;
      ++covered;
    } else if (i < checksum + 4) {
      EXPECT_EQ(*result, digest(image)) << i;
    }
  }
  EXPECT_GT(covered, image.size() - 60);
}

TEST(PeImageTest, OverlappingSectionsAreNotHashed) {
  const Bytes data(1000, 1);
  const Bytes image =
      AppendSections(TestImage("content"), {{".one", data}, {".two", data}}, "stub").value();
  const auto reason = [](const Bytes& bytes) {
    return ReasonOf(AuthenticodeDigest(DigestAlgorithm::kSha256, bytes, "image").status());
  };
  EXPECT_EQ(reason(image), std::nullopt);
  const PeHeaders headers = ParsePe(image, "image").value();
  const size_t second = headers.table_offset + 40;
  ASSERT_EQ(headers.sections[1].raw_offset_bytes, 1536u);
  for (const uint8_t pages : {0, 2, 4, 7}) {  // the file, the headers, .text, .two
    Bytes changed = image;
    changed[second + 21] = static_cast<uint8_t>(2 * pages);  // PointerToRawData, in 512 bytes
    EXPECT_EQ(reason(changed), Reason::kMalformed) << int{pages};
  }
  Bytes larger = image;  // SizeOfRawData, into .two
  larger[second + 17] += 2;
  EXPECT_EQ(reason(larger), Reason::kMalformed);
}

TEST(PeImageTest, AppendedSectionsAreFound) {
  const Bytes image = TestImage("content");
  const Bytes small = Text("small");
  const Bytes large(70000, 0xab);
  const Bytes out = AppendSections(image, {{".one", small}, {".eightch", large}}, "stub").value();
  EXPECT_EQ(out.size() % 8, 0u);
  const PeHeaders headers = ParsePe(out, "image").value();
  ASSERT_THAT(headers.sections, SizeIs(3));
  EXPECT_EQ(headers.sections[1].name, ".one");
  EXPECT_EQ(headers.sections[1].virtual_size, small.size());
  EXPECT_EQ(headers.sections[2].name, ".eightch");
  EXPECT_EQ(headers.sections[1].virtual_address % 4096, 0u);
  EXPECT_GE(headers.sections[2].virtual_address,
            headers.sections[1].virtual_address + headers.sections[1].virtual_size);
  EXPECT_TRUE(
      std::equal(large.begin(), large.end(), out.begin() + headers.sections[2].raw_offset_bytes));
  EXPECT_EQ(out, AppendSections(image, {{".one", small}, {".eightch", large}}, "stub").value());

  // What the time wrote into the stub does not come through.
  Bytes later = image;
  later[headers.coff_offset + 4] = 0x77;
  EXPECT_EQ(out, AppendSections(later, {{".one", small}, {".eightch", large}}, "stub").value());
}

TEST(PeImageTest, SectionsThatCannotBeAppended) {
  const Bytes image = TestImage("content");
  const Bytes data = Text("data");
  EXPECT_EQ(ReasonOf(AppendSections(image, {{"ninechars", data}}, "stub").status()),
            Reason::kMalformed);
  EXPECT_EQ(ReasonOf(AppendSections(image, {{".empty", {}}}, "stub").status()), Reason::kMalformed);
  const std::vector<NamedSection> many(20, {".data", data});
  EXPECT_EQ(ReasonOf(AppendSections(image, many, "stub").status()), Reason::kLimitExceeded);
  Bytes is_signed = image;
  const PeHeaders headers = ParsePe(image, "image").value();
  is_signed[headers.optional_offset + 144 + 4] = 8;
  EXPECT_EQ(ReasonOf(AppendSections(is_signed, {{".data", data}}, "stub").status()),
            Reason::kUnsupported);
}

// objcopy and sbsign's own digest agree with ours on the stub that images are made of.
TEST(PeImageTest, OtherToolsReadTheResult) {
  if (access(kStub, R_OK) != 0) GTEST_SKIP() << "systemd-boot-efi is not installed";
  if (!HasProgram("objdump") || !HasProgram("sbsign") || !HasProgram("openssl")) {
    GTEST_SKIP() << "needs objdump, sbsign and openssl";
  }
  const Bytes stub = ReadFile(kStub, 1 << 20).value();
  const Bytes initrd(100'001, 0x5a);
  const Bytes image = AppendSections(stub, {{".initrd", initrd}}, "stub").value();
  const pavise::testing::TemporaryDirectory directory;
  directory.Write("image.efi", AsText(image));
  const std::string folder = directory.path();
  const auto sections = RunCommand("objdump -h " + folder + "/image.efi");
  EXPECT_EQ(sections.exit_code, 0);
  EXPECT_THAT(sections.output, HasSubstr(".initrd       000186a1"));
  // The digest that a Secure Boot signature holds.
  const auto made = RunCommand(
      "cd " + folder +
      " && openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -subj /CN=t -days 9 2>&1"
      " && sbsign --key k --cert c --output s.efi image.efi 2>&1"
      " && sbattach --detach p7 s.efi && openssl asn1parse -inform DER -in p7");
  ASSERT_EQ(made.exit_code, 0) << made.output;
  std::string digest = ToHex(AuthenticodeDigest(DigestAlgorithm::kSha256, image, "image").value());
  std::transform(digest.begin(), digest.end(), digest.begin(), ::toupper);
  EXPECT_THAT(made.output, HasSubstr(digest));
  const Bytes signed_image = ReadFile(folder + "/s.efi", 1 << 20).value();
  EXPECT_EQ(AuthenticodeDigest(DigestAlgorithm::kSha256, signed_image, "signed").value(),
            AuthenticodeDigest(DigestAlgorithm::kSha256, image, "image").value());
}

}  // namespace
}  // namespace pavise::host
