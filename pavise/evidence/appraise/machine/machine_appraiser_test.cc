#include "pavise/evidence/appraise/machine/machine_appraiser.h"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/boot/host_protections.h"
#include "pavise/evidence/appraise/eventlog/event_log.h"
#include "pavise/evidence/appraise/testing/test_composite.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/testing/log_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using testing::EventLogWriter;
using testing::ImaLogWriter;
using ::testing::IsEmpty;
using testing::TestTpm;
using testing::Utf16;

constexpr PcrBank kSha256 = PcrBank::kSha256;
const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);
const Bytes kInitDigest(32, 0x11);
constexpr std::string_view kWeak = "console=ttyS0";

// What an image made by pavise host-image passes to its kernel.
std::string Protected() {
  std::string line = "console=ttyS0";
  for (const HostProtection& protection : HostProtections()) {
    StrAppend(&line, " ", protection.parameter);
  }
  return line;
}

Bytes Tagged(uint8_t tag, std::string_view text) {
  Bytes data = {tag, 0x22, 0x3b, 0x8f, static_cast<uint8_t>(text.size()), 0, 0, 0};
  const ByteSpan bytes = AsBytes(text);
  data.insert(data.end(), bytes.begin(), bytes.end());
  return data;
}

// How a unified kernel image starts, and a host's evidence of it. Tests change what they are about.
struct Host {
  explicit Host(std::string_view command_line = Protected()) : log({kSha256}) {
    log.Add(7, kEvEfiVariableDriverConfig, testing::VariableEvent("SecureBoot", Bytes{1}));
    log.Add(4, kEvEfiAction, AsBytes("Calling EFI Application from Boot Option"));
    for (uint32_t index = 0; index < 8; ++index) log.Add(index, kEvSeparator, Bytes(4));
    log.Add(4, kEvEfiBootServicesApplication, Bytes(32), AsBytes("the kernel image"));
    log.Add(11, kEvIpl, Utf16(".linux"), AsBytes(std::string_view(".linux\0", 7)));
    log.Add(11, kEvIpl, Utf16(".linux"), AsBytes("the kernel"));
    log.Add(9, kEvEventTag, Tagged(0xed, "LOADED_IMAGE::LoadOptions"), Utf16(command_line));
    log.Add(9, kEvEventTag, Tagged(0xec, "Linux initrd"), AsBytes("the initrd"));
    references.registers = Registers({2, 3, 4, 9, 11, 12, 13});
    references.command_lines[std::string(command_line)] = "image";
    references.files["/init"][StrCat("sha256:", ToHex(kInitDigest))] = "image";
    policy = StrCat("\"attestation_keys\":[\"", KeyName(), "\"]");
  }

  std::string KeyName() const { return ToHex(ParseTpm2bPublic(tpm.AkPublic(), "AK")->name); }

  // Of PCR 0 to 14.
  PcrValues Quoted() const {
    PcrValues quoted = log.values();
    Bytes first_ten;
    for (uint32_t index = 0; index <= 14; ++index) {
      if (quoted.Get(kSha256, index) == nullptr) {
        EXPECT_TRUE(quoted.Set(kSha256, index, InitialPcrValue(kSha256, index)).ok());
      }
      const Bytes& value = *quoted.Get(kSha256, index);
      if (index < 10) first_ten.insert(first_ten.end(), value.begin(), value.end());
    }
    ima = ImaLogWriter();
    ima.Ng("boot_aggregate", *crypto::Digest(crypto::DigestAlgorithm::kSha256, first_ten));
    ima.Ng("/init", init_digest);
    for (const auto& [path, digest] : more) ima.Ng(path, digest);
    EXPECT_TRUE(quoted.Set(kSha256, 10, *ima.per_bank().Get(kSha256, 10)).ok());
    return quoted;
  }

  std::map<PcrBank, std::map<uint32_t, SourcedValues>> Registers(
      const std::set<uint32_t>& indices) const {
    ReferenceValues values;
    AddRegisters(Quoted(), kSha256, indices, "image", values);
    return values.registers;
  }

