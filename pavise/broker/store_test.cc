#include "pavise/broker/store.h"

#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/store_ledger.h"
#include "pavise/broker/testing/test_databases.h"
#include "pavise/crypto/keys.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using ::testing::ElementsAre;
using testing::FileCounter;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TestDatabase;
using testing::TestRootKey;

SecretBytes Text(std::string_view text) { return SecretBytes(text); }

std::string ValueOf(StoreReader& reader, Table table, std::string_view group,
                    std::string_view name) {
  const auto value = reader.Get(table, group, name);
  if (!value.ok()) return value.status().ToString();
  return value->has_value() ? std::string((*value)->RevealText()) : "absent";
}

std::vector<std::string> NamesOf(StoreReader& reader, Table table, std::string_view group,
                                 uint64_t after = 0, size_t limit = 1000) {
  std::vector<std::string> names;
  const auto rows = reader.List(table, group, after, limit);
  EXPECT_TRUE(rows.ok()) << rows.status();
  for (const Row& row : *rows)
    names.push_back(row.name + "=" + std::string(row.value.RevealText()));
  return names;
}

// The same contract on both databases.
class StoreTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (GetParam()) {
      const std::string missing = testing::PostgresqlCluster::Missing();
      if (!missing.empty()) GTEST_SKIP() << missing;
      database_ = testing::MakePostgresqlDatabase();
    } else {
      database_ = testing::MakeSqliteDatabase();
    }
    ASSERT_NE(database_, nullptr);
    Open(/*create=*/true);
  }

  absl::StatusOr<std::unique_ptr<Store>> TryOpen(StoreOptions options, uint8_t key = 1) {
    return Store::Open(options, TestRootKey(key));
  }
  void Open(bool create = false, uint8_t key = 1) {
    StoreOptions options = database_->options();
    options.create = create;
    auto opened = TryOpen(options, key);
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  std::optional<Reason> ReasonOfOpen(uint8_t key = 1) {
    store_.reset();
    return ReasonOf(TryOpen(database_->options(), key).status());
  }
  void Put(Table table, std::string_view group, std::string_view name, std::string_view value) {
    const absl::Status status = store_->Commit([&](StoreTransaction& transaction) {
      return transaction.Put(table, group, name, Text(value));
    });
    ASSERT_TRUE(status.ok()) << status;
  }
  std::string Get(Table table, std::string_view group, std::string_view name) {
    std::string value;
    const absl::Status status = store_->Read([&](StoreReader& reader) {
      value = ValueOf(reader, table, group, name);
      return absl::OkStatus();
    });
    return status.ok() ? value : status.ToString();
  }
  LedgerState Append(const std::vector<std::string>& entries) {
    LedgerState state;
    const absl::Status status = store_->Commit([&](StoreTransaction& transaction) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(state, AppendToLedger(transaction, entries));
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return state;
  }

  std::unique_ptr<TestDatabase> database_;
  std::unique_ptr<Store> store_;
};

INSTANTIATE_TEST_SUITE_P(Databases, StoreTest, ::testing::Bool(),
                         [](const auto& chosen) { return chosen.param ? "Postgresql" : "Sqlite"; });

TEST_P(StoreTest, KeepsRows) {
  Put(Table::kAgreements, "a", "1", "first");
  Put(Table::kAgreements, "a", "2", "");
  Put(Table::kAgreements, "b", "1", "other group");
  Put(Table::kApprovals, "a", "1", "other table");
  Put(Table::kAgreements, "a", "3", "third");
  Put(Table::kAgreements, "a", "1", "replaced");
  store_.reset();
  Open();
  EXPECT_EQ(Get(Table::kAgreements, "a", "1"), "replaced");
  EXPECT_EQ(Get(Table::kAgreements, "a", "2"), "");
  EXPECT_EQ(Get(Table::kApprovals, "a", "1"), "other table");
  EXPECT_EQ(Get(Table::kApprovals, "a", "2"), "absent");
  EXPECT_EQ(Get(Table::kAgreements, "a1", ""), "absent");
  EXPECT_EQ(Get(Table::kAgreements, "", "a1"), "absent");
  ASSERT_TRUE(store_
                  ->Read([&](StoreReader& reader) -> absl::Status {
                    EXPECT_THAT(NamesOf(reader, Table::kAgreements, "a"),
                                ElementsAre("1=replaced", "2=", "3=third"));
                    PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> rows,
                                            reader.List(Table::kAgreements, "a"));
                    EXPECT_THAT(NamesOf(reader, Table::kAgreements, "a", rows[0].sequence, 1),
                                ElementsAre("2="));
                    EXPECT_THAT(NamesOf(reader, Table::kAgreements, "c"), ElementsAre());
                    return absl::OkStatus();
                  })
                  .ok());
  const auto status = store_->GetStatus();
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_EQ(status->rows, 5u);
  EXPECT_EQ(status->rollback, RollbackDetection::kNone);
  EXPECT_TRUE(store_->CheckRows().ok());
}

