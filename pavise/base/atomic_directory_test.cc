#include "pavise/base/atomic_directory.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

class AtomicDirectoryTest : public ::testing::Test {
 protected:
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory_.path())) {
      names.push_back(entry.path().filename().string());
    }
    std::ranges::sort(names);
    return names;
  }
  // Where an unfinished one lies; there is exactly one.
  std::string Unfinished() const {
    EXPECT_THAT(Names(), ElementsAre(StartsWith("out.unfinished-")));
    return directory_ / Names().front();
  }
  // Ends a process by a signal in the midst of its work, with many files below many directories.
  void BeKilledBy(int signal_number) const {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      RemoveUnfinishedFilesOnSignals();
      const auto begun = AtomicDirectory::Create(directory_ / "out");
      if (!begun.ok()) _exit(99);
      std::string below = Unfinished();
      for (int depth = 0; depth < 20; ++depth) {
        for (int i = 0; i < 100; ++i) {
          directory_.Write(
              fs::relative(StrCat(below, "/a-file-with-a-name-", i), directory_.path()).string(),
              "secret");
        }
        fs::create_directories(StrCat(below, "/empty/", depth));
        fs::create_symlink("/", StrCat(below, "/link"));
        below += "/below";
        fs::create_directory(below);
      }
      raise(signal_number);
      _exit(98);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal_number) << status;
  }

  const testing::TemporaryDirectory directory_;
};

TEST_F(AtomicDirectoryTest, AppearsWholeOrNotAtAll) {
  {
    const auto abandoned = AtomicDirectory::Create(directory_ / "out");
    ASSERT_TRUE(abandoned.ok()) << abandoned.status();
    fs::create_directories(Unfinished() + "/sub");
    directory_.Write(fs::relative(Unfinished() + "/sub/file", directory_.path()).string(), "x");
  }
  EXPECT_THAT(Names(), IsEmpty());
  auto directory = AtomicDirectory::Create(directory_ / "out//");
  ASSERT_TRUE(directory.ok()) << directory.status();
  fs::create_directory(Unfinished() + "/sub");
  EXPECT_TRUE(directory->Commit().ok());
  EXPECT_THAT(Names(), ElementsAre("out"));
  EXPECT_TRUE(fs::is_directory(directory_ / "out/sub"));
  struct stat status;
  ASSERT_EQ(stat((directory_ / "out").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  EXPECT_EQ(ExitCodeOf(AtomicDirectory::Create(directory_ / "out").status()), 2);
  EXPECT_EQ(ExitCodeOf(AtomicDirectory::Create("").status()), 2);
}

TEST_F(AtomicDirectoryTest, ReplacesNothing) {
  auto directory = AtomicDirectory::Create(directory_ / "out");
  ASSERT_TRUE(directory.ok()) << directory.status();
  fs::create_directory(directory_ / "out");
  EXPECT_EQ(ExitCodeOf(directory->Commit()), 2);
}

TEST_F(AtomicDirectoryTest, SignalsLeaveNothing) {
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    SCOPED_TRACE(signal_number);
    BeKilledBy(signal_number);
    EXPECT_THAT(Names(), IsEmpty());
  }
  EXPECT_FALSE(fs::is_empty("/"));  // links were not followed
}

TEST_F(AtomicDirectoryTest, WhatAKilledProcessLeftIsRemovedByTheNextOfThatName) {
  BeKilledBy(SIGKILL);
  const std::string leftover = Unfinished();
  { ASSERT_TRUE(AtomicDirectory::Create(directory_ / "other").ok()); }
  { ASSERT_TRUE(AtomicDirectory::Create(directory_ / "ou").ok()); }
  EXPECT_TRUE(fs::exists(leftover));
  ::testing::internal::CaptureStderr();
  { ASSERT_TRUE(AtomicDirectory::Create(directory_ / "out").ok()); }
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::HasSubstr(StrCat("removed ", leftover)));
  EXPECT_THAT(Names(), IsEmpty());
}

TEST_F(AtomicDirectoryTest, NothingElseIsTakenForALeftover) {
  // Of a process that is alive, this one: no lock to be had.
  const auto alive = AtomicDirectory::Create(directory_ / "out");
  ASSERT_TRUE(alive.ok()) << alive.status();
  const auto make = [&](const char* name, mode_t mode) {
    ASSERT_EQ(mkdir((directory_ / name).c_str(), 0700), 0);
    ASSERT_EQ(chmod((directory_ / name).c_str(), mode), 0);
  };
  make("out.unfinished-backup", 0700);  // somebody's name for a directory of theirs
  make("out.unfinished-public", 01777);
  make("out.unfinished-longer1", 01700);
  make("out.unfinished-odd-1.", 01700);
  make("out.unfinished-short", 01700);
  make("outer.unfinished-abcdef", 01700);
  directory_.Write("out.unfinished-afile1", "x");
  fs::create_directory_symlink("out.unfinished-longer1", directory_ / "out.unfinished-alink1");
  EXPECT_THAT(Names(), SizeIs(9));
  { ASSERT_TRUE(AtomicDirectory::Create(directory_ / "out").ok()); }
  EXPECT_THAT(Names(), SizeIs(9));
  make("out.unfinished-abcdef", 01700);
  { ASSERT_TRUE(AtomicDirectory::Create(directory_ / "out").ok()); }
  EXPECT_THAT(Names(), SizeIs(9));  // that one only
}

}  // namespace
}  // namespace pavise
