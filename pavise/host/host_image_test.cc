#include "pavise/host/host_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/host/init/verity_root.h"
#include "pavise/host/pe_image.h"
#include "pavise/host/testing/test_image.h"

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::host {
namespace {

namespace fs = std::filesystem;

using crypto::testing::HasProgram;
using crypto::testing::RunCommand;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::TestImage;

// Builds images of a kernel, a stub and an init that are not to be run.
class HostImageTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* program :
         {"dpkg-deb", "mksquashfs", "/sbin/veritysetup", "/sbin/mkfs.vfat", "mmd", "mcopy"}) {
      if (!HasProgram(program)) GTEST_SKIP() << program << " is not installed";
    }
    directory_.Write("kernel/boot/vmlinuz-1", AsText(TestImage("kernel")));
    directory_.Write("kernel/lib/modules/1/a-one.ko", Module("module a", "b,c-two"));
    directory_.Write("kernel/lib/modules/1/b.ko", Module("module b", "c_two"));
    directory_.Write("kernel/lib/modules/1/sub/c_two.ko", Module("module c", ""));
    directory_.Write("stub", AsText(TestImage("stub")));
    directory_.Write("init", "first process");
    AddProgram("files/usr/bin/app");
    // A root of more than one block, so that it has a tree.
    std::string data;
    for (int i = 0; i < 20'000; ++i) data += std::to_string(i * i);
    directory_.Write("files/usr/share/data", data);
    options_.kernel = directory_ / "kernel";
    options_.stub = directory_ / "stub";
    options_.init = directory_ / "init";
    options_.files = directory_ / "files";
    options_.start = {"/usr/bin/app", "--first", "second"};
    options_.modules = {"a_one"};
  }

  static std::string Module(const std::string& content, const std::string& depends) {
    return StrCat(content, std::string(1, '\0'), "depends=", depends, std::string(1, '\0'));
  }
  void AddProgram(const std::string& path, fs::perms permissions = fs::perms(0755)) {
    fs::permissions(directory_.Write(path, "#!/usr/bin/true\n"), permissions);
  }
  void AddLink(const std::string& path, const std::string& target) {
    fs::create_directories(fs::path(directory_ / path).parent_path());
    fs::create_directory_symlink(target, directory_ / path);
  }
  // A package of what lies in `tree`.
  std::string Package(const std::string& tree) {
    directory_.Write(tree + "/DEBIAN/control",
                     "Package: t\nVersion: 1\nArchitecture: all\nMaintainer: t\nDescription: t\n");
    const std::string package = directory_ / (tree + ".deb");
    const auto made = RunCommand(
        StrCat("dpkg-deb --root-owner-group --build ", directory_ / tree, " ", package, " 2>&1"));
    EXPECT_EQ(made.exit_code, 0) << made.output;
    return package;
  }
  absl::StatusOr<HostImage> Build(const std::string& name = "out") {
    return BuildHostImage(options_, directory_ / name);
  }
  // What the build is refused for: "reason item".
  std::vector<std::string> Findings() {
    std::vector<std::string> findings;
    for (const Refusal& refusal : RefusalsOf(Build().status())) {
      findings.push_back(StrCat(ReasonName(refusal.reason), " ", refusal.item));
      if (refusal.reason != Reason::kMalformed) {
        EXPECT_NE(refusal.remedy, "");
      }
    }
    return findings;
  }
  // Of the initial file system, which holds each file's bytes as they are.
  std::string Initrd(const std::string& name = "out") {
    const Bytes image = ReadFile(directory_ / (name + "/host.efi"), 1 << 24).value();
    const PeHeaders headers = ParsePe(image, "image").value();
    for (const PeSection& section : headers.sections) {
      if (section.name != ".initrd") continue;
      return std::string(
          AsText(ByteSpan(image).subspan(section.raw_offset_bytes, section.virtual_size)));
    }
    return "";
  }

  const pavise::testing::TemporaryDirectory directory_;
  HostImageOptions options_;
};

// The words after "root".
VerityRoot RootOf(const std::string& initrd) {
  const size_t at = initrd.find("\nroot ");
  const std::vector<std::string> words =
      absl::StrSplit(initrd.substr(at + 1, initrd.find('\n', at + 1) - at - 1), ' ');
  EXPECT_EQ(words.size(), 5u);
  return {words.at(1), words.at(2), words.at(3), words.at(4)};
}

