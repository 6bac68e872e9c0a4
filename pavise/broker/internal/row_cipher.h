#ifndef PAVISE_BROKER_INTERNAL_ROW_CIPHER_H_
#define PAVISE_BROKER_INTERNAL_ROW_CIPHER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/broker/internal/row_backend.h"
#include "pavise/broker/store.h"
#include "pavise/crypto/aead.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"

namespace pavise::broker::internal {

constexpr Table kLastTable = Table::kRequests;

// What the store says of itself, in its one state row.
struct StoreState {
  uint64_t commits = 0;
  uint64_t next_sequence = 1;
  uint64_t rows = 0;
  // The exclusive or of RowCipher::Term over all rows: a set hash (MSet-XOR-Hash of Clarke et al.,
  // ASIACRYPT 2003) whose terms and sums nobody without the root key ever sees.
  Digest32 set_hash{};
  // The counter, its value after this commit, and the secret it is used under; "" where there is
  // none.
  std::string counter_name;
  uint64_t counter_value = 0;
  SecretBytes counter_secret;

  StoreState Copy() const;
};

struct OpenedRow {
  std::string group;
  std::string name;
  SecretBytes value;
};

// Rows to sealed rows and back, under keys derived from one root key
// (docs/formats/broker_store.md). Thread-safe.
class RowCipher {
 public:
  ~RowCipher();
  // A usage error: a root key that has not 32 bytes.
  static absl::StatusOr<std::unique_ptr<RowCipher>> Create(const SecretBytes& root_key,
                                                           RandomSource& random);

  absl::StatusOr<RowHash> GroupHash(Table table, std::string_view group) const;
  absl::StatusOr<RowHash> IdHash(Table table, std::string_view group, std::string_view name) const;

  // Fills `seal` and `encrypted` of a row whose other members are set.
  absl::Status Seal(Table table, std::string_view group, std::string_view name,
                    const SecretBytes& value, SealedRow& row);
  // kContentMismatch: not what was sealed at this place.
  absl::StatusOr<OpenedRow> Open(Table table, const SealedRow& row);
  // The same for a row of an unknown table: rotation.
  absl::StatusOr<OpenedRow> OpenOfAnyTable(const SealedRow& row, Table& table);
  absl::StatusOr<Digest32> Term(const SealedRow& row) const;

  absl::StatusOr<Bytes> SealLedger(LedgerTable table, uint64_t number, const SecretBytes& value);
  absl::StatusOr<SecretBytes> OpenLedger(LedgerTable table, const LedgerRow& row);

  absl::StatusOr<Bytes> SealState(const StoreState& state);
  // kKeyMismatch, kContentMismatch, kUnsupported.
  absl::StatusOr<StoreState> OpenState(ByteSpan sealed);

 private:
  struct Keys;
  RowCipher(std::unique_ptr<Keys> keys, RandomSource& random);
  std::unique_ptr<Keys> keys_;
  RandomSource& random_;
};

}  // namespace pavise::broker::internal

#endif  // PAVISE_BROKER_INTERNAL_ROW_CIPHER_H_
