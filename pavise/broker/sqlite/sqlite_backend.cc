#include "pavise/broker/sqlite/sqlite_backend.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/synchronization/mutex.h"

namespace pavise::broker {
namespace {

using internal::LedgerRow;
using internal::RowBackend;
using internal::RowHash;
using internal::RowReader;
using internal::RowWriter;
using internal::SealedRow;

constexpr int kBusyTimeoutMs = 5000;

// Numbers below 2^61 - 1, a prime.
constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;
uint64_t MultiplyModulo(uint64_t a, uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  const Wide product = static_cast<Wide>(a) * b;
  const uint64_t sum =
      static_cast<uint64_t>(product & kPrime) + static_cast<uint64_t>(product >> 61);
  return sum >= kPrime ? sum - kPrime : sum;
}

// What a fingerprint is made under: drawn anew each time, so that nobody could write a database for
// it.
struct FingerprintKey {
  static constexpr size_t kLimbs = 6;  // of 32 bits: a hash and a number
  std::array<std::array<uint64_t, kLimbs + 1>, 2> factors;

  static absl::StatusOr<FingerprintKey> New() {
    std::array<uint8_t, sizeof factors> random;
    PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(random));
    FingerprintKey key;
    size_t at = 0;
    for (auto& each : key.factors) {
      for (uint64_t& factor : each) {
        factor = LoadLittleEndian64(random, at) % kPrime;
        at += sizeof factor;
      }
    }
    return key;
  }
};

// A set of entries (hash, number), whatever the order: the product of (z - h(entry)) modulo kPrime,
// where h is linear in the entry's limbs; twice, under independent factors. For two sets that
// differ in n entries each they agree with a probability of at most ((n^2 + n) / kPrime)^2: of
// linear functions that agree in one of n^2 pairs, and of polynomials of degree n that agree at z.
class SetFingerprint {
 public:
  explicit SetFingerprint(const FingerprintKey& key) : key_(key) {}
  void Add(const RowHash& hash, uint64_t number) {
    std::array<uint32_t, FingerprintKey::kLimbs> limbs;
    std::memcpy(limbs.data(), hash.data(), sizeof hash);
    limbs[4] = static_cast<uint32_t>(number);
    limbs[5] = static_cast<uint32_t>(number >> 32);
    for (size_t i = 0; i < products_.size(); ++i) {
      const auto& factors = key_.factors[i];
      uint64_t difference = factors.back();  // z - h, the sign of h being in its factors
      for (size_t j = 0; j < limbs.size(); ++j) {
        difference += MultiplyModulo(factors[j], limbs[j]);
        if (difference >= kPrime) difference -= kPrime;
      }
      products_[i] = MultiplyModulo(products_[i], difference);
    }
  }
  bool operator==(const SetFingerprint& other) const { return products_ == other.products_; }

