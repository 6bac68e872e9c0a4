#include "pavise/evidence/appraise/reference/reference_values.h"

#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/ima/ima_appraiser.h"
#include "pavise/evidence/testing/log_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::ElementsAre;
using testing::EventLogWriter;
using ::testing::HasSubstr;
using testing::ImaLogWriter;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const std::string kDigest = StrCat("sha256:", std::string(64, 'a'));

ReferenceValues Everything() {
  ReferenceValues values;
  values.secure_boot = true;
  values.registers[PcrBank::kSha256][7] = {{std::string(64, '1'), "a"},
                                           {std::string(64, '2'), "b"}};
  values.registers[PcrBank::kSha1][0] = {{std::string(40, '3'), "a"}};
  values.images = {{kDigest, "boot"}};
  values.command_lines = {{"root=/dev/vda \"quoted\"", "boot"}};
  values.command_line_digests = {{kDigest, "boot"}};
  values.files = {{"/bin/x", {{kDigest, "tree"}, {StrCat("verity:", kDigest), "tree"}}},
                  {"buffer:kexec-cmdline", {{kDigest, "log"}}}};
  values.excludes = {{"/tmp/*", "us"}};
  values.violations = {{"/var/log/*", "us"}};
  const auto key = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  values.keys[key->public_key().Fingerprint()] = {key->public_key().ToPem(), 0xdeadbeef, "us"};
  return values;
}

TEST(ReferenceValuesTest, SurvivesTheFileAndHasOneForm) {
  const ReferenceValues values = Everything();
  const std::string text = FormatReferenceValues(values);
  const auto parsed = ParseReferenceValues(AsBytes(text), "values");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, values);
  EXPECT_EQ(FormatReferenceValues(*parsed), text);
  EXPECT_THAT(text, HasSubstr(StrCat("\n    {\"path\":\"/bin/x\",\"digest\":\"", kDigest,
                                     "\",\"source\":\"tree\"},\n")));
  const std::string empty = FormatReferenceValues({});
  EXPECT_EQ(empty, "{\n  \"pavise_reference_values\": 1\n}\n");
  EXPECT_EQ(*ParseReferenceValues(AsBytes(empty), "values"), ReferenceValues());
}

TEST(ReferenceValuesTest, RefusesWhatItDoesNotWrite) {
  const auto reason = [](std::string_view members) {
    return ReasonOf(ParseReferenceValues(AsBytes(StrCat("{\"pavise_reference_values\":1",
                                                        members.empty() ? "" : ",", members, "}")),
                                         "values")
                        .status());
  };
  const auto file = [&](std::string_view digest, std::string_view path = "/x") {
    return StrCat("\"files\":[{\"path\":\"", path, "\",\"digest\":\"", digest,
                  "\",\"source\":\"s\"}]");
  };
  EXPECT_EQ(reason(""), std::nullopt);
  EXPECT_EQ(reason(file(kDigest)), std::nullopt);
  EXPECT_EQ(reason(file(kDigest, "")), Reason::kMalformed);
  const std::string short_digest = kDigest.substr(0, 70);
  for (const std::string& digest : std::vector<std::string>{
           short_digest, kDigest + "a", StrCat("sha256:", std::string(64, 'A')),
           StrCat("md5:", std::string(32, 'a')), std::string(64, 'a'), std::string()}) {
    EXPECT_EQ(reason(file(digest)), Reason::kMalformed) << digest;
  }
  EXPECT_EQ(reason("\"files\":[{\"path\":\"/x\",\"digest\":1,\"source\":\"s\"}]"),
            Reason::kMalformed);
  EXPECT_EQ(reason(StrCat("\"files\":[{\"path\":\"/x\",\"digest\":\"", kDigest, "\"}]")),
            Reason::kMalformed);
  EXPECT_EQ(reason("\"excludes\":[{\"pattern\":\"\",\"source\":\"s\"}]"), Reason::kMalformed);
  EXPECT_EQ(reason("\"excludes\":[{\"pattern\":\"a\",\"source\":\"s\"},"
                   "{\"pattern\":\"a\",\"source\":\"t\"}]"),
            Reason::kMalformed);
  EXPECT_EQ(reason("\"excludes\":{}"), Reason::kMalformed);
  EXPECT_EQ(reason("\"other\":[]"), Reason::kMalformed);
  EXPECT_EQ(reason("\"secure_boot\":1"), Reason::kMalformed);
  EXPECT_EQ(reason("\"keys\":[{\"pem\":\"x\",\"source\":\"s\"}]"), Reason::kMalformed);
  const auto pcr = [&](std::string_view bank, int index, size_t digits) {
    return reason(StrCat("\"registers\":[{\"bank\":\"", bank, "\",\"index\":", index,
                         ",\"value\":\"", std::string(digits, '0'), "\",\"source\":\"s\"}]"));
  };
  EXPECT_EQ(pcr("sha256", 23, 64), std::nullopt);
  EXPECT_EQ(pcr("sha256", 24, 64), Reason::kMalformed);
  EXPECT_EQ(pcr("sha256", 2, 40), Reason::kMalformed);
  EXPECT_EQ(pcr("sm3", 2, 64), Reason::kMalformed);
  EXPECT_EQ(
      ReasonOf(ParseReferenceValues(AsBytes("{\"pavise_reference_values\":2}"), "v").status()),
      Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(ParseReferenceValues(AsBytes("{}"), "v").status()), Reason::kMalformed);
  const std::string text = FormatReferenceValues(Everything());
  for (size_t size = 0; size + 1 < text.size(); ++size) {
    EXPECT_EQ(ReasonOf(ParseReferenceValues(AsBytes(text.substr(0, size)), "v").status()),
              Reason::kMalformed);
  }
}

