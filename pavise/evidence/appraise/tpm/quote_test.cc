#include "pavise/evidence/appraise/tpm/quote.h"

#include <algorithm>
#include <cstdlib>
#include <sstream>
#include <string>

#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/testing/test_tpm.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

// Quotes of real machines, from the vectors, and one that the test makes up. Those of software TPMs
// made on the spot, with enrolment, are in collect/tpm/tpm_context_test.cc.
namespace pavise::evidence {
namespace {

using crypto::testing::ReadText;
using crypto::testing::VectorsDirectory;

Bytes FileBytes(const std::string& path) {
  const std::string text = ReadText(path);
  EXPECT_FALSE(text.empty()) << path;
  return Bytes(text.begin(), text.end());
}

// What tpm2_pcrread prints: "sha256:" and then "0 : 0xHEX" a line.
PcrValues ParsePcrText(const std::string& text) {
  PcrValues values;
  std::istringstream lines(text);
  PcrBank bank = PcrBank::kSha1;
  for (std::string line; std::getline(lines, line);) {
    const size_t value = line.find("0x");
    if (value == std::string::npos) {
      bank = line.find("sha256") != std::string::npos ? PcrBank::kSha256 : PcrBank::kSha1;
      continue;
    }
    const auto digest = FromHex(std::string_view(line).substr(value + 2), "PCR");
    EXPECT_TRUE(digest.ok() &&
                values.Set(bank, static_cast<uint32_t>(atoi(line.c_str())), *digest).ok())
        << line;
  }
  return values;
}

struct Sample {
  QuoteEvidence evidence;
  Bytes nonce;
};

Sample ReadMeasuredBoot(const std::string& name) {
  const std::string folder = *VectorsDirectory() + "/attest/measured_boot/" + name + "/";
  Sample sample;
  sample.evidence.ak_public = FileBytes(folder + "ak.tpm2b");
  sample.evidence.quote = FileBytes(folder + "quote.msg");
  sample.evidence.signature = FileBytes(folder + "quote.sig");
  sample.evidence.pcrs = ParsePcrText(ReadText(folder + "pcrs.txt"));
  sample.nonce = FromHex(ReadText(folder + "nonce.hex").substr(0, 64), "nonce").value();
  return sample;
}

PcrIndices MeasuredPcrs() {
  return {{PcrBank::kSha1, {10}}, {PcrBank::kSha256, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14}}};
}

// Reasons of all findings, in order.
std::vector<Reason> Findings(const QuoteEvidence& evidence, const QuoteExpectation& expected) {
  CheckList checks;
  const auto verdict = QuoteAppraiser::Appraise(evidence, expected, checks);
  EXPECT_EQ(verdict.ok(), checks.all_passed());
  std::vector<Reason> reasons;
  for (const Refusal& finding : RefusalsOf(verdict.status())) reasons.push_back(finding.reason);
  EXPECT_EQ(verdict.ok(), reasons.empty()) << verdict.status();
  return reasons;
}

// Needs no vectors.
TEST(QuoteAppraiserTest, AQuoteOfP256IsHeldToEveryByte) {
  testing::TestTpm tpm;
  PcrValues pcrs;
  for (uint32_t index = 0; index < kPcrCount; ++index) {
    ASSERT_TRUE(pcrs.Set(PcrBank::kSha256, index, Bytes(32, static_cast<uint8_t>(index))).ok());
  }
  ASSERT_TRUE(pcrs.Set(PcrBank::kSha1, 10, Bytes(20, 0x0a)).ok());
  QuoteExpectation expected;
  expected.nonce = Bytes(32, 0x77);
  expected.pcrs = {{PcrBank::kSha1, {10}}, {PcrBank::kSha256, {0, 7, 10, 23}}};
  const QuoteEvidence good = tpm.Quote(expected.nonce, pcrs);
  expected.pinned_ak_names = {ToHex(ParseTpm2bPublic(good.ak_public, "AK")->name)};
  EXPECT_TRUE(Findings(good, expected).empty());
  for (Bytes QuoteEvidence::*part :
       {&QuoteEvidence::signature, &QuoteEvidence::quote, &QuoteEvidence::ak_public}) {
    for (size_t i = 0; i < (good.*part).size(); ++i) {
      QuoteEvidence changed = good;
      (changed.*part)[i] ^= 0x01;
      EXPECT_FALSE(Findings(changed, expected).empty()) << i;
    }
  }
  QuoteEvidence other = good;
  ASSERT_TRUE(other.pcrs.Set(PcrBank::kSha256, 7, Bytes(32)).ok());
  EXPECT_THAT(Findings(other, expected), ::testing::ElementsAre(Reason::kMeasurementMismatch));
  // Another TPM's quote of the same values under the same nonce.
  EXPECT_THAT(Findings(testing::TestTpm().Quote(expected.nonce, pcrs), expected),
              ::testing::ElementsAre(Reason::kBindingMismatch));
}

class MeasuredBootTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!VectorsDirectory().has_value()) GTEST_SKIP() << "no vectors (PAVISE_VECTORS)";
    sample_ = ReadMeasuredBoot("clean");
    expected_.nonce = sample_.nonce;
    expected_.pcrs = MeasuredPcrs();
  }
  Sample sample_;
  QuoteExpectation expected_;
};

