#include "pavise/host/host_image.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/subprocess.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/boot/host_protections.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/host/cpio_archive.h"
#include "pavise/host/predicted_boot.h"
#include "pavise/host/unified_kernel_image.h"

#include "absl/strings/str_split.h"

namespace pavise::host {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMostFileBytes = uint64_t{4} << 30;
constexpr uint64_t kBlockBytes = 4096;
constexpr int64_t kFatEpoch = 315532800;  // 1980-01-01

// Whoever gets to one of these can read other processes' memory or change what runs.
constexpr std::string_view kRefusedPrograms[] = {
    "sh",   "bash",     "dash",   "zsh",     "ksh",       "ash",     "csh",    "tcsh",
    "fish", "busybox",  "toybox", "gdb",     "gdbserver", "lldb",    "strace", "ltrace",
    "perf", "bpftrace", "ssh",    "sshd",    "dropbear",  "telnetd", "login",  "su",
    "sudo", "agetty",   "getty",  "nc",      "netcat",    "socat",   "screen", "tmux",
    "dd",   "kexec",    "insmod", "modprobe"};

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

absl::Status MakeDirectories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? FileSystemError(error, "creating", path) : absl::OkStatus();
}

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

// Copies a file of this machine into the staged root.
absl::Status Install(const fs::path& from, const fs::path& to, mode_t mode) {
  PAVISE_RETURN_IF_ERROR(MakeDirectories(to.parent_path()));
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(from.string(), kMostFileBytes));
  return WriteFileAtomically(to.string(), content, mode);
}

// The shared libraries that the dynamic loader would give the program, by the paths it would use.
absl::StatusOr<std::vector<std::string>> LibrariesOf(const std::string& program) {
  PAVISE_ASSIGN_OR_RETURN(const ProgramResult result,
                          RunProgram({"/lib64/ld-linux-x86-64.so.2", "--list", program}, "libc6"));
  std::vector<std::string> libraries;
  if (result.exit_status != 0) return libraries;  // statically linked
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(result.output, '\n'))) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
    for (const std::string& word : words) {
      if (word.front() == '/') libraries.push_back(word);
    }
    if (line.find("not found") != std::string::npos) {
      return Refuse(Reason::kFileMissing, program, StrCat("needs a library: ", line),
                    "install it on the machine that builds the image");
    }
  }
  return libraries;
}

absl::Status StageRoot(const HostImageOptions& options, const fs::path& root) {
  PAVISE_RETURN_IF_ERROR(MakeDirectories(root));
  for (const std::string& package : options.packages) {
    PAVISE_RETURN_IF_ERROR(RunProgramOrFail({"dpkg-deb", "-x", package, root.string()}, "dpkg"));
  }
  if (!options.files.empty()) {
    PAVISE_RETURN_IF_ERROR(RunProgramOrFail(
        {"cp", "-a", "--no-target-directory", options.files, root.string()}, "coreutils"));
  }
  std::set<std::string> libraries(options.libraries.begin(), options.libraries.end());
  for (const std::string& library : options.libraries) {
    PAVISE_ASSIGN_OR_RETURN(const auto needed, LibrariesOf(library));
    libraries.insert(needed.begin(), needed.end());
  }
  for (const auto& [path, file] : options.programs) {
    PAVISE_RETURN_IF_ERROR(Install(file, root / fs::path(path).relative_path(), 0755));
    PAVISE_ASSIGN_OR_RETURN(const auto needed, LibrariesOf(file));
    libraries.insert(needed.begin(), needed.end());
  }
  for (const std::string& library : libraries) {
    // Loaders look in /lib and /usr/lib; a link makes them one.
    fs::path target = fs::path(library).relative_path();
    if (target.string().starts_with("lib")) target = "usr" / target;
    PAVISE_RETURN_IF_ERROR(Install(library, root / target, 0755));
  }
  std::error_code error;
  for (const char* name : {"lib", "lib64"}) {
    const fs::path link = root / name;
    if (fs::exists(fs::symlink_status(link, error))) continue;
    PAVISE_RETURN_IF_ERROR(MakeDirectories(root / "usr" / name));
    fs::create_symlink(fs::path("usr") / name, link, error);
    if (error) return FileSystemError(error, "linking", link);
  }
  for (const char* name : {"proc", "sys", "dev", "run", "tmp"}) {
    PAVISE_RETURN_IF_ERROR(MakeDirectories(root / name));
  }
  return absl::OkStatus();
}

