#include "pavise/evidence/appraise/eventlog/event_log.h"

#include <cctype>
#include <functional>
#include <map>
#include <string>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"
#include "pavise/evidence/testing/log_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::ReadText;
using crypto::testing::RunCommand;
using crypto::testing::VectorsDirectory;
using ::testing::Contains;
using ::testing::ElementsAre;
using testing::EventLogWriter;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using testing::Utf16;
using testing::VariableEvent;

const std::vector<PcrBank> kTwoBanks = {PcrBank::kSha1, PcrBank::kSha256};
constexpr std::string_view kCommandLine = "/vmlinuz root=/dev/vda1 ro";

// Every register of a short boot: Secure Boot, GRUB, a unified kernel image's sections.
EventLogWriter Boot(const std::vector<PcrBank>& banks = kTwoBanks, uint8_t secure_boot = 1) {
  EventLogWriter log(banks);
  log.StartupLocality(3);
  log.Add(0, kEvSCrtmVersion, AsBytes("v1"));
  log.Add(0, 0x80000008, Bytes(16, 7), AsBytes("the firmware"));
  log.Add(7, kEvEfiVariableDriverConfig, VariableEvent("SecureBoot", Bytes{secure_boot}));
  log.Add(7, kEvEfiVariableDriverConfig, VariableEvent("PK", AsBytes("a key")));
  for (uint32_t index = 0; index < 8; ++index) log.Add(index, kEvSeparator, Bytes(4));
  log.Add(1, kEvEfiVariableBoot, VariableEvent("BootOrder", Bytes{1, 0}), Bytes{1, 0});
  log.Add(4, kEvEfiAction, AsBytes("Calling EFI Application from Boot Option"));
  Bytes image(32);
  const Bytes path = Utf16("\\EFI\\BOOT\\BOOTX64.EFI");
  image[24] = static_cast<uint8_t>(4 + path.size() + 4);
  for (const uint8_t byte : {4, 4, static_cast<int>(4 + path.size()), 0}) image.push_back(byte);
  image.insert(image.end(), path.begin(), path.end());
  for (const uint8_t byte : {0x7f, 0xff, 4, 0}) image.push_back(byte);
  log.Add(4, kEvEfiBootServicesApplication, image, AsBytes("Authenticode"));
  log.Add(8, kEvIpl, AsBytes(StrCat("kernel_cmdline: ", kCommandLine, std::string(1, '\0'))),
          AsBytes(kCommandLine));
  log.Add(9, kEvIpl, AsBytes("/vmlinuz"), AsBytes("the kernel"));
  Bytes tagged = {0xed, 0x22, 0x3b, 0x8f, 26, 0, 0, 0};
  for (const char letter : std::string_view("LOADED_IMAGE::LoadOptions", 26)) {
    tagged.push_back(static_cast<uint8_t>(letter));
  }
  log.Add(9, kEvEventTag, tagged, Utf16(kCommandLine));
  log.Add(11, kEvIpl, Utf16(".linux"), AsBytes(std::string_view(".linux\0", 7)));
  log.Add(11, kEvIpl, Utf16(".linux"), AsBytes("the kernel"));
  log.Add(12, kEvIpl, Utf16("debug"), Utf16("debug"));
  return log;
}

// What a quote over the usual registers would say.
PcrValues Quoted(const EventLogWriter& log) {
  PcrValues values = log.values();
  for (const auto& [bank, of_bank] : log.values().banks()) {
    for (uint32_t index = 0; index < 16; ++index) {
      if (values.Get(bank, index) == nullptr) {
        EXPECT_TRUE(values.Set(bank, index, InitialPcrValue(bank, index)).ok());
      }
    }
  }
  return values;
}

absl::StatusOr<VerifiedEventLog> Appraise(ByteSpan bytes, const PcrValues& quoted,
                                          const EventLogRequest& request = {}) {
  PAVISE_ASSIGN_OR_RETURN(const EventLog log, ParseEventLog(bytes, "log"));
  CheckList checks;
  return EventLogAppraiser::Appraise(log, request, quoted, "log", checks);
}

