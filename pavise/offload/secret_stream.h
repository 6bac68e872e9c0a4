#ifndef PAVISE_OFFLOAD_SECRET_STREAM_H_
#define PAVISE_OFFLOAD_SECRET_STREAM_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

// The secrets of a scheme, expanded from one 32-byte key with ChaCha20 (RFC 8439; block counter and
// nonce begin at 0, each stream has a key of its own): the same key gives the same permutations,
// signs, masks and vectors, and nobody without it can tell them from random ones. Move-only, not
// thread-safe; its key and what it has in store are wiped. Every function fails (machine failure)
// where OpenSSL does; nothing drawn is ever replaced by zeros.
class SecretStream {
 public:
  static constexpr size_t kKeyBytes = 32;

  // From a key of kKeyBytes bytes; another length is a usage error.
  static absl::StatusOr<SecretStream> FromKey(const SecretBytes& key);
  // From a fresh random key.
  static absl::StatusOr<SecretStream> Random(RandomSource& source);
  ~SecretStream();
  SecretStream(SecretStream&&) noexcept;
  SecretStream& operator=(SecretStream&&) noexcept;

  // An independent stream under the key SHA-256("pavise/offload/stream" || 0 || key || label).
  // Depends on key and label alone, not on what was drawn; a label gives the same stream each time.
  absl::StatusOr<SecretStream> Derive(std::string_view label) const;

  absl::Status Fill(std::span<uint8_t> out);
  // Without bias: values that would bring one are drawn again. `bound` is at least 1.
  absl::StatusOr<std::vector<uint32_t>> Below(uint32_t bound, size_t count);
  // All orders of 0 ... size-1 are equally likely (Fisher and Yates). `size` is at most 2^32 - 1.
  absl::StatusOr<std::vector<uint32_t>> Permutation(size_t size);
  // Each +1 or -1.
  absl::StatusOr<std::vector<float>> Signs(size_t count);
  // Independent standard normal numbers (Box and Muller).
  absl::StatusOr<std::vector<double>> Gaussians(size_t count);
  // Uniform residues modulo an odd `modulus` from 3 to 255, between -(modulus-1)/2 and its
  // opposite.
  absl::Status FillResidues(int modulus, std::span<int8_t> out);

 private:
  struct State;
  explicit SecretStream(std::unique_ptr<State> state);
  absl::Status DrawBelow(uint32_t bound, uint32_t& number);
  std::unique_ptr<State> state_;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_SECRET_STREAM_H_
