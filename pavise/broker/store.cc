#include "pavise/broker/store.h"

#include <algorithm>
#include <deque>
#include <map>
#include <thread>
#include <tuple>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/internal/row_backend.h"
#include "pavise/broker/internal/row_cipher.h"
#include "pavise/broker/postgresql/postgresql_backend.h"
#include "pavise/broker/sqlite/sqlite_backend.h"
#include "pavise/broker/store_ledger.h"

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace pavise::broker {
namespace {

using internal::LedgerRow;
using internal::OpenedRow;
using internal::RowBackend;
using internal::RowCipher;
using internal::RowHash;
using internal::RowReader;
using internal::RowSeal;
using internal::RowWriter;
using internal::SealedRow;
using internal::StoreState;

constexpr std::string_view kItem = "store";
constexpr size_t kScanRows = 256;
// Transactions of one group commit: what waits longer than these take goes into the next.
constexpr size_t kMaxBatch = 256;
constexpr size_t kCounterSecretBytes = 32;
constexpr int kMostRetries = 6;
constexpr absl::Duration kRetryAfter = absl::Milliseconds(50);  // doubled each time

using Work = std::function<absl::Status(StoreTransaction&)>;

void AddTerm(const Digest32& term, Digest32& sum) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] ^= term[i];
}

absl::Status CheckName(std::string_view group, std::string_view name) {
  if (group.size() <= kMaxRowNameBytes && name.size() <= kMaxRowNameBytes) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, "store", "the name of a row is too long");
}

absl::StatusOr<std::vector<std::optional<SecretBytes>>> InOrder(
    RowCipher& cipher, LedgerTable table, std::span<const uint64_t> numbers,
    const std::vector<LedgerRow>& found) {
  std::map<uint64_t, const LedgerRow*> by_number;
  for (const LedgerRow& row : found) by_number[row.number] = &row;
  std::vector<std::optional<SecretBytes>> values(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    const auto row = by_number.find(numbers[i]);
    if (row == by_number.end()) continue;
    PAVISE_ASSIGN_OR_RETURN(values[i], cipher.OpenLedger(table, *row->second));
  }
  return values;
}

absl::StatusOr<Row> Opened(RowCipher& cipher, Table table, const SealedRow& sealed) {
  PAVISE_ASSIGN_OR_RETURN(OpenedRow opened, cipher.Open(table, sealed));
  return Row{std::move(opened.group), std::move(opened.name), sealed.sequence,
             std::move(opened.value)};
}

class CommittedReader final : public StoreReader {
 public:
  CommittedReader(RowReader& rows, RowCipher& cipher) : rows_(rows), cipher_(cipher) {}

  absl::StatusOr<std::optional<SecretBytes>> Get(Table table, std::string_view group,
                                                 std::string_view name) override {
    PAVISE_ASSIGN_OR_RETURN(const RowHash id, cipher_.IdHash(table, group, name));
    PAVISE_ASSIGN_OR_RETURN(const std::optional<SealedRow> sealed, rows_.Find(id));
    if (!sealed.has_value()) return std::nullopt;
    PAVISE_ASSIGN_OR_RETURN(OpenedRow opened, cipher_.Open(table, *sealed));
    return std::move(opened.value);
  }

  absl::StatusOr<std::vector<Row>> List(Table table, std::string_view group, uint64_t after,
                                        size_t limit) override {
    PAVISE_ASSIGN_OR_RETURN(const RowHash hash, cipher_.GroupHash(table, group));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<SealedRow> sealed, rows_.List(hash, after, limit));
    std::vector<Row> rows;
    for (const SealedRow& row : sealed) {
      PAVISE_ASSIGN_OR_RETURN(Row opened, Opened(cipher_, table, row));
      rows.push_back(std::move(opened));
    }
    return rows;
  }

  absl::StatusOr<std::vector<std::optional<SecretBytes>>> GetLedger(
      LedgerTable table, std::span<const uint64_t> numbers) override {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<LedgerRow> found, rows_.FindLedger(table, numbers));
    return InOrder(cipher_, table, numbers, found);
  }

 private:
  RowReader& rows_;
  RowCipher& cipher_;
};

// What is in the database of a row that a batch writes.
struct Replaced {
  uint64_t sequence;
  Digest32 term;
};

struct PendingRow {
  Table table;
  std::string group, name;
  RowHash group_hash;
  uint64_t sequence;
  std::optional<Replaced> replaced;
  std::optional<SecretBytes> value;  // nullopt: deleted
};

