#include "pavise/evidence/reference/sources.h"

#include <cstdlib>
#include <filesystem>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/testing/test_files.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::HasProgram;
using crypto::testing::ReadText;
using crypto::testing::RunCommand;
using pavise::testing::TemporaryDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

std::string DigestOf(std::string_view content) {
  return StrCat("sha256:", ToHex(*crypto::Sha256(AsBytes(content))));
}

std::vector<std::string> Paths(const FileReferences& references) {
  std::vector<std::string> paths;
  for (const auto& [path, digests] : references.values.files) paths.push_back(path);
  return paths;
}

TEST(SourcesTest, HashesATree) {
  const TemporaryDirectory directory;
  directory.Write("bin/tool", "tool");
  directory.Write("lib/empty", "");
  directory.Write(std::string("lib/\xff"), "odd");
  std::filesystem::create_symlink("tool", directory / "bin/link");
  auto references = ReferencesOfTree(directory.path(), "", "tree");
  ASSERT_TRUE(references.ok()) << references.status();
  EXPECT_THAT(Paths(*references), ElementsAre("/bin/tool", "/lib/empty"));
  EXPECT_EQ(references->values.files.at("/bin/tool"), SourcedValues({{DigestOf("tool"), "tree"}}));
  EXPECT_EQ(references->file_count, 2u);
  EXPECT_THAT(references->left_out, ElementsAre(HasSubstr("not UTF-8")));
  references = ReferencesOfTree(directory / "bin", "/usr/bin", "tree");
  ASSERT_TRUE(references.ok());
  EXPECT_THAT(Paths(*references), ElementsAre("/usr/bin/tool"));
  EXPECT_EQ(ReasonOf(ReferencesOfTree(directory / "none", "", "s").status()),
            Reason::kFileTypeRefused);
}

TEST(SourcesTest, HashesAnInitramfs) {
  if (!HasProgram("cpio")) GTEST_SKIP() << "cpio not installed";
  const TemporaryDirectory directory;
  directory.Write("early/kernel/x86/microcode", "microcode");
  directory.Write("main/init", "#!/bin/sh\n");
  directory.Write("main/bin/busybox", "busybox");
  std::filesystem::create_hard_link(directory / "main/bin/busybox", directory / "main/bin/sh");
  const auto made =
      RunCommand(StrCat("cd ", directory.path(),
                        " && (cd early && find . | cpio --quiet -o -H newc > ../early.cpio)"
                        " && (cd main && find . | cpio --quiet -o -H newc > ../main.cpio)"
                        " && gzip -k main.cpio && cat early.cpio main.cpio.gz > image"));
  ASSERT_EQ(made.exit_code, 0) << made.output;
  const std::string image = ReadText(directory / "image");
  const auto references = ReferencesOfInitramfs(AsBytes(image), "image", "initramfs 1");
  ASSERT_TRUE(references.ok()) << references.status();
  EXPECT_THAT(Paths(*references),
              ElementsAre("/bin/busybox", "/bin/sh", "/init", "/kernel/x86/microcode"));
  EXPECT_TRUE(references->values.files.at("/bin/sh").contains(DigestOf("busybox")));
  EXPECT_TRUE(references->values.files.at("/bin/busybox").contains(DigestOf("busybox")));
  // The same files, as the directory tree has them.
  const auto tree = ReferencesOfTree(directory / "main", "", "initramfs 1");
  for (const auto& [path, digests] : tree->values.files) {
    EXPECT_EQ(references->values.files.at(path), digests) << path;
  }

  const std::string plain = ReadText(directory / "main.cpio");
  for (size_t size = 0; size < plain.size(); size += 7) {
    const auto cut = ReferencesOfInitramfs(AsBytes(plain.substr(0, size)), "image", "s");
    const bool whole = plain.find("TRAILER!!!") + 11 <= size;
    EXPECT_TRUE(whole || ReasonOf(cut.status()).has_value()) << size;
  }
  for (const std::string text : {"", "0707", "not an archive", "070701"}) {
    EXPECT_EQ(ReasonOf(ReferencesOfInitramfs(AsBytes(text), "image", "s").status()),
              Reason::kMalformed)
        << text;
  }
  EXPECT_EQ(
      ReasonOf(ReferencesOfInitramfs(AsBytes(image), "image", "s", {.max_unpacked_bytes = 100})
                   .status()),
      Reason::kLimitExceeded);
  EXPECT_EQ(
      ReasonOf(ReferencesOfInitramfs(AsBytes(image), "image", "s", {.max_members = 2}).status()),
      Reason::kLimitExceeded);
}