TEST_P(StoreTest, TransactionSeesItsOwnWrites) {
  Put(Table::kRuns, "g", "old", "1");
  Put(Table::kRuns, "g", "gone", "2");
  ASSERT_TRUE(
      store_
          ->Commit([&](StoreTransaction& transaction) -> absl::Status {
            PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "g", "new", Text("3")));
            PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "g", "old", Text("4")));
            PAVISE_RETURN_IF_ERROR(transaction.Delete(Table::kRuns, "g", "gone"));
            PAVISE_RETURN_IF_ERROR(transaction.Delete(Table::kRuns, "g", "never"));
            PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "g", "brief", Text("5")));
            PAVISE_RETURN_IF_ERROR(transaction.Delete(Table::kRuns, "g", "brief"));
            EXPECT_EQ(ValueOf(transaction, Table::kRuns, "g", "old"), "4");
            EXPECT_EQ(ValueOf(transaction, Table::kRuns, "g", "gone"), "absent");
            EXPECT_THAT(NamesOf(transaction, Table::kRuns, "g"), ElementsAre("old=4", "new=3"));
            EXPECT_THAT(NamesOf(transaction, Table::kRuns, "g", 0, 1), ElementsAre("old=4"));
            return absl::OkStatus();
          })
          .ok());
  ASSERT_TRUE(store_
                  ->Read([&](StoreReader& reader) {
                    EXPECT_THAT(NamesOf(reader, Table::kRuns, "g"), ElementsAre("old=4", "new=3"));
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_TRUE(store_->CheckRows().ok());
  EXPECT_EQ(store_->GetStatus()->rows, 2u);
}

TEST_P(StoreTest, ErrorUndoesItsTransactionAlone) {
  const absl::Status refused = store_->Commit([&](StoreTransaction& transaction) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "g", "a", Text("1")));
    PAVISE_RETURN_IF_ERROR(transaction.PutLedger(LedgerTable::kEntries, 0, Text("entry")));
    return Refuse(Reason::kPolicyDenied, "run", "no");
  });
  EXPECT_EQ(ReasonOf(refused), Reason::kPolicyDenied);
  const absl::Status thrown = store_->Commit([&](StoreTransaction& transaction) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "g", "b", Text("1")));
    throw std::runtime_error("thrown");
  });
  EXPECT_EQ(ExitCodeOf(thrown), 3);
  EXPECT_EQ(Get(Table::kRuns, "g", "a"), "absent");
  EXPECT_EQ(Get(Table::kRuns, "g", "b"), "absent");

  // Together with others: the first holds the committer until all are waiting or on their way.
  std::vector<std::thread> threads;
  std::atomic<int> on_their_way = 0;
  std::atomic<int> refusals = 0;
  constexpr int kThreads = 12;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      ++on_their_way;
      const absl::Status status =
          store_->Commit([&, i](StoreTransaction& transaction) -> absl::Status {
            while (on_their_way < kThreads) std::this_thread::yield();
            PAVISE_RETURN_IF_ERROR(
                transaction.Put(Table::kRuns, "many", std::to_string(i), Text("1")));
            PAVISE_ASSIGN_OR_RETURN(const auto rows, transaction.List(Table::kRuns, "many"));
            for (const Row& row : rows) {
              if (row.name == std::to_string(i)) continue;
              EXPECT_EQ(std::stoi(row.name) % 3, 0);
            }
            if (i % 3 != 0) return Refuse(Reason::kPolicyDenied, "run", "no");
            return absl::OkStatus();
          });
      if (!status.ok()) ++refusals;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(refusals, 8);
  ASSERT_TRUE(store_
                  ->Read([&](StoreReader& reader) {
                    EXPECT_THAT(NamesOf(reader, Table::kRuns, "many"),
                                ::testing::UnorderedElementsAre("0=1", "3=1", "6=1", "9=1"));
                    return absl::OkStatus();
                  })
                  .ok());
  EXPECT_TRUE(store_->CheckRows().ok());
}

TEST_P(StoreTest, ManyThreadsCountTogether) {
  constexpr int kThreads = 8;
  constexpr int kEach = 20;
  std::vector<std::thread> threads;
  std::atomic<int> failures = 0;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < kEach; ++j) {
        const absl::Status status =
            store_->Commit([&](StoreTransaction& transaction) -> absl::Status {
              PAVISE_ASSIGN_OR_RETURN(const auto value, transaction.Get(Table::kRuns, "", "count"));
              const int count = value.has_value() ? std::stoi(std::string(value->RevealText())) : 0;
              PAVISE_RETURN_IF_ERROR(
                  transaction.Put(Table::kRuns, "", "count", Text(std::to_string(count + 1))));
              const std::string entry = StrCat("entry ", i, " ", j);
              return AppendToLedger(transaction, {&entry, 1}).status();
            });
        if (!status.ok()) ++failures;
        // Readers beside it see whole commits only.
        const absl::Status read = store_->Read([&](StoreReader& reader) -> absl::Status {
          PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(reader));
          return ValueOf(reader, Table::kRuns, "", "count") == std::to_string(state.size)
                     ? absl::OkStatus()
                     : absl::InternalError("half a commit");
        });
        if (!read.ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(Get(Table::kRuns, "", "count"), std::to_string(kThreads * kEach));
  store_.reset();
  Open();  // checks rows and ledger
  EXPECT_EQ(Get(Table::kRuns, "", "count"), std::to_string(kThreads * kEach));
}