  CompositeEvidence Evidence(const std::set<uint32_t>& unquoted = {}) {
    PcrValues quoted;
    const PcrValues all = Quoted();
    for (const auto& [index, value] : all.banks().at(kSha256)) {
      if (unquoted.contains(index)) continue;
      EXPECT_TRUE(quoted.Set(kSha256, index, value).ok());
    }
    CompositeEvidence evidence;
    evidence.nonce = nonce;
    evidence.session_key = testing::SessionKey().public_key().der();
    const QuoteEvidence quote =
        tpm.Quote(BindingValue(PartKind::kTpm, nonce, evidence.session_key, {}).value(), quoted);
    const std::string values = FormatPcrValues(quoted);
    const ByteSpan value_bytes = AsBytes(values);
    EvidencePart part{"tpm-2.0",
                      {{"attestation_key", quote.ak_public},
                       {"quote", quote.quote},
                       {"signature", quote.signature},
                       {"pcr_values", Bytes(value_bytes.begin(), value_bytes.end())},
                       {"event_log", log.bytes()},
                       {"ima_log", ima.bytes()}}};
    evidence.parts.push_back(std::move(part));
    return evidence;
  }

  MachineAppraisal Appraise(const CompositeEvidence& evidence,
                            ImaPrefixes* prefixes = nullptr) const {
    const std::string text =
        StrCat("{\"pavise_appraisal_policy\":1,\"required\":[\"tpm\"],\"tpm\":{", policy, "}}");
    const auto parsed = ParseAppraisalPolicy(AsBytes(text), "policy");
    EXPECT_TRUE(parsed.ok()) << parsed.status();
    if (prefixes == nullptr) {
      return AppraiseMachine(evidence, *parsed, references, trust, nonce, kNow);
    }
    const ImaPolicy rules = ImaPolicyOf(references).value();
    return AppraiseMachine(evidence, *parsed, references, trust, nonce, kNow, &rules, nullptr,
                           prefixes);
  }

  std::vector<Reason> Reasons(const CompositeEvidence& evidence) const {
    const MachineAppraisal appraisal = Appraise(evidence);
    EXPECT_EQ(appraisal.status.ok(), appraisal.accepted.has_value());
    std::vector<Reason> reasons;
    for (const Refusal& refusal : RefusalsOf(appraisal.status)) reasons.push_back(refusal.reason);
    EXPECT_EQ(appraisal.status.ok(), reasons.empty()) << appraisal.status;
    return reasons;
  }
  std::vector<Reason> Reasons() { return Reasons(Evidence()); }

  Json Vector(const CompositeEvidence& evidence) const {
    const MachineAppraisal appraisal = Appraise(evidence);
    EXPECT_TRUE(appraisal.accepted.has_value()) << appraisal.status;
    if (!appraisal.accepted.has_value()) return Json::object();
    return EarClaims(*appraisal.accepted, {})
        .value()["submods"]["tpm"]["ear_trustworthiness_vector"];
  }

  TestTpm tpm;
  EventLogWriter log;
  Bytes init_digest = kInitDigest;
  std::vector<std::pair<std::string, Bytes>> more;  // measured after it
  mutable ImaLogWriter ima;
  ReferenceValues references;
  MachineTrust trust;
  std::string policy;  // members of "tpm"
  Digest32 nonce{7};
};

TEST(MachineAppraiserTest, AcceptsAHostAsItsOwnerPredictedIt) {
  Host host;
  const MachineAppraisal appraisal = host.Appraise(host.Evidence());
  ASSERT_TRUE(appraisal.status.ok()) << appraisal.status;
  EXPECT_THAT(appraisal.unused, IsEmpty());
  const Json ear = EarClaims(*appraisal.accepted, {}).value();
  EXPECT_EQ(ear["ear_status"], "affirming");
  EXPECT_EQ(
      ear["submods"]["tpm"]["ear_trustworthiness_vector"],
      (Json{{"instance-identity", 2}, {"configuration", 2}, {"executables", 3}, {"hardware", 2}}));
  EXPECT_EQ(ear["submods"]["tpm"]["ear_attester_claims"]["secure_boot"], true);
  EXPECT_EQ(ear["submods"]["tpm"]["ear_attester_claims"]["ima_entries"], 2);
}

