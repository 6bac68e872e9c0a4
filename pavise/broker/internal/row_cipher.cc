#include "pavise/broker/internal/row_cipher.h"

#include <algorithm>
#include <span>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/credential_protection.h"
#include "pavise/crypto/key_derivation.h"

namespace pavise::broker::internal {
namespace {

using crypto::Aes256Gcm;

constexpr size_t kKeyBytes = 32;
constexpr std::string_view kMagic = "pavise-store-1\n\n";
constexpr size_t kKeyIdBytes = 16;
constexpr std::string_view kStateItem = "store";
constexpr std::string_view kRestore =
    "somebody wrote to the database; restore a backup, or find out who it was";

void AppendText(std::string_view text, Bytes& out) {
  AppendLittleEndian32(static_cast<uint32_t>(text.size()), out);
  out.insert(out.end(), text.begin(), text.end());
}

// What begins every text that is authenticated or hashed: which kind of text it is, of which table.
Bytes TextOf(char kind, uint8_t table) {
  Bytes text;
  text.reserve(128);
  text.push_back(static_cast<uint8_t>(kind));
  text.push_back(table);
  return text;
}

Bytes RowPlace(Table table, const SealedRow& row) {
  Bytes place = TextOf('r', static_cast<uint8_t>(table));
  place.insert(place.end(), row.id.begin(), row.id.end());
  place.insert(place.end(), row.group.begin(), row.group.end());
  AppendLittleEndian64(row.sequence, place);
  return place;
}

Bytes LedgerPlace(LedgerTable table, uint64_t number) {
  Bytes place = TextOf('l', static_cast<uint8_t>(table));
  AppendLittleEndian64(number, place);
  return place;
}

absl::StatusOr<std::string> TakeText(ByteReader& reader, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, reader.LittleEndian32(field));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan text, reader.Take(size_bytes, field));
  return std::string(AsText(text));
}

// A key and its cipher, which serves one thread at a time.
class LockedCipher {
 public:
  static absl::StatusOr<std::unique_ptr<LockedCipher>> Create(const SecretBytes& key) {
    PAVISE_ASSIGN_OR_RETURN(Aes256Gcm gcm, Aes256Gcm::Create(key));
    return std::unique_ptr<LockedCipher>(new LockedCipher(std::move(gcm)));
  }

  absl::Status Seal(RandomSource& random, ByteSpan place, ByteSpan plain, RowSeal& seal,
                    std::span<uint8_t> encrypted) {
    const std::span<uint8_t, 28> bytes(seal);
    PAVISE_RETURN_IF_ERROR(random.Fill(bytes.first<Aes256Gcm::kNonceBytes>()));
    const absl::MutexLock lock(&mutex_);
    return gcm_.Seal(bytes.first<Aes256Gcm::kNonceBytes>(), place, plain, encrypted,
                     bytes.last<Aes256Gcm::kTagBytes>());
  }

  absl::StatusOr<SecretBytes> Open(ByteSpan place, const RowSeal& seal, ByteSpan encrypted,
                                   std::string_view item) {
    Bytes plain(encrypted.size());
    const std::span<const uint8_t, 28> bytes(seal);
    absl::Status opened;
    {
      const absl::MutexLock lock(&mutex_);
      opened = gcm_.Open(bytes.first<Aes256Gcm::kNonceBytes>(), place, encrypted,
                         bytes.last<Aes256Gcm::kTagBytes>(), plain, item);
    }
    if (ReasonOf(opened) == Reason::kContentMismatch) {
      return Refuse(Reason::kContentMismatch, item,
                    "is not what the broker wrote at this place of its database", kRestore);
    }
    PAVISE_RETURN_IF_ERROR(opened);
    return SecretBytes(std::move(plain));
  }

 private:
  explicit LockedCipher(Aes256Gcm gcm) : gcm_(std::move(gcm)) {}
  absl::Mutex mutex_;
  Aes256Gcm gcm_;
};

// The same for a key of HMAC-SHA-256.
class LockedMac {
 public:
  explicit LockedMac(crypto::HmacKey key) : key_(std::move(key)) {}
  absl::StatusOr<Digest32> Compute(ByteSpan message) {
    Digest32 mac;
    const absl::MutexLock lock(&mutex_);
    PAVISE_RETURN_IF_ERROR(key_.Compute(message, mac));
    return mac;
  }

 private:
  absl::Mutex mutex_;
  crypto::HmacKey key_;
};

}  // namespace

struct RowCipher::Keys {
  std::unique_ptr<LockedCipher> rows, ledger, state;
  std::unique_ptr<LockedMac> names, terms;
  Bytes key_id;
};

