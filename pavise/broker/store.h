#ifndef PAVISE_BROKER_STORE_H_
#define PAVISE_BROKER_STORE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/random.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/ledger/checkpoint.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::broker {

// What a broker keeps (docs/formats/broker_store.md). Numbers are part of the format.
enum class Table : uint8_t {
  kMeta = 1,         // what the service keeps once: ledger size and root, configuration
  kBrokerKeys = 2,   // private keys, retired ones too
  kAttachments = 3,  // by SHA-256
  kAgreements = 4,   // envelopes, a version each
  kApprovals = 5,    // envelopes
  kDeposits = 6,     // asset keys
  kRuns = 7,         // begun runs, their sessions and counters
  kOutputs = 8,      // of runs, with their approvals
  kDecisions = 9,    // with all rules and reasons
  kRequests = 10,    // identifiers of owners' requests, against replay
};

// Rows under consecutive numbers: the ledger's. Each is written with its number as place, which the
// database sees; append only.
enum class LedgerTable : uint8_t {
  kEntries = 1,  // canonical JSON, by index
  kNodes = 2,    // hashes, by a number that the ledger's storage makes of level and index
};

// The name of a row is `group` and `name` together: `group` is what rows are listed by (an
// agreement's id), `name` is unique in it. Both are at most 1 KiB and may be empty.
struct Row {
  std::string group;
  std::string name;
  uint64_t sequence = 0;  // increases with each new row of the store; an update keeps it
  SecretBytes value;
};

constexpr size_t kMaxRowBytes = 64 << 20;
constexpr size_t kMaxRowNameBytes = 1024;

// One consistent view of what is committed. kContentMismatch: a row was changed, or moved from
// another place. Used in the closure that got it, on its thread, and nowhere else.
class StoreReader {
 public:
  virtual ~StoreReader() = default;

  // nullopt: there is no such row.
  virtual absl::StatusOr<std::optional<SecretBytes>> Get(Table table, std::string_view group,
                                                         std::string_view name) = 0;
  // The group's rows with a sequence above `after`, ascending, at most `limit`.
  virtual absl::StatusOr<std::vector<Row>> List(Table table, std::string_view group,
                                                uint64_t after = 0, size_t limit = 1000) = 0;
  // In the order of `numbers`, in one round trip.
  virtual absl::StatusOr<std::vector<std::optional<SecretBytes>>> GetLedger(
      LedgerTable table, std::span<const uint64_t> numbers) = 0;
};

// A view that sees its own writes, and those of the transactions that went before it.
class StoreTransaction : public StoreReader {
 public:
  // Writes or replaces. kLimitExceeded.
  virtual absl::Status Put(Table table, std::string_view group, std::string_view name,
                           SecretBytes value) = 0;
  // Deleting what is not there is no error.
  virtual absl::Status Delete(Table table, std::string_view group, std::string_view name) = 0;
  // `number` below 2^63. One that is there already fails the whole batch (machine failure).
  virtual absl::Status PutLedger(LedgerTable table, uint64_t number, SecretBytes value) = 0;
};

// How an old copy of the database, put back in place, would be noticed.
enum class RollbackDetection {
  kNone,         // not at all
  kCounter,      // by a monotonic counter
  kCheckpoints,  // back to before the newest checkpoint that was countersigned and given
};

// A counter that never goes back: tpm/nv_counter.h. Calls come from one thread at a time.
class MonotonicCounter {
 public:
  virtual ~MonotonicCounter() = default;
  // Makes a counter that can be read and advanced under `secret` (32 bytes) only. Returns its name.
  virtual absl::StatusOr<std::string> Create(const SecretBytes& secret) = 0;
  virtual absl::StatusOr<uint64_t> Read(const std::string& name, const SecretBytes& secret) = 0;
  // By one. Returns when the new value is durable.
  virtual absl::StatusOr<uint64_t> Advance(const std::string& name, const SecretBytes& secret) = 0;
};