TEST(MachineAppraiserTest, RefusesOtherKeysNoncesAndBytes) {
  Host host;
  const CompositeEvidence good = host.Evidence();
  EXPECT_THAT(host.Reasons(good), IsEmpty());
  for (const char* name :
       {"attestation_key", "quote", "signature", "pcr_values", "event_log", "ima_log"}) {
    CompositeEvidence changed = good;
    // Of the event log in the last digest: the data behind it describes, and proves nothing.
    Bytes& item = changed.parts[0].items[name];
    item[item.size() - (name == std::string_view("event_log") ? 25 : 1)] ^= 1;
    EXPECT_FALSE(host.Reasons(changed).empty()) << name;
    CompositeEvidence cut = good;
    cut.parts[0].items[name].pop_back();
    EXPECT_FALSE(host.Reasons(cut).empty()) << name;
  }
  Host stranger;
  EXPECT_THAT(host.Reasons(stranger.Evidence()), Contains(Reason::kBindingMismatch));
  host.nonce.fill(8);
  EXPECT_THAT(host.Reasons(good), Contains(Reason::kNonceMismatch));
}

TEST(MachineAppraiserTest, NeedsWhatThePolicyNames) {
  for (const char* name : {"event_log", "ima_log"}) {
    Host host;
    CompositeEvidence evidence = host.Evidence();
    evidence.parts[0].items.erase(name);
    EXPECT_THAT(host.Reasons(evidence), Contains(Reason::kEvidenceMissing)) << name;
  }
  for (const uint32_t index : {0u, 4u, 7u, 9u, 10u, 12u, 14u}) {
    Host host;
    EXPECT_THAT(host.Reasons(host.Evidence({index})), Contains(Reason::kEvidenceMissing)) << index;
  }
  Host unlisted;
  unlisted.init_digest = Bytes(32, 0x22);
  EXPECT_THAT(unlisted.Reasons(), ElementsAre(Reason::kMeasurementMismatch));
  Host unbound;
  unbound.policy = "\"registers\":{\"sha256\":[0]}";
  EXPECT_THAT(unbound.Reasons(), ElementsAre(Reason::kBindingMismatch))
      << unbound.Appraise(unbound.Evidence()).status;
  unbound.policy = "\"allow_unbound_key\":true";
  EXPECT_EQ(unbound.Vector(unbound.Evidence())["instance-identity"], 32);
}

TEST(MachineAppraiserTest, ListedRegistersAreComparedWithoutALogToo) {
  Host host;
  host.policy += ",\"event_log\":false,\"ima\":false,\"host_protections\":false";
  host.references = {};
  host.references.registers = host.Registers({4, 7});
  CompositeEvidence evidence = host.Evidence();
  evidence.parts[0].items.erase("event_log");
  EXPECT_THAT(host.Reasons(evidence), IsEmpty());
  EXPECT_FALSE(host.Vector(evidence).contains("configuration"));
  for (const uint32_t index : {4u, 7u}) {
    SourcedValues other = {{std::string(64, 'a'), "golden"}};
    std::swap(host.references.registers[kSha256][index], other);
    EXPECT_THAT(host.Reasons(evidence), ElementsAre(Reason::kMeasurementMismatch));
    std::swap(host.references.registers[kSha256][index], other);
  }
  host.references.secure_boot = true;
  EXPECT_THAT(host.Reasons(evidence), ElementsAre(Reason::kEvidenceMissing));
  EXPECT_THAT(host.Reasons(), IsEmpty());
  host.references.secure_boot.reset();
  host.references.images[StrCat("sha256:", std::string(64, 'c'))] = "golden";
  EXPECT_THAT(host.Reasons(evidence), ElementsAre(Reason::kEvidenceMissing));
  EXPECT_THAT(host.Reasons(), ElementsAre(Reason::kMeasurementUnknown));
}