 private:
  const FingerprintKey& key_;
  std::array<uint64_t, 2> products_ = {1, 1};
};

// PRAGMA user_version. 0: nothing yet, or the first layout, whose rows had their contents in the
// same table, so that a start read all of them.
constexpr uint64_t kLayout = 2;

// As SQLite keeps the texts: they are compared.
constexpr std::string_view kSchema[] = {
    "CREATE TABLE contents (sequence INTEGER PRIMARY KEY, encrypted BLOB NOT NULL)",
    "CREATE TABLE ledger_1 (number INTEGER PRIMARY KEY, sealed BLOB NOT NULL)",
    "CREATE TABLE ledger_2 (number INTEGER PRIMARY KEY, sealed BLOB NOT NULL)",
    "CREATE TABLE seals (sequence INTEGER PRIMARY KEY, id BLOB NOT NULL, grouped BLOB NOT NULL, "
    "seal BLOB NOT NULL)",
    "CREATE UNIQUE INDEX seals_by_group ON seals (grouped, sequence)",
    "CREATE UNIQUE INDEX seals_by_id ON seals (id)",
    "CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), sealed BLOB NOT NULL)",
};
constexpr std::string_view kFirstLayoutRows =
    "INSERT INTO seals SELECT sequence, id, grouped, seal FROM rows;"
    "INSERT INTO contents SELECT sequence, encrypted FROM rows;"
    "DROP TABLE rows;";

absl::Status Failure(sqlite3* database, int code, std::string_view path) {
  const std::string detail = StrCat(
      "SQLite: ",
      std::string_view(database != nullptr ? sqlite3_errmsg(database) : sqlite3_errstr(code)));
  const int error_number = database != nullptr ? sqlite3_system_errno(database) : 0;
  switch (code & 0xff) {
    case SQLITE_FULL:
      return Refuse(Reason::kStorageFull, path, detail,
                    "free some space on the broker's disk; nothing was lost");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Refuse(Reason::kContentMismatch, path, detail,
                    "the file is damaged or no database; restore a backup");
    case SQLITE_IOERR:
      if (error_number == ENOSPC || error_number == EDQUOT) {
        return FromErrno(error_number, detail, path);
      }
      break;
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
      return Refuse(Reason::kFileUnreadable, path, detail,
                    "check the path, and that the broker may write to its folder");
    default:
      break;
  }
  return MachineFailure(path, detail);
}

// SQLite does so for the files that it makes.
absl::Status FlushFolderOf(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path();
  const FileDescriptor opened(
      open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!opened.is_open() || fsync(opened.get()) != 0) return FromErrno(errno, "flush", folder);
  return absl::OkStatus();
}

// A connection with the statements that were prepared on it. Not thread-safe.
class Connection {
 public:
  static absl::StatusOr<std::unique_ptr<Connection>> Open(const std::string& path) {
    std::unique_ptr<Connection> connection(new Connection(path));
    const int code = sqlite3_open_v2(
        path.c_str(), &connection->database_,
        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_EXRESCODE,
        nullptr);
    if (code != SQLITE_OK) return Failure(connection->database_, code, path);
    sqlite3_busy_timeout(connection->database_, kBusyTimeoutMs);
    // What a hostile schema could do with functions and views is switched off.
    sqlite3_db_config(connection->database_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
    sqlite3_db_config(connection->database_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
    sqlite3_db_config(connection->database_, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, nullptr);
    sqlite3_db_config(connection->database_, SQLITE_DBCONFIG_ENABLE_VIEW, 0, nullptr);
    PAVISE_RETURN_IF_ERROR(
        connection->Execute("PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; "
                            "PRAGMA secure_delete=ON; PRAGMA cell_size_check=ON"));
    return connection;
  }
  ~Connection() {
    for (auto& [text, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(database_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::string& path() const { return path_; }
  bool in_transaction() const { return sqlite3_get_autocommit(database_) == 0; }

  absl::Status Execute(const char* text) {
    const int code = sqlite3_exec(database_, text, nullptr, nullptr, nullptr);
    return code == SQLITE_OK ? absl::OkStatus() : Failure(database_, code, path_);
  }

  // A prepared statement in use: parameters are bound in their order, columns read in theirs.
  class Query {
   public:
    Query(Connection& connection, sqlite3_stmt* statement)
        : connection_(connection), statement_(statement) {}
    ~Query() {
      sqlite3_reset(statement_);
      sqlite3_clear_bindings(statement_);
    }
    Query(const Query&) = delete;
    Query& operator=(const Query&) = delete;

    Query& Bind(uint64_t number) {
      constexpr uint64_t kMost = std::numeric_limits<int64_t>::max();
      sqlite3_bind_int64(statement_, ++bound_, static_cast<sqlite3_int64>(std::min(number, kMost)));
      return *this;
    }
    // The bytes must outlive the query.
    Query& Bind(ByteSpan bytes) {
      // A null pointer would be bound as NULL.
      static constexpr uint8_t kNothing = 0;
      sqlite3_bind_blob64(statement_, ++bound_, bytes.empty() ? &kNothing : bytes.data(),
                          bytes.size(), SQLITE_STATIC);
      return *this;
    }
    absl::StatusOr<bool> Next() {
      const int code = sqlite3_step(statement_);
      if (code == SQLITE_ROW) return true;
      if (code == SQLITE_DONE) return false;
      return Failure(connection_.database_, code, connection_.path_);
    }
    absl::Status Run() { return Next().status(); }
    uint64_t Number(int column) const {
      return static_cast<uint64_t>(sqlite3_column_int64(statement_, column));
    }
    bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
    ByteSpan Blob(int column) const {
      const void* data = sqlite3_column_blob(statement_, column);
      return {static_cast<const uint8_t*>(data),
              static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
    }

   private:
    Connection& connection_;
    sqlite3_stmt* statement_;
    int bound_ = 0;
  };

  // `text` is a literal: it names the prepared statement.
  absl::StatusOr<std::unique_ptr<Query>> Prepare(const char* text) {
    sqlite3_stmt*& statement = statements_[text];
    if (statement == nullptr) {
      const int code =
          sqlite3_prepare_v3(database_, text, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
      if (code != SQLITE_OK) return Failure(database_, code, path_);
    }
    return std::make_unique<Query>(*this, statement);
  }

  // One step of a literal, prepared.
  absl::Status Run(const char* text) {
    PAVISE_ASSIGN_OR_RETURN(const auto query, Prepare(text));
    return query->Run();
  }

 private:
  explicit Connection(std::string path) : path_(std::move(path)) {}
  std::string path_;
  sqlite3* database_ = nullptr;
  std::map<const char*, sqlite3_stmt*> statements_;
};

using Query = Connection::Query;

template <size_t kSize>
absl::Status CopyBlob(const Query& query, int column, std::array<uint8_t, kSize>& out,
                      const std::string& path) {
  const ByteSpan blob = query.Blob(column);
  if (blob.size() != kSize) {
    return Refuse(Reason::kContentMismatch, path, "a row of the database has not its length",
                  "somebody wrote to the database; restore a backup");
  }
  std::ranges::copy(blob, out.begin());
  return absl::OkStatus();
}

absl::Status OutOfOrder(const std::string& path) {
  return Refuse(Reason::kContentMismatch, path, "rows of the database are out of their order",
                "the file is damaged, or somebody wrote to it; restore a backup");
}

absl::StatusOr<Bytes> StateOf(Connection& connection) {
  PAVISE_ASSIGN_OR_RETURN(const auto query,
                          connection.Prepare("SELECT sealed FROM state WHERE one = 1"));
  PAVISE_ASSIGN_OR_RETURN(const bool is_there, query->Next());
  if (!is_there) return Bytes();
  const ByteSpan sealed = query->Blob(0);
  return Bytes(sealed.begin(), sealed.end());
}

// Each index, in its order. An index of SQLite has its entries in all nodes of its tree: one that
// is read in strictly ascending order is one in which each entry is found.
absl::Status WalkIndices(Connection& connection, SetFingerprint& by_id, SetFingerprint& by_group) {
  const auto walk = [&](const char* text, bool is_unique_hash,
                        SetFingerprint& fingerprint) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const auto query, connection.Prepare(text));
    std::pair<RowHash, uint64_t> last{}, entry{};
    for (bool is_first = true;; is_first = false, last = entry) {
      PAVISE_ASSIGN_OR_RETURN(const bool is_there, query->Next());
      if (!is_there) return absl::OkStatus();
      PAVISE_RETURN_IF_ERROR(CopyBlob(*query, 0, entry.first, connection.path()));
      entry.second = query->Number(1);
      if (!is_first && (is_unique_hash ? entry.first <= last.first : entry <= last)) {
        return OutOfOrder(connection.path());
      }
      fingerprint.Add(entry.first, entry.second);
    }
  };
  PAVISE_RETURN_IF_ERROR(
      walk("SELECT id, sequence FROM seals INDEXED BY seals_by_id ORDER BY id", true, by_id));
  return walk(
      "SELECT grouped, sequence FROM seals INDEXED BY seals_by_group ORDER BY grouped, sequence",
      false, by_group);
}

// Makes the tables of a new database, or brings those of the first layout to this one, in one
// transaction; then the schema is this one and nothing else.
absl::Status PrepareSchema(Connection& connection) {
  const auto refuse = [&](Reason reason, std::string_view detail, std::string_view remedy) {
    return Refuse(reason, connection.path(), detail, remedy);
  };
  const auto number = [&](const char* text) -> absl::StatusOr<uint64_t> {
    PAVISE_ASSIGN_OR_RETURN(const auto query, connection.Prepare(text));
    PAVISE_ASSIGN_OR_RETURN(const bool is_there, query->Next());
    return is_there ? query->Number(0) : 0;
  };
  PAVISE_ASSIGN_OR_RETURN(const uint64_t layout, number("PRAGMA user_version"));
  if (layout == 0) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t is_first_layout,
                            number("SELECT count(*) FROM sqlite_schema WHERE name = 'rows'"));
    std::string text = "BEGIN IMMEDIATE;";
    for (const std::string_view statement : kSchema) {
      // Those that the first layout had, too.
      const bool is_kept = is_first_layout != 0 && (statement.find(" ledger_") != statement.npos ||
                                                    statement.find(" state ") != statement.npos);
      if (!is_kept) StrAppend(&text, statement, ";");
    }
    if (is_first_layout != 0) StrAppend(&text, kFirstLayoutRows);
    StrAppend(&text, "PRAGMA user_version = ", kLayout, "; COMMIT");
    PAVISE_RETURN_IF_ERROR(connection.Execute(text.c_str()));
  } else if (layout != kLayout) {
    return refuse(Reason::kUnsupported,
                  StrCat("the database has layout ", layout, ", this program knows ", kLayout),
                  "use the version of the program that last opened it, or a newer one");
  }
  // What a query finds is what the checks above looked at: no other index, column or collation.
  PAVISE_ASSIGN_OR_RETURN(
      const auto query,
      connection.Prepare(
          "SELECT coalesce(sql, '') FROM sqlite_schema WHERE tbl_name IN ('contents', "
          "'ledger_1', 'ledger_2', 'seals', 'state') ORDER BY name"));
  for (const std::string_view statement : kSchema) {
    PAVISE_ASSIGN_OR_RETURN(const bool is_there, query->Next());
    if (!is_there || AsText(query->Blob(0)) != statement) {
      return refuse(Reason::kContentMismatch, "the database's tables are not a store's",
                    "somebody wrote to it; restore a backup");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const bool has_more, query->Next());
  if (!has_more) return absl::OkStatus();
  return refuse(Reason::kContentMismatch, "the database has more tables or indices than a store",
                "somebody wrote to it; restore a backup");
}

// Both kinds of transaction; ends undone unless Commit went before.
class SqliteTransaction final : public RowWriter {
 public:
  using Return = std::function<void(std::unique_ptr<Connection>)>;
  SqliteTransaction(std::unique_ptr<Connection> connection, Return give_back)
      : connection_(std::move(connection)), give_back_(std::move(give_back)) {}
  ~SqliteTransaction() override {
    if (connection_->in_transaction()) connection_->Run("ROLLBACK").IgnoreError();
    give_back_(std::move(connection_));
  }

  Connection& connection() { return *connection_; }

  absl::StatusOr<Bytes> State() override { return StateOf(*connection_); }

  absl::StatusOr<std::optional<SealedRow>> Find(const RowHash& id) override {
    PAVISE_ASSIGN_OR_RETURN(
        const auto query,
        connection_->Prepare(
            "SELECT s.sequence, id, grouped, seal, encrypted FROM seals s INDEXED BY seals_by_id "
            "LEFT JOIN contents c ON c.sequence = s.sequence WHERE id = ?"));
    PAVISE_ASSIGN_OR_RETURN(std::vector<SealedRow> rows, Take(query->Bind(id)));
    if (rows.empty()) return std::nullopt;
    return std::move(rows.front());
  }

  absl::StatusOr<std::vector<SealedRow>> List(const RowHash& group, uint64_t after,
                                              size_t limit) override {
    PAVISE_ASSIGN_OR_RETURN(
        const auto query,
        connection_->Prepare(
            "SELECT s.sequence, id, grouped, seal, encrypted FROM seals s INDEXED BY "
            "seals_by_group LEFT JOIN contents c ON c.sequence = s.sequence "
            "WHERE grouped = ? AND s.sequence > ? ORDER BY s.sequence LIMIT ?"));
    return Take(query->Bind(group).Bind(after).Bind(limit));
  }

  absl::StatusOr<std::vector<SealedRow>> Scan(uint64_t after, size_t limit) override {
    PAVISE_ASSIGN_OR_RETURN(
        const auto query,
        connection_->Prepare("SELECT s.sequence, id, grouped, seal, encrypted FROM seals s "
                             "LEFT JOIN contents c ON c.sequence = s.sequence "
                             "WHERE s.sequence > ? ORDER BY s.sequence LIMIT ?"));
    return Take(query->Bind(after).Bind(limit));
  }

  absl::Status ScanSeals(const std::function<absl::Status(const SealedRow&)>& take) override {
    PAVISE_ASSIGN_OR_RETURN(const FingerprintKey key, FingerprintKey::New());
    SetFingerprint by_id(key), by_group(key), index_by_id(key), index_by_group(key);
    absl::Status indices;
    std::thread beside;
    // On a connection of its own where that sees the same commit.
    PAVISE_ASSIGN_OR_RETURN(const auto other, Connection::Open(connection_->path()));
    PAVISE_RETURN_IF_ERROR(other->Run("BEGIN"));
    PAVISE_ASSIGN_OR_RETURN(const Bytes state, StateOf(*connection_));
    PAVISE_ASSIGN_OR_RETURN(const Bytes other_state, StateOf(*other));
    if (state == other_state) {
      beside = std::thread([&] { indices = WalkIndices(*other, index_by_id, index_by_group); });
    }
    const absl::Status scanned = [&]() -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(
          const auto query,
          connection_->Prepare("SELECT sequence, id, grouped, seal FROM seals ORDER BY sequence"));
      SealedRow row;
      for (uint64_t last = 0;; last = row.sequence) {
        PAVISE_ASSIGN_OR_RETURN(const bool is_there, query->Next());
        if (!is_there) return absl::OkStatus();
        PAVISE_RETURN_IF_ERROR(TakeSeal(*query, row));
        if (row.sequence <= last) return OutOfOrder(connection_->path());
        by_id.Add(row.id, row.sequence);
        by_group.Add(row.group, row.sequence);
        PAVISE_RETURN_IF_ERROR(take(row));
      }
    }();
    if (beside.joinable()) {
      beside.join();
    } else {
      indices = WalkIndices(*connection_, index_by_id, index_by_group);
    }
    PAVISE_RETURN_IF_ERROR(scanned);
    PAVISE_RETURN_IF_ERROR(indices);
    if (by_id == index_by_id && by_group == index_by_group) return absl::OkStatus();
    return Refuse(Reason::kContentMismatch, connection_->path(),
                  "an index of the database does not say what its table says",
                  "the file is damaged, or somebody wrote to it; restore a backup");
  }

  absl::StatusOr<std::vector<LedgerRow>> FindLedger(LedgerTable table,
                                                    std::span<const uint64_t> numbers) override {
    std::vector<LedgerRow> rows;
    for (const uint64_t number : numbers) {
      PAVISE_ASSIGN_OR_RETURN(
          const auto query,
          connection_->Prepare(table == LedgerTable::kEntries
                                   ? "SELECT number, sealed FROM ledger_1 WHERE number = ?"
                                   : "SELECT number, sealed FROM ledger_2 WHERE number = ?"));
      PAVISE_RETURN_IF_ERROR(TakeLedger(query->Bind(number), rows));
    }
    return rows;
  }

  absl::StatusOr<std::vector<LedgerRow>> ScanLedger(LedgerTable table, uint64_t from,
                                                    size_t limit) override {
    PAVISE_ASSIGN_OR_RETURN(
        const auto query,
        connection_->Prepare(
            table == LedgerTable::kEntries
                ? "SELECT number, sealed FROM ledger_1 WHERE number >= ? ORDER BY number LIMIT ?"
                : "SELECT number, sealed FROM ledger_2 WHERE number >= ? ORDER BY number LIMIT ?"));
    std::vector<LedgerRow> rows;
    PAVISE_RETURN_IF_ERROR(TakeLedger(query->Bind(from).Bind(limit), rows));
    return rows;
  }

  absl::Status PutState(ByteSpan state) override {
    PAVISE_ASSIGN_OR_RETURN(
        const auto query,
        connection_->Prepare("INSERT OR REPLACE INTO state (one, sealed) VALUES (1, ?)"));
    return query->Bind(state).Run();
  }

  absl::Status Put(const SealedRow& row) override {
    PAVISE_ASSIGN_OR_RETURN(
        const auto seal,
        connection_->Prepare("INSERT INTO seals (sequence, id, grouped, seal) VALUES (?, ?, ?, ?) "
                             "ON CONFLICT (sequence) DO UPDATE SET id = excluded.id, "
                             "grouped = excluded.grouped, seal = excluded.seal"));
    PAVISE_RETURN_IF_ERROR(
        seal->Bind(row.sequence).Bind(row.id).Bind(row.group).Bind(row.seal).Run());
    PAVISE_ASSIGN_OR_RETURN(
        const auto content,
        connection_->Prepare(
            "INSERT OR REPLACE INTO contents (sequence, encrypted) VALUES (?, ?)"));
    return content->Bind(row.sequence).Bind(row.encrypted).Run();
  }

  absl::Status Delete(uint64_t sequence) override {
    for (const char* text :
         {"DELETE FROM seals WHERE sequence = ?", "DELETE FROM contents WHERE sequence = ?"}) {
      PAVISE_ASSIGN_OR_RETURN(const auto query, connection_->Prepare(text));
      PAVISE_RETURN_IF_ERROR(query->Bind(sequence).Run());
    }
    return absl::OkStatus();
  }

  absl::Status PutLedger(LedgerTable table, const LedgerRow& row, bool replace) override {
    const bool entries = table == LedgerTable::kEntries;
    const char* insert = entries ? "INSERT INTO ledger_1 (sealed, number) VALUES (?, ?)"
                                 : "INSERT INTO ledger_2 (sealed, number) VALUES (?, ?)";
    const char* update = entries ? "UPDATE ledger_1 SET sealed = ? WHERE number = ?"
                                 : "UPDATE ledger_2 SET sealed = ? WHERE number = ?";
    PAVISE_ASSIGN_OR_RETURN(const auto query, connection_->Prepare(replace ? update : insert));
    return query->Bind(row.sealed).Bind(row.number).Run();
  }

  absl::Status Commit(bool& outcome_known) override {
    const absl::Status committed = connection_->Run("COMMIT");
    // A full disk stops SQLite before the commit record; after any other error the record may have
    // got there all the same.
    outcome_known = committed.ok() || ReasonOf(committed) == Reason::kStorageFull;
    return committed;
  }

 private:
  absl::StatusOr<std::vector<SealedRow>> Take(Query& query) {
    std::vector<SealedRow> rows;
    while (true) {
      PAVISE_ASSIGN_OR_RETURN(const bool is_there, query.Next());
      if (!is_there) return rows;
      SealedRow row;
      PAVISE_RETURN_IF_ERROR(TakeSeal(query, row));
      // Not the same as no row.
      if (query.IsNull(4)) {
        return Refuse(Reason::kContentMismatch, connection_->path(), "a row has lost its content",
                      "somebody wrote to the database; restore a backup");
      }
      const ByteSpan encrypted = query.Blob(4);
      row.encrypted.assign(encrypted.begin(), encrypted.end());
      rows.push_back(std::move(row));
    }
  }

  absl::Status TakeSeal(const Query& query, SealedRow& row) const {
    row.sequence = query.Number(0);
    PAVISE_RETURN_IF_ERROR(CopyBlob(query, 1, row.id, connection_->path()));
    PAVISE_RETURN_IF_ERROR(CopyBlob(query, 2, row.group, connection_->path()));
    return CopyBlob(query, 3, row.seal, connection_->path());
  }

  static absl::Status TakeLedger(Query& query, std::vector<LedgerRow>& rows) {
    while (true) {
      PAVISE_ASSIGN_OR_RETURN(const bool is_there, query.Next());
      if (!is_there) return absl::OkStatus();
      const ByteSpan sealed = query.Blob(1);
      rows.push_back({query.Number(0), Bytes(sealed.begin(), sealed.end())});
    }
  }

  std::unique_ptr<Connection> connection_;
  Return give_back_;
};

class SqliteBackend final : public RowBackend {
 public:
  static absl::StatusOr<std::unique_ptr<RowBackend>> Open(const std::string& path) {
    // Not the database itself: closing a descriptor of it would drop the locks of SQLite's own.
    FileDescriptor lock(
        open((path + ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock.is_open()) return FromErrno(errno, "open", path + ".lock");
    if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      return Refuse(Reason::kFileUnstable, path, "another broker has this store open",
                    "stop it first; brokers side by side need PostgreSQL");
    }
    // SQLite would make it readable for others, and its other files after its mode.
    const int made = open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (made >= 0) {
      close(made);
      PAVISE_RETURN_IF_ERROR(FlushFolderOf(path));
    } else if (errno != EEXIST) {
      return FromErrno(errno, "open", path);
    }
    PAVISE_ASSIGN_OR_RETURN(auto connection, Connection::Open(path));
    {
      PAVISE_ASSIGN_OR_RETURN(const auto query, connection->Prepare("PRAGMA journal_mode=WAL"));
      PAVISE_ASSIGN_OR_RETURN(const bool is_there, query->Next());
      if (!is_there || AsText(query->Blob(0)) != "wal") {
        return MachineFailure(path, "SQLite keeps no write-ahead log there; use a local disk");
      }
    }
    PAVISE_RETURN_IF_ERROR(PrepareSchema(*connection));
    return std::unique_ptr<RowBackend>(
        new SqliteBackend(std::move(connection), std::move(lock), path));
  }

  absl::StatusOr<std::unique_ptr<RowReader>> BeginRead() override {
    std::unique_ptr<Connection> connection;
    {
      const absl::MutexLock lock(&mutex_);
      if (!idle_readers_.empty()) {
        connection = std::move(idle_readers_.back());
        idle_readers_.pop_back();
      }
    }
    if (connection == nullptr) {
      PAVISE_ASSIGN_OR_RETURN(connection, Connection::Open(path_));
      PAVISE_RETURN_IF_ERROR(connection->Execute("PRAGMA query_only=ON"));
    }
    auto transaction = std::make_unique<SqliteTransaction>(
        std::move(connection), [this](std::unique_ptr<Connection> used) {
          const absl::MutexLock lock(&mutex_);
          idle_readers_.push_back(std::move(used));
        });
    // The view is that of the first read.
    PAVISE_RETURN_IF_ERROR(transaction->connection().Run("BEGIN"));
    PAVISE_RETURN_IF_ERROR(transaction->connection().Run("SELECT one FROM state"));
    return transaction;
  }

  absl::StatusOr<std::unique_ptr<RowWriter>> BeginWrite() override {
    if (writer_ == nullptr) return MachineFailure(path_, "a write transaction is open already");
    PAVISE_RETURN_IF_ERROR(writer_->Run("BEGIN IMMEDIATE"));
    return std::make_unique<SqliteTransaction>(
        std::move(writer_),
        [this](std::unique_ptr<Connection> used) { writer_ = std::move(used); });
  }

  absl::Status ForgetReplaced() override {
    return writer_->Execute("PRAGMA wal_checkpoint(TRUNCATE)");
  }

 private:
  SqliteBackend(std::unique_ptr<Connection> writer, FileDescriptor lock, std::string path)
      : lock_(std::move(lock)), path_(std::move(path)), writer_(std::move(writer)) {}

  FileDescriptor lock_;
  std::string path_;
  std::unique_ptr<Connection> writer_;
  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Connection>> idle_readers_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::StatusOr<std::unique_ptr<RowBackend>> OpenSqlite(const std::string& path) {
  return SqliteBackend::Open(path);
}

}  // namespace pavise::broker
