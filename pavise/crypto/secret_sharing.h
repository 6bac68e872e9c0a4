#ifndef PAVISE_CRYPTO_SECRET_SHARING_H_
#define PAVISE_CRYPTO_SECRET_SHARING_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// Shamir's secret sharing ("How to share a secret", 1979) over GF(2^8) with AES's polynomial: any
// `threshold` of `count` shares give the secret, fewer say nothing about it (but its length). Time
// depends on lengths and indices only. Thread-safe.
//
// A share is one line of text: "pavise-share-1:" and base64url of threshold and count (a byte
// each), the SHA-256 of each share's index and value in order of index, its own index (a byte) and
// its value. The SHA-256 of the line's first three fields is the *set id*. So a damaged share and a
// share of another set are known one by one, and nobody can make another share of a set whose id
// was noted when the set was made. The values share the secret and 32 random bytes, so that the
// digests tell nothing about a secret that could be guessed.

constexpr size_t kMaxSharedSecretBytes = 4096;

struct SecretShares {
  std::string set_id;  // lower-case hex; public
  std::vector<SecretBytes> shares;
};

// Usage error: not 1 <= threshold <= count <= 255, or a secret that is empty or too long.
absl::StatusOr<SecretShares> SplitSecret(const SecretBytes& secret, int threshold, int count,
                                         RandomSource& random = SystemRandom());

struct ShareDescription {
  std::string set_id;
  int threshold = 0;
  int count = 0;
  int index = 0;  // from 1
};
// kMalformed: not a share; kContentMismatch: damaged.
absl::StatusOr<ShareDescription> DescribeShare(const SecretBytes& share, std::string_view item);

// Findings name shares as "share 1", "share 2", ... in the order given (and their index). As
// DescribeShare, and kBindingMismatch: a share of another set than `set_id` ("": than the first
// one's), or one given twice; kEvidenceMissing: fewer than the threshold. Shares beyond the
// threshold are checked too.
absl::StatusOr<SecretBytes> CombineShares(std::span<const SecretBytes> shares,
                                          std::string_view set_id = "");

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_SECRET_SHARING_H_
