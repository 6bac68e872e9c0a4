#include "pavise/model/file_tree.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

auto Finding(Reason reason, const std::string& item) {
  return AllOf(Field(&Refusal::reason, reason), Field(&Refusal::item, item));
}

class FileTreeTest : public ::testing::Test {
 protected:
  static WalkOptions Following() {
    WalkOptions options;
    options.allow_symlinks = true;
    return options;
  }
  static WalkOptions Ignoring(std::vector<std::string> paths) {
    WalkOptions options;
    options.ignore_paths = std::move(paths);
    return options;
  }
  static WalkOptions Only(std::vector<std::string> paths) {
    WalkOptions options;
    options.only_paths = std::move(paths);
    return options;
  }

  void Link(const std::string& target, const std::string& name) {
    ASSERT_EQ(symlink(target.c_str(), (model_ / name).c_str()), 0) << name;
  }
  void Directory(const std::string& name) { std::filesystem::create_directories(model_ / name); }
  void Pipe(const std::string& name) { ASSERT_EQ(mkfifo((model_ / name).c_str(), 0600), 0); }
  void Socket(const std::string& name) {
    const FileDescriptor fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_TRUE(fd.is_open());
    struct sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string path = model_ / name;
    ASSERT_LT(path.size(), sizeof(address.sun_path));
    path.copy(address.sun_path, path.size());
    ASSERT_EQ(bind(fd.get(), reinterpret_cast<const struct sockaddr*>(&address), sizeof(address)),
              0);
  }

  absl::StatusOr<FileTree> Open(const WalkOptions& options = {}) {
    return FileTree::Open(model_.path(), options);
  }
  std::vector<std::string> Paths(const WalkOptions& options = {}) {
    const absl::StatusOr<FileTree> tree = Open(options);
    EXPECT_TRUE(tree.ok()) << tree.status();
    std::vector<std::string> paths;
    if (tree.ok()) {
      for (const FileEntry& entry : tree->files()) paths.push_back(entry.path);
    }
    return paths;
  }
  std::vector<Refusal> Findings(const WalkOptions& options = {}) {
    const absl::StatusOr<FileTree> tree = Open(options);
    EXPECT_FALSE(tree.ok());
    EXPECT_EQ(ExitCodeOf(tree.status()), 1) << tree.status();
    return RefusalsOf(tree.status());
  }
  static std::string Read(const FileTree& tree, const std::string& path) {
    const absl::StatusOr<FileDescriptor> file = tree.OpenFile(path);
    EXPECT_TRUE(file.ok()) << file.status();
    if (!file.ok()) return "";
    char buffer[64];
    const ssize_t got = pread(file->get(), buffer, sizeof(buffer), 0);
    return got < 0 ? "" : std::string(buffer, static_cast<size_t>(got));
  }

  testing::TemporaryDirectory model_;
};

TEST_F(FileTreeTest, ListsFilesInByteOrderOfThePath) {
  for (const char* name : {"a/b", "a-b", "a.b", "B", "a/b2", "z/y/x/w", "\xc3\xa9", "A B"}) {
    model_.Write(name, name);
  }
  EXPECT_THAT(Paths(), ElementsAre("A B", "B", "a-b", "a.b", "a/b", "a/b2", "z/y/x/w", "\xc3\xa9"));
  const FileTree tree = *Open();
  EXPECT_FALSE(tree.is_single_file());
  EXPECT_EQ(tree.root(), model_.path());
  for (const FileEntry& entry : tree.files()) {
    EXPECT_EQ(Read(tree, entry.path), entry.path);
    EXPECT_EQ(entry.identity.size_bytes, entry.path.size());
  }
}

TEST_F(FileTreeTest, EmptyDirectoriesAreNothing) {
  EXPECT_THAT(Paths(), IsEmpty());
  Directory("a/b/c");
  EXPECT_THAT(Paths(), IsEmpty());
}

TEST_F(FileTreeTest, UnusualNamesAreKeptByteForByte) {
  const std::vector<std::string> names = {" ", "\n", "\x1b[2J", "a\\b", "c:d", "-rf", "...", "~"};
  for (const std::string& name : names) model_.Write(name, name);
  const FileTree tree = *Open();
  EXPECT_THAT(tree.files(), SizeIs(names.size()));
  for (const std::string& name : names) EXPECT_EQ(Read(tree, name), name);
}

