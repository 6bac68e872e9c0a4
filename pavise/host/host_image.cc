#include "pavise/host/host_image.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/subprocess.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/boot/host_protections.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/host/cpio_archive.h"
#include "pavise/host/init/verity_root.h"
#include "pavise/host/predicted_boot.h"
#include "pavise/host/unified_kernel_image.h"

#include "absl/strings/str_split.h"

namespace pavise::host {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMostFileBytes = uint64_t{4} << 30;
constexpr uint64_t kBlockBytes = 4096;
constexpr int64_t kFatEpoch = 315532800;  // 1980-01-01

// Whoever gets to one of these can read other processes' memory or change what runs. Interpreters
// are left out: hosts that train need python3, and the files it runs are of the verified root.
constexpr std::string_view kRefusedPrograms[] = {"sh",          "bash",        "bash-static",
                                                 "rbash",       "dash",        "zsh",
                                                 "zsh-static",  "rzsh",        "ksh",
                                                 "ksh93",       "rksh",        "mksh",
                                                 "mksh-static", "lksh",        "ash",
                                                 "csh",         "tcsh",        "bsd-csh",
                                                 "fish",        "posh",        "yash",
                                                 "sash",        "busybox",     "toybox",
                                                 "gdb",         "gdbserver",   "lldb",
                                                 "strace",      "ltrace",      "perf",
                                                 "bpftrace",    "ssh",         "sshd",
                                                 "dropbear",    "sftp-server", "telnetd",
                                                 "in.telnetd",  "login",       "sulogin",
                                                 "su",          "runuser",     "sudo",
                                                 "doas",        "pkexec",      "agetty",
                                                 "getty",       "nc",          "nc.openbsd",
                                                 "ncat",        "netcat",      "nc.traditional",
                                                 "socat",       "screen",      "tmux",
                                                 "dd",          "kexec",       "insmod",
                                                 "modprobe",    "kmod"};

// Measures what is executed, mapped as code, loaded into the kernel or read from the verified root,
// whoever does it (Linux, Documentation/ABI/testing/ima_policy). The device mapper's tables are
// left out: they name disks by numbers that nobody can predict, and the root hash is measured
// already, with the initial file system that holds it (PCR 9 and 11).
constexpr std::string_view kImaPolicy =
    "measure func=BPRM_CHECK\n"
    "measure func=MMAP_CHECK mask=MAY_EXEC\n"
    "measure func=MODULE_CHECK\n"
    "measure func=FIRMWARE_CHECK\n"
    "measure func=POLICY_CHECK\n"
    "measure func=KEXEC_KERNEL_CHECK\n"
    "measure func=FILE_CHECK mask=MAY_READ fsmagic=0x73717368\n";

constexpr std::string_view kOsRelease =
    "ID=pavise-host\nNAME=\"Pavise host\"\nPRETTY_NAME=\"Pavise measured host\"\n";

absl::Status FileSystemError(const std::error_code& error, std::string_view operation,
                             const fs::path& path) {
  return FromErrno(error.value(), operation, path.string());
}

// A directory of our own below the target, removed at the end.
class WorkDirectory {
 public:
  static absl::StatusOr<WorkDirectory> Create(const fs::path& parent) {
    std::string name = (parent / ".work-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) return FromErrno(errno, "creating", name);
    return WorkDirectory(name);
  }
  ~WorkDirectory() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  WorkDirectory(WorkDirectory&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  WorkDirectory& operator=(WorkDirectory&&) = delete;
  const fs::path& path() const { return path_; }

 private:
  explicit WorkDirectory(fs::path path) : path_(std::move(path)) {}
  fs::path path_;
};

// Sorted; directories before what they hold.
absl::StatusOr<std::vector<fs::path>> ListBelow(const fs::path& root) {
  std::vector<fs::path> paths;
  std::error_code error;
  for (fs::recursive_directory_iterator it(root, error), end; !error && it != end;
       it.increment(error)) {
    paths.push_back(it->path());
  }
  if (error) return FileSystemError(error, "listing", root);
  std::sort(paths.begin(), paths.end());
  return paths;
}

struct KernelPackage {
  fs::path linux_image;
  std::map<std::string, fs::path> modules;  // by name, '-' as '_'
};

std::string ModuleName(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

absl::StatusOr<KernelPackage> FindKernel(const fs::path& root) {
  KernelPackage found;
  PAVISE_ASSIGN_OR_RETURN(const std::vector<fs::path> paths, ListBelow(root));
  for (const fs::path& path : paths) {
    if (path.filename().string().starts_with("vmlinuz-")) found.linux_image = path;
    if (path.extension() == ".ko") found.modules[ModuleName(path.stem().string())] = path;
  }
  if (found.linux_image.empty()) {
    return Refuse(
        Reason::kFileMissing, root.string(), "holds no kernel (vmlinuz-*)",
        "give a Debian kernel package: apt-get download linux-image-cloud-amd64 names it");
  }
  return found;
}

// The names after "depends=" in the module's .modinfo section.
std::vector<std::string> DependenciesOf(const Bytes& module) {
  constexpr std::string_view kKey("\0depends=", 9);
  const std::string_view text = AsText(module);
  const size_t at = text.find(kKey);
  if (at == std::string_view::npos) return {};
  const size_t begin = at + kKey.size();
  return absl::StrSplit(std::string(text.substr(begin, text.find('\0', begin) - begin)), ',',
                        absl::SkipEmpty());
}

// Appends the module after those it depends on.
absl::Status AddModule(const KernelPackage& kernel, const std::string& name,
                       std::set<std::string>& seen,
                       std::vector<std::pair<std::string, Bytes>>& modules) {
  const std::string key = ModuleName(name);
  if (!seen.insert(key).second) return absl::OkStatus();
  const auto found = kernel.modules.find(key);
  if (found == kernel.modules.end()) {
    return Refuse(Reason::kFileMissing, name, "is no module of this kernel",
                  "leave it out where it is built into the kernel, or give another kernel package");
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes content, ReadFile(found->second.string(), kMostFileBytes));
  for (const std::string& needed : DependenciesOf(content)) {
    PAVISE_RETURN_IF_ERROR(AddModule(kernel, needed, seen, modules));
  }
  modules.emplace_back(StrCat("usr/lib/modules/", key, ".ko"), std::move(content));
  return absl::OkStatus();
}

absl::Status MakeDirectory(const fs::path& path) {
  // Whatever the umask: the mode goes into the image.
  if (mkdir(path.c_str(), 0755) != 0 || chmod(path.c_str(), 0755) != 0) {
    return FromErrno(errno, "creating", path.string());
  }
  return absl::OkStatus();
}

absl::Status UnsafePath(const fs::path& in_image, std::string_view detail,
                        std::string_view remedy) {
  return Refuse(Reason::kPathUnsafe, "/" + in_image.relative_path().string(), detail, remedy);
}

// The directory in the staged root that `in_image` names, made where it is missing. Packages and
// the owner's files hold links: those that stay inside are followed, and nothing is written through
// one that leads out. `root` is canonical, `in_image` without "..".
absl::StatusOr<fs::path> StagedDirectory(const fs::path& root, const fs::path& in_image) {
  fs::path directory = root;
  for (const fs::path& component : in_image.relative_path()) {
    const fs::path next = directory / component;
    std::error_code error;
    const fs::file_status status = fs::symlink_status(next, error);
    if (status.type() == fs::file_type::not_found) {
      PAVISE_RETURN_IF_ERROR(MakeDirectory(next));
      directory = next;
    } else if (fs::is_symlink(status)) {
      directory = fs::canonical(next, error);
      const fs::path inside = directory.lexically_relative(root);
      if (error || inside.empty() || *inside.begin() == ".." ||
          !fs::is_directory(directory, error)) {
        return UnsafePath(next.lexically_relative(root),
                          StrCat("is a link to ", fs::read_symlink(next, error).string(),
                                 ", which is no directory of the image, and a file is to go there"),
                          "replace it with a directory, or with a relative link that stays inside");
      }
    } else if (fs::is_directory(status)) {
      directory = next;
    } else {
      return UnsafePath(next.lexically_relative(root), "is no directory, and a file is to go there",
                        "leave out one of the two");
    }
  }
  return directory;
}

// Where a file goes; whatever has that name, but a directory, is replaced and not followed.
absl::StatusOr<fs::path> StagedFile(const fs::path& root, const fs::path& in_image) {
  const fs::path name = in_image.filename();
  const bool is_plain = std::none_of(in_image.begin(), in_image.end(), [](const fs::path& word) {
    return word.empty() || word == "." || word == "..";
  });
  if (!is_plain || !in_image.has_relative_path()) {
    return UnsafePath(in_image, "names no file, or holds . or ..",
                      "name the file by its path in the image");
  }
  PAVISE_ASSIGN_OR_RETURN(const fs::path directory,
                          StagedDirectory(root, in_image.relative_path().parent_path()));
  std::error_code error;
  if (fs::is_directory(fs::symlink_status(directory / name, error))) {
    return UnsafePath(in_image, "is a directory, and a file of that name is to replace it",
                      "leave out one of the two");
  }
  return directory / name;
}

// Moves what was unpacked into a directory of its own over what is in the staged root already.
absl::Status Merge(const fs::path& tree, const fs::path& root) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<fs::path> paths, ListBelow(tree));
  for (const fs::path& path : paths) {
    const fs::path in_image = path.lexically_relative(tree);
    std::error_code error;
    const fs::file_status status = fs::symlink_status(path, error);
    if (fs::is_directory(status)) {
      PAVISE_ASSIGN_OR_RETURN(const fs::path directory, StagedDirectory(root, in_image));
      fs::permissions(directory, status.permissions(), error);
    } else if (fs::is_regular_file(status) || fs::is_symlink(status)) {
      PAVISE_ASSIGN_OR_RETURN(const fs::path file, StagedFile(root, in_image));
      fs::rename(path, file, error);
    } else {
      return Refuse(Reason::kFileTypeRefused, "/" + in_image.string(),
                    "is neither a file nor a directory nor a link", "leave it out");
    }
    if (error) return FileSystemError(error, "staging", path);
  }
  return absl::OkStatus();
}

// Copies a file of this machine into the staged root.
absl::Status Install(const fs::path& from, const fs::path& root, const fs::path& in_image) {
  PAVISE_ASSIGN_OR_RETURN(const fs::path to, StagedFile(root, in_image));
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(from.string(), kMostFileBytes));
  return WriteFileAtomically(to.string(), content, 0755);
}

// Whether the dynamic loader has a part in the program: PT_DYNAMIC among the program headers of a
// 64-bit ELF file (System V ABI, "Program Header"). Not for scripts and static programs.
absl::StatusOr<bool> IsDynamicallyLinked(const std::string& program) {
  constexpr uint32_t kPtDynamic = 2;
  PAVISE_ASSIGN_OR_RETURN(const Bytes file, ReadFile(program, kMostFileBytes));
  if (!AsText(file).starts_with("\x7f"
                                "ELF\x02\x01")) {
    if (!AsText(file).starts_with("\x7f"
                                  "ELF"))
      return false;
    return Refuse(Reason::kUnsupported, program, "is no little-endian 64-bit ELF file",
                  "give a program for x86-64");
  }
  ByteReader header(file, program);
  PAVISE_RETURN_IF_ERROR(header.Take(32, "ELF header").status());
  PAVISE_ASSIGN_OR_RETURN(const uint64_t table_offset, header.LittleEndian64("e_phoff"));
  PAVISE_RETURN_IF_ERROR(header.Take(14, "ELF header").status());
  PAVISE_ASSIGN_OR_RETURN(const uint16_t entry_bytes, header.LittleEndian16("e_phentsize"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t count, header.LittleEndian16("e_phnum"));
  if (table_offset > file.size()) return header.Malformed("e_phoff points beyond the file");
  ByteReader table(ByteSpan(file).subspan(table_offset), program, table_offset);
  for (uint16_t i = 0; i < count; ++i) {
    PAVISE_ASSIGN_OR_RETURN(ByteReader entry, table.Sub(entry_bytes, "program header"));
    PAVISE_ASSIGN_OR_RETURN(const uint32_t type, entry.LittleEndian32("p_type"));
    if (type == kPtDynamic) return true;
  }
  return false;
}

// The shared libraries that the dynamic loader would give the program, by the paths it would use.
absl::StatusOr<std::vector<std::string>> LibrariesOf(const std::string& program) {
  std::vector<std::string> libraries;
  PAVISE_ASSIGN_OR_RETURN(const bool is_dynamic, IsDynamicallyLinked(program));
  if (!is_dynamic) return libraries;
  PAVISE_ASSIGN_OR_RETURN(const ProgramResult result,
                          RunProgram({"/lib64/ld-linux-x86-64.so.2", "--list", program}, "libc6"));
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(result.output, '\n'))) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    // Search paths may hold "..".
    for (const std::string& word : words) {
      if (word.front() == '/') libraries.push_back(fs::path(word).lexically_normal().string());
    }
    if (line.find("not found") != std::string::npos) {
      return Refuse(Reason::kFileMissing, program, StrCat("needs a library: ", line),
                    "install it on the machine that builds the image");
    }
  }
  if (result.exit_status != 0) {
    return Refuse(Reason::kFileMissing, program,
                  StrCat("the dynamic loader cannot list its libraries: ",
                         Printable(result.output.substr(0, result.output.find('\n')))),
                  "give a program that runs on the machine that builds the image");
  }
  return libraries;
}

