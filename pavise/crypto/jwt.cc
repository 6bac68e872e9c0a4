#include "pavise/crypto/jwt.h"

#include <utility>

#include "pavise/base/canonical_json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

constexpr size_t kMaxTokenBytes = 1 << 20;
constexpr std::string_view kItem = "token";

struct Algorithm {
  std::string_view name;
  DigestAlgorithm digest;
};

absl::StatusOr<Algorithm> AlgorithmOf(const PublicKey& key, std::string_view item) {
  switch (key.type()) {
    case KeyType::kEcP256:
      return Algorithm{"ES256", DigestAlgorithm::kSha256};
    case KeyType::kEcP384:
      return Algorithm{"ES384", DigestAlgorithm::kSha384};
    case KeyType::kEcP521:
      return Algorithm{"ES512", DigestAlgorithm::kSha512};
    default:
      return Refuse(Reason::kKeyUnsupported, item,
                    StrCat("tokens are not signed with keys of type ", KeyTypeName(key.type())));
  }
}

absl::StatusOr<std::string> EncodePart(const Json& value) {
  try {
    return ToBase64Url(AsBytes(value.dump()));  // throws for text that is not UTF-8
  } catch (const Json::exception&) {
    return Refuse(Reason::kMalformed, kItem, "a claim that is not UTF-8");
  }
}

}  // namespace

absl::StatusOr<Json> ToJwk(const PublicKey& key, std::string_view item) {
  if (key.type() == KeyType::kRsa) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes modulus, internal::RsaParameter(key, "n", item));
    PAVISE_ASSIGN_OR_RETURN(const Bytes exponent, internal::RsaParameter(key, "e", item));
    return Json{{"kty", "RSA"}, {"n", ToBase64Url(modulus)}, {"e", ToBase64Url(exponent)}};
  }
  const size_t field_bytes = internal::EcFieldSizeBytes(key.type());
  const Bytes& der = key.der();
  // A SubjectPublicKeyInfo ends with the point, which is uncompressed here: 04 || x || y.
  if (field_bytes == 0 || der.size() < 2 * field_bytes) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("a key of type ", KeyTypeName(key.type()), " has no such JWK"));
  }
  const ByteSpan point = ByteSpan(der).last(2 * field_bytes);
  return Json{{"kty", "EC"},
              {"crv", std::string(KeyTypeName(key.type()))},
              {"x", ToBase64Url(point.first(field_bytes))},
              {"y", ToBase64Url(point.last(field_bytes))}};
}

absl::StatusOr<PublicKey> PublicKeyFromJwk(const Json& jwk, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(jwk, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string kind, object.GetString("kty"));
  const auto read = [&](std::string_view name) -> absl::StatusOr<Bytes> {
    PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(name));
    return FromBase64Url(text, object.PathOf(name));
  };
  if (kind == "RSA") {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kty", "n", "e", "alg", "use", "key_ops", "kid"}));
    PAVISE_ASSIGN_OR_RETURN(const Bytes modulus, read("n"));
    PAVISE_ASSIGN_OR_RETURN(const Bytes exponent, read("e"));
    // RFC 7518, 2: no more bytes than the number needs.
    if (modulus.empty() || modulus[0] == 0 || exponent.empty() || exponent[0] == 0) {
      return Refuse(Reason::kMalformed, item, "its modulus or exponent is no such number");
    }
    uint32_t number = 0;
    if (exponent.size() > sizeof number) {
      return Refuse(Reason::kKeyUnsupported, object.PathOf("e"),
                    StrCat("an RSA exponent of ", exponent.size(), " bytes"),
                    "use a key with the exponent 65,537");
    }
    for (const uint8_t byte : exponent) number = number << 8 | byte;
    return PublicKey::FromRsaModulus(modulus, number, item);
  }
  if (kind != "EC") {
    return Refuse(Reason::kKeyUnsupported, object.PathOf("kty"),
                  StrCat("a key of type ", Printable(kind)), "use an EC or RSA key");
  }
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"kty", "crv", "x", "y", "alg", "use", "key_ops", "kid"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string curve, object.GetString("crv"));
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    if (curve != KeyTypeName(type)) continue;
    PAVISE_ASSIGN_OR_RETURN(const Bytes x, read("x"));
    PAVISE_ASSIGN_OR_RETURN(const Bytes y, read("y"));
    if (x.size() != internal::EcFieldSizeBytes(type) || y.size() != x.size()) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("coordinates of ", x.size(), " and ", y.size(), " bytes on ", curve));
    }
    return PublicKey::FromEcCoordinates(type, x, y, item);
  }
  return Refuse(Reason::kKeyUnsupported, object.PathOf("crv"), Printable(curve),
                "use a key on P-256, P-384 or P-521");
}

