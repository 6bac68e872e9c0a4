#include "pavise/host/cpio_archive.h"

#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::host {
namespace {

using crypto::testing::HasProgram;
using crypto::testing::ReadText;
using crypto::testing::RunCommand;
using ::testing::HasSubstr;

ArchiveEntry File(const std::string& path, std::string_view content, uint32_t permissions = 0644) {
  return {path, ArchiveEntry::Kind::kFile, permissions, Bytes(content.begin(), content.end()), 0,
          0};
}

TEST(CpioArchiveTest, TheOrderOfTheEntriesDoesNotMatter) {
  const ArchiveEntry a = File("usr/bin/a", "1");
  const ArchiveEntry b = File("b", "22", 0755);
  EXPECT_EQ(WriteCpioArchive({a, b}).value(), WriteCpioArchive({b, a}).value());
  EXPECT_NE(WriteCpioArchive({a, b}).value(), WriteCpioArchive({a}).value());
}

TEST(CpioArchiveTest, CpioUnpacksIt) {
  if (!HasProgram("cpio")) GTEST_SKIP() << "cpio is not installed";
  const pavise::testing::TemporaryDirectory directory;
  ArchiveEntry link{"lib", ArchiveEntry::Kind::kSymlink, 0777, {}, 0, 0};
  for (const char c : std::string("usr/lib")) link.content.push_back(static_cast<uint8_t>(c));
  const Bytes archive =
      WriteCpioArchive({File("usr/lib/x/data", "three", 0600), File("init", "run", 0755), link})
          .value();
  directory.Write("archive", AsText(archive));
  const auto unpacked = RunCommand("cd '" + std::string(directory.path()) +
                                   "' && cpio -idm < archive 2>&1 && find . | sort && readlink lib"
                                   " && stat -c %a init usr/lib/x/data");
  EXPECT_EQ(unpacked.exit_code, 0) << unpacked.output;
  EXPECT_THAT(unpacked.output,
              HasSubstr("./init\n./lib\n./usr\n./usr/lib\n./usr/lib/x\n./usr/lib/x/data\nusr/lib\n"
                        "755\n600\n"));
  EXPECT_EQ(ReadText(directory / "usr/lib/x/data"), "three");
}

TEST(CpioArchiveTest, PathsThatLeaveTheRootOrCollide) {
  size_t executed = 0;
  for (const std::string path : {"", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a/"}) {
    EXPECT_EQ(ReasonOf(WriteCpioArchive({File(path, "x")}).status()), Reason::kPathUnsafe) << path;
    ++executed;
  }
  EXPECT_EQ(executed, 7u);
  EXPECT_EQ(ReasonOf(WriteCpioArchive({File("a", "1"), File("a", "2")}).status()),
            Reason::kPathUnsafe);
  EXPECT_EQ(ReasonOf(WriteCpioArchive({File("a", "1"), File("a/b", "2")}).status()),
            Reason::kPathUnsafe);
}

}  // namespace
}  // namespace pavise::host
