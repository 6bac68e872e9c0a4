#include "pavise/crypto/internal/openssl.h"

#include <openssl/core_names.h>
#include <openssl/params.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::crypto::internal {
namespace {

constexpr std::string_view kWhiteSpace = " \t\r\n";

std::string_view StripWhiteSpace(std::string_view text) {
  const size_t first = text.find_first_not_of(kWhiteSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhiteSpace) - first + 1);
}

// A SubjectPublicKeyInfo (RFC 5480, 2) up to the point: sequences, id-ecPublicKey, the curve's
// name, and the BIT STRING's header with no unused bits. Empty for other types.
ByteSpan EcSpkiPrefix(KeyType type) {
  static constexpr uint8_t kP256[] = {0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48,
                                      0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
                                      0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00};
  static constexpr uint8_t kP384[] = {0x30, 0x76, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86,
                                      0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b,
                                      0x81, 0x04, 0x00, 0x22, 0x03, 0x62, 0x00};
  static constexpr uint8_t kP521[] = {0x30, 0x81, 0x9b, 0x30, 0x10, 0x06, 0x07, 0x2a, 0x86,
                                      0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81,
                                      0x04, 0x00, 0x23, 0x03, 0x81, 0x86, 0x00};
  switch (type) {
    case KeyType::kEcP256:
      return kP256;
    case KeyType::kEcP384:
      return kP384;
    case KeyType::kEcP521:
      return kP521;
    default:
      return {};
  }
}

}  // namespace

std::string TakeErrors(std::string_view fallback) {
  constexpr int kMaxShown = 6;
  std::string text;
  int shown = 0;
  const char* data = nullptr;
  int flags = 0;
  while (const unsigned long code = ERR_get_error_all(nullptr, nullptr, nullptr, &data, &flags)) {
    if (shown++ >= kMaxShown) continue;
    const char* reason = ERR_reason_error_string(code);
    StrAppend(&text, text.empty() ? "" : "; ",
              reason == nullptr ? StrCat("OpenSSL error ", code) : std::string(reason));
    if ((flags & ERR_TXT_STRING) != 0 && data != nullptr && data[0] != '\0') {
      StrAppend(&text, " (", data, ")");
    }
  }
  return text.empty() ? std::string(fallback) : Printable(text);
}

OwnedBio ReadBio(ByteSpan bytes) {
  if (bytes.size() > static_cast<size_t>(std::numeric_limits<int>::max())) return nullptr;
  // A null buffer is an error to OpenSSL even where it is empty.
  return OwnedBio(BIO_new_mem_buf(bytes.empty() ? static_cast<const void*>("") : bytes.data(),
                                  static_cast<int>(bytes.size())));
}

absl::StatusOr<Bytes> DecodePemBlock(std::string_view pem, std::string_view label,
                                     std::string_view item) {
  const std::string begin = StrCat("-----BEGIN ", label, "-----");
  const std::string end = StrCat("-----END ", label, "-----");
  // Text may come before the block (RFC 7468, section 2: certtool and openssl -text write it),
  // other blocks and anything after it may not.
  const size_t first = pem.find("-----BEGIN ");
  std::string_view text = first == std::string_view::npos ? "" : StripWhiteSpace(pem.substr(first));
  if (!text.starts_with(begin)) {
    return Refuse(Reason::kMalformed, item, StrCat("holds no \"", begin, "\" block first"));
  }
  text.remove_prefix(begin.size());
  if (!text.ends_with(end)) {
    return Refuse(Reason::kMalformed, item, StrCat("does not end with \"", end, "\""));
  }
  text.remove_suffix(end.size());
  std::string body;
  body.reserve(text.size());
  for (const char c : text) {
    if (kWhiteSpace.find(c) == std::string_view::npos) body.push_back(c);
  }
  // The strict decoder refuses a second block's "-----", headers and stray bits.
  return FromBase64(body, item);
}