TEST_F(MeasuredBootTest, QuotesAreAccepted) {
  int accepted = 0;
  for (const char* name : {"clean", "viol"}) {
    const Sample sample = ReadMeasuredBoot(name);
    QuoteExpectation expected;
    expected.nonce = sample.nonce;
    expected.pcrs = MeasuredPcrs();
    CheckList checks;
    const auto verified = QuoteAppraiser::Appraise(sample.evidence, expected, checks);
    ASSERT_TRUE(verified.ok()) << name << ": " << verified.status();
    EXPECT_EQ((*verified)->pcrs, sample.evidence.pcrs);
    EXPECT_EQ((*verified)->ak_bound_to, AkBinding::kNone);
    EXPECT_FALSE((*verified)->tpm.has_value());
    EXPECT_EQ((*verified)->clock.reset_count, 2u);
    EXPECT_EQ((*verified)->firmware_version, 0x2019102300163636u);
    // The file holds "000b" and the digest, in hexadecimal or not.
    const Bytes name_file =
        FileBytes(*VectorsDirectory() + "/attest/measured_boot/" + name + "/ak.name");
    EXPECT_EQ((*verified)->ak.name, name_file);
    EXPECT_EQ(checks.checks().size(), 10u);
    ++accepted;
  }
  EXPECT_EQ(accepted, 2);
}

TEST_F(MeasuredBootTest, EveryFlippedByteIsRefused) {
  ASSERT_EQ(Findings(sample_.evidence, expected_), std::vector<Reason>());
  int refused = 0;
  for (Bytes QuoteEvidence::*part :
       {&QuoteEvidence::signature, &QuoteEvidence::quote, &QuoteEvidence::ak_public}) {
    for (size_t i = 0; i < (sample_.evidence.*part).size(); ++i) {
      QuoteEvidence changed = sample_.evidence;
      for (const uint8_t mask : {0x01, 0x80, 0xff}) {
        (changed.*part)[i] = (sample_.evidence.*part)[i] ^ mask;
        // The attributes of a key that nobody vouches for are the sender's word; what they may not
        // lack or have is tested below.
        if (part == &QuoteEvidence::ak_public && i >= 6 && i < 10) continue;
        EXPECT_FALSE(Findings(changed, expected_).empty()) << i << " ^ " << int{mask};
        ++refused;
      }
    }
  }
  EXPECT_EQ(refused, 3 * (72 + 151 + 90 - 4));
}