TEST_P(StoreTest, LimitsAndMisuse) {
  const std::string long_name(kMaxRowNameBytes + 1, 'n');
  const absl::Status named = store_->Commit([&](StoreTransaction& transaction) {
    return transaction.Put(Table::kRuns, "", long_name, Text(""));
  });
  EXPECT_EQ(ReasonOf(named), Reason::kLimitExceeded);
  const absl::Status large = store_->Commit([&](StoreTransaction& transaction) {
    return transaction.Put(Table::kRuns, "", "", SecretBytes(Bytes(kMaxRowBytes + 1)));
  });
  EXPECT_EQ(ReasonOf(large), Reason::kLimitExceeded);
  const absl::Status number = store_->Commit([&](StoreTransaction& transaction) {
    return transaction.PutLedger(LedgerTable::kNodes, uint64_t{1} << 63, Text(""));
  });
  EXPECT_EQ(ReasonOf(number), Reason::kLimitExceeded);
  Put(Table::kRuns, std::string(kMaxRowNameBytes, 'n'), "", std::string(1 << 20, 'v'));
  EXPECT_EQ(Get(Table::kRuns, std::string(kMaxRowNameBytes, 'n'), "").size(), 1u << 20);

  // A ledger is never written over.
  Append({"one"});
  const absl::Status again = store_->Commit([&](StoreTransaction& transaction) {
    return transaction.PutLedger(LedgerTable::kEntries, 0, Text("another"));
  });
  EXPECT_EQ(ExitCodeOf(again), 3);
  const absl::Status twice = store_->Commit([&](StoreTransaction& transaction) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(transaction.PutLedger(LedgerTable::kEntries, 1, Text("a")));
    return transaction.PutLedger(LedgerTable::kEntries, 1, Text("b"));
  });
  EXPECT_EQ(ExitCodeOf(twice), 3);
  EXPECT_EQ(Append({"two"}).size, 2u);
}

TEST_P(StoreTest, OpensOnlyWhatIsThereUnderItsKey) {
  Put(Table::kMeta, "", "a", "1");
  StoreOptions options = database_->options();
  store_.reset();
  options.create = true;
  EXPECT_EQ(ExitCodeOf(TryOpen(options).status()), 2);
  EXPECT_EQ(ReasonOfOpen(/*key=*/2), Reason::kKeyMismatch);
  EXPECT_EQ(ExitCodeOf(Store::Open(options, SecretBytes(Bytes(31))).status()), 2);
  Open();
  EXPECT_EQ(Get(Table::kMeta, "", "a"), "1");
  store_.reset();
  database_->Execute("DELETE FROM state");
  EXPECT_EQ(ReasonOfOpen(), Reason::kFileMissing);
  // Nor does a new one begin over what is left of an old one.
  EXPECT_EQ(ReasonOf(TryOpen(options).status()), Reason::kContentMismatch);
}

TEST_P(StoreTest, StolenDiskShowsNoPlaintext) {
  // Long enough not to be there by chance, in every place that holds something.
  Put(Table::kDeposits, "canary-group-5b1f", "canary-name-77a0", "canary-value-93c2");
  Append({"canary-entry-41dd"});
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(store_->RotateRootKey(TestRootKey(static_cast<uint8_t>(i + 2))).ok());
  }
  const std::string content = database_->Content();
  EXPECT_THAT(content, HasSubstr("ledger_1"));  // it is the database
  EXPECT_EQ(content.find("canary"), std::string::npos);
  EXPECT_EQ(content.find(std::string(32, '\4')), std::string::npos);  // the root key
  EXPECT_EQ(Get(Table::kDeposits, "canary-group-5b1f", "canary-name-77a0"), "canary-value-93c2");
}

constexpr std::string_view kExchangeContents =
    "CREATE TEMP TABLE taken AS SELECT s.sequence, seal, encrypted FROM seals s JOIN contents c ON "
    "c.sequence = s.sequence;"
    "UPDATE seals SET seal = (SELECT o.seal FROM taken o WHERE o.sequence = 3 - seals.sequence) "
    "WHERE sequence <= 2;"
    "UPDATE contents SET encrypted = (SELECT o.encrypted FROM taken o "
    "WHERE o.sequence = 3 - contents.sequence) WHERE sequence <= 2";
constexpr std::string_view kExchangeContentsPostgresql =
    "UPDATE rows SET seal = (SELECT o.seal FROM rows o WHERE o.sequence = 3 - rows.sequence), "
    "encrypted = (SELECT o.encrypted FROM rows o WHERE o.sequence = 3 - rows.sequence) "
    "WHERE sequence <= 2";

// What a forger with the database in hand may do while the broker is stopped.
TEST_P(StoreTest, ChangedRowsAreRefused) {
  struct Forgery {
    std::string sqlite;
    std::string postgresql;  // "": the same, of "rows" where SQLite has "seals"
  };
  const std::vector<Forgery> forgeries = {
      // Contents exchanged, in whole and in part.
      {std::string(kExchangeContents), std::string(kExchangeContentsPostgresql)},
      {"UPDATE contents SET encrypted = (SELECT o.encrypted FROM contents o WHERE o.sequence = 2) "
       "WHERE sequence = 1",
       "UPDATE rows SET encrypted = (SELECT o.encrypted FROM rows o WHERE o.sequence = 2) "
       "WHERE sequence = 1"},
      // Two rows exchange their names.
      {"UPDATE seals SET sequence = sequence + 1000 WHERE sequence <= 2", ""},
      // One is missing, one is of another group.
      {"DELETE FROM seals WHERE sequence = 1", ""},
      {"UPDATE seals SET grouped = substr(seal, 1, 16) WHERE sequence = 1", ""},
      {"UPDATE seals SET seal = grouped WHERE sequence = 2", ""},
      // The ledger's.
      {"DELETE FROM ledger_2 WHERE number = 2", ""},
      {"UPDATE ledger_2 SET sealed = (SELECT o.sealed FROM ledger_2 o WHERE o.number = 1) "
       "WHERE number = 2",
       ""},
      // The state itself.
      {"UPDATE state SET sealed = substr(sealed, 1, 100)", ""},
  };
  for (size_t i = 0; i < forgeries.size(); ++i) {
    const std::string forgery = !GetParam() ? forgeries[i].sqlite
                                : !forgeries[i].postgresql.empty()
                                    ? forgeries[i].postgresql
                                    : absl::StrReplaceAll(forgeries[i].sqlite, {{"seals", "rows"}});
    SCOPED_TRACE(forgery);
    if (i > 0) {
      // A database of its own each time, but on one server.
      store_.reset();
      database_->Execute(
          StrCat("DELETE FROM state; DELETE FROM ledger_1; DELETE FROM ledger_2; ",
                 GetParam() ? "DELETE FROM rows" : "DELETE FROM seals; DELETE FROM contents"));
      Open(/*create=*/true);
    }
    Put(Table::kRuns, "g", "a", "run 1");
    Put(Table::kRuns, "g", "b", "run 2");
    Append({"one", "two"});
    store_.reset();
    Open();
    store_.reset();
    database_->Execute(forgery);
    const absl::StatusOr<std::unique_ptr<Store>> opened = TryOpen(database_->options());
    if (i == 1) {
      // The seal alone is in the set: that it belongs to these bytes shows when they are read.
      ASSERT_TRUE(opened.ok()) << opened.status();
      EXPECT_THAT(ReasonOf((*opened)->Read([](StoreReader& reader) {
                    return reader.Get(Table::kRuns, "g", "a").status();
                  })),
                  Reason::kContentMismatch);
      continue;
    }
    ASSERT_FALSE(opened.ok());
    const std::optional<Reason> reason = ReasonOf(opened.status());
    EXPECT_TRUE(reason == Reason::kContentMismatch || reason == Reason::kMalformed)
        << opened.status();
  }
}

