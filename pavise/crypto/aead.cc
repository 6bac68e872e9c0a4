#include "pavise/crypto/aead.h"

#include <algorithm>
#include <array>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {

using internal::TakeErrors;

namespace {
constexpr std::string_view kItem = "AES-256-GCM";
}

struct Aes256Gcm::State {
  internal::OwnedCipherContext context;

  // One message in either direction, but for the tag. False: OpenSSL's error queue says why.
  bool Run(bool encrypting, std::span<const uint8_t, kNonceBytes> nonce, ByteSpan additional,
           ByteSpan in, std::span<uint8_t> out) {
    EVP_CIPHER_CTX* raw = context.get();
    int size_bytes = 0;
    // The key, set by Create, stays.
    return EVP_CipherInit_ex2(raw, nullptr, nullptr, nonce.data(), encrypting ? 1 : 0, nullptr) ==
               1 &&
           (additional.empty() || EVP_CipherUpdate(raw, nullptr, &size_bytes, additional.data(),
                                                   static_cast<int>(additional.size())) == 1) &&
           (in.empty() || (EVP_CipherUpdate(raw, out.data(), &size_bytes, in.data(),
                                            static_cast<int>(in.size())) == 1 &&
                           static_cast<size_t>(size_bytes) == in.size()));
  }
};

Aes256Gcm::Aes256Gcm(std::unique_ptr<State> state) : state_(std::move(state)) {}
Aes256Gcm::~Aes256Gcm() = default;
Aes256Gcm::Aes256Gcm(Aes256Gcm&&) noexcept = default;
Aes256Gcm& Aes256Gcm::operator=(Aes256Gcm&&) noexcept = default;

absl::StatusOr<Aes256Gcm> Aes256Gcm::Create(const SecretBytes& key) {
  if (key.size_bytes() != kKeyBytes) {
    return UsageError(StrCat("an AES-256 key of ", key.size_bytes(), " bytes"));
  }
  internal::ErrorQueueScope errors;
  internal::OwnedCipher cipher(EVP_CIPHER_fetch(nullptr, "AES-256-GCM", nullptr));
  auto state = std::make_unique<State>();
  state->context.reset(EVP_CIPHER_CTX_new());
  if (cipher == nullptr || state->context == nullptr ||
      EVP_CipherInit_ex2(state->context.get(), cipher.get(), key.Reveal().data(), nullptr, 1,
                         nullptr) != 1) {
    return MachineFailure(kItem, TakeErrors("no provider for it"));
  }
  return Aes256Gcm(std::move(state));
}

namespace {

absl::Status CheckSizes(ByteSpan additional, size_t in_bytes, size_t out_bytes) {
  if (in_bytes == out_bytes && in_bytes <= Aes256Gcm::kMaxMessageBytes &&
      additional.size() <= Aes256Gcm::kMaxMessageBytes) {
    return absl::OkStatus();
  }
  return UsageError(StrCat("a message of ", in_bytes, " bytes into a buffer of ", out_bytes,
                           ", with ", additional.size(), " bytes of additional data"));
}

}  // namespace

absl::Status Aes256Gcm::Seal(std::span<const uint8_t, kNonceBytes> nonce, ByteSpan additional,
                             ByteSpan plain, std::span<uint8_t> encrypted,
                             std::span<uint8_t, kTagBytes> tag) {
  PAVISE_RETURN_IF_ERROR(CheckSizes(additional, plain.size(), encrypted.size()));
  internal::ErrorQueueScope errors;
  int size_bytes = 0;
  uint8_t nothing = 0;
  EVP_CIPHER_CTX* context = state_->context.get();
  if (!state_->Run(/*encrypting=*/true, nonce, additional, plain, encrypted) ||
      EVP_CipherFinal_ex(context, &nothing, &size_bytes) != 1 ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, kTagBytes, tag.data()) != 1) {
    return MachineFailure(kItem, TakeErrors("cannot encrypt"));
  }
  return absl::OkStatus();
}

absl::Status Aes256Gcm::Open(std::span<const uint8_t, kNonceBytes> nonce, ByteSpan additional,
                             ByteSpan encrypted, std::span<const uint8_t, kTagBytes> tag,
                             std::span<uint8_t> plain, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckSizes(additional, encrypted.size(), plain.size()));
  internal::ErrorQueueScope errors;
  EVP_CIPHER_CTX* context = state_->context.get();
  std::array<uint8_t, kTagBytes> expected;
  std::copy(tag.begin(), tag.end(), expected.begin());
  if (!state_->Run(/*encrypting=*/false, nonce, additional, encrypted, plain) ||
      EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, kTagBytes, expected.data()) != 1) {
    WipeMemory(plain);
    return MachineFailure(kItem, TakeErrors("cannot decrypt"));
  }
  int size_bytes = 0;
  uint8_t nothing = 0;
  if (EVP_CipherFinal_ex(context, &nothing, &size_bytes) == 1) return absl::OkStatus();
  WipeMemory(plain);
  return Refuse(Reason::kContentMismatch, item,
                "does not decrypt: it was changed, or this is not its key");
}

}  // namespace pavise::crypto