struct PendingWrites {
  std::map<RowHash, PendingRow> rows;
  std::map<std::pair<LedgerTable, uint64_t>, SecretBytes> ledger;

  bool empty() const { return rows.empty() && ledger.empty(); }
};

// One transaction's writes over those of its batch over what is committed.
class BatchedTransaction final : public StoreTransaction {
 public:
  BatchedTransaction(RowReader& rows, RowCipher& cipher, const PendingWrites& batch,
                     uint64_t next_sequence)
      : rows_(rows),
        cipher_(cipher),
        committed_(rows, cipher),
        batch_(batch),
        next_sequence_(next_sequence) {}

  PendingWrites& writes() { return writes_; }
  uint64_t next_sequence() const { return next_sequence_; }

  absl::StatusOr<std::optional<SecretBytes>> Get(Table table, std::string_view group,
                                                 std::string_view name) override {
    PAVISE_ASSIGN_OR_RETURN(const RowHash id, cipher_.IdHash(table, group, name));
    const PendingRow* pending = Pending(id);
    if (pending == nullptr) return committed_.Get(table, group, name);
    if (!pending->value.has_value()) return std::nullopt;
    return SecretBytes(pending->value->Reveal());
  }

  absl::StatusOr<std::vector<Row>> List(Table table, std::string_view group, uint64_t after,
                                        size_t limit) override {
    PAVISE_ASSIGN_OR_RETURN(const RowHash hash, cipher_.GroupHash(table, group));
    std::map<RowHash, const PendingRow*> pending;
    for (const PendingWrites* writes : {&std::as_const(writes_), &batch_}) {  // the first wins
      for (const auto& [id, row] : writes->rows) {
        if (row.group_hash == hash) pending.emplace(id, &row);
      }
    }
    // Each pending row hides one of the database at most.
    PAVISE_ASSIGN_OR_RETURN(const std::vector<SealedRow> sealed,
                            rows_.List(hash, after, limit + pending.size()));
    std::vector<Row> rows;
    for (const SealedRow& row : sealed) {
      if (pending.contains(row.id)) continue;
      PAVISE_ASSIGN_OR_RETURN(Row opened, Opened(cipher_, table, row));
      rows.push_back(std::move(opened));
    }
    for (const auto& [id, row] : pending) {
      if (!row->value.has_value() || row->sequence <= after) continue;
      rows.push_back({row->group, row->name, row->sequence, SecretBytes(row->value->Reveal())});
    }
    std::ranges::sort(rows, {}, &Row::sequence);
    if (rows.size() > limit) rows.resize(limit);
    return rows;
  }

  absl::StatusOr<std::vector<std::optional<SecretBytes>>> GetLedger(
      LedgerTable table, std::span<const uint64_t> numbers) override {
    PAVISE_ASSIGN_OR_RETURN(auto values, committed_.GetLedger(table, numbers));
    for (const PendingWrites* writes : {&batch_, &std::as_const(writes_)}) {
      for (size_t i = 0; i < numbers.size(); ++i) {
        const auto row = writes->ledger.find({table, numbers[i]});
        if (row != writes->ledger.end()) values[i] = SecretBytes(row->second.Reveal());
      }
    }
    return values;
  }

  absl::Status Put(Table table, std::string_view group, std::string_view name,
                   SecretBytes value) override {
    PAVISE_RETURN_IF_ERROR(CheckName(group, name));
    if (value.size_bytes() > kMaxRowBytes) {
      return Refuse(Reason::kLimitExceeded, kItem,
                    StrCat("a row of ", value.size_bytes(), " bytes: it may have ", kMaxRowBytes),
                    "give less at once");
    }
    PAVISE_ASSIGN_OR_RETURN(PendingRow* const row, Write(table, group, name));
    if (row->sequence == 0) row->sequence = next_sequence_++;
    row->value = std::move(value);
    return absl::OkStatus();
  }

  absl::Status Delete(Table table, std::string_view group, std::string_view name) override {
    PAVISE_RETURN_IF_ERROR(CheckName(group, name));
    PAVISE_ASSIGN_OR_RETURN(PendingRow* const row, Write(table, group, name));
    row->value.reset();
    return absl::OkStatus();
  }