TEST_P(StoreTest, RowsOfAnOlderImageAreRefused) {
  Put(Table::kRuns, "g", "count", "1");
  Append({"entry"});
  store_.reset();
  database_->Execute(GetParam() ? "CREATE TABLE kept AS SELECT * FROM rows"
                                : "CREATE TABLE kept AS SELECT s.sequence, seal, encrypted FROM "
                                  "seals s JOIN contents c ON c.sequence = s.sequence");
  Open();
  Put(Table::kRuns, "g", "count", "2");
  store_.reset();
  for (const std::string column : {"seal", "encrypted"}) {
    const std::string table = GetParam() ? "rows" : column == "seal" ? "seals" : "contents";
    database_->Execute(StrCat("UPDATE ", table, " SET ", column, " = (SELECT k.", column,
                              " FROM kept k WHERE k.sequence = ", table, ".sequence)"));
  }
  EXPECT_EQ(ReasonOfOpen(), Reason::kContentMismatch);
}

TEST_P(StoreTest, RowsChangedUnderARunningBrokerAreNotRead) {
  Put(Table::kRuns, "g", "a", "run 1");
  Put(Table::kRuns, "g", "b", "run 2");
  Append({"one", "two"});
  database_->Execute(std::string(GetParam() ? kExchangeContentsPostgresql : kExchangeContents));
  database_->Execute(
      "UPDATE ledger_1 SET sealed = (SELECT o.sealed FROM ledger_1 o WHERE o.number = 1) "
      "WHERE number = 0");
  const absl::Status row =
      store_->Read([](StoreReader& reader) { return reader.Get(Table::kRuns, "g", "a").status(); });
  EXPECT_EQ(ReasonOf(row), Reason::kContentMismatch) << row;
  const absl::Status list =
      store_->Read([](StoreReader& reader) { return reader.List(Table::kRuns, "g").status(); });
  EXPECT_EQ(ReasonOf(list), Reason::kContentMismatch) << list;
  const absl::Status entry = store_->Read([](StoreReader& reader) {
    const uint64_t index = 0;
    return ReadLedgerEntries(reader, {&index, 1}).status();
  });
  EXPECT_EQ(ReasonOf(entry), Reason::kContentMismatch) << entry;
  const absl::Status checked = store_->CheckRows();
  EXPECT_EQ(ReasonOf(checked), Reason::kContentMismatch) << checked;
}

TEST_P(StoreTest, RotationEncryptsEverythingAnew) {
  for (int i = 0; i < 300; ++i) {
    const std::string name = std::to_string(i);
    Put(static_cast<Table>(1 + i % 10), "g", name, "value " + name);
    if (i == 40) Append(std::vector<std::string>(300, "entry"));
    if (i == 41) i = 295;
  }
  const LedgerState before = Append({"last"});
  ASSERT_TRUE(store_->RotateRootKey(TestRootKey(2)).ok());
  EXPECT_EQ(Get(static_cast<Table>(1 + 40 % 10), "g", "40"), "value 40");
  Put(Table::kMeta, "g", "after", "rotation");
  EXPECT_EQ(ReasonOfOpen(/*key=*/1), Reason::kKeyMismatch);
  Open(/*create=*/false, /*key=*/2);
  for (const int i : {0, 9, 40, 41, 296, 299}) {
    const std::string name = std::to_string(i);
    EXPECT_EQ(Get(static_cast<Table>(1 + i % 10), "g", name), "value " + name);
  }
  EXPECT_EQ(Get(Table::kMeta, "g", "after"), "rotation");
  const LedgerState after = Append({"more"});
  EXPECT_EQ(after.size, before.size + 1);
  EXPECT_EQ(ExitCodeOf(store_->RotateRootKey(SecretBytes(Bytes(16)))), 2);
}

