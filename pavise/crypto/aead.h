#ifndef PAVISE_CRYPTO_AEAD_H_
#define PAVISE_CRYPTO_AEAD_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/secret_bytes.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::crypto {

// AES-256-GCM (SP 800-38D) with nonces of 96 bits and tags of 128. One object a key: its schedule
// is made once, so a message costs no set-up. Movable; not thread-safe (one object a thread).
//
// The caller's part: no nonce twice under a key, and at most 2^32 messages under one key. GCM does
// not commit to its key: where several keys are in play, commit to the right one beside it.
class Aes256Gcm {
 public:
  static constexpr size_t kKeyBytes = 32;
  static constexpr size_t kNonceBytes = 12;
  static constexpr size_t kTagBytes = 16;
  // Messages and additional data end here (OpenSSL counts in int).
  static constexpr size_t kMaxMessageBytes = 1u << 30;

  // A key of another length is a usage error.
  static absl::StatusOr<Aes256Gcm> Create(const SecretBytes& key);
  ~Aes256Gcm();
  Aes256Gcm(Aes256Gcm&&) noexcept;
  Aes256Gcm& operator=(Aes256Gcm&&) noexcept;

  // `encrypted` is as long as `plain` and may be the same memory, but not overlap it otherwise.
  // Usage error: another length, or over kMaxMessageBytes.
  absl::Status Seal(std::span<const uint8_t, kNonceBytes> nonce, ByteSpan additional,
                    ByteSpan plain, std::span<uint8_t> encrypted,
                    std::span<uint8_t, kTagBytes> tag);
  // kContentMismatch names `item`: the bytes, the additional data, the nonce or the key are not
  // those of Seal. `plain` is zeroed then: nothing unauthenticated stays in it.
  absl::Status Open(std::span<const uint8_t, kNonceBytes> nonce, ByteSpan additional,
                    ByteSpan encrypted, std::span<const uint8_t, kTagBytes> tag,
                    std::span<uint8_t> plain, std::string_view item);

 private:
  struct State;
  explicit Aes256Gcm(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_AEAD_H_
