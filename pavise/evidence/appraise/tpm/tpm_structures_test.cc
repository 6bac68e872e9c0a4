#include "pavise/evidence/appraise/tpm/tpm_structures.h"

#include <string>

#include "pavise/base/status.h"
#include "pavise/crypto/testing/test_files.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// A structure of the fuzz corpus (fuzz/make_corpus.py), without the byte that chooses the parser.
Bytes Seed(const std::string& name) {
  const std::string text =
      crypto::testing::ReadText(PAVISE_SOURCE_DIR "/fuzz/corpus/tpm_structures_fuzz/" + name);
  EXPECT_FALSE(text.empty()) << name;
  return text.empty() ? Bytes() : Bytes(text.begin() + 1, text.end());
}

template <typename T>
void ExpectRefusedWhereCut(absl::StatusOr<T> (*parse)(ByteSpan, std::string_view),
                           const Bytes& bytes) {
  ASSERT_TRUE(parse(bytes, "whole").ok()) << parse(bytes, "whole").status();
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_EQ(ReasonOf(parse(ByteSpan(bytes).first(size), "cut").status()), Reason::kMalformed)
        << size;
  }
  Bytes longer = bytes;
  longer.push_back(0);
  EXPECT_EQ(ReasonOf(parse(longer, "longer").status()), Reason::kMalformed);
  longer.resize(kMaxTpmStructureBytes + 1);
  EXPECT_EQ(ReasonOf(parse(longer, "large").status()), Reason::kLimitExceeded);
}

template <typename T>
std::optional<Reason> ReasonOfSeed(absl::StatusOr<T> (*parse)(ByteSpan, std::string_view),
                                   const std::string& name) {
  return ReasonOf(parse(Seed(name), name).status());
}

TEST(TpmStructuresTest, ReadsKeys) {
  const auto ak = ParseTpmtPublic(Seed("ecc_ak"), "AK");
  ASSERT_TRUE(ak.ok()) << ak.status();
  EXPECT_TRUE(ak->has(kTpmRestricted | kTpmSign | kTpmFixedTpm | kTpmFixedParent));
  EXPECT_FALSE(ak->has(kTpmRestricted | kTpmDecrypt));
  EXPECT_EQ(ak->key.type(), crypto::KeyType::kEcP256);
  EXPECT_EQ(ak->signing_scheme, (TpmSigningScheme{crypto::SignatureScheme::kEcdsaRaw,
                                                  crypto::DigestAlgorithm::kSha256}));
  EXPECT_EQ(ak->symmetric_key_bits, std::nullopt);
  EXPECT_EQ(ak->name.size(), 34u);
  EXPECT_EQ(ToHex(ak->name).substr(0, 4), "000b");
  EXPECT_EQ(ParseTpm2bPublic(Seed("ecc_ak_sized"), "AK")->name, ak->name);

  const auto ek = ParseTpmtPublic(Seed("rsa_ek"), "EK");
  ASSERT_TRUE(ek.ok()) << ek.status();
  EXPECT_EQ(ek->key.type(), crypto::KeyType::kRsa);
  EXPECT_EQ(ek->symmetric_key_bits, 128);
  EXPECT_EQ(ek->signing_scheme, std::nullopt);
  EXPECT_EQ(ek->auth_policy, Bytes(32, 0));
}

TEST(TpmStructuresTest, ReadsAQuote) {
  const auto quote = ParseTpmsAttestQuote(Seed("quote"), "quote");
  ASSERT_TRUE(quote.ok()) << quote.status();
  EXPECT_EQ(AsText(quote->extra_data), "nonce");
  EXPECT_EQ(quote->clock.clock_ms, 12345u);
  EXPECT_EQ(quote->clock.reset_count, 2u);
  EXPECT_EQ(quote->clock.restart_count, 1u);
  EXPECT_TRUE(quote->clock.safe);
  EXPECT_EQ(quote->firmware_version, 0x2019102300163636u);
  ASSERT_EQ(quote->selection.size(), 2u);
  EXPECT_THAT(quote->selection[0], Pair(PcrBank::kSha1, UnorderedElementsAre(10)));
  EXPECT_EQ(quote->selection[1].second.size(), 13u);
  EXPECT_EQ(quote->pcr_digest, Bytes(32, 0));
}

