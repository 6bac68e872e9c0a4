#include "pavise/evidence/appraise/ima/ima_log.h"

#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/testing/log_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using testing::ImaLogWriter;
using ::testing::SizeIs;

Bytes Of(std::string_view text) { return Bytes(text.begin(), text.end()); }
Bytes WithNul(std::string_view text) {
  Bytes bytes = Of(text);
  bytes.push_back(0);
  return bytes;
}
Bytes DigestField(std::string_view prefix, const Bytes& digest) {
  Bytes field = WithNul(prefix);
  field.insert(field.end(), digest.begin(), digest.end());
  return field;
}

// One entry of each template.
ImaLogWriter EveryTemplate(bool big_endian = false) {
  ImaLogWriter log(big_endian);
  const Bytes digest(32, 0xab);
  const std::string hex = ToHex(digest);
  log.Legacy("/sbin/init", Bytes(20, 1));
  log.Ng("/bin/with space", digest);
  log.Sig("/bin/signed", digest, Bytes{3, 2, 4, 0});
  log.Sig("/bin/not signed", digest, {});
  log.Entry("ima-ngv2", {DigestField("verity:sha256:", digest), WithNul("/bin/v")},
            StrCat("verity:sha256:", hex, " /bin/v"));
  log.Entry("ima-sigv2", {DigestField("ima:sha256:", digest), WithNul("/bin/i"), Bytes{6, 3}},
            StrCat("ima:sha256:", hex, " /bin/i 0603"));
  log.Entry("ima-buf", {DigestField("sha256:", digest), WithNul("kexec-cmdline"), Of("ro")},
            StrCat("sha256:", hex, " kexec-cmdline 726f"));
  log.Entry("ima-modsig",
            {DigestField("sha256:", digest), WithNul("/m.ko"), Bytes{3},
             DigestField("sha256:", digest), Bytes{0x30, 0x82}},
            StrCat("sha256:", hex, " /m.ko 03 sha256:", hex, " 3082"));
  log.Violation("/var/log/x");
  return log;
}

TEST(ImaLogTest, ReadsEveryTemplateInEveryForm) {
  for (const bool big_endian : {false, true}) {
    const ImaLogWriter writer = EveryTemplate(big_endian);
    const auto log = ParseImaLog(writer.bytes(),
                                 big_endian ? ImaForm::kBigEndian : ImaForm::kLittleEndian, "log");
    ASSERT_TRUE(log.ok()) << log.status();
    ASSERT_THAT(log->entries, SizeIs(9));
    const auto& entries = log->entries;
    EXPECT_EQ(entries[0].kind, ImaTemplate::kIma);
    EXPECT_EQ(entries[0].name, "/sbin/init");
    EXPECT_EQ(entries[0].DigestText(), StrCat("sha1:", ToHex(Bytes(20, 1))));
    EXPECT_EQ(entries[1].name, "/bin/with space");
    EXPECT_EQ(entries[1].DigestText(), StrCat("sha256:", ToHex(Bytes(32, 0xab))));
    EXPECT_THAT(entries[2].signature, SizeIs(4));
    EXPECT_THAT(entries[3].signature, SizeIs(0));
    EXPECT_TRUE(entries[4].is_verity);
    EXPECT_FALSE(entries[5].is_verity);
    EXPECT_EQ(AsText(entries[6].buffer), "ro");
    EXPECT_EQ(entries[7].name, "/m.ko");
    EXPECT_THAT(entries[7].signature, SizeIs(1));
    EXPECT_TRUE(entries[8].is_violation());
    EXPECT_FALSE(entries[7].is_violation());
  }
  const ImaLogWriter writer = EveryTemplate();
  const auto binary = ParseImaLog(writer.bytes(), ImaForm::kLittleEndian, "log");
  const auto ascii = ParseImaLog(AsBytes(writer.ascii()), ImaForm::kAscii, "log");
  ASSERT_TRUE(ascii.ok()) << ascii.status();
  ASSERT_THAT(ascii->entries, SizeIs(9));
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(AsText(ascii->entries[i].template_data), AsText(binary->entries[i].template_data))
        << i;
    EXPECT_EQ(ascii->entries[i].name, binary->entries[i].name);
    EXPECT_EQ(ascii->entries[i].DigestText(), binary->entries[i].DigestText());
  }
  // The other byte order is another log.
  EXPECT_FALSE(ParseImaLog(writer.bytes(), ImaForm::kBigEndian, "log").ok());
}

TEST(ImaLogTest, RefusesTruncationInsideAnEntryAndKeepsWholeOnes) {
  const ImaLogWriter writer = EveryTemplate();
  size_t whole = 0;
  for (size_t size = 0; size <= writer.bytes().size(); ++size) {
    const auto log =
        ParseImaLog(ByteSpan(writer.bytes()).first(size), ImaForm::kLittleEndian, "log");
    const auto end = std::find(writer.ends().begin(), writer.ends().end(), size);
    if (size == 0 || end != writer.ends().end()) {
      ASSERT_TRUE(log.ok()) << size;
      EXPECT_THAT(log->entries, SizeIs(whole));
      ++whole;
    } else {
      EXPECT_EQ(ReasonOf(log.status()), Reason::kMalformed) << size;
    }
  }
  EXPECT_EQ(whole, 10u);
  const std::string& text = writer.ascii();
  for (size_t size = 1; size < text.size(); ++size) {
    if (text[size - 1] == '\n') continue;
    EXPECT_EQ(ReasonOf(ParseImaLog(AsBytes(std::string_view(text).substr(0, size)), ImaForm::kAscii,
                                   "log")
                           .status()),
              Reason::kMalformed)
        << size;
  }
}

