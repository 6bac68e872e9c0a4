#include "pavise/broker/testing/test_databases.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include <pqxx/pqxx>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"

#include "gtest/gtest.h"

namespace pavise::broker::testing {
namespace {

using crypto::testing::CommandResult;
using crypto::testing::RunCommand;

// The newest of Debian's folders with initdb; "" where there is none.
std::string ProgramsFolder() {
  std::string newest;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", ignored)) {
    const std::string folder = entry.path() / "bin";
    if (access((folder + "/initdb").c_str(), X_OK) == 0) newest = std::max(newest, folder);
  }
  return newest;
}

// PostgreSQL's programs do not run as root.
std::string AsUser(const std::string& command) {
  return geteuid() == 0 ? "cd / && runuser -u postgres -- " + command : command;
}

std::string ContentBelow(const std::string& path) {
  std::string content;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) content += pavise::testing::ContentOf(entry.path());
  }
  return content;
}

class SqliteDatabase final : public TestDatabase {
 public:
  StoreOptions options() const override {
    StoreOptions options;
    options.location = directory_ / "store.db";
    return options;
  }
  void Execute(const std::string& sql) override {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(options().location.c_str(), &database), SQLITE_OK);
    char* message = nullptr;
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, &message), SQLITE_OK)
        << (message != nullptr ? message : "");
    sqlite3_free(message);
    sqlite3_close(database);
  }
  std::string Content() override { return ContentBelow(directory_.path()); }

 private:
  pavise::testing::TemporaryDirectory directory_;
};

class PostgresqlDatabase final : public TestDatabase {
 public:
  explicit PostgresqlDatabase(std::unique_ptr<PostgresqlCluster> cluster)
      : cluster_(std::move(cluster)) {}
  StoreOptions options() const override {
    StoreOptions options;
    options.kind = StoreOptions::Kind::kPostgresql;
    options.location = cluster_->location();
    return options;
  }
  void Execute(const std::string& sql) override {
    std::string prefixed = sql;
    for (const std::string name : {"rows", "state", "ledger_1", "ledger_2"}) {
      for (size_t at = 0; (at = prefixed.find(name, at)) != std::string::npos;) {
        prefixed.insert(at, "pavise_");
        at += 7 + name.size();
      }
    }
    try {
      pqxx::connection connection(cluster_->location());
      pqxx::work work(connection);
      work.exec(prefixed);
      work.commit();
    } catch (const std::exception& exception) {
      ADD_FAILURE() << prefixed << ": " << exception.what();
    }
  }
  std::string Content() override {
    // From memory to the files.
    pqxx::connection connection(cluster_->location());
    pqxx::nontransaction(connection).exec("CHECKPOINT");
    return ContentBelow(cluster_->path());
  }

 private:
  std::unique_ptr<PostgresqlCluster> cluster_;
};

}  // namespace

std::string PostgresqlCluster::Missing() {
  if (ProgramsFolder().empty()) return "PostgreSQL's server is not installed";
  if (geteuid() == 0 && !crypto::testing::HasProgram("runuser")) return "no runuser";
  return "";
}

std::unique_ptr<PostgresqlCluster> PostgresqlCluster::Start() {
  std::unique_ptr<PostgresqlCluster> cluster(new PostgresqlCluster());
  // Its owner is another user.
  const std::string data = cluster->path() + "/data";
  std::filesystem::create_directory(data);
  chmod(cluster->path().c_str(), 0755);
  if (geteuid() == 0) {
    const CommandResult owned = RunCommand("chown postgres " + data);
    EXPECT_EQ(owned.exit_code, 0) << owned.output;
  }
  const CommandResult made = RunCommand(AsUser(
      ProgramsFolder() + "/initdb -N -A trust -U pavise --locale=C -E UTF8 -D " + data + " 2>&1"));
  if (made.exit_code != 0) {
    ADD_FAILURE() << made.output;
    return nullptr;
  }
  return cluster->StartServer() ? std::move(cluster) : nullptr;
}

std::string PostgresqlCluster::Control(std::string_view arguments) const {
  return StrCat(ProgramsFolder(), "/pg_ctl -s -w -D ", path(), "/data -l ", path(), "/data/log ",
                arguments);
}

bool PostgresqlCluster::StartServer() {
  const CommandResult started =
      RunCommand(AsUser(Control(StrCat("-o \"-k ", path(), "/data -h ''\" start"))));
  running_ = started.exit_code == 0;
  if (!running_) ADD_FAILURE() << started.output << crypto::testing::ReadText(path() + "/data/log");
  return running_;
}

void PostgresqlCluster::Restart() {
  const CommandResult stopped = RunCommand(AsUser(Control("-m immediate stop")));
  EXPECT_EQ(stopped.exit_code, 0) << stopped.output;
  StartServer();
}

PostgresqlCluster::~PostgresqlCluster() {
  if (running_) RunCommand(AsUser(Control("-m immediate stop")));
}

std::string PostgresqlCluster::location() const {
  return "host=" + path() + "/data user=pavise dbname=postgres";
}

std::unique_ptr<TestDatabase> MakeSqliteDatabase() { return std::make_unique<SqliteDatabase>(); }

std::unique_ptr<TestDatabase> MakePostgresqlDatabase() {
  std::unique_ptr<PostgresqlCluster> cluster = PostgresqlCluster::Start();
  if (cluster == nullptr) return nullptr;
  return std::make_unique<PostgresqlDatabase>(std::move(cluster));
}

absl::StatusOr<std::string> FileCounter::Create(const SecretBytes& secret) {
  // Like a TPM's, it goes on from the highest that there ever was.
  uint64_t value = 0;
  if (const auto old = ReadFile(path_, 40); old.ok()) value = LoadLittleEndian64(*old, 0);
  Bytes content;
  AppendLittleEndian64(value + 1, content);
  content.insert(content.end(), secret.Reveal().begin(), secret.Reveal().end());
  PAVISE_RETURN_IF_ERROR(WriteFileAtomically(path_, content));
  return "file counter";
}

absl::StatusOr<uint64_t> FileCounter::Read(const std::string&, const SecretBytes& secret) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path_, 40));
  if (!ConstantTimeEquals(ByteSpan(content).subspan(8), secret.Reveal())) {
    return MachineFailure("file counter", "another secret");
  }
  return LoadLittleEndian64(content, 0);
}

absl::StatusOr<uint64_t> FileCounter::Advance(const std::string& name, const SecretBytes& secret) {
  const Failure failure = std::exchange(fail_next, Failure::kNone);
  if (failure == Failure::kBefore) return MachineFailure("file counter", "told to fail");
  PAVISE_ASSIGN_OR_RETURN(const uint64_t value, Read(name, secret));
  Bytes content;
  AppendLittleEndian64(value + 1, content);
  content.insert(content.end(), secret.Reveal().begin(), secret.Reveal().end());
  PAVISE_RETURN_IF_ERROR(WriteFileAtomically(path_, content));
  if (failure == Failure::kAfter) return MachineFailure("file counter", "told to fail");
  return value + 1;
}

SecretBytes TestRootKey(uint8_t value) { return SecretBytes(Bytes(32, value)); }

}  // namespace pavise::broker::testing
