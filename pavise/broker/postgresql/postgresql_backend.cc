#include "pavise/broker/postgresql/postgresql_backend.h"

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include <pqxx/pqxx>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"

namespace pavise::broker {
namespace {

using internal::LedgerRow;
using internal::RowBackend;
using internal::RowHash;
using internal::RowReader;
using internal::RowWriter;
using internal::SealedRow;

constexpr std::string_view kItem = "PostgreSQL";

// The lock number is nobody's but ours by its value alone.
constexpr const char* kLock = "SELECT pg_advisory_xact_lock(8101838118205300273)";

constexpr const char* kSchema = R"(
  CREATE TABLE IF NOT EXISTS pavise_state (
    one integer PRIMARY KEY CHECK (one = 1), sealed bytea NOT NULL);
  CREATE TABLE IF NOT EXISTS pavise_rows (
    sequence bigint PRIMARY KEY,
    id bytea NOT NULL UNIQUE,
    grouped bytea NOT NULL,
    seal bytea NOT NULL,
    encrypted bytea NOT NULL);
  CREATE UNIQUE INDEX IF NOT EXISTS pavise_rows_of_group ON pavise_rows (grouped, sequence);
  CREATE TABLE IF NOT EXISTS pavise_ledger_1 (number bigint PRIMARY KEY, sealed bytea NOT NULL);
  CREATE TABLE IF NOT EXISTS pavise_ledger_2 (number bigint PRIMARY KEY, sealed bytea NOT NULL);
)";

// A broker that hangs with the lock loses it, and one that waits for it says so.
constexpr const char* kSession = R"(
  SET synchronous_commit = on;
  SET lock_timeout = '20s';
  SET idle_in_transaction_session_timeout = '15s';
  SET client_min_messages = warning;
)";

absl::Status Translate(const std::exception& exception) {
  std::string detail = exception.what();
  while (!detail.empty() && detail.back() == '\n') detail.pop_back();
  if (dynamic_cast<const pqxx::disk_full*>(&exception) != nullptr) {
    return Refuse(Reason::kStorageFull, kItem, detail,
                  "free some space on the database's disk; nothing was lost");
  }
  const auto* sql = dynamic_cast<const pqxx::sql_error*>(&exception);
  // An error without an SQLSTATE is not the server's: it went away. Class 57P is its own shutdown.
  const bool is_gone =
      dynamic_cast<const pqxx::broken_connection*>(&exception) != nullptr ||
      (sql != nullptr && (sql->sqlstate().empty() || sql->sqlstate().compare(0, 3, "57P") == 0));
  if (is_gone || dynamic_cast<const pqxx::transaction_rollback*>(&exception) != nullptr) {
    return absl::UnavailableError(StrCat(kItem, ": ", detail));
  }
  return MachineFailure(kItem, detail);
}

pqxx::binarystring Parameter(ByteSpan bytes) {
  // A null pointer would be sent as NULL.
  static constexpr uint8_t kNothing = 0;
  return pqxx::binarystring(bytes.empty() ? &kNothing : bytes.data(), bytes.size());
}

Bytes Blob(const pqxx::field& field) {
  const pqxx::binarystring blob(field);
  return Bytes(blob.begin(), blob.end());
}