TEST_F(MeasuredBootTest, EveryTruncationIsMalformed) {
  int refused = 0;
  for (Bytes QuoteEvidence::*part :
       {&QuoteEvidence::signature, &QuoteEvidence::quote, &QuoteEvidence::ak_public}) {
    for (size_t size = 0; size < (sample_.evidence.*part).size(); ++size) {
      QuoteEvidence changed = sample_.evidence;
      (changed.*part).resize(size);
      EXPECT_THAT(Findings(changed, expected_), ::testing::ElementsAre(Reason::kMalformed)) << size;
      ++refused;
    }
  }
  EXPECT_EQ(refused, 72 + 151 + 90);
}

TEST_F(MeasuredBootTest, ANonceIsForOneSession) {
  QuoteExpectation other = expected_;
  other.nonce.back() ^= 1;
  EXPECT_THAT(Findings(sample_.evidence, other), ::testing::ElementsAre(Reason::kNonceMismatch));
  other.nonce.pop_back();
  EXPECT_THAT(Findings(sample_.evidence, other), ::testing::ElementsAre(Reason::kNonceMismatch));
  other.nonce.clear();
  CheckList checks;
  EXPECT_EQ(ExitCodeOf(QuoteAppraiser::Appraise(sample_.evidence, other, checks).status()), 2);
}

TEST_F(MeasuredBootTest, WantedPcrsMustBeQuoted) {
  QuoteExpectation more = expected_;
  more.pcrs[PcrBank::kSha256].insert(12);
  EXPECT_THAT(Findings(sample_.evidence, more), ::testing::ElementsAre(Reason::kEvidenceMissing));
  // The same PCR in the other bank.
  more.pcrs = {{PcrBank::kSha1, {4}}};
  EXPECT_THAT(Findings(sample_.evidence, more), ::testing::ElementsAre(Reason::kEvidenceMissing));
  more.pcrs = {{PcrBank::kSha384, {10}}};
  EXPECT_THAT(Findings(sample_.evidence, more), ::testing::ElementsAre(Reason::kEvidenceMissing));
}

TEST_F(MeasuredBootTest, ReportedValuesAreTheQuotedOnes) {
  int refused = 0;
  for (const auto& [bank, values] : sample_.evidence.pcrs.banks()) {
    for (const auto& [index, value] : values) {
      QuoteEvidence changed = sample_.evidence;
      Bytes other = value;
      other[index % other.size()] ^= 0x10;
      ASSERT_TRUE(changed.pcrs.Set(bank, index, other).ok());
      EXPECT_THAT(Findings(changed, expected_),
                  ::testing::ElementsAre(Reason::kMeasurementMismatch));
      ++refused;
    }
  }
  EXPECT_EQ(refused, 14);
  // Two values swapped.
  QuoteEvidence swapped = sample_.evidence;
  const Bytes pcr0 = *swapped.pcrs.Get(PcrBank::kSha256, 0);
  const Bytes pcr1 = *swapped.pcrs.Get(PcrBank::kSha256, 1);
  ASSERT_TRUE(swapped.pcrs.Set(PcrBank::kSha256, 0, pcr1).ok());
  ASSERT_TRUE(swapped.pcrs.Set(PcrBank::kSha256, 1, pcr0).ok());
  EXPECT_THAT(Findings(swapped, expected_), ::testing::ElementsAre(Reason::kMeasurementMismatch));
  // One not reported, in either bank.
  QuoteEvidence fewer = sample_.evidence;
  fewer.pcrs = PcrValues();
  EXPECT_THAT(Findings(fewer, expected_), ::testing::ElementsAre(Reason::kEvidenceMissing));
  // One that nobody signed never becomes a claim.
  QuoteEvidence more = sample_.evidence;
  ASSERT_TRUE(more.pcrs.Set(PcrBank::kSha256, 12, Bytes(32, 7)).ok());
  CheckList checks;
  const auto verified = QuoteAppraiser::Appraise(more, expected_, checks);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->pcrs, sample_.evidence.pcrs);
}

