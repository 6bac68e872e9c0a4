#ifndef PAVISE_BROKER_STORE_LEDGER_H_
#define PAVISE_BROKER_STORE_LEDGER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/broker/store.h"
#include "pavise/ledger/checkpoint.h"
#include "pavise/ledger/merkle_tree.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The ledger in a broker's store: entries and nodes in their tables, size and root in a row of
// kMeta, all written by the transaction that the entries are about.
namespace pavise::broker {

struct LedgerState {
  uint64_t size = 0;
  Digest32 root{};  // of the empty tree where size is 0
};

// Nodes as the ledger's functions read them; borrows the reader.
class StoreNodes final : public ledger::NodeReader {
 public:
  explicit StoreNodes(StoreReader& reader) : reader_(reader) {}
  absl::StatusOr<std::vector<Digest32>> ReadNodes(
      std::span<const uint64_t> positions) const override;

 private:
  StoreReader& reader_;
};

absl::StatusOr<LedgerState> ReadLedgerState(StoreReader& reader);
// Appends entries (ledger::FormatEntry's texts) in their order and returns the state with them.
absl::StatusOr<LedgerState> AppendToLedger(StoreTransaction& transaction,
                                           std::span<const std::string> entries);
// The texts of these entries. kContentMismatch: one is missing.
absl::StatusOr<std::vector<std::string>> ReadLedgerEntries(StoreReader& reader,
                                                           std::span<const uint64_t> indices);
// That the nodes give the root that was committed, and that the ledger goes on from each checkpoint
// (whose origin is the caller's to have checked). kContentMismatch; kVersionTooOld: it ends before
// one of them; kTransparencyInvalid: it took another course. Store::Open does so.
absl::Status CheckLedger(StoreReader& reader,
                         std::span<const ledger::VerifiedCheckpoint> checkpoints);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_STORE_LEDGER_H_