TEST(EventLogTest, DrawsClaimsFromALogThatReplays) {
  const EventLogWriter log = Boot();
  const auto verified = Appraise(log.bytes(), Quoted(log));
  ASSERT_TRUE(verified.ok()) << verified.status();
  const EventLogClaims& claims = **verified;
  EXPECT_EQ(claims.secure_boot, true);
  EXPECT_THAT(claims.registers, SizeIs(13));
  EXPECT_THAT(claims.described_registers, ElementsAre(0, 4, 9, 11));
  ASSERT_THAT(claims.images, SizeIs(1));
  EXPECT_EQ(claims.images[0].path, "\\EFI\\BOOT\\BOOTX64.EFI");
  ASSERT_THAT(claims.variables, SizeIs(3));
  EXPECT_EQ(claims.variables[0].name, "SecureBoot");
  EXPECT_EQ(claims.variables[0].vendor, "8be4df61-93ca-11d2-aa0d-00e098032b8c");
  EXPECT_EQ(claims.variables[2].name, "");  // of which only the content was measured
  EXPECT_EQ(claims.variables[2].vendor, "");
  ASSERT_THAT(claims.command_lines, SizeIs(3));
  EXPECT_EQ(claims.command_lines[0].text, kCommandLine);
  EXPECT_EQ(claims.command_lines[1].text, std::nullopt);
  EXPECT_EQ(claims.command_lines[1].source, "LOADED_IMAGE::LoadOptions");
  EXPECT_EQ(claims.command_lines[1].digest,
            *crypto::Digest(crypto::DigestAlgorithm::kSha256, Utf16(kCommandLine)));
  EXPECT_EQ(claims.command_lines[2].text, "debug");
  ASSERT_THAT(claims.measurements, SizeIs(2));
  EXPECT_EQ(claims.measurements[0].name, "/vmlinuz");
  EXPECT_FALSE(claims.measurements[0].name_proven);
  EXPECT_EQ(claims.measurements[1].name, ".linux");
  EXPECT_TRUE(claims.measurements[1].name_proven);
  EXPECT_THAT(claims.actions, ElementsAre("Calling EFI Application from Boot Option"));
}

TEST(EventLogTest, ReadsTheFormsOfTheLog) {
  const EventLogWriter legacy = Boot({});
  const auto parsed = ParseEventLog(legacy.bytes(), "log");
  ASSERT_TRUE(parsed.ok());
  EXPECT_FALSE(parsed->crypto_agile);
  EXPECT_TRUE(Appraise(legacy.bytes(), Quoted(legacy), {.bank = PcrBank::kSha1}).ok());
  EXPECT_EQ(ReasonOf(Appraise(legacy.bytes(), Quoted(legacy)).status()), Reason::kEvidenceMissing);

  Bytes padded = Boot().bytes();
  padded.resize(padded.size() + 100, 0xff);
  EXPECT_EQ(ParseEventLog(padded, "log")->padding_bytes, 100u);
  padded.push_back(0);
  EXPECT_EQ(ReasonOf(ParseEventLog(padded, "log").status()), Reason::kMalformed);
  EXPECT_TRUE(ParseEventLog({}, "log")->events.empty());

  EXPECT_EQ(ReasonOf(ParseEventLog(legacy.bytes(), "log", {.max_bytes = 10}).status()),
            Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(ParseEventLog(legacy.bytes(), "log", {.max_events = 3}).status()),
            Reason::kLimitExceeded);
}

TEST(EventLogTest, RefusesTruncationAtEveryOffset) {
  const EventLogWriter log = Boot();
  const PcrValues quoted = Quoted(log);
  EventLogRequest request;
  request.required.insert({11, 12});
  ASSERT_TRUE(Appraise(log.bytes(), quoted, request).ok());
  for (size_t size = 0; size < log.bytes().size(); ++size) {
    EXPECT_NE(ReasonOf(Appraise(ByteSpan(log.bytes()).first(size), quoted, request).status()),
              std::nullopt)
        << size;
  }
}

