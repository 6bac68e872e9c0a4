#include "pavise/evidence/appraise/tpm/credential.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/crypto/credential_protection.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kItem = "credential";
// Labels of Part 1, 24; their NUL counts.
constexpr std::string_view kIdentity("IDENTITY", 9);
constexpr std::string_view kStorage("STORAGE", 8);
constexpr std::string_view kIntegrity("INTEGRITY", 10);

// Both key derivation functions count their blocks from 1; one is enough for every key here.
constexpr std::array<uint8_t, 4> kFirstBlock = {0, 0, 0, 1};

void AppendBigEndian(uint32_t value, size_t size_bytes, Bytes& out) {
  for (size_t i = size_bytes; i-- > 0;) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}

void Append(ByteSpan bytes, Bytes& out) { out.insert(out.end(), bytes.begin(), bytes.end()); }

// TPM2B_*.
void AppendSized(ByteSpan bytes, Bytes& out) {
  AppendBigEndian(static_cast<uint32_t>(bytes.size()), 2, out);
  Append(bytes, out);
}

// KDFa (Part 1, 11.4.10.2; SP 800-108 in counter mode) for keys of one block at most.
absl::StatusOr<SecretBytes> DeriveKeyA(crypto::DigestAlgorithm digest, const SecretBytes& seed,
                                       std::string_view label, ByteSpan context_u,
                                       size_t key_bytes) {
  Bytes message(kFirstBlock.begin(), kFirstBlock.end());
  Append(AsBytes(label), message);
  Append(context_u, message);
  AppendBigEndian(static_cast<uint32_t>(8 * key_bytes), 4, message);
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes block, crypto::Hmac(digest, seed, message));
  return SecretBytes(block.Reveal().first(key_bytes));
}

// KDFe (Part 1, 11.4.10.3; SP 800-56A), one block.
absl::StatusOr<SecretBytes> DeriveSeedE(crypto::DigestAlgorithm digest,
                                        const crypto::EphemeralAgreement& agreement) {
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester, crypto::Digester::Create(digest));
  for (const ByteSpan part :
       {ByteSpan(kFirstBlock), agreement.shared_x.Reveal(), AsBytes(kIdentity),
        ByteSpan(agreement.ephemeral_x), ByteSpan(agreement.peer_x)}) {
    PAVISE_RETURN_IF_ERROR(digester.Update(part));
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes seed, digester.Finish());
  return SecretBytes(std::move(seed));
}

absl::StatusOr<SecretBytes> RandomSecret(size_t size_bytes, RandomSource& random) {
  Bytes bytes(size_bytes);
  PAVISE_RETURN_IF_ERROR(random.Fill(bytes));
  return SecretBytes(std::move(bytes));
}

}  // namespace

absl::StatusOr<CredentialChallenge> MakeCredential(const TpmPublic& ek, ByteSpan ak_name,
                                                   const SecretBytes& credential,
                                                   RandomSource& random) {
  const crypto::DigestAlgorithm digest = ek.name_algorithm;
  const size_t digest_bytes = crypto::DigestSizeBytes(digest);
  if (credential.empty() || credential.size_bytes() > digest_bytes) {
    return UsageError(StrCat("a credential of ", credential.size_bytes(), " bytes; 1 to ",
                             digest_bytes, " can be protected"));
  }
  // KDFa gives one block here, which AES-256 with a SHA-1 name would not fit into.
  if (!ek.symmetric_key_bits.has_value() || *ek.symmetric_key_bits / 8u > digest_bytes) {
    return Refuse(Reason::kUnsupported, "EK public area",
                  "its cipher and its name algorithm protect no credential",
                  "use an endorsement key made from one of TCG's templates");
  }
  SecretBytes seed;
  Bytes secret;
  if (ek.key.type() == crypto::KeyType::kRsa) {
    PAVISE_ASSIGN_OR_RETURN(seed, RandomSecret(digest_bytes, random));
    PAVISE_ASSIGN_OR_RETURN(
        secret, crypto::EncryptRsaOaep(ek.key, digest, AsBytes(kIdentity), seed, kItem));
  } else {
    PAVISE_ASSIGN_OR_RETURN(const crypto::EphemeralAgreement agreement,
                            crypto::AgreeEphemerally(ek.key, kItem));
    PAVISE_ASSIGN_OR_RETURN(seed, DeriveSeedE(digest, agreement));
    AppendSized(agreement.ephemeral_x, secret);
    AppendSized(agreement.ephemeral_y, secret);
  }

  PAVISE_ASSIGN_OR_RETURN(const SecretBytes cipher_key,
                          DeriveKeyA(digest, seed, kStorage, ak_name, *ek.symmetric_key_bits / 8u));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes hmac_key,
                          DeriveKeyA(digest, seed, kIntegrity, {}, digest_bytes));
  // In one piece: a vector that grows leaves copies behind.
  Bytes plain(2 + credential.size_bytes());
  plain[1] = static_cast<uint8_t>(credential.size_bytes());
  std::ranges::copy(credential.Reveal(), plain.begin() + 2);
  PAVISE_ASSIGN_OR_RETURN(Bytes encrypted,
                          crypto::EncryptAesCfb(cipher_key, SecretBytes(std::move(plain))));
  Bytes authenticated = encrypted;
  Append(ak_name, authenticated);
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes integrity,
                          crypto::Hmac(digest, hmac_key, authenticated));
  Bytes id_object;
  AppendSized(integrity.Reveal(), id_object);
  Append(encrypted, id_object);

  CredentialChallenge challenge;
  AppendSized(id_object, challenge.credential_blob);
  AppendSized(secret, challenge.encrypted_secret);
  return challenge;
}

absl::StatusOr<AkEnrolment> AkEnroller::Begin(const VerifiedEk& ek, ByteSpan ak_public,
                                              RandomSource& random, CheckList& checks) {
  absl::StatusOr<TpmPublic> ak = ParseTpm2bPublic(ak_public, "AK public area");
  PAVISE_RETURN_IF_ERROR(checks.Add("AK public area", "well-formed", ak.status()));
  CheckAkAttributes(*ak, checks);
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  PAVISE_ASSIGN_OR_RETURN(
      SecretBytes secret,
      RandomSecret(std::min<size_t>(32, crypto::DigestSizeBytes(ek->ek.name_algorithm)), random));
  PAVISE_ASSIGN_OR_RETURN(CredentialChallenge challenge,
                          MakeCredential(ek->ek, ak->name, secret, random));
  return AkEnrolment{std::move(challenge), std::move(secret), AkClaims{*std::move(ak), *ek}};
}

absl::StatusOr<VerifiedAk> AkEnroller::Finish(AkEnrolment enrolment, const SecretBytes& activated,
                                              CheckList& checks) {
  const std::string name = ToHex(enrolment.claims.ak.name);
  // An enrolment that was moved from holds an empty secret, which nothing may equal.
  if (enrolment.secret.empty() || !enrolment.secret.Equals(activated)) {
    checks.Fail("AK enrolment", Reason::kBindingMismatch, StrCat("AK ", name),
                "the secret that came back is not the one that only its TPM can open",
                "activate the credential in the TPM that holds both keys, and begin again");
    return checks.Verdict();
  }
  checks.Pass("AK enrolment",
              StrCat("AK ", name, " is in the TPM of EK ", ToHex(enrolment.claims.ek.ek.name)));
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedAk(std::move(enrolment.claims));
}

}  // namespace pavise::evidence
