#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/root_key.h"
#include "pavise/broker/store.h"
#include "pavise/broker/store_ledger.h"
#include "pavise/broker/testing/test_databases.h"

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using testing::FileCounter;
using testing::TestRootKey;

constexpr int kSteps = 5;

// How often the broker is killed: 20 times, or $PAVISE_CRASH_ROUNDS (make test-long).
int Rounds() {
  const char* rounds = getenv("PAVISE_CRASH_ROUNDS");
  return rounds != nullptr ? std::max(1, atoi(rounds)) : 20;
}

// Starts the crasher, kills it after `lines` lines (0: it ends itself), and returns all it wrote.
std::vector<std::string> RunCrasher(const std::vector<std::string>& arguments, size_t lines) {
  int ends[2];
  if (pipe(ends) != 0) return {};
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    close(ends[0]);
    close(ends[1]);
    const std::string program = PAVISE_BINARY_DIR "/bin/broker_store_crasher";
    std::vector<char*> words = {const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) {
      words.push_back(const_cast<char*>(argument.c_str()));
    }
    words.push_back(nullptr);
    execv(program.c_str(), words.data());
    _exit(127);
  }
  close(ends[1]);
  std::string text;
  char buffer[4096];
  bool killed = false;
  for (ssize_t size; (size = read(ends[0], buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(size));
    if (lines == 0 || killed) continue;
    if (static_cast<size_t>(std::ranges::count(text, '\n')) >= lines) {
      kill(child, SIGKILL);
      killed = true;
    }
  }
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  // A line without its end was not handed out.
  text.resize(text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n'));
  if (text.empty()) return {};
  return absl::StrSplit(text, '\n');
}

TEST(StoreCrashTest, NothingCommittedIsLostAndNothingIsReleasedWithoutItsEntry) {
  const pavise::testing::TemporaryDirectory directory;
  const std::string database = directory / "store.db";
  const std::string old_image = directory / "old.db";
  FileCounter counter(directory / "counter");
  StoreOptions options;
  options.location = database;
  options.counter = &counter;
  options.create = true;
  ASSERT_TRUE(Store::Open(options, TestRootKey(1)).ok());
  options.create = false;

  constexpr unsigned kSeed = 20261121;
  SCOPED_TRACE(StrCat("seed ", kSeed));
  std::minstd_rand random(kSeed);
  std::set<std::string> handed_out;
  std::chrono::steady_clock::duration slowest{};
  for (int round = 0; round < Rounds(); ++round) {
    SCOPED_TRACE(StrCat("round ", round));
    for (const std::string end : {"", "-wal"}) {
      std::filesystem::remove(old_image + end);
      if (std::filesystem::exists(database + end)) {
        std::filesystem::copy_file(database + end, old_image + end);
      }
    }
    // Even rounds: at each step in turn, of some commit. Odd ones: wherever it is by then.
    const int step = round / 2 % kSteps;
    const bool at_step = round % 2 == 0;
    // The first may be that of the start.
    const int occurrence = at_step ? 1 + static_cast<int>(random() % 30) : 0;
    const size_t lines = at_step ? 0 : 1 + random() % 200;
    for (const std::string& name :
         RunCrasher({database, directory / "counter", StrCat("round-", round), std::to_string(step),
                     std::to_string(occurrence)},
                    lines)) {
      EXPECT_TRUE(handed_out.insert(name).second) << name;
    }

    const auto begun = std::chrono::steady_clock::now();
    auto store = Store::Open(options, TestRootKey(1));
    slowest = std::max(slowest, std::chrono::steady_clock::now() - begun);
    ASSERT_TRUE(store.ok()) << store.status();
    std::set<std::string> rows, entries;
    const absl::Status read = (*store)->Read([&](StoreReader& reader) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(const std::vector<Row> listed,
                              reader.List(Table::kRuns, "releases", 0, 1'000'000));
      for (const Row& row : listed) rows.insert(row.name);
      PAVISE_ASSIGN_OR_RETURN(const LedgerState state, ReadLedgerState(reader));
      std::vector<uint64_t> indices(state.size);
      for (uint64_t i = 0; i < state.size; ++i) indices[i] = i;
      PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                              ReadLedgerEntries(reader, indices));
      entries.insert(texts.begin(), texts.end());
      EXPECT_EQ(entries.size(), state.size);
      return CheckLedger(reader, {});
    });
    ASSERT_TRUE(read.ok()) << read;
    EXPECT_EQ(rows, entries);
    for (const std::string& name : handed_out) EXPECT_TRUE(entries.contains(name)) << name;
    store->reset();

    StoreOptions old = options;
    old.location = old_image;
    EXPECT_EQ(ReasonOf(Store::Open(old, TestRootKey(1)).status()), Reason::kVersionTooOld);
  }
  EXPECT_GT(handed_out.size(), static_cast<size_t>(Rounds()));
  RecordProperty("releases", static_cast<int>(handed_out.size()));
  const auto slowest_ms = std::chrono::duration_cast<std::chrono::milliseconds>(slowest).count();
  RecordProperty("slowest_restart_ms", static_cast<int>(slowest_ms));
  printf("%d kills, %zu releases, slowest restart %lld ms\n", Rounds(), handed_out.size(),
         static_cast<long long>(slowest_ms));
}