std::string EncodePemBlock(ByteSpan der, std::string_view label) {
  constexpr size_t kColumns = 64;
  const std::string body = ToBase64(der);
  std::string pem = StrCat("-----BEGIN ", label, "-----\n");
  for (size_t offset = 0; offset < body.size(); offset += kColumns) {
    StrAppend(&pem, std::string_view(body).substr(offset, kColumns), "\n");
  }
  StrAppend(&pem, "-----END ", label, "-----\n");
  return pem;
}

const char* DigestNameForKey(KeyType type) {
  switch (type) {
    case KeyType::kEcP384:
      return "SHA2-384";
    case KeyType::kEcP521:
      return "SHA2-512";
    default:
      return "SHA2-256";
  }
}

size_t EcFieldSizeBytes(KeyType type) {
  switch (type) {
    case KeyType::kEcP256:
      return 32;
    case KeyType::kEcP384:
      return 48;
    case KeyType::kEcP521:
      return 66;
    default:
      return 0;
  }
}

ByteSpan EcPointOf(KeyType type, ByteSpan spki) {
  const ByteSpan prefix = EcSpkiPrefix(type);
  if (spki.size() != prefix.size() + 1 + 2 * EcFieldSizeBytes(type) || prefix.empty() ||
      !std::equal(prefix.begin(), prefix.end(), spki.begin()) || spki[prefix.size()] != 4) {
    return {};
  }
  return spki.subspan(prefix.size());
}

EVP_PKEY* EcParameters(KeyType type) {
  const auto make = [](KeyType of) -> EVP_PKEY* {
    const std::string group(KeyTypeName(of));
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME,
                                         const_cast<char*>(group.c_str()), 0),
        OSSL_PARAM_construct_end()};
    const OwnedKeyContext context(EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr));
    EVP_PKEY* key = nullptr;
    if (context == nullptr || EVP_PKEY_fromdata_init(context.get()) != 1 ||
        EVP_PKEY_fromdata(context.get(), &key, EVP_PKEY_KEY_PARAMETERS,
                          const_cast<OSSL_PARAM*>(parameters)) != 1) {
      return nullptr;
    }
    return key;
  };
  static EVP_PKEY* const kParameters[] = {make(KeyType::kEcP256), make(KeyType::kEcP384),
                                          make(KeyType::kEcP521)};
  return kParameters[type == KeyType::kEcP256 ? 0 : type == KeyType::kEcP384 ? 1 : 2];
}

namespace {

// One request names its few keys again and again, in several encodings; each costs 20 microseconds.
// The keys of a thread that were made last, by type and uncompressed point: a key is immutable, so
// that it is the one that would be made again.
class LastKeys {
 public:
  std::optional<PublicKey> Find(KeyType type, ByteSpan point) const {
    for (const std::optional<PublicKey>& key : keys_) {
      if (!key.has_value() || key->type() != type) continue;
      const ByteSpan der = key->der();
      if (std::ranges::equal(der.last(std::min(der.size(), point.size())), point)) return key;
    }
    return std::nullopt;
  }
  void Keep(const PublicKey& key) { keys_[next_++ % keys_.size()] = key; }

