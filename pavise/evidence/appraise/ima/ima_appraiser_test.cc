#include "pavise/evidence/appraise/ima/ima_appraiser.h"

#include <functional>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/testing/log_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::ReadText;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ImaLogWriter;
using ::testing::IsEmpty;
using ::testing::SizeIs;

const Bytes kA(32, 0xa1);
const Bytes kB(32, 0xb2);
std::string Text(const Bytes& digest) { return StrCat("sha256:", ToHex(digest)); }

// PCRs 0 to 9 of a machine, and the log's PCR 10.
PcrValues Quoted(const PcrValues& ima) {
  PcrValues values = ima;
  for (uint32_t index = 0; index < 10; ++index) {
    EXPECT_TRUE(values.Set(PcrBank::kSha256, index, Bytes(32, static_cast<uint8_t>(index))).ok());
    EXPECT_TRUE(values.Set(PcrBank::kSha1, index, Bytes(20, static_cast<uint8_t>(index))).ok());
  }
  return values;
}

Bytes BootAggregate(PcrBank bank = PcrBank::kSha256) {
  const PcrValues values = Quoted({});
  Bytes joined;
  for (uint32_t index = 0; index < (bank == PcrBank::kSha1 ? 8u : 10u); ++index) {
    const Bytes& value = *values.Get(bank, index);
    joined.insert(joined.end(), value.begin(), value.end());
  }
  return *crypto::Digest(PcrBankDigest(bank), joined);
}

ImaLogWriter Begin() {
  ImaLogWriter log;
  log.Ng("boot_aggregate", BootAggregate());
  return log;
}

ImaLogWriter Usual() {
  ImaLogWriter log = Begin();
  log.Ng("/init", kA).Ng("/bin/a b", kB).Ng("/tmp/x", kA).Ng("/init", kA);
  return log;
}

ImaRules UsualRules() {
  ImaRules rules;
  rules.files = {{"/init", {Text(kA)}}, {"/bin/a b", {Text(kA), Text(kB)}}};
  rules.excludes = {"/tmp/*"};
  return rules;
}

struct Result {
  absl::StatusOr<VerifiedImaLog> verified;
  CheckList checks;
};

Result Appraise(ByteSpan bytes, const PcrValues& quoted, const ImaRules& rules, ImaState& state,
                PcrBank bank = PcrBank::kSha256, ImaForm form = ImaForm::kLittleEndian) {
  Result result{absl::UnknownError(""), {}};
  const auto policy = ImaPolicy::Create(rules);
  const auto log = ParseImaLog(bytes, form, "log");
  if (!policy.ok() || !log.ok()) {
    result.verified = policy.ok() ? log.status() : policy.status();
    return result;
  }
  result.verified =
      ImaAppraiser::Appraise(*log, bank, quoted, *policy, "log", state, result.checks);
  return result;
}

std::optional<Reason> ReasonFor(ByteSpan bytes, const PcrValues& quoted, const ImaRules& rules,
                                PcrBank bank = PcrBank::kSha256) {
  ImaState state;
  const Result result = Appraise(bytes, quoted, rules, state, bank);
  EXPECT_TRUE(result.verified.ok() || state.entries() == 0);  // a refusal keeps nothing
  return ReasonOf(result.verified.status());
}

TEST(ImaAppraiserTest, AcceptsAndCountsAndListsUnusedRules) {
  const ImaLogWriter log = Usual();
  ImaState state;
  const Result result = Appraise(log.bytes(), Quoted(log.per_bank()), UsualRules(), state);
  ASSERT_TRUE(result.verified.ok()) << result.verified.status();
  const ImaClaims& claims = **result.verified;
  EXPECT_EQ(claims.entries, 5u);
  EXPECT_EQ(claims.listed, 3u);
  EXPECT_EQ(claims.excluded, 1u);
  EXPECT_EQ(claims.later_entries, 0u);
  EXPECT_EQ(claims.rule, ImaBankRule::kOwnHash);
  EXPECT_EQ(claims.boot_aggregate, Text(BootAggregate()));
  EXPECT_TRUE(result.checks.all_passed());
  EXPECT_THAT(state.UnusedRules(*ImaPolicy::Create(UsualRules())),
              ElementsAre(StrCat("/bin/a b ", Text(kA))));
}

