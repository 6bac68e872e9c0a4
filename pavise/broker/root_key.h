#ifndef PAVISE_BROKER_ROOT_KEY_H_
#define PAVISE_BROKER_ROOT_KEY_H_

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/broker/store.h"
#include "pavise/broker/tpm/broker_tpm.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Where the store's root key lives: a file (JSON, docs/formats/broker_store.md), mode 0600, that
// holds the key itself, or the key sealed to a TPM, or only the id of the set of shares that owners
// hold. While a key is rotated it holds both, so that a crash at any point leaves a key that opens
// the store. One process at a time uses a file, as the store it belongs to.
namespace pavise::broker {

constexpr size_t kRootKeyBytes = 32;

struct RootKeyProtection {
  enum class Kind { kPlain, kTpm, kShares } kind = Kind::kPlain;
  // kTpm: which opens and seals, and the PCRs whose present values it is sealed to (may be none).
  BrokerTpm* tpm = nullptr;
  evidence::PcrIndices pcrs;
  // kShares: crypto::SplitSecret's set.
  std::string share_set;
};

absl::StatusOr<SecretBytes> NewRootKey(RandomSource& random = SystemRandom());

// Writes the file of a new store's key; one that is there is refused (usage error).
absl::Status SaveRootKey(const std::string& path, const SecretBytes& key,
                         const RootKeyProtection& protection);

// While a rotation has not ended either may be out of reach (shares of one set only); one is there.
struct RootKeys {
  std::optional<SecretBytes> current;
  std::optional<SecretBytes> next;
};
// `tpm` and `shares` where the file asks for them. kPlatformInsecure: others may read the file;
// kEvidenceMissing: a TPM or shares are needed; as BrokerTpm::Unseal and CombineShares; kMalformed.
// `shares` may be of several sets: those of the file's are taken.
absl::StatusOr<RootKeys> LoadRootKeys(const std::string& path, BrokerTpm* tpm,
                                      std::span<const SecretBytes> shares);

// Store::Open with the keys of the file, and the end of a rotation that a crash cut off.
absl::StatusOr<std::unique_ptr<Store>> OpenStore(const StoreOptions& options,
                                                 const std::string& path, BrokerTpm* tpm,
                                                 std::span<const SecretBytes> shares);

// Rotates the store to `new_key` and keeps it in the file under `protection`, which may be another
// than before: also how a key comes under a TPM's protection, or leaves it.
absl::Status RotateRootKey(Store& store, const std::string& path, const SecretBytes& new_key,
                           const RootKeyProtection& protection);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_ROOT_KEY_H_
