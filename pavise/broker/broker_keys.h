#ifndef PAVISE_BROKER_BROKER_KEYS_H_
#define PAVISE_BROKER_BROKER_KEYS_H_

#include <map>
#include <string>

#include "pavise/broker/store.h"
#include "pavise/crypto/keys.h"
#include "pavise/ledger/checkpoint.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::broker {

// The broker's own keys, rows of Table::kBrokerKeys: the group says what for, the name is the key
// id, the newest row of a group is in use.
struct BrokerKeys {
  std::string name;                                      // of the broker: the ledger's origin
  crypto::PrivateKey signing;                            // P-256: tokens
  std::map<std::string, crypto::PrivateKey> encryption;  // P-256, by key id; retired ones too
  std::string encryption_id;                             // the one in use
  crypto::PrivateKey ledger;                             // Ed25519: checkpoints

  const crypto::PrivateKey& current_encryption() const { return encryption.at(encryption_id); }
  absl::StatusOr<ledger::NoteKey> LedgerNoteKey() const;
};

// Makes all keys in a store that has none. kPolicyDenied: it has. `name`: as ledger::NoteKey takes
// it.
absl::Status MakeBrokerKeys(StoreTransaction& transaction, const std::string& name);
// kFileMissing: MakeBrokerKeys was never called on this store.
absl::StatusOr<BrokerKeys> ReadBrokerKeys(StoreReader& reader);

enum class BrokerKeyUse { kSigning, kEncryption };
struct RotatedKey {
  std::string previous;  // key ids
  std::string current;
};
// A new key for that use. Old encryption keys stay: deposits to them were made before.
absl::StatusOr<RotatedKey> RotateBrokerKey(StoreTransaction& transaction, BrokerKeyUse use);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_BROKER_KEYS_H_