TEST_F(FileTreeTest, NamesThatAreNotUtf8AreRefused) {
  model_.Write("ok", "");
  model_.Write("bad\xff", "");
  model_.Write("dir\xc0\xaf/inside", "");
  EXPECT_THAT(Findings(), ElementsAre(Finding(Reason::kPathUnsafe, "bad\\xff"),
                                      Finding(Reason::kPathUnsafe, "dir\\xc0\\xaf")));
  EXPECT_THAT(Paths(Ignoring({"bad\xff", "dir\xc0\xaf"})), ElementsAre("ok"));
}

TEST_F(FileTreeTest, WithoutPermissionEveryLinkIsRefusedAndNamed) {
  const testing::TemporaryDirectory outside;
  outside.Write("secret", "secret");
  model_.Write("real", "");
  model_.Write("sub/real", "");
  Link("real", "to_file");
  Link("sub", "to_directory");
  Link(outside / "secret", "out");
  Link("nowhere", "sub/dangling");
  Link("loop", "loop");
  EXPECT_THAT(Findings(), ElementsAre(Finding(Reason::kFileTypeRefused, "loop"),
                                      Finding(Reason::kFileTypeRefused, "out"),
                                      Finding(Reason::kFileTypeRefused, "sub/dangling"),
                                      Finding(Reason::kFileTypeRefused, "to_directory"),
                                      Finding(Reason::kFileTypeRefused, "to_file")));
}

TEST_F(FileTreeTest, FollowedLinksListTheTargetUnderTheLink) {
  const testing::TemporaryDirectory outside;
  outside.Write("blob", "blob");
  outside.Write("tree/leaf", "leaf");
  model_.Write("real", "real");
  Link("real", "link");
  Link(outside / "blob", "out");
  Link(outside / "tree", "tree");
  Link("tree", "twice");
  const absl::StatusOr<FileTree> tree = Open(Following());
  ASSERT_TRUE(tree.ok()) << tree.status();
  EXPECT_THAT(Paths(Following()), ElementsAre("link", "out", "real", "tree/leaf", "twice/leaf"));
  EXPECT_EQ(Read(*tree, "link"), "real");
  EXPECT_EQ(Read(*tree, "out"), "blob");
  EXPECT_EQ(Read(*tree, "tree/leaf"), "leaf");
  EXPECT_EQ(Read(*tree, "twice/leaf"), "leaf");
}

TEST_F(FileTreeTest, LoopsOfLinksAreRefusedAndNamed) {
  model_.Write("a/file", "");
  model_.Write("b/file", "");
  Link(".", "here");
  Link("..", "a/up");
  Link("self", "self");
  Link("../b", "a/other");
  Link("../a", "b/other");
  Link(model_.path(), "b/absolute");
  EXPECT_THAT(Findings(Following()),
              UnorderedElementsAre(Finding(Reason::kFileTypeRefused, "here"),
                                   Finding(Reason::kFileTypeRefused, "self"),
                                   Finding(Reason::kFileTypeRefused, "a/up"),
                                   Finding(Reason::kFileTypeRefused, "a/other/other"),
                                   Finding(Reason::kFileTypeRefused, "a/other/absolute"),
                                   Finding(Reason::kFileTypeRefused, "b/absolute"),
                                   Finding(Reason::kFileTypeRefused, "b/other/other"),
                                   Finding(Reason::kFileTypeRefused, "b/other/up")));
}

TEST_F(FileTreeTest, DanglingLinksAreUnreadable) {
  model_.Write("file", "");
  Link("nowhere", "dangling");
  Link("file/below", "through_a_file");
  Link("dangling", "second");
  EXPECT_THAT(Findings(Following()),
              ElementsAre(Finding(Reason::kFileUnreadable, "dangling"),
                          Finding(Reason::kFileUnreadable, "second"),
                          Finding(Reason::kFileUnreadable, "through_a_file")));
}

// 2^20 paths lead to the bottom; the bound on directories ends it.
TEST_F(FileTreeTest, LinksThatMultiplyPathsMeetTheBound) {
  for (int level = 0; level < 20; ++level) {
    const std::string name = StrCat("d", level);
    const std::string next = StrCat("../d", level + 1);
    Directory(name);
    Link(next, name + "/x");
    Link(next, name + "/y");
  }
  Directory("d20");
  WalkOptions options = Following();
  options.max_files = 1000;
  EXPECT_THAT(Findings(options), ElementsAre(Field(&Refusal::reason, Reason::kLimitExceeded)));
}