TEST(ReferenceValuesTest, DiffsByItemAndNotBySource) {
  ReferenceValues before = Everything();
  ReferenceValues after = before;
  after.excludes["/tmp/*"] = "somebody else";
  EXPECT_THAT(DiffReferenceValues(before, after), IsEmpty());
  const std::string other = StrCat("sha256:", std::string(64, 'b'));
  after.files["/bin/x"] = {{other, "package x 2"}};
  after.files["/bin/new"] = {{other, "package x 2"}};
  after.secure_boot = false;
  after.excludes.clear();
  const auto differences = DiffReferenceValues(before, after);
  ASSERT_THAT(differences, SizeIs(4));
  EXPECT_EQ(differences[0].item, "Secure Boot");
  EXPECT_EQ(differences[1].item, "exclude /tmp/*");
  EXPECT_THAT(differences[1].added, IsEmpty());
  EXPECT_EQ(differences[2].item, "file /bin/new");
  EXPECT_THAT(differences[2].added, ElementsAre(other));
  EXPECT_EQ(differences[3].item, "file /bin/x");
  EXPECT_THAT(differences[3].removed, ElementsAre(kDigest, StrCat("verity:", kDigest)));

  ReferenceValues merged = before;
  EXPECT_EQ(ReasonOf(merged.Merge(after)), Reason::kPolicyDenied);
  EXPECT_EQ(merged, before);  // of a refusal nothing stays
  after.secure_boot.reset();
  ASSERT_TRUE(merged.Merge(after).ok());
  EXPECT_EQ(merged.secure_boot, true);
  EXPECT_THAT(merged.files.at("/bin/x"), SizeIs(3));
  EXPECT_EQ(merged.excludes.at("/tmp/*"), "us");
  ReferenceValues other_id = before;
  other_id.keys.begin()->second.key_id = 1;
  EXPECT_EQ(ReasonOf(merged.Merge(other_id)), Reason::kPolicyDenied);
}

EventLogWriter Boot(std::string_view loader = "loader", std::string_view line = "ro quiet") {
  EventLogWriter log({PcrBank::kSha256});
  log.Add(7, kEvEfiVariableDriverConfig, testing::VariableEvent("SecureBoot", Bytes{1}));
  for (uint32_t index = 0; index < 8; ++index) log.Add(index, kEvSeparator, Bytes(4));
  log.Add(4, kEvEfiBootServicesApplication, Bytes(32), AsBytes(loader));
  log.Add(8, kEvIpl, AsBytes(StrCat("kernel_cmdline: ", line)), AsBytes(line));
  Bytes tagged = {0xed, 0x22, 0x3b, 0x8f, 1, 0, 0, 0, 0};
  log.Add(9, kEvEventTag, tagged, testing::Utf16(line));
  return log;
}

PcrValues QuotedOf(const EventLogWriter& log) {
  PcrValues quoted = log.values();
  for (const uint32_t index : {8u, 9u, 12u, 14u}) {
    if (quoted.Get(PcrBank::kSha256, index) != nullptr) continue;
    EXPECT_TRUE(quoted.Set(PcrBank::kSha256, index, Bytes(32)).ok());
  }
  return quoted;
}

VerifiedEventLog Verified(const EventLogWriter& log) {
  CheckList checks;
  auto verified = EventLogAppraiser::Appraise(*ParseEventLog(log.bytes(), "log"), {}, QuotedOf(log),
                                              "log", checks);
  EXPECT_TRUE(verified.ok()) << verified.status();
  return *verified;
}