  absl::Status PutLedger(LedgerTable table, uint64_t number, SecretBytes value) override {
    if (number >> 63 != 0 || value.size_bytes() > kMaxRowBytes) {
      return Refuse(Reason::kLimitExceeded, kItem, "a row of the ledger beyond its limits");
    }
    if (!writes_.ledger.emplace(std::pair(table, number), std::move(value)).second ||
        batch_.ledger.contains({table, number})) {
      return MachineFailure(kItem, StrCat("ledger row ", number, " is written twice"));
    }
    return absl::OkStatus();
  }

 private:
  const PendingRow* Pending(const RowHash& id) const {
    for (const PendingWrites* writes : {&writes_, &batch_}) {
      const auto row = writes->rows.find(id);
      if (row != writes->rows.end()) return &row->second;
    }
    return nullptr;
  }

  // The row to write to; its sequence is 0 where there is no such row yet.
  absl::StatusOr<PendingRow*> Write(Table table, std::string_view group, std::string_view name) {
    PAVISE_ASSIGN_OR_RETURN(const RowHash id, cipher_.IdHash(table, group, name));
    const auto own = writes_.rows.find(id);
    if (own != writes_.rows.end()) return &own->second;
    PendingRow row{table, std::string(group), std::string(name), {}, 0, {}, {}};
    PAVISE_ASSIGN_OR_RETURN(row.group_hash, cipher_.GroupHash(table, group));
    if (const PendingRow* before = Pending(id); before != nullptr) {
      row.sequence = before->sequence;
      row.replaced = before->replaced;
    } else {
      PAVISE_ASSIGN_OR_RETURN(const std::optional<SealedRow> sealed, rows_.Find(id));
      if (sealed.has_value()) {
        PAVISE_ASSIGN_OR_RETURN(const Digest32 term, cipher_.Term(*sealed));
        row.sequence = sealed->sequence;
        row.replaced = Replaced{sealed->sequence, term};
      }
    }
    return &writes_.rows.emplace(id, std::move(row)).first->second;
  }

  RowReader& rows_;
  RowCipher& cipher_;
  CommittedReader committed_;
  const PendingWrites& batch_;
  PendingWrites writes_;
  uint64_t next_sequence_;
};

class EncryptedStore final : public Store {
 public:
  EncryptedStore(StoreOptions options, std::unique_ptr<RowBackend> backend,
                 std::shared_ptr<RowCipher> cipher)
      : options_(std::move(options)), backend_(std::move(backend)), cipher_(std::move(cipher)) {}

  ~EncryptedStore() override {
    {
      const absl::MutexLock lock(&mutex_);
      ending_ = true;
    }
    if (committer_.joinable()) committer_.join();
  }

  // Checks what is there, or makes a store where there is none; then commits an empty batch, so
  // that no image in which an earlier run's last batch took another course fits the counter.
  absl::Status Start();

  absl::Status Commit(const Work& work) override {
    Waiting waiting;
    waiting.work = &work;
    return Wait(waiting);
  }

  absl::Status Read(const std::function<absl::Status(StoreReader&)>& work) override {
    PAVISE_ASSIGN_OR_RETURN(const View view, BeginRead());
    CommittedReader reader(*view.rows, *view.cipher);
    absl::Status read = work(reader);
    if (absl::IsUnavailable(read)) return MachineFailure(kItem, FromAbsl(read.message()));
    return read;
  }

  absl::Status RotateRootKey(const SecretBytes& new_root_key) override {
    Waiting waiting;
    waiting.new_root_key = &new_root_key;
    return Wait(waiting);
  }

  absl::Status CheckRows() override {
    PAVISE_ASSIGN_OR_RETURN(const View view, BeginRead());
    return CheckRowsOf(*view.rows, *view.cipher, view.state);
  }

  absl::StatusOr<StoreStatus> GetStatus() override {
    PAVISE_ASSIGN_OR_RETURN(const View view, BeginRead());
    StoreStatus status{RollbackDetection::kNone, view.state.commits, view.state.rows};
    if (!options_.checkpoints.empty()) status.rollback = RollbackDetection::kCheckpoints;
    if (!view.state.counter_name.empty()) status.rollback = RollbackDetection::kCounter;
    return status;
  }

 private:
  struct Waiting {
    const Work* work = nullptr;                 // or:
    const SecretBytes* new_root_key = nullptr;  // alone in its batch
    absl::Status result;
    bool done = false;
  };

