#ifndef PAVISE_VAULT_SEGMENT_CIPHER_H_
#define PAVISE_VAULT_SEGMENT_CIPHER_H_

#include <array>
#include <span>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/aead.h"

#include "absl/status/statusor.h"

namespace pavise::vault {

inline constexpr size_t kContentKeyBytes = 32;

// What a header says of its content key: HKDF of it, under a label of its own. It binds the asset
// to one key, which GCM alone does not. A key of another length than kContentKeyBytes is a usage
// error.
absl::StatusOr<std::array<uint8_t, 32>> KeyCommitment(const SecretBytes& content_key,
                                                      std::span<const uint8_t, 32> salt);

// Encrypts and decrypts the segments of one asset: AES-256-GCM under a key derived from content key
// and salt, the nonce made of the segment's number and whether it is the last (STREAM: Hoang,
// Reyhanitabar, Rogaway and Vizar, CRYPTO 2015), the asset's id as additional data. Segments cannot
// be swapped, dropped, added, or brought from another asset. Movable; not thread-safe (one a
// thread).
class SegmentCipher {
 public:
  static absl::StatusOr<SegmentCipher> Create(const SecretBytes& content_key,
                                              std::span<const uint8_t, 32> salt,
                                              const Digest32& asset_id);

  // `sealed` is as long as `plain` and the tag, which comes last. Both may begin at the same place;
  // else they do not overlap.
  absl::Status Seal(uint64_t number, bool is_last, ByteSpan plain, std::span<uint8_t> sealed);
  // The reverse. kContentMismatch names `item` and the segment; `plain` is zeroed then.
  absl::Status Open(uint64_t number, bool is_last, ByteSpan sealed, std::span<uint8_t> plain,
                    std::string_view item);

 private:
  SegmentCipher(crypto::Aes256Gcm cipher, const Digest32& asset_id)
      : cipher_(std::move(cipher)), asset_id_(asset_id) {}
  crypto::Aes256Gcm cipher_;
  Digest32 asset_id_;
};

}  // namespace pavise::vault

#endif  // PAVISE_VAULT_SEGMENT_CIPHER_H_