TEST_P(StoreTest, LedgerProvesItsEntries) {
  LedgerState state;
  for (int i = 0; i < 7; ++i) {
    state = Append({StrCat("entry ", 2 * i), StrCat("entry ", 2 * i + 1)});
  }
  ASSERT_EQ(state.size, 14u);
  ASSERT_TRUE(
      store_
          ->Read([&](StoreReader& reader) -> absl::Status {
            const StoreNodes nodes(reader);
            for (uint64_t i = 0; i < state.size; ++i) {
              PAVISE_ASSIGN_OR_RETURN(const auto entries, ReadLedgerEntries(reader, {&i, 1}));
              EXPECT_EQ(entries[0], StrCat("entry ", i));
              PAVISE_ASSIGN_OR_RETURN(const Digest32 leaf, ledger::LeafHash(AsBytes(entries[0])));
              PAVISE_ASSIGN_OR_RETURN(const auto proof,
                                      ledger::InclusionProof(i, state.size, nodes));
              PAVISE_RETURN_IF_ERROR(
                  ledger::VerifyInclusion(leaf, i, state.size, state.root, proof, "entry"));
            }
            const uint64_t beyond = state.size;
            EXPECT_EQ(ReasonOf(ReadLedgerEntries(reader, {&beyond, 1}).status()),
                      Reason::kContentMismatch);
            return absl::OkStatus();
          })
          .ok());
}

// Checkpoints of a log, each countersigned by one witness.
class Witness {
 public:
  ledger::VerifiedCheckpoint Countersigned(const LedgerState& state) {
    auto note = ledger::SignCheckpoint({"broker.example", state.size, state.root}, log_).value();
    ledger::CheckpointTrust trust{
        ledger::NoteKey::Create("broker.example", ledger::NoteKeyKind::kLog, log_.public_key())
            .value(),
        {ledger::NoteKey::Create("witness.example", ledger::NoteKeyKind::kCosigner,
                                 witness_.public_key())
             .value()},
        0};
    const auto seen = ledger::CheckpointVerifier::Verify(note, trust, "checkpoint").value();
    note.signatures.push_back(
        ledger::Cosign(seen, "witness.example", witness_, absl::FromUnixSeconds(1'700'000'000))
            .value());
    trust.cosigners_required = 1;
    return ledger::CheckpointVerifier::Verify(note, trust, "checkpoint").value();
  }

 private:
  crypto::PrivateKey log_ = crypto::PrivateKey::Generate(crypto::KeyType::kEd25519).value();
  crypto::PrivateKey witness_ = crypto::PrivateKey::Generate(crypto::KeyType::kEd25519).value();
};

TEST_P(StoreTest, CountersignedCheckpointsTellAnOldDatabase) {
  Witness witness;
  Append({"one"});
  const LedgerState early = Append({"two"});
  StoreOptions options = database_->options();
  options.checkpoints = {witness.Countersigned(early)};
  const LedgerState late = Append({"three", "four"});
  store_.reset();
  {
    auto opened = TryOpen(options);  // goes on from it
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ((*opened)->GetStatus()->rollback, RollbackDetection::kCheckpoints);
  }
  options.checkpoints.push_back(witness.Countersigned(late));
  EXPECT_TRUE(TryOpen(options).ok());

  LedgerState later = late;
  later.size += 1;
  options.checkpoints = {witness.Countersigned(later)};
  EXPECT_EQ(ReasonOf(TryOpen(options).status()), Reason::kVersionTooOld);
  LedgerState fork = early;
  fork.root[31] ^= 1;
  options.checkpoints = {witness.Countersigned(late), witness.Countersigned(fork)};
  EXPECT_EQ(ReasonOf(TryOpen(options).status()), Reason::kTransparencyInvalid);
}

// SQLite only, from here on.
absl::Status PutIn(Store& store) {
  return store.Commit([](StoreTransaction& transaction) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "g", "a", Text("run 1")));
    return transaction.Put(Table::kRuns, "g", "b", Text("run 2"));
  });
}

class SqliteStoreTest : public ::testing::Test {
 protected:
  StoreOptions Options(bool create = false) {
    StoreOptions options;
    options.location = directory_ / "store.db";
    options.create = create;
    options.counter = counter_;
    return options;
  }
  void Open(bool create = false) {
    auto opened = Store::Open(Options(create), TestRootKey(1));
    ASSERT_TRUE(opened.ok()) << opened.status();
    store_ = *std::move(opened);
  }
  std::optional<Reason> ReasonOfOpen() {
    store_.reset();
    return ReasonOf(Store::Open(Options(), TestRootKey(1)).status());
  }
  absl::Status Put(std::string_view value) {
    return store_->Commit([&](StoreTransaction& transaction) {
      return transaction.Put(Table::kMeta, "", "value", Text(value));
    });
  }
  std::string Value() {
    std::string value;
    const absl::Status status = store_->Read([&](StoreReader& reader) {
      value = ValueOf(reader, Table::kMeta, "", "value");
      return absl::OkStatus();
    });
    return status.ok() ? value : status.ToString();
  }
  // Of a stopped store.
  void CopyImage(const std::string& from, const std::string& to) {
    for (const std::string end : {"", "-wal"}) {
      std::filesystem::remove(directory_ / (to + end));
      if (std::filesystem::exists(directory_ / (from + end))) {
        std::filesystem::copy_file(directory_ / (from + end), directory_ / (to + end));
      }
    }
    std::filesystem::remove(directory_ / (to + "-shm"));
  }

  pavise::testing::TemporaryDirectory directory_;
  FileCounter file_counter_{directory_ / "counter"};
  MonotonicCounter* counter_ = &file_counter_;
  std::unique_ptr<Store> store_;
};

TEST_F(SqliteStoreTest, FilesAreTheOwnersAlone) {
  Open(/*create=*/true);
  ASSERT_TRUE(Put("1").ok());
  for (const std::string name : {"store.db", "store.db-wal", "store.db.lock"}) {
    EXPECT_EQ(std::filesystem::status(directory_ / name).permissions() &
                  (std::filesystem::perms::group_all | std::filesystem::perms::others_all),
              std::filesystem::perms::none)
        << name;
  }
  // One process, one opening.
  EXPECT_EQ(ReasonOf(Store::Open(Options(), TestRootKey(1)).status()), Reason::kFileUnstable);
}

