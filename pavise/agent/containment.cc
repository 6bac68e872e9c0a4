#include "pavise/agent/containment.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <utility>

#include "pavise/agent/control_group.h"
#include "pavise/agent/seccomp_filter.h"
#include "pavise/base/file.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/subprocess.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"

namespace pavise::agent {
namespace {

// Where the storage is mounted, in the mount namespace that the command's begins from. Whatever
// lies there on the host is hidden from the command, which has no use for it.
constexpr const char* kMountPoint = "/run";
constexpr uid_t kUserInside = 1000;
// Nobody's (systemd.io/UIDS-GIDS: above the ranges of containers, below the signed boundary). Each
// run has one of its own, so that two at a time are strangers to each other: 16 a process.
constexpr uid_t kFirstRunUser = 0x7000'0000;
constexpr uid_t kRunUsersOfProcess = 16;
constexpr uint64_t kMostInodes = 1'000'000;
constexpr size_t kMostLogLineBytes = 300;
constexpr uint64_t kMaxCopiedFileBytes = uint64_t{1} << 20;

// The descriptors that bubblewrap is given, by number.
enum : int { kSeccompNumber = 3, kStatusNumber = 4, kFirstUnused = 5 };

constexpr uint16_t kNetworkPort = 3128;
constexpr const char* kNetworkVariable = "PROXY=http://127.0.0.1:3128";

// What the keeper reports when the storage is there, or why not.
struct KeeperReport {
  int error = 0;        // errno
  char step[32] = {};   // what failed
  bool noswap = false;  // the storage is never swapped out
};

constexpr const char* kNamespaceRemedy =
    "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns)";

struct Descriptors {
  int seccomp;
  int status;
  int socket;
  int control_group;  // -1: none
};

[[noreturn]] void ReportFailure(int socket, const char* step) {
  KeeperReport report;
  report.error = errno;
  std::strncpy(report.step, step, sizeof(report.step) - 1);
  (void)!write(socket, &report, sizeof(report));
  _exit(1);
}

bool WriteFileRaw(const char* path, const char* text, size_t size) {
  const int file = open(path, O_WRONLY | O_CLOEXEC);
  const bool written = file >= 0 && write(file, text, size) == static_cast<ssize_t>(size);
  if (file >= 0) close(file);
  return written;
}

// Brings up the loopback of a new network namespace, and listens on it. -1: errno says why.
int ListenInside() {
  const int file = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ifreq loopback = {};
  loopback.ifr_name[0] = 'l';
  loopback.ifr_name[1] = 'o';
  loopback.ifr_flags = IFF_UP;
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kNetworkPort);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (file < 0 || ioctl(file, SIOCSIFFLAGS, &loopback) != 0 ||
      bind(file, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      listen(file, SOMAXCONN) != 0) {
    return -1;
  }
  return file;
}

// Made before the fork, since the keeper may not allocate.
struct KeeperPlan {
  bool root = false;
  bool network = false;
  uid_t user = 0;
  std::string user_map;  // for user namespaces of an unprivileged caller
  std::string group_map;
  std::string tmpfs_noswap;
  std::string tmpfs;
  std::vector<std::pair<int, rlim_t>> resources;
  std::string program;
  std::vector<char*> arguments;
  std::vector<char*> environment;
};

// The keeper: process 1 of a namespace in which everything else runs, so that nothing outlives it.
// It holds the mount namespace with the storage, and becomes bubblewrap. Made by a process that may
// have threads: system calls only.
[[noreturn]] void Keep(const KeeperPlan& plan, const Descriptors& given) {
  const int socket = given.socket;
  // 0 moves the writer.
  if (given.control_group >= 0 && write(given.control_group, "0", 1) != 1) {
    ReportFailure(socket, "joining the cgroup");
  }
  // A process that may not be traced may not write its own maps either. This one has no secrets.
  if (!plan.root) prctl(PR_SET_DUMPABLE, 1);
  // The first that the kernel takes when memory is short.
  WriteFileRaw("/proc/self/oom_score_adj", "1000", 4);
  if (!plan.root) {
    if (!WriteFileRaw("/proc/self/setgroups", "deny", 4) ||
        !WriteFileRaw("/proc/self/uid_map", plan.user_map.data(), plan.user_map.size()) ||
        !WriteFileRaw("/proc/self/gid_map", plan.group_map.data(), plan.group_map.size())) {
      ReportFailure(socket, "the user namespace's map");
    }
  }
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    ReportFailure(socket, "private mounts");
  }
  KeeperReport report;
  constexpr unsigned long kFlags = MS_NOSUID | MS_NODEV;
  report.noswap = mount("tmpfs", kMountPoint, "tmpfs", kFlags, plan.tmpfs_noswap.c_str()) == 0;
  if (!report.noswap && mount("tmpfs", kMountPoint, "tmpfs", kFlags, plan.tmpfs.c_str()) != 0) {
    ReportFailure(socket, "mounting the storage");
  }
  const int storage = open(kMountPoint, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (storage < 0) ReportFailure(socket, "opening the storage");
  const int network = plan.network ? ListenInside() : -1;
  if (plan.network && network < 0) ReportFailure(socket, "a network of its own");
  umask(0);
  const uid_t user = plan.user;
  for (const char* name : {"assets", "outputs", "work", "tmp", "shm"}) {
    const bool writable = name[0] != 'a';
    if (mkdirat(storage, name, writable ? 0700 : 0755) != 0 ||
        (plan.root && writable && fchownat(storage, name, user, user, AT_SYMLINK_NOFOLLOW) != 0)) {
      ReportFailure(socket, "the storage's directories");
    }
  }
  umask(022);
  const int log = openat(storage, "log", O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
  if (log < 0) ReportFailure(socket, "the log");
  // Not the C library's functions: those ask every thread that this process had, and wait for one
  // that was being made.
  if (plan.root &&
      (syscall(SYS_setgroups, 0, nullptr) != 0 || syscall(SYS_setresgid, user, user, user) != 0 ||
       syscall(SYS_setresuid, user, user, user) != 0)) {
    ReportFailure(socket, "another user ID");
  }
  // Process limits count per user and namespace: here, after both are new.
  for (const auto& [resource, value] : plan.resources) {
    // Where the caller's own limit is lower, that one holds.
    rlimit both = {};
    getrlimit(static_cast<__rlimit_resource>(resource), &both);
    both.rlim_max = std::min(both.rlim_max, value);
    both.rlim_cur = both.rlim_max;
    if (setrlimit(static_cast<__rlimit_resource>(resource), &both) != 0) {
      ReportFailure(socket, "a limit of resources");
    }
  }
  // After the change of user, which clears it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) ReportFailure(socket, "an end with its parent");

  // The report, and with it the storage's descriptor, and the network's where there is one.
  const int descriptors[] = {storage, network};
  const size_t descriptors_bytes = plan.network ? sizeof(descriptors) : sizeof(int);
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(descriptors))] = {};
  iovec part = {&report, sizeof(report)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(descriptors_bytes);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(descriptors_bytes);
  std::memcpy(CMSG_DATA(header), descriptors, descriptors_bytes);
  // Fails where the parent has died before the line above.
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != sizeof(report)) _exit(1);

