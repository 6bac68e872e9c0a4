#include "pavise/crypto/keys.h"

#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/pkcs12.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

using internal::ErrorQueueScope;
using internal::Owned;
using internal::OwnedBio;
using internal::OwnedBuffer;
using internal::OwnedKey;
using internal::TakeErrors;

using OwnedPkcs8 = Owned<PKCS8_PRIV_KEY_INFO, PKCS8_PRIV_KEY_INFO_free>;
using OwnedEncryptedPkcs8 = Owned<X509_SIG, X509_SIG_free>;
using OwnedAlgorithm = Owned<X509_ALGOR, X509_ALGOR_free>;
using OwnedSubjectPublicKeyInfo = Owned<X509_PUBKEY, X509_PUBKEY_free>;

// An RSA key of 16,384 bits takes about 2 KiB.
constexpr size_t kMaxPublicKeyBytes = 16 << 10;
constexpr size_t kMaxPrivateKeyPemBytes = 64 << 10;
constexpr int kMinRsaBits = 2048;
constexpr int kMaxRsaBits = 16384;
// With an exponent of 1 anybody signs and decrypts. Certificates of public authorities still
// have 3.
constexpr BN_ULONG kMinRsaExponent = 3;
constexpr int kMaxRsaExponentBits = 256;  // NIST SP 800-56B revision 2, 6.2
// The same, for keys that are not in certificates: those that keys are wrapped to, among others.
constexpr uint32_t kMinBareRsaExponent = 65537;
// Two INTEGERs of 67 bytes with their headers, and room to spare.
constexpr size_t kMaxEcdsaSignatureBytes = 160;
// OWASP's figure (2023) for PBKDF2 with HMAC-SHA-256.
constexpr int kPbkdf2Iterations = 600'000;
constexpr size_t kPbkdf2SaltBytes = 16;

constexpr std::string_view kOmsCurvesRemedy =
    "use an elliptic-curve key on P-256, P-384 or P-521 (pavise keygen makes one)";

int CurveNid(KeyType type) {
  switch (type) {
    case KeyType::kEcP256:
      return NID_X9_62_prime256v1;
    case KeyType::kEcP384:
      return NID_secp384r1;
    case KeyType::kEcP521:
      return NID_secp521r1;
    default:
      return NID_undef;
  }
}

KeyType TypeOfCurve(int nid) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    if (CurveNid(type) == nid) return type;
  }
  return KeyType::kOther;
}

// The type that an AlgorithmIdentifier names, without a look at the key itself.
absl::StatusOr<KeyType> TypeOfAlgorithm(const X509_ALGOR* algorithm, std::string_view item) {
  const ASN1_OBJECT* object = nullptr;
  int parameter_type = V_ASN1_UNDEF;
  const void* parameter = nullptr;
  X509_ALGOR_get0(&object, &parameter_type, &parameter, algorithm);
  switch (OBJ_obj2nid(object)) {
    case NID_X9_62_id_ecPublicKey:
      // Explicit parameters let an attacker choose the base point (CVE-2020-0601), so a curve is
      // known by its name or not at all.
      if (parameter_type != V_ASN1_OBJECT) {
        return Refuse(Reason::kKeyUnsupported, item,
                      "the curve is given by explicit parameters, not by its name",
                      kOmsCurvesRemedy);
      }
      return TypeOfCurve(OBJ_obj2nid(static_cast<const ASN1_OBJECT*>(parameter)));
    case NID_ED25519:
      return KeyType::kEd25519;
    case NID_rsaEncryption:
      return KeyType::kRsa;
    default:
      return KeyType::kOther;
  }
}

// 1 <= number < order.
bool IsInRange(const BIGNUM* number, const BIGNUM* order) {
  return number != nullptr && !BN_is_zero(number) && !BN_is_negative(number) &&
         BN_cmp(number, order) < 0;
}

// The order of an OMS key's curve. Its tables are set up once.
const BIGNUM* OrderOf(KeyType type) {
  static const EC_GROUP* const kGroups[] = {
      EC_GROUP_new_by_curve_name(CurveNid(KeyType::kEcP256)),
      EC_GROUP_new_by_curve_name(CurveNid(KeyType::kEcP384)),
      EC_GROUP_new_by_curve_name(CurveNid(KeyType::kEcP521)),
  };
  const EC_GROUP* const group = kGroups[type == KeyType::kEcP256   ? 0
                                        : type == KeyType::kEcP384 ? 1
                                                                   : 2];
  return group == nullptr ? nullptr : EC_GROUP_get0_order(group);
}

