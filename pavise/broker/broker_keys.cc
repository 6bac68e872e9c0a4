#include "pavise/broker/broker_keys.h"

#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::broker {
namespace {

constexpr std::string_view kSigning = "signing";
constexpr std::string_view kEncryption = "encryption";
constexpr std::string_view kLedger = "ledger";
constexpr std::string_view kBroker = "broker";
constexpr std::string_view kName = "name";
constexpr std::string_view kItem = "broker keys";

absl::StatusOr<std::string> MakeKey(StoreTransaction& transaction, std::string_view use,
                                    crypto::KeyType type) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey key, crypto::PrivateKey::Generate(type));
  PAVISE_ASSIGN_OR_RETURN(SecretBytes pem, key.ToPem(SecretBytes()));
  const std::string id = key.public_key().Fingerprint();
  PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kBrokerKeys, use, id, std::move(pem)));
  return id;
}

absl::StatusOr<std::vector<Row>> RowsOf(StoreReader& reader, std::string_view use) {
  PAVISE_ASSIGN_OR_RETURN(std::vector<Row> rows, reader.List(Table::kBrokerKeys, use));
  if (rows.empty()) {
    return Refuse(Reason::kFileMissing, kItem, "this store has no keys of a broker",
                  "pavise broker init makes them");
  }
  return rows;
}

absl::StatusOr<crypto::PrivateKey> ReadKey(const Row& row) {
  return crypto::PrivateKey::FromPemOfAnyType(row.value, SecretBytes(), kItem);
}

absl::StatusOr<crypto::PrivateKey> NewestKey(StoreReader& reader, std::string_view use) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows, RowsOf(reader, use));
  return ReadKey(rows.back());
}

}  // namespace

absl::StatusOr<ledger::NoteKey> BrokerKeys::LedgerNoteKey() const {
  return ledger::NoteKey::Create(name, ledger::NoteKeyKind::kLog, ledger.public_key());
}

absl::Status MakeBrokerKeys(StoreTransaction& transaction, const std::string& name) {
  PAVISE_ASSIGN_OR_RETURN(const auto there, transaction.Get(Table::kMeta, kBroker, kName));
  if (there.has_value()) {
    return Refuse(Reason::kPolicyDenied, kItem, "this store has a broker's keys already",
                  "pavise broker rotate-keys makes new ones");
  }
  PAVISE_RETURN_IF_ERROR(MakeKey(transaction, kSigning, crypto::KeyType::kEcP256).status());
  PAVISE_RETURN_IF_ERROR(MakeKey(transaction, kEncryption, crypto::KeyType::kEcP256).status());
  PAVISE_RETURN_IF_ERROR(MakeKey(transaction, kLedger, crypto::KeyType::kEd25519).status());
  return transaction.Put(Table::kMeta, kBroker, kName, SecretBytes(name));
}

absl::StatusOr<BrokerKeys> ReadBrokerKeys(StoreReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey signing, NewestKey(reader, kSigning));
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey ledger, NewestKey(reader, kLedger));
  PAVISE_ASSIGN_OR_RETURN(const auto name, reader.Get(Table::kMeta, kBroker, kName));
  if (!name.has_value()) return MachineFailure(kItem, "the broker's name is missing");
  BrokerKeys keys{std::string(name->RevealText()), std::move(signing), {}, "", std::move(ledger)};
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows, RowsOf(reader, kEncryption));
  for (const Row& row : rows) {
    PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key, ReadKey(row));
    keys.encryption_id = row.name;
    keys.encryption.emplace(row.name, std::move(key));
  }
  return keys;
}

absl::StatusOr<RotatedKey> RotateBrokerKey(StoreTransaction& transaction, BrokerKeyUse use) {
  const std::string_view group = use == BrokerKeyUse::kSigning ? kSigning : kEncryption;
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows, RowsOf(transaction, group));
  RotatedKey rotated;
  rotated.previous = rows.back().name;
  PAVISE_ASSIGN_OR_RETURN(rotated.current, MakeKey(transaction, group, crypto::KeyType::kEcP256));
  return rotated;
}

}  // namespace pavise::broker