template <size_t kSize>
absl::Status CopyBlob(const pqxx::field& field, std::array<uint8_t, kSize>& out) {
  const pqxx::binarystring blob(field);
  if (blob.size() != kSize) {
    return Refuse(Reason::kContentMismatch, kItem, "a row of the database has not its length",
                  "somebody wrote to the database; restore a backup");
  }
  std::copy(blob.begin(), blob.end(), out.begin());
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SealedRow>> Taken(const pqxx::result& result) {
  std::vector<SealedRow> rows;
  for (const pqxx::row& from : result) {
    SealedRow row;
    row.sequence = from[0].as<uint64_t>();
    PAVISE_RETURN_IF_ERROR(CopyBlob(from[1], row.id));
    PAVISE_RETURN_IF_ERROR(CopyBlob(from[2], row.group));
    PAVISE_RETURN_IF_ERROR(CopyBlob(from[3], row.seal));
    row.encrypted = Blob(from[4]);
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<LedgerRow> TakenLedger(const pqxx::result& result) {
  std::vector<LedgerRow> rows;
  for (const pqxx::row& from : result) rows.push_back({from[0].as<uint64_t>(), Blob(from[1])});
  return rows;
}

std::string OfTable(const char* statement, LedgerTable table) {
  return StrCat(statement, "_", static_cast<int>(table));
}

std::unique_ptr<pqxx::connection> Connect(const std::string& location) {
  auto connection = std::make_unique<pqxx::connection>(location);
  {
    pqxx::nontransaction session(*connection);
    session.exec(kSession);
  }
  connection->prepare("state", "SELECT sealed FROM pavise_state WHERE one = 1");
  connection->prepare("put_state",
                      "INSERT INTO pavise_state (one, sealed) VALUES (1, $1) "
                      "ON CONFLICT (one) DO UPDATE SET sealed = excluded.sealed");
  connection->prepare("find",
                      "SELECT sequence, id, grouped, seal, encrypted FROM pavise_rows "
                      "WHERE id = $1");
  connection->prepare("list",
                      "SELECT sequence, id, grouped, seal, encrypted FROM pavise_rows "
                      "WHERE grouped = $1 AND sequence > $2 ORDER BY sequence LIMIT $3");
  connection->prepare("scan",
                      "SELECT sequence, id, grouped, seal, encrypted FROM pavise_rows "
                      "WHERE sequence > $1 ORDER BY sequence LIMIT $2");
  connection->prepare("scan_seals",
                      "SELECT sequence, id, grouped, seal, ''::bytea FROM pavise_rows "
                      "WHERE sequence > $1 ORDER BY sequence LIMIT $2");
  connection->prepare(
      "put",
      "INSERT INTO pavise_rows (sequence, id, grouped, seal, encrypted) "
      "VALUES ($1, $2, $3, $4, $5) ON CONFLICT (sequence) DO UPDATE SET id = excluded.id, "
      "grouped = excluded.grouped, seal = excluded.seal, encrypted = excluded.encrypted");
  connection->prepare("delete", "DELETE FROM pavise_rows WHERE sequence = $1");
  for (const LedgerTable table : {LedgerTable::kEntries, LedgerTable::kNodes}) {
    const std::string name = OfTable("pavise_ledger", table);
    connection->prepare(
        OfTable("find_ledger", table),
        StrCat("SELECT number, sealed FROM ", name, " WHERE number = ANY ($1::bigint[])"));
    connection->prepare(OfTable("scan_ledger", table),
                        StrCat("SELECT number, sealed FROM ", name,
                               " WHERE number >= $1 ORDER BY number LIMIT $2"));
    connection->prepare(OfTable("insert_ledger", table),
                        StrCat("INSERT INTO ", name, " (sealed, number) VALUES ($1, $2)"));
    connection->prepare(OfTable("update_ledger", table),
                        StrCat("UPDATE ", name, " SET sealed = $1 WHERE number = $2"));
  }
  return connection;
}

// Both kinds of transaction; ends undone unless Commit went before.
class PostgresqlTransaction final : public RowWriter {
 public:
  using Return = std::function<void(std::unique_ptr<pqxx::connection>)>;
  // May throw.
  PostgresqlTransaction(std::unique_ptr<pqxx::connection> connection, bool writes, Return give_back)
      : connection_(std::move(connection)), give_back_(std::move(give_back)) {
    if (writes) {
      // Each statement sees what was committed before it: after the lock, all of it.
      transaction_ =
          std::make_unique<pqxx::transaction<pqxx::isolation_level::read_committed>>(*connection_);
      transaction_->exec(kLock);
    } else {
      transaction_ =
          std::make_unique<pqxx::transaction<pqxx::isolation_level::repeatable_read,
                                             pqxx::readwrite_policy::read_only>>(*connection_);
    }
  }
  ~PostgresqlTransaction() override {
    try {
      transaction_.reset();
      if (usable_) give_back_(std::move(connection_));
    } catch (const std::exception&) {
      // The connection is dropped, and with it whatever was open on it.
    }
  }

  absl::StatusOr<Bytes> State() override {
    return Try<Bytes>([this]() -> absl::StatusOr<Bytes> {
      const pqxx::result result = transaction_->exec_prepared("state");
      if (result.empty()) return Bytes();
      return Blob(result[0][0]);
    });
  }

  absl::StatusOr<std::optional<SealedRow>> Find(const RowHash& id) override {
    PAVISE_ASSIGN_OR_RETURN(std::vector<SealedRow> rows, Query("find", Parameter(id)));
    if (rows.empty()) return std::nullopt;
    return std::move(rows.front());
  }

  absl::StatusOr<std::vector<SealedRow>> List(const RowHash& group, uint64_t after,
                                              size_t limit) override {
    return Query("list", Parameter(group), after, limit);
  }

  absl::StatusOr<std::vector<SealedRow>> Scan(uint64_t after, size_t limit) override {
    return Query("scan", after, limit);
  }

  // Who runs the server can lie in any answer; docs/formats/broker_store.md says what that means.
  absl::Status ScanSeals(const std::function<absl::Status(const SealedRow&)>& take) override {
    constexpr size_t kPart = 4096;
    for (uint64_t after = 0;;) {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<SealedRow> rows, Query("scan_seals", after, kPart));
      for (const SealedRow& row : rows) PAVISE_RETURN_IF_ERROR(take(row));
      if (rows.size() < kPart) return absl::OkStatus();
      after = rows.back().sequence;
    }
  }

  absl::StatusOr<std::vector<LedgerRow>> FindLedger(LedgerTable table,
                                                    std::span<const uint64_t> numbers) override {
    const std::string list = StrCat("{", absl::StrJoin(numbers, ","), "}");
    return Try<std::vector<LedgerRow>>([&]() -> absl::StatusOr<std::vector<LedgerRow>> {
      return TakenLedger(transaction_->exec_prepared(OfTable("find_ledger", table), list));
    });
  }

  absl::StatusOr<std::vector<LedgerRow>> ScanLedger(LedgerTable table, uint64_t from,
                                                    size_t limit) override {
    return Try<std::vector<LedgerRow>>([&]() -> absl::StatusOr<std::vector<LedgerRow>> {
      return TakenLedger(transaction_->exec_prepared(OfTable("scan_ledger", table), from, limit));
    });
  }

  absl::Status PutState(ByteSpan state) override { return Run("put_state", Parameter(state)); }

  absl::Status Put(const SealedRow& row) override {
    return Run("put", row.sequence, Parameter(row.id), Parameter(row.group), Parameter(row.seal),
               Parameter(row.encrypted));
  }

  absl::Status Delete(uint64_t sequence) override { return Run("delete", sequence); }

  absl::Status PutLedger(LedgerTable table, const LedgerRow& row, bool replace) override {
    return Run(OfTable(replace ? "update_ledger" : "insert_ledger", table), Parameter(row.sealed),
               row.number);
  }

  absl::Status Commit(bool& outcome_known) override {
    const absl::Status committed = Try<bool>([this]() -> absl::StatusOr<bool> {
                                     transaction_->commit();
                                     return true;
                                   }).status();
    outcome_known = committed.ok() || ReasonOf(committed).has_value();
    if (!outcome_known && absl::IsUnavailable(committed)) {
      // Not to be tried again: it may have been done.
      return MachineFailure(kItem, StrCat("the connection was lost while a batch was committed: ",
                                          FromAbsl(committed.message())));
    }
    return committed;
  }

 private:
  template <typename T>
  absl::StatusOr<T> Try(const std::function<absl::StatusOr<T>()>& what) {
    try {
      return what();
    } catch (const std::exception& exception) {
      usable_ = false;
      return Translate(exception);
    }
  }

  template <typename... Parameters>
  absl::StatusOr<std::vector<SealedRow>> Query(const char* statement,
                                               const Parameters&... parameters) {
    return Try<std::vector<SealedRow>>([&]() -> absl::StatusOr<std::vector<SealedRow>> {
      return Taken(transaction_->exec_prepared(statement, parameters...));
    });
  }

  template <typename... Parameters>
  absl::Status Run(const std::string& statement, const Parameters&... parameters) {
    return Try<bool>([&]() -> absl::StatusOr<bool> {
             transaction_->exec_prepared(statement, parameters...);
             return true;
           })
        .status();
  }

  std::unique_ptr<pqxx::connection> connection_;
  std::unique_ptr<pqxx::transaction_base> transaction_;
  Return give_back_;
  bool usable_ = true;
};

class PostgresqlBackend final : public RowBackend {
 public:
  explicit PostgresqlBackend(std::string location) : location_(std::move(location)) {}

  absl::Status Prepare() {
    try {
      pqxx::connection connection(location_);
      pqxx::work work(connection);
      if (work.exec("SHOW fsync")[0][0].as<std::string>() != "on") {
        return Refuse(Reason::kUnsupported, kItem, "the server does not flush what it commits",
                      "set fsync = on in its configuration");
      }
      work.exec("SET LOCAL client_min_messages = warning");
      work.exec(kLock);
      work.exec(kSchema);
      work.commit();
    } catch (const std::exception& exception) {
      return MachineFailure(kItem, Translate(exception).message().data());
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<RowReader>> BeginRead() override {
    return Begin(/*writes=*/false);
  }
  absl::StatusOr<std::unique_ptr<RowWriter>> BeginWrite() override {
    return Begin(/*writes=*/true);
  }

  // Dead rows go when the server vacuums.
  absl::Status ForgetReplaced() override { return absl::OkStatus(); }

 private:
  absl::StatusOr<std::unique_ptr<PostgresqlTransaction>> Begin(bool writes) {
    for (bool fresh = false;; fresh = true) {
      std::unique_ptr<pqxx::connection> connection;
      if (fresh) {
        // The server went away, and with it all that is idle.
        const absl::MutexLock lock(&mutex_);
        idle_.clear();
      } else {
        const absl::MutexLock lock(&mutex_);
        if (!idle_.empty()) {
          connection = std::move(idle_.back());
          idle_.pop_back();
        }
      }
      const bool pooled = connection != nullptr;
      try {
        if (!pooled) connection = Connect(location_);
        return std::make_unique<PostgresqlTransaction>(
            std::move(connection), writes, [this](std::unique_ptr<pqxx::connection> used) {
              const absl::MutexLock lock(&mutex_);
              idle_.push_back(std::move(used));
            });
      } catch (const std::exception& exception) {
        // One that lay idle may be broken in many ways; a fresh one tells what is wrong.
        if (!pooled) return Translate(exception);
      }
    }
  }

  const std::string location_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<pqxx::connection>> idle_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowBackend>> OpenPostgresql(const std::string& connection) {
  auto backend = std::make_unique<PostgresqlBackend>(connection);
  PAVISE_RETURN_IF_ERROR(backend->Prepare());
  return backend;
}

}  // namespace pavise::broker
