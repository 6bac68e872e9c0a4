#include "pavise/kbs/jwk.h"

#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/jwt.h"

namespace pavise::kbs {
namespace {

constexpr size_t kMaxModulusBytes = 8192 / 8;

absl::Status CheckAlgorithm(const JsonObject& jwk, std::string_view expected) {
  if (!jwk.Has("alg")) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const std::string algorithm, jwk.GetString("alg"));
  if (algorithm == expected) return absl::OkStatus();
  return Refuse(Reason::kKeyUnsupported, jwk.PathOf("alg"),
                StrCat("algorithm ", Printable(algorithm)), StrCat("use ", expected));
}

// A big-endian number of at most `max_bytes`.
absl::StatusOr<Bytes> GetNumber(const JsonObject& jwk, std::string_view key, size_t max_bytes) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, jwk.GetString(key));
  if (text.size() > (max_bytes * 4 + 2) / 3) {
    return Refuse(Reason::kLimitExceeded, jwk.PathOf(key),
                  StrCat("longer than ", max_bytes, " bytes"));
  }
  return FromBase64Url(text, jwk.PathOf(key));
}

absl::StatusOr<crypto::PublicKey> ParseEc(const JsonObject& jwk) {
  PAVISE_RETURN_IF_ERROR(jwk.RequireOnly({"kty", "alg", "crv", "x", "y"}));
  PAVISE_RETURN_IF_ERROR(CheckAlgorithm(jwk, kEcWrapAlgorithm));
  PAVISE_ASSIGN_OR_RETURN(const std::string curve, jwk.GetString("crv"));
  const std::pair<crypto::KeyType, size_t> curves[] = {{crypto::KeyType::kEcP256, 32},
                                                       {crypto::KeyType::kEcP384, 48},
                                                       {crypto::KeyType::kEcP521, 66}};
  for (const auto& [type, field_bytes] : curves) {
    if (curve != crypto::KeyTypeName(type)) continue;
    PAVISE_ASSIGN_OR_RETURN(const Bytes x, GetNumber(jwk, "x", field_bytes));
    PAVISE_ASSIGN_OR_RETURN(const Bytes y, GetNumber(jwk, "y", field_bytes));
    if (x.size() != field_bytes || y.size() != field_bytes) {
      return Refuse(Reason::kMalformed, jwk.path(),
                    StrCat("coordinates on ", curve, " are ", field_bytes, " bytes long"));
    }
    return crypto::PublicKey::FromEcCoordinates(type, x, y, jwk.path());
  }
  return Refuse(Reason::kKeyUnsupported, jwk.PathOf("crv"), StrCat("curve ", Printable(curve)),
                "use P-256, P-384 or P-521");
}

absl::StatusOr<crypto::PublicKey> ParseRsa(const JsonObject& jwk) {
  PAVISE_RETURN_IF_ERROR(jwk.RequireOnly({"kty", "alg", "n", "e"}));
  PAVISE_RETURN_IF_ERROR(CheckAlgorithm(jwk, kRsaWrapAlgorithm));
  PAVISE_ASSIGN_OR_RETURN(const Bytes modulus, GetNumber(jwk, "n", kMaxModulusBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bytes exponent_bytes, GetNumber(jwk, "e", sizeof(uint32_t)));
  if (modulus.empty() || modulus.front() == 0 || exponent_bytes.empty() ||
      exponent_bytes.front() == 0) {
    return Refuse(Reason::kMalformed, jwk.path(), "a number that is empty or starts with zero");
  }
  uint32_t exponent = 0;
  for (const uint8_t byte : exponent_bytes) exponent = exponent << 8 | byte;
  if (exponent < 3 || exponent % 2 == 0) {
    return Refuse(Reason::kMalformed, jwk.PathOf("e"), "no RSA exponent");
  }
  return crypto::PublicKey::FromRsaModulus(modulus, exponent, jwk.path());
}

}  // namespace

absl::StatusOr<crypto::PublicKey> ParseTeePublicKey(const Json& jwk, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(jwk, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string type, object.GetString("kty"));
  if (type == "EC") return ParseEc(object);
  if (type == "RSA") return ParseRsa(object);
  return Refuse(Reason::kKeyUnsupported, object.PathOf("kty"), StrCat("key type ", Printable(type)),
                "use EC or RSA");
}

absl::StatusOr<Json> FormatTeePublicKey(const crypto::PublicKey& key, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Json jwk, crypto::ToJwk(key, item));
  jwk["alg"] =
      std::string(key.type() == crypto::KeyType::kRsa ? kRsaWrapAlgorithm : kEcWrapAlgorithm);
  return jwk;
}

}  // namespace pavise::kbs
