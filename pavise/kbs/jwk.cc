#include "pavise/kbs/jwk.h"

#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/jwt.h"

namespace pavise::kbs {
namespace {

absl::Status CheckAlgorithm(const JsonObject& jwk, std::string_view expected) {
  if (!jwk.Has("alg")) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const std::string algorithm, jwk.GetString("alg"));
  if (algorithm == expected) return absl::OkStatus();
  return Refuse(Reason::kKeyUnsupported, jwk.PathOf("alg"),
                StrCat("algorithm ", Printable(algorithm)), StrCat("use ", expected));
}

}  // namespace

absl::StatusOr<crypto::PublicKey> ParseTeePublicKey(const Json& jwk, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(jwk, item));
  PAVISE_ASSIGN_OR_RETURN(const std::string type, object.GetString("kty"));
  if (type == "EC") {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kty", "alg", "crv", "x", "y"}));
    PAVISE_RETURN_IF_ERROR(CheckAlgorithm(object, kEcWrapAlgorithm));
  } else if (type == "RSA") {
    PAVISE_RETURN_IF_ERROR(object.RequireOnly({"kty", "alg", "n", "e"}));
    PAVISE_RETURN_IF_ERROR(CheckAlgorithm(object, kRsaWrapAlgorithm));
  }
  return crypto::PublicKeyFromJwk(jwk, item);
}

absl::StatusOr<Json> FormatTeePublicKey(const crypto::PublicKey& key, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Json jwk, crypto::ToJwk(key, item));
  jwk["alg"] =
      std::string(key.type() == crypto::KeyType::kRsa ? kRsaWrapAlgorithm : kEcWrapAlgorithm);
  return jwk;
}

}  // namespace pavise::kbs