StoreState StoreState::Copy() const {
  StoreState copy;
  copy.commits = commits;
  copy.next_sequence = next_sequence;
  copy.rows = rows;
  copy.set_hash = set_hash;
  copy.counter_name = counter_name;
  copy.counter_value = counter_value;
  copy.counter_secret = SecretBytes(counter_secret.Reveal());
  return copy;
}

RowCipher::RowCipher(std::unique_ptr<Keys> keys, RandomSource& random)
    : keys_(std::move(keys)), random_(random) {}
RowCipher::~RowCipher() = default;

absl::StatusOr<std::unique_ptr<RowCipher>> RowCipher::Create(const SecretBytes& root_key,
                                                             RandomSource& random) {
  if (root_key.size_bytes() != kKeyBytes) return UsageError("a root key has 32 bytes");
  const auto derive = [&root_key](std::string_view purpose, size_t size_bytes = kKeyBytes) {
    return crypto::Hkdf(root_key, {}, AsBytes(StrCat("pavise broker store 1 ", purpose)),
                        size_bytes);
  };
  auto keys = std::make_unique<Keys>();
  for (const auto& [purpose, cipher] :
       {std::pair("rows", &keys->rows), {"ledger", &keys->ledger}, {"state", &keys->state}}) {
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, derive(purpose));
    PAVISE_ASSIGN_OR_RETURN(*cipher, LockedCipher::Create(key));
  }
  for (const auto& [purpose, mac] : {std::pair("names", &keys->names), {"terms", &keys->terms}}) {
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, derive(purpose));
    PAVISE_ASSIGN_OR_RETURN(crypto::HmacKey prepared,
                            crypto::HmacKey::Create(crypto::DigestAlgorithm::kSha256, key));
    *mac = std::make_unique<LockedMac>(std::move(prepared));
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes key_id, derive("key id", kKeyIdBytes));
  keys->key_id.assign(key_id.Reveal().begin(), key_id.Reveal().end());
  return std::unique_ptr<RowCipher>(new RowCipher(std::move(keys), random));
}

namespace {
absl::StatusOr<RowHash> NameHash(LockedMac& key, const Bytes& name) {
  PAVISE_ASSIGN_OR_RETURN(const Digest32 mac, key.Compute(name));
  RowHash hash;
  std::copy_n(mac.begin(), hash.size(), hash.begin());
  return hash;
}
}  // namespace

absl::StatusOr<RowHash> RowCipher::GroupHash(Table table, std::string_view group) const {
  Bytes text = TextOf('g', static_cast<uint8_t>(table));
  AppendText(group, text);
  return NameHash(*keys_->names, text);
}

absl::StatusOr<RowHash> RowCipher::IdHash(Table table, std::string_view group,
                                          std::string_view name) const {
  Bytes text = TextOf('n', static_cast<uint8_t>(table));
  AppendText(group, text);
  AppendText(name, text);
  return NameHash(*keys_->names, text);
}

absl::Status RowCipher::Seal(Table table, std::string_view group, std::string_view name,
                             const SecretBytes& value, SealedRow& row) {
  Bytes plain;
  // Once, so that no copy of the value stays behind unwiped.
  plain.reserve(8 + group.size() + name.size() + value.size_bytes());
  AppendText(group, plain);
  AppendText(name, plain);
  plain.insert(plain.end(), value.Reveal().begin(), value.Reveal().end());
  const SecretBytes wiped(std::move(plain));
  row.encrypted.resize(wiped.size_bytes());
  return keys_->rows->Seal(random_, RowPlace(table, row), wiped.Reveal(), row.seal, row.encrypted);
}

absl::StatusOr<OpenedRow> RowCipher::Open(Table table, const SealedRow& row) {
  const std::string item =
      StrCat("row ", row.sequence, " of table ", static_cast<int>(table), " in the store");
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes plain,
                          keys_->rows->Open(RowPlace(table, row), row.seal, row.encrypted, item));
  ByteReader reader(plain.Reveal(), item);
  OpenedRow opened;
  PAVISE_ASSIGN_OR_RETURN(opened.group, TakeText(reader, "group"));
  PAVISE_ASSIGN_OR_RETURN(opened.name, TakeText(reader, "name"));
  opened.value = SecretBytes(plain.Reveal().last(reader.left()));
  return opened;
}

absl::StatusOr<OpenedRow> RowCipher::OpenOfAnyTable(const SealedRow& row, Table& table) {
  absl::Status refused;
  for (int number = static_cast<int>(Table::kMeta); number <= static_cast<int>(kLastTable);
       ++number) {
    table = static_cast<Table>(number);
    absl::StatusOr<OpenedRow> opened = Open(table, row);
    if (opened.ok() || ReasonOf(opened.status()) != Reason::kContentMismatch) return opened;
    refused = opened.status();
  }
  return refused;
}

