#ifndef PAVISE_EVIDENCE_APPRAISE_TPM_TPM_STRUCTURES_H_
#define PAVISE_EVIDENCE_APPRAISE_TPM_TPM_STRUCTURES_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

// Structures that a TPM hands out, read from their canonical (big-endian) form. Section numbers are
// those of the TPM 2.0 Library specification, Part 2: Structures, revision 1.59. Every parser takes
// the whole structure, at most kMaxTpmStructureBytes (kLimitExceeded), and refuses bytes after it,
// reserved bits and lengths that do not fit (kMalformed). Algorithms and variants that are none of
// those named here are kUnsupported. All functions are pure and thread-safe.
namespace pavise::evidence {

// RSA 4096 keys with their signatures take less than 1 KiB.
inline constexpr size_t kMaxTpmStructureBytes = 4096;

// TPMA_OBJECT (8.3).
enum TpmAttribute : uint32_t {
  kTpmFixedTpm = 1u << 1,
  kTpmStClear = 1u << 2,
  kTpmFixedParent = 1u << 4,
  kTpmSensitiveDataOrigin = 1u << 5,
  kTpmUserWithAuth = 1u << 6,
  kTpmAdminWithPolicy = 1u << 7,
  kTpmNoDictionaryAttack = 1u << 10,
  kTpmEncryptedDuplication = 1u << 11,
  kTpmRestricted = 1u << 16,
  kTpmDecrypt = 1u << 17,
  kTpmSign = 1u << 18,
};

// How a key signs (TPMT_RSA_SCHEME, TPMT_ECC_SCHEME; 11.2.4.2, 11.2.5.6): RSASSA, RSAPSS or ECDSA
// with one of the four digests.
struct TpmSigningScheme {
  crypto::SignatureScheme scheme;
  crypto::DigestAlgorithm digest;
  friend bool operator==(const TpmSigningScheme&, const TpmSigningScheme&) = default;
};

// The public area of an RSA or ECC (P-256, P-384) key (TPMT_PUBLIC, 12.2.4).
struct TpmPublic {
  crypto::DigestAlgorithm name_algorithm;
  uint32_t attributes;  // TpmAttribute
  Bytes auth_policy;
  // AES in CFB mode, for keys that protect others: 128 or 256. Else nullopt.
  std::optional<uint16_t> symmetric_key_bits;
  std::optional<TpmSigningScheme> signing_scheme;  // nullopt: TPM_ALG_NULL
  crypto::PublicKey key;
  Bytes area;  // the TPMT_PUBLIC itself
  Bytes name;  // nameAlg || H(area) (Part 1, 16): what a credential and a certification name it by

  bool has(uint32_t attribute_bits) const {
    return (attributes & attribute_bits) == attribute_bits;
  }
};

// TPMT_PUBLIC, and the same behind its length (TPM2B_PUBLIC, 12.2.5).
absl::StatusOr<TpmPublic> ParseTpmtPublic(ByteSpan bytes, std::string_view item);
absl::StatusOr<TpmPublic> ParseTpm2bPublic(ByteSpan bytes, std::string_view item);

// TPMT_SIGNATURE (11.3.4).
struct TpmSignature {
  TpmSigningScheme scheme;
  Bytes rsa;               // RSASSA, RSAPSS
  Bytes ecdsa_r, ecdsa_s;  // big-endian, at most 66 bytes each
};
absl::StatusOr<TpmSignature> ParseTpmtSignature(ByteSpan bytes, std::string_view item);

// `signature` over `message` by `key`. kKeyUnsupported, kUnsupported (SHA-1), kSignatureInvalid.
absl::Status VerifyTpmSignature(const crypto::PublicKey& key, const TpmSignature& signature,
                                ByteSpan message, std::string_view item);

// TPMS_CLOCK_INFO (10.11.1).
struct TpmClock {
  uint64_t clock_ms = 0;       // time powered on, over the TPM's life
  uint32_t reset_count = 0;    // TPM resets (boots)
  uint32_t restart_count = 0;  // suspensions since the last reset
  bool safe = false;           // no higher value was ever reported
};

// The PCRs of one TPML_PCR_SELECTION (10.9.7), in the order in which they were digested: banks as
// listed, in each the indices ascending.
using TpmPcrSelection = std::vector<std::pair<PcrBank, std::set<uint32_t>>>;

// TPMS_ATTEST of a quote (10.12.12, 10.12.1).
struct TpmQuote {
  Bytes qualified_signer;  // name of the key with its ancestors'
  Bytes extra_data;        // the caller's nonce
  TpmClock clock;
  uint64_t firmware_version = 0;
  TpmPcrSelection selection;  // no bank twice
  Bytes pcr_digest;
};
// kUnsupported says which other type of attestation it is (certify, time, ...).
absl::StatusOr<TpmQuote> ParseTpmsAttestQuote(ByteSpan bytes, std::string_view item);

// The digest of `pcrs` in the order of `selection` (Part 3, 18.4: under the hash of the signing
// scheme). kEvidenceMissing: a selected PCR has no value.
absl::StatusOr<Bytes> DigestOfPcrs(const TpmPcrSelection& selection, const PcrValues& pcrs,
                                   crypto::DigestAlgorithm digest, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_TPM_TPM_STRUCTURES_H_
