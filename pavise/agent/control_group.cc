#include "pavise/agent/control_group.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace pavise::agent {
namespace {

constexpr uint64_t kMostFileBytes = uint64_t{1} << 20;
constexpr const char* kPrefix = "pavise-run-";
constexpr const char* kOwnLeaf = "pavise-agent";

// Files of /proc and of a cgroup have no size that could be known before.
std::string ReadText(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  char buffer[4096];
  while (file.is_open() && text.size() < kMostFileBytes) {
    const ssize_t count = read(file.get(), buffer, sizeof(buffer));
    if (count <= 0) break;
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

bool WriteText(const std::string& path, const std::string& text) {
  const FileDescriptor file(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  return file.is_open() &&
         write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
}

absl::Status Unsupported(std::string_view item, std::string_view detail) {
  return Refuse(Reason::kUnsupported, item, detail,
                "start this program in a cgroup v2 of its own that it may divide (systemd: "
                "Delegate=yes), or name one with --cgroup");
}

// The cgroup of this process below the mount of cgroup v2.
absl::StatusOr<std::string> OwnGroup(const std::string& mount) {
  struct statfs status;
  if (statfs(mount.c_str(), &status) != 0 || status.f_type != CGROUP2_SUPER_MAGIC) {
    return Unsupported(mount, "is no cgroup v2 file system");
  }
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(ReadText("/proc/self/cgroup"), '\n'))) {
    absl::string_view path = line;
    if (absl::ConsumePrefix(&path, "0::")) return StrCat(mount, path == "/" ? "" : FromAbsl(path));
  }
  return Unsupported(mount, "holds no group of this process");
}

// Groups of runs that were killed, and their programs with them. One with processes stays.
void RemoveEmptyGroups(const std::string& parent) {
  DIR* directory = opendir(parent.c_str());
  if (directory == nullptr) return;
  while (const dirent* entry = readdir(directory)) {
    if (std::strncmp(entry->d_name, kPrefix, std::strlen(kPrefix)) == 0) {
      rmdir(StrCat(parent, "/", entry->d_name).c_str());
    }
  }
  closedir(directory);
}

// Every process of `group` into a leaf below it, so that its controllers may be handed on: only
// where this is the only one.
bool MoveToLeaf(const std::string& group) {
  if (absl::StripAsciiWhitespace(ReadText(StrCat(group, "/cgroup.procs"))) !=
      StrCat("", getpid())) {
    return false;
  }
  const std::string leaf = StrCat(group, "/", kOwnLeaf);
  return (mkdir(leaf.c_str(), 0755) == 0 || errno == EEXIST) &&
         WriteText(StrCat(leaf, "/cgroup.procs"), "0");
}

}  // namespace

absl::StatusOr<ControlGroup> ControlGroup::Create(const std::string& mount,
                                                  const std::string& given) {
  std::string parent = given;
  if (parent.empty()) {
    PAVISE_ASSIGN_OR_RETURN(parent, OwnGroup(mount));
    // A run before this one has moved us.
    if (BaseName(parent) == kOwnLeaf) parent.resize(parent.rfind('/'));
  }
  RemoveEmptyGroups(parent);
  const std::string controllers = StrCat(parent, "/cgroup.subtree_control");
  const auto hand_on = [&] {
    bool all = true;
    for (const char* name : {"+memory", "+pids", "+cpu"}) all &= WriteText(controllers, name);
    return all;
  };
  // The root group may hold processes beside its children, another may not.
  if (!hand_on() && given.empty() && MoveToLeaf(parent)) hand_on();

  static std::atomic<unsigned> count = 0;
  ControlGroup group(StrCat(parent, "/", kPrefix, getpid(), "-", count++));
  if (mkdir(group.path_.c_str(), 0755) != 0) {
    const int error = errno;
    const std::string path = std::exchange(group.path_, "");
    return Unsupported(path, StrCat("cannot be made: ", std::strerror(error)));
  }
  group.processes_ =
      FileDescriptor(open(StrCat(group.path_, "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  if (!group.processes_.is_open()) {
    return Unsupported(group.path_, "takes no processes");
  }
  return group;
}

ControlGroup::ControlGroup(ControlGroup&& other) noexcept
    : path_(std::exchange(other.path_, "")), processes_(std::move(other.processes_)) {}

ControlGroup::~ControlGroup() {
  if (path_.empty()) return;
  Kill();
  // A killed process leaves its group a moment later than it dies for who waits for it.
  for (int attempt = 0; attempt < 100 && rmdir(path_.c_str()) != 0 && errno == EBUSY; ++attempt) {
    usleep(10'000);
  }
}

absl::Status ControlGroup::Set(const char* name, const std::string& value) const {
  const std::string path = StrCat(path_, "/", name);
  if (WriteText(path, value)) return absl::OkStatus();
  return Unsupported(path, StrCat("cannot be set: ", std::strerror(errno)));
}

absl::Status ControlGroup::LimitMemory(uint64_t bytes) {
  PAVISE_RETURN_IF_ERROR(Set("memory.max", StrCat(bytes)));
  PAVISE_RETURN_IF_ERROR(Set("memory.oom.group", "1"));
  // Not there where the kernel was built or started without accounting of swap.
  if (access(StrCat(path_, "/memory.swap.max").c_str(), F_OK) != 0) return absl::OkStatus();
  return Set("memory.swap.max", "0");
}

absl::Status ControlGroup::LimitProcesses(uint32_t count) { return Set("pids.max", StrCat(count)); }

absl::Status ControlGroup::LimitCpu(uint32_t percent) {
  constexpr uint64_t kPeriodMicroseconds = 100'000;
  return Set("cpu.max",
             StrCat(uint64_t{percent} * kPeriodMicroseconds / 100, " ", kPeriodMicroseconds));
}

bool ControlGroup::WasOutOfMemory() const {
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(ReadText(StrCat(path_, "/memory.events")), '\n'))) {
    absl::string_view count = line;
    uint64_t value = 0;
    if (absl::ConsumePrefix(&count, "oom_kill ") && absl::SimpleAtoi(count, &value)) {
      return value > 0;
    }
  }
  return false;
}

void ControlGroup::Kill() const {
  if (WriteText(StrCat(path_, "/cgroup.kill"), "1")) return;
  // Before Linux 5.14. Again until none is new: a process may have forked in between.
  for (int attempt = 0; attempt < 100; ++attempt) {
    const std::string list = ReadText(StrCat(path_, "/cgroup.procs"));
    if (list.empty()) return;
    for (const std::string& line : std::vector<std::string>(absl::StrSplit(list, '\n'))) {
      pid_t process = 0;
      if (absl::SimpleAtoi(line, &process) && process > 0) kill(process, SIGKILL);
    }
  }
}

}  // namespace pavise::agent