TEST_F(SqliteStoreTest, DamagedFilesAreRefused) {
  Open(/*create=*/true);
  ASSERT_TRUE(Put("1").ok());
  store_.reset();
  std::string content = pavise::testing::ContentOf(directory_ / "store.db");
  directory_.Write("store.db", "no database" + content.substr(11));
  EXPECT_EQ(ReasonOfOpen(), Reason::kContentMismatch);
  // An index that does not show a row: its scan is right, and yet it would seem absent.
  directory_.Write("store.db", content);
  Open();
  store_.reset();
  StoreOptions absent = Options();
  absent.location = directory_ / "nothing.db";
  EXPECT_EQ(ReasonOf(Store::Open(absent, TestRootKey(1)).status()), Reason::kFileMissing);
  absent.location = directory_ / "no/folder.db";
  EXPECT_EQ(ReasonOf(Store::Open(absent, TestRootKey(1)).status()), Reason::kFileUnreadable);
}

// Rows that are there, and that a lookup would not find: as if a session had not been revoked.
TEST_F(SqliteStoreTest, RowsHiddenByAnIndexAreRefused) {
  for (const std::string index : {"seals_by_id", "seals_by_group"}) {
    SCOPED_TRACE(index);
    const auto database = testing::MakeSqliteDatabase();
    StoreOptions options = database->options();
    options.create = true;
    ASSERT_TRUE(PutIn(*Store::Open(options, TestRootKey(1)).value()).ok());
    options.create = false;
    database->Execute(
        StrCat("CREATE TABLE kept AS SELECT * FROM seals WHERE sequence = 1;"
               "DELETE FROM seals WHERE sequence = 1;"
               "CREATE TABLE kept_index AS SELECT * FROM sqlite_schema WHERE name = '",
               index, "'; PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = '",
               index, "'"));
    database->Execute(
        "INSERT INTO seals SELECT * FROM kept; PRAGMA writable_schema = ON;"
        "INSERT INTO sqlite_schema SELECT * FROM kept_index; DROP TABLE kept");
    const absl::Status opened = Store::Open(options, TestRootKey(1)).status();
    EXPECT_EQ(ReasonOf(opened), Reason::kContentMismatch) << opened;
    // Made anew, it says what the table says.
    database->Execute("REINDEX");
    EXPECT_TRUE(Store::Open(options, TestRootKey(1)).ok());
  }
}

TEST_F(SqliteStoreTest, ARowWithoutItsContentIsNotAbsent) {
  const auto database = testing::MakeSqliteDatabase();
  StoreOptions options = database->options();
  options.create = true;
  ASSERT_TRUE(PutIn(*Store::Open(options, TestRootKey(1)).value()).ok());
  options.create = false;
  database->Execute("DELETE FROM contents WHERE sequence = 1");
  const auto store = Store::Open(options, TestRootKey(1));
  ASSERT_TRUE(store.ok()) << store.status();
  const absl::Status read = (*store)->Read(
      [](StoreReader& reader) { return reader.Get(Table::kRuns, "g", "a").status(); });
  EXPECT_EQ(ReasonOf(read), Reason::kContentMismatch) << read;
}

TEST_F(SqliteStoreTest, TheFirstLayoutIsTakenOverAndALaterOneRefused) {
  constexpr std::string_view kFirstLayout =
      "CREATE TABLE rows (sequence INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, grouped BLOB NOT "
      "NULL, seal BLOB NOT NULL, encrypted BLOB NOT NULL);"
      "CREATE UNIQUE INDEX rows_of_group ON rows (grouped, sequence);"
      "INSERT INTO rows SELECT s.sequence, id, grouped, seal, encrypted FROM seals s JOIN contents "
      "c ON c.sequence = s.sequence; DROP TABLE seals; DROP TABLE contents;"
      "PRAGMA user_version = 0";
  const auto database = testing::MakeSqliteDatabase();
  StoreOptions options = database->options();
  options.create = true;
  ASSERT_TRUE(PutIn(*Store::Open(options, TestRootKey(1)).value()).ok());
  options.create = false;
  database->Execute(std::string(kFirstLayout));
  for (int i = 0; i < 2; ++i) {
    const auto store = Store::Open(options, TestRootKey(1));
    ASSERT_TRUE(store.ok()) << store.status();
    EXPECT_TRUE((*store)
                    ->Read([](StoreReader& reader) {
                      EXPECT_EQ(ValueOf(reader, Table::kRuns, "g", "a"), "run 1");
                      EXPECT_THAT(NamesOf(reader, Table::kRuns, "g"),
                                  ElementsAre("a=run 1", "b=run 2"));
                      return absl::OkStatus();
                    })
                    .ok());
    EXPECT_EQ((*store)->GetStatus()->rows, 2u);
  }
  // Nothing is believed of it that would not be of a store of this layout.
  database->Execute(std::string(kFirstLayout));
  database->Execute("DELETE FROM rows WHERE sequence = 1");
  EXPECT_EQ(ReasonOf(Store::Open(options, TestRootKey(1)).status()), Reason::kContentMismatch);
  database->Execute("PRAGMA user_version = 3");
  const absl::Status later = Store::Open(options, TestRootKey(1)).status();
  EXPECT_EQ(ReasonOf(later), Reason::kUnsupported) << later;
}