TEST(EventLogTest, NoChangedByteChangesAnAcceptedClaim) {
  const EventLogWriter log = Boot();
  const PcrValues quoted = Quoted(log);
  EventLogRequest request;
  request.required.insert({11, 12});
  const auto unchanged = Appraise(log.bytes(), quoted, request);
  ASSERT_TRUE(unchanged.ok());
  size_t accepted = 0;
  for (size_t i = 0; i < log.bytes().size(); ++i) {
    Bytes changed = log.bytes();
    changed[i] ^= 0x20;
    const auto verified = Appraise(changed, quoted, request);
    if (!verified.ok()) {
      EXPECT_NE(ReasonOf(verified.status()), std::nullopt) << verified.status();
      continue;
    }
    // Types and descriptions are not measured; whatever is proven must be as it was.
    ++accepted;
    EXPECT_EQ((*verified)->secure_boot, true) << i;
    EXPECT_EQ((*verified)->values, (*unchanged)->values) << i;
    for (const CommandLine& line : (*verified)->command_lines) {
      EXPECT_TRUE(!line.text.has_value() || *line.text == kCommandLine || *line.text == "debug")
          << i << ": " << *line.text;
    }
  }
  EXPECT_LT(accepted, log.bytes().size() / 2);
}

TEST(EventLogTest, RefusesOtherRegistersAndBanks) {
  const EventLogWriter log = Boot();
  const PcrValues quoted = Quoted(log);
  for (const uint32_t index : {0u, 4u, 7u, 9u, 14u}) {
    PcrValues other = quoted;
    Bytes value = *quoted.Get(PcrBank::kSha256, index);
    value[0] ^= 1;
    ASSERT_TRUE(other.Set(PcrBank::kSha256, index, value).ok());
    const absl::Status status = Appraise(log.bytes(), other).status();
    EXPECT_EQ(ReasonOf(status), Reason::kMeasurementMismatch);
    EXPECT_THAT(RefusalsOf(status)[0].item, HasSubstr(StrCat("PCR ", index)));
  }
  // The SHA-1 bank under the SHA-256 bank's name cannot be said; without the SHA-256 bank nothing
  // holds, and a SHA-1 bank that differs is refused beside a good SHA-256 bank.
  PcrValues only_sha1;
  PcrValues mixed = quoted;
  for (const auto& [index, value] : quoted.banks().at(PcrBank::kSha1)) {
    ASSERT_TRUE(only_sha1.Set(PcrBank::kSha1, index, value).ok());
    EXPECT_FALSE(mixed.Set(PcrBank::kSha256, index, value).ok());
  }
  EXPECT_EQ(ReasonOf(Appraise(log.bytes(), only_sha1).status()), Reason::kEvidenceMissing);
  ASSERT_TRUE(mixed.Set(PcrBank::kSha1, 4, Bytes(20, 1)).ok());
  EXPECT_EQ(ReasonOf(Appraise(log.bytes(), mixed).status()), Reason::kMeasurementMismatch);
  EXPECT_EQ(ReasonOf(Appraise(log.bytes(), {}).status()), Reason::kEvidenceMissing);
}

TEST(EventLogTest, RefusesEventDataThatWasNotMeasured) {
  for (const uint32_t type :
       {kEvSeparator, kEvEfiAction, kEvEfiVariableDriverConfig, kEvEfiVariableAuthority,
        kEvEfiVariableBoot, kEvEfiVariableBoot2, kEvEfiGptEvent, kEvSCrtmVersion}) {
    EventLogWriter log = Boot();
    log.Add(7, type, VariableEvent("SecureBoot", Bytes{1}), VariableEvent("SecureBoot", Bytes{0}));
    const absl::Status status = Appraise(log.bytes(), Quoted(log)).status();
    ASSERT_EQ(ReasonOf(status), Reason::kMeasurementMismatch) << EventTypeName(type);
    EXPECT_THAT(RefusalsOf(status)[0].item, HasSubstr(EventTypeName(type)));
  }
  EventLogWriter grub = Boot();
  grub.Add(8, kEvIpl, AsBytes("grub_cmd: linux /good"), AsBytes("linux /bad"));
  EXPECT_EQ(ReasonOf(Appraise(grub.bytes(), Quoted(grub)).status()), Reason::kMeasurementMismatch);
  EventLogWriter error = Boot();
  error.Add(3, kEvSeparator, AsBytes("no memory"), Bytes{1, 0, 0, 0});
  EXPECT_EQ(ReasonOf(Appraise(error.bytes(), Quoted(error)).status()), Reason::kPlatformInsecure);
}