TEST(ImaAppraiserTest, AStateOfAnotherBootIsRefused) {
  const ImaLogWriter log = Usual();
  ImaState state;
  ASSERT_TRUE(Appraise(log.bytes(), Quoted(log.per_bank()), UsualRules(), state).verified.ok());
  EXPECT_TRUE(Appraise({}, Quoted(log.per_bank()), UsualRules(), state).verified.ok());
  PcrValues other = Quoted(log.per_bank());
  ASSERT_TRUE(other.Set(PcrBank::kSha256, 4, Bytes(32, 0xee)).ok());
  EXPECT_EQ(ReasonOf(Appraise({}, other, UsualRules(), state).verified.status()),
            Reason::kMeasurementMismatch);
  EXPECT_EQ(ReasonOf(Appraise({}, log.per_bank(), UsualRules(), state).verified.status()),
            Reason::kEvidenceMissing);
  EXPECT_EQ(state.entries(), 5u);
}

TEST(ImaAppraiserTest, FindsTheRuleOfTheBank) {
  const ImaLogWriter log = Usual();
  ImaState state;
  const Result padded = Appraise(log.bytes(), Quoted(log.padded()), UsualRules(), state);
  ASSERT_TRUE(padded.verified.ok()) << padded.verified.status();
  EXPECT_EQ((*padded.verified)->rule, ImaBankRule::kPaddedSha1);

  ImaState of_sha1;
  const Result sha1 =
      Appraise(log.bytes(), Quoted(log.per_bank()), UsualRules(), of_sha1, PcrBank::kSha1);
  ASSERT_TRUE(sha1.verified.ok());
  EXPECT_EQ((*sha1.verified)->rule, std::nullopt);

  // Both banks quoted, one by each rule of the other log: the SHA-1 values agree in this case.
  // A SHA-1 value of another log is refused beside a good SHA-256 one.
  PcrValues mixed = Quoted(log.per_bank());
  ASSERT_TRUE(mixed.Set(PcrBank::kSha1, 10, Bytes(20, 5)).ok());
  EXPECT_EQ(ReasonFor(log.bytes(), mixed, UsualRules()), Reason::kMeasurementMismatch);

  // The rule may not change within a log.
  ImaLogWriter longer = Usual();
  const size_t size = longer.bytes().size();
  longer.Ng("/init", kA);
  const ByteSpan added = ByteSpan(longer.bytes()).subspan(size);
  PcrValues other = Quoted({});
  ASSERT_TRUE(other.Set(PcrBank::kSha1, 10, *longer.padded().Get(PcrBank::kSha1, 10)).ok());
  ASSERT_TRUE(other.Set(PcrBank::kSha256, 10, *longer.per_bank().Get(PcrBank::kSha256, 10)).ok());
  EXPECT_EQ(ReasonOf(Appraise(added, other, UsualRules(), state).verified.status()),
            Reason::kMeasurementMismatch);
  EXPECT_TRUE(Appraise(added, Quoted(longer.padded()), UsualRules(), state).verified.ok());
}