TEST_F(HostImageTest, HoldsWhatWasAskedFor) {
  AddProgram("program");
  options_.programs["/usr/bin/more"] = directory_ / "program";
  const HostImage image = Build().value();
  std::vector<std::string> files;
  for (const auto& [path, digest] : image.files) files.push_back(path);
  EXPECT_THAT(
      files, ElementsAre("/etc/pavise/ima-policy", "/etc/pavise/init.conf", "/init", "/usr/bin/app",
                         "/usr/bin/more", "/usr/lib/modules/a_one.ko", "/usr/lib/modules/b.ko",
                         "/usr/lib/modules/c_two.ko", "/usr/share/data"));
  EXPECT_EQ(image.files.at("/init"),
            crypto::Digest(crypto::DigestAlgorithm::kSha256, AsBytes("first process")).value());
  EXPECT_THAT(image.executables, ElementsAre("/usr/bin/app", "/usr/bin/more"));
  const std::string initrd = Initrd();
  // Modules after those they depend on.
  EXPECT_THAT(initrd, HasSubstr("ima-policy /etc/pavise/ima-policy\n"
                                "module /usr/lib/modules/c_two.ko\n"
                                "module /usr/lib/modules/b.ko\n"
                                "module /usr/lib/modules/a_one.ko\n"
                                "root "));
  EXPECT_THAT(initrd, HasSubstr("\nstart /usr/bin/app --first second\n"));
}

// Everything that a build makes of its own has modes that the umask does not touch.
TEST_F(HostImageTest, SameInputSameBytes) {
  fs::create_directories(directory_ / "package/opt/tool");
  directory_.Write("package/opt/tool/note", "note");
  options_.packages = {Package("package")};
  AddProgram("program");
  options_.programs["/srv/deep/down/more"] = directory_ / "program";
  const mode_t before = umask(0022);
  ASSERT_TRUE(Build("first").ok());
  umask(0077);
  ASSERT_TRUE(Build("second").ok());
  umask(before);
  for (const char* name : {"host.efi", "esp.img", "root.img"}) {
    EXPECT_EQ(ReadFile(directory_ / StrCat("first/", name), 1 << 28).value(),
              ReadFile(directory_ / StrCat("second/", name), 1 << 28).value())
        << name;
  }
  // FAT knows the folder's time as 1980-01-01, whenever it was made.
  const auto listed =
      RunCommand(StrCat("TZ=UTC mdir -i ", directory_ / "first/esp.img", " ::/EFI"));
  EXPECT_THAT(listed.output, HasSubstr("BOOT         <DIR>     1980-01-01   0:00"));
  // Another file, another root and another image.
  directory_.Write("files/usr/share/data", "other");
  ASSERT_TRUE(Build("third").ok());
  EXPECT_NE(Initrd("third"), Initrd("first"));
}

TEST_F(HostImageTest, OnlyADiskWithTheTreeHoldsTheRoot) {
  ASSERT_TRUE(Build().ok());
  const VerityRoot root = RootOf(Initrd());
  ASSERT_GT(std::stoul(root.data_blocks), 1u);
  const auto holds = [&](const std::function<void(Bytes&)>& change, const VerityRoot& expected) {
    Bytes disk = ReadFile(directory_ / "out/root.img", 1 << 24).value();
    change(disk);
    const std::string path = directory_.Write("disk", AsText(disk));
    return HoldsVerityRoot(OpenRegularFile(path).value().get(), expected);
  };
  const auto as_it_is = [](Bytes&) {};
  const size_t tree = std::stoul(root.hash_block) * 4096;
  EXPECT_TRUE(holds(as_it_is, root));
  EXPECT_TRUE(holds([](Bytes& disk) { disk.resize(disk.size() + 4096, 7); }, root));
  // A decoy: the superblock alone, which anybody can copy.
  EXPECT_FALSE(holds([&](Bytes& disk) { std::fill(disk.begin() + tree, disk.end(), 0); }, root));
  for (const size_t changed : {tree, tree + 31, tree + 4095, tree - 4096, tree - 4096 + 88}) {
    EXPECT_FALSE(holds([&](Bytes& disk) { disk[changed] ^= 1; }, root)) << changed;
  }
  EXPECT_FALSE(holds([&](Bytes& disk) { disk.resize(tree + 4095); }, root));
  EXPECT_FALSE(holds([&](Bytes& disk) { disk.resize(tree - 1); }, root));
  EXPECT_FALSE(holds([](Bytes& disk) { disk.clear(); }, root));
  // A salt longer than the field.
  EXPECT_FALSE(holds([&](Bytes& disk) { disk[tree - 4096 + 81] = 0xff; }, root));
  VerityRoot other = root;
  other.root_hash[0] = other.root_hash[0] == '0' ? '1' : '0';
  EXPECT_FALSE(holds(as_it_is, other));
  other = root;
  other.salt[0] = other.salt[0] == '0' ? '1' : '0';
  EXPECT_FALSE(holds(as_it_is, other));
  for (const char* number : {"0", "", "1", "99999999999999999999"}) {
    other = root;
    other.hash_block = number;
    EXPECT_FALSE(holds(as_it_is, other)) << number;
  }
  EXPECT_FALSE(HoldsVerityRoot(-1, root));
}