// One pair (r, s) has one encoding here: BER spellings, padded or negative integers and bytes at
// the end are where parsers disagree. (r, n - s) still verifies wherever (r, s) does, as ECDSA has
// it: nothing may be keyed by a signature's bytes.
absl::Status CheckEcdsaEncoding(KeyType type, ByteSpan signature, std::string_view item) {
  if (signature.empty() || signature.size() > kMaxEcdsaSignatureBytes) {
    return Refuse(Reason::kSignatureInvalid, item,
                  StrCat("an ECDSA signature of ", signature.size(), " bytes cannot be right"));
  }
  const unsigned char* cursor = signature.data();
  internal::OwnedEcdsaSignature parsed(
      d2i_ECDSA_SIG(nullptr, &cursor, static_cast<long>(signature.size())));
  if (parsed == nullptr || cursor != signature.data() + signature.size()) {
    return Refuse(Reason::kSignatureInvalid, item,
                  "the signature is not the DER encoding of an ECDSA signature");
  }
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_ECDSA_SIG(parsed.get(), &encoded);
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the signature"));
  OwnedBuffer owned(encoded);
  if (!std::equal(signature.begin(), signature.end(), encoded, encoded + size_bytes)) {
    return Refuse(Reason::kSignatureInvalid, item, "the signature's DER encoding is not canonical");
  }
  const BIGNUM* order = OrderOf(type);
  if (order == nullptr) return MachineFailure(item, TakeErrors("unknown curve"));
  if (!IsInRange(ECDSA_SIG_get0_r(parsed.get()), order) ||
      !IsInRange(ECDSA_SIG_get0_s(parsed.get()), order)) {
    return Refuse(Reason::kSignatureInvalid, item, "r or s lies outside the curve's range");
  }
  return absl::OkStatus();
}

bool RanOutOfMemory() { return ERR_GET_REASON(ERR_peek_last_error()) == ERR_R_MALLOC_FAILURE; }

// The provider's name of a digest that signatures of evidence may be made with.
absl::StatusOr<const char*> EvidenceDigestName(DigestAlgorithm digest, std::string_view item) {
  switch (digest) {
    case DigestAlgorithm::kSha256:
      return "SHA2-256";
    case DigestAlgorithm::kSha384:
      return "SHA2-384";
    case DigestAlgorithm::kSha512:
      return "SHA2-512";
    case DigestAlgorithm::kSha1:
    case DigestAlgorithm::kBlake2b512:
      break;
  }
  return Refuse(Reason::kUnsupported, item,
                StrCat("signatures with ", DigestName(digest), " are not accepted"),
                "use a key that signs with SHA-256 or longer");
}

bool IsRsaScheme(SignatureScheme scheme) {
  return scheme == SignatureScheme::kRsaPkcs1 || scheme == SignatureScheme::kRsaPss;
}

absl::Status CheckRsaKey(const EVP_PKEY* key, std::string_view item) {
  const auto refuse = [&](std::string_view detail) {
    return Refuse(Reason::kKeyUnsupported, item, detail,
                  "use a key of 3,072 bits with the exponent 65,537");
  };
  const int bits = EVP_PKEY_get_bits(key);
  if (bits < kMinRsaBits || bits > kMaxRsaBits) {
    return refuse(
        StrCat("an RSA key of ", bits, " bits; accepted are ", kMinRsaBits, " to ", kMaxRsaBits));
  }
  BIGNUM* read = nullptr;
  if (EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &read) != 1) {
    return MachineFailure(item, TakeErrors("cannot read the RSA exponent"));
  }
  const internal::OwnedBignum exponent(read);
  const int exponent_bits = BN_num_bits(exponent.get());
  if (BN_is_odd(exponent.get()) == 0 || exponent_bits > kMaxRsaExponentBits ||
      (exponent_bits <= BN_BITS2 && BN_get_word(exponent.get()) < kMinRsaExponent)) {
    return refuse("its RSA exponent is not an odd number from 3 to below 2^256");
  }
  return absl::OkStatus();
}

absl::Status CheckScheme(bool is_rsa, KeyType type, std::string_view item) {
  if (is_rsa ? type == KeyType::kRsa : IsOmsKey(type)) return absl::OkStatus();
  return Refuse(
      Reason::kKeyUnsupported, item,
      StrCat("the signature is ", is_rsa ? "RSA" : "ECDSA", ", the key ", KeyTypeName(type)));
}

absl::Status VerifyWithDigest(EVP_PKEY* key, const char* digest_name, ByteSpan message,
                              ByteSpan signature, std::string_view item, bool with_pss = false) {
  internal::OwnedDigestContext context(EVP_MD_CTX_new());
  EVP_PKEY_CTX* parameters = nullptr;  // the context's
  if (context == nullptr ||
      EVP_DigestVerifyInit_ex(context.get(), &parameters, digest_name, nullptr, nullptr, key,
                              nullptr) != 1 ||
      (with_pss && (EVP_PKEY_CTX_set_rsa_padding(parameters, RSA_PKCS1_PSS_PADDING) != 1 ||
                    EVP_PKEY_CTX_set_rsa_pss_saltlen(parameters, RSA_PSS_SALTLEN_AUTO) != 1))) {
    return MachineFailure(item, TakeErrors("cannot start the verification"));
  }
  if (EVP_DigestVerify(context.get(), signature.data(), signature.size(), message.data(),
                       message.size()) == 1) {
    return absl::OkStatus();
  }
  if (RanOutOfMemory()) return MachineFailure(item, "out of memory while verifying");
  return Refuse(Reason::kSignatureInvalid, item, "the signature does not verify under this key",
                "check that the public key belongs to the signer and that nothing was changed");
}