TEST(MachineAppraiserTest, ImagesThatAreListedMustBeQuoted) {
  Host host;
  host.policy += ",\"registers\":{\"sha256\":[0,7]},\"ima\":false,\"host_protections\":false";
  host.references = {};
  const auto digest = crypto::Sha256(AsBytes("the kernel image"));
  host.references.images[StrCat("sha256:", ToHex(*digest))] = "golden";
  EXPECT_THAT(host.Reasons(), IsEmpty());
  EXPECT_THAT(host.Reasons(host.Evidence({4})), ElementsAre(Reason::kEvidenceMissing));
}

TEST(MachineAppraiserTest, AnUnknownKernelsLogsClaimNothing) {
  Host host;
  host.policy += ",\"host_protections\":false";
  host.references.registers.clear();
  host.references.command_lines.clear();
  Json vector = host.Vector(host.Evidence());
  EXPECT_FALSE(vector.contains("executables")) << vector;
  EXPECT_FALSE(vector.contains("configuration")) << vector;
  host.references.registers = host.Registers({4});
  vector = host.Vector(host.Evidence());
  EXPECT_EQ(vector["executables"], 3);
  EXPECT_FALSE(vector.contains("configuration")) << vector;
}

TEST(MachineAppraiserTest, ProtectionsNeedReferenceValues) {
  for (const uint32_t index : {2u, 3u, 4u, 9u, 11u, 12u, 13u}) {
    Host host;
    // Without PCR 9's value the initrd might be a line, and so is refused as well.
    host.references.registers[kSha256].erase(index);
    EXPECT_THAT(host.Reasons(), Contains(Reason::kPolicyDenied)) << index;
  }
  Host host;
  host.references.command_lines.clear();
  EXPECT_THAT(host.Reasons(), ElementsAre(Reason::kMeasurementUnknown));
}

TEST(MachineAppraiserTest, ALineWithoutProtectionsIsFoundUnderAnyLabel) {
  Host host(kWeak);
  EXPECT_THAT(host.Reasons(), ::testing::AllOf(::testing::SizeIs(HostProtections().size()),
                                               ::testing::Each(Reason::kPlatformInsecure)));
  // The same registers, told otherwise: the line is an initrd, and root extended PCR 8 by a good
  // line that is listed for another image.
  Host forged(kWeak);
  forged.references.command_lines[Protected()] = "another image";
  forged.log = EventLogWriter({kSha256});
  forged.log.Add(7, kEvEfiVariableDriverConfig, testing::VariableEvent("SecureBoot", Bytes{1}));
  forged.log.Add(4, kEvEfiAction, AsBytes("Calling EFI Application from Boot Option"));
  for (uint32_t index = 0; index < 8; ++index) forged.log.Add(index, kEvSeparator, Bytes(4));
  forged.log.Add(4, kEvEfiBootServicesApplication, Bytes(32), AsBytes("the kernel image"));
  forged.log.Add(11, kEvIpl, Utf16(".linux"), AsBytes(std::string_view(".linux\0", 7)));
  forged.log.Add(11, kEvIpl, Utf16(".linux"), AsBytes("the kernel"));
  forged.log.Add(9, kEvEventTag, Tagged(0xec, "Linux initrd"), Utf16(kWeak));
  forged.log.Add(9, kEvIpl, AsBytes("something"), AsBytes("the initrd"));
  forged.log.Add(8, kEvIpl, Utf16(Protected()));
  EXPECT_EQ(forged.Registers({2, 3, 4, 9, 11, 12, 13}), forged.references.registers);
  EXPECT_THAT(forged.Reasons(), ::testing::AllOf(::testing::SizeIs(HostProtections().size()),
                                                 ::testing::Each(Reason::kPlatformInsecure)));
  // Not listed either: nothing in PCR 9 is known, and PCR 8 does not help.
  forged.references.command_lines.erase(std::string(kWeak));
  EXPECT_THAT(forged.Reasons(), ElementsAre(Reason::kMeasurementUnknown));
}

