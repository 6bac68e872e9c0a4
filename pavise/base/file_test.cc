#include "pavise/base/file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using testing::ContentOf;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

class FileTest : public ::testing::Test {
 protected:
  // What lies in the directory, temporaries included.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      names.push_back(entry.path().filename());
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  mode_t ModeOf(const std::string& path) const {
    struct stat status = {};
    EXPECT_EQ(stat(path.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  testing::TemporaryDirectory directory_;
};

TEST_F(FileTest, DescriptorsCloseAndMove) {
  const std::string path = directory_.Write("file", "x");
  FileDescriptor first(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const int number = first.get();
  FileDescriptor second(std::move(first));
  EXPECT_FALSE(first.is_open());  // NOLINT(bugprone-use-after-move): what it promises
  EXPECT_EQ(second.get(), number);
  second = FileDescriptor();
  EXPECT_EQ(fcntl(number, F_GETFD), -1);
  EXPECT_FALSE(FileDescriptor().is_open());
}

TEST_F(FileTest, OnlyRegularFilesAreOpened) {
  directory_.Write("file", "content");
  ASSERT_EQ(symlink("file", (directory_ / "link").c_str()), 0);
  ASSERT_EQ(symlink("nowhere", (directory_ / "dangling").c_str()), 0);
  ASSERT_EQ(mkfifo((directory_ / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(OpenRegularFile(directory_ / "file").ok());
  EXPECT_TRUE(OpenRegularFile(directory_ / "link").ok());
  const auto reason = [](const std::string& path) {
    return ReasonOf(OpenRegularFile(path).status());
  };
  EXPECT_EQ(reason(directory_ / "missing"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(directory_ / "dangling"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(directory_ / "file/below"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(directory_.path()), Reason::kFileTypeRefused);
  EXPECT_EQ(reason(directory_ / "pipe"),
            Reason::kFileTypeRefused);  // and nobody waits for a writer
  EXPECT_EQ(reason("/dev/null"), Reason::kFileTypeRefused);
  EXPECT_EQ(reason((directory_ / "file") + std::string("\0.pub", 5)), Reason::kPathUnsafe);
}

TEST_F(FileTest, OpenBeneathStaysBeneath) {
  directory_.Write("outside", "outside");
  directory_.Write("root/a/file", "inside");
  ASSERT_EQ(symlink("../outside", (directory_ / "root/out").c_str()), 0);
  ASSERT_EQ(symlink("a", (directory_ / "root/down").c_str()), 0);
  ASSERT_EQ(symlink("a/file", (directory_ / "root/link").c_str()), 0);
  ASSERT_EQ(symlink("loop", (directory_ / "root/loop").c_str()), 0);
  ASSERT_EQ(symlink("/", (directory_ / "root/slash").c_str()), 0);
  ASSERT_EQ(mkfifo((directory_ / "root/pipe").c_str(), 0600), 0);
  const FileDescriptor root(
      open((directory_ / "root").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_TRUE(root.is_open());

  EXPECT_TRUE(OpenBeneath(root, "a/file", false).ok());
  EXPECT_TRUE(OpenBeneath(root, "./a/./file", false).ok());
  for (const bool follow_links : {false, true}) {
    const auto reason = [&](const std::string& path) {
      return ReasonOf(OpenBeneath(root, path, follow_links).status());
    };
    for (const std::string& path :
         {std::string(), std::string("/etc/passwd"), std::string("../outside"), std::string(".."),
          std::string("a/../../outside"), std::string("a/../a/file"), std::string("a/.."),
          std::string("a/file\0x", 8)}) {
      EXPECT_EQ(reason(path), Reason::kPathUnsafe) << path;
    }
    for (const char* path : {"a", ".", "pipe"}) {
      EXPECT_EQ(reason(path), Reason::kFileTypeRefused) << path;
    }
    for (const char* path : {"missing", "missing/file", "a/missing", "a/file/below"}) {
      EXPECT_EQ(reason(path), Reason::kFileUnreadable) << path;
    }
  }
  for (const char* path : {"out", "link", "down/file", "loop", "slash/etc/passwd", "loop/file"}) {
    EXPECT_EQ(ReasonOf(OpenBeneath(root, path, false).status()), Reason::kFileTypeRefused) << path;
  }
  for (const char* path : {"out", "link", "down/file"}) {
    EXPECT_TRUE(OpenBeneath(root, path, true).ok()) << path;
  }
  EXPECT_EQ(ReasonOf(OpenBeneath(root, "loop", true).status()), Reason::kFileTypeRefused);
}

TEST_F(FileTest, ReadsWholeFilesWithinTheBound) {
  const std::string path = directory_.Write("file", "content");
  EXPECT_EQ(AsText(*ReadFile(path, 7)), "content");
  EXPECT_EQ(ReadSecretFile(path, 7)->RevealText(), "content");
  EXPECT_EQ(ReasonOf(ReadFile(path, 6).status()), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(ReadSecretFile(path, 6).status()), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(ReadFile(directory_ / "missing", 6).status()), Reason::kFileUnreadable);
  EXPECT_EQ(ReasonOf(ReadSecretFile(directory_.path(), 6).status()), Reason::kFileTypeRefused);
  directory_.Write("empty", "");
  EXPECT_THAT(*ReadFile(directory_ / "empty", 0), IsEmpty());
  // A hole of a terabyte costs no memory before it is refused.
  ASSERT_EQ(truncate(path.c_str(), off_t{1} << 40), 0);
  EXPECT_EQ(ReasonOf(ReadFile(path, 1u << 20).status()), Reason::kLimitExceeded);
}

TEST_F(FileTest, ReadExactlyReadsAllOrRefuses) {
  const std::string path = directory_.Write("file", "0123456789");
  const FileDescriptor file = *OpenRegularFile(path);
  Bytes bytes(4);
  ASSERT_TRUE(ReadExactly(file, 3, bytes, "f").ok());
  EXPECT_EQ(AsText(bytes), "3456");
  ASSERT_TRUE(ReadExactly(file, 6, bytes, "f").ok());
  EXPECT_EQ(ReasonOf(ReadExactly(file, 7, bytes, "f")), Reason::kFileUnstable);
  EXPECT_EQ(ReasonOf(ReadExactly(file, 100, bytes, "f")), Reason::kFileUnstable);
  EXPECT_TRUE(ReadExactly(file, 100, {}, "f").ok());
  EXPECT_EQ(ExitCodeOf(ReadExactly(FileDescriptor(), 0, bytes, "f")), 3);
}

TEST_F(FileTest, IdentityShowsEveryChange) {
  const std::string path = directory_.Write("file", "content");
  const FileDescriptor file = *OpenRegularFile(path);
  const FileIdentity before = *IdentityOf(file, path);
  EXPECT_EQ(before.size_bytes, 7u);
  EXPECT_EQ(*IdentityOf(file, path), before);
  // Touching up the modification time does not hide a write: the change time cannot be set.
  const struct timespec times[2] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1, .tv_nsec = 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
  EXPECT_FALSE(*IdentityOf(file, path) == before);
  const std::string copy = directory_.Write("copy", "content");
  EXPECT_FALSE(*IdentityOf(*OpenRegularFile(copy), copy) == before);
  EXPECT_EQ(ExitCodeOf(IdentityOf(FileDescriptor(), "f").status()), 3);
}

TEST_F(FileTest, AtomicWritesReplaceTheFile) {
  const std::string path = directory_ / "out";
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes("first")).ok());
  EXPECT_EQ(ContentOf(path), "first");
  EXPECT_EQ(ModeOf(path), 0644u);
  ASSERT_TRUE(WriteFileAtomically(path, AsBytes("second"), 0600).ok());
  EXPECT_EQ(ContentOf(path), "second");
  EXPECT_EQ(ModeOf(path), 0600u);
  EXPECT_THAT(Names(), ElementsAre("out"));
}

TEST_F(FileTest, AnUncommittedWriterLeavesNoTrace) {
  const std::string path = directory_.Write("out", "old");
  {
    AtomicFileWriter writer = *AtomicFileWriter::Create(path);
    ASSERT_TRUE(writer.Append(AsBytes("new")).ok());
    ASSERT_TRUE(writer.Prepare().ok());
    EXPECT_EQ(ContentOf(path), "old");
    AtomicFileWriter moved(std::move(writer));
    ASSERT_TRUE(moved.Append(AsBytes("er")).ok());
  }
  EXPECT_EQ(ContentOf(path), "old");
  EXPECT_THAT(Names(), ElementsAre("out"));
}

TEST_F(FileTest, AWriterAppendsAndCommits) {
  const std::string path = directory_.Write("out", "old");
  AtomicFileWriter writer = *AtomicFileWriter::Create(path, 0600);
  ASSERT_TRUE(writer.Append(AsBytes("one ")).ok());
  ASSERT_TRUE(writer.Append({}).ok());
  ASSERT_TRUE(writer.Prepare().ok());
  ASSERT_TRUE(writer.Append(AsBytes("two")).ok());
  AtomicFileWriter moved(std::move(writer));
  ASSERT_TRUE(moved.Commit().ok());
  EXPECT_EQ(ContentOf(path), "one two");
  EXPECT_THAT(Names(), ElementsAre("out"));
}

TEST_F(FileTest, TheModeIsNotWidenedByTheUmask) {
  const mode_t before = umask(0);
  const absl::Status status = WriteFileAtomically(directory_ / "secret", AsBytes("x"), 0600);
  umask(before);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(ModeOf(directory_ / "secret"), 0600u);
}

TEST_F(FileTest, WritesThatCannotBeAreRefused) {
  EXPECT_EQ(ExitCodeOf(WriteFileAtomically("", AsBytes("x"))), 2);
  EXPECT_EQ(ReasonOf(WriteFileAtomically(directory_ / "no/such/out", AsBytes("x"))),
            Reason::kFileUnreadable);
  EXPECT_EQ(ReasonOf(WriteFileAtomically((directory_ / "a") + std::string("\0b", 2), AsBytes("x"))),
            Reason::kPathUnsafe);
  std::filesystem::create_directory(directory_ / "taken");
  EXPECT_EQ(ReasonOf(WriteFileAtomically(directory_ / "taken", AsBytes("x"))),
            Reason::kFileUnreadable);
  EXPECT_THAT(Names(), ElementsAre("taken"));
}

TEST_F(FileTest, ALinkIsReplacedNotFollowed) {
  const std::string target = directory_.Write("target", "old");
  ASSERT_EQ(symlink("target", (directory_ / "out").c_str()), 0);
  ASSERT_TRUE(WriteFileAtomically(directory_ / "out", AsBytes("new")).ok());
  EXPECT_EQ(ContentOf(target), "old");
  EXPECT_EQ(ContentOf(directory_ / "out"), "new");
  EXPECT_FALSE(std::filesystem::is_symlink(directory_ / "out"));
}

// A limit on file sizes stands in for a full disk where nobody may mount one.
TEST_F(FileTest, AFileSizeLimitLeavesTheOldFileWhole) {
  const std::string path = directory_.Write("out", "old");
  struct rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  auto* const old_handler = signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = WriteFileAtomically(path, Bytes(8192, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, old_handler);
  EXPECT_EQ(ReasonOf(status), Reason::kStorageFull) << status;
  EXPECT_EQ(ContentOf(path), "old");
  EXPECT_THAT(Names(), ElementsAre("out"));
}

TEST_F(FileTest, AFullDiskLeavesTheOldFileWhole) {
  if (mount("tmpfs", directory_.path().c_str(), "tmpfs", 0, "size=65536") != 0) {
    GTEST_SKIP() << "this user may not mount a small file system";
  }
  directory_.Write("out", "old");
  const absl::Status status = WriteFileAtomically(directory_ / "out", Bytes(1 << 20, 'x'));
  const std::string content = ContentOf(directory_ / "out");
  const std::vector<std::string> names = Names();
  const absl::Status smaller = WriteFileAtomically(directory_ / "out", Bytes(1 << 14, 'x'));
  EXPECT_EQ(umount2(directory_.path().c_str(), MNT_DETACH), 0);
  EXPECT_EQ(ReasonOf(status), Reason::kStorageFull) << status;
  EXPECT_EQ(content, "old");
  EXPECT_THAT(names, ElementsAre("out"));
  EXPECT_TRUE(smaller.ok()) << smaller;  // the room was given back
}

TEST_F(FileTest, BaseNames) {
  EXPECT_EQ(BaseName("/a/model/"), "model");
  EXPECT_EQ(BaseName("model"), "model");
  EXPECT_EQ(BaseName("a/model///"), "model");
  EXPECT_EQ(BaseName("/model"), "model");
  EXPECT_EQ(BaseName("/"), "");
  directory_.Write("m/sub/file", "");
  EXPECT_EQ(BaseName(directory_ / "m/."), "m");
  EXPECT_EQ(BaseName(directory_ / "m/sub/.."), "m");
  EXPECT_EQ(BaseName(directory_ / "m/sub/../"), "m");
}

TEST(AtomicFileWriterTest, ASignalLeavesNoTemporaryFile) {
  const testing::TemporaryDirectory directory;
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    RemoveUnfinishedFilesOnSignals();
    auto writer = AtomicFileWriter::Create(directory / "out");
    if (writer.ok() && writer->Append(AsBytes("half")).ok()) raise(SIGTERM);
    _exit(99);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
}

}  // namespace
}  // namespace pavise