TEST(ImaAppraiserTest, ChecksBootAggregate) {
  ImaLogWriter sha1;
  sha1.Ng("boot_aggregate", BootAggregate(PcrBank::kSha1), "sha1").Ng("/init", kA);
  EXPECT_EQ(ReasonFor(sha1.bytes(), Quoted(sha1.per_bank()), UsualRules()), std::nullopt);

  ImaLogWriter wrong;
  wrong.Ng("boot_aggregate", kA);
  EXPECT_EQ(ReasonFor(wrong.bytes(), Quoted(wrong.per_bank()), UsualRules()),
            Reason::kMeasurementMismatch);
  ImaLogWriter none;
  none.Ng("/init", kA);
  EXPECT_EQ(ReasonFor(none.bytes(), Quoted(none.per_bank()), UsualRules()),
            Reason::kMeasurementMismatch);
  ImaLogWriter violation;
  violation.Violation("boot_aggregate");
  EXPECT_EQ(ReasonFor(violation.bytes(), Quoted(violation.per_bank()), UsualRules()),
            Reason::kMeasurementMismatch);
  ImaLogWriter kexec = Usual();
  kexec.Ng("boot_aggregate", BootAggregate());
  EXPECT_EQ(ReasonFor(kexec.bytes(), Quoted(kexec.per_bank()), UsualRules()),
            Reason::kPlatformInsecure);

  const ImaLogWriter log = Usual();
  PcrValues missing;
  ASSERT_TRUE(missing.Set(PcrBank::kSha256, 10, *log.per_bank().Get(PcrBank::kSha256, 10)).ok());
  EXPECT_EQ(ReasonFor(log.bytes(), missing, UsualRules()), Reason::kEvidenceMissing);
  PcrValues other_boot = Quoted(log.per_bank());
  ASSERT_TRUE(other_boot.Set(PcrBank::kSha256, 9, kA).ok());
  EXPECT_EQ(ReasonFor(log.bytes(), other_boot, UsualRules()), Reason::kMeasurementMismatch);
}

TEST(ImaAppraiserTest, RefusesChangedLogs) {
  const ImaLogWriter log = Usual();
  const PcrValues quoted = Quoted(log.per_bank());
  ASSERT_EQ(ReasonFor(log.bytes(), quoted, UsualRules()), std::nullopt);
  // An entry removed, doubled, or in another's place.
  for (size_t i = 0; i < log.entries(); ++i) {
    const size_t begin = i == 0 ? 0 : log.ends()[i - 1];
    const size_t end = log.ends()[i];
    Bytes removed = log.bytes();
    removed.erase(removed.begin() + begin, removed.begin() + end);
    EXPECT_EQ(ReasonFor(removed, quoted, UsualRules()), Reason::kMeasurementMismatch) << i;
    Bytes doubled = log.bytes();
    doubled.insert(doubled.begin() + begin, log.bytes().begin() + begin, log.bytes().begin() + end);
    if (i + 1 < log.entries()) {
      EXPECT_EQ(ReasonFor(doubled, quoted, UsualRules()), Reason::kMeasurementMismatch) << i;
    }
    if (i == 0) continue;
    const size_t before = i == 1 ? 0 : log.ends()[i - 2];
    Bytes swapped = log.bytes();
    std::rotate(swapped.begin() + before, swapped.begin() + begin, swapped.begin() + end);
    EXPECT_EQ(ReasonFor(swapped, quoted, UsualRules()), Reason::kMeasurementMismatch) << i;
  }
  // Every byte.
  for (size_t i = 0; i < log.bytes().size(); ++i) {
    Bytes changed = log.bytes();
    changed[i] ^= 1;
    EXPECT_NE(ReasonFor(changed, quoted, UsualRules()), std::nullopt) << i;
  }
  // Cut anywhere.
  for (size_t size = 0; size < log.bytes().size(); ++size) {
    EXPECT_NE(ReasonFor(ByteSpan(log.bytes()).first(size), quoted, UsualRules()), std::nullopt);
  }
}

TEST(ImaAppraiserTest, RefusesWithoutPcr10AndSwappedBanks) {
  const ImaLogWriter log = Usual();
  EXPECT_EQ(ReasonFor(log.bytes(), Quoted({}), UsualRules()), Reason::kEvidenceMissing);
  PcrValues zero = Quoted({});
  ASSERT_TRUE(zero.Set(PcrBank::kSha256, 10, Bytes(32)).ok());
  EXPECT_EQ(ReasonFor({}, zero, UsualRules()), Reason::kEvidenceMissing);
  PcrValues only_sha1 = Quoted({});
  ASSERT_TRUE(only_sha1.Set(PcrBank::kSha1, 10, *log.per_bank().Get(PcrBank::kSha1, 10)).ok());
  EXPECT_EQ(ReasonFor(log.bytes(), only_sha1, UsualRules()), Reason::kEvidenceMissing);
  EXPECT_EQ(ReasonFor(log.bytes(), only_sha1, UsualRules(), PcrBank::kSha1), std::nullopt);

  ImaLogWriter other = Usual();
  Bytes pcr_11 = other.bytes();
  pcr_11[0] = 11;
  EXPECT_EQ(ReasonFor(pcr_11, Quoted(log.per_bank()), UsualRules()), Reason::kUnsupported);
}