TEST(MachineAppraiserTest, OneLineOnlyAndNoneBesideIt) {
  // A second known line in PCR 9: it cannot be told which the kernel got.
  Host two;
  two.log.Add(9, kEvIpl, AsBytes("x"), Utf16(kWeak));
  two.references.command_lines[std::string(kWeak)] = "another image";
  two.references.registers = two.Registers({2, 3, 4, 9, 11, 12, 13});
  EXPECT_THAT(two.Reasons(), ElementsAre(Reason::kMeasurementUnknown));
  // In PCR 12 everything is a line.
  Host known;
  known.log.Add(12, kEvIpl, Utf16(Protected()));
  known.references.registers = known.Registers({2, 3, 4, 9, 11, 12, 13});
  EXPECT_THAT(known.Reasons(), IsEmpty());
  Host weak;
  weak.log.Add(12, kEvIpl, AsBytes("credentials"), Utf16(kWeak));
  weak.references.command_lines[std::string(kWeak)] = "image";
  weak.references.registers = weak.Registers({2, 3, 4, 9, 11, 12, 13});
  EXPECT_THAT(weak.Reasons(), ::testing::Each(Reason::kPlatformInsecure));
  EXPECT_FALSE(weak.Reasons().empty());
  Host unknown;
  unknown.log.Add(12, 0x12345, AsBytes("credentials"), AsBytes("a credential"));
  unknown.references.registers = unknown.Registers({2, 3, 4, 9, 11, 12, 13});
  EXPECT_THAT(unknown.Reasons(),
              ElementsAre(Reason::kMeasurementUnknown, Reason::kMeasurementUnknown));
}

// What is kept of a machine's IMA log changes no verdict, finding or claim: all are those of a
// whole appraisal.
class KeptPrefixes : public ::testing::Test {
 protected:
  KeptPrefixes() {
    host_.references.files["/bin/tool"][StrCat("sha256:", ToHex(Bytes(32, 0x22)))] = "image";
    EXPECT_THAT(Reasons(host_, host_.Evidence()), IsEmpty());
  }

  std::vector<Reason> Reasons(const Host& host, const CompositeEvidence& evidence) {
    ImaPrefixes none;
    const MachineAppraisal whole = host.Appraise(evidence, &none);
    const MachineAppraisal kept = host.Appraise(evidence, &prefixes_);
    EXPECT_EQ(kept.status, whole.status);
    EXPECT_EQ(kept.unused, whole.unused);
    EXPECT_EQ(FormatReport(kept.sections), FormatReport(whole.sections));
    EXPECT_EQ(kept.accepted.has_value(), whole.accepted.has_value());
    if (kept.accepted.has_value() && whole.accepted.has_value()) {
      EXPECT_EQ(EarClaims(*kept.accepted, {}).value(), EarClaims(*whole.accepted, {}).value());
    }
    return host.Reasons(evidence);
  }
  bool IsKept(const Bytes& log) const {
    const auto prefix = prefixes_.Find(host_.KeyName(), log);
    return prefix.has_value() && prefix->size_bytes == log.size();
  }

  Host host_;
  ImaPrefixes prefixes_;
};

TEST_F(KeptPrefixes, ALogThatDidNotChangeOrGrew) {
  EXPECT_TRUE(IsKept(host_.ima.bytes()));
  EXPECT_THAT(Reasons(host_, host_.Evidence()), IsEmpty());
  host_.more = {{"/bin/tool", Bytes(32, 0x22)}};
  EXPECT_THAT(Reasons(host_, host_.Evidence()), IsEmpty());
  EXPECT_TRUE(IsKept(host_.ima.bytes()));
  EXPECT_EQ(prefixes_.Find(host_.KeyName(), host_.ima.bytes())->state.entries(), 3u);
}