// A root of one block has no tree: the hash is the block's.
TEST_F(HostImageTest, TheSmallestRoot) {
  fs::remove(directory_ / "files/usr/share/data");
  ASSERT_TRUE(Build().ok());
  const VerityRoot root = RootOf(Initrd());
  EXPECT_EQ(root.data_blocks, "1");
  EXPECT_TRUE(HoldsVerityRoot(OpenRegularFile(directory_ / "out/root.img").value().get(), root));
}

// As found: libraries and packages were written through links that the files had put there.
TEST_F(HostImageTest, NothingIsWrittenThroughALinkThatLeadsOut) {
  fs::create_directories(directory_ / "victim");
  const std::string victim = directory_ / "victim";
  const auto untouched = [&] { return fs::is_empty(victim); };
  AddProgram("program");
  const auto program_into = [&](const std::string& path) {
    options_.programs = {{path, directory_ / "program"}};
    const std::vector<std::string> findings = Findings();
    EXPECT_TRUE(untouched()) << path;
    return findings;
  };
  AddLink("files/opt", victim);
  EXPECT_THAT(program_into("/opt/x"), ElementsAre("path-unsafe /opt"));
  EXPECT_THAT(program_into("/opt/deeper/x"), ElementsAre("path-unsafe /opt"));
  AddLink("files/srv", "../../../../../../../../.." + victim);
  EXPECT_THAT(program_into("/srv/x"), ElementsAre("path-unsafe /srv"));
  AddLink("files/etc", "nowhere");
  EXPECT_THAT(program_into("/etc/x"), ElementsAre("path-unsafe /etc"));
  AddLink("files/usr/over", "../opt");
  EXPECT_THAT(program_into("/usr/over/x"), ElementsAre("path-unsafe /usr/over"));
  EXPECT_THAT(program_into("/usr/bin/app/x"), ElementsAre("path-unsafe /usr/bin/app"));
  EXPECT_THAT(program_into("/usr/bin"), ElementsAre("path-unsafe /usr/bin"));
  // What is not a path below the root.
  for (const char* path : {"/../../x", "/usr/../x", "/usr/./x", "/usr/..", "/", "/usr/bin/."}) {
    EXPECT_THAT(program_into(path), ElementsAre(StrCat("path-unsafe ", path)));
  }
  // A link in a file's place is replaced; one that stays inside is followed.
  directory_.Write("victim-file", "as it was");
  AddLink("files/usr/bin/replaced", directory_ / "victim-file");
  AddLink("files/usr/sbin", "bin");
  options_.programs = {{"/usr/sbin/replaced", directory_ / "program"}};
  const HostImage image = Build().value();
  EXPECT_TRUE(image.files.contains("/usr/bin/replaced"));
  EXPECT_EQ(pavise::testing::ContentOf(directory_ / "victim-file"), "as it was");
  // The directories that the builder makes itself.
  AddLink("files/dev", victim);
  options_.programs.clear();
  EXPECT_THAT(Findings(), ElementsAre("path-unsafe /dev"));
  fs::remove(directory_ / "files/dev");
  EXPECT_TRUE(Build().ok());
}

TEST_F(HostImageTest, LibrariesStayInside) {
  fs::create_directories(directory_ / "victim");
  if (!fs::exists("/bin/true")) GTEST_SKIP() << "needs a dynamically linked /bin/true";
  options_.programs = {{"/usr/bin/true", "/bin/true"}};
  const HostImage image = Build().value();
  EXPECT_TRUE(image.files.contains("/usr/lib64/ld-linux-x86-64.so.2"));
  AddLink("files/usr/lib64", directory_ / "victim");
  EXPECT_THAT(Findings(), ElementsAre("path-unsafe /usr/lib64"));
  EXPECT_TRUE(fs::is_empty(directory_ / "victim"));
  fs::remove(directory_ / "files/usr/lib64");
  options_.libraries = {"../escaped.so"};
  EXPECT_EQ(Build().status().code(), absl::StatusCode::kInvalidArgument);
  directory_.Write("lib.so", "no ELF");
  options_.libraries = {directory_ / "victim/../lib.so"};
  EXPECT_THAT(Findings(), ElementsAre(HasSubstr("path-unsafe /tmp/")));
}