TEST(ImaAppraiserTest, AcceptsThePrefixThatWasQuotedAndContinues) {
  const ImaLogWriter first = Usual();
  ImaLogWriter grown = Usual();
  grown.Ng("/bin/a b", kA).Ng("/evil", kB);
  ImaState state;
  Result result = Appraise(grown.bytes(), Quoted(first.per_bank()), UsualRules(), state);
  ASSERT_TRUE(result.verified.ok()) << result.verified.status();
  EXPECT_EQ((*result.verified)->entries, 5u);
  EXPECT_EQ((*result.verified)->later_entries, 2u);

  // Only the added entries, against a later quote.
  ImaLogWriter second = Usual();
  second.Ng("/bin/a b", kA);
  const ByteSpan added = ByteSpan(grown.bytes()).subspan(first.bytes().size());
  result = Appraise(added, Quoted(second.per_bank()), UsualRules(), state);
  ASSERT_TRUE(result.verified.ok()) << result.verified.status();
  EXPECT_EQ((*result.verified)->entries, 6u);
  EXPECT_EQ((*result.verified)->listed, 4u);
  EXPECT_EQ((*result.verified)->later_entries, 1u);
  EXPECT_THAT(state.UnusedRules(*ImaPolicy::Create(UsualRules())), IsEmpty());

  // Nothing new.
  result = Appraise({}, Quoted(second.per_bank()), UsualRules(), state);
  EXPECT_TRUE(result.verified.ok()) << result.verified.status();

  // The last one is not covered: refused, and the state stays where it was.
  const ByteSpan last = ByteSpan(grown.bytes()).subspan(second.bytes().size());
  result = Appraise(last, Quoted(grown.per_bank()), UsualRules(), state);
  EXPECT_EQ(ReasonOf(result.verified.status()), Reason::kMeasurementUnknown);
  EXPECT_EQ(state.entries(), 6u);
  // A gap, the whole log again, other rules, a rebooted machine.
  result = Appraise({}, Quoted(grown.per_bank()), UsualRules(), state);
  EXPECT_EQ(ReasonOf(result.verified.status()), Reason::kMeasurementMismatch);
  result = Appraise(grown.bytes(), Quoted(grown.per_bank()), UsualRules(), state);
  EXPECT_EQ(ReasonOf(result.verified.status()), Reason::kMeasurementMismatch);
  ImaRules other = UsualRules();
  other.excludes.push_back("/evil");
  result = Appraise(last, Quoted(grown.per_bank()), other, state);
  EXPECT_EQ(ReasonOf(result.verified.status()), Reason::kBindingMismatch);
  result = Appraise({}, Quoted(first.per_bank()), UsualRules(), state);
  EXPECT_EQ(ReasonOf(result.verified.status()), Reason::kMeasurementMismatch);
}