TEST_F(KeptPrefixes, WhatWasAddedIsRefusedAsBefore) {
  const Bytes accepted = host_.ima.bytes();
  host_.more = {{"/bin/tool", Bytes(32, 0x23)}};
  EXPECT_THAT(Reasons(host_, host_.Evidence()), ElementsAre(Reason::kMeasurementMismatch));
  host_.more = {{"/bin/tool", Bytes(32, 0x22)}, {"/tmp/unknown", Bytes(32, 0x24)}};
  EXPECT_THAT(Reasons(host_, host_.Evidence()), ElementsAre(Reason::kMeasurementUnknown));
  host_.more = {{"boot_aggregate", Bytes(32, 0x24)}};
  EXPECT_THAT(Reasons(host_, host_.Evidence()), ElementsAre(Reason::kPlatformInsecure));
  EXPECT_FALSE(IsKept(host_.ima.bytes()));
  EXPECT_TRUE(IsKept(accepted));
}

TEST_F(KeptPrefixes, ALogWithoutItsBeginningOrWithAnother) {
  host_.more = {{"/bin/tool", Bytes(32, 0x22)}};
  CompositeEvidence evidence = host_.Evidence();
  const auto begin = static_cast<std::ptrdiff_t>(host_.ima.ends()[1]);
  Bytes& log = evidence.parts[0].items["ima_log"];
  log.erase(log.begin(), log.begin() + begin);
  EXPECT_THAT(Reasons(host_, evidence), ElementsAre(Reason::kMeasurementMismatch));
  // Any changed byte, of what is known and of what was added.
  evidence = host_.Evidence();
  for (size_t i = 0; i < host_.ima.bytes().size(); i += 7) {
    CompositeEvidence changed = evidence;
    changed.parts[0].items["ima_log"][i] ^= 1;
    EXPECT_FALSE(Reasons(host_, changed).empty()) << i;
  }
}

TEST_F(KeptPrefixes, AnotherBootOrAnOlderQuoteOfTheSameLog) {
  host_.more = {{"/bin/tool", Bytes(32, 0x22)}};
  const CompositeEvidence grown = host_.Evidence();
  EXPECT_THAT(Reasons(host_, grown), IsEmpty());
  // The quote covers less than what is kept.
  host_.more.clear();
  CompositeEvidence older = host_.Evidence();
  older.parts[0].items["ima_log"] = grown.parts[0].items.at("ima_log");
  EXPECT_THAT(Reasons(host_, older), IsEmpty());
  // It covers other registers: the log of the boot before does not fit them.
  const Bytes log = grown.parts[0].items.at("ima_log");
  host_.log.Add(5, kEvEfiAction, AsBytes("Exit Boot Services Invocation"));
  host_.more = {{"/bin/tool", Bytes(32, 0x22)}};
  CompositeEvidence rebooted = host_.Evidence();
  EXPECT_THAT(Reasons(host_, rebooted), IsEmpty());
  EXPECT_TRUE(IsKept(host_.ima.bytes()));
  rebooted.parts[0].items["ima_log"] = log;
  EXPECT_FALSE(Reasons(host_, rebooted).empty());
}

TEST_F(KeptPrefixes, OneAMachine) {
  Host other;
  other.references = host_.references;
  EXPECT_THAT(Reasons(other, other.Evidence()), IsEmpty());
  EXPECT_TRUE(IsKept(host_.ima.bytes()));
  EXPECT_FALSE(prefixes_.Find("no such key", host_.ima.bytes()).has_value());
}

TEST_F(KeptPrefixes, NotUnderOtherRules) {
  // Whoever calls gives each policy prefixes of its own; of another's, none counts.
  host_.references.files["/init"] = {{StrCat("sha256:", ToHex(Bytes(32, 0x99))), "image"}};
  EXPECT_THAT(Reasons(host_, host_.Evidence()), ElementsAre(Reason::kMeasurementMismatch));
}

}  // namespace
}  // namespace pavise::evidence