// The type of an event is not measured, so a log may rename the firmware's "SecureBoot is off", and
// root may extend a "SecureBoot is on" later.
TEST(EventLogTest, SecureBootIsWhatTheFirmwareMeasuredFirst) {
  EventLogWriter log(kTwoBanks);
  log.Add(7, kEvIpl, AsBytes("nothing to see"), VariableEvent("SecureBoot", Bytes{0}));
  log.Add(7, kEvEfiVariableDriverConfig, VariableEvent("SecureBoot", Bytes{1}));
  log.Add(7, kEvSeparator, Bytes(4));
  auto verified = Appraise(log.bytes(), Quoted(log));
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->secure_boot, false);

  EventLogWriter late(kTwoBanks);
  late.Add(7, kEvIpl, AsBytes("a separator"), Bytes(4));
  late.Add(7, kEvEfiVariableDriverConfig, VariableEvent("SecureBoot", Bytes{1}));
  verified = Appraise(late.bytes(), Quoted(late));
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ((*verified)->secure_boot, std::nullopt);

  // A variable of that name in another register says nothing.
  EventLogWriter elsewhere(kTwoBanks);
  elsewhere.Add(14, kEvEfiVariableDriverConfig, VariableEvent("SecureBoot", Bytes{1}));
  verified = Appraise(elsewhere.bytes(), Quoted(elsewhere));
  ASSERT_TRUE(verified.ok());
  EXPECT_EQ((*verified)->secure_boot, std::nullopt);
}

TEST(EventLogTest, RefusesMalformedLogs) {
  const Bytes good = Boot().bytes();
  const auto refused = [&](const std::function<void(Bytes&)>& change) {
    Bytes bytes = good;
    change(bytes);
    return ReasonOf(ParseEventLog(bytes, "log").status());
  };
  constexpr size_t kHeader = 32;       // of the first event, before the Spec ID structure
  constexpr size_t kSecond = 32 + 37;  // the StartupLocality event
  EXPECT_EQ(refused([](Bytes& b) { b[kHeader + 24] = 0; }), Reason::kMalformed);   // no algorithms
  EXPECT_EQ(refused([](Bytes& b) { b[kHeader + 24] = 17; }), Reason::kMalformed);  // too many
  EXPECT_EQ(refused([](Bytes& b) { b[kHeader + 30] = 21; }), Reason::kMalformed);  // SHA-1 of 21
  EXPECT_EQ(refused([](Bytes& b) { b[kHeader + 32] = 4; }), Reason::kMalformed);   // twice
  EXPECT_EQ(refused([](Bytes& b) { b[kHeader + 36] = 9; }), Reason::kMalformed);   // vendor bytes
  EXPECT_EQ(refused([](Bytes& b) { b[kSecond + 8] = 3; }), Reason::kMalformed);    // digest count
  EXPECT_EQ(refused([](Bytes& b) { b[kSecond + 12] = 12; }), Reason::kMalformed);  // undeclared
  EXPECT_EQ(refused([](Bytes& b) { b[kSecond + 34] = 4; }), Reason::kMalformed);   // doubled
  EXPECT_EQ(refused([](Bytes& b) { b[kSecond] = 1; }), Reason::kMalformed);  // locality of PCR 1
  EXPECT_EQ(refused([](Bytes& b) { b[kSecond + 88] = 9; }), Reason::kMalformed);  // locality 9
  EventLogWriter late(kTwoBanks);
  late.Add(0, kEvSeparator, Bytes(4)).StartupLocality(3);
  EXPECT_EQ(ReasonOf(ParseEventLog(late.bytes(), "log").status()), Reason::kMalformed);
  EventLogWriter far(kTwoBanks);
  Bytes bytes = far.Add(3, kEvSeparator, Bytes(4)).bytes();
  bytes[kSecond] = 24;
  EXPECT_EQ(ReasonOf(ParseEventLog(bytes, "log").status()), Reason::kMalformed);
}