TEST(TpmStructuresTest, RefusesEveryPrefixAndEveryTail) {
  ExpectRefusedWhereCut(ParseTpmtPublic, Seed("ecc_ak"));
  ExpectRefusedWhereCut(ParseTpmtPublic, Seed("rsa_ek"));
  ExpectRefusedWhereCut(ParseTpmtPublic, Seed("rsa_ak"));
  ExpectRefusedWhereCut(ParseTpm2bPublic, Seed("ecc_ak_sized"));
  ExpectRefusedWhereCut(ParseTpmtSignature, Seed("ecdsa_signature"));
  ExpectRefusedWhereCut(ParseTpmtSignature, Seed("rsassa_signature"));
  ExpectRefusedWhereCut(ParseTpmtSignature, Seed("rsapss_signature"));
  ExpectRefusedWhereCut(ParseTpmsAttestQuote, Seed("quote"));
}

TEST(TpmStructuresTest, RefusesWhatNoTpmMeans) {
  EXPECT_EQ(ReasonOfSeed(ParseTpmtPublic, "rsa_small_modulus"), Reason::kKeyUnsupported);
  EXPECT_EQ(ReasonOfSeed(ParseTpmtPublic, "rsa_exponent"), Reason::kUnsupported);
  EXPECT_EQ(ReasonOfSeed(ParseTpmtPublic, "off_the_curve"), Reason::kMalformed);
  EXPECT_EQ(ReasonOfSeed(ParseTpmtPublic, "reserved_attribute"), Reason::kMalformed);
  EXPECT_EQ(ReasonOfSeed(ParseTpmtPublic, "ecdsa_with_rsa"), Reason::kMalformed);
  EXPECT_EQ(ReasonOfSeed(ParseTpm2bPublic, "length_lies"), Reason::kMalformed);
  EXPECT_EQ(ReasonOfSeed(ParseTpmtSignature, "hmac_signature"), Reason::kUnsupported);
  EXPECT_EQ(ReasonOfSeed(ParseTpmsAttestQuote, "bank_twice"), Reason::kMalformed);
  EXPECT_EQ(ReasonOfSeed(ParseTpmsAttestQuote, "many_banks"), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOfSeed(ParseTpmsAttestQuote, "pcr_24"), Reason::kMalformed);
  const absl::Status certify = ParseTpmsAttestQuote(Seed("certify"), "quote").status();
  EXPECT_EQ(ReasonOf(certify), Reason::kUnsupported);
  EXPECT_THAT(std::string(certify.message()), ::testing::HasSubstr("a certification of a key"));
  // Bytes that the AK would sign for anybody never begin with TPM_GENERATED_VALUE.
  Bytes foreign = Seed("quote");
  foreign[0] ^= 1;
  EXPECT_EQ(ReasonOf(ParseTpmsAttestQuote(foreign, "quote").status()), Reason::kMalformed);
}

TEST(TpmStructuresTest, DigestsPcrsInTheOrderOfTheSelection) {
  PcrValues pcrs;
  ASSERT_TRUE(pcrs.Set(PcrBank::kSha1, 10, Bytes(20, 1)).ok());
  ASSERT_TRUE(pcrs.Set(PcrBank::kSha256, 0, Bytes(32, 2)).ok());
  ASSERT_TRUE(pcrs.Set(PcrBank::kSha256, 7, Bytes(32, 3)).ok());
  const TpmPcrSelection order = {{PcrBank::kSha256, {7, 0}}, {PcrBank::kSha1, {10}}};
  Bytes joined(32, 2);
  joined.insert(joined.end(), 32, 3);
  joined.insert(joined.end(), 20, 1);
  const auto sha256 = crypto::DigestAlgorithm::kSha256;
  EXPECT_EQ(DigestOfPcrs(order, pcrs, sha256, "quote").value(),
            crypto::Digest(sha256, joined).value());
  const TpmPcrSelection other = {{PcrBank::kSha1, {10}}, {PcrBank::kSha256, {0, 7}}};
  EXPECT_NE(DigestOfPcrs(other, pcrs, sha256, "quote").value(),
            DigestOfPcrs(order, pcrs, sha256, "quote").value());
  EXPECT_EQ(ReasonOf(DigestOfPcrs({{PcrBank::kSha256, {8}}}, pcrs, sha256, "quote").status()),
            Reason::kEvidenceMissing);
}

}  // namespace
}  // namespace pavise::evidence