TEST_F(FileTreeTest, PipesAndSocketsAreRefused) {
  model_.Write("file", "");
  Pipe("sub_pipe");
  Socket("sub_socket");
  Link("sub_pipe", "link_to_pipe");
  EXPECT_THAT(Findings(), ElementsAre(Finding(Reason::kFileTypeRefused, "link_to_pipe"),
                                      Finding(Reason::kFileTypeRefused, "sub_pipe"),
                                      Finding(Reason::kFileTypeRefused, "sub_socket")));
  const std::vector<Refusal> following = Findings(Following());
  EXPECT_THAT(following, ElementsAre(Finding(Reason::kFileTypeRefused, "link_to_pipe"),
                                     Finding(Reason::kFileTypeRefused, "sub_pipe"),
                                     Finding(Reason::kFileTypeRefused, "sub_socket")));
  EXPECT_EQ(following[0].detail, "is a pipe");
  EXPECT_EQ(following[2].detail, "is a socket");
  // What is left out is not opened, so it does not matter what it is.
  EXPECT_THAT(Paths(Ignoring({"link_to_pipe", "sub_pipe", "sub_socket"})), ElementsAre("file"));
}

TEST_F(FileTreeTest, DevicesAreRefused) {
  // The null device's numbers; creating nodes needs a privilege that containers may lack.
  if (mknod((model_ / "null").c_str(), S_IFCHR | 0600, makedev(1, 3)) != 0) {
    GTEST_SKIP() << "this user may not create device nodes";
  }
  EXPECT_THAT(Findings(), ElementsAre(Finding(Reason::kFileTypeRefused, "null")));
  EXPECT_EQ(ReasonOf(FileTree::Open(model_ / "null", {}).status()), Reason::kFileTypeRefused);
}

TEST_F(FileTreeTest, IgnoredPathsAreWholeComponents) {
  for (const char* name : {"a/b", "a/bc", "a/d/e", "ab", "b", ".git/config", "sub/.git/config"}) {
    model_.Write(name, "");
  }
  EXPECT_THAT(Paths(Ignoring({"a/b"})),
              ElementsAre(".git/config", "a/bc", "a/d/e", "ab", "b", "sub/.git/config"));
  EXPECT_THAT(Paths(Ignoring({"a"})), ElementsAre(".git/config", "ab", "b", "sub/.git/config"));
  EXPECT_THAT(Paths(Ignoring({".git", "a/d", "nothing/there"})),
              ElementsAre("a/b", "a/bc", "ab", "b", "sub/.git/config"));
}

TEST_F(FileTreeTest, IgnoredPathsAreNormalized) {
  model_.Write("a/b", "");
  model_.Write("c", "");
  for (const char* spelling : {"a/b", "./a/b", "a/b/", "a//b", "a/./b", "././a///b//"}) {
    EXPECT_THAT(Paths(Ignoring({spelling})), ElementsAre("c")) << spelling;
  }
  for (const std::string& nothing :
       {std::string(""), std::string("."), std::string("./"), std::string("/"), std::string(".."),
        std::string("/a/b"), std::string("a/../a/b"), std::string("x/../a/b"),
        model_.path() + "/a/b", std::string("A/B"), std::string("a/*"), std::string("a/b/c")}) {
    EXPECT_THAT(Paths(Ignoring({nothing})), ElementsAre("a/b", "c")) << nothing;
  }
}

TEST_F(FileTreeTest, OnlyAskedPathsAreLookedAt) {
  model_.Write("a/b", "one");
  model_.Write("c", "two");
  model_.Write("not_asked", "");
  Pipe("pipe");
  Link("nowhere", "dangling");
  Directory("directory");
  EXPECT_THAT(Paths(Only({"c", "a/b", "c", "missing", "a/missing", "c/below", "directory", "."})),
              ElementsAre("a/b", "c"));
  EXPECT_THAT(Paths(Only({})), IsEmpty());
  const FileTree tree = *Open(Only({"c"}));
  EXPECT_EQ(Read(tree, "c"), "two");
  EXPECT_EQ(ReasonOf(tree.OpenFile("a/b").status()), Reason::kFileMissing);
}