TEST(EventLogTest, NoTypeHidesAnImage) {
  for (const uint32_t type : {uint32_t{kEvIpl}, uint32_t{kEvEventTag}, uint32_t{0x12345}}) {
    EventLogWriter log = Boot();
    log.Add(4, type, AsBytes("nothing to see"), AsBytes("a second loader"));
    const auto verified = Appraise(log.bytes(), Quoted(log));
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_THAT((*verified)->images, SizeIs(2));
  }
  // Nor with the bytes that were hashed, which prove the data of a type whose digest is of it.
  for (const uint32_t type :
       {kEvEfiAction, kEvOmitBootDeviceEvents, kEvSCrtmVersion, kEvEfiGptEvent, kEvEfiVariableBoot,
        kEvEfiVariableBoot2, kEvEfiVariableDriverConfig, kEvEfiVariableAuthority, kEvIpl,
        kEvEventTag}) {
    EventLogWriter log = Boot();
    log.Add(4, type, AsBytes("MZ a second loader"));
    const auto verified = Appraise(log.bytes(), Quoted(log));
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_THAT((*verified)->images, SizeIs(2)) << EventTypeName(type);
  }
  // What firmware measures there beside images is none, whatever it is called.
  EventLogWriter log = Boot();
  for (const std::string_view text :
       {"Returning from EFI Application from Boot Option", "BOOT ATTEMPTS OMITTED"}) {
    log.Add(4, kEvEfiAction, AsBytes(text)).Add(4, kEvIpl, AsBytes("x"), AsBytes(text));
  }
  log.Add(4, kEvSeparator, Bytes(4, 0xff));
  const auto verified = Appraise(log.bytes(), Quoted(log));
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT((*verified)->images, SizeIs(1));
}

TEST(EventLogTest, PartitionTablesAreNoImagesInRtmr1Only) {
  const auto images = [](LogRegisters kind, std::string_view data, std::string_view measured) {
    EventLogWriter log(kTwoBanks);
    log.Add(ImageRegister(kind), kEvEfiGptEvent, AsBytes(data), AsBytes(measured));
    const auto verified =
        Appraise(log.bytes(), Quoted(log), {.kind = kind, .required = {ImageRegister(kind)}});
    EXPECT_TRUE(verified.ok()) << verified.status();
    return verified.ok() ? (*verified)->images.size() : 0;
  };
  EXPECT_EQ(images(LogRegisters::kTdx, "EFI PART...", "EFI PART..."), 0u);
  EXPECT_EQ(images(LogRegisters::kTdx, "MZ", "MZ"), 1u);
  EXPECT_EQ(images(LogRegisters::kTpm, "EFI PART...", "EFI PART..."), 1u);
}

TEST(EventLogTest, AnErrorSeparatorIsOneWhateverItsType) {
  for (const uint32_t type :
       {uint32_t{kEvEfiAction}, uint32_t{kEvSeparator}, uint32_t{kEvIpl}, uint32_t{0x12345}}) {
    EventLogWriter log = Boot();
    log.Add(0, type, Bytes{1, 0, 0, 0});
    EXPECT_EQ(ReasonOf(Appraise(log.bytes(), Quoted(log)).status()), Reason::kPlatformInsecure);
  }
  // Of BootOrder, measured alone, the same bytes are an order.
  EventLogWriter order = Boot();
  const Bytes first_then_zero = {1, 0, 0, 0};
  order.Add(1, kEvEfiVariableBoot, VariableEvent("BootOrder", first_then_zero), first_then_zero);
  EXPECT_TRUE(Appraise(order.bytes(), Quoted(order)).ok());
  order.Add(3, kEvEfiVariableBoot, VariableEvent("BootOrder", first_then_zero), first_then_zero);
  EXPECT_EQ(ReasonOf(Appraise(order.bytes(), Quoted(order)).status()), Reason::kPlatformInsecure);
}

