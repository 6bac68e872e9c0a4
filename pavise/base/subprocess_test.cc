#include "pavise/base/subprocess.h"

#include <cstdlib>
#include <filesystem>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(SubprocessTest, GivesStatusAndOutput) {
  const ProgramResult result =
      RunProgram({"sh", "-c", "echo out; echo err >&2; cat; exit 3"}, "dash").value();
  EXPECT_EQ(result.exit_status, 3);
  EXPECT_EQ(result.output, "out\nerr\n");
  EXPECT_EQ(RunProgram({"sh", "-c", "kill -9 $$"}, "dash")->exit_status, 137);
  // No shell looks at the words.
  EXPECT_EQ(RunProgram({"echo", "a;b $HOME *"}, "coreutils")->output, "a;b $HOME *\n");
}

TEST(SubprocessTest, TheEnvironmentIsNotTheCallers) {
  setenv("PAVISE_SUBPROCESS_TEST", "leaks", 1);
  const std::string output = RunProgram({"env"}, "coreutils", {"MORE=1"})->output;
  EXPECT_THAT(output, HasSubstr("LC_ALL=C\n"));
  EXPECT_THAT(output, HasSubstr("MORE=1\n"));
  EXPECT_THAT(output, Not(HasSubstr("leaks")));
  unsetenv("PAVISE_SUBPROCESS_TEST");
}

TEST(SubprocessTest, ProgramsAreFoundOnTheExtendedPath) {
  const char* const before = std::getenv("PATH");
  const std::string path = before == nullptr ? "" : before;
  const testing::TemporaryDirectory directory;
  directory.Write("echo", "no program: not executable");
  directory.Write("chroot/echo", "");
  std::filesystem::permissions(directory / "chroot/echo", std::filesystem::perms::all);
  const std::filesystem::path here = std::filesystem::current_path();
  std::filesystem::current_path(directory / "chroot");
  // Neither what cannot be executed, nor a directory, nor the current directory.
  setenv("PATH", StrCat(directory.path(), "::.:/usr/bin:/bin").c_str(), 1);
  EXPECT_EQ(RunProgram({"echo", "found"}, "coreutils")->output, "found\n");
  // Lies in /usr/sbin.
  EXPECT_EQ(RunProgram({"chroot", "--version"}, "coreutils")->exit_status, 0);
  setenv("PATH", ".", 1);
  EXPECT_EQ(ReasonOf(RunProgram({"echo"}, "coreutils").status()), Reason::kUnsupported);
  setenv("PATH", path.c_str(), 1);
  std::filesystem::current_path(here);
}

TEST(SubprocessTest, FailuresAreTyped) {
  const absl::Status missing = RunProgram({"no-such-program"}, "some-package").status();
  EXPECT_EQ(ReasonOf(missing), Reason::kUnsupported);
  EXPECT_THAT(RefusalsOf(missing)[0].remedy, HasSubstr("some-package"));
  EXPECT_TRUE(RunProgramOrFail({"true"}, "coreutils").ok());
  const absl::Status failed =
      RunProgramOrFail({"sh", "-c", "echo first; echo last; exit 1"}, "dash");
  EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("status 1: last"));
  EXPECT_EQ(RunProgram({}, "").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace pavise