TEST(ReferenceValuesTest, HoldsABootAgainstAGoldenOne) {
  const EventLogWriter golden = Boot();
  ReferenceValues values;
  ASSERT_TRUE(AddBoot(Verified(golden), "golden", values).ok());
  AddRegisters(QuotedOf(golden), PcrBank::kSha256, {4, 7, 8}, "golden", values);
  EXPECT_EQ(values.secure_boot, true);
  EXPECT_THAT(values.images, SizeIs(1));
  EXPECT_THAT(values.command_lines, SizeIs(1));
  EXPECT_THAT(values.command_line_digests, SizeIs(1));
  EXPECT_THAT(values.registers.at(PcrBank::kSha256), SizeIs(3));
  const auto verdict = [&](const EventLogWriter& log, const ReferenceValues& against,
                           std::vector<std::string>* unused = nullptr) {
    CheckList checks;
    const VerifiedEventLog boot = Verified(log);
    const auto left = AppraiseBoot(&boot, QuotedOf(log), against, checks);
    if (unused != nullptr) *unused = left;
    std::vector<Reason> reasons;
    for (const Refusal& refusal : RefusalsOf(checks.Verdict())) reasons.push_back(refusal.reason);
    return reasons;
  };
  std::vector<std::string> unused;
  EXPECT_THAT(verdict(golden, values, &unused), IsEmpty());
  EXPECT_THAT(unused, IsEmpty());
  // The text alone covers the stub's digest of it.
  ReferenceValues texts = values;
  texts.command_line_digests.clear();
  texts.registers.clear();
  EXPECT_THAT(verdict(golden, texts), IsEmpty());

  EXPECT_THAT(verdict(Boot("another loader"), values, &unused),
              ElementsAre(Reason::kMeasurementMismatch, Reason::kMeasurementUnknown));
  EXPECT_THAT(unused, SizeIs(2));
  EXPECT_THAT(verdict(Boot("another loader"), texts), ElementsAre(Reason::kMeasurementUnknown));
  EXPECT_THAT(verdict(Boot("loader", "ro init=/bin/sh"), texts, &unused),
              ElementsAre(Reason::kMeasurementUnknown, Reason::kMeasurementUnknown));
  EXPECT_THAT(unused, ElementsAre("command line ro quiet"));
  texts.secure_boot = false;
  EXPECT_THAT(verdict(golden, texts), ElementsAre(Reason::kPlatformInsecure));
  ReferenceValues far;
  far.registers[PcrBank::kSha256][15] = {{std::string(64, '0'), "x"}};
  EXPECT_THAT(verdict(golden, far), ElementsAre(Reason::kEvidenceMissing));
}

std::vector<Reason> Verdict(const EventLogWriter& log, const ReferenceValues& against,
                            std::optional<PcrValues> quoted = std::nullopt) {
  if (!quoted.has_value()) quoted = QuotedOf(log);
  CheckList checks;
  EventLogRequest request;
  request.required = {7};
  const auto boot = EventLogAppraiser::Appraise(*ParseEventLog(log.bytes(), "log"), request,
                                                *quoted, "log", checks);
  EXPECT_TRUE(boot.ok()) << boot.status();
  if (boot.ok()) (void)AppraiseBoot(&*boot, *quoted, against, checks);
  std::vector<Reason> reasons;
  for (const Refusal& refusal : RefusalsOf(checks.Verdict())) reasons.push_back(refusal.reason);
  return reasons;
}

constexpr std::string_view kGood = "/vmlinuz root=/dev/vda ro";
constexpr std::string_view kEvil = "/vmlinuz root=/dev/vda init=/bin/sh";

EventLogWriter Begin() {
  EventLogWriter log({PcrBank::kSha256});
  log.Add(7, kEvSeparator, Bytes(4));
  return log;
}