Bytes FileBytes(const std::string& path) {
  const std::string text = ReadText(path);
  return Bytes(text.begin(), text.end());
}

// "sha1:" headings and "  10: 0xHEX" lines, as tpm2_pcrread and tpm2_eventlog print them.
PcrValues ParsePcrText(std::string_view text) {
  PcrValues values;
  PcrBank bank = PcrBank::kSha1;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string line(text.substr(at, end - at));
    at = end + 1;
    char name[16] = {};
    char hex[130] = {};
    unsigned int index = 0;
    if (sscanf(line.c_str(), " %u : 0x%128[0-9a-fA-F]", &index, hex) == 2) {
      EXPECT_TRUE(values.Set(bank, index, *FromHex(hex, "pcr")).ok());
    } else if (sscanf(line.c_str(), " sha%8[0-9]:", name) == 1) {
      for (const PcrBank known :
           {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512}) {
        if (PcrBankName(known) == StrCat("sha", std::string(name))) bank = known;
      }
    }
  }
  return values;
}

TEST(EventLogVectorsTest, MeasuredBootReplaysToTheQuotedRegisters) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  size_t executed = 0;
  for (const std::string kind : {"clean", "viol"}) {
    const std::string folder = StrCat(*vectors, "/attest/measured_boot/", kind);
    const PcrValues quoted = ParsePcrText(ReadText(folder + "/pcrs.txt"));
    const Bytes bytes = FileBytes(folder + "/binary_bios_measurements");
    const auto verified = Appraise(bytes, quoted);
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ((*verified)->secure_boot, false);
    ASSERT_THAT((*verified)->command_lines, SizeIs(1));
    std::string info = ReadText(folder + "/info");
    const size_t begin = info.find("console=");
    ASSERT_NE(begin, std::string::npos);
    const std::string text = info.substr(begin, info.find('\n', begin) - begin);
    EXPECT_EQ((*verified)->command_lines[0].digest,
              *crypto::Digest(crypto::DigestAlgorithm::kSha256, Utf16(text)));
    ASSERT_THAT((*verified)->measurements, SizeIs(1));
    EXPECT_EQ((*verified)->measurements[0].name, "Linux initrd");
    ++executed;
  }
  EXPECT_EQ(executed, 2u);
}

TEST(EventLogVectorsTest, Tpm2EventlogAgreesOnRealLogs) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  if (!crypto::testing::HasProgram("tpm2_eventlog")) GTEST_SKIP() << "tpm2_eventlog not installed";
  size_t executed = 0;
  size_t compared = 0;
  for (const std::string& path :
       crypto::testing::FilesBelow(*vectors + "/attest/eventlog", ".bin")) {
    const Bytes bytes = FileBytes(path);
    const auto log = ParseEventLog(bytes, path);
    ASSERT_TRUE(log.ok()) << log.status();
    const std::string output = RunCommand(StrCat("tpm2_eventlog ", path)).output;
    const size_t begin = output.find("\npcrs:");
    ASSERT_NE(begin, std::string::npos) << path;
    const PcrValues theirs = ParsePcrText(std::string_view(output).substr(begin));
    EXPECT_THAT(theirs.banks(), SizeIs(log->banks.size()));
    for (const auto& [bank, of_bank] : theirs.banks()) {
      const auto ours = ReplayEventLog(*log, bank, path);
      ASSERT_TRUE(ours.ok());
      for (const auto& [index, value] : of_bank) {
        const Bytes* mine = ours->Get(bank, index);
        ASSERT_NE(mine, nullptr);
        EXPECT_EQ(*mine, value) << path << " " << PcrName(bank, index);
        ++compared;
      }
    }
    // Each is accepted against its own replay, so no event of a real log is called mismatched.
    PcrValues quoted = theirs;
    EventLogRequest request{.bank = log->banks.back()};
    request.required = {0, 1, 2, 3, 4, 5, 6, 7};
    CheckList checks;
    const auto verified = EventLogAppraiser::Appraise(*log, request, quoted, path, checks);
    EXPECT_TRUE(verified.ok()) << path << verified.status();
    ++executed;
  }
  EXPECT_EQ(executed, 4u);
  EXPECT_EQ(compared, 92u);
}

