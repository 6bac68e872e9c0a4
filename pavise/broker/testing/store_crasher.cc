// Commits releases from several threads and writes each one's name to standard output when it is
// committed, as a broker hands out a key; ends itself with SIGKILL at one step of one commit.
// store_crasher DATABASE COUNTER PREFIX STEP OCCURRENCE (of the step; 0: never)

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/store.h"
#include "pavise/broker/store_ledger.h"
#include "pavise/broker/testing/test_databases.h"

namespace pavise::broker {
namespace {

absl::Status Release(Store& store, const std::string& name) {
  const absl::Status committed = store.Commit([&](StoreTransaction& transaction) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(transaction.Put(Table::kRuns, "releases", name, SecretBytes(name)));
    return AppendToLedger(transaction, {&name, 1}).status();
  });
  PAVISE_RETURN_IF_ERROR(committed);
  const std::string line = name + "\n";
  return write(STDOUT_FILENO, line.data(), line.size()) == static_cast<ssize_t>(line.size())
             ? absl::OkStatus()
             : MachineFailure("stdout", "nobody reads");
}

int Run(const std::string& database, const std::string& counter_path, const std::string& prefix,
        int step, int occurrence) {
  testing::FileCounter counter(counter_path);
  StoreOptions options;
  options.location = database;
  options.counter = &counter;
  int seen = 0;
  options.on_step = [&](CommitStep reached) {
    if (static_cast<int>(reached) == step && ++seen == occurrence) kill(getpid(), SIGKILL);
  };
  auto store = Store::Open(options, testing::TestRootKey(1));
  if (!store.ok()) {
    fprintf(stderr, "%s\n", store.status().ToString().c_str());
    return 1;
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0;; ++j) {
        if (!Release(**store, StrCat(prefix, "-", i, "-", j)).ok()) return;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return 1;
}

}  // namespace
}  // namespace pavise::broker

int main(int count, char** arguments) {
  if (count != 6) return 2;
  return pavise::broker::Run(arguments[1], arguments[2], arguments[3], atoi(arguments[4]),
                             atoi(arguments[5]));
}
