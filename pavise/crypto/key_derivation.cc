#include "pavise/crypto/key_derivation.h"

#include <openssl/core_names.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

using internal::Owned;
using internal::TakeErrors;

using OwnedKdf = Owned<EVP_KDF, EVP_KDF_free>;
using OwnedKdfContext = Owned<EVP_KDF_CTX, EVP_KDF_CTX_free>;

constexpr size_t kMaxDerivedBytes = 255 * 32;

// OpenSSL takes parameters as not constant and leaves them alone; an empty one needs an address.
OSSL_PARAM Octets(const char* name, ByteSpan bytes) {
  static uint8_t nothing = 0;
  return OSSL_PARAM_construct_octet_string(
      name, bytes.empty() ? &nothing : const_cast<uint8_t*>(bytes.data()), bytes.size());
}

absl::StatusOr<SecretBytes> Derive(const char* function, ByteSpan secret, OSSL_PARAM salt_or_end,
                                   ByteSpan info, size_t size_bytes) {
  if (size_bytes == 0 || size_bytes > kMaxDerivedBytes) {
    return UsageError(StrCat("cannot derive a key of ", size_bytes, " bytes"));
  }
  internal::ErrorQueueScope errors;
  const OwnedKdf kdf(EVP_KDF_fetch(nullptr, function, nullptr));
  const OwnedKdfContext context(kdf == nullptr ? nullptr : EVP_KDF_CTX_new(kdf.get()));
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, const_cast<char*>("SHA2-256"), 0),
      Octets(OSSL_KDF_PARAM_KEY, secret), Octets(OSSL_KDF_PARAM_INFO, info), salt_or_end,
      OSSL_PARAM_construct_end()};
  Bytes derived(size_bytes);
  if (context == nullptr ||
      EVP_KDF_derive(context.get(), derived.data(), derived.size(), parameters) != 1) {
    return MachineFailure(function, TakeErrors("cannot derive a key"));
  }
  return SecretBytes(std::move(derived));
}

// A length of 32 bits, big-endian, before the bytes (RFC 7518, 4.6.2).
void AppendBigEndian32(size_t value, Bytes& out) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<uint8_t>(value >> shift));
}
void AppendSized(ByteSpan bytes, Bytes& out) {
  AppendBigEndian32(bytes.size(), out);
  out.insert(out.end(), bytes.begin(), bytes.end());
}

}  // namespace

absl::StatusOr<SecretBytes> Hkdf(const SecretBytes& secret, ByteSpan salt, ByteSpan info,
                                 size_t size_bytes) {
  // No salt is a salt of zeros (RFC 5869, 2.2), and HMAC pads an empty key to just that.
  return Derive("HKDF", secret.Reveal(), Octets(OSSL_KDF_PARAM_SALT, salt), info, size_bytes);
}

absl::StatusOr<SecretBytes> ConcatKdf(const SecretBytes& secret, std::string_view algorithm,
                                      ByteSpan party_u, ByteSpan party_v, size_t size_bytes) {
  Bytes info;
  AppendSized(AsBytes(algorithm), info);
  AppendSized(party_u, info);
  AppendSized(party_v, info);
  AppendBigEndian32(8 * size_bytes, info);
  return Derive("SSKDF", secret.Reveal(), OSSL_PARAM_construct_end(), info, size_bytes);
}

}  // namespace pavise::crypto