// The fields of google/go-tpm-tools' attest.proto that are asked for; wire format only.
std::vector<ByteSpan> ProtobufFields(ByteSpan message, uint64_t number) {
  std::vector<ByteSpan> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; at < message.size(); shift += 7) {
      const uint8_t byte = message[at++];
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  while (at < message.size()) {
    const uint64_t key = varint();
    const uint64_t value = varint();
    if ((key & 7) != 2) continue;
    if (value > message.size() - at) return {};
    if (key >> 3 == number) fields.push_back(message.subspan(at, value));
    at += value;
  }
  return fields;
}

TEST(EventLogVectorsTest, AShieldedVmReplaysInEveryQuotedBank) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  const Bytes message = FileBytes(*vectors + "/attest/tpm/gce-cos-85-nonce9009.pb");
  const auto logs = ProtobufFields(message, 3);
  ASSERT_THAT(logs, SizeIs(1));
  PcrValues quoted;
  size_t banks = 0;
  for (const ByteSpan quote : ProtobufFields(message, 2)) {
    // Quote.pcrs = 3; Pcrs.hash = 1 (varint, TPM_ALG_ID), Pcrs.pcrs = 2 (map<uint32, bytes>).
    const auto pcrs = ProtobufFields(quote, 3);
    ASSERT_THAT(pcrs, SizeIs(1));
    const std::optional<PcrBank> bank = PcrBankOfAlgorithm(pcrs[0][1]);
    ASSERT_TRUE(bank.has_value());
    for (const ByteSpan entry : ProtobufFields(pcrs[0], 2)) {
      const auto value = ProtobufFields(entry, 2);
      ASSERT_THAT(value, SizeIs(1));
      const uint32_t index = entry[0] == 0x08 ? entry[1] : 0;
      ASSERT_TRUE(quoted.Set(*bank, index, value[0]).ok());
    }
    ++banks;
  }
  EXPECT_EQ(banks, 3u);
  size_t executed = 0;
  const auto log = ParseEventLog(logs[0], "event_log");
  ASSERT_TRUE(log.ok()) << log.status();
  for (const PcrBank bank : log->banks) {
    const auto verified = Appraise(logs[0], quoted, {.bank = bank});
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_EQ((*verified)->secure_boot, true);
    ASSERT_THAT((*verified)->command_lines, SizeIs(1));
    EXPECT_THAT(*(*verified)->command_lines[0].text, HasSubstr("/syslinux/vmlinuz.A init="));
    ++executed;
  }
  EXPECT_EQ(executed, log->banks.size());
  EXPECT_GE(executed, 2u);
}

TEST(EventLogVectorsTest, ReadsTheLogOfATdxGuest) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  const Bytes bytes = FileBytes(*vectors + "/attest/tdx/ccel_data.dat");
  const auto log = ParseEventLog(bytes, "CCEL");
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_THAT(log->banks, ElementsAre(PcrBank::kSha384));
  EXPECT_THAT(log->events, SizeIs(43));
  EXPECT_EQ(log->padding_bytes, 244'043u);
  // TD quote 4: header 48, body 584; RTMR 0 to 3 at 328 in the body.
  const Bytes quote = FileBytes(*vectors + "/attest/tdx/cos-113-tdx-quote.dat");
  ASSERT_GT(quote.size(), 632u);
  PcrValues rtmrs;
  for (uint32_t i = 0; i < 4; ++i) {
    ASSERT_TRUE(
        rtmrs.Set(PcrBank::kSha384, i + 1, ByteSpan(quote).subspan(48 + 328 + 48 * i, 48)).ok());
  }
  const EventLogRequest request = {PcrBank::kSha384, LogRegisters::kTdx, {1, 2, 3}};
  const auto verified = Appraise(bytes, rtmrs, request);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->secure_boot, false);
  ASSERT_THAT((*verified)->command_lines, SizeIs(1));
}

}  // namespace
}  // namespace pavise::evidence