// Into `root`, which is new and canonical; `work` is a directory beside it.
absl::Status StageRoot(const HostImageOptions& options, const fs::path& work,
                       const fs::path& root) {
  PAVISE_RETURN_IF_ERROR(MakeDirectory(root));
  // Each is unpacked by itself, since tar and cp would follow the links of those before.
  size_t count = 0;
  for (const std::string& package : options.packages) {
    const fs::path tree = work / StrCat("package-", count++);
    PAVISE_RETURN_IF_ERROR(RunProgramOrFail({"dpkg-deb", "-x", package, tree.string()}, "dpkg"));
    PAVISE_RETURN_IF_ERROR(Merge(tree, root));
  }
  if (!options.files.empty()) {
    const fs::path tree = work / "files";
    PAVISE_RETURN_IF_ERROR(
        RunProgramOrFail({"cp", "-a", "--no-target-directory", "--",
                          (fs::path(options.files) / ".").string(), tree.string()},
                         "coreutils"));
    PAVISE_RETURN_IF_ERROR(Merge(tree, root));
  }
  std::set<std::string> libraries(options.libraries.begin(), options.libraries.end());
  for (const std::string& library : options.libraries) {
    if (library.empty() || library.front() != '/') {
      return UsageError(StrCat("library ", library, ": an absolute path is needed"));
    }
    PAVISE_ASSIGN_OR_RETURN(const auto needed, LibrariesOf(library));
    libraries.insert(needed.begin(), needed.end());
  }
  for (const auto& [path, file] : options.programs) {
    PAVISE_RETURN_IF_ERROR(Install(file, root, path));
    PAVISE_ASSIGN_OR_RETURN(const auto needed, LibrariesOf(file));
    libraries.insert(needed.begin(), needed.end());
  }
  for (const std::string& library : libraries) {
    // Loaders look in /lib and /usr/lib; a link makes them one.
    fs::path target = fs::path(library).relative_path();
    if (*target.begin() == "lib" || *target.begin() == "lib64") target = "usr" / target;
    PAVISE_RETURN_IF_ERROR(Install(library, root, target));
  }
  for (const char* name : {"lib", "lib64"}) {
    const fs::path link = root / name;
    std::error_code error;
    if (fs::exists(fs::symlink_status(link, error))) continue;
    PAVISE_RETURN_IF_ERROR(StagedDirectory(root, fs::path("usr") / name).status());
    fs::create_symlink(fs::path("usr") / name, link, error);
    if (error) return FileSystemError(error, "linking", link);
  }
  for (const char* name : {"proc", "sys", "dev", "run", "tmp"}) {
    PAVISE_RETURN_IF_ERROR(StagedDirectory(root, name).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<Bytes> Sha256OfFile(const fs::path& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path.string(), kMostFileBytes));
  return crypto::Digest(crypto::DigestAlgorithm::kSha256, content);
}

// Refuses what lets people in, and lists what IMA may measure and what may be executed.
absl::Status InspectRoot(const HostImageOptions& options, const fs::path& root, HostImage& image) {
  constexpr fs::perms kExecutable =
      fs::perms::owner_exec | fs::perms::group_exec | fs::perms::others_exec;
  std::vector<Refusal> findings;
  PAVISE_ASSIGN_OR_RETURN(const std::vector<fs::path> paths, ListBelow(root));
  for (const fs::path& path : paths) {
    const std::string name = path.filename().string();
    const std::string in_image = "/" + path.lexically_relative(root).string();
    std::error_code error;
    const fs::file_status status = fs::symlink_status(path, error);
    if (error) return FileSystemError(error, "looking at", path);
    const bool is_refused = std::find(std::begin(kRefusedPrograms), std::end(kRefusedPrograms),
                                      name) != std::end(kRefusedPrograms);
    const bool is_executable =
        fs::is_regular_file(status) && (status.permissions() & kExecutable) != fs::perms::none;
    // A directory may be called so; a program or a link to one may not.
    if (is_refused && !options.allowed_programs.contains(name) &&
        (is_executable || fs::is_symlink(status))) {
      findings.push_back({Reason::kPolicyDenied, in_image,
                          "lets whoever reaches it run or read what he likes",
                          StrCat("leave it out, or build with --allow-program ", name)});
    }
    if (fs::is_regular_file(status)) {
      PAVISE_ASSIGN_OR_RETURN(image.files[in_image], Sha256OfFile(path));
    }
    if (is_executable) image.executables.push_back(in_image);
  }
  const std::string& program = options.start.front();
  if (!image.files.contains(program)) {
    findings.push_back({Reason::kFileMissing, program, "is to be started, and is not in the image",
                        "add it to the files, packages or programs"});
  }
  return findings.empty() ? absl::OkStatus() : Refuse(std::move(findings));
}

std::string Uuid(ByteSpan digest) {
  const std::string hex = ToHex(digest);
  return StrCat(hex.substr(0, 8), "-", hex.substr(8, 4), "-4", hex.substr(13, 3), "-8",
                hex.substr(17, 3), "-", hex.substr(20, 12));
}

// The root as squashfs with the hash tree of dm-verity after it.
absl::StatusOr<VerityRoot> WriteRoot(const fs::path& root, const fs::path& image) {
  PAVISE_RETURN_IF_ERROR(
      RunProgramOrFail({"mksquashfs", root.string(), image.string(), "-noappend", "-all-root",
                        "-all-time", "0", "-mkfs-time", "0", "-no-xattrs", "-no-exports",
                        "-processors", "1", "-quiet", "-no-progress"},
                       "squashfs-tools"));
  std::error_code error;
  uint64_t size_bytes = fs::file_size(image, error);
  if (error) return FileSystemError(error, "measuring", image);
  size_bytes = (size_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  fs::resize_file(image, size_bytes, error);
  if (error) return FileSystemError(error, "padding", image);
  // Salt and UUID from the content: unlike for other roots, the same for this one.
  PAVISE_ASSIGN_OR_RETURN(const Bytes digest, Sha256OfFile(image));
  // The superblock stands in the first block after the data, the tree behind it.
  const uint64_t data_blocks = size_bytes / kBlockBytes;
  VerityRoot tree{StrCat(data_blocks), StrCat(data_blocks + 1), "", ""};
  tree.salt = ToHex(digest);
  PAVISE_ASSIGN_OR_RETURN(
      const ProgramResult formatted,
      RunProgram({"veritysetup", "format", StrCat("--hash-offset=", size_bytes),
                  StrCat("--data-blocks=", tree.data_blocks), StrCat("--salt=", tree.salt),
                  StrCat("--uuid=", Uuid(digest)), image.string(), image.string()},
                 "cryptsetup-bin"));
  constexpr std::string_view kRootHash = "Root hash:";
  const size_t at = formatted.output.find(kRootHash);
  if (formatted.exit_status != 0 || at == std::string::npos) {
    return MachineFailure("veritysetup", formatted.output);
  }
  const size_t begin = formatted.output.find_first_not_of(" \t", at + kRootHash.size());
  tree.root_hash = formatted.output.substr(begin, 2 * sizeof(Digest32));
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor disk, OpenRegularFile(image.string()));
  if (!HoldsVerityRoot(disk.get(), tree)) {
    return MachineFailure("veritysetup", "wrote a tree that a host would not recognise");
  }
  return tree;
}

absl::StatusOr<std::string> CommandLine(const std::string& extra) {
  std::string line = extra;
  for (const evidence::HostProtection& protection : evidence::HostProtections()) {
    StrAppend(&line, line.empty() ? "" : " ", protection.parameter);
  }
  StrAppend(&line, " intel_iommu=on ima_hash=sha256 rootfstype=ramfs rdinit=/init panic=-1");
  evidence::CheckList checks;
  evidence::CheckHostProtections(line, {}, checks);
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return line;
}

absl::Status WriteEfiSystemPartition(const fs::path& kernel_image, const fs::path& image) {
  std::error_code error;
  fs::remove(image, error);
  const uint64_t content_bytes = fs::file_size(kernel_image, error);
  if (error) return FileSystemError(error, "measuring", kernel_image);
  // FAT begins in 1980, in local time; mcopy takes the time of the file, mmd that of the variable.
  const struct timespec times[2] = {{kFatEpoch, 0}, {kFatEpoch, 0}};
  if (utimensat(AT_FDCWD, kernel_image.c_str(), times, 0) != 0) {
    return FromErrno(errno, "setting the time of", kernel_image.string());
  }
  const std::vector<std::string> environment = {StrCat("SOURCE_DATE_EPOCH=", kFatEpoch), "TZ=UTC"};
  // FAT32 wants 33 MiB at least.
  const uint64_t kibibytes = std::max<uint64_t>(content_bytes / 1024 + 4096, 40 * 1024);
  PAVISE_RETURN_IF_ERROR(
      RunProgramOrFail({"mkfs.vfat", "-C", "-F", "32", "--invariant", "-i", "50415649", "-n",
                        "PAVISE", image.string(), std::to_string(kibibytes)},
                       "dosfstools"));
  PAVISE_RETURN_IF_ERROR(RunProgramOrFail({"mmd", "-i", image.string(), "::/EFI", "::/EFI/BOOT"},
                                          "mtools", environment));
  return RunProgramOrFail(
      {"mcopy", "-m", "-i", image.string(), kernel_image.string(), "::/EFI/BOOT/BOOTX64.EFI"},
      "mtools", environment);
}

}  // namespace