TEST(ImaAppraiserTest, NamesEveryEntryThatNoRuleCoversUpToABound) {
  ImaLogWriter log = Begin();
  for (int i = 0; i < 150; ++i) log.Ng(StrCat("/evil/", i), kA);
  log.Ng("/init", kB);
  ImaState state;
  const Result result = Appraise(log.bytes(), Quoted(log.per_bank()), UsualRules(), state);
  const std::vector<Refusal> refusals = RefusalsOf(result.verified.status());
  ASSERT_THAT(refusals, SizeIs(ImaAppraiser::kMaxFindings + 1));
  EXPECT_EQ(refusals[0].reason, Reason::kMeasurementUnknown);
  EXPECT_THAT(refusals[99].item, HasSubstr("/evil/99"));
  EXPECT_THAT(refusals[100].detail, HasSubstr("51 more"));

  // A listed path with another digest is a mismatch, also where an exclude would cover it.
  ImaLogWriter changed = Begin();
  changed.Ng("/init", kB);
  ImaRules rules = UsualRules();
  rules.excludes = {"*"};
  EXPECT_EQ(ReasonFor(changed.bytes(), Quoted(changed.per_bank()), rules),
            Reason::kMeasurementMismatch);
}

TEST(ImaAppraiserTest, RefusesViolationsUnlessThePathIsListedForThem) {
  ImaLogWriter log = Begin();
  log.Ng("/init", kA).Violation("/tmp/x");
  // The exclude covers content, not violations.
  EXPECT_EQ(ReasonFor(log.bytes(), Quoted(log.per_bank()), UsualRules()),
            Reason::kMeasurementMismatch);
  EXPECT_EQ(ReasonFor(log.bytes(), Quoted(log.padded()), UsualRules()),
            Reason::kMeasurementMismatch);
  ImaRules rules = UsualRules();
  rules.violations = {"/tmp/*"};
  ImaState state;
  const Result result = Appraise(log.bytes(), Quoted(log.padded()), rules, state);
  ASSERT_TRUE(result.verified.ok()) << result.verified.status();
  EXPECT_EQ((*result.verified)->violations, 1u);
  rules.violations = {"/tmp/y"};
  EXPECT_EQ(ReasonFor(log.bytes(), Quoted(log.per_bank()), rules), Reason::kMeasurementMismatch);
  // An entry cannot be turned into a violation, nor a violation into an entry.
  Bytes turned = Usual().bytes();
  const ImaLogWriter usual = Usual();
  std::fill_n(turned.begin() + static_cast<ptrdiff_t>(usual.ends()[2]) + 4, 20, 0);
  rules.violations = {"*"};
  EXPECT_EQ(ReasonFor(turned, Quoted(usual.per_bank()), rules), Reason::kMeasurementMismatch);
}

TEST(ImaAppraiserTest, HoldsBuffersToTheirDigests) {
  const auto log = [](std::string_view buffer, std::string_view hashed, std::string_view name) {
    const Digest32 digest = *crypto::Sha256(AsBytes(hashed));
    Bytes field = {'s', 'h', 'a', '2', '5', '6', ':', 0};
    field.insert(field.end(), digest.begin(), digest.end());
    Bytes path(name.begin(), name.end());
    path.push_back(0);
    ImaLogWriter writer = Begin();
    writer.Entry("ima-buf", {field, path, Bytes(buffer.begin(), buffer.end())}, "");
    return writer;
  };
  ImaRules rules;
  rules.files = {
      {"buffer:kexec-cmdline", {StrCat("sha256:", ToHex(*crypto::Sha256(AsBytes("ro"))))}}};
  const ImaLogWriter good = log("ro", "ro", "kexec-cmdline");
  EXPECT_EQ(ReasonFor(good.bytes(), Quoted(good.per_bank()), rules), std::nullopt);
  const ImaLogWriter lie = log("rw", "ro", "kexec-cmdline");
  EXPECT_EQ(ReasonFor(lie.bytes(), Quoted(lie.per_bank()), rules), Reason::kMeasurementMismatch);
  // A buffer (a keyring that anybody may name) does not pass for a file.
  rules.excludes = {"/tmp/*"};
  const ImaLogWriter named = log("key", "key", "/tmp/x");
  EXPECT_EQ(ReasonFor(named.bytes(), Quoted(named.per_bank()), rules), Reason::kMeasurementUnknown);
}