  struct View {
    std::unique_ptr<RowReader> rows;
    std::shared_ptr<RowCipher> cipher;
    StoreState state;
  };
  absl::StatusOr<View> BeginRead() {
    View view;
    {
      const absl::ReaderMutexLock lock(&visible_);
      PAVISE_RETURN_IF_ERROR(failed_);
      PAVISE_ASSIGN_OR_RETURN(view.rows, backend_->BeginRead());
      view.cipher = cipher_;
    }
    // Under another broker's new root key all rows would seem absent.
    PAVISE_ASSIGN_OR_RETURN(const Bytes sealed, view.rows->State());
    PAVISE_ASSIGN_OR_RETURN(view.state, view.cipher->OpenState(sealed));
    return view;
  }

  absl::Status Wait(Waiting& waiting) {
    {
      const absl::MutexLock lock(&mutex_);
      if (ending_) return MachineFailure(kItem, "is being closed");
      if (is_committing_ || !queue_.empty() || last_batch_ > 1) {
        queue_.push_back(&waiting);
        mutex_.Await(absl::Condition(&waiting.done));
        return waiting.result;
      }
      is_committing_ = true;
    }
    // Nobody else waits, and nobody waited lately: waking the committer would only take time. With
    // others about it is worth it, since they come while it wakes, and share the flush.
    CommitBatch({&waiting});
    const absl::MutexLock lock(&mutex_);
    is_committing_ = false;
    return waiting.result;
  }

  void Run();
  // Sets each result. What throws here would leave a batch without a known end.
  void CommitBatch(const std::vector<Waiting*>& batch) noexcept;
  absl::Status CommitWorks(const std::vector<Waiting*>& batch);
  absl::Status Rotate(const SecretBytes& new_root_key);
  absl::StatusOr<StoreState> StateOf(RowReader& rows);
  absl::Status Write(RowWriter& writer, PendingWrites& writes, StoreState& state);
  absl::Status Finish(RowWriter& writer, StoreState& state, std::shared_ptr<RowCipher> cipher);
  absl::Status CheckCounter(StoreState& state);
  absl::Status BindCounter(StoreState& state);
  static absl::Status CheckRowsOf(RowReader& rows, RowCipher& cipher, const StoreState& state);
  void Step(CommitStep step) const {
    if (options_.on_step) options_.on_step(step);
  }

  const StoreOptions options_;
  std::unique_ptr<RowBackend> backend_;

  // Held while a batch is durable but not yet counted: nobody reads what could still be undone by
  // putting an old image back.
  absl::Mutex visible_;
  std::shared_ptr<RowCipher> cipher_ ABSL_GUARDED_BY(visible_);
  absl::Status failed_ ABSL_GUARDED_BY(visible_);

  absl::Mutex mutex_;
  std::deque<Waiting*> queue_ ABSL_GUARDED_BY(mutex_);
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool is_committing_ ABSL_GUARDED_BY(mutex_) = false;  // one thread at a time, whichever
  size_t last_batch_ ABSL_GUARDED_BY(mutex_) = 1;       // the committer's: transactions of it
  std::thread committer_;
};

absl::Status EncryptedStore::CheckRowsOf(RowReader& rows, RowCipher& cipher,
                                         const StoreState& state) {
  Digest32 sum{};
  uint64_t count = 0;
  PAVISE_RETURN_IF_ERROR(rows.ScanSeals([&](const SealedRow& row) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 term, cipher.Term(row));
    AddTerm(term, sum);
    ++count;
    return absl::OkStatus();
  }));
  if (count == state.rows && ConstantTimeEquals(sum, state.set_hash)) return absl::OkStatus();
  return Refuse(Reason::kContentMismatch, kItem,
                "its rows are not those that were committed last: some were put back, taken away "
                "or moved",
                "somebody wrote to the database; restore a backup, or find out who it was");
}

absl::Status EncryptedStore::BindCounter(StoreState& state) {
  state.counter_name.clear();
  state.counter_value = 0;
  state.counter_secret = SecretBytes();
  if (options_.counter == nullptr) return absl::OkStatus();
  Bytes secret(kCounterSecretBytes);
  RandomSource& random = options_.random != nullptr ? *options_.random : SystemRandom();
  PAVISE_RETURN_IF_ERROR(random.Fill(secret));
  state.counter_secret = SecretBytes(std::move(secret));
  PAVISE_ASSIGN_OR_RETURN(state.counter_name, options_.counter->Create(state.counter_secret));
  PAVISE_ASSIGN_OR_RETURN(state.counter_value,
                          options_.counter->Read(state.counter_name, state.counter_secret));
  return absl::OkStatus();
}