// libarchive knows formats that it hands to whatever program of a name it finds in the path.
TEST(SourcesTest, StartsNoPrograms) {
  const TemporaryDirectory directory;
  directory.Write("grzip", StrCat("#!/bin/sh\ntouch ", directory / "was_run", "\n"));
  std::filesystem::permissions(directory / "grzip", std::filesystem::perms::owner_all);
  const char* const path = getenv("PATH");
  const std::string before = path == nullptr ? "" : path;
  ASSERT_EQ(setenv("PATH", StrCat(directory.path(), ":", before).c_str(), 1), 0);
  const std::string image = StrCat(std::string("GRZipII\0\2\4:)", 12), std::string(64, 'x'));
  const auto references = ReferencesOfInitramfs(AsBytes(image), "image", "s");
  ASSERT_EQ(setenv("PATH", before.c_str(), 1), 0);
  EXPECT_EQ(ReasonOf(references.status()), Reason::kMalformed);
  EXPECT_FALSE(std::filesystem::exists(directory / "was_run"));
}

TEST(SourcesTest, UnpacksTheCompressionsOfKernels) {
  size_t executed = 0;
  if (!HasProgram("cpio")) GTEST_SKIP() << "cpio not installed";
  for (const char* program : {"gzip", "xz", "lzma", "bzip2", "zstd", "lz4"}) {
    if (!HasProgram(program)) continue;
    const TemporaryDirectory directory;
    directory.Write("main/init", "#!/bin/sh\n");
    const auto made = RunCommand(StrCat("cd ", directory.path(),
                                        "/main && find . | cpio --quiet -o "
                                        "-H newc | ",
                                        program, " -c > ../image"));
    ASSERT_EQ(made.exit_code, 0) << made.output;
    const auto references =
        ReferencesOfInitramfs(AsBytes(ReadText(directory / "image")), "image", "s");
    ASSERT_TRUE(references.ok()) << program << references.status();
    EXPECT_THAT(Paths(*references), ElementsAre("/init")) << program;
    ++executed;
  }
  EXPECT_GE(executed, 2u);  // gzip and xz are of every Debian
}

TEST(SourcesTest, HashesADebianPackage) {
  if (!HasProgram("dpkg-deb")) GTEST_SKIP() << "dpkg-deb not installed";
  const TemporaryDirectory directory;
  directory.Write("p/DEBIAN/control",
                  "Package: sample\nVersion: 1\nArchitecture: all\nMaintainer: us <u@example.org>\n"
                  "Description: sample\n");
  directory.Write("p/bin/tool", "tool");
  directory.Write("p/usr/share/sample/data", "data");
  std::filesystem::create_hard_link(directory / "p/bin/tool", directory / "p/bin/tool2");
  size_t executed = 0;
  for (const std::string compression : {"xz", "gzip", "none"}) {
    const auto made = RunCommand(StrCat("dpkg-deb --root-owner-group -Z", compression, " -b ",
                                        directory / "p", " ", directory / "p.deb"));
    ASSERT_EQ(made.exit_code, 0) << made.output;
    const std::string package = ReadText(directory / "p.deb");
    const auto references =
        ReferencesOfDebianPackage(AsBytes(package), "p.deb", "package sample 1");
    ASSERT_TRUE(references.ok()) << references.status();
    EXPECT_THAT(Paths(*references),
                ElementsAre("/usr/bin/tool", "/usr/bin/tool2", "/usr/share/sample/data"));
    EXPECT_TRUE(references->values.files.at("/usr/bin/tool2").contains(DigestOf("tool")));
    const auto unmerged = ReferencesOfDebianPackage(AsBytes(package), "p.deb", "s", false);
    EXPECT_THAT(Paths(*unmerged), ElementsAre("/bin/tool", "/bin/tool2", "/usr/share/sample/data"));
    EXPECT_EQ(ReasonOf(ReferencesOfDebianPackage(AsBytes(package), "p", "s", true, {50}).status()),
              Reason::kLimitExceeded);
    EXPECT_NE(
        ReasonOf(ReferencesOfDebianPackage(AsBytes(package.substr(0, package.size() / 2)), "p", "s")
                     .status()),
        std::nullopt);
    ++executed;
  }
  EXPECT_EQ(executed, 3u);
  EXPECT_EQ(ReasonOf(ReferencesOfDebianPackage(AsBytes("nothing"), "p", "s").status()),
            Reason::kMalformed);
}

