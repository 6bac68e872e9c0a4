#ifndef PAVISE_CRYPTO_DSSE_H_
#define PAVISE_CRYPTO_DSSE_H_

#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/crypto/keys.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::crypto {

// Dead Simple Signing Envelopes (github.com/secure-systems-lab/dsse, protocol v1.0.0): a payload of
// a named type with signatures over both. Thread-safe.

// What is signed: "DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload.
Bytes PreAuthenticationEncoding(std::string_view payload_type, ByteSpan payload);

struct EnvelopeSignature {
  std::string key_id;  // PublicKey::Fingerprint() of the signer; a hint, checked by VerifyEnvelope
  Bytes signature;     // ECDSA: DER; Ed25519: 64 bytes (RFC 8032)

  friend bool operator==(const EnvelopeSignature&, const EnvelopeSignature&) = default;
};

// Read from outside, it says nothing until VerifyEnvelope accepted it.
struct Envelope {
  std::string payload_type;
  Bytes payload;
  std::vector<EnvelopeSignature> signatures;

  friend bool operator==(const Envelope&, const Envelope&) = default;
};

constexpr size_t kMaxEnvelopePayloadBytes = 16 << 20;
constexpr size_t kMaxEnvelopeSignatures = 64;

// kLimitExceeded: a longer payload; else the signer's errors.
absl::StatusOr<Envelope> SignEnvelope(std::string_view payload_type, ByteSpan payload,
                                      Signer& signer);

// Strict: members payloadType, payload and signatures, each signature keyid (64 lower-case hex
// digits, none twice) and sig, base64 with padding. kMalformed, kLimitExceeded. Form only.
absl::StatusOr<Envelope> ParseEnvelope(ByteSpan text, std::string_view item);
absl::StatusOr<Envelope> EnvelopeFromJson(const Json& json, std::string_view item);
// One line.
std::string FormatEnvelope(const Envelope& envelope);
Json EnvelopeToJson(const Envelope& envelope);

// OK: `key` signed this payload as this type. kUnsupported: another payload type; kKeyMismatch: no
// signature names the key; kSignatureInvalid: the one that does is wrong.
absl::Status VerifyEnvelope(const Envelope& envelope, std::string_view payload_type,
                            const PublicKey& key, std::string_view item);

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_DSSE_H_
