#include "pavise/offload/secret_stream.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/digest.h"

namespace pavise::offload {
namespace {

constexpr size_t kStoreBytes = 4096;
constexpr std::string_view kDerivation{"pavise/offload/stream\0", 22};

struct FreeContext {
  void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
};

absl::Status Failed() { return MachineFailure("ChaCha20", "OpenSSL computes no key stream"); }

}  // namespace

struct SecretStream::State {
  SecretBytes key;
  std::unique_ptr<EVP_CIPHER_CTX, FreeContext> cipher;
  std::array<uint8_t, kStoreBytes> store = {};
  size_t used = kStoreBytes;
  ~State() { WipeMemory(store); }
};

SecretStream::SecretStream(std::unique_ptr<State> state) : state_(std::move(state)) {}
SecretStream::~SecretStream() = default;
SecretStream::SecretStream(SecretStream&&) noexcept = default;
SecretStream& SecretStream::operator=(SecretStream&&) noexcept = default;

absl::StatusOr<SecretStream> SecretStream::FromKey(const SecretBytes& key) {
  if (key.size_bytes() != kKeyBytes) return UsageError("a stream's key has 32 bytes");
  auto state = std::make_unique<State>();
  state->key = SecretBytes(key.Reveal());
  state->cipher.reset(EVP_CIPHER_CTX_new());
  const std::array<uint8_t, 16> counter_and_nonce = {};
  if (state->cipher == nullptr ||
      EVP_EncryptInit_ex(state->cipher.get(), EVP_chacha20(), nullptr, key.Reveal().data(),
                         counter_and_nonce.data()) != 1) {
    return Failed();
  }
  return SecretStream(std::move(state));
}

absl::StatusOr<SecretStream> SecretStream::Random(RandomSource& source) {
  Bytes key(kKeyBytes);
  const absl::Status filled = source.Fill(key);
  const SecretBytes secret(std::move(key));
  PAVISE_RETURN_IF_ERROR(filled);
  return FromKey(secret);
}

absl::StatusOr<SecretStream> SecretStream::Derive(std::string_view label) const {
  PAVISE_ASSIGN_OR_RETURN(crypto::Digester digester,
                          crypto::Digester::Create(crypto::DigestAlgorithm::kSha256));
  PAVISE_RETURN_IF_ERROR(digester.Update(AsBytes(kDerivation)));
  PAVISE_RETURN_IF_ERROR(digester.Update(state_->key.Reveal()));
  PAVISE_RETURN_IF_ERROR(digester.Update(AsBytes(label)));
  PAVISE_ASSIGN_OR_RETURN(Bytes key, digester.Finish());
  return FromKey(SecretBytes(std::move(key)));
}

absl::Status SecretStream::Fill(std::span<uint8_t> out) {
  State& state = *state_;
  while (!out.empty()) {
    if (state.used == kStoreBytes) {
      state.store.fill(0);
      int size_bytes = 0;
      if (EVP_EncryptUpdate(state.cipher.get(), state.store.data(), &size_bytes, state.store.data(),
                            kStoreBytes) != 1 ||
          size_bytes != static_cast<int>(kStoreBytes)) {
        return Failed();
      }
      state.used = 0;
    }
    const size_t count = std::min(out.size(), kStoreBytes - state.used);
    std::memcpy(out.data(), &state.store[state.used], count);
    std::memset(&state.store[state.used], 0, count);
    state.used += count;
    out = out.subspan(count);
  }
  return absl::OkStatus();
}

absl::Status SecretStream::DrawBelow(uint32_t bound, uint32_t& number) {
  // Lemire's multiplication: the high half of number x bound, unless the low half is one of the
  // 2^32 mod bound values that occur once too often.
  const uint32_t biased = -bound % bound;
  uint64_t product = 0;
  do {
    uint32_t drawn = 0;
    PAVISE_RETURN_IF_ERROR(Fill({reinterpret_cast<uint8_t*>(&drawn), sizeof drawn}));
    product = uint64_t{drawn} * bound;
  } while (static_cast<uint32_t>(product) < biased);
  number = static_cast<uint32_t>(product >> 32);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> SecretStream::Below(uint32_t bound, size_t count) {
  if (bound == 0) return UsageError("no number is below 0");
  std::vector<uint32_t> numbers(count);
  for (uint32_t& number : numbers) PAVISE_RETURN_IF_ERROR(DrawBelow(bound, number));
  return numbers;
}

absl::StatusOr<std::vector<uint32_t>> SecretStream::Permutation(size_t size) {
  if (size > UINT32_MAX) return UsageError("a permutation of more than 2^32 - 1 elements");
  std::vector<uint32_t> order(size);
  std::iota(order.begin(), order.end(), 0);
  for (size_t i = size; i > 1; --i) {
    uint32_t other = 0;
    PAVISE_RETURN_IF_ERROR(DrawBelow(static_cast<uint32_t>(i), other));
    std::swap(order[i - 1], order[other]);
  }
  return order;
}

absl::StatusOr<std::vector<float>> SecretStream::Signs(size_t count) {
  Bytes bits((count + 7) / 8);
  PAVISE_RETURN_IF_ERROR(Fill(bits));
  std::vector<float> signs(count);
  for (size_t i = 0; i < count; ++i) signs[i] = (bits[i / 8] >> (i % 8)) & 1 ? -1.0f : 1.0f;
  WipeMemory(bits);
  return signs;
}

absl::StatusOr<std::vector<double>> SecretStream::Gaussians(size_t count) {
  std::vector<double> numbers(count);
  for (size_t i = 0; i < count; i += 2) {
    uint64_t drawn[2];
    PAVISE_RETURN_IF_ERROR(Fill({reinterpret_cast<uint8_t*>(drawn), sizeof drawn}));
    // 53 bits each; the radius' number is in (0, 1].
    const double u = static_cast<double>((drawn[0] >> 11) + 1) * 0x1p-53;
    const double angle = 2 * std::numbers::pi * (static_cast<double>(drawn[1] >> 11) * 0x1p-53);
    const double radius = std::sqrt(-2 * std::log(u));
    numbers[i] = radius * std::cos(angle);
    if (i + 1 < count) numbers[i + 1] = radius * std::sin(angle);
  }
  return numbers;
}

absl::Status SecretStream::FillResidues(int modulus, std::span<int8_t> out) {
  if (modulus < 3 || modulus > 255 || modulus % 2 == 0) {
    return UsageError("residues are modulo an odd number from 3 to 255");
  }
  std::array<uint8_t, 1024> drawn;
  size_t filled = 0;
  while (filled < out.size()) {
    const auto bytes = std::span(drawn).first(std::min(drawn.size(), out.size() - filled));
    PAVISE_RETURN_IF_ERROR(Fill(bytes));
    for (const uint8_t byte : bytes) {
      if (byte < modulus) out[filled++] = static_cast<int8_t>(byte - modulus / 2);
    }
  }
  WipeMemory(drawn);
  return absl::OkStatus();
}

}  // namespace pavise::offload