// Steps of a group commit, in their order: the batch is written; it is durable under its number,
// the intent; the counter was advanced; readers and callers learn of it.
enum class CommitStep { kBegun, kWritten, kDurable, kCounted, kVisible };

struct StoreOptions {
  // kSqlite: the database file, made with mode 0600 when absent; its folder must exist.
  // kPostgresql: a connection string of libpq.
  enum class Kind { kSqlite, kPostgresql } kind = Kind::kSqlite;
  std::string location;
  // Makes a new store, where there must be none; without it there must be one. Brokers side by
  // side: the first one makes it.
  bool create = false;
  // Given when the store is made, and demanded ever after. SQLite only: brokers side by side share
  // no TPM. Outlives the store.
  MonotonicCounter* counter = nullptr;
  // Takes an image that the counter would refuse, or whose counter is lost or was none, and binds
  // it to `counter` (or to none). A drill for owners (docs/formats/broker_store.md): what was
  // committed after this image was made is gone.
  bool accept_image = false;
  // What owners or a witness countersigned: the ledger must go on from each.
  std::vector<ledger::VerifiedCheckpoint> checkpoints;
  RandomSource* random = nullptr;  // nullptr: SystemRandom()
  // Called as each step is reached, on the thread that commits: for tests that end the process
  // there.
  std::function<void(CommitStep)> on_step;
};

struct StoreStatus {
  RollbackDetection rollback = RollbackDetection::kNone;
  uint64_t commits = 0;  // the number of the last group commit
  uint64_t rows = 0;     // without the ledger's
};

// The broker's store: SQLite (embedded; one process) or PostgreSQL (several brokers side by side).
// Everything in it is encrypted and bound to its place under keys derived from the root key; all
// rows but the ledger's are bound together, so that none can be put back or taken away
// unnoticed. Thread-safe.
//
// Failures: kStorageFull (nothing of the batch was kept; the store goes on), machine failures.
// After a failure that leaves it unknown whether a batch is durable, SQLite's store refuses all
// further work until it is opened again; PostgreSQL's connects again by itself.
class Store {
 public:
  // kKeyMismatch: another root key; kContentMismatch: changed, rows swapped, put back or taken
  // away; kVersionTooOld: an old image, or a counter that is not this store's, or a ledger that
  // ends before a countersigned checkpoint; kEvidenceMissing: the store demands a counter and none
  // was given; kUnsupported: a newer format. kTransparencyInvalid: the ledger is not the one of a
  // countersigned checkpoint; kFileMissing: there is no store. `root_key`: 32 bytes.
  static absl::StatusOr<std::unique_ptr<Store>> Open(const StoreOptions& options,
                                                     const SecretBytes& root_key);
  virtual ~Store() = default;

  // Runs `work` in a transaction and returns when it is durable (and, with a counter, protected
  // against rollback). Transactions that wait at the same time share one commit, in the order in
  // which they came; none sees another's half. An error from `work` undoes its writes alone and is
  // returned. `work` runs on this thread or another, may run again (PostgreSQL) and so sets all its
  // outputs anew each time; it must neither wait nor call the store. Whatever leaves the broker
  // because of it leaves after the OK.
  virtual absl::Status Commit(const std::function<absl::Status(StoreTransaction&)>& work) = 0;

  // Runs `work` on the calling thread against one consistent view of what is durable.
  virtual absl::Status Read(const std::function<absl::Status(StoreReader&)>& work) = 0;

  // Encrypts everything anew under `new_root_key`, in one transaction: after a crash one of the two
  // keys opens the store (root_key.h keeps both until then). PostgreSQL: other brokers stop
  // working (kKeyMismatch) until they are opened with the new key.
  virtual absl::Status RotateRootKey(const SecretBytes& new_root_key) = 0;

  // Reads all rows' seals again and compares them with what was committed; Open does so too.
  virtual absl::Status CheckRows() = 0;

  virtual absl::StatusOr<StoreStatus> GetStatus() = 0;
};

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_STORE_H_