TEST_F(SqliteStoreTest, ADatabaseWithMoreThanAStoreHasIsRefused) {
  for (const char* more : {"CREATE INDEX seals_0 ON seals (id, seal)",
                           "CREATE TRIGGER t AFTER INSERT ON seals BEGIN DELETE FROM seals; END",
                           "DROP INDEX seals_by_group; CREATE UNIQUE INDEX seals_by_group ON seals "
                           "(grouped, sequence) WHERE sequence > 1"}) {
    SCOPED_TRACE(more);
    const auto database = testing::MakeSqliteDatabase();
    StoreOptions options = database->options();
    options.create = true;
    ASSERT_TRUE(PutIn(*Store::Open(options, TestRootKey(1)).value()).ok());
    options.create = false;
    database->Execute(more);
    EXPECT_EQ(ReasonOf(Store::Open(options, TestRootKey(1)).status()), Reason::kContentMismatch);
  }
}

TEST_F(SqliteStoreTest, OldImagesAreRefused) {
  Open(/*create=*/true);
  EXPECT_EQ(store_->GetStatus()->rollback, RollbackDetection::kCounter);
  ASSERT_TRUE(Put("1").ok());
  store_.reset();
  CopyImage("store.db", "old.db");
  Open();
  ASSERT_TRUE(Put("2").ok());
  store_.reset();
  CopyImage("store.db", "new.db");

  CopyImage("old.db", "store.db");
  const absl::Status refused = Store::Open(Options(), TestRootKey(1)).status();
  EXPECT_EQ(ReasonOf(refused), Reason::kVersionTooOld);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("old disk image"));
  EXPECT_THAT(RefusalsOf(refused)[0].remedy, HasSubstr("newest image"));
  // Without the counter, it is not a matter of opinion.
  counter_ = nullptr;
  EXPECT_EQ(ReasonOfOpen(), Reason::kEvidenceMissing);
  // A counter of somebody else's.
  FileCounter other(directory_ / "other");
  ASSERT_TRUE(other.Create(TestRootKey(9)).ok());
  counter_ = &other;
  EXPECT_FALSE(Store::Open(Options(), TestRootKey(1)).ok());
  counter_ = &file_counter_;
  CopyImage("new.db", "store.db");
  Open();
  EXPECT_EQ(Value(), "2");
  // Even starting and stopping makes an image old.
  store_.reset();
  CopyImage("new.db", "store.db");
  EXPECT_EQ(ReasonOfOpen(), Reason::kVersionTooOld);

  // The drill: this image, and from now on no other.
  CopyImage("store.db", "accepted.db");
  StoreOptions accept = Options();
  accept.accept_image = true;
  auto accepted = Store::Open(accept, TestRootKey(1));
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  store_ = *std::move(accepted);
  EXPECT_EQ(Value(), "2");
  store_.reset();
  Open();
  store_.reset();
  for (const char* image : {"old.db", "new.db", "accepted.db"}) {
    CopyImage(image, "store.db");
    EXPECT_FALSE(Store::Open(Options(), TestRootKey(1)).ok()) << image;
  }
}

TEST_F(SqliteStoreTest, AnImageFromBeforeTheCounterIsRefused) {
  counter_ = nullptr;
  Open(/*create=*/true);
  EXPECT_EQ(store_->GetStatus()->rollback, RollbackDetection::kNone);
  ASSERT_TRUE(Put("1").ok());
  counter_ = &file_counter_;
  EXPECT_EQ(ReasonOfOpen(), Reason::kVersionTooOld);
  StoreOptions accept = Options();
  accept.accept_image = true;
  EXPECT_TRUE(Store::Open(accept, TestRootKey(1)).ok());
  Open();
  EXPECT_EQ(Value(), "1");
}

TEST_F(SqliteStoreTest, DurableButNotCountedIsFinishedAtStart) {
  Open(/*create=*/true);
  ASSERT_TRUE(Put("1").ok());
  for (const auto failure : {FileCounter::Failure::kBefore, FileCounter::Failure::kAfter}) {
    file_counter_.fail_next = failure;
    EXPECT_EQ(ExitCodeOf(Put("2")), 3);
    // Nobody is told what might still be undone, and nothing goes on.
    EXPECT_THAT(Value(), HasSubstr("told to fail"));
    EXPECT_EQ(ExitCodeOf(Put("3")), 3);
    EXPECT_FALSE(store_->GetStatus().ok());
    store_.reset();
    Open();
    EXPECT_EQ(Value(), "2");
    ASSERT_TRUE(Put("1").ok());
  }
}

// A disk on which the last batch of an earlier run took another course: both begin at one number.
TEST_F(SqliteStoreTest, TheOtherCourseOfAnUnfinishedBatchIsRefused) {
  Open(/*create=*/true);
  ASSERT_TRUE(Put("1").ok());
  store_.reset();
  CopyImage("store.db", "before.db");
  const std::string counter = pavise::testing::ContentOf(directory_ / "counter");
  Open();  // durable and counted: start batch
  store_.reset();
  CopyImage("before.db", "store.db");
  directory_.Write("counter", counter);
  // The same start, now stopped between disk and counter, and its image kept.
  file_counter_.fail_next = FileCounter::Failure::kBefore;
  EXPECT_FALSE(Store::Open(Options(), TestRootKey(1)).ok());
  CopyImage("store.db", "other.db");
  // The forger shows the disk without it, and the broker goes on from there.
  CopyImage("before.db", "store.db");
  Open();
  ASSERT_TRUE(Put("2").ok());
  store_.reset();
  CopyImage("other.db", "store.db");
  EXPECT_EQ(ReasonOfOpen(), Reason::kVersionTooOld);
}