absl::StatusOr<Bytes> EncodePublic(EVP_PKEY* key, std::string_view item) {
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_PUBKEY(key, &encoded);
  if (size_bytes <= 0) {
    // A parsed key that cannot be written again (a point at infinity, odd parameters) is the fault
    // of the input.
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("a key that cannot be used: ", TakeErrors("it cannot be encoded")));
  }
  OwnedBuffer owned(encoded);
  return Bytes(encoded, encoded + size_bytes);
}

absl::StatusOr<Bytes> EncodeWithPoint(EVP_PKEY* key, const char* point_format,
                                      std::string_view item) {
  if (EVP_PKEY_set_utf8_string_param(key, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT,
                                     point_format) != 1) {
    return MachineFailure(item, TakeErrors("cannot encode the public key"));
  }
  return EncodePublic(key, item);
}

struct PasswordRequest {
  ByteSpan password;
  bool asked = false;
  bool too_long = false;
};

// Stands in for OpenSSL's own callback, which would ask on the terminal.
int GivePassword(char* buffer, int capacity, int /*for_writing*/, void* context) {
  auto* request = static_cast<PasswordRequest*>(context);
  request->asked = true;
  if (request->password.empty()) return -1;
  if (capacity < 0 || request->password.size() > static_cast<size_t>(capacity)) {
    request->too_long = true;
    return -1;
  }
  std::memcpy(buffer, request->password.data(), request->password.size());
  return static_cast<int>(request->password.size());
}

// Exactly one private key block; "EC PARAMETERS" may stand beside it (openssl ecparam -genkey
// writes it), nothing else may: a certificate or a second key would be silently ignored.
absl::Status CheckPrivateKeyBlocks(std::string_view pem, std::string_view item) {
  constexpr std::string_view kBegin = "-----BEGIN ";
  int key_blocks = 0;
  for (size_t at = pem.find(kBegin); at != std::string_view::npos;
       at = pem.find(kBegin, at + kBegin.size())) {
    std::string_view label = pem.substr(at + kBegin.size());
    label = label.substr(0, label.find("-----"));
    if (label == "EC PARAMETERS") continue;
    if (label == "PRIVATE KEY" || label == "ENCRYPTED PRIVATE KEY" || label == "EC PRIVATE KEY") {
      ++key_blocks;
      continue;
    }
    if (label == "PUBLIC KEY" || label == "CERTIFICATE") {
      return Refuse(Reason::kMalformed, item,
                    StrCat("holds a ", label == "PUBLIC KEY" ? "public key" : "certificate",
                           " where a private key is due"),
                    "give a file that holds the private key and nothing else");
    }
    if (label.ends_with("PRIVATE KEY")) {
      return Refuse(Reason::kKeyUnsupported, item,
                    StrCat("holds a key of type \"", Printable(label.substr(0, 40)), "\""),
                    kOmsCurvesRemedy);
    }
    return Refuse(Reason::kMalformed, item,
                  StrCat("holds an unexpected \"", Printable(label.substr(0, 40)), "\" block"));
  }
  if (key_blocks != 1) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("holds ", key_blocks, " private keys where one is due"),
                  "give a PEM file with one private key (PKCS #8 or SEC 1)");
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view KeyTypeName(KeyType type) {
  switch (type) {
    case KeyType::kEcP256:
      return "P-256";
    case KeyType::kEcP384:
      return "P-384";
    case KeyType::kEcP521:
      return "P-521";
    case KeyType::kEd25519:
      return "Ed25519";
    case KeyType::kRsa:
      return "RSA";
    case KeyType::kOther:
      break;
  }
  return "other";
}

bool IsOmsKey(KeyType type) {
  return type == KeyType::kEcP256 || type == KeyType::kEcP384 || type == KeyType::kEcP521;
}

absl::StatusOr<PublicKey> PublicKey::FromPem(std::string_view pem, std::string_view item) {
  if (pem.size() > 2 * kMaxPublicKeyBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than any public key (", pem.size(), " bytes)"));
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes der, internal::DecodePemBlock(pem, "PUBLIC KEY", item));
  return FromDer(der, item);
}