absl::StatusOr<std::string> JwkThumbprint(const PublicKey& key, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json jwk, ToJwk(key, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string text, CanonicalJson(jwk, item));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, Sha256(AsBytes(text)));
  return ToBase64Url(digest);
}

absl::StatusOr<std::string> SignJwt(const Json& claims, Signer& signer) {
  if (!claims.is_object()) return UsageError("a token's claims are a JSON object");
  PAVISE_ASSIGN_OR_RETURN(const Algorithm algorithm, AlgorithmOf(signer.public_key(), kItem));
  PAVISE_ASSIGN_OR_RETURN(const std::string key_id, JwkThumbprint(signer.public_key(), kItem));
  PAVISE_ASSIGN_OR_RETURN(
      const std::string header,
      EncodePart({{"alg", std::string(algorithm.name)}, {"kid", key_id}, {"typ", "JWT"}}));
  PAVISE_ASSIGN_OR_RETURN(const std::string payload, EncodePart(claims));
  std::string token = StrCat(header, ".", payload);
  PAVISE_ASSIGN_OR_RETURN(const Bytes der, signer.Sign(AsBytes(token)));
  PAVISE_ASSIGN_OR_RETURN(const Bytes raw, EcdsaRawFromDer(signer.public_key().type(), der, kItem));
  StrAppend(&token, ".", ToBase64Url(raw));
  return token;
}

absl::StatusOr<Json> VerifyJwt(std::string_view token, const PublicKey& key,
                               std::string_view item) {
  if (token.size() > kMaxTokenBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a token of ", HumanBytes(token.size()), ", the limit is ",
                         HumanBytes(kMaxTokenBytes)));
  }
  const size_t first = token.find('.');
  const size_t second = first == token.npos ? first : token.find('.', first + 1);
  if (second == token.npos) return Refuse(Reason::kMalformed, item, "not three parts");
  PAVISE_ASSIGN_OR_RETURN(const Algorithm algorithm, AlgorithmOf(key, item));
  PAVISE_ASSIGN_OR_RETURN(const Bytes header_text, FromBase64Url(token.substr(0, first), item));
  PAVISE_ASSIGN_OR_RETURN(const Json header_json,
                          ParseJson(header_text, item, {.max_bytes = 4096, .max_depth = 2}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject header, JsonObject::From(header_json, item));
  PAVISE_RETURN_IF_ERROR(header.RequireOnly({"alg", "kid", "typ"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string name, header.GetString("alg"));
  if (name != algorithm.name) {
    return Refuse(
        Reason::kKeyUnsupported, item,
        StrCat("it claims algorithm ", Printable(name), ", the key signs with ", algorithm.name));
  }
  if (header.Has("typ")) {
    PAVISE_ASSIGN_OR_RETURN(const std::string type, header.GetString("typ"));
    if (type != "JWT") return Refuse(Reason::kMalformed, item, "its type is not JWT");
  }
  if (header.Has("kid")) {
    PAVISE_ASSIGN_OR_RETURN(const std::string key_id, header.GetString("kid"));
    PAVISE_ASSIGN_OR_RETURN(const std::string expected, JwkThumbprint(key, item));
    if (key_id != expected) {
      return Refuse(Reason::kKeyMismatch, item,
                    StrCat("signed with key ", Printable(key_id), ", not ", expected),
                    "give the key that the token names");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const Bytes signature, FromBase64Url(token.substr(second + 1), item));
  PAVISE_RETURN_IF_ERROR(key.VerifyAs(SignatureScheme::kEcdsaRaw, algorithm.digest,
                                      AsBytes(token.substr(0, second)), signature, item));
  PAVISE_ASSIGN_OR_RETURN(const Bytes payload,
                          FromBase64Url(token.substr(first + 1, second - first - 1), item));
  PAVISE_ASSIGN_OR_RETURN(Json claims, ParseJson(payload, item));
  PAVISE_RETURN_IF_ERROR(JsonObject::From(claims, item).status());
  return claims;
}

}  // namespace pavise::crypto
