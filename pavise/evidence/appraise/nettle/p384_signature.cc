#include "pavise/evidence/appraise/nettle/p384_signature.h"

#include <gmp.h>
#include <nettle/dsa.h>
#include <nettle/ecc-curve.h>
#include <nettle/ecc.h>
#include <nettle/ecdsa.h>

#include "pavise/crypto/digest.h"

namespace pavise::evidence {
namespace {

using crypto::DigestAlgorithm;

constexpr size_t kFieldBytes = 48;
constexpr size_t kDigestBytes = 48;
// SubjectPublicKeyInfo with an uncompressed point: the point is its end (RFC 5480).
constexpr size_t kSpkiBytes = 23 + 1 + 2 * kFieldBytes;

// GMP ends the program where memory ends, as the rest of it would: the sizes here are constant.
class Number {
 public:
  explicit Number(ByteSpan big_endian) {
    mpz_init(value_);
    mpz_import(value_, big_endian.size(), /*order=*/1, /*size=*/1, /*endian=*/0, /*nails=*/0,
               big_endian.data());
  }
  ~Number() { mpz_clear(value_); }
  Number(const Number&) = delete;
  Number& operator=(const Number&) = delete;
  mpz_srcptr get() const { return value_; }

 private:
  mpz_t value_;
};

class Point {
 public:
  Point() { ecc_point_init(&point_, nettle_get_secp_384r1()); }
  ~Point() { ecc_point_clear(&point_); }
  Point(const Point&) = delete;
  Point& operator=(const Point&) = delete;
  ecc_point* get() { return &point_; }

 private:
  ecc_point point_;
};

class Signature {
 public:
  Signature(const Number& r, const Number& s) {
    dsa_signature_init(&signature_);
    mpz_set(signature_.r, r.get());
    mpz_set(signature_.s, s.get());
  }
  ~Signature() { dsa_signature_clear(&signature_); }
  Signature(const Signature&) = delete;
  Signature& operator=(const Signature&) = delete;
  const dsa_signature* get() const { return &signature_; }

 private:
  dsa_signature signature_;
};

}  // namespace

bool nettle::AcceptsP384(ByteSpan point, ByteSpan digest, ByteSpan signature) {
  if (point.size() != 2 * kFieldBytes || signature.size() != 2 * kFieldBytes ||
      digest.size() != kDigestBytes) {
    return false;
  }
  Point key;
  if (ecc_point_set(key.get(), Number(point.first(kFieldBytes)).get(),
                    Number(point.last(kFieldBytes)).get()) != 1) {
    return false;
  }
  const Signature pair(Number(signature.first(kFieldBytes)), Number(signature.last(kFieldBytes)));
  return ecdsa_verify(key.get(), digest.size(), digest.data(), pair.get()) == 1;
}

absl::Status VerifyP384(const crypto::PublicKey& key, ByteSpan message, ByteSpan signature,
                        std::string_view item) {
  const ByteSpan spki = key.der();
  if (key.type() == crypto::KeyType::kEcP384 && spki.size() == kSpkiBytes) {
    const auto digest = crypto::Digest(DigestAlgorithm::kSha384, message);
    if (digest.ok() && nettle::AcceptsP384(spki.last(2 * kFieldBytes), *digest, signature)) {
      return absl::OkStatus();
    }
  }
  return key.VerifyAs(crypto::SignatureScheme::kEcdsaRaw, DigestAlgorithm::kSha384, message,
                      signature, item);
}

}  // namespace pavise::evidence