TEST_F(HostImageTest, PackagesAreUnpackedEachByItself) {
  fs::create_directories(directory_ / "victim");
  AddLink("one/opt", directory_ / "victim");
  directory_.Write("two/opt/escaped", "");
  options_.packages = {Package("one"), Package("two")};
  EXPECT_THAT(Findings(), ElementsAre("path-unsafe /opt"));
  EXPECT_TRUE(fs::is_empty(directory_ / "victim"));
  // The other way about a link would replace a directory with files in it.
  std::swap(options_.packages[0], options_.packages[1]);
  EXPECT_THAT(Findings(), ElementsAre("path-unsafe /opt"));
  // A package's link, and a file of the owner's there.
  AddLink("three/usr/share/data", directory_ / "victim-file");
  directory_.Write("victim-file", "as it was");
  options_.packages = {Package("three")};
  EXPECT_TRUE(Build().value().files.contains("/usr/share/data"));
  EXPECT_EQ(pavise::testing::ContentOf(directory_ / "victim-file"), "as it was");
  // Links inside are followed, as distributions have them.
  AddLink("four/lib", "usr/lib");
  directory_.Write("four/usr/lib/a", "");
  directory_.Write("five/lib/b", "");
  options_.packages = {Package("four"), Package("five")};
  EXPECT_TRUE(Build().value().files.contains("/usr/lib/b"));
  ASSERT_EQ(mkfifo((directory_ / "files/pipe").c_str(), 0600), 0);
  EXPECT_THAT(Findings(), ElementsAre("file-type-refused /pipe"));
}

TEST_F(HostImageTest, ProgramsThatLetPeopleInAreRefusedByName) {
  size_t executed = 0;
  for (const mode_t mode : {0100u, 0010u, 0001u}) {
    for (const char* name : {"sh", "rbash", "mksh", "kmod", "sshd"}) {
      AddProgram(StrCat("files/usr/bin/", name), fs::perms(mode | 0600));
      EXPECT_THAT(Findings(), ElementsAre(StrCat("policy-denied /usr/bin/", name)));
      fs::remove(directory_ / StrCat("files/usr/bin/", name));
      ++executed;
    }
  }
  EXPECT_EQ(executed, 15u);
  AddLink("files/usr/bin/bash", "app");
  EXPECT_THAT(Findings(), ElementsAre("policy-denied /usr/bin/bash"));
  options_.allowed_programs = {"bash"};
  EXPECT_TRUE(Build().ok());
  // Data of that name, a folder, and interpreters.
  AddProgram("files/usr/share/login", fs::perms(0644));
  AddProgram("files/usr/share/ssh/config", fs::perms(0644));
  AddProgram("files/usr/bin/python3");
  EXPECT_THAT(Build().value().executables, ElementsAre("/usr/bin/app", "/usr/bin/python3"));
  options_.start = {"/usr/bin/absent"};
  EXPECT_THAT(Findings(), ElementsAre("file-missing /usr/bin/absent"));
}

TEST_F(HostImageTest, WhatCannotBeBuilt) {
  options_.modules = {"absent"};
  EXPECT_THAT(Findings(), ElementsAre("file-missing absent"));
  options_.modules = {};
  options_.kernel = directory_ / "files";
  EXPECT_THAT(Findings(), ElementsAre(HasSubstr("file-missing ")));
  options_.kernel = directory_ / "kernel";
  for (const std::vector<std::string>& start :
       {std::vector<std::string>{}, {"app"}, {"/app", ""}, {"/app", "a b"}, {"/app", "a\nb"}}) {
    options_.start = start;
    EXPECT_EQ(Build().status().code(), absl::StatusCode::kInvalidArgument);
  }
  options_.start = {"/usr/bin/app"};
  for (const std::vector<std::string>& address :
       {std::vector<std::string>{"eth0"},
        {"eth0", "10.0.2.15", "255.255.255.0"},
        {"eth0", "10.0.2", "255.255.255.0", "10.0.2.2"},
        {"eth0", "10.0.2.15", "255.255.255.0", "10.0.2.2\nstart /x"},
        {"a name that is too long", "10.0.2.15", "255.255.255.0", "10.0.2.2"},
        {"eth\n", "10.0.2.15", "255.255.255.0", "10.0.2.2"}}) {
    options_.address = address;
    EXPECT_EQ(Build().status().code(), absl::StatusCode::kInvalidArgument);
  }
  options_.address.clear();
  // Neither a script nor a program that the loader can read: once taken for a static one.
  Bytes program = ReadFile("/bin/true", 1 << 24).value();
  program.resize(program.size() / 2);
  options_.programs = {{"/usr/bin/cut", directory_.Write("cut", AsText(program))}};
  EXPECT_THAT(Findings(), ElementsAre(StrCat("file-missing ", directory_ / "cut")));
  program.resize(70);
  directory_.Write("cut", AsText(program));
  EXPECT_THAT(Findings(), ElementsAre(StrCat("malformed ", directory_ / "cut")));
  program[4] = 1;  // of 32 bits
  directory_.Write("cut", AsText(program));
  EXPECT_THAT(Findings(), ElementsAre(StrCat("unsupported ", directory_ / "cut")));
}

}  // namespace
}  // namespace pavise::host
