#include "pavise/crypto/credential_protection.h"

#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/rsa.h>

#include <array>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

using internal::ErrorQueueScope;
using internal::Owned;
using internal::OwnedKey;
using internal::OwnedKeyContext;
using internal::TakeErrors;

using OwnedMac = Owned<EVP_MAC, EVP_MAC_free>;
using OwnedMacContext = Owned<EVP_MAC_CTX, EVP_MAC_CTX_free>;

// "sha256" and its like are names that OpenSSL knows as well; BLAKE2b's is not.
absl::StatusOr<std::string> ProviderDigest(DigestAlgorithm digest) {
  if (digest == DigestAlgorithm::kBlake2b512) {
    return UsageError("credential protection with BLAKE2b is not defined");
  }
  return std::string(DigestName(digest));
}

absl::StatusOr<Bytes> Coordinate(EVP_PKEY* key, const char* name, size_t size_bytes,
                                 std::string_view item) {
  BIGNUM* number = nullptr;
  if (EVP_PKEY_get_bn_param(key, name, &number) != 1) {
    return MachineFailure(item, TakeErrors("the key has no such coordinate"));
  }
  internal::OwnedBignum owned(number);
  Bytes result(size_bytes);
  if (BN_bn2binpad(number, result.data(), static_cast<int>(size_bytes)) < 0) {
    return MachineFailure(item, TakeErrors("a coordinate longer than its field"));
  }
  return result;
}

}  // namespace

absl::StatusOr<Bytes> EncryptRsaOaep(const PublicKey& key, DigestAlgorithm digest, ByteSpan label,
                                     const SecretBytes& plain, std::string_view item) {
  if (key.type() != KeyType::kRsa) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("RSA-OAEP with a key of type ", KeyTypeName(key.type())));
  }
  // NIST SP 800-56B revision 2, 6.2: keys are wrapped to RSA keys with 65,537 <= e < 2^256, odd.
  PAVISE_ASSIGN_OR_RETURN(const Bytes exponent, internal::RsaParameter(key, "e", item));
  const Bytes least = {1, 0, 1};
  if (exponent.size() < least.size() || (exponent.size() == least.size() && exponent < least)) {
    return Refuse(Reason::kKeyUnsupported, item, "its RSA exponent is below 65,537",
                  "use a key with the exponent 65,537");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string digest_name, ProviderDigest(digest));
  ErrorQueueScope errors;
  OwnedKeyContext context(EVP_PKEY_CTX_new_from_pkey(nullptr, key.native().key.get(), nullptr));
  // The context takes the label over, so it gets a copy of the library's own.
  void* label_copy = label.empty() ? nullptr : OPENSSL_memdup(label.data(), label.size());
  if (context == nullptr || EVP_PKEY_encrypt_init(context.get()) != 1 ||
      EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_OAEP_PADDING) != 1 ||
      EVP_PKEY_CTX_set_rsa_oaep_md_name(context.get(), digest_name.c_str(), nullptr) != 1 ||
      EVP_PKEY_CTX_set_rsa_mgf1_md_name(context.get(), digest_name.c_str(), nullptr) != 1 ||
      (!label.empty() && EVP_PKEY_CTX_set0_rsa_oaep_label(context.get(), label_copy,
                                                          static_cast<int>(label.size())) != 1)) {
    OPENSSL_free(label_copy);
    return MachineFailure(item, TakeErrors("no provider for RSA-OAEP"));
  }
  const ByteSpan message = plain.Reveal();
  // RFC 8017, 7.1.1: mLen <= k - 2 hLen - 2.
  const auto key_bytes = static_cast<size_t>(EVP_PKEY_get_size(key.native().key.get()));
  if (message.size() + 2 * DigestSizeBytes(digest) + 2 > key_bytes) {
    return Refuse(
        Reason::kKeyUnsupported, item,
        StrCat("an RSA key of ", 8 * key_bytes, " bits is too short for OAEP with ", digest_name));
  }
  size_t size_bytes = key_bytes;
  Bytes encrypted(size_bytes);
  if (EVP_PKEY_encrypt(context.get(), encrypted.data(), &size_bytes, message.data(),
                       message.size()) != 1) {
    return MachineFailure(item, TakeErrors("cannot encrypt"));
  }
  encrypted.resize(size_bytes);
  return encrypted;
}