TEST(ReferenceValuesTest, NoLabelHidesACommandLine) {
  ReferenceValues values;
  values.command_lines = {{std::string(kGood), "golden"}};
  const Bytes tagged = {0xed, 0x22, 0x3b, 0x8f, 1, 0, 0, 0, 0};
  EXPECT_THAT(Verdict(Begin().Add(9, kEvEventTag, tagged, testing::Utf16(kGood)), values),
              IsEmpty());
  EXPECT_THAT(Verdict(Begin().Add(9, kEvEventTag, tagged, testing::Utf16(kEvil)), values),
              ElementsAre(Reason::kMeasurementUnknown));
  // Called an initrd, while root extends PCR 8 by the good one.
  EventLogWriter renamed = Begin();
  renamed.Add(9, kEvIpl, AsBytes("initrd"), testing::Utf16(kEvil));
  renamed.Add(8, kEvIpl, testing::Utf16(kGood));
  EXPECT_THAT(Verdict(renamed, values), ElementsAre(Reason::kMeasurementUnknown));
  ReferenceValues with_register = values;
  with_register.registers[PcrBank::kSha256][9] = {
      {ToHex(*renamed.values().Get(PcrBank::kSha256, 9)), "the owner's"}};
  EXPECT_THAT(Verdict(renamed, with_register), IsEmpty());
  // What GRUB passed on called a command, and the reverse.
  EventLogWriter swapped = Begin();
  swapped.Add(8, kEvIpl, AsBytes(StrCat("kernel_cmdline: ", kGood)), AsBytes(kGood));
  swapped.Add(8, kEvIpl, AsBytes(StrCat("grub_cmd: ", kEvil)), AsBytes(kEvil));
  EXPECT_THAT(Verdict(swapped, values), ElementsAre(Reason::kMeasurementUnknown));
  EventLogWriter grub = Begin();
  grub.Add(8, kEvIpl, AsBytes("grub_cmd: set timeout=0"), AsBytes("set timeout=0"));
  grub.Add(8, kEvIpl, AsBytes(StrCat("kernel_cmdline: ", kGood)), AsBytes(kGood));
  EXPECT_THAT(Verdict(grub, values), IsEmpty());
  // Wide text under GRUB's label, and an event that describes nothing.
  const Bytes wide = testing::Utf16("init=/bin/sh");
  Bytes labelled = {'g', 'r', 'u', 'b', '_', 'c', 'm', 'd', ':', ' '};
  labelled.insert(labelled.end(), wide.begin(), wide.end());
  labelled.push_back(0);
  EXPECT_THAT(Verdict(EventLogWriter(grub).Add(8, kEvIpl, labelled, wide), values),
              ElementsAre(Reason::kMeasurementUnknown));
  for (const uint32_t index : {8u, 9u, 12u}) {
    EXPECT_THAT(Verdict(EventLogWriter(grub).Add(index, 0x12345, AsBytes("?"), wide), values),
                ElementsAre(Reason::kMeasurementUnknown))
        << index;
    EXPECT_THAT(Verdict(EventLogWriter(grub).Add(index, kEvIpl, Bytes(4)), values), IsEmpty())
        << index;  // a separator
  }
  // A line in a register that anybody extends counts for nothing.
  EXPECT_THAT(Verdict(Begin().Add(1, kEvIpl, testing::Utf16(kGood)), values),
              ElementsAre(Reason::kEvidenceMissing));
}

TEST(ReferenceValuesTest, TextsThatDoNotDecodeDoNotVanish) {
  ReferenceValues values;
  values.command_lines = {{std::string(kGood), "golden"}};
  EventLogWriter grub = Begin();
  grub.Add(8, kEvIpl, AsBytes(StrCat("kernel_cmdline: ", kGood)), AsBytes(kGood));
  const std::string latin = StrCat(kEvil, " \xff");
  EXPECT_THAT(Verdict(EventLogWriter(grub).Add(
                          8, kEvIpl, AsBytes(StrCat("kernel_cmdline: ", latin)), AsBytes(latin)),
                      values),
              ElementsAre(Reason::kMeasurementUnknown));
  Bytes odd = testing::Utf16("init=/bin/sh ");
  odd.insert(odd.end() - 2, {0x00, 0xd8});  // half of a surrogate pair
  Bytes tagged = {0xed, 0x22, 0x3b, 0x8f, static_cast<uint8_t>(odd.size()), 0, 0, 0};
  tagged.insert(tagged.end(), odd.begin(), odd.end());
  for (const uint8_t tag : {0xed, 0xec}) {
    tagged[0] = tag;
    EXPECT_THAT(Verdict(EventLogWriter(grub).Add(9, kEvEventTag, tagged, odd), values),
                ElementsAre(Reason::kMeasurementUnknown));
  }
  EXPECT_THAT(Verdict(EventLogWriter(grub).Add(9, kEvIpl, odd), values),
              ElementsAre(Reason::kMeasurementUnknown));
  EXPECT_THAT(Verdict(EventLogWriter(grub).Add(12, kEvIpl, odd), values),
              ElementsAre(Reason::kMeasurementUnknown));
}