 private:
  std::array<std::optional<PublicKey>, 4> keys_;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<PublicKey> EcPublicKeyFromPoint(KeyType type, ByteSpan point,
                                               std::string_view item) {
  if (!IsOmsKey(type)) {
    return Refuse(Reason::kKeyUnsupported, item, "not a P-256, P-384 or P-521 key");
  }
  thread_local LastKeys last_keys;
  const bool is_uncompressed = point.size() == 1 + 2 * EcFieldSizeBytes(type) && point[0] == 4;
  if (is_uncompressed) {
    if (auto known = last_keys.Find(type, point); known.has_value()) return *std::move(known);
  }
  ErrorQueueScope errors;
  EVP_PKEY* const parameters = EcParameters(type);
  OwnedKey key(EVP_PKEY_new());
  if (parameters == nullptr || key == nullptr ||
      EVP_PKEY_copy_parameters(key.get(), parameters) != 1) {
    return MachineFailure(item, TakeErrors("no provider for EC keys"));
  }
  if (EVP_PKEY_set1_encoded_public_key(key.get(), point.data(), point.size()) != 1) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("not a point on ", KeyTypeName(type), ": ", TakeErrors("refused")));
  }
  PAVISE_RETURN_IF_ERROR(CheckEcPoint(key.get(), type, item));
  if (is_uncompressed) {
    // What OpenSSL's encoder would write, which looks through all of its providers first.
    auto native = std::make_shared<PublicKey::Native>();
    native->key = std::move(key);
    native->type = type;
    const ByteSpan prefix = EcSpkiPrefix(type);
    native->der.assign(prefix.begin(), prefix.end());
    native->der.insert(native->der.end(), point.begin(), point.end());
    PublicKey made(std::move(native));
    last_keys.Keep(made);
    return made;
  }
  unsigned char* encoded = nullptr;
  // Else the key keeps the point's own form.
  const int size_bytes =
      EVP_PKEY_set_utf8_string_param(key.get(), OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT,
                                     "uncompressed") == 1
          ? i2d_PUBKEY(key.get(), &encoded)
          : 0;
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the public key"));
  OwnedBuffer owned(encoded);
  return PublicKey::FromDer({encoded, static_cast<size_t>(size_bytes)}, item);
}

absl::Status CheckEcPoint(EVP_PKEY* key, KeyType type, std::string_view item) {
  OwnedKeyContext context(EVP_PKEY_CTX_new_from_pkey(nullptr, key, nullptr));
  if (context == nullptr) return MachineFailure(item, TakeErrors("cannot check the key"));
  if (EVP_PKEY_public_check_quick(context.get()) != 1) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("not a point on ", KeyTypeName(type), ": ", TakeErrors("refused")));
  }
  return absl::OkStatus();
}

absl::StatusOr<Bytes> RsaParameter(const PublicKey& key, const char* name, std::string_view item) {
  BIGNUM* raw_number = nullptr;
  if (EVP_PKEY_get_bn_param(key.native().key.get(), name, &raw_number) != 1) {
    return MachineFailure(item, TakeErrors("the key has no such parameter"));
  }
  const OwnedBignum number(raw_number);
  Bytes bytes(static_cast<size_t>(BN_num_bytes(number.get())));
  BN_bn2bin(number.get(), bytes.data());
  return bytes;
}

absl::StatusOr<Bytes> EcdsaDerFromRaw(KeyType type, ByteSpan raw, std::string_view item) {
  const size_t field_bytes = EcFieldSizeBytes(type);
  if (field_bytes == 0 || raw.size() != 2 * field_bytes) {
    return MachineFailure(item, StrCat("a raw signature of ", raw.size(), " bytes where ",
                                       2 * field_bytes, " are due"));
  }
  ErrorQueueScope errors;
  OwnedBignum r(BN_bin2bn(raw.data(), static_cast<int>(field_bytes), nullptr));
  OwnedBignum s(BN_bin2bn(raw.data() + field_bytes, static_cast<int>(field_bytes), nullptr));
  OwnedEcdsaSignature signature(ECDSA_SIG_new());
  if (r == nullptr || s == nullptr || signature == nullptr ||
      ECDSA_SIG_set0(signature.get(), r.get(), s.get()) != 1) {
    return MachineFailure(item, TakeErrors("out of memory"));
  }
  r.release();
  s.release();
  unsigned char* encoded = nullptr;
  const int size_bytes = i2d_ECDSA_SIG(signature.get(), &encoded);
  if (size_bytes <= 0) return MachineFailure(item, TakeErrors("cannot encode the signature"));
  OwnedBuffer owned(encoded);
  return Bytes(encoded, encoded + size_bytes);
}

}  // namespace pavise::crypto::internal