absl::StatusOr<PublicKey> PublicKey::FromDer(ByteSpan spki, std::string_view item) {
  if (spki.size() > kMaxPublicKeyBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than any public key (", spki.size(), " bytes)"));
  }
  // The spelling of nearly every key; all others go through OpenSSL's decoder.
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    const ByteSpan point = internal::EcPointOf(type, spki);
    if (!point.empty()) return internal::EcPublicKeyFromPoint(type, point, item);
  }
  ErrorQueueScope errors;
  const unsigned char* cursor = spki.data();
  OwnedSubjectPublicKeyInfo info(
      spki.empty() ? nullptr : d2i_X509_PUBKEY(nullptr, &cursor, static_cast<long>(spki.size())));
  if (info == nullptr) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("not a SubjectPublicKeyInfo: ", TakeErrors("empty")));
  }
  if (cursor != spki.data() + spki.size()) {
    return Refuse(Reason::kMalformed, item, "bytes after the public key");
  }
  X509_ALGOR* algorithm = nullptr;
  if (X509_PUBKEY_get0_param(nullptr, nullptr, nullptr, &algorithm, info.get()) != 1) {
    return Refuse(Reason::kMalformed, item, TakeErrors("no algorithm"));
  }
  PAVISE_ASSIGN_OR_RETURN(const KeyType type, TypeOfAlgorithm(algorithm, item));
  EVP_PKEY* borrowed = X509_PUBKEY_get0(info.get());
  if (borrowed == nullptr) {
    if (type == KeyType::kOther) {
      return Refuse(Reason::kKeyUnsupported, item,
                    StrCat("a key of an unknown kind: ", TakeErrors("unsupported")),
                    kOmsCurvesRemedy);
    }
    return Refuse(Reason::kMalformed, item,
                  StrCat("not a valid ", KeyTypeName(type), " key: ", TakeErrors("refused")));
  }
  if (EVP_PKEY_up_ref(borrowed) != 1)
    return MachineFailure(item, TakeErrors("cannot hold the key"));
  auto native = std::make_shared<Native>();
  native->key.reset(borrowed);
  native->type = type;

  if (IsOmsKey(type)) {
    PAVISE_RETURN_IF_ERROR(internal::CheckEcPoint(native->key.get(), type, item));
  }
  if (type == KeyType::kRsa) PAVISE_RETURN_IF_ERROR(CheckRsaKey(native->key.get(), item));
  // One key, one encoding, hence one fingerprint: another spelling of a revoked key would otherwise
  // look like another key. The parser also takes BER, unused bits and hybrid points; of spellings
  // that are not canonical, compressed points are what real files hold, and they are normalised.
  bool is_canonical = false;
  if (IsOmsKey(type)) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes compressed,
                            EncodeWithPoint(native->key.get(), "compressed", item));
    is_canonical = std::ranges::equal(spki, compressed);
    PAVISE_ASSIGN_OR_RETURN(native->der, EncodeWithPoint(native->key.get(), "uncompressed", item));
  } else {
    PAVISE_ASSIGN_OR_RETURN(native->der, EncodePublic(native->key.get(), item));
  }
  is_canonical = is_canonical || std::ranges::equal(spki, native->der);
  if (!is_canonical && type != KeyType::kOther) {
    return Refuse(Reason::kMalformed, item, "the public key's encoding is not DER");
  }
  return PublicKey(std::shared_ptr<const Native>(std::move(native)));
}

KeyType PublicKey::type() const { return native_->type; }

const Bytes& PublicKey::der() const { return native_->der; }

std::string PublicKey::ToPem() const {
  return internal::EncodePemBlock(native_->der, "PUBLIC KEY");
}

std::string PublicKey::OmsHint() const {
  const absl::StatusOr<Digest32> digest = Sha256(AsBytes(ToPem()));
  return digest.ok() ? ToHex(*digest) : "";
}

std::string PublicKey::Fingerprint() const {
  const absl::StatusOr<Digest32> digest = Sha256(native_->der);
  return digest.ok() ? ToHex(*digest) : "";
}

absl::Status PublicKey::Verify(ByteSpan message, ByteSpan signature, std::string_view item) const {
  ErrorQueueScope errors;
  switch (native_->type) {
    case KeyType::kEcP256:
    case KeyType::kEcP384:
    case KeyType::kEcP521:
      PAVISE_RETURN_IF_ERROR(CheckEcdsaEncoding(native_->type, signature, item));
      return VerifyWithDigest(native_->key.get(), internal::DigestNameForKey(native_->type),
                              message, signature, item);
    case KeyType::kEd25519:
      return VerifyWithDigest(native_->key.get(), nullptr, message, signature, item);
    case KeyType::kRsa:
      return VerifyWithDigest(native_->key.get(), "SHA2-256", message, signature, item);
    case KeyType::kOther:
      break;
  }
  return Refuse(Reason::kKeyUnsupported, item, "signatures by this type of key are not accepted",
                kOmsCurvesRemedy);
}

absl::Status PublicKey::VerifyEcdsaSha256(ByteSpan message, ByteSpan signature,
                                          std::string_view item) const {
  if (!IsOmsKey(native_->type)) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("not an ECDSA key on a NIST curve but ", KeyTypeName(native_->type)),
                  kOmsCurvesRemedy);
  }
  ErrorQueueScope errors;
  PAVISE_RETURN_IF_ERROR(CheckEcdsaEncoding(native_->type, signature, item));
  return VerifyWithDigest(native_->key.get(), "SHA2-256", message, signature, item);
}