// A rotation that is killed leaves one of two keys, and the root key's file has both.
TEST(StoreCrashTest, RotationKilledAtAnyStepLeavesAKey) {
  for (int step = static_cast<int>(CommitStep::kWritten); step < kSteps; ++step) {
    SCOPED_TRACE(StrCat("step ", step));
    const pavise::testing::TemporaryDirectory directory;
    const std::string key_path = directory / "root.key";
    FileCounter counter(directory / "counter");
    StoreOptions options;
    options.location = directory / "store.db";
    options.counter = &counter;
    ASSERT_TRUE(SaveRootKey(key_path, TestRootKey(1), {}).ok());
    options.create = true;
    ASSERT_TRUE(OpenStore(options, key_path, nullptr, {})
                    .value()
                    ->Commit([](StoreTransaction& transaction) {
                      return transaction.Put(Table::kMeta, "", "kept", SecretBytes("value"));
                    })
                    .ok());
    options.create = false;
    const pid_t child = fork();
    if (child == 0) {
      bool armed = false;
      options.on_step = [&](CommitStep reached) {
        if (armed && static_cast<int>(reached) == step) kill(getpid(), SIGKILL);
      };
      auto store = OpenStore(options, key_path, nullptr, {});
      armed = true;
      if (store.ok()) RotateRootKey(**store, key_path, TestRootKey(2), {}).IgnoreError();
      _exit(1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    {
      auto store = OpenStore(options, key_path, nullptr, {});
      ASSERT_TRUE(store.ok()) << store.status();
      EXPECT_TRUE((*store)
                      ->Read([](StoreReader& reader) -> absl::Status {
                        PAVISE_ASSIGN_OR_RETURN(const auto value,
                                                reader.Get(Table::kMeta, "", "kept"));
                        EXPECT_EQ(value.value().RevealText(), "value");
                        return absl::OkStatus();
                      })
                      .ok());
    }
    // That ended the rotation: one key is left, the one of the store.
    const auto keys = LoadRootKeys(key_path, nullptr, {});
    ASSERT_TRUE(keys.ok()) << keys.status();
    EXPECT_FALSE(keys->next.has_value());
    const bool rotated = step > static_cast<int>(CommitStep::kWritten);
    EXPECT_TRUE(keys->current.value().Equals(TestRootKey(rotated ? 2 : 1)));
    EXPECT_TRUE(Store::Open(options, *keys->current).ok());
  }
}

}  // namespace
}  // namespace pavise::broker