TEST(ImaAppraiserTest, HoldsVerityDigestsApart) {
  Bytes field;
  for (const char letter : std::string_view("verity:sha256:\0", 15)) field.push_back(letter);
  field.insert(field.end(), kA.begin(), kA.end());
  ImaLogWriter log = Begin();
  log.Entry("ima-ngv2", {field, Bytes{'/', 'x', 0}}, "");
  ImaRules rules;
  rules.files = {{"/x", {StrCat("verity:", Text(kA))}}};
  EXPECT_EQ(ReasonFor(log.bytes(), Quoted(log.per_bank()), rules), std::nullopt);
  rules.files = {{"/x", {Text(kA)}}};
  EXPECT_EQ(ReasonFor(log.bytes(), Quoted(log.per_bank()), rules), Reason::kMeasurementMismatch);
}

// security.ima, version 2.
Bytes SignatureBytes(crypto::PrivateKey& key, const std::string& message, uint32_t key_id) {
  const Bytes der = *key.Sign(AsBytes(message));
  Bytes bytes = {3, 2, 4};
  for (int shift = 24; shift >= 0; shift -= 8)
    bytes.push_back(static_cast<uint8_t>(key_id >> shift));
  bytes.push_back(static_cast<uint8_t>(der.size() >> 8));
  bytes.push_back(static_cast<uint8_t>(der.size()));
  bytes.insert(bytes.end(), der.begin(), der.end());
  return bytes;
}

TEST(ImaAppraiserTest, AcceptsFilesThatAKnownKeySigned) {
  auto key = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  ASSERT_TRUE(key.ok());
  const std::string content = "a program";
  const Digest32 array = *crypto::Sha256(AsBytes(content));
  const Bytes digest(array.begin(), array.end());
  const Bytes good = SignatureBytes(*key, content, 0x01020304);
  ImaRules rules;
  rules.keys = {{key->public_key(), 0x01020304}};
  const auto verdict = [&](const Bytes& signature, const Bytes& of, const ImaRules& by) {
    ImaLogWriter log = Begin();
    log.Sig("/bin/signed", of, signature);
    return ReasonFor(log.bytes(), Quoted(log.per_bank()), by);
  };
  EXPECT_EQ(verdict(good, digest, rules), std::nullopt);
  EXPECT_EQ(verdict(good, kA, rules), Reason::kSignatureInvalid);
  EXPECT_EQ(verdict(good, digest, {}), Reason::kMeasurementUnknown);
  EXPECT_EQ(verdict({}, digest, rules), Reason::kMeasurementUnknown);
  for (size_t i = 0; i < good.size(); ++i) {
    Bytes changed = good;
    changed[i] ^= 1;
    EXPECT_NE(verdict(changed, digest, rules), std::nullopt) << i;
  }
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(verdict(Bytes(good.begin(), good.begin() + size), digest, rules), std::nullopt);
  }
  ImaRules other;
  other.keys = {{crypto::PrivateKey::Generate(crypto::KeyType::kEcP256)->public_key(), 0x01020304}};
  EXPECT_EQ(verdict(good, digest, other), Reason::kSignatureInvalid);
  other.keys[0].key_id = 5;
  EXPECT_EQ(verdict(good, digest, other), Reason::kMeasurementUnknown);
  // The usual key id: not the one of this signature.
  other.keys = {{key->public_key(), std::nullopt}};
  EXPECT_EQ(verdict(good, digest, other), Reason::kMeasurementUnknown);
  // A listed path is held to its digests, whoever signed.
  rules.files = {{"/bin/signed", {Text(kA)}}};
  EXPECT_EQ(verdict(good, digest, rules), Reason::kMeasurementMismatch);
}

