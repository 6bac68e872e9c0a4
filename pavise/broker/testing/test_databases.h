#ifndef PAVISE_BROKER_TESTING_TEST_DATABASES_H_
#define PAVISE_BROKER_TESTING_TEST_DATABASES_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/store.h"

namespace pavise::broker::testing {

// A PostgreSQL server of its own on a unix socket in a temporary folder, with Debian's programs,
// stopped when this goes.
class PostgresqlCluster {
 public:
  // Why there can be none here; "" where there can. For GTEST_SKIP.
  static std::string Missing();
  // A test failure and nullptr where it does not start.
  static std::unique_ptr<PostgresqlCluster> Start();
  ~PostgresqlCluster();
  PostgresqlCluster(const PostgresqlCluster&) = delete;
  PostgresqlCluster& operator=(const PostgresqlCluster&) = delete;

  // libpq's connection string.
  std::string location() const;
  const std::string& path() const { return directory_.path(); }
  // As after a crash of the machine: nothing is flushed.
  void Restart();

 private:
  PostgresqlCluster() = default;
  std::string Control(std::string_view arguments) const;
  bool StartServer();
  pavise::testing::TemporaryDirectory directory_;
  bool running_ = false;
};

// A database for one test, and what a thief or a forger does to it.
class TestDatabase {
 public:
  virtual ~TestDatabase() = default;
  virtual StoreOptions options() const = 0;
  // Statements of SQL with "rows", "state", "ledger_1", ... as the backend names them.
  virtual void Execute(const std::string& sql) = 0;
  // Everything that lies on the disk.
  virtual std::string Content() = 0;
};

std::unique_ptr<TestDatabase> MakeSqliteDatabase();
// nullptr after a test failure.
std::unique_ptr<TestDatabase> MakePostgresqlDatabase();

// A counter in a file, which survives the process that advances it.
class FileCounter final : public MonotonicCounter {
 public:
  explicit FileCounter(std::string path) : path_(std::move(path)) {}
  absl::StatusOr<std::string> Create(const SecretBytes& secret) override;
  absl::StatusOr<uint64_t> Read(const std::string& name, const SecretBytes& secret) override;
  absl::StatusOr<uint64_t> Advance(const std::string& name, const SecretBytes& secret) override;

  // The next Advance fails, before or after it has counted.
  enum class Failure { kNone, kBefore, kAfter } fail_next = Failure::kNone;

 private:
  std::string path_;
};

// 32 bytes of this value.
SecretBytes TestRootKey(uint8_t value);

}  // namespace pavise::broker::testing

#endif  // PAVISE_BROKER_TESTING_TEST_DATABASES_H_