TEST_F(MeasuredBootTest, PartsOfTwoMachinesDoNotFit) {
  const Sample other = ReadMeasuredBoot("viol");
  QuoteEvidence spliced = sample_.evidence;
  spliced.ak_public = other.evidence.ak_public;
  EXPECT_THAT(Findings(spliced, expected_), ::testing::ElementsAre(Reason::kSignatureInvalid));
  spliced = sample_.evidence;
  spliced.quote = other.evidence.quote;
  EXPECT_THAT(Findings(spliced, expected_), ::testing::Contains(Reason::kSignatureInvalid));
  spliced = sample_.evidence;
  spliced.pcrs = other.evidence.pcrs;
  EXPECT_THAT(Findings(spliced, expected_), ::testing::ElementsAre(Reason::kMeasurementMismatch));
}

TEST_F(MeasuredBootTest, TheKeyMustBeAnAttestationKey) {
  // TPMA_OBJECT lies behind the length, the type and the name algorithm.
  const auto with = [&](uint32_t set, uint32_t cleared) {
    QuoteEvidence changed = sample_.evidence;
    uint32_t attributes = 0;
    for (size_t i = 6; i < 10; ++i) attributes = attributes << 8 | changed.ak_public[i];
    attributes = (attributes | set) & ~cleared;
    for (size_t i = 0; i < 4; ++i) {
      changed.ak_public[6 + i] = static_cast<uint8_t>(attributes >> (24 - 8 * i));
    }
    return Findings(changed, expected_);
  };
  EXPECT_TRUE(with(0, 0).empty());
  for (const uint32_t needed :
       {kTpmRestricted, kTpmSign, kTpmFixedTpm, kTpmFixedParent, kTpmSensitiveDataOrigin}) {
    EXPECT_THAT(with(0, needed), ::testing::ElementsAre(Reason::kPlatformInsecure)) << needed;
  }
  EXPECT_THAT(with(kTpmDecrypt, 0), ::testing::ElementsAre(Reason::kPlatformInsecure));
}

TEST_F(MeasuredBootTest, APinnedKeyIsHeldToItsName) {
  const std::string name = ToHex(ParseTpm2bPublic(sample_.evidence.ak_public, "AK")->name);
  expected_.pinned_ak_names = {name};
  CheckList checks;
  const auto verified = QuoteAppraiser::Appraise(sample_.evidence, expected_, checks);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->ak_bound_to, AkBinding::kPinned);
  expected_.pinned_ak_names = {"000b" + std::string(64, '0')};
  EXPECT_THAT(Findings(sample_.evidence, expected_),
              ::testing::ElementsAre(Reason::kBindingMismatch));
  // A name is over the attributes too: a pinned key cannot be passed off as another kind.
  expected_.pinned_ak_names = {name};
  QuoteEvidence changed = sample_.evidence;
  changed.ak_public[9] ^= kTpmUserWithAuth;
  EXPECT_THAT(Findings(changed, expected_), ::testing::ElementsAre(Reason::kBindingMismatch));
}

// The fields of one level of a protobuf message, as far as the Google sample needs them: numbers as
// their value, bytes as they are.
struct Field {
  uint64_t number;
  uint64_t value = 0;
  Bytes bytes;
};
std::vector<Field> ReadProtobuf(const Bytes& message) {
  size_t next = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0; next < message.size() && shift < 64; shift += 7) {
      const uint8_t byte = message[next++];
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) break;
    }
    return value;
  };
  std::vector<Field> fields;
  while (next < message.size()) {
    const uint64_t key = varint();
    Field field{key >> 3};
    if ((key & 7) == 0) {
      field.value = varint();
    } else {
      const uint64_t size = std::min<uint64_t>(varint(), message.size() - next);
      field.bytes.assign(message.begin() + static_cast<std::ptrdiff_t>(next),
                         message.begin() + static_cast<std::ptrdiff_t>(next + size));
      next += size;
    }
    fields.push_back(std::move(field));
  }
  return fields;
}

class GoogleShieldedVmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto vectors = VectorsDirectory();
    if (!vectors.has_value()) GTEST_SKIP() << "no vectors (PAVISE_VECTORS)";
    const std::string folder = *vectors + "/attest/tpm/";
    Bytes ak_public;
    for (const Field& field : ReadProtobuf(FileBytes(folder + "gce-cos-85-nonce9009.pb"))) {
      if (field.number == 1) {
        ak_public = {static_cast<uint8_t>(field.bytes.size() >> 8),
                     static_cast<uint8_t>(field.bytes.size())};
        ak_public.insert(ak_public.end(), field.bytes.begin(), field.bytes.end());
      }
      if (field.number == 2) quotes_.push_back(ReadQuote(field.bytes));
      if (field.number == 6) {
        certificate_ = crypto::Certificate::FromDer(field.bytes, "AK certificate").value();
      }
    }
    for (QuoteEvidence& quote : quotes_) quote.ak_public = ak_public;
    trust_.others = {Read(folder + "tpm_ek_intermediate_2.crt"),
                     Read(folder + "tpm_ek_root_1.cer")};
  }

  static crypto::Certificate Read(const std::string& path) {
    const std::string text = ReadText(path);
    if (text.starts_with("-----")) {
      return crypto::Certificate::ListFromPem(text, path).value()[0];
    }
    return crypto::Certificate::FromDer(AsBytes(text), path).value();
  }

  static QuoteEvidence ReadQuote(const Bytes& message) {
    QuoteEvidence evidence;
    for (const Field& field : ReadProtobuf(message)) {
      if (field.number == 1) evidence.quote = field.bytes;
      if (field.number == 2) evidence.signature = field.bytes;
      if (field.number != 3) continue;
      PcrBank bank = PcrBank::kSha1;
      for (const Field& part : ReadProtobuf(field.bytes)) {
        if (part.number == 1) bank = *PcrBankOfAlgorithm(static_cast<uint16_t>(part.value));
        if (part.number != 2) continue;
        uint32_t index = 0;  // absent: 0
        for (const Field& entry : ReadProtobuf(part.bytes)) {
          if (entry.number == 1) index = static_cast<uint32_t>(entry.value);
          if (entry.number != 2) continue;
          EXPECT_TRUE(evidence.pcrs.Set(bank, index, entry.bytes).ok());
        }
      }
    }
    return evidence;
  }

  std::vector<QuoteEvidence> quotes_;
  std::optional<crypto::Certificate> certificate_;
  TpmTrust trust_;
  const absl::Time at_ = absl::FromUnixSeconds(1'700'000'000);
};

TEST_F(GoogleShieldedVmTest, ThreeBanksAreAcceptedUnderTheCertifiedKey) {
  CheckList checks;
  const auto ak =
      AkCertificateAppraiser::Appraise(quotes_[0].ak_public, *certificate_, trust_, at_, checks);
  ASSERT_TRUE(ak.ok()) << ak.status();
  EXPECT_EQ((*ak)->tpm.manufacturer, "id:474F4F47");  // "GOOG"
  EXPECT_EQ((*ak)->tpm.model, "vTPM");
  EXPECT_EQ((*ak)->tpm.version, "id:20160511");
  EXPECT_EQ((*ak)->tpm.root_fingerprint, PinnedTpmRoots()[0].fingerprint);

  QuoteExpectation expected;
  expected.nonce = {0x90, 0x09};
  expected.certified = &*ak;
  int accepted = 0;
  for (const PcrBank bank : {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384}) {
    expected.pcrs = {{bank, {}}};
    for (uint32_t index = 0; index < kPcrCount; ++index) expected.pcrs[bank].insert(index);
    for (const QuoteEvidence& quote : quotes_) {
      const bool is_its_bank = quote.pcrs.banks().contains(bank);
      const auto findings = Findings(quote, expected);
      EXPECT_EQ(findings.empty(), is_its_bank);
      accepted += findings.empty() ? 1 : 0;
    }
  }
  EXPECT_EQ(accepted, 3);
  CheckList again;
  EXPECT_EQ((*QuoteAppraiser::Appraise(quotes_[2], expected, again))->ak_bound_to,
            AkBinding::kCertificate);
  // Another session's nonce; the sha1 values beside the sha256 quote.
  expected.nonce = {0x90, 0x0a};
  EXPECT_THAT(Findings(quotes_[2], expected), ::testing::ElementsAre(Reason::kNonceMismatch));
  expected.nonce = {0x90, 0x09};
  QuoteEvidence spliced = quotes_[1];
  spliced.pcrs = quotes_[0].pcrs;
  EXPECT_THAT(Findings(spliced, expected), ::testing::Contains(Reason::kEvidenceMissing));
}

