#ifndef PAVISE_CRYPTO_INTERNAL_OPENSSL_H_
#define PAVISE_CRYPTO_INTERNAL_OPENSSL_H_

// OpenSSL's types under RAII, for the sources of this area only.

#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ct.h>
#include <openssl/ec.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/crypto/x509.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::crypto::internal {

template <auto kFree>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const noexcept {
    kFree(object);
  }
};

template <typename T, auto kFree>
using Owned = std::unique_ptr<T, FreeWith<kFree>>;

inline void FreeSctList(STACK_OF(SCT) * list) { SCT_LIST_free(list); }
inline void FreeBuffer(unsigned char* buffer) { OPENSSL_free(buffer); }
inline void FreeX509Stack(STACK_OF(X509) * stack) { sk_X509_free(stack); }  // borrowed elements

using OwnedBio = Owned<BIO, BIO_free_all>;
using OwnedBignum = Owned<BIGNUM, BN_clear_free>;
using OwnedBuffer = Owned<unsigned char, FreeBuffer>;
using OwnedCipher = Owned<EVP_CIPHER, EVP_CIPHER_free>;
using OwnedCipherContext = Owned<EVP_CIPHER_CTX, EVP_CIPHER_CTX_free>;
using OwnedDigest = Owned<EVP_MD, EVP_MD_free>;
using OwnedDigestContext = Owned<EVP_MD_CTX, EVP_MD_CTX_free>;
using OwnedEcdsaSignature = Owned<ECDSA_SIG, ECDSA_SIG_free>;
using OwnedGroup = Owned<EC_GROUP, EC_GROUP_free>;
using OwnedKey = Owned<EVP_PKEY, EVP_PKEY_free>;
using OwnedKeyContext = Owned<EVP_PKEY_CTX, EVP_PKEY_CTX_free>;
using OwnedX509 = Owned<X509, X509_free>;
using OwnedX509Crl = Owned<X509_CRL, X509_CRL_free>;
using OwnedX509Stack = Owned<STACK_OF(X509), FreeX509Stack>;

// Everything on this thread's error queue as one line, oldest first, and the queue cleared.
// `fallback` is returned when the queue is empty.
std::string TakeErrors(std::string_view fallback);

// Forgets errors that earlier calls left behind, and those of this scope when it ends: what a call
// reports is then its own, and nothing leaks into the caller's use of the library.
class ErrorQueueScope {
 public:
  ErrorQueueScope() { Clear(); }
  ~ErrorQueueScope() { Clear(); }
  ErrorQueueScope(const ErrorQueueScope&) = delete;
  ErrorQueueScope& operator=(const ErrorQueueScope&) = delete;

 private:
  // Clearing walks over all 16 places of the queue, also of an empty one, which costs more than the
  // digest of a hundred bytes.
  static void Clear() {
    if (ERR_peek_error() != 0) ERR_clear_error();
  }
};

// A read-only BIO over `bytes`, which must outlive it; nullptr when out of memory or over 2 GiB.
OwnedBio ReadBio(ByteSpan bytes);

// One PEM block of `label`, text before it allowed, nothing but white space after: its DER.
// kMalformed.
absl::StatusOr<Bytes> DecodePemBlock(std::string_view pem, std::string_view label,
                                     std::string_view item);
// RFC 7468, 64 columns, trailing newline.
std::string EncodePemBlock(ByteSpan der, std::string_view label);

// The digest that OMS ties to a curve ("SHA2-384"); SHA-256 for every key that is not on one.
const char* DigestNameForKey(KeyType type);
// Length in bytes of r, of s and of a coordinate for a P-256, P-384 or P-521 key; 0 for others.
size_t EcFieldSizeBytes(KeyType type);

// A key of the curve's parameters alone, made once: copying them takes a quarter of the time of
// making a curve by its name. Not to be freed or changed; nullptr where no provider has the curve.
EVP_PKEY* EcParameters(KeyType type);
// From a point in SEC 1 form (compressed or not) on the curve of `type`. kMalformed when it is not
// on the curve, kKeyUnsupported when `type` is not an OMS key.
absl::StatusOr<PublicKey> EcPublicKeyFromPoint(KeyType type, ByteSpan point, std::string_view item);
// The uncompressed point of a SubjectPublicKeyInfo in DER on the curve of `type`; empty where it is
// written in any other way, or is something else. Nothing about the point is known yet.
ByteSpan EcPointOf(KeyType type, ByteSpan spki);
// kMalformed off the curve, or at infinity. These curves have the cofactor 1: a point on one has
// its order, and multiplying by it would tell nothing new (SP 800-56A, 5.6.2.3.4).
absl::Status CheckEcPoint(EVP_PKEY* key, KeyType type, std::string_view item);

// "n" or "e" of an RSA key, big-endian, no leading zeros.
absl::StatusOr<Bytes> RsaParameter(const PublicKey& key, const char* name, std::string_view item);

// r || s, each of the curve's field size, as the DER that OMS wants. Machine failure when the size
// is another one: the bytes come from a token, not from an untrusted file.
absl::StatusOr<Bytes> EcdsaDerFromRaw(KeyType type, ByteSpan raw, std::string_view item);

}  // namespace pavise::crypto::internal

namespace pavise::crypto {

struct PublicKey::Native {
  internal::OwnedKey key;
  KeyType type = KeyType::kOther;
  Bytes der;
};

struct Certificate::Native {
  internal::OwnedX509 certificate;
  Bytes der;
  std::string item;  // how the user knows it, for refusals that come later
};

struct RevocationList::Native {
  internal::OwnedX509Crl list;
  std::string item;
  absl::Time this_update;
  absl::Time next_update;
};

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_INTERNAL_OPENSSL_H_