  char go = 0;
  ssize_t count;
  do count = read(socket, &go, 1);
  while (count < 0 && errno == EINTR);
  if (count != 1) _exit(1);  // the parent is gone or has wiped

  const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
  // Out of the way of the numbers that they get.
  const int seccomp = fcntl(given.seccomp, F_DUPFD_CLOEXEC, 64);
  const int status = fcntl(given.status, F_DUPFD_CLOEXEC, 64);
  const int output = fcntl(log, F_DUPFD_CLOEXEC, 64);
  if (dup2(nothing, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0 ||
      dup2(seccomp, kSeccompNumber) < 0 || dup2(status, kStatusNumber) < 0 ||
      syscall(SYS_close_range, kFirstUnused, ~0U, 0) != 0) {
    _exit(1);
  }
  // Signals that the caller ignores or blocks would stay so in the command.
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int number = 1; number < NSIG; ++number) signal(number, SIG_DFL);
  execve(plan.program.c_str(), plan.arguments.data(), plan.environment.data());
  _exit(1);
}

absl::StatusOr<FileDescriptor> FilterFile() {
  FileDescriptor file(memfd_create("seccomp", MFD_CLOEXEC));
  const Bytes filter = SeccompFilter();
  if (!file.is_open() ||
      write(file.get(), filter.data(), filter.size()) != static_cast<ssize_t>(filter.size()) ||
      lseek(file.get(), 0, SEEK_SET) != 0) {
    return FromErrno(errno, "memory for", "the system call filter");
  }
  return file;
}

bool SwapIsActive() {
  // One line of headings, then one for each device. No file: no swap in this kernel.
  const FileDescriptor file(open("/proc/swaps", O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> text;
  const ssize_t size = file.is_open() ? read(file.get(), text.data(), text.size()) : 0;
  return size > 0 && std::count(text.data(), text.data() + size, '\n') > 1;
}

absl::StatusOr<std::vector<std::string>> BubblewrapArguments(
    const ContainmentOptions& options, const std::vector<std::string>& command) {
  std::vector<std::string> arguments = {options.bubblewrap,
                                        "--unshare-all",
                                        "--unshare-user",
                                        "--uid",
                                        StrCat(kUserInside),
                                        "--gid",
                                        StrCat(kUserInside),
                                        "--hostname",
                                        "pavise",
                                        "--die-with-parent",
                                        "--new-session",
                                        "--cap-drop",
                                        "ALL"};
  const auto add = [&](std::initializer_list<std::string> words) {
    arguments.insert(arguments.end(), words);
  };
  // That of the keeper, which is the command's own.
  if (options.network) add({"--share-net"});
  add({"--ro-bind", "/usr", "/usr"});
  for (const char* folder : {"/bin", "/sbin", "/lib", "/lib32", "/lib64"}) {
    std::array<char, 256> target;
    const ssize_t size = readlink(folder, target.data(), target.size());
    if (size > 0) {
      add({"--symlink", std::string(target.data(), static_cast<size_t>(size)), folder});
    } else {
      add({"--ro-bind-try", folder, folder});
    }
  }
  for (const char* file : {"/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d",
                           "/etc/alternatives", "/etc/localtime"}) {
    add({"--ro-bind-try", file, file});
  }
  if (options.network) add({"--ro-bind-try", "/etc/ssl", "/etc/ssl"});
  add({"--proc", "/proc", "--dev", "/dev", "--bind", StrCat(kMountPoint, "/shm"), "/dev/shm"});
  for (const std::string& device : options.devices) {
    if (!absl::StartsWith(device, "/dev/") || absl::StrContains(device, "..")) {
      return UsageError(StrCat(Printable(device), " is no device file below /dev"));
    }
    add({"--dev-bind", device, device});
  }
  // Before what may lie in it.
  add({"--remount-ro", "/dev", "--bind", StrCat(kMountPoint, "/tmp"), "/tmp"});
  for (const std::string& path : options.read_only) {
    if (path.empty() || path[0] != '/' || absl::StrContains(path, "..")) {
      return UsageError(StrCat(Printable(path), " is no absolute path without \"..\""));
    }
    add({"--ro-bind", path, path});
  }
  add({"--ro-bind", StrCat(kMountPoint, "/assets"), "/pavise/assets", "--bind",
       StrCat(kMountPoint, "/outputs"), "/pavise/outputs", "--bind", StrCat(kMountPoint, "/work"),
       "/pavise/work", "--remount-ro", "/", "--chdir", "/pavise/work", "--seccomp",
       StrCat(kSeccompNumber), "--json-status-fd", StrCat(kStatusNumber), "--"});
  arguments.insert(arguments.end(), command.begin(), command.end());
  return arguments;
}

// Whoever the command runs as, and whatever folder they lie in: a copy of its own.
absl::Status CopyIn(const std::map<std::string, std::string>& files, const std::string& storage) {
  if (files.empty()) return absl::OkStatus();
  const std::string folder = StrCat(storage, "/assets/.host");
  // Whatever the caller's umask is.
  if (mkdir(folder.c_str(), 0755) != 0 || chmod(folder.c_str(), 0755) != 0) {
    return FromErrno(errno, "mkdir", "storage");
  }
  for (const auto& [name, path] : files) {
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes content, ReadSecretFile(path, kMaxCopiedFileBytes));
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(StrCat(folder, "/", name), content.Reveal(), 0644));
  }
  return absl::OkStatus();
}

std::vector<char*> Pointers(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

// Until one of `files` is readable; false: the time is over.
bool WaitReadable(std::initializer_list<int> files, absl::Duration timeout) {
  std::vector<pollfd> polls;
  for (const int file : files) polls.push_back({file, POLLIN, 0});
  const absl::Time end = absl::Now() + timeout;
  for (;;) {
    // At most an hour at a time: poll's milliseconds end after 24 days.
    const absl::Duration left = std::clamp(end - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
    const int count = poll(
        polls.data(), polls.size(),
        static_cast<int>(absl::ToInt64Milliseconds(left)) + (left > absl::ZeroDuration() ? 1 : 0));
    if (count > 0) return true;
    if (count < 0 && errno != EINTR) return true;
    if (absl::Now() >= end) return false;
  }
}

}  // namespace

struct Containment::State {
  ContainmentOptions options;
  std::vector<Shortfall> shortfalls;
  std::vector<std::string> words;
  std::vector<std::string> variables;
  std::optional<ControlGroup> group;
  KeeperPlan plan;

  FileDescriptor keeper_socket;
  FileDescriptor storage;
  FileDescriptor network;
  std::string storage_path;
  FileDescriptor status;  // bubblewrap's account of the command
  pid_t keeper = -1;      // bubblewrap later; not waited for yet
  bool ran = false;

  FileDescriptor stop_event;
  std::mutex mutex;
  absl::Status stopped;

  void AddShortfall(const char* name, const absl::Status& why) {
    const std::vector<Refusal> findings = RefusalsOf(why);
    if (findings.empty()) return;
    shortfalls.push_back(
        {name, StrCat(findings[0].item, " ", findings[0].detail), findings[0].remedy});
  }

  // Nothing of the command is left when it returns: process 1 of a namespace ends after all others
  // in it (pid_namespaces(7)).
  int KillAll() {
    if (keeper <= 0) return 0;
    kill(keeper, SIGKILL);
    int ended = 0;
    while (waitpid(keeper, &ended, 0) < 0 && errno == EINTR) {
    }
    keeper = -1;
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : 128 + WTERMSIG(ended);
  }

  // SIGTERM to the command's process group, which bubblewrap's inner process leads; that one is
  // process 1 of its namespace and does not hear it.
  void AskToEnd() const {
    std::ifstream children(StrCat("/proc/", keeper, "/task/", keeper, "/children"));
    pid_t inner = 0;
    if (children >> inner && inner > 1) kill(-inner, SIGTERM);
  }

  // Whether the command itself ran and ended, as opposed to being killed or never started.
  bool CommandEnded() const {
    std::string text(4096, '\0');
    const ssize_t size = read(status.get(), text.data(), text.size());
    return size > 0 && absl::StrContains(text, "\"exit-code\"");
  }

  std::string FirstLogLine() const {
    const FileDescriptor log(openat(storage.get(), "log", O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
    std::array<char, kMostLogLineBytes> text;
    const ssize_t size = log.is_open() ? read(log.get(), text.data(), text.size()) : 0;
    const std::string_view all(text.data(), size > 0 ? static_cast<size_t>(size) : 0);
    return Printable(all.substr(0, all.find('\n')));
  }

  absl::Status StartKeeper(const FileDescriptor& filter, const FileDescriptor& status_end);
};

absl::Status Containment::State::StartKeeper(const FileDescriptor& filter,
                                             const FileDescriptor& status_end) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return FromErrno(errno, "socketpair", "containment");
  }
  keeper_socket = FileDescriptor(ends[0]);
  const FileDescriptor keeper_end(ends[1]);
  const Descriptors given = {filter.get(), status_end.get(), keeper_end.get(),
                             group.has_value() ? group->processes_file() : -1};
  const unsigned long flags = CLONE_NEWPID | CLONE_NEWNS | (plan.root ? 0 : CLONE_NEWUSER) |
                              (plan.network ? CLONE_NEWNET : 0) | SIGCHLD;
  keeper = static_cast<pid_t>(syscall(SYS_clone, flags, 0, 0, 0, 0));
  if (keeper < 0) {
    return Refuse(Reason::kUnsupported, "containment",
                  StrCat("this machine gives no namespaces (", std::strerror(errno), ")"),
                  kNamespaceRemedy);
  }
  if (keeper == 0) {
    close(keeper_socket.get());  // or its end would not be seen here
    Keep(plan, given);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Containment>> Containment::Create(
    const ContainmentOptions& options, const std::vector<std::string>& command,
    const std::vector<std::string>& environment) {
  if (command.empty()) return UsageError("no command is given");
  // Asks for it, and says which package it is in where it is not there.
  PAVISE_RETURN_IF_ERROR(RunProgramOrFail({options.bubblewrap, "--version"}, "bubblewrap"));
  auto state = std::make_unique<State>();
  state->options = options;
  const ContainmentLimits& limits = options.limits;

  absl::StatusOr<ControlGroup> group =
      ControlGroup::Create(options.cgroup_mount, options.cgroup_parent);
  absl::Status memory = group.status();
  absl::Status cpu = group.status();
  if (group.ok()) {
    memory = group->LimitMemory(limits.memory_bytes);
    // Where there is no such controller, RLIMIT_NPROC holds it.
    (void)group->LimitProcesses(limits.processes);
    cpu = limits.cpu_percent == 0 ? absl::OkStatus() : group->LimitCpu(limits.cpu_percent);
    state->group.emplace(*std::move(group));
  } else if (limits.cpu_percent == 0) {
    cpu = absl::OkStatus();
  }
  if (!memory.ok()) state->AddShortfall("memory-limit", memory);
  if (!cpu.ok()) state->AddShortfall("cpu-limit", cpu);

  PAVISE_ASSIGN_OR_RETURN(state->words, BubblewrapArguments(options, command));
  state->variables = {"PATH=/usr/local/bin:/usr/bin:/bin",
                      "HOME=/pavise/work",
                      "TMPDIR=/tmp",
                      "USER=pavise",
                      "LOGNAME=pavise",
                      "LANG=C.UTF-8"};
  state->variables.insert(state->variables.end(), environment.begin(), environment.end());
  if (options.network) {
    state->variables.emplace_back("PAVISE_WORKER_PROXY=127.0.0.1:3128");
    state->variables.push_back(StrCat("HTTPS_", kNetworkVariable));
    state->variables.push_back(StrCat("https_", absl::AsciiStrToLower(kNetworkVariable)));
  }
  KeeperPlan& plan = state->plan;
  plan.root = geteuid() == 0;
  plan.network = options.network;
  static std::atomic<uid_t> runs = 0;
  plan.user = plan.root ? kFirstRunUser + static_cast<uid_t>(getpid()) * kRunUsersOfProcess +
                              runs++ % kRunUsersOfProcess
                        : geteuid();
  plan.user_map = StrCat(geteuid(), " ", geteuid(), " 1");
  plan.group_map = StrCat(getegid(), " ", getegid(), " 1");
  // A limit of 1 byte, not 0: with 0 the kernel would still feed a handler that is a pipe.
  plan.resources = {{RLIMIT_CORE, 1}, {RLIMIT_NPROC, limits.processes}};
  if (!memory.ok()) plan.resources.emplace_back(RLIMIT_AS, limits.memory_bytes);
  plan.tmpfs = StrCat("mode=0755,size=", limits.storage_bytes, ",nr_inodes=", kMostInodes);
  plan.tmpfs_noswap = StrCat(plan.tmpfs, ",noswap");
  PAVISE_ASSIGN_OR_RETURN(plan.program, FindProgram(options.bubblewrap, "bubblewrap"));
  plan.arguments = Pointers(state->words);
  plan.environment = Pointers(state->variables);

  PAVISE_ASSIGN_OR_RETURN(FileDescriptor filter, FilterFile());
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return FromErrno(errno, "pipe", "containment");
  state->status = FileDescriptor(ends[0]);
  const FileDescriptor status_end(ends[1]);
  state->stop_event = FileDescriptor(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!state->stop_event.is_open()) return FromErrno(errno, "eventfd", "containment");
  std::unique_ptr<Containment> containment(new Containment(std::move(state)));
  State& made = *containment->state_;
  PAVISE_RETURN_IF_ERROR(made.StartKeeper(filter, status_end));

  KeeperReport report;
  int descriptors[] = {-1, -1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(descriptors))] = {};
  iovec part = {&report, sizeof(report)};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t size;
  do size = recvmsg(made.keeper_socket.get(), &message, MSG_CMSG_CLOEXEC);
  while (size < 0 && errno == EINTR);
  if (size != sizeof(report)) return MachineFailure("containment", "its first process has died");
  if (report.error != 0) {
    return Refuse(
        Reason::kUnsupported, "containment",
        StrCat("this machine does not give ", report.step, " (", std::strerror(report.error), ")"),
        kNamespaceRemedy);
  }
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_type != SCM_RIGHTS) {
    return MachineFailure("containment", "no descriptor of its storage arrived");
  }
  std::memcpy(descriptors, CMSG_DATA(header),
              std::min(header->cmsg_len - CMSG_LEN(0), sizeof(descriptors)));
  made.storage = FileDescriptor(descriptors[0]);
  made.network = FileDescriptor(descriptors[1]);
  made.storage_path = StrCat("/proc/self/fd/", descriptors[0]);
  if ((!report.noswap || !options.memory_is_locked) && SwapIsActive()) {
    const char* const what = report.noswap              ? "the keys in this process's memory"
                             : options.memory_is_locked ? "the storage"
                                                        : "the storage and this process's keys";
    made.shortfalls.push_back(
        {"swap", StrCat(what, " may be swapped out to a disk"),
         "switch swap off, or run as root with CAP_IPC_LOCK on Linux 6.4 or later"});
  }
  PAVISE_RETURN_IF_ERROR(CopyIn(options.files, made.storage_path));
  std::vector<Refusal> refused;
  for (const Shortfall& shortfall : made.shortfalls) {
    if (options.accepted_shortfalls.contains(shortfall.name)) continue;
    refused.push_back({Reason::kUnsupported, shortfall.name,
                       StrCat("is not enforced on this machine: ", shortfall.detail),
                       StrCat(shortfall.remedy, "; or accept it: --accept ", shortfall.name,
                              " (in a job: containment.accept)")});
  }
  if (!refused.empty()) return Refuse(std::move(refused));
  return containment;
}

Containment::Containment(std::unique_ptr<State> state) : state_(std::move(state)) {}

Containment::~Containment() { Wipe(); }

const std::vector<Shortfall>& Containment::shortfalls() const { return state_->shortfalls; }

FileDescriptor Containment::TakeNetwork() { return std::move(state_->network); }

const std::string& Containment::storage() const { return state_->storage_path; }

absl::StatusOr<CommandEnd> Containment::Run() {
  State& state = *state_;
  if (std::exchange(state.ran, true) || !state.storage.is_open()) {
    return UsageError("a containment runs its command once");
  }
  const auto stop_reason = [&] {
    const std::lock_guard<std::mutex> lock(state.mutex);
    return state.stopped;
  };
  CommandEnd end;
  end.stopped = stop_reason();
  if (!end.stopped.ok()) return end;
  const absl::Time deadline = absl::Now() + state.options.limits.wall_clock;
  const FileDescriptor bubblewrap(static_cast<int>(syscall(SYS_pidfd_open, state.keeper, 0)));
  const char go = 1;
  if (!bubblewrap.is_open() || send(state.keeper_socket.get(), &go, 1, MSG_NOSIGNAL) != 1) {
    return MachineFailure("containment", "its first process has died");
  }
  const bool in_time =
      WaitReadable({bubblewrap.get(), state.stop_event.get()}, deadline - absl::Now());
  const bool interrupted = !WaitReadable({bubblewrap.get()}, absl::ZeroDuration());
  if (interrupted) {
    end.time_limit = !in_time;
    if (in_time) end.stopped = stop_reason();
    state.AskToEnd();
    WaitReadable({bubblewrap.get()}, state.options.limits.grace);
  }
  end.exit_status = state.KillAll();
  end.out_of_memory = state.group.has_value() && state.group->WasOutOfMemory();
  if (!interrupted && !end.out_of_memory && !state.CommandEnded()) {
    return MachineFailure(state.options.bubblewrap,
                          StrCat("the command was not started: ", state.FirstLogLine()));
  }
  return end;
}

void Containment::Stop(absl::Status why) {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->stopped.ok() || why.ok()) return;
  state_->stopped = std::move(why);
  const uint64_t one = 1;
  (void)!write(state_->stop_event.get(), &one, sizeof(one));
}

void Containment::Wipe() {
  State& state = *state_;
  state.keeper_socket = FileDescriptor();
  state.KillAll();
  state.ran = true;
  state.storage = FileDescriptor();
  state.group.reset();
}

}  // namespace pavise::agent