absl::Status PublicKey::VerifyAs(SignatureScheme scheme, DigestAlgorithm digest, ByteSpan message,
                                 ByteSpan signature, std::string_view item) const {
  PAVISE_ASSIGN_OR_RETURN(const char* const digest_name, EvidenceDigestName(digest, item));
  const bool is_rsa = IsRsaScheme(scheme);
  PAVISE_RETURN_IF_ERROR(CheckScheme(is_rsa, native_->type, item));
  ErrorQueueScope errors;
  if (is_rsa) {
    return VerifyWithDigest(native_->key.get(), digest_name, message, signature, item,
                            scheme == SignatureScheme::kRsaPss);
  }
  Bytes der;
  if (scheme == SignatureScheme::kEcdsaRaw) {
    if (signature.size() != 2 * internal::EcFieldSizeBytes(native_->type)) {
      return Refuse(Reason::kSignatureInvalid, item,
                    StrCat("a raw signature of ", signature.size(), " bytes where ",
                           2 * internal::EcFieldSizeBytes(native_->type), " are due"));
    }
    PAVISE_ASSIGN_OR_RETURN(der, internal::EcdsaDerFromRaw(native_->type, signature, item));
    signature = der;
  }
  PAVISE_RETURN_IF_ERROR(CheckEcdsaEncoding(native_->type, signature, item));
  return VerifyWithDigest(native_->key.get(), digest_name, message, signature, item);
}

absl::Status PublicKey::VerifyDigest(SignatureScheme scheme, DigestAlgorithm algorithm,
                                     ByteSpan digest, ByteSpan signature,
                                     std::string_view item) const {
  PAVISE_ASSIGN_OR_RETURN(const char* const digest_name, EvidenceDigestName(algorithm, item));
  const bool is_rsa = IsRsaScheme(scheme);
  PAVISE_RETURN_IF_ERROR(CheckScheme(is_rsa, native_->type, item));
  if (scheme != SignatureScheme::kEcdsaDer && scheme != SignatureScheme::kRsaPkcs1) {
    return Refuse(Reason::kUnsupported, item, "over a digest, only DER and PKCS #1 v1.5 are read");
  }
  if (digest.size() != DigestSizeBytes(algorithm)) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("a ", DigestName(algorithm), " digest of ", digest.size(), " bytes"));
  }
  if (!is_rsa) PAVISE_RETURN_IF_ERROR(CheckEcdsaEncoding(native_->type, signature, item));
  ErrorQueueScope errors;
  const internal::OwnedKeyContext context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, native_->key.get(), nullptr));
  const internal::OwnedDigest fetched(EVP_MD_fetch(nullptr, digest_name, nullptr));
  if (context == nullptr || fetched == nullptr || EVP_PKEY_verify_init(context.get()) != 1 ||
      (is_rsa && EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) != 1) ||
      EVP_PKEY_CTX_set_signature_md(context.get(), fetched.get()) != 1) {
    return MachineFailure(item, TakeErrors("cannot start the verification"));
  }
  if (EVP_PKEY_verify(context.get(), signature.data(), signature.size(), digest.data(),
                      digest.size()) == 1) {
    return absl::OkStatus();
  }
  if (RanOutOfMemory()) return MachineFailure(item, "out of memory while verifying");
  return Refuse(Reason::kSignatureInvalid, item, "the signature does not verify under this key",
                "check that the public key belongs to the signer and that nothing was changed");
}

absl::StatusOr<Bytes> EcdsaRawFromDer(KeyType type, ByteSpan der, std::string_view item) {
  if (!IsOmsKey(type)) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("a key of type ", KeyTypeName(type), " has no r || s"), kOmsCurvesRemedy);
  }
  ErrorQueueScope errors;
  PAVISE_RETURN_IF_ERROR(CheckEcdsaEncoding(type, der, item));
  const unsigned char* cursor = der.data();
  const internal::OwnedEcdsaSignature parsed(
      d2i_ECDSA_SIG(nullptr, &cursor, static_cast<long>(der.size())));
  const size_t field_bytes = internal::EcFieldSizeBytes(type);
  Bytes raw(2 * field_bytes);
  const int width = static_cast<int>(field_bytes);
  if (parsed == nullptr ||
      BN_bn2binpad(ECDSA_SIG_get0_r(parsed.get()), raw.data(), width) != width ||
      BN_bn2binpad(ECDSA_SIG_get0_s(parsed.get()), raw.data() + field_bytes, width) != width) {
    return MachineFailure(item, TakeErrors("cannot convert the signature"));
  }
  return raw;
}