TEST(ImaLogTest, RefusesChangedLengths) {
  ImaLogWriter writer;
  writer.Sig("/bin/x", Bytes(32, 1), Bytes{3, 2});
  // PCR 4, hash 20, name length, name 7, data length, digest field length, path, signature.
  size_t executed = 0;
  for (const size_t at : {24u, 35u, 39u, 83u, 94u}) {
    for (const int change : {-1, 1, 0x7f}) {
      Bytes bytes = writer.bytes();
      bytes[at] = static_cast<uint8_t>(bytes[at] + change);
      const auto log = ParseImaLog(bytes, ImaForm::kLittleEndian, "log");
      EXPECT_TRUE(ReasonOf(log.status()) == Reason::kMalformed ||
                  ReasonOf(log.status()) == Reason::kUnsupported)
          << at << " " << change << log.status();
      ++executed;
    }
  }
  EXPECT_EQ(executed, 15u);
}

TEST(ImaLogTest, RefusesMalformedEntries) {
  const Bytes digest(32, 1);
  const auto reason = [](const ImaLogWriter& log, const ImaLogLimits& limits = {}) {
    return ReasonOf(ParseImaLog(log.bytes(), ImaForm::kLittleEndian, "log", limits).status());
  };
  const auto ng = [&](const Bytes& first, const Bytes& second, std::string_view name = "ima-ng") {
    ImaLogWriter log;
    log.Entry(name, {first, second}, "");
    return reason(log);
  };
  EXPECT_EQ(ng(DigestField("sha256:", digest), WithNul("/x")), std::nullopt);
  EXPECT_EQ(ng(DigestField("sha256", digest), WithNul("/x")), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha384:", digest), WithNul("/x")), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha257:", digest), WithNul("/x")), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("ima:sha256:", digest), WithNul("/x")), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha256:", digest), WithNul("/x"), "ima-ngv2"), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("dm:sha256:", digest), WithNul("/x"), "ima-ngv2"), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha256:", digest), Of("/x")), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha256:", digest), {}), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha256:", digest), Of(std::string("/a\0b\0", 5))), Reason::kMalformed);
  EXPECT_EQ(ng(DigestField("sha256:", digest), WithNul("/x"), "evm-sig"), Reason::kUnsupported);
  EXPECT_EQ(ng({}, WithNul("/x")), Reason::kMalformed);

  ImaLogWriter two;
  two.Ng("/a", digest).Ng("/b", digest);
  EXPECT_EQ(reason(two, {.max_entries = 1}), Reason::kLimitExceeded);
  EXPECT_EQ(reason(two, {.max_bytes = 10}), Reason::kLimitExceeded);
  EXPECT_EQ(reason(two, {.max_template_bytes = 10}), Reason::kLimitExceeded);
  EXPECT_EQ(reason(two, {.max_path_bytes = 1}), Reason::kMalformed);

  const auto line = [](std::string_view text) {
    return ReasonOf(ParseImaLog(AsBytes(text), ImaForm::kAscii, "log").status());
  };
  const std::string hash(40, 'a');
  const std::string sha256(64, 'b');
  EXPECT_EQ(line(StrCat("10 ", hash, " ima-ng sha256:", sha256, " /x\n")), std::nullopt);
  EXPECT_EQ(line(StrCat("10 ", hash, " ima-ng sha256:", sha256, "\n")), Reason::kMalformed);
  EXPECT_EQ(line(StrCat("x ", hash, " ima-ng sha256:", sha256, " /x\n")), Reason::kMalformed);
  EXPECT_EQ(line(StrCat("10 ", hash, "a ima-ng sha256:", sha256, " /x\n")), Reason::kMalformed);
  EXPECT_EQ(line(StrCat("10 ", hash, " ima-ng ", sha256, " /x\n")), Reason::kMalformed);
  EXPECT_EQ(line(StrCat("10 ", hash, " ima-sig sha256:", sha256, " /x\n")), Reason::kMalformed);
  EXPECT_EQ(line(StrCat("10 ", hash, " ima-sig sha256:", sha256, " /x 0\n")), Reason::kMalformed);
  EXPECT_EQ(line(StrCat("10 ", hash, " odd sha256:", sha256, " /x\n")), Reason::kUnsupported);
  EXPECT_EQ(line("\n"), Reason::kMalformed);
}

TEST(ImaLogVectorsTest, ReadsRealLogs) {
  const auto vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  const std::string keylime =
      crypto::testing::ReadText(*vectors + "/attest/ima/keylime_ascii_runtime_measurements");
  const auto log = ParseImaLog(AsBytes(keylime), ImaForm::kAscii, "keylime");
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_THAT(log->entries, SizeIs(826));
  size_t compared = 0;
  for (const std::string kind : {"clean", "viol"}) {
    const std::string folder = StrCat(*vectors, "/attest/measured_boot/", kind);
    const std::string binary = crypto::testing::ReadText(folder + "/binary_runtime_measurements");
    const std::string text = crypto::testing::ReadText(folder + "/ascii_runtime_measurements");
    const auto a = ParseImaLog(AsBytes(binary), ImaForm::kLittleEndian, kind);
    const auto b = ParseImaLog(AsBytes(text), ImaForm::kAscii, kind);
    ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
    ASSERT_EQ(a->entries.size(), b->entries.size());
    for (size_t i = 0; i < a->entries.size(); ++i) {
      EXPECT_EQ(AsText(a->entries[i].template_data), AsText(b->entries[i].template_data));
      ++compared;
    }
  }
  EXPECT_EQ(compared, 89u);
}

}  // namespace
}  // namespace pavise::evidence
