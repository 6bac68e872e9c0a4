#include <benchmark/benchmark.h>
#include <sqlite3.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/ledger/merkle_tree.h"

// A ledger of many entries in a SQLite file, its nodes in rows as the broker's store keeps them:
// one a node, under its position, 60 bytes (a hash under AES-256-GCM; what is stored here is the
// hash and zeros). Every answer is verified before anything is timed. The file is made in $TMPDIR,
// else /tmp, and takes 1.6 GB for 10 million entries; it stays in the page cache, so what is
// measured is the work and not the disk.
namespace pavise::ledger {
namespace {

constexpr size_t kRowBytes = 60;

struct CloseDatabase {
  void operator()(sqlite3* database) const { sqlite3_close(database); }
};
struct FinalizeStatement {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Database = std::unique_ptr<sqlite3, CloseDatabase>;
using Statement = std::unique_ptr<sqlite3_stmt, FinalizeStatement>;

Database Open(const std::string& path) {
  sqlite3* database = nullptr;
  if (sqlite3_open(path.c_str(), &database) != SQLITE_OK) std::abort();
  return Database(database);
}

Statement Prepare(const Database& database, const char* text) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(database.get(), text, -1, &statement, nullptr) != SQLITE_OK) std::abort();
  return Statement(statement);
}

void Execute(const Database& database, const char* text) {
  if (sqlite3_exec(database.get(), text, nullptr, nullptr, nullptr) != SQLITE_OK) std::abort();
}

class SqliteNodes final : public NodeReader {
 public:
  explicit SqliteNodes(const std::string& path)
      : database_(Open(path)),
        select_(Prepare(database_, "SELECT hash FROM nodes WHERE position = ?")) {}

  absl::StatusOr<std::vector<Digest32>> ReadNodes(
      std::span<const uint64_t> positions) const override {
    std::vector<Digest32> nodes(positions.size());
    for (size_t i = 0; i < positions.size(); ++i) {
      sqlite3_reset(select_.get());
      sqlite3_bind_int64(select_.get(), 1, static_cast<int64_t>(positions[i]));
      if (sqlite3_step(select_.get()) != SQLITE_ROW ||
          sqlite3_column_bytes(select_.get(), 0) != static_cast<int>(kRowBytes)) {
        return MachineFailure("nodes", "no such row");
      }
      const auto* const row = static_cast<const uint8_t*>(sqlite3_column_blob(select_.get(), 0));
      std::copy_n(row, nodes[i].size(), nodes[i].begin());
    }
    return nodes;
  }

 private:
  Database database_;
  Statement select_;
};

// Made once a size, removed at the end of the program.
class LogFile {
 public:
  explicit LogFile(uint64_t size) : size_(size) {
    const char* const folder = std::getenv("TMPDIR");
    path_ = StrCat(folder != nullptr ? folder : "/tmp", "/pavise-ledger-bench-XXXXXX");
    const int file = mkstemp(path_.data());
    if (file < 0) std::abort();
    close(file);
    const Database database = Open(path_);
    Execute(database, "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF");
    Execute(database, "CREATE TABLE nodes (position INTEGER PRIMARY KEY, hash BLOB NOT NULL)");
    Execute(database, "BEGIN");
    const Statement insert = Prepare(database, "INSERT INTO nodes VALUES (?, ?)");
    MerkleFrontier frontier;
    std::vector<Digest32> nodes;
    int64_t position = 0;
    std::array<uint8_t, kRowBytes> row{};
    for (uint64_t i = 0; i < size; ++i) {
      nodes.clear();
      if (!frontier.Append(*LeafOf(i), nodes).ok()) std::abort();
      for (const Digest32& node : nodes) {
        std::copy(node.begin(), node.end(), row.begin());
        sqlite3_reset(insert.get());
        sqlite3_bind_int64(insert.get(), 1, position++);
        sqlite3_bind_blob(insert.get(), 2, row.data(), static_cast<int>(row.size()), SQLITE_STATIC);
        if (sqlite3_step(insert.get()) != SQLITE_DONE) std::abort();
      }
    }
    Execute(database, "COMMIT");
    root_ = *frontier.Root();
  }
  ~LogFile() { std::remove(path_.c_str()); }
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  static absl::StatusOr<Digest32> LeafOf(uint64_t index) {
    return LeafHash(AsBytes(StrCat("entry ", index)));
  }
  static const LogFile& Of(uint64_t size) {
    static std::unique_ptr<LogFile> file;
    if (file == nullptr || file->size_ != size) file = std::make_unique<LogFile>(size);
    return *file;
  }