absl::StatusOr<HostImage> BuildHostImage(const HostImageOptions& options,
                                         const std::string& directory) {
  if (options.start.empty() || options.start.front().empty() || options.start.front()[0] != '/') {
    return UsageError("what is to be started needs an absolute path in the image");
  }
  for (size_t i = 0; i < options.address.size(); ++i) {
    in_addr ignored;
    const std::string& word = options.address[i];
    const bool is_name =
        !word.empty() && word.size() < IFNAMSIZ &&
        std::all_of(word.begin(), word.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
    if (options.address.size() != 4 ||
        !(i == 0 ? is_name : inet_pton(AF_INET, word.c_str(), &ignored) == 1)) {
      return UsageError("an address is: interface, IPv4 address, netmask, gateway");
    }
  }
  for (const std::string& word : options.start) {
    if (word.empty() || word.find_first_of(" \n") != std::string::npos) {
      return UsageError("a word of the command to be started is empty or holds a space");
    }
  }
  HostImage result;
  PAVISE_ASSIGN_OR_RETURN(result.command_line, CommandLine(options.command_line));
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) return FileSystemError(error, "creating", directory);
  const fs::path target = fs::canonical(directory, error);
  if (error) return FileSystemError(error, "finding", directory);
  PAVISE_ASSIGN_OR_RETURN(const WorkDirectory work, WorkDirectory::Create(target));

  fs::path kernel_root = options.kernel;
  if (kernel_root.extension() == ".deb") {
    kernel_root = work.path() / "kernel";
    PAVISE_RETURN_IF_ERROR(
        RunProgramOrFail({"dpkg-deb", "-x", options.kernel, kernel_root.string()}, "dpkg"));
  }
  PAVISE_ASSIGN_OR_RETURN(const KernelPackage kernel, FindKernel(kernel_root));

  const fs::path root = work.path() / "root";
  PAVISE_RETURN_IF_ERROR(StageRoot(options, work.path(), root));
  PAVISE_RETURN_IF_ERROR(InspectRoot(options, root, result));
  PAVISE_ASSIGN_OR_RETURN(const VerityRoot tree, WriteRoot(root, work.path() / "root.img"));

  std::vector<ArchiveEntry> entries;
  const auto add_file = [&](const std::string& path, Bytes content, uint32_t permissions) {
    entries.push_back({path, ArchiveEntry::Kind::kFile, permissions, std::move(content), 0, 0});
  };
  std::string configuration;
  std::set<std::string> seen;
  std::vector<std::pair<std::string, Bytes>> modules;
  for (const std::string& name : options.modules) {
    PAVISE_RETURN_IF_ERROR(AddModule(kernel, name, seen, modules));
  }
  StrAppend(&configuration, "ima-policy /etc/pavise/ima-policy\n");
  for (auto& [path, content] : modules) {
    StrAppend(&configuration, "module /", path, "\n");
    add_file(path, std::move(content), 0644);
  }
  StrAppend(&configuration, "root ", tree.data_blocks, " ", tree.hash_block, " ", tree.root_hash,
            " ", tree.salt, "\n");
  if (!options.address.empty()) {
    StrAppend(&configuration, "address");
    for (const std::string& word : options.address) StrAppend(&configuration, " ", word);
    StrAppend(&configuration, "\n");
  }
  StrAppend(&configuration, "start");
  for (const std::string& word : options.start) StrAppend(&configuration, " ", word);
  StrAppend(&configuration, "\n");
  const auto bytes_of = [](std::string_view text) {
    const ByteSpan bytes = AsBytes(text);
    return Bytes(bytes.begin(), bytes.end());
  };
  add_file("etc/pavise/init.conf", bytes_of(configuration), 0644);
  add_file("etc/pavise/ima-policy", bytes_of(kImaPolicy), 0644);
  PAVISE_ASSIGN_OR_RETURN(Bytes init, ReadFile(options.init, kMostFileBytes));
  add_file("init", std::move(init), 0755);
  entries.push_back({"dev/console", ArchiveEntry::Kind::kCharacterDevice, 0600, {}, 5, 1});
  for (const ArchiveEntry& entry : entries) {
    if (entry.kind != ArchiveEntry::Kind::kFile) continue;
    PAVISE_ASSIGN_OR_RETURN(result.files["/" + entry.path],
                            crypto::Digest(crypto::DigestAlgorithm::kSha256, entry.content));
  }

  UnifiedKernelParts parts;
  PAVISE_ASSIGN_OR_RETURN(parts.stub, ReadFile(options.stub, kMostFileBytes));
  PAVISE_ASSIGN_OR_RETURN(parts.linux_image, ReadFile(kernel.linux_image.string(), kMostFileBytes));
  PAVISE_ASSIGN_OR_RETURN(parts.initrd, WriteCpioArchive(entries));
  parts.cmdline = result.command_line;
  parts.os_release = kOsRelease;
  const auto add_digest = [&](const std::string& name, ByteSpan content) -> absl::Status {
    PAVISE_ASSIGN_OR_RETURN(result.launch_digests[name],
                            crypto::Digest(crypto::DigestAlgorithm::kSha256, content));
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(add_digest("kernel", parts.linux_image));
  PAVISE_RETURN_IF_ERROR(add_digest("initrd", parts.initrd));
  PAVISE_RETURN_IF_ERROR(
      add_digest("command_line", AsBytes(StrCat(parts.cmdline, std::string(1, '\0')))));
  PAVISE_ASSIGN_OR_RETURN(const Bytes image, BuildUnifiedKernelImage(parts));
  PAVISE_ASSIGN_OR_RETURN(result.pcrs, PredictPcrs(image, "host.efi"));
  result.kernel_image_bytes = image.size();

  PAVISE_RETURN_IF_ERROR(WriteFileAtomically((target / "host.efi").string(), image));
  PAVISE_RETURN_IF_ERROR(WriteEfiSystemPartition(target / "host.efi", work.path() / "esp.img"));
  for (const char* name : {"root.img", "esp.img"}) {
    fs::rename(work.path() / name, target / name, error);
    if (error) return FileSystemError(error, "writing", target / name);
  }
  result.root_bytes = fs::file_size(target / "root.img", error);
  return result;
}

}  // namespace pavise::host
