#include "pavise/crypto/dsse.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::crypto {
namespace {

constexpr size_t kMaxPayloadTypeBytes = 256;
constexpr size_t kMaxSignatureBytes = 2048;  // RSA of 16,384 bits
constexpr JsonLimits kEnvelopeLimits = {
    .max_bytes = kMaxEnvelopePayloadBytes / 3 * 4 + (1 << 20), .max_depth = 4, .max_values = 1024};

absl::Status CheckPayloadSize(size_t size_bytes, std::string_view item) {
  if (size_bytes <= kMaxEnvelopePayloadBytes) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, item,
                StrCat("a payload of ", HumanBytes(size_bytes), ", the limit is ",
                       HumanBytes(kMaxEnvelopePayloadBytes)));
}

bool IsKeyId(std::string_view text) {
  return text.size() == 2 * sizeof(Digest32) &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

absl::StatusOr<EnvelopeSignature> ReadSignature(const Json& json, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, path));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"keyid", "sig"}));
  EnvelopeSignature signature;
  PAVISE_ASSIGN_OR_RETURN(signature.key_id, object.GetString("keyid"));
  if (!IsKeyId(signature.key_id)) {
    return Refuse(Reason::kMalformed, object.PathOf("keyid"), "not the SHA-256 of a public key",
                  "name the key by the lower-case hex SHA-256 of its SubjectPublicKeyInfo");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString("sig"));
  PAVISE_ASSIGN_OR_RETURN(signature.signature, FromBase64(text, object.PathOf("sig")));
  if (signature.signature.empty() || signature.signature.size() > kMaxSignatureBytes) {
    return Refuse(Reason::kMalformed, object.PathOf("sig"),
                  StrCat("a signature of ", signature.signature.size(), " bytes"));
  }
  return signature;
}

}  // namespace

Bytes PreAuthenticationEncoding(std::string_view payload_type, ByteSpan payload) {
  const std::string head =
      StrCat("DSSEv1 ", payload_type.size(), " ", payload_type, " ", payload.size(), " ");
  Bytes out;
  out.reserve(head.size() + payload.size());
  out.insert(out.end(), head.begin(), head.end());
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

absl::StatusOr<Envelope> SignEnvelope(std::string_view payload_type, ByteSpan payload,
                                      Signer& signer) {
  PAVISE_RETURN_IF_ERROR(CheckPayloadSize(payload.size(), "envelope"));
  Envelope envelope{.payload_type = std::string(payload_type),
                    .payload = Bytes(payload.begin(), payload.end())};
  EnvelopeSignature signature{.key_id = signer.public_key().Fingerprint()};
  PAVISE_ASSIGN_OR_RETURN(signature.signature,
                          signer.Sign(PreAuthenticationEncoding(payload_type, payload)));
  envelope.signatures.push_back(std::move(signature));
  return envelope;
}

absl::StatusOr<Envelope> ParseEnvelope(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, kEnvelopeLimits));
  return EnvelopeFromJson(json, item);
}

absl::StatusOr<Envelope> EnvelopeFromJson(const Json& json, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"payload", "payloadType", "signatures"}));
  Envelope envelope;
  PAVISE_ASSIGN_OR_RETURN(envelope.payload_type, object.GetString("payloadType"));
  if (envelope.payload_type.empty() || envelope.payload_type.size() > kMaxPayloadTypeBytes) {
    return Refuse(Reason::kMalformed, object.PathOf("payloadType"),
                  StrCat("a type of ", envelope.payload_type.size(), " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString("payload"));
  PAVISE_RETURN_IF_ERROR(CheckPayloadSize(text.size() / 4 * 3, object.PathOf("payload")));
  PAVISE_ASSIGN_OR_RETURN(envelope.payload, FromBase64(text, object.PathOf("payload")));
  PAVISE_ASSIGN_OR_RETURN(const Json* signatures, object.GetArray("signatures"));
  const std::string path = object.PathOf("signatures");
  if (signatures->empty()) return Refuse(Reason::kMalformed, path, "nobody signed");
  if (signatures->size() > kMaxEnvelopeSignatures) {
    return Refuse(Reason::kLimitExceeded, path,
                  StrCat(signatures->size(), " signatures, the limit is ", kMaxEnvelopeSignatures));
  }
  for (size_t i = 0; i < signatures->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(EnvelopeSignature signature,
                            ReadSignature((*signatures)[i], StrCat(path, "[", i, "]")));
    if (std::ranges::find(envelope.signatures, signature.key_id, &EnvelopeSignature::key_id) !=
        envelope.signatures.end()) {
      return Refuse(Reason::kMalformed, path, StrCat("key ", signature.key_id, " signed twice"));
    }
    envelope.signatures.push_back(std::move(signature));
  }
  return envelope;
}

Json EnvelopeToJson(const Envelope& envelope) {
  Json signatures = Json::array();
  for (const EnvelopeSignature& signature : envelope.signatures) {
    signatures.push_back({{"keyid", signature.key_id}, {"sig", ToBase64(signature.signature)}});
  }
  return {{"payload", ToBase64(envelope.payload)},
          {"payloadType", envelope.payload_type},
          {"signatures", std::move(signatures)}};
}

std::string FormatEnvelope(const Envelope& envelope) {
  return DumpJson(EnvelopeToJson(envelope), /*indent=*/-1);
}

absl::Status VerifyEnvelope(const Envelope& envelope, std::string_view payload_type,
                            const PublicKey& key, std::string_view item) {
  if (envelope.payload_type != payload_type) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("a payload of type \"", Printable(envelope.payload_type), "\" where \"",
                         payload_type, "\" belongs"));
  }
  const std::string key_id = key.Fingerprint();
  const auto signature = std::ranges::find(envelope.signatures, key_id, &EnvelopeSignature::key_id);
  if (signature == envelope.signatures.end()) {
    return Refuse(Reason::kKeyMismatch, item, StrCat("not signed by key ", key_id),
                  "have the owner of that key sign it");
  }
  return key.Verify(PreAuthenticationEncoding(payload_type, envelope.payload), signature->signature,
                    item);
}

}  // namespace pavise::crypto