absl::StatusOr<PublicKey> PublicKey::FromEcCoordinates(KeyType type, ByteSpan x, ByteSpan y,
                                                       std::string_view item) {
  const size_t field_bytes = internal::EcFieldSizeBytes(type);
  if (field_bytes == 0 || x.size() > field_bytes || y.size() > field_bytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("coordinates of ", x.size(), " and ", y.size(), " bytes are none on ",
                         KeyTypeName(type)));
  }
  Bytes point(1 + 2 * field_bytes, 0);
  point[0] = 4;  // SEC 1, 2.3.3: uncompressed
  std::copy(x.begin(), x.end(),
            point.begin() + static_cast<std::ptrdiff_t>(1 + field_bytes - x.size()));
  std::copy(y.begin(), y.end(), point.end() - static_cast<std::ptrdiff_t>(y.size()));
  return internal::EcPublicKeyFromPoint(type, point, item);
}

absl::StatusOr<PublicKey> PublicKey::FromRsaModulus(ByteSpan modulus, uint32_t exponent,
                                                    std::string_view item) {
  if (modulus.size() > kMaxRsaBits / 8) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("an RSA modulus of ", modulus.size(), " bytes"));
  }
  if (exponent < kMinBareRsaExponent) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("its RSA exponent, ", exponent, ", is below ", kMinBareRsaExponent),
                  "use a key with the exponent 65,537");
  }
  ErrorQueueScope errors;
  internal::OwnedBignum n(BN_bin2bn(modulus.data(), static_cast<int>(modulus.size()), nullptr));
  internal::OwnedBignum e(BN_new());
  Owned<OSSL_PARAM_BLD, OSSL_PARAM_BLD_free> builder(OSSL_PARAM_BLD_new());
  if (n == nullptr || e == nullptr || builder == nullptr || BN_set_word(e.get(), exponent) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_N, n.get()) != 1 ||
      OSSL_PARAM_BLD_push_BN(builder.get(), OSSL_PKEY_PARAM_RSA_E, e.get()) != 1) {
    return MachineFailure(item, TakeErrors("out of memory"));
  }
  Owned<OSSL_PARAM, OSSL_PARAM_free> parameters(OSSL_PARAM_BLD_to_param(builder.get()));
  internal::OwnedKeyContext context(EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr));
  if (parameters == nullptr || context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1) {
    return MachineFailure(item, TakeErrors("no provider for RSA keys"));
  }
  EVP_PKEY* raw_key = nullptr;
  if (EVP_PKEY_fromdata(context.get(), &raw_key, EVP_PKEY_PUBLIC_KEY, parameters.get()) != 1) {
    return Refuse(Reason::kMalformed, item, StrCat("not an RSA key: ", TakeErrors("refused")));
  }
  OwnedKey key(raw_key);
  PAVISE_ASSIGN_OR_RETURN(const Bytes der, EncodePublic(key.get(), item));
  return FromDer(der, item);
}

bool operator==(const PublicKey& a, const PublicKey& b) { return a.native_->der == b.native_->der; }

struct PrivateKey::Native {
  OwnedKey key;
};

PrivateKey::PrivateKey(std::unique_ptr<Native> native, PublicKey public_key)
    : native_(std::move(native)), public_key_(std::move(public_key)) {}
PrivateKey::~PrivateKey() = default;
PrivateKey::PrivateKey(PrivateKey&&) noexcept = default;
PrivateKey& PrivateKey::operator=(PrivateKey&&) noexcept = default;

absl::StatusOr<PrivateKey> PrivateKey::Generate(KeyType type) {
  if (!IsOmsKey(type) && type != KeyType::kEd25519) {
    return UsageError(StrCat("cannot generate a key of type ", KeyTypeName(type),
                             "; P-256, P-384, P-521 and Ed25519 are offered"));
  }
  ErrorQueueScope errors;
  auto native = std::make_unique<Native>();
  if (type == KeyType::kEd25519) {
    native->key.reset(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519"));
  } else if (EVP_PKEY* const parameters = internal::EcParameters(type)) {
    const internal::OwnedKeyContext context(
        EVP_PKEY_CTX_new_from_pkey(nullptr, parameters, nullptr));
    EVP_PKEY* made = nullptr;
    if (context != nullptr && EVP_PKEY_keygen_init(context.get()) == 1 &&
        EVP_PKEY_keygen(context.get(), &made) == 1) {
      native->key.reset(made);
    }
  }
  if (native->key == nullptr) {
    return MachineFailure("key generation", TakeErrors("no provider for such keys"));
  }
  if (type != KeyType::kEd25519) {
    unsigned char* point = nullptr;
    const size_t size_bytes = EVP_PKEY_get1_encoded_public_key(native->key.get(), &point);
    const OwnedBuffer owned(point);
    if (size_bytes == 0) return MachineFailure("key generation", TakeErrors("no public half"));
    PAVISE_ASSIGN_OR_RETURN(PublicKey public_key, internal::EcPublicKeyFromPoint(
                                                      type, {point, size_bytes}, "generated key"));
    return PrivateKey(std::move(native), std::move(public_key));
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes der, EncodePublic(native->key.get(), "generated key"));
  PAVISE_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromDer(der, "generated key"));
  return PrivateKey(std::move(native), std::move(public_key));
}