absl::Status EncryptedStore::CheckCounter(StoreState& state) {
  if (options_.accept_image) return BindCounter(state);
  constexpr std::string_view kRecover =
      "put the newest image back; if it is lost, the owners compare their ledger checkpoints and "
      "accept this one (broker recover)";
  if (state.counter_name.empty()) {
    if (options_.counter == nullptr) return absl::OkStatus();
    return Refuse(Reason::kVersionTooOld, kItem,
                  "no counter protected this image when it was made: it may be an old one",
                  kRecover);
  }
  if (options_.counter == nullptr) {
    return Refuse(Reason::kEvidenceMissing, kItem,
                  StrCat("is protected against rollback by ", state.counter_name,
                         ", and no counter was given"),
                  "give the TPM that it was made with");
  }
  PAVISE_ASSIGN_OR_RETURN(uint64_t value,
                          options_.counter->Read(state.counter_name, state.counter_secret));
  if (value + 1 == state.counter_value) {
    // The last batch was durable when the broker stopped, and nobody had heard of it.
    PAVISE_ASSIGN_OR_RETURN(value,
                            options_.counter->Advance(state.counter_name, state.counter_secret));
  }
  if (value == state.counter_value) return absl::OkStatus();
  return Refuse(Reason::kVersionTooOld, kItem,
                value > state.counter_value
                    ? StrCat("this is an old disk image: ", state.counter_name, " is ", value,
                             ", the image was made at ", state.counter_value)
                    : StrCat(state.counter_name, " is ", value, ", behind the image's ",
                             state.counter_value, ": it is not the counter that this store used"),
                kRecover);
}

absl::StatusOr<StoreState> EncryptedStore::StateOf(RowReader& rows) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes sealed, rows.State());
  std::shared_ptr<RowCipher> cipher;
  {
    const absl::ReaderMutexLock lock(&visible_);
    cipher = cipher_;
  }
  return cipher->OpenState(sealed);
}

absl::Status EncryptedStore::Start() {
  {
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<RowWriter> writer, backend_->BeginWrite());
    PAVISE_ASSIGN_OR_RETURN(const Bytes sealed, writer->State());
    StoreState state;
    if (sealed.empty() != options_.create) {
      return options_.create ? UsageError("there is a store already")
                             : Refuse(Reason::kFileMissing, kItem, "there is no store",
                                      "check the path; a new broker makes one (broker init)");
    }
    if (!options_.create) {
      PAVISE_ASSIGN_OR_RETURN(state, StateOf(*writer));
      PAVISE_RETURN_IF_ERROR(CheckCounter(state));
      PAVISE_RETURN_IF_ERROR(CheckRowsOf(*writer, *cipher_, state));
      CommittedReader reader(*writer, *cipher_);
      PAVISE_RETURN_IF_ERROR(CheckLedger(reader, options_.checkpoints));
    } else {
      PAVISE_ASSIGN_OR_RETURN(const auto rows, writer->Scan(0, 1));
      PAVISE_ASSIGN_OR_RETURN(const auto entries, writer->ScanLedger(LedgerTable::kEntries, 0, 1));
      if (!rows.empty() || !entries.empty()) {
        return Refuse(Reason::kContentMismatch, kItem, "has rows, and no state",
                      "somebody wrote to the database; restore a backup");
      }
      PAVISE_RETURN_IF_ERROR(BindCounter(state));
    }
    PAVISE_RETURN_IF_ERROR(Finish(*writer, state, cipher_));
  }
  committer_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