// Signatures that evmctl makes, RSA and ECDSA, with the key id that it computes.
TEST(ImaAppraiserTest, AcceptsSignaturesOfEvmctl) {
  for (const char* program : {"openssl", "evmctl"}) {
    if (!crypto::testing::HasProgram(program)) GTEST_SKIP() << program << " not installed";
  }
  const pavise::testing::TemporaryDirectory directory;
  const std::string run = StrCat("cd ", directory.path(), " && ");
  ASSERT_EQ(crypto::testing::RunCommand(run + "echo program > file").exit_code, 0);
  const Digest32 array = *crypto::Sha256(AsBytes("program\n"));
  const Bytes digest(array.begin(), array.end());
  size_t executed = 0;
  for (const std::string option : {"EC -pkeyopt ec_paramgen_curve:P-256", "RSA"}) {
    const auto made = crypto::testing::RunCommand(
        StrCat(run, "openssl genpkey -algorithm ", option, " -out key.pem && ",
               "openssl pkey -in key.pem -pubout -out public.pem && rm -f file.sig && ",
               "evmctl ima_sign --sigfile --hashalgo sha256 --key key.pem file"));
    const std::string signature = ReadText(directory / "file.sig");
    ASSERT_FALSE(signature.empty()) << made.output;
    ImaRules rules;
    rules.keys = {
        {*crypto::PublicKey::FromPem(ReadText(directory / "public.pem"), "key"), std::nullopt}};
    ImaLogWriter log = Begin();
    log.Sig("/bin/file", digest, AsBytes(signature));
    EXPECT_EQ(ReasonFor(log.bytes(), Quoted(log.per_bank()), rules), std::nullopt) << option;
    ImaLogWriter other = Begin();
    other.Sig("/bin/file", kA, AsBytes(signature));
    EXPECT_EQ(ReasonFor(other.bytes(), Quoted(other.per_bank()), rules), Reason::kSignatureInvalid);
    ++executed;
  }
  EXPECT_EQ(executed, 2u);
}

// evmctl's key id: the last four bytes of the SHA-1 of the public key's bits, which openssl prints
// as the subject key identifier of a certificate.
TEST(ImaPolicyTest, ComputesTheKeyIdAsTheKernelDoes) {
  if (!crypto::testing::HasProgram("openssl")) GTEST_SKIP() << "openssl not installed";
  size_t executed = 0;
  for (const std::string option : {"ec -pkeyopt ec_paramgen_curve:P-256", "rsa:2048"}) {
    const auto made = crypto::testing::RunCommand(StrCat(
        "openssl req -x509 -nodes -newkey ", option,
        " -subj /CN=ima -keyout /dev/null -addext subjectKeyIdentifier=hash"
        " -outform PEM | openssl x509 -noout -pubkey -ext subjectKeyIdentifier 2>/dev/null"));
    ASSERT_EQ(made.exit_code, 0) << made.output;
    const size_t begin = made.output.find("-----BEGIN PUBLIC KEY");
    constexpr std::string_view kEnd = "-----END PUBLIC KEY-----\n";
    const size_t end = made.output.find(kEnd);
    ASSERT_TRUE(begin != std::string::npos && end != std::string::npos) << made.output;
    const auto key = crypto::PublicKey::FromPem(
        std::string_view(made.output).substr(begin, end + kEnd.size() - begin), "key");
    ASSERT_TRUE(key.ok()) << key.status();
    std::string identifier;
    const size_t label = made.output.find("Subject Key Identifier:");
    ASSERT_NE(label, std::string::npos);
    for (const char letter : made.output.substr(made.output.find('\n', label), 70)) {
      if (isxdigit(static_cast<unsigned char>(letter))) {
        identifier.push_back(static_cast<char>(tolower(letter)));
      }
      if (identifier.size() == 40) break;
    }
    ASSERT_THAT(identifier, SizeIs(40));
    ImaRules rules;
    rules.keys = {{*key, std::nullopt}};
    const auto policy = ImaPolicy::Create(rules);
    ASSERT_TRUE(policy.ok());
    EXPECT_THAT(policy->RuleName(0), HasSubstr(StrCat("key ", identifier.substr(32))));
    ++executed;
  }
  EXPECT_EQ(executed, 2u);
}