absl::StatusOr<Bytes> Sha256OfFile(const fs::path& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path.string(), kMostFileBytes));
  return crypto::Digest(crypto::DigestAlgorithm::kSha256, content);
}

// Refuses what lets people in, and lists what IMA may measure.
absl::Status InspectRoot(const HostImageOptions& options, const fs::path& root,
                         std::map<std::string, Bytes>& files) {
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
    // A directory may be called so; a program or a link to one may not.
    if (is_refused && !fs::is_directory(status) && !options.allowed_programs.contains(name) &&
        (fs::is_symlink(status) ||
         (status.permissions() & fs::perms::owner_exec) != fs::perms::none)) {
      findings.push_back({Reason::kPolicyDenied, in_image,
                          "lets whoever reaches it run or read what he likes",
                          StrCat("leave it out, or build with --allow-program ", name)});
    }
    if (fs::is_regular_file(status)) {
      PAVISE_ASSIGN_OR_RETURN(files[in_image], Sha256OfFile(path));
    }
  }
  const std::string& program = options.start.front();
  if (!files.contains(program)) {
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

struct VerityTree {
  uint64_t data_blocks = 0;
  std::string root_hash;
  std::string salt;
};

// The root as squashfs with the hash tree of dm-verity after it.
absl::StatusOr<VerityTree> WriteRoot(const fs::path& root, const fs::path& image) {
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
  VerityTree tree;
  tree.data_blocks = size_bytes / kBlockBytes;
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
  PAVISE_RETURN_IF_ERROR(Digest32FromHex(tree.root_hash, "veritysetup").status());
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
  // FAT begins in 1980; mcopy takes the time of the file, mmd that of the variable.
  const struct timespec times[2] = {{kFatEpoch, 0}, {kFatEpoch, 0}};
  if (utimensat(AT_FDCWD, kernel_image.c_str(), times, 0) != 0) {
    return FromErrno(errno, "setting the time of", kernel_image.string());
  }
  const std::vector<std::string> environment = {StrCat("SOURCE_DATE_EPOCH=", kFatEpoch)};
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
      "mtools");
}

}  // namespace

absl::StatusOr<HostImage> BuildHostImage(const HostImageOptions& options,
                                         const std::string& directory) {
  if (options.start.empty() || options.start.front().empty() || options.start.front()[0] != '/') {
    return UsageError("what is to be started needs an absolute path in the image");
  }
  for (const std::string& word : options.start) {
    if (word.empty() || word.find_first_of(" \n") != std::string::npos) {
      return UsageError("a word of the command to be started is empty or holds a space");
    }
  }
  HostImage result;
  PAVISE_ASSIGN_OR_RETURN(result.command_line, CommandLine(options.command_line));
  const fs::path target(directory);
  PAVISE_RETURN_IF_ERROR(MakeDirectories(target));
  PAVISE_ASSIGN_OR_RETURN(const WorkDirectory work, WorkDirectory::Create(target));

  fs::path kernel_root = options.kernel;
  if (kernel_root.extension() == ".deb") {
    kernel_root = work.path() / "kernel";
    PAVISE_RETURN_IF_ERROR(
        RunProgramOrFail({"dpkg-deb", "-x", options.kernel, kernel_root.string()}, "dpkg"));
  }
  PAVISE_ASSIGN_OR_RETURN(const KernelPackage kernel, FindKernel(kernel_root));

  const fs::path root = work.path() / "root";
  PAVISE_RETURN_IF_ERROR(StageRoot(options, root));
  PAVISE_RETURN_IF_ERROR(InspectRoot(options, root, result.files));
  PAVISE_ASSIGN_OR_RETURN(const VerityTree tree, WriteRoot(root, work.path() / "root.img"));

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
  // The superblock stands in the first block after the data, the tree behind it.
  StrAppend(&configuration, "root ", tree.data_blocks, " ", tree.data_blocks + 1, " ",
            tree.root_hash, " ", tree.salt, "\nstart");
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
    std::error_code error;
    fs::rename(work.path() / name, target / name, error);
    if (error) return FileSystemError(error, "writing", target / name);
  }
  std::error_code error;
  result.root_bytes = fs::file_size(target / "root.img", error);
  return result;
}

}  // namespace pavise::host