// Commits the batch in `writer` under the next number: durable first, then counted, then visible.
absl::Status EncryptedStore::Finish(RowWriter& writer, StoreState& state,
                                    std::shared_ptr<RowCipher> cipher) {
  ++state.commits;
  if (!state.counter_name.empty()) ++state.counter_value;
  PAVISE_ASSIGN_OR_RETURN(const Bytes sealed, cipher->SealState(state));
  PAVISE_RETURN_IF_ERROR(writer.PutState(sealed));
  Step(CommitStep::kWritten);

  const absl::WriterMutexLock lock(&visible_);
  bool outcome_known = true;
  if (const absl::Status committed = writer.Commit(outcome_known); !committed.ok()) {
    if (!outcome_known && options_.kind == StoreOptions::Kind::kSqlite) failed_ = committed;
    return committed;
  }
  Step(CommitStep::kDurable);
  if (!state.counter_name.empty()) {
    const absl::StatusOr<uint64_t> value =
        options_.counter->Advance(state.counter_name, state.counter_secret);
    if (!value.ok()) {
      failed_ = value.status();
    } else if (*value != state.counter_value) {
      failed_ = MachineFailure(
          kItem, StrCat(state.counter_name, " went to ", *value, " where ", state.counter_value,
                        " was expected: somebody else advances it"));
    }
    PAVISE_RETURN_IF_ERROR(failed_);
  }
  Step(CommitStep::kCounted);
  cipher_ = std::move(cipher);
  return absl::OkStatus();
}

void EncryptedStore::Run() {
  while (true) {
    std::vector<Waiting*> batch;
    {
      const absl::MutexLock lock(&mutex_);
      const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
        return !is_committing_ && (ending_ || !queue_.empty());
      };
      mutex_.Await(absl::Condition(&ready));
      if (queue_.empty()) return;
      is_committing_ = true;
      while (!queue_.empty() && batch.size() < kMaxBatch) {
        if (queue_.front()->new_root_key != nullptr && !batch.empty()) break;
        batch.push_back(queue_.front());
        queue_.pop_front();
        if (batch.back()->new_root_key != nullptr) break;
      }
    }
    CommitBatch(batch);
    const absl::MutexLock lock(&mutex_);
    is_committing_ = false;
    last_batch_ = batch.size();
    for (Waiting* waiting : batch) waiting->done = true;
  }
}

void EncryptedStore::CommitBatch(const std::vector<Waiting*>& batch) noexcept {
  absl::Status result;
  {
    const absl::ReaderMutexLock lock(&visible_);
    result = failed_;
  }
  if (result.ok()) {
    for (int attempt = 0;; ++attempt) {
      result = batch.front()->new_root_key != nullptr ? Rotate(*batch.front()->new_root_key)
                                                      : CommitWorks(batch);
      if (!absl::IsUnavailable(result)) break;
      if (attempt == kMostRetries) {
        result = MachineFailure(kItem, FromAbsl(result.message()));
        break;
      }
      // The database went away before the batch had any effect.
      absl::SleepFor(kRetryAfter * (1 << attempt));
    }
  }
  if (result.ok()) {
    Step(CommitStep::kVisible);
    return;
  }
  for (Waiting* waiting : batch) waiting->result = result;
}

absl::Status EncryptedStore::CommitWorks(const std::vector<Waiting*>& batch) {
  Step(CommitStep::kBegun);
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<RowWriter> writer, backend_->BeginWrite());
  PAVISE_ASSIGN_OR_RETURN(StoreState state, StateOf(*writer));
  PendingWrites writes;
  for (Waiting* waiting : batch) {
    BatchedTransaction transaction(*writer, *cipher_, writes, state.next_sequence);
    try {
      waiting->result = (*waiting->work)(transaction);
    } catch (const std::exception& exception) {
      waiting->result = MachineFailure(kItem, StrCat("a transaction threw: ", exception.what()));
    }
    // The database went away under it: all of the batch runs again.
    if (absl::IsUnavailable(waiting->result)) return waiting->result;
    if (!waiting->result.ok()) continue;
    state.next_sequence = transaction.next_sequence();
    for (auto& [id, row] : transaction.writes().rows) {
      writes.rows.insert_or_assign(id, std::move(row));
    }
    writes.ledger.merge(transaction.writes().ledger);
  }
  if (writes.empty()) return absl::OkStatus();
  PAVISE_RETURN_IF_ERROR(Write(*writer, writes, state));
  return Finish(*writer, state, cipher_);
}

