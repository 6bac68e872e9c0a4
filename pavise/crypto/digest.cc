#include "pavise/crypto/digest.h"

#include <openssl/crypto.h>
#include <openssl/provider.h>

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/internal/openssl.h"

namespace pavise::crypto {
namespace {

const char* ProviderName(DigestAlgorithm algorithm) {
  switch (algorithm) {
    case DigestAlgorithm::kSha1:
      return "SHA1";
    case DigestAlgorithm::kSha256:
      return "SHA2-256";
    case DigestAlgorithm::kSha384:
      return "SHA2-384";
    case DigestAlgorithm::kSha512:
      return "SHA2-512";
    case DigestAlgorithm::kBlake2b512:
      return "BLAKE2B-512";
  }
  return "";
}

}  // namespace

std::string_view DigestName(DigestAlgorithm algorithm) {
  switch (algorithm) {
    case DigestAlgorithm::kSha1:
      return "sha1";
    case DigestAlgorithm::kSha256:
      return "sha256";
    case DigestAlgorithm::kSha384:
      return "sha384";
    case DigestAlgorithm::kSha512:
      return "sha512";
    case DigestAlgorithm::kBlake2b512:
      return "blake2b";
  }
  return "unknown";
}

size_t DigestSizeBytes(DigestAlgorithm algorithm) {
  switch (algorithm) {
    case DigestAlgorithm::kSha1:
      return 20;
    case DigestAlgorithm::kSha256:
      return 32;
    case DigestAlgorithm::kSha384:
      return 48;
    case DigestAlgorithm::kSha512:
    case DigestAlgorithm::kBlake2b512:
      return 64;
  }
  return 0;
}

struct Digester::State {
  DigestAlgorithm algorithm;
  internal::OwnedDigest digest;
  internal::OwnedDigestContext context;
};

Digester::Digester(std::unique_ptr<State> state) : state_(std::move(state)) {}
Digester::~Digester() = default;
Digester::Digester(Digester&&) noexcept = default;
Digester& Digester::operator=(Digester&&) noexcept = default;

absl::StatusOr<Digester> Digester::Create(DigestAlgorithm algorithm) {
  internal::ErrorQueueScope errors;
  auto state = std::make_unique<State>();
  state->algorithm = algorithm;
  state->digest.reset(EVP_MD_fetch(nullptr, ProviderName(algorithm), nullptr));
  if (state->digest == nullptr) {
    return MachineFailure(DigestName(algorithm),
                          StrCat("no loaded OpenSSL provider offers this digest: ",
                                 internal::TakeErrors("not found")));
  }
  if (static_cast<size_t>(EVP_MD_get_size(state->digest.get())) != DigestSizeBytes(algorithm)) {
    return MachineFailure(DigestName(algorithm), "the provider's digest has another size");
  }
  state->context.reset(EVP_MD_CTX_new());
  if (state->context == nullptr ||
      EVP_DigestInit_ex2(state->context.get(), state->digest.get(), nullptr) != 1) {
    return MachineFailure(DigestName(algorithm), internal::TakeErrors("cannot start the digest"));
  }
  return Digester(std::move(state));
}

// Neither looks at the error queue before something fails (ErrorQueueScope): with messages of a
// hundred bytes, of which logs have thousands, that took longer than hashing them.

absl::Status Digester::Update(ByteSpan bytes) {
  if (bytes.empty()) return absl::OkStatus();
  if (EVP_DigestUpdate(state_->context.get(), bytes.data(), bytes.size()) != 1) {
    return MachineFailure(DigestName(state_->algorithm), internal::TakeErrors("update failed"));
  }
  return absl::OkStatus();
}

absl::Status Digester::FinishInto(std::span<uint8_t> digest) {
  if (digest.size() != DigestSizeBytes(state_->algorithm)) {
    return UsageError(
        StrCat("a ", DigestName(state_->algorithm), " digest is not of ", digest.size(), " bytes"));
  }
  unsigned int written_bytes = 0;
  if (EVP_DigestFinal_ex(state_->context.get(), digest.data(), &written_bytes) != 1 ||
      written_bytes != digest.size() ||
      EVP_DigestInit_ex2(state_->context.get(), state_->digest.get(), nullptr) != 1) {
    return MachineFailure(DigestName(state_->algorithm), internal::TakeErrors("finish failed"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Bytes> Digester::Finish() {
  Bytes result(DigestSizeBytes(state_->algorithm));
  PAVISE_RETURN_IF_ERROR(FinishInto(result));
  return result;
}

absl::StatusOr<Bytes> Digest(DigestAlgorithm algorithm, ByteSpan bytes) {
  PAVISE_ASSIGN_OR_RETURN(Digester digester, Digester::Create(algorithm));
  PAVISE_RETURN_IF_ERROR(digester.Update(bytes));
  return digester.Finish();
}

absl::StatusOr<Digest32> Sha256(ByteSpan bytes) {
  PAVISE_ASSIGN_OR_RETURN(Bytes digest, Digest(DigestAlgorithm::kSha256, bytes));
  Digest32 result{};
  std::copy(digest.begin(), digest.end(), result.begin());
  return result;
}

std::string FipsProviderDescription() {
  internal::ErrorQueueScope errors;
  const std::string version = StrCat("OpenSSL ", OpenSSL_version(OPENSSL_VERSION_STRING));
  // Loaded is not enough: what counts is which provider an ordinary fetch is served from.
  internal::OwnedDigest digest(EVP_MD_fetch(nullptr, "SHA2-256", nullptr));
  if (digest != nullptr) {
    const OSSL_PROVIDER* provider = EVP_MD_get0_provider(digest.get());
    const char* name = provider == nullptr ? nullptr : OSSL_PROVIDER_get0_name(provider);
    if (name != nullptr && std::string_view(name) == "fips" &&
        OSSL_PROVIDER_available(nullptr, "fips") == 1) {
      return StrCat(version, " FIPS provider (validated module)");
    }
  }
  return StrCat(version,
                " default provider (FIPS 180-4 / 186-5 algorithms, not a validated module)");
}

}  // namespace pavise::crypto
