#include "pavise/vault/segment_cipher.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/key_derivation.h"

namespace pavise::vault {
namespace {

using crypto::Aes256Gcm;

constexpr std::string_view kCommitmentLabel = "pavise-sealed/1 commitment";
constexpr std::string_view kEncryptionLabel = "pavise-sealed/1 encryption";

// Three zero bytes, the number (8 bytes, little-endian), 1 for the last segment.
std::array<uint8_t, Aes256Gcm::kNonceBytes> NonceOf(uint64_t number, bool is_last) {
  std::array<uint8_t, Aes256Gcm::kNonceBytes> nonce{};
  for (size_t i = 0; i < 8; ++i) nonce[3 + i] = static_cast<uint8_t>(number >> 8 * i);
  nonce[11] = is_last ? 1 : 0;
  return nonce;
}

absl::StatusOr<SecretBytes> Derive(const SecretBytes& content_key, ByteSpan salt,
                                   std::string_view label) {
  if (content_key.size_bytes() != kContentKeyBytes) {
    return UsageError(
        StrCat("a content key of ", content_key.size_bytes(), " bytes, not ", kContentKeyBytes));
  }
  return crypto::Hkdf(content_key, salt, AsBytes(label), Aes256Gcm::kKeyBytes);
}

}  // namespace

absl::StatusOr<std::array<uint8_t, 32>> KeyCommitment(const SecretBytes& content_key,
                                                      std::span<const uint8_t, 32> salt) {
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes derived, Derive(content_key, salt, kCommitmentLabel));
  std::array<uint8_t, 32> commitment;
  std::ranges::copy(derived.Reveal(), commitment.begin());
  return commitment;
}

absl::StatusOr<SegmentCipher> SegmentCipher::Create(const SecretBytes& content_key,
                                                    std::span<const uint8_t, 32> salt,
                                                    const Digest32& asset_id) {
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, Derive(content_key, salt, kEncryptionLabel));
  PAVISE_ASSIGN_OR_RETURN(Aes256Gcm cipher, Aes256Gcm::Create(key));
  return SegmentCipher(std::move(cipher), asset_id);
}

absl::Status SegmentCipher::Seal(uint64_t number, bool is_last, ByteSpan plain,
                                 std::span<uint8_t> sealed) {
  if (sealed.size() < Aes256Gcm::kTagBytes) return UsageError("no room for a segment's tag");
  return cipher_.Seal(NonceOf(number, is_last), asset_id_, plain,
                      sealed.first(sealed.size() - Aes256Gcm::kTagBytes),
                      sealed.last<Aes256Gcm::kTagBytes>());
}

absl::Status SegmentCipher::Open(uint64_t number, bool is_last, ByteSpan sealed,
                                 std::span<uint8_t> plain, std::string_view item) {
  if (sealed.size() < Aes256Gcm::kTagBytes) return UsageError("a segment without a tag");
  return cipher_.Open(
      NonceOf(number, is_last), asset_id_, sealed.first(sealed.size() - Aes256Gcm::kTagBytes),
      sealed.last<Aes256Gcm::kTagBytes>(), plain, StrCat(item, ": segment ", number));
}

}  // namespace pavise::vault