TEST(ReferenceValuesTest, WhatIsListedMustBeSeen) {
  const EventLogWriter golden = Boot();
  ReferenceValues values;
  ASSERT_TRUE(AddBoot(Verified(golden), "golden", values).ok());
  EXPECT_THAT(Verdict(golden, values), IsEmpty());
  // PCR 4 left out of the log, or not quoted; the same for the lines' registers.
  for (const uint32_t index : {4u, 8u, 9u, 12u}) {
    const PcrValues all = QuotedOf(golden);
    PcrValues quoted;
    PcrValues other = all;
    for (const auto& [i, value] : all.banks().at(PcrBank::kSha256)) {
      if (i == index) continue;
      ASSERT_TRUE(quoted.Set(PcrBank::kSha256, i, value).ok());
    }
    EXPECT_THAT(Verdict(golden, values, quoted), ElementsAre(Reason::kEvidenceMissing)) << index;
    ASSERT_TRUE(other.Set(PcrBank::kSha256, index, Bytes(32, 0xee)).ok());
    EXPECT_THAT(Verdict(golden, values, other), ElementsAre(Reason::kEvidenceMissing)) << index;
  }
  // Without a log.
  CheckList checks;
  (void)AppraiseBoot(nullptr, QuotedOf(golden), values, checks);
  EXPECT_EQ(ReasonOf(checks.Verdict()), Reason::kEvidenceMissing);
  for (const auto keep : {0, 1, 2, 3}) {
    ReferenceValues one;
    if (keep == 0) one.secure_boot = true;
    if (keep == 1) one.images = values.images;
    if (keep == 2) one.command_lines = values.command_lines;
    if (keep == 3) one.command_line_digests = values.command_line_digests;
    CheckList of_one;
    (void)AppraiseBoot(nullptr, QuotedOf(golden), one, of_one);
    EXPECT_EQ(ReasonOf(of_one.Verdict()), Reason::kEvidenceMissing) << keep;
  }
  ReferenceValues registers;
  registers.registers[PcrBank::kSha256][7] = {{std::string(64, 'b'), "golden"}};
  CheckList compared;
  (void)AppraiseBoot(nullptr, QuotedOf(golden), registers, compared);
  EXPECT_EQ(ReasonOf(compared.Verdict()), Reason::kMeasurementMismatch);
}

TEST(ReferenceValuesTest, BootsThatContradictEachOtherMakeNoReferences) {
  ReferenceValues values;
  const auto boot = [](std::optional<uint8_t> secure_boot) {
    EventLogWriter log({PcrBank::kSha256});
    if (secure_boot.has_value()) {
      log.Add(7, kEvEfiVariableDriverConfig,
              testing::VariableEvent("SecureBoot", Bytes{*secure_boot}));
    }
    for (uint32_t index = 0; index < 10; ++index) log.Add(index, kEvSeparator, Bytes(4));
    return Verified(log);
  };
  ASSERT_TRUE(AddBoot(boot(1), "one", values).ok());
  ASSERT_TRUE(AddBoot(boot(std::nullopt), "never measured", values).ok());
  EXPECT_EQ(values.secure_boot, true);
  EXPECT_EQ(ReasonOf(AddBoot(boot(0), "another", values)), Reason::kPolicyDenied);
  EXPECT_EQ(values.secure_boot, true);
}

TEST(ReferenceValuesTest, MakesTheRulesOfAGoldenLog) {
  const Bytes digest(32, 0xaa);
  ImaLogWriter log;
  log.Ng("boot_aggregate", Bytes(32)).Ng("/init", digest).Ng("/init", Bytes(32, 0xbb));
  log.Violation("/var/log/x").Ng("/bin/\xff", digest).Ng("/old", Bytes(16, 1), "md5");
  const auto parsed = ParseImaLog(log.bytes(), ImaForm::kLittleEndian, "log");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ReferenceValues values;
  const auto left_out = AddImaLog(*parsed, parsed->entries.size(), "golden", values);
  EXPECT_THAT(left_out, ElementsAre(HasSubstr("a violation"), HasSubstr("not UTF-8"),
                                    HasSubstr("measured by md5")));
  EXPECT_THAT(values.files, SizeIs(1));
  EXPECT_THAT(values.files.at("/init"), SizeIs(2));
  const auto rules = ImaRulesOf(Everything());
  ASSERT_TRUE(rules.ok());
  EXPECT_EQ(rules->keys[0].key_id, 0xdeadbeef);
  EXPECT_TRUE(ImaPolicy::Create(*rules).ok());
}

}  // namespace
}  // namespace pavise::evidence
