#ifndef PAVISE_BROKER_INTERNAL_ROW_BACKEND_H_
#define PAVISE_BROKER_INTERNAL_ROW_BACKEND_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/broker/store.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What a database does for the store: it keeps rows that are encrypted already, and has no idea of
// what they are.
namespace pavise::broker::internal {

using RowHash = std::array<uint8_t, 16>;
// Nonce and tag of AES-256-GCM.
using RowSeal = std::array<uint8_t, 28>;

struct SealedRow {
  uint64_t sequence = 0;  // primary key
  RowHash id{};           // unique
  RowHash group{};
  RowSeal seal{};
  Bytes encrypted;
};

struct LedgerRow {
  uint64_t number = 0;
  Bytes sealed;
};

// A consistent view, ended when it goes. Not thread-safe.
class RowReader {
 public:
  virtual ~RowReader() = default;
  // Empty: this database holds no store.
  virtual absl::StatusOr<Bytes> State() = 0;
  virtual absl::StatusOr<std::optional<SealedRow>> Find(const RowHash& id) = 0;
  virtual absl::StatusOr<std::vector<SealedRow>> List(const RowHash& group, uint64_t after,
                                                      size_t limit) = 0;
  // Rows of all groups by sequence.
  virtual absl::StatusOr<std::vector<SealedRow>> Scan(uint64_t after, size_t limit) = 0;
  // Calls `take` for each row there is, ascending by sequence, `encrypted` left empty. That a row
  // is found by its id and in its group is checked as well (kContentMismatch), where the database
  // is a file that somebody else may have written.
  virtual absl::Status ScanSeals(const std::function<absl::Status(const SealedRow&)>& take) = 0;
  // Those of `numbers` that are there, in any order.
  virtual absl::StatusOr<std::vector<LedgerRow>> FindLedger(LedgerTable table,
                                                            std::span<const uint64_t> numbers) = 0;
  virtual absl::StatusOr<std::vector<LedgerRow>> ScanLedger(LedgerTable table, uint64_t from,
                                                            size_t limit) = 0;
};

// The one write transaction that there is at a time, among all processes; undone when it goes
// without a Commit.
class RowWriter : public RowReader {
 public:
  virtual absl::Status PutState(ByteSpan state) = 0;
  // By sequence: inserted, or all else replaced.
  virtual absl::Status Put(const SealedRow& row) = 0;
  virtual absl::Status Delete(uint64_t sequence) = 0;
  // With `replace` the row must be there, else it must not.
  virtual absl::Status PutLedger(LedgerTable table, const LedgerRow& row, bool replace) = 0;
  // Returns when all of it is durable. `outcome_known` is cleared where an error leaves it open
  // whether it is.
  virtual absl::Status Commit(bool& outcome_known) = 0;
};

class RowBackend {
 public:
  virtual ~RowBackend() = default;
  // Several at a time, from any thread.
  virtual absl::StatusOr<std::unique_ptr<RowReader>> BeginRead() = 0;
  // From one thread at a time.
  virtual absl::StatusOr<std::unique_ptr<RowWriter>> BeginWrite() = 0;
  // After a rotation: as little as possible is left of what was replaced.
  virtual absl::Status ForgetReplaced() = 0;
};

}  // namespace pavise::broker::internal

#endif  // PAVISE_BROKER_INTERNAL_ROW_BACKEND_H_