absl::StatusOr<EphemeralAgreement> AgreeEphemerally(const PublicKey& peer, std::string_view item) {
  const size_t field_bytes = internal::EcFieldSizeBytes(peer.type());
  if (field_bytes == 0) {
    return Refuse(Reason::kKeyUnsupported, item,
                  StrCat("ECDH with a key of type ", KeyTypeName(peer.type())));
  }
  ErrorQueueScope errors;
  EVP_PKEY* peer_key = peer.native().key.get();
  const std::string curve(KeyTypeName(peer.type()));
  OwnedKey ephemeral(EVP_EC_gen(curve.c_str()));
  if (ephemeral == nullptr) return MachineFailure(item, TakeErrors("no provider for EC keys"));
  OwnedKeyContext context(EVP_PKEY_CTX_new_from_pkey(nullptr, ephemeral.get(), nullptr));
  Bytes shared(field_bytes);
  size_t size_bytes = shared.size();
  if (context == nullptr || EVP_PKEY_derive_init(context.get()) != 1 ||
      EVP_PKEY_derive_set_peer(context.get(), peer_key) != 1 ||
      EVP_PKEY_derive(context.get(), shared.data(), &size_bytes) != 1 ||
      size_bytes != field_bytes) {
    return MachineFailure(item, TakeErrors("cannot agree on a secret"));
  }
  EphemeralAgreement result;
  result.shared_x = SecretBytes(std::move(shared));
  PAVISE_ASSIGN_OR_RETURN(result.ephemeral_x,
                          Coordinate(ephemeral.get(), OSSL_PKEY_PARAM_EC_PUB_X, field_bytes, item));
  PAVISE_ASSIGN_OR_RETURN(result.ephemeral_y,
                          Coordinate(ephemeral.get(), OSSL_PKEY_PARAM_EC_PUB_Y, field_bytes, item));
  PAVISE_ASSIGN_OR_RETURN(result.peer_x,
                          Coordinate(peer_key, OSSL_PKEY_PARAM_EC_PUB_X, field_bytes, item));
  return result;
}

absl::StatusOr<Bytes> EncryptAesCfb(const SecretBytes& key, const SecretBytes& plain) {
  constexpr std::string_view kItem = "AES-CFB";
  if (key.size_bytes() != 16 && key.size_bytes() != 32) {
    return UsageError(StrCat("AES keys have 16 or 32 bytes, not ", key.size_bytes()));
  }
  ErrorQueueScope errors;
  const EVP_CIPHER* cipher = key.size_bytes() == 16 ? EVP_aes_128_cfb128() : EVP_aes_256_cfb128();
  internal::OwnedCipherContext context(EVP_CIPHER_CTX_new());
  const std::array<uint8_t, 16> zeros{};
  const ByteSpan message = plain.Reveal();
  Bytes encrypted(message.size());
  int size_bytes = 0;
  if (context == nullptr ||
      EVP_EncryptInit_ex2(context.get(), cipher, key.Reveal().data(), zeros.data(), nullptr) != 1 ||
      EVP_EncryptUpdate(context.get(), encrypted.data(), &size_bytes, message.data(),
                        static_cast<int>(message.size())) != 1 ||
      static_cast<size_t>(size_bytes) != message.size()) {
    return MachineFailure(kItem, TakeErrors("cannot encrypt"));
  }
  return encrypted;
}

struct HmacKey::Context {
  OwnedMacContext mac;
  size_t size_bytes;
};

HmacKey::HmacKey(std::unique_ptr<Context> context) : context_(std::move(context)) {}
HmacKey::~HmacKey() = default;
HmacKey::HmacKey(HmacKey&&) noexcept = default;
HmacKey& HmacKey::operator=(HmacKey&&) noexcept = default;

absl::StatusOr<HmacKey> HmacKey::Create(DigestAlgorithm digest, const SecretBytes& key) {
  PAVISE_ASSIGN_OR_RETURN(std::string digest_name, ProviderDigest(digest));
  ErrorQueueScope errors;
  const OwnedMac mac(EVP_MAC_fetch(nullptr, "HMAC", nullptr));
  auto context = std::make_unique<Context>();
  context->mac.reset(mac == nullptr ? nullptr : EVP_MAC_CTX_new(mac.get()));
  context->size_bytes = DigestSizeBytes(digest);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest_name.data(), 0),
      OSSL_PARAM_construct_end()};
  // A null key means "the same key again" to OpenSSL; an empty one must not.
  const uint8_t no_key = 0;
  const ByteSpan key_bytes = key.Reveal();
  if (context->mac == nullptr ||
      EVP_MAC_init(context->mac.get(), key_bytes.empty() ? &no_key : key_bytes.data(),
                   key_bytes.size(), parameters) != 1) {
    return MachineFailure("HMAC", TakeErrors("cannot prepare the key"));
  }
  return HmacKey(std::move(context));
}

absl::Status HmacKey::Compute(ByteSpan message, std::span<uint8_t> mac) {
  if (mac.size() != context_->size_bytes) return UsageError("an HMAC has its digest's length");
  EVP_MAC_CTX* const context = context_->mac.get();
  size_t size_bytes = 0;
  if (EVP_MAC_init(context, nullptr, 0, nullptr) != 1 ||
      EVP_MAC_update(context, message.data(), message.size()) != 1 ||
      EVP_MAC_final(context, mac.data(), &size_bytes, mac.size()) != 1 ||
      size_bytes != mac.size()) {
    ErrorQueueScope errors;
    return MachineFailure("HMAC", TakeErrors("cannot compute"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SecretBytes> Hmac(DigestAlgorithm digest, const SecretBytes& key, ByteSpan message) {
  PAVISE_ASSIGN_OR_RETURN(HmacKey prepared, HmacKey::Create(digest, key));
  Bytes result(DigestSizeBytes(digest));
  PAVISE_RETURN_IF_ERROR(prepared.Compute(message, result));
  return SecretBytes(std::move(result));
}

}  // namespace pavise::crypto