absl::StatusOr<Digest32> RowCipher::Term(const SealedRow& row) const {
  Bytes text = TextOf('t', 0);
  text.insert(text.end(), row.id.begin(), row.id.end());
  AppendLittleEndian64(row.sequence, text);
  text.insert(text.end(), row.group.begin(), row.group.end());
  text.insert(text.end(), row.seal.begin(), row.seal.end());
  return keys_->terms->Compute(text);
}

absl::StatusOr<Bytes> RowCipher::SealLedger(LedgerTable table, uint64_t number,
                                            const SecretBytes& value) {
  RowSeal seal;
  Bytes sealed(seal.size() + value.size_bytes());
  PAVISE_RETURN_IF_ERROR(keys_->ledger->Seal(random_, LedgerPlace(table, number), value.Reveal(),
                                             seal, std::span(sealed).subspan(seal.size())));
  std::ranges::copy(seal, sealed.begin());
  return sealed;
}

absl::StatusOr<SecretBytes> RowCipher::OpenLedger(LedgerTable table, const LedgerRow& row) {
  const std::string item = StrCat(table == LedgerTable::kEntries ? "ledger entry " : "ledger node ",
                                  row.number, " in the store");
  RowSeal seal;
  if (row.sealed.size() < seal.size()) {
    return Refuse(Reason::kContentMismatch, item, "is too short", kRestore);
  }
  std::copy_n(row.sealed.begin(), seal.size(), seal.begin());
  return keys_->ledger->Open(LedgerPlace(table, row.number), seal,
                             ByteSpan(row.sealed).subspan(seal.size()), item);
}

absl::StatusOr<Bytes> RowCipher::SealState(const StoreState& state) {
  Bytes plain;
  plain.reserve(256 + state.counter_name.size());
  AppendLittleEndian64(state.commits, plain);
  AppendLittleEndian64(state.next_sequence, plain);
  AppendLittleEndian64(state.rows, plain);
  plain.insert(plain.end(), state.set_hash.begin(), state.set_hash.end());
  AppendLittleEndian64(state.counter_value, plain);
  AppendText(state.counter_name, plain);
  AppendText(state.counter_secret.RevealText(), plain);
  const SecretBytes wiped(std::move(plain));
  Bytes sealed(kMagic.begin(), kMagic.end());
  sealed.insert(sealed.end(), keys_->key_id.begin(), keys_->key_id.end());
  const Bytes place = sealed;
  RowSeal seal;
  Bytes encrypted(wiped.size_bytes());
  PAVISE_RETURN_IF_ERROR(keys_->state->Seal(random_, place, wiped.Reveal(), seal, encrypted));
  sealed.insert(sealed.end(), seal.begin(), seal.end());
  sealed.insert(sealed.end(), encrypted.begin(), encrypted.end());
  return sealed;
}

absl::StatusOr<StoreState> RowCipher::OpenState(ByteSpan sealed) {
  ByteReader reader(sealed, kStateItem);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan magic, reader.Take(kMagic.size(), "format"));
  if (AsText(magic) != kMagic) {
    return Refuse(Reason::kUnsupported, kStateItem, "is no store, or one of another version",
                  "use the version of the program that made it");
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan key_id, reader.Take(kKeyIdBytes, "key id"));
  if (!std::ranges::equal(key_id, keys_->key_id)) {
    return Refuse(Reason::kKeyMismatch, kStateItem, "is encrypted under another root key",
                  "give the root key that it was made with or last rotated to");
  }
  RowSeal seal;
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan seal_bytes, reader.Take(seal.size(), "seal"));
  std::ranges::copy(seal_bytes, seal.begin());
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes plain,
                          keys_->state->Open(sealed.first(kMagic.size() + kKeyIdBytes), seal,
                                             sealed.last(reader.left()), kStateItem));
  ByteReader fields(plain.Reveal(), kStateItem);
  StoreState state;
  PAVISE_ASSIGN_OR_RETURN(state.commits, fields.LittleEndian64("commits"));
  PAVISE_ASSIGN_OR_RETURN(state.next_sequence, fields.LittleEndian64("next sequence"));
  PAVISE_ASSIGN_OR_RETURN(state.rows, fields.LittleEndian64("rows"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan set_hash, fields.Take(state.set_hash.size(), "set hash"));
  std::ranges::copy(set_hash, state.set_hash.begin());
  PAVISE_ASSIGN_OR_RETURN(state.counter_value, fields.LittleEndian64("counter value"));
  PAVISE_ASSIGN_OR_RETURN(state.counter_name, TakeText(fields, "counter name"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t secret_bytes, fields.LittleEndian32("counter secret"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan secret, fields.Take(secret_bytes, "counter secret"));
  state.counter_secret = SecretBytes(secret);
  PAVISE_RETURN_IF_ERROR(fields.RequireEnd());
  return state;
}

}  // namespace pavise::broker::internal
