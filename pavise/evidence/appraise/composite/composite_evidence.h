#ifndef PAVISE_EVIDENCE_APPRAISE_COMPOSITE_COMPOSITE_EVIDENCE_H_
#define PAVISE_EVIDENCE_APPRAISE_COMPOSITE_COMPOSITE_EVIDENCE_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Evidence of several devices that answers one challenge for one session key:
// docs/formats/evidence.md has the encodings, byte by byte. Values; nothing here is verified.
namespace pavise::evidence {

// In the order in which evidence is collected: each part signs for those before it.
enum class PartKind { kGpu, kTpm, kTee };
std::string_view PartKindName(PartKind kind);  // "gpu", "tpm", "tee"

// What one device sent: its format decides its kind and which items it may and must have.
//   nvidia-spdm-1.1  gpu  report, certificates
//   tpm-2.0          tpm  quote, signature, attestation_key, pcr_values; endorsement_key,
//                         endorsement_certificates, attestation_certificates, event_log, ima_log
//   amd-sev-snp      tee  report; certificates
//   intel-tdx        tee  quote; event_log
//   intel-sgx        tee  quote
// (Items before the semicolon are required.)
struct EvidencePart {
  std::string format;
  std::map<std::string, Bytes> items;
  friend bool operator==(const EvidencePart&, const EvidencePart&) = default;
};

struct CompositeEvidence {
  Digest32 nonce{};   // the challenge
  Bytes session_key;  // SubjectPublicKeyInfo, DER
  std::vector<EvidencePart> parts;
  friend bool operator==(const CompositeEvidence&, const CompositeEvidence&) = default;
};

// kUnsupported for a format that is not listed above.
absl::StatusOr<PartKind> KindOf(const EvidencePart& part);

// The rules of the format: 1 to 32 parts, GPUs before the TPM before the TEE, at most one TPM and
// one TEE, known items only and every required one, none empty or over 64 MiB, 96 MiB together; a
// session key of 1 to 1,024 bytes. kMalformed, kUnsupported, kLimitExceeded, kEvidenceMissing.
absl::Status CheckForm(const CompositeEvidence& evidence);

// CBOR (RFC 8949) in its deterministic encoding (4.2.1), JSON in canonical form (RFC 8785) with
// bytes in base64. Refused as by CheckForm.
absl::StatusOr<Bytes> ToCbor(const CompositeEvidence& evidence);
absl::StatusOr<std::string> ToJson(const CompositeEvidence& evidence);

// CBOR must be the one encoding that ToCbor writes; JSON is strict, in any order and spacing. At
// most 96 MiB (JSON 144 MiB). kMalformed, kLimitExceeded, kUnsupported (another version), and as by
// CheckForm.
absl::StatusOr<CompositeEvidence> FromCbor(ByteSpan bytes, std::string_view item);
absl::StatusOr<CompositeEvidence> FromJson(ByteSpan text, std::string_view item);
// The same of a value that ParseJson read, as part of a larger message.
absl::StatusOr<CompositeEvidence> FromJsonValue(const Json& value, std::string_view item);

// SHA-256 of the part's CBOR: what later parts sign for it.
absl::StatusOr<Digest32> PartDigest(const EvidencePart& part);

// What a part must have signed: SHA-256 of the canonical JSON
//   {"binding":"pavise-1","evidence":[hex of PartDigest, in order],"nonce":hex,"role":kind,
//    "session_key":JWK}
// where "evidence" lists the parts collected before it. A GPU takes it as the nonce, a TPM as
// qualifying data, a TEE as the first 32 bytes of its 64 bytes of report data, the rest zero.
// kKeyUnsupported: a session key that is not on P-256, P-384 or P-521; kMalformed.
absl::StatusOr<Digest32> BindingValue(PartKind role, const Digest32& nonce, ByteSpan session_key,
                                      const std::vector<Digest32>& collected);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_COMPOSITE_COMPOSITE_EVIDENCE_H_