TEST_F(FileTreeTest, AskedPathsAreHeldToTheSameRules) {
  const testing::TemporaryDirectory outside;
  outside.Write("file", "out");
  model_.Write("real/file", "in");
  Link("real", "link");
  Link(outside.path(), "out");
  Link("real/file", "file_link");
  Link("nowhere", "dangling");
  Pipe("pipe");
  EXPECT_THAT(
      Findings(Only({"link/file", "out/file", "file_link", "dangling", "pipe", "real/file"})),
      UnorderedElementsAre(Finding(Reason::kFileTypeRefused, "link"),
                           Finding(Reason::kFileTypeRefused, "out"),
                           Finding(Reason::kFileTypeRefused, "file_link"),
                           Finding(Reason::kFileTypeRefused, "dangling"),
                           Finding(Reason::kFileTypeRefused, "pipe")));
  WalkOptions options = Following();
  options.only_paths = {"link/file", "out/file", "file_link"};
  EXPECT_THAT(Paths(options), ElementsAre("file_link", "link/file", "out/file"));
  EXPECT_EQ(Read(*Open(options), "out/file"), "out");
  options.only_paths = {"dangling"};
  EXPECT_THAT(Findings(options), ElementsAre(Finding(Reason::kFileUnreadable, "dangling")));

  EXPECT_THAT(
      Findings(Only({"/etc/passwd", "../x", "real/../real/file", "a//b", "", "b\xff"})),
      UnorderedElementsAre(
          Finding(Reason::kPathUnsafe, "/etc/passwd"), Finding(Reason::kPathUnsafe, "../x"),
          Finding(Reason::kPathUnsafe, "real/../real/file"), Finding(Reason::kPathUnsafe, "a//b"),
          Finding(Reason::kPathUnsafe, ""), Finding(Reason::kPathUnsafe, "b\\xff")));

  WalkOptions both = Only({"real/file", "link/file"});
  both.ignore_paths = {"real", "link/file", "link"};
  EXPECT_THAT(Paths(both), IsEmpty());
}

TEST_F(FileTreeTest, TooManyFilesAreRefused) {
  for (int i = 0; i < 5; ++i) model_.Write(StrCat("d/", i), "");
  WalkOptions options;
  options.max_files = 5;
  EXPECT_THAT(Paths(options), SizeIs(5));
  options.max_files = 4;
  EXPECT_THAT(Findings(options), ElementsAre(Field(&Refusal::reason, Reason::kLimitExceeded)));
  options.only_paths = {"d/0", "d/1", "d/2", "d/3", "d/4"};
  EXPECT_THAT(Findings(options), ElementsAre(Finding(Reason::kLimitExceeded, "d/4")));
  options.only_paths.reset();
  options.ignore_paths = {"d/3"};
  EXPECT_THAT(Paths(options), SizeIs(4));
}

TEST_F(FileTreeTest, TooDeepPathsAreRefused) {
  model_.Write("1/2/3/4", "");
  WalkOptions options;
  options.max_depth = 4;
  EXPECT_THAT(Paths(options), ElementsAre("1/2/3/4"));
  options.max_depth = 3;
  EXPECT_THAT(Findings(options), ElementsAre(Finding(Reason::kLimitExceeded, "1/2/3")));
  options.only_paths = {"1/2/3/4"};
  EXPECT_THAT(Findings(options), ElementsAre(Finding(Reason::kLimitExceeded, "1/2/3/4")));
}

TEST_F(FileTreeTest, DeepNestingIsBoundedByDefault) {
  std::string path = "d";
  for (int i = 1; i < 255; ++i) path += "/d";
  model_.Write(path + "/file", "");
  EXPECT_THAT(Paths(), ElementsAre(path + "/file"));
  model_.Write(path + "/d/file", "");
  EXPECT_THAT(Findings(), ElementsAre(Finding(Reason::kLimitExceeded, path + "/d")));
}

