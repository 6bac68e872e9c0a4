#ifndef PAVISE_CRYPTO_DIGEST_H_
#define PAVISE_CRYPTO_DIGEST_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::crypto {

// Digests taken from OpenSSL's providers (FIPS 180-4; BLAKE2b: RFC 7693).
enum class DigestAlgorithm { kSha1, kSha256, kSha384, kSha512, kBlake2b512 };

// "sha256", "sha384", "sha512", "blake2b" (OMS spelling).
std::string_view DigestName(DigestAlgorithm algorithm);
size_t DigestSizeBytes(DigestAlgorithm algorithm);

// An incremental digest. Movable, not thread-safe, reusable after Finish.
class Digester {
 public:
  // Machine failure when no loaded provider offers the algorithm.
  static absl::StatusOr<Digester> Create(DigestAlgorithm algorithm);
  ~Digester();
  Digester(Digester&&) noexcept;
  Digester& operator=(Digester&&) noexcept;

  absl::Status Update(ByteSpan bytes);
  // The digest of everything since Create or the last Finish.
  absl::StatusOr<Bytes> Finish();
  // The same into `digest`, which has just its size (else a usage error).
  absl::Status FinishInto(std::span<uint8_t> digest);

 private:
  struct State;
  explicit Digester(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// One-shot. Machine failure as of Create.
absl::StatusOr<Bytes> Digest(DigestAlgorithm algorithm, ByteSpan bytes);
absl::StatusOr<Digest32> Sha256(ByteSpan bytes);

// What --fips results print: "OpenSSL 3.0.19 FIPS provider (validated module)" where a FIPS
// provider is loaded and active for fetches, else "OpenSSL 3.0.19 default provider (FIPS 180-4 /
// 186-5 algorithms, not a validated module)".
std::string FipsProviderDescription();

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_DIGEST_H_