// A system with /bin as a link to usr/bin, one good, one changed and one missing file.
TEST(SourcesTest, HashesInstalledPackagesAndLeavesOutWhatChanged) {
  const TemporaryDirectory root;
  root.Write("usr/bin/tool", "tool");
  root.Write("usr/bin/changed", "changed since");
  root.Write("usr/lib/other", "other");
  std::filesystem::create_directory_symlink("usr/bin", root / "bin");
  root.Write("var/lib/dpkg/status",
             "Package: sample\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1-2\n\n"
             "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
             "Package: other\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3\n");
  // MD5 of "tool" and "other"; of the others, anything.
  root.Write("var/lib/dpkg/info/sample:amd64.md5sums",
             "39ab32c5aeb56c9f5ae17f073ce31023  bin/tool\n"
             "00000000000000000000000000000000  bin/changed\n"
             "00000000000000000000000000000000  bin/missing\n");
  root.Write("var/lib/dpkg/info/other.md5sums",
             "795f3202b17cb6bc3d4b771d8c6c9eaf  usr/lib/other\n");
  auto references = ReferencesOfInstalledPackages(root.path(), {});
  ASSERT_TRUE(references.ok()) << references.status();
  EXPECT_THAT(references->left_out,
              ElementsAre(HasSubstr("was changed since"), HasSubstr("is not there")));
  EXPECT_THAT(Paths(*references), ElementsAre("/usr/bin/tool", "/usr/lib/other"));
  EXPECT_EQ(references->values.files.at("/usr/bin/tool"),
            SourcedValues({{DigestOf("tool"), "package sample 1-2"}}));
  references = ReferencesOfInstalledPackages(root.path(), {"other"});
  ASSERT_TRUE(references.ok());
  EXPECT_THAT(Paths(*references), ElementsAre("/usr/lib/other"));
  EXPECT_EQ(ReasonOf(ReferencesOfInstalledPackages(root.path(), {"gone"}).status()),
            Reason::kFileMissing);
  root.Write("var/lib/dpkg/info/other.md5sums", "no sum\n");
  EXPECT_EQ(ReasonOf(ReferencesOfInstalledPackages(root.path(), {}).status()), Reason::kMalformed);
}

TEST(SourcesTest, HashesAPackageOfThisMachine) {
  if (!std::filesystem::exists("/var/lib/dpkg/info/dpkg.md5sums")) {
    GTEST_SKIP() << "this machine has no dpkg database";
  }
  const auto references = ReferencesOfInstalledPackages("/", {"dpkg"});
  ASSERT_TRUE(references.ok()) << references.status();
  EXPECT_TRUE(references->values.files.contains("/usr/bin/dpkg"));
  EXPECT_TRUE(
      references->values.files.at("/usr/bin/dpkg").contains(DigestOf(ReadText("/usr/bin/dpkg"))));
}

}  // namespace
}  // namespace pavise::evidence