TEST(ImaPolicyTest, RefusesMalformedRules) {
  ImaRules rules;
  rules.files = {{"", {Text(kA)}}};
  EXPECT_EQ(ReasonOf(ImaPolicy::Create(rules).status()), Reason::kMalformed);
  for (const std::string digest : {"", "sha256", "sha256:", ":aa", "sha256:a", "sha256:zz"}) {
    rules.files = {{"/x", {digest}}};
    EXPECT_EQ(ReasonOf(ImaPolicy::Create(rules).status()), Reason::kMalformed) << digest;
  }
  rules.files.clear();
  rules.excludes = {""};
  EXPECT_EQ(ReasonOf(ImaPolicy::Create(rules).status()), Reason::kMalformed);
}

TEST(ImaVectorsTest, RealLogsReplayToTheirQuotes) {
  const auto vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  size_t executed = 0;
  for (const bool clean : {true, false}) {
    const std::string folder = StrCat(*vectors, "/attest/measured_boot/", clean ? "clean" : "viol");
    PcrValues quoted;
    const std::string text = ReadText(folder + "/pcrs.txt");
    const size_t sha256 = text.find("sha256:");
    for (uint32_t index = 0; index < 11; ++index) {
      const size_t at = text.find(StrCat("    ", index, index < 10 ? " : 0x" : ": 0x"), sha256);
      ASSERT_NE(at, std::string::npos);
      const Bytes value = *FromHex(text.substr(text.find("0x", at) + 2, 64), "pcr");
      ASSERT_TRUE(quoted.Set(PcrBank::kSha256, index, value).ok());
    }
    const size_t sha1 = text.find("10: 0x");
    ASSERT_TRUE(quoted.Set(PcrBank::kSha1, 10, *FromHex(text.substr(sha1 + 6, 40), "pcr")).ok());
    ImaRules rules;
    rules.excludes = {"*"};
    for (const ImaForm form : {ImaForm::kLittleEndian, ImaForm::kAscii}) {
      const std::string log =
          ReadText(folder + (form == ImaForm::kAscii ? "/ascii_runtime_measurements"
                                                     : "/binary_runtime_measurements"));
      ImaState state;
      Result result = Appraise(AsBytes(log), quoted, rules, state, PcrBank::kSha256, form);
      if (!clean) {
        ASSERT_THAT(RefusalsOf(result.verified.status()), SizeIs(2));
        EXPECT_THAT(RefusalsOf(result.verified.status())[0].item, HasSubstr("/models/config.json"));
        ImaRules listed = rules;
        listed.violations = {"/models/*"};
        result = Appraise(AsBytes(log), quoted, listed, state, PcrBank::kSha256, form);
      }
      ASSERT_TRUE(result.verified.ok()) << result.verified.status();
      EXPECT_EQ((*result.verified)->rule, ImaBankRule::kOwnHash);
      EXPECT_EQ((*result.verified)->entries + (*result.verified)->later_entries, clean ? 43u : 46u);
      EXPECT_EQ((*result.verified)->violations, clean ? 0u : 2u);
      ++executed;
    }
  }
  EXPECT_EQ(executed, 4u);
}

// The sample's template hashes, all 826, are those of its entries.
TEST(ImaVectorsTest, AnAsciiLogReplaysToItsOwnRegister) {
  const auto vectors = crypto::testing::VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no third-party vectors on this machine";
  const std::string text = ReadText(*vectors + "/attest/ima/keylime_ascii_runtime_measurements");
  const auto log = ParseImaLog(AsBytes(text), ImaForm::kAscii, "log");
  ASSERT_TRUE(log.ok());
  PcrValues replayed;
  for (const ImaEntry& entry : log->entries) {
    const Bytes extended = entry.is_violation()
                               ? Bytes(20, 0xff)
                               : Bytes(entry.template_hash.begin(), entry.template_hash.end());
    ASSERT_TRUE(replayed.Extend(PcrBank::kSha1, 10, extended).ok());
  }
  ImaReplay replay;
  const auto taken = replay.Continue(log->entries, PcrBank::kSha1, replayed, "log");
  ASSERT_TRUE(taken.ok()) << taken.status();
  EXPECT_EQ(*taken, 826u);
}

}  // namespace
}  // namespace pavise::evidence