TEST_F(SqliteStoreTest, FullDiskLosesNothing) {
  const std::string small = directory_ / "small";
  std::filesystem::create_directory(small);
  if (mount("tmpfs", small.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "no tmpfs can be mounted here: " << strerror(errno);
  }
  StoreOptions options;
  options.location = small + "/store.db";
  options.create = true;
  auto opened = Store::Open(options, TestRootKey(1));
  ASSERT_TRUE(opened.ok()) << opened.status();
  store_ = *std::move(opened);
  ASSERT_TRUE(Put("kept").ok());
  int written = 0;
  absl::Status status;
  while (status.ok() && written < 100) {
    status = store_->Commit([&](StoreTransaction& transaction) -> absl::Status {
      PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kMeta, "", "value", Text("lost")));
      return transaction.Put(Table::kOutputs, "", std::to_string(written),
                             SecretBytes(Bytes(64 << 10)));
    });
    if (status.ok()) ++written;
  }
  EXPECT_EQ(ReasonOf(status), Reason::kStorageFull) << status;
  EXPECT_GT(written, 0);
  EXPECT_TRUE(store_->CheckRows().ok());
  EXPECT_EQ(store_->GetStatus()->rows, 1u + static_cast<unsigned>(written));
  // Room again: it goes on, and is whole after a restart.
  ASSERT_EQ(mount("tmpfs", small.c_str(), "tmpfs", MS_REMOUNT, "size=8m"), 0);
  EXPECT_TRUE(Put("after").ok());
  store_.reset();
  options.create = false;
  {
    auto again = Store::Open(options, TestRootKey(1));
    ASSERT_TRUE(again.ok()) << again.status();
    store_ = *std::move(again);
    EXPECT_EQ(Value(), "after");
  }
  store_.reset();
  EXPECT_EQ(umount(small.c_str()), 0);
}

// PostgreSQL only.
class PostgresqlStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string missing = testing::PostgresqlCluster::Missing();
    if (!missing.empty()) GTEST_SKIP() << missing;
    cluster_ = testing::PostgresqlCluster::Start();
    ASSERT_NE(cluster_, nullptr);
  }
  StoreOptions Options(bool create = false) const {
    StoreOptions options;
    options.kind = StoreOptions::Kind::kPostgresql;
    options.location = cluster_->location();
    options.create = create;
    return options;
  }
  static absl::Status Append(Store& store, std::string entry) {
    return store.Commit([&](StoreTransaction& transaction) {
      return AppendToLedger(transaction, {&entry, 1}).status();
    });
  }
  static uint64_t SizeOf(Store& store) {
    uint64_t size = 0;
    const absl::Status status = store.Read([&](StoreReader& reader) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(reader));
      size = state.size;
      return CheckLedger(reader, {});
    });
    EXPECT_TRUE(status.ok()) << status;
    return size;
  }

  std::unique_ptr<testing::PostgresqlCluster> cluster_;
};

TEST_F(PostgresqlStoreTest, BrokersSideBySideShareOneLedger) {
  auto first = Store::Open(Options(/*create=*/true), TestRootKey(1));
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = Store::Open(Options(), TestRootKey(1));
  ASSERT_TRUE(second.ok()) << second.status();
  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 15; ++j) {
        if (!Append(i % 2 == 0 ? **first : **second, StrCat(i, " ", j)).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(SizeOf(**first), 90u);
  EXPECT_EQ(SizeOf(**second), 90u);
  // One goes, the other carries on.
  first->reset();
  EXPECT_TRUE(Append(**second, "alone").ok());
  EXPECT_EQ(SizeOf(**second), 91u);
  EXPECT_TRUE((*second)->CheckRows().ok());
}

TEST_F(PostgresqlStoreTest, ConnectsAgainAfterTheServerWentAway) {
  auto store = Store::Open(Options(/*create=*/true), TestRootKey(1));
  ASSERT_TRUE(store.ok()) << store.status();
  ASSERT_TRUE(Append(**store, "before").ok());
  EXPECT_EQ(SizeOf(**store), 1u);
  cluster_->Restart();
  EXPECT_EQ(SizeOf(**store), 1u);
  cluster_->Restart();
  EXPECT_TRUE(Append(**store, "after").ok());
  EXPECT_EQ(SizeOf(**store), 2u);
  // Once more, while a batch is under way: it runs again.
  int runs = 0;
  const absl::Status status = (*store)->Commit([&](StoreTransaction& transaction) {
    if (++runs == 1) cluster_->Restart();
    const std::string entry = "during";
    return AppendToLedger(transaction, {&entry, 1}).status();
  });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(SizeOf(**store), 3u);
}

TEST_F(PostgresqlStoreTest, AnotherBrokersRotationStopsThisOne) {
  auto first = Store::Open(Options(/*create=*/true), TestRootKey(1));
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = Store::Open(Options(), TestRootKey(1));
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_TRUE((*first)->RotateRootKey(TestRootKey(2)).ok());
  // Rows that seem absent would be worse than an error.
  const absl::Status read = (*second)->Read([](StoreReader&) { return absl::OkStatus(); });
  EXPECT_EQ(ReasonOf(read), Reason::kKeyMismatch) << read;
  EXPECT_EQ(ReasonOf(Append(**second, "late")), Reason::kKeyMismatch);
  EXPECT_TRUE(Append(**first, "new key").ok());
  EXPECT_TRUE(Store::Open(Options(), TestRootKey(2)).ok());
}

TEST_F(PostgresqlStoreTest, TakesNoCounter) {
  pavise::testing::TemporaryDirectory directory;
  FileCounter counter(directory / "counter");
  StoreOptions options = Options(/*create=*/true);
  options.counter = &counter;
  EXPECT_EQ(ExitCodeOf(Store::Open(options, TestRootKey(1)).status()), 2);
}

}  // namespace
}  // namespace pavise::broker