absl::StatusOr<PrivateKey> PrivateKey::FromPem(const SecretBytes& pem, const SecretBytes& password,
                                               std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(PrivateKey key, FromPemOfAnyType(pem, password, item));
  if (IsOmsKey(key.public_key().type())) return key;
  return Refuse(Reason::kKeyUnsupported, item,
                StrCat("not an elliptic-curve key on P-256, P-384 or P-521 but ",
                       KeyTypeName(key.public_key().type())),
                kOmsCurvesRemedy);
}

absl::StatusOr<PrivateKey> PrivateKey::FromPemOfAnyType(const SecretBytes& pem,
                                                        const SecretBytes& password,
                                                        std::string_view item) {
  if (pem.size_bytes() > kMaxPrivateKeyPemBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than any private key (", pem.size_bytes(), " bytes)"));
  }
  PAVISE_RETURN_IF_ERROR(CheckPrivateKeyBlocks(pem.RevealText(), item));
  ErrorQueueScope errors;
  OwnedBio bio = internal::ReadBio(pem.Reveal());
  if (bio == nullptr) return MachineFailure(item, TakeErrors("out of memory"));
  PasswordRequest request{.password = password.Reveal()};
  auto native = std::make_unique<Native>();
  native->key.reset(PEM_read_bio_PrivateKey(bio.get(), nullptr, GivePassword, &request));
  if (native->key == nullptr) {
    const std::string detail = TakeErrors("cannot be read");
    if (request.too_long) {
      return Refuse(
          Reason::kKeyUnsupported, item,
          StrCat("the password of ", password.size_bytes(), " bytes is longer than OpenSSL takes"));
    }
    if (request.asked && password.empty()) {
      return Refuse(Reason::kKeyUnsupported, item, "the private key is encrypted",
                    "give its password with --password");
    }
    if (request.asked) {
      return Refuse(Reason::kKeyUnsupported, item,
                    "the password is wrong, or the encrypted key is damaged",
                    "check the value given with --password");
    }
    return Refuse(Reason::kMalformed, item, StrCat("not a private key: ", detail));
  }
  // Refuses explicit parameters too: they stay explicit in what OpenSSL writes.
  PAVISE_ASSIGN_OR_RETURN(Bytes der, EncodePublic(native->key.get(), item));
  PAVISE_ASSIGN_OR_RETURN(PublicKey public_key, PublicKey::FromDer(der, item));
  if (public_key.type() == KeyType::kOther) {
    const char* name = EVP_PKEY_get0_type_name(native->key.get());
    return Refuse(
        Reason::kKeyUnsupported, item,
        StrCat("a key of another type or curve (", name == nullptr ? "unknown" : name, ")"),
        kOmsCurvesRemedy);
  }
  // A file whose public half is not that of its private scalar would sign under a key that nobody
  // expects.
  internal::OwnedKeyContext context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, native->key.get(), nullptr));
  if (context == nullptr) return MachineFailure(item, TakeErrors("cannot check the key"));
  if (EVP_PKEY_check(context.get()) != 1) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("the key is inconsistent: ",
                         TakeErrors("its public half is not that of its private half")));
  }
  return PrivateKey(std::move(native), std::move(public_key));
}

absl::StatusOr<SecretBytes> PrivateKey::ToPem(const SecretBytes& password) const {
  constexpr std::string_view kItem = "private key";
  ErrorQueueScope errors;
  OwnedBio bio(BIO_new(BIO_s_secmem()));  // wiped when freed
  OwnedPkcs8 plain(EVP_PKEY2PKCS8(native_->key.get()));
  if (bio == nullptr || plain == nullptr) {
    return MachineFailure(kItem, TakeErrors("cannot encode the key"));
  }
  if (password.empty()) {
    if (PEM_write_bio_PKCS8_PRIV_KEY_INFO(bio.get(), plain.get()) != 1) {
      return MachineFailure(kItem, TakeErrors("cannot write the key"));
    }
  } else {
    if (password.size_bytes() > PEM_BUFSIZE) {
      return UsageError(StrCat("a password may have at most ", PEM_BUFSIZE, " bytes"));
    }
    std::array<uint8_t, kPbkdf2SaltBytes> salt;
    std::array<uint8_t, EVP_MAX_IV_LENGTH> initialization_vector;
    if (RAND_bytes(salt.data(), salt.size()) != 1 ||
        RAND_bytes(initialization_vector.data(), initialization_vector.size()) != 1) {
      return MachineFailure(kItem, TakeErrors("no random bytes"));
    }
    OwnedAlgorithm scheme(PKCS5_pbe2_set_iv(EVP_aes_256_cbc(), kPbkdf2Iterations, salt.data(),
                                            salt.size(), initialization_vector.data(),
                                            NID_hmacWithSHA256));
    if (scheme == nullptr) return MachineFailure(kItem, TakeErrors("PBES2 is not available"));
    OwnedEncryptedPkcs8 encrypted(PKCS8_set0_pbe(password.RevealText().data(),
                                                 static_cast<int>(password.size_bytes()),
                                                 plain.get(), scheme.get()));
    if (encrypted == nullptr) return MachineFailure(kItem, TakeErrors("cannot encrypt the key"));
    scheme.release();  // belongs to `encrypted` now
    if (PEM_write_bio_PKCS8(bio.get(), encrypted.get()) != 1) {
      return MachineFailure(kItem, TakeErrors("cannot write the key"));
    }
  }
  char* text = nullptr;
  const long size_bytes = BIO_get_mem_data(bio.get(), &text);
  if (size_bytes <= 0 || text == nullptr) return MachineFailure(kItem, "nothing was written");
  return SecretBytes(std::string_view(text, static_cast<size_t>(size_bytes)));
}