TEST_F(FileTreeTest, PathsBeyond4096BytesAreRefused) {
  // Longer than the kernel takes in one call, so made step by step.
  FileDescriptor directory(open(model_.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  const std::string component(250, 'c');
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(mkdirat(directory.get(), component.c_str(), 0700), 0);
    directory = FileDescriptor(
        openat(directory.get(), component.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(directory.is_open());
  }
  EXPECT_THAT(Findings(), ElementsAre(Field(&Refusal::reason, Reason::kPathUnsafe)));
}

TEST_F(FileTreeTest, FindingsStopAtAThousand) {
  for (int i = 0; i < 1100; ++i) Link("nowhere", std::to_string(i));
  EXPECT_THAT(Findings(), SizeIs(1000));
}

TEST_F(FileTreeTest, OneFileIsAModel) {
  const std::string path = model_.Write("weights.bin", "weights");
  WalkOptions options;
  options.ignore_paths = {".", "weights.bin"};
  options.only_paths = {"weights.bin"};
  options.max_files = 0;
  for (const WalkOptions& some : {WalkOptions{}, options}) {
    const absl::StatusOr<FileTree> tree = FileTree::Open(path, some);
    ASSERT_TRUE(tree.ok()) << tree.status();
    EXPECT_TRUE(tree->is_single_file());
    EXPECT_EQ(tree->name(), "weights.bin");
    ASSERT_THAT(tree->files(), SizeIs(1));
    EXPECT_EQ(tree->files()[0].path, ".");
    EXPECT_EQ(tree->files()[0].identity.size_bytes, 7u);
    EXPECT_EQ(Read(*tree, "."), "weights");
    EXPECT_EQ(ReasonOf(tree->OpenFile("weights.bin").status()), Reason::kFileMissing);
  }
}

TEST_F(FileTreeTest, TheRootItselfMayBeALink) {
  model_.Write("v3/file", "third");
  Link("v3", "latest");
  Link("v3/file", "weights");
  const absl::StatusOr<FileTree> directory = FileTree::Open(model_ / "latest", {});
  ASSERT_TRUE(directory.ok()) << directory.status();
  EXPECT_EQ(directory->name(), "latest");
  EXPECT_EQ(Read(*directory, "file"), "third");
  const absl::StatusOr<FileTree> file = FileTree::Open(model_ / "weights", {});
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->name(), "weights");
  EXPECT_EQ(Read(*file, "."), "third");
}

TEST_F(FileTreeTest, NamesComeFromTheLastComponent) {
  model_.Write("m/file", "");
  EXPECT_EQ(FileTree::Open(model_ / "m", {})->name(), "m");
  EXPECT_EQ(FileTree::Open(model_ / "m///", {})->name(), "m");
  EXPECT_EQ(FileTree::Open(model_ / "m/.", {})->name(), "m");
}

TEST_F(FileTreeTest, RootsThatAreNoModelAreRefused) {
  model_.Write("file", "");
  Pipe("pipe");
  Socket("socket");
  Link("nowhere", "dangling");
  const auto reason = [&](const std::string& root) {
    return ReasonOf(FileTree::Open(root, {}).status());
  };
  EXPECT_EQ(reason(model_ / "missing"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(model_ / "dangling"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(model_ / "file/"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(model_ / "pipe"), Reason::kFileTypeRefused);
  EXPECT_EQ(reason(model_ / "socket"), Reason::kFileTypeRefused);
  EXPECT_EQ(reason(""), Reason::kFileUnreadable);
  EXPECT_EQ(reason(model_.path() + std::string("\0/x", 3)), Reason::kPathUnsafe);
}

TEST_F(FileTreeTest, OnlyListedFilesAreOpened) {
  model_.Write("a/file", "");
  model_.Write("left_out", "");
  const FileTree tree = *Open(Ignoring({"left_out"}));
  EXPECT_TRUE(tree.OpenFile("a/file").ok());
  for (const char* path :
       {"left_out", "a", "", ".", "/", "a/../a/file", "a//file", "/etc/passwd"}) {
    EXPECT_EQ(ReasonOf(tree.OpenFile(path).status()), Reason::kFileMissing) << path;
  }
}

TEST_F(FileTreeTest, FilesThatChangedAfterListingAreRefused) {
  const testing::TemporaryDirectory outside;
  outside.Write("file", "data");
  for (const char* name : {"grown", "swapped", "linked", "gone", "piped", "dir/file", "same"}) {
    model_.Write(name, "data");
  }
  const FileTree tree = *Open();
  std::ofstream(model_ / "grown", std::ios::app) << "more";
  model_.Write("other", "data");
  std::filesystem::rename(model_ / "other", model_ / "swapped");
  for (const char* name : {"linked", "gone", "piped"}) std::filesystem::remove(model_ / name);
  Link(outside / "file", "linked");
  Pipe("piped");
  std::filesystem::remove_all(model_ / "dir");
  Link(outside.path(), "dir");
  const auto reason = [&](const char* path) { return ReasonOf(tree.OpenFile(path).status()); };
  EXPECT_EQ(reason("same"), std::nullopt);
  EXPECT_EQ(reason("grown"), Reason::kFileUnstable);
  EXPECT_EQ(reason("swapped"), Reason::kFileUnstable);
  EXPECT_EQ(reason("linked"), Reason::kFileTypeRefused);
  EXPECT_EQ(reason("gone"), Reason::kFileUnreadable);
  EXPECT_EQ(reason("piped"), Reason::kFileTypeRefused);
  EXPECT_EQ(reason("dir/file"), Reason::kFileTypeRefused);
}

TEST_F(FileTreeTest, ARetargetedLinkIsNotTheListedFile) {
  model_.Write("one", "data");
  model_.Write("two", "data");
  Link("one", "link");
  const FileTree tree = *Open(Following());
  EXPECT_TRUE(tree.OpenFile("link").ok());
  std::filesystem::remove(model_ / "link");
  Link("two", "link");
  EXPECT_EQ(ReasonOf(tree.OpenFile("link").status()), Reason::kFileUnstable);
}

TEST_F(FileTreeTest, TheDirectoryStaysTheOneThatWasListed) {
  model_.Write("m/file", "first");
  const FileTree tree = *FileTree::Open(model_ / "m", {});
  std::filesystem::rename(model_ / "m", model_ / "moved");
  model_.Write("m/file", "other");
  EXPECT_EQ(Read(tree, "file"), "first");
}

TEST_F(FileTreeTest, EachOpenHasAnOffsetOfItsOwn) {
  const std::string path = model_.Write("file", "data");
  const FileTree tree = *FileTree::Open(path, {});
  const FileDescriptor first = *tree.OpenFile(".");
  const FileDescriptor second = *tree.OpenFile(".");
  ASSERT_EQ(lseek(first.get(), 3, SEEK_SET), 3);
  EXPECT_EQ(lseek(second.get(), 0, SEEK_CUR), 0);
}

TEST_F(FileTreeTest, UnreadableFilesAndDirectoriesAreNamed) {
  model_.Write("open", "");
  model_.Write("closed", "");
  model_.Write("directory/file", "");
  std::filesystem::permissions(model_.path(), std::filesystem::perms(0755));
  std::filesystem::permissions(model_ / "closed", std::filesystem::perms(0));
  std::filesystem::permissions(model_ / "directory", std::filesystem::perms(0));
  // The administrator may read everything, so look as somebody else.
  const bool is_root = geteuid() == 0;
  if (is_root && seteuid(65534) != 0) GTEST_SKIP() << "cannot give up privileges";
  if (access(model_.path().c_str(), R_OK) != 0 && is_root) {
    ASSERT_EQ(seteuid(0), 0);
    GTEST_SKIP() << "the directory for temporary files is closed to other users";
  }
  const std::vector<Refusal> findings = Findings();
  ASSERT_TRUE(!is_root || seteuid(0) == 0);
  std::filesystem::permissions(model_ / "directory", std::filesystem::perms(0700));
  EXPECT_THAT(findings, ElementsAre(Finding(Reason::kFileUnreadable, "closed"),
                                    Finding(Reason::kFileUnreadable, "directory")));
}

TEST(CheckRelativePathTest, AcceptsWhatASignatureMayName) {
  for (const char* path : {"a", "a/b", ".", ".git", "...", "a\\..\\b", "a b", "\n", "\xc3\xa9",
                           "a:0:10", "..a", "a..", "~", "-"}) {
    EXPECT_TRUE(CheckRelativePath(path, "x").ok()) << path;
  }
  EXPECT_TRUE(CheckRelativePath(std::string(4096, 'a'), "x").ok());
}

TEST(CheckRelativePathTest, RefusesWhatLeavesTheModel) {
  const std::vector<std::string> unsafe = {"",
                                           "/",
                                           "/a",
                                           "//a",
                                           "..",
                                           "../a",
                                           "a/..",
                                           "a/../b",
                                           "./a",
                                           "a/.",
                                           "a//b",
                                           "a/",
                                           "./",
                                           "../",
                                           "a/./b",
                                           "\xff",
                                           "a\xed\xa0\x80",
                                           std::string("a\0b", 3),
                                           std::string(4097, 'a')};
  for (const std::string& path : unsafe) {
    const absl::Status status = CheckRelativePath(path, "the item");
    EXPECT_EQ(ReasonOf(status), Reason::kPathUnsafe) << path;
    EXPECT_EQ(RefusalsOf(status)[0].item, "the item");
  }
}

}  // namespace
}  // namespace pavise::model