TEST_F(GoogleShieldedVmTest, EachSignatureByteCounts) {
  QuoteExpectation expected;
  expected.nonce = {0x90, 0x09};
  int refused = 0;
  for (QuoteEvidence quote : quotes_) {
    ASSERT_TRUE(Findings(quote, expected).empty());
    for (size_t i = 0; i < quote.signature.size(); ++i) {
      quote.signature[i] ^= 0x20;
      EXPECT_FALSE(Findings(quote, expected).empty()) << i;
      quote.signature[i] ^= 0x20;
      ++refused;
    }
  }
  EXPECT_EQ(refused, 3 * 262);
}

TEST_F(GoogleShieldedVmTest, TheCertificateIsHeldToItsChain) {
  const auto reasons = [&](const TpmTrust& trust, absl::Time at) {
    CheckList checks;
    const auto ak =
        AkCertificateAppraiser::Appraise(quotes_[0].ak_public, *certificate_, trust, at, checks);
    std::vector<Reason> found;
    for (const Refusal& finding : RefusalsOf(ak.status())) found.push_back(finding.reason);
    return found;
  };
  EXPECT_TRUE(reasons(trust_, at_).empty());
  EXPECT_THAT(reasons(trust_, absl::FromUnixSeconds(1'600'000'000)),
              ::testing::ElementsAre(Reason::kCertificateInvalid));  // not yet valid
  EXPECT_THAT(reasons(trust_, absl::FromUnixSeconds(2'600'000'000)),
              ::testing::ElementsAre(Reason::kCertificateInvalid));  // expired
  for (size_t left : {0, 1}) {
    TpmTrust part = trust_;
    part.others = {trust_.others[left]};
    EXPECT_THAT(reasons(part, at_), ::testing::ElementsAre(Reason::kCertificateInvalid)) << left;
  }
  // A pinned root that came with the evidence is none of the user's.
  TpmTrust sent;
  sent.sent = trust_.others;
  EXPECT_THAT(reasons(sent, at_), ::testing::ElementsAre(Reason::kCertificateInvalid));
  // Trusted because the user says so, without the pinned root.
  TpmTrust given;
  given.roots = {trust_.others[0]};
  EXPECT_TRUE(reasons(given, at_).empty());
  for (const crypto::Certificate& revoked : {*certificate_, trust_.others[0], trust_.others[1]}) {
    TpmTrust without = trust_;
    without.revoked = {revoked.Fingerprint()};
    EXPECT_THAT(reasons(without, at_), ::testing::ElementsAre(Reason::kRevoked));
  }
  // Google writes the usage of endorsement keys; the key is none.
  CheckList checks;
  EXPECT_EQ(
      ReasonOf(
          EkAppraiser::Appraise(quotes_[0].ak_public, *certificate_, trust_, at_, checks).status()),
      Reason::kPlatformInsecure);
}

}  // namespace
}  // namespace pavise::evidence