absl::Status EncryptedStore::Write(RowWriter& writer, PendingWrites& writes, StoreState& state) {
  for (auto& [id, row] : writes.rows) {
    if (row.replaced.has_value()) {
      AddTerm(row.replaced->term, state.set_hash);
      --state.rows;
    }
    if (!row.value.has_value()) {
      if (row.replaced.has_value()) {
        PAVISE_RETURN_IF_ERROR(writer.Delete(row.replaced->sequence));
      }
      continue;
    }
    SealedRow sealed;
    sealed.sequence = row.sequence;
    sealed.id = id;
    sealed.group = row.group_hash;
    PAVISE_RETURN_IF_ERROR(cipher_->Seal(row.table, row.group, row.name, *row.value, sealed));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 term, cipher_->Term(sealed));
    AddTerm(term, state.set_hash);
    ++state.rows;
    PAVISE_RETURN_IF_ERROR(writer.Put(sealed));
  }
  for (const auto& [place, value] : writes.ledger) {
    PAVISE_ASSIGN_OR_RETURN(Bytes sealed, cipher_->SealLedger(place.first, place.second, value));
    PAVISE_RETURN_IF_ERROR(
        writer.PutLedger(place.first, {place.second, std::move(sealed)}, /*replace=*/false));
  }
  return absl::OkStatus();
}

absl::Status EncryptedStore::Rotate(const SecretBytes& new_root_key) {
  RandomSource& random = options_.random != nullptr ? *options_.random : SystemRandom();
  PAVISE_ASSIGN_OR_RETURN(std::shared_ptr<RowCipher> cipher,
                          RowCipher::Create(new_root_key, random));
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<RowWriter> writer, backend_->BeginWrite());
  PAVISE_ASSIGN_OR_RETURN(StoreState state, StateOf(*writer));
  // What is wrong must not be sealed as right.
  PAVISE_RETURN_IF_ERROR(CheckRowsOf(*writer, *cipher_, state));
  state.set_hash = {};
  for (uint64_t after = 0;;) {
    PAVISE_ASSIGN_OR_RETURN(const std::vector<SealedRow> part, writer->Scan(after, kScanRows));
    if (part.empty()) break;
    for (const SealedRow& row : part) {
      Table table;
      PAVISE_ASSIGN_OR_RETURN(const OpenedRow opened, cipher_->OpenOfAnyTable(row, table));
      SealedRow sealed;
      sealed.sequence = row.sequence;
      PAVISE_ASSIGN_OR_RETURN(sealed.id, cipher->IdHash(table, opened.group, opened.name));
      PAVISE_ASSIGN_OR_RETURN(sealed.group, cipher->GroupHash(table, opened.group));
      PAVISE_RETURN_IF_ERROR(cipher->Seal(table, opened.group, opened.name, opened.value, sealed));
      PAVISE_ASSIGN_OR_RETURN(const Digest32 term, cipher->Term(sealed));
      AddTerm(term, state.set_hash);
      PAVISE_RETURN_IF_ERROR(writer->Put(sealed));
    }
    after = part.back().sequence;
  }
  for (const LedgerTable table : {LedgerTable::kEntries, LedgerTable::kNodes}) {
    for (uint64_t from = 0;;) {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<LedgerRow> part,
                              writer->ScanLedger(table, from, kScanRows));
      if (part.empty()) break;
      for (const LedgerRow& row : part) {
        PAVISE_ASSIGN_OR_RETURN(const SecretBytes value, cipher_->OpenLedger(table, row));
        PAVISE_ASSIGN_OR_RETURN(Bytes sealed, cipher->SealLedger(table, row.number, value));
        PAVISE_RETURN_IF_ERROR(
            writer->PutLedger(table, {row.number, std::move(sealed)}, /*replace=*/true));
      }
      from = part.back().number + 1;
    }
  }
  PAVISE_RETURN_IF_ERROR(Finish(*writer, state, std::move(cipher)));
  writer.reset();
  // The new key counts already: what of the old one's is left in the files is wiped as far as the
  // database can.
  backend_->ForgetReplaced().IgnoreError();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Store>> Store::Open(const StoreOptions& options,
                                                   const SecretBytes& root_key) {
  const bool is_sqlite = options.kind == StoreOptions::Kind::kSqlite;
  if (!is_sqlite && options.counter != nullptr) {
    return UsageError("a TPM's counter protects one broker's SQLite store, not PostgreSQL");
  }
  RandomSource& random = options.random != nullptr ? *options.random : SystemRandom();
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<RowCipher> cipher, RowCipher::Create(root_key, random));
  PAVISE_ASSIGN_OR_RETURN(
      std::unique_ptr<RowBackend> backend,
      is_sqlite ? OpenSqlite(options.location) : OpenPostgresql(options.location));
  auto store = std::make_unique<EncryptedStore>(options, std::move(backend), std::move(cipher));
  PAVISE_RETURN_IF_ERROR(store->Start());
  return store;
}

}  // namespace pavise::broker