absl::StatusOr<Bytes> PrivateKey::Sign(ByteSpan message) {
  constexpr std::string_view kItem = "private key";
  ErrorQueueScope errors;
  // Ed25519 brings its own digest.
  const KeyType type = public_key_.type();
  const char* digest_name = type == KeyType::kEd25519 ? nullptr : internal::DigestNameForKey(type);
  internal::OwnedDigestContext context(EVP_MD_CTX_new());
  size_t size_bytes = 0;
  if (context == nullptr ||
      EVP_DigestSignInit_ex(context.get(), nullptr, digest_name, nullptr, nullptr,
                            native_->key.get(), nullptr) != 1 ||
      EVP_DigestSign(context.get(), nullptr, &size_bytes, message.data(), message.size()) != 1) {
    return MachineFailure(kItem, TakeErrors("cannot sign"));
  }
  Bytes signature(size_bytes);
  if (EVP_DigestSign(context.get(), signature.data(), &size_bytes, message.data(),
                     message.size()) != 1) {
    return MachineFailure(kItem, TakeErrors("cannot sign"));
  }
  signature.resize(size_bytes);
  // A signature from a faulty computation may give the private key away, so it never leaves.
  if (!public_key_.Verify(message, signature, kItem).ok()) {
    return MachineFailure(kItem, "the signature just made does not verify");
  }
  return signature;
}

absl::StatusOr<SecretBytes> PrivateKey::Agree(const PublicKey& peer, std::string_view item) const {
  if (!IsOmsKey(public_key_.type()) || peer.type() != public_key_.type()) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("a key of type ", KeyTypeName(public_key_.type()),
                         " agrees on nothing with one of type ", KeyTypeName(peer.type())),
                  "use two keys on the same curve: P-256, P-384 or P-521");
  }
  ErrorQueueScope errors;
  internal::OwnedKeyContext context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, native_->key.get(), nullptr));
  Bytes shared(internal::EcFieldSizeBytes(peer.type()));
  size_t size_bytes = shared.size();
  // Not validated again: a PublicKey is a point on its curve.
  if (context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer_ex(context.get(), peer.native().key.get(), 0) != 1 ||
      EVP_PKEY_derive(context.get(), shared.data(), &size_bytes) != 1 ||
      size_bytes != shared.size()) {
    return MachineFailure(item, TakeErrors("cannot agree on a secret"));
  }
  return SecretBytes(std::move(shared));
}

absl::StatusOr<SecretBytes> PrivateKey::DecryptRsaOaep(DigestAlgorithm digest, ByteSpan encrypted,
                                                       std::string_view item) const {
  if (public_key_.type() != KeyType::kRsa) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("RSA-OAEP with a key of type ", KeyTypeName(public_key_.type())));
  }
  PAVISE_ASSIGN_OR_RETURN(const char* const digest_name, EvidenceDigestName(digest, item));
  ErrorQueueScope errors;
  internal::OwnedKeyContext context(
      EVP_PKEY_CTX_new_from_pkey(nullptr, native_->key.get(), nullptr));
  if (context == nullptr || EVP_PKEY_decrypt_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
      EVP_PKEY_CTX_set_rsa_oaep_md_name(context.get(), digest_name, nullptr) != 1 ||
      EVP_PKEY_CTX_set_rsa_mgf1_md_name(context.get(), digest_name, nullptr) != 1) {
    return MachineFailure(item, TakeErrors("no provider for RSA-OAEP"));
  }
  Bytes plain(static_cast<size_t>(EVP_PKEY_get_size(native_->key.get())));
  size_t size_bytes = plain.size();
  const int verdict = EVP_PKEY_decrypt(context.get(), plain.data(), &size_bytes, encrypted.data(),
                                       encrypted.size());
  SecretBytes whole(std::move(plain));  // wipes what lies behind the message too
  if (verdict != 1) {
    if (RanOutOfMemory()) return MachineFailure(item, "out of memory while decrypting");
    return Refuse(Reason::kContentMismatch, item,
                  "does not decrypt: changed, or encrypted to another key",
                  "give the private key of the recipient it was made for");
  }
  return SecretBytes(whole.Reveal().first(size_bytes));
}

}  // namespace pavise::crypto
