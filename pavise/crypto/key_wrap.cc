#include "pavise/crypto/key_wrap.h"

#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

constexpr std::string_view kItem = "AES key wrap";
constexpr size_t kKeyEncryptionKeyBytes = 32;
constexpr size_t kMinKeyBytes = 16;
constexpr size_t kMaxKeyBytes = 512;
constexpr size_t kOverheadBytes = 8;

bool IsKeySize(size_t size_bytes) {
  return size_bytes >= kMinKeyBytes && size_bytes <= kMaxKeyBytes && size_bytes % 8 == 0;
}

// Wrapped or unwrapped bytes; empty where unwrapping found another integrity check value.
absl::StatusOr<SecretBytes> Run(const SecretBytes& key_encryption_key, bool wrapping, ByteSpan in) {
  if (key_encryption_key.size_bytes() != kKeyEncryptionKeyBytes) {
    return UsageError(StrCat("a key-encryption key of ", key_encryption_key.size_bytes(),
                             " bytes, not ", kKeyEncryptionKeyBytes));
  }
  internal::ErrorQueueScope errors;
  const internal::OwnedCipher cipher(EVP_CIPHER_fetch(nullptr, "AES-256-WRAP", nullptr));
  const internal::OwnedCipherContext context(EVP_CIPHER_CTX_new());
  if (context == nullptr || cipher == nullptr) {
    return MachineFailure(kItem, internal::TakeErrors("no provider for it"));
  }
  EVP_CIPHER_CTX_set_flags(context.get(), EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
  // No initial value given: the standard's (RFC 3394, 2.2.3.1).
  if (EVP_CipherInit_ex2(context.get(), cipher.get(), key_encryption_key.Reveal().data(), nullptr,
                         wrapping ? 1 : 0, nullptr) != 1) {
    return MachineFailure(kItem, internal::TakeErrors("cannot set the key"));
  }
  Bytes out(in.size() + kOverheadBytes);
  int size_bytes = 0;
  const int verdict = EVP_CipherUpdate(context.get(), out.data(), &size_bytes, in.data(),
                                       static_cast<int>(in.size()));
  SecretBytes whole(std::move(out));
  const size_t expected = wrapping ? in.size() + kOverheadBytes : in.size() - kOverheadBytes;
  if (verdict == 1 && static_cast<size_t>(size_bytes) == expected) {
    return SecretBytes(whole.Reveal().first(expected));
  }
  if (wrapping) return MachineFailure(kItem, internal::TakeErrors("cannot wrap"));
  return SecretBytes();
}

}  // namespace

absl::StatusOr<Bytes> WrapKey(const SecretBytes& key_encryption_key, const SecretBytes& key) {
  if (!IsKeySize(key.size_bytes())) {
    return UsageError(StrCat("a key of ", key.size_bytes(), " bytes cannot be wrapped"));
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes wrapped,
                          Run(key_encryption_key, /*wrapping=*/true, key.Reveal()));
  return Bytes(wrapped.Reveal().begin(), wrapped.Reveal().end());
}

absl::StatusOr<SecretBytes> UnwrapKey(const SecretBytes& key_encryption_key, ByteSpan wrapped,
                                      std::string_view item) {
  if (wrapped.size() < kOverheadBytes || !IsKeySize(wrapped.size() - kOverheadBytes)) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("no wrapped key has ", wrapped.size(), " bytes"));
  }
  PAVISE_ASSIGN_OR_RETURN(SecretBytes key, Run(key_encryption_key, /*wrapping=*/false, wrapped));
  if (key.empty()) {
    return Refuse(Reason::kContentMismatch, item,
                  "the wrapped key does not open: changed, or wrapped for another key");
  }
  return key;
}

}  // namespace pavise::crypto