  const std::string& path() const { return path_; }
  const Digest32& root() const { return root_; }

 private:
  uint64_t size_;
  std::string path_;
  Digest32 root_{};
};

std::vector<uint64_t> SomeIndices(uint64_t size) {
  std::mt19937_64 random(1);  // NOLINT(cert-msc51-cpp): the same indices in every run
  std::vector<uint64_t> indices(1000);
  for (uint64_t& index : indices) index = random() % size;
  return indices;
}

void BM_InclusionProof(benchmark::State& state) {
  const auto size = static_cast<uint64_t>(state.range(0));
  const LogFile& log = LogFile::Of(size);
  const SqliteNodes nodes(log.path());
  const std::vector<uint64_t> indices = SomeIndices(size);
  for (const uint64_t index : indices) {
    const auto proof = InclusionProof(index, size, nodes);
    if (!proof.ok() ||
        !VerifyInclusion(*LogFile::LeafOf(index), index, size, log.root(), *proof, "entry").ok()) {
      state.SkipWithError("a proof that proves nothing");
      return;
    }
  }
  size_t next = 0;
  for (auto _ : state) {
    auto proof = InclusionProof(indices[next++ % indices.size()], size, nodes);
    benchmark::DoNotOptimize(proof);
  }
}
BENCHMARK(BM_InclusionProof)->ArgName("entries")->Arg(10'000'000)->Unit(benchmark::kMicrosecond);

void BM_ConsistencyProof(benchmark::State& state) {
  const auto size = static_cast<uint64_t>(state.range(0));
  const LogFile& log = LogFile::Of(size);
  const SqliteNodes nodes(log.path());
  const std::vector<uint64_t> indices = SomeIndices(size);
  for (const uint64_t index : indices) {
    const auto proof = ConsistencyProof(index, size, nodes);
    if (!proof.ok() ||
        !VerifyConsistency(index, *RootOf(index, nodes), size, log.root(), *proof, "log").ok()) {
      state.SkipWithError("a proof that proves nothing");
      return;
    }
  }
  size_t next = 0;
  for (auto _ : state) {
    auto proof = ConsistencyProof(indices[next++ % indices.size()], size, nodes);
    benchmark::DoNotOptimize(proof);
  }
}
BENCHMARK(BM_ConsistencyProof)->ArgName("entries")->Arg(10'000'000)->Unit(benchmark::kMicrosecond);

// What a broker does before it can append and sign: open the file, read the frontier, compute the
// root.
void BM_StartUp(benchmark::State& state) {
  const auto size = static_cast<uint64_t>(state.range(0));
  const LogFile& log = LogFile::Of(size);
  for (auto _ : state) {
    const SqliteNodes nodes(log.path());
    if (*RootOf(size, nodes) != log.root()) {
      state.SkipWithError("another root");
      return;
    }
  }
}
BENCHMARK(BM_StartUp)->ArgName("entries")->Arg(10'000'000)->Unit(benchmark::kMicrosecond);

// Hashing alone, of an entry of 1 KiB.
void BM_Append(benchmark::State& state) {
  MerkleFrontier frontier;
  const std::string entry(1024, 'e');
  std::vector<Digest32> nodes;
  for (auto _ : state) {
    nodes.clear();
    if (!frontier.Append(*LeafHash(AsBytes(entry)), nodes).ok()) state.SkipWithError("refused");
  }
}
BENCHMARK(BM_Append);

}  // namespace
}  // namespace pavise::ledger

BENCHMARK_MAIN();
