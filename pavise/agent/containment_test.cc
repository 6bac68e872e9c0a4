#include "pavise/agent/containment.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>

#include "pavise/agent/control_group.h"
#include "pavise/agent/internal/destination_proxy.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"

#include "absl/strings/match.h"

namespace pavise::agent {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr uid_t kNobody = 65534;

ContainmentOptions SmallOptions() {
  ContainmentOptions options;
  options.limits.storage_bytes = uint64_t{8} << 20;
  options.limits.memory_bytes = uint64_t{1} << 30;
  options.limits.processes = 64;
  options.limits.wall_clock = absl::Seconds(60);
  options.limits.grace = absl::Milliseconds(200);
  // What the machine that runs the tests has differs.
  options.accepted_shortfalls = {"memory-limit", "cpu-limit", "swap"};
  return options;
}

struct Ended {
  CommandEnd end;
  std::string log;
};

std::string ReadLog(const Containment& containment) {
  std::ifstream file(containment.storage() + "/log");
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The command's end and what it printed.
Ended RunIn(
    const ContainmentOptions& options, const std::vector<std::string>& command,
    const std::function<void(Containment&)>& before = [](Containment&) {},
    const std::function<void(Containment&)>& after = [](Containment&) {}) {
  absl::StatusOr<std::unique_ptr<Containment>> containment = Containment::Create(options, command);
  if (!containment.ok()) {
    ADD_FAILURE() << containment.status();
    return {};
  }
  before(**containment);
  absl::StatusOr<CommandEnd> end = (*containment)->Run();
  EXPECT_TRUE(end.ok()) << end.status();
  Ended result{end.ok() ? *end : CommandEnd(), ReadLog(**containment)};
  after(**containment);
  (*containment)->Wipe();
  return result;
}

Ended Shell(const std::string& script, const ContainmentOptions& options = SmallOptions()) {
  return RunIn(options, {"sh", "-c", script});
}

Ended Python(const std::string& script) { return RunIn(SmallOptions(), {"python3", "-c", script}); }

// Whether a process of this machine has `text` on its command line.
bool IsRunning(const std::string& text) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    std::ifstream file(entry.path() / "cmdline");
    // A process may end meanwhile: an iterator over the buffer would throw then.
    std::ostringstream line;
    line << file.rdbuf();
    if (absl::StrContains(line.str(), text) &&
        entry.path().filename() != std::to_string(getpid()) && entry.path().filename() != "self" &&
        entry.path().filename() != "thread-self") {
      return true;
    }
  }
  return false;
}

// Each case as root and as a user without rights, in a process of its own: what a user may not do
// shows in nothing else.
class ContainmentTest : public ::testing::TestWithParam<bool> {
 protected:
  void Case(const std::function<void()>& body) {
    const bool as_root = GetParam();
    if (as_root && geteuid() != 0) GTEST_SKIP() << "needs root";
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      if (!as_root && geteuid() == 0 &&
          (setresgid(kNobody, kNobody, kNobody) != 0 ||
           setresuid(kNobody, kNobody, kNobody) != 0)) {
        _exit(2);
      }
      body();
      std::fflush(nullptr);
      _exit(HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "see above; status " << status;
  }
};

INSTANTIATE_TEST_SUITE_P(Users, ContainmentTest, ::testing::Values(true, false),
                         [](const auto& user) { return user.param ? "Root" : "Unprivileged"; });

// A thread that is being made when the keeper is cloned is one that the clone never sees ready.
TEST_P(ContainmentTest, BeginsWhileThreadsAreMade) {
  Case([] {
    std::atomic<bool> ended = false;
    std::thread maker([&] {
      while (!ended) std::thread([] {}).join();
    });
    for (int i = 0; i < 40; ++i) {
      const auto containment = Containment::Create(SmallOptions(), {"true"});
      EXPECT_TRUE(containment.ok()) << containment.status();
      if (containment.ok()) (*containment)->Wipe();
    }
    ended = true;
    maker.join();
  });
}

TEST_P(ContainmentTest, ReadsItsInputsAndWritesItsOutputs) {
  Case([] {
    const Ended ended = RunIn(
        SmallOptions(),
        {"sh", "-c",
         "cat /pavise/assets/in > /pavise/outputs/out && echo said && pwd && id -u && exit 7"},
        [](Containment& containment) {
          std::ofstream(containment.storage() + "/assets/in") << "content";
        },
        [](Containment& containment) {
          std::ifstream out(containment.storage() + "/outputs/out");
          EXPECT_EQ(std::string(std::istreambuf_iterator<char>(out), {}), "content");
        });
    EXPECT_EQ(ended.end.exit_status, 7);
    EXPECT_FALSE(ended.end.time_limit);
    EXPECT_TRUE(ended.end.stopped.ok());
    EXPECT_EQ(ended.log, "said\n/pavise/work\n1000\n");
  });
}

TEST_P(ContainmentTest, TheStorageIsMountedNowhereHereAndGoes) {
  Case([] {
    std::string path;
    RunIn(SmallOptions(), {"sh", "-c", "echo x > /pavise/outputs/secret"},
          [&](Containment& containment) {
            path = containment.storage();
            struct stat storage;
            struct stat run;
            ASSERT_EQ(stat(path.c_str(), &storage), 0);
            ASSERT_EQ(stat("/run", &run), 0);
            EXPECT_NE(storage.st_dev, run.st_dev);
            std::ifstream mounts("/proc/self/mountinfo");
            const std::string text(std::istreambuf_iterator<char>(mounts), {});
            EXPECT_THAT(text, Not(HasSubstr(StrCat(" 0:", storage.st_dev & 0xff, " "))));
          });
    struct stat gone;
    EXPECT_NE(stat(path.c_str(), &gone), 0);
  });
}

TEST_P(ContainmentTest, SeesNoHostFiles) {
  const std::string secret =
      StrCat(std::filesystem::temp_directory_path().string(), "/pavise-host-", getpid());
  std::ofstream(secret) << "of the host";
  Case([&] {
    const Ended ended = Shell(
        StrCat("cat /etc/shadow /etc/passwd /root/.bashrc ", secret,
               " /proc/1/root/etc/shadow; ls -A /root /home /var /run /sys /boot; ls /; echo end"));
    EXPECT_THAT(ended.log, HasSubstr("end"));
    EXPECT_THAT(ended.log, Not(HasSubstr("root:")));
    EXPECT_THAT(ended.log, Not(HasSubstr("of the host")));
    for (const char* folder : {"/root", "/home", "/var", "/run", "/sys", "/boot"}) {
      EXPECT_THAT(ended.log, HasSubstr(StrCat("'", folder, "'"))) << "is there: " << ended.log;
    }
  });
  std::filesystem::remove(secret);
}

TEST_P(ContainmentTest, WritesNothingOutsideItsStorage) {
  Case([] {
    const Ended ended = Shell(
        "for f in /x /usr/x /etc/x /dev/x /pavise/x /pavise/assets/x /proc/sys/kernel/core_pattern "
        "/proc/sysrq-trigger; do (echo x > $f) 2>/dev/null && echo wrote $f; done; "
        "for f in /tmp/x /dev/shm/x /pavise/work/x /pavise/outputs/x; do echo x > $f || echo no "
        "$f; "
        "done; echo end");
    EXPECT_EQ(ended.log, "end\n");
  });
}

TEST_P(ContainmentTest, HasNoNetwork) {
  Case([] {
    const Ended ended = Python(R"(
import socket
print(sorted(name for _, name in socket.if_nameindex()))
for address in (("127.0.0.1", 22), ("192.0.2.1", 80)):
    try:
        socket.create_connection(address, timeout=2); print("connected")
    except OSError as e:
        print("refused")
for family in (socket.AF_VSOCK, socket.AF_PACKET, socket.AF_ALG):
    try:
        socket.socket(family, socket.SOCK_STREAM); print("made")
    except OSError as e:
        print(e.errno)
)");
    EXPECT_EQ(ended.log, "['lo']\nrefused\nrefused\n1\n1\n1\n");
  });
}

// Answers each client with what it says, once.
class EchoServer {
 public:
  EchoServer() : listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
    EXPECT_EQ(listen(listener_.get(), 8), 0);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] {
      while (true) {
        const FileDescriptor client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
        if (!client.is_open()) return;
        std::array<char, 100> text;
        const ssize_t count = recv(client.get(), text.data(), text.size(), 0);
        if (count > 0) (void)!write(client.get(), text.data(), static_cast<size_t>(count));
      }
    });
  }
  ~EchoServer() {
    shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
  }
  uint16_t port() const { return port_; }

 private:
  const FileDescriptor listener_;
  uint16_t port_ = 0;
  std::thread thread_;
};

TEST_P(ContainmentTest, ANetworkReachesWhatIsGrantedAndNothingElse) {
  Case([] {
    const EchoServer granted;
    const EchoServer other;
    const std::string script = StrCat(R"(
import os, socket
print(sorted(name for _, name in socket.if_nameindex()), os.environ["HTTPS_PROXY"])
def ask(line):
    s = socket.create_connection(("127.0.0.1", 3128), timeout=20)
    s.sendall(line.encode() + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    answer = s.recv(1000).split(b"\r\n")[0].decode()
    if " 200 " in answer:
        s.sendall(b"hello")
        answer += " " + s.recv(100).decode()
    print(answer)
ask("CONNECT 127.0.0.1:)",
                                      granted.port(), R"(")
ask("CONNECT 127.0.0.1:)",
                                      other.port(), R"(")
ask("CONNECT localhost:)",
                                      granted.port(), R"(")
ask("CONNECT 127.0.0.1:)",
                                      granted.port(), R"( ")
ask("CONNECT 127.0.0.1")
ask("GET http://127.0.0.1:)",
                                      granted.port(), R"(/")
for port in ()",
                                      granted.port(), ", ", other.port(), R"():
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2); print("connected")
    except OSError as e:
        print(e.errno)
s = socket.create_connection(("127.0.0.1", 3128), timeout=20)
s.sendall(b"x" * 9000)
try:
    print(s.recv(10))
except OSError:
    print(b"")
)");
    ContainmentOptions options = SmallOptions();
    options.network = true;
    std::optional<internal::DestinationProxy> proxy;
    const Ended ended = RunIn(options, {"python3", "-c", script}, [&](Containment& containment) {
      FileDescriptor network = containment.TakeNetwork();
      EXPECT_TRUE(network.is_open());
      EXPECT_FALSE(containment.TakeNetwork().is_open());
      proxy.emplace(std::move(network),
                    std::set<std::string>{StrCat("127.0.0.1:", granted.port())});
    });
    EXPECT_EQ(ended.log,
              "['lo'] http://127.0.0.1:3128\n"
              "HTTP/1.1 200 OK hello\n"
              "HTTP/1.1 403 Forbidden\n"
              "HTTP/1.1 403 Forbidden\n"
              "HTTP/1.1 403 Forbidden\n"
              "HTTP/1.1 403 Forbidden\n"
              "HTTP/1.1 405 Method Not Allowed\n"
              "111\n111\nb''\n");
  });
}

// Connections that are open, half asked for or silent end with the proxy.
TEST_P(ContainmentTest, AnEndedNetworkWaitsForNobody) {
  Case([] {
    const EchoServer server;
    const std::string script = StrCat(R"(
import socket
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(3)]
held[0].sendall(b"CONNECT 127.0.0.1:)",
                                      server.port(), R"( HTTP/1.1\r\n\r\n")
print(held[0].recv(100)[:12], flush=True)
held[1].sendall(b"CONNECT 127")
print(held[0].recv(100), held[1].recv(100), held[2].recv(100))
)");
    ContainmentOptions options = SmallOptions();
    options.network = true;
    std::optional<internal::DestinationProxy> proxy;
    std::thread ender;
    const Ended ended = RunIn(
        options, {"python3", "-c", script},
        [&](Containment& containment) {
          proxy.emplace(containment.TakeNetwork(),
                        std::set<std::string>{StrCat("127.0.0.1:", server.port())});
          ender = std::thread([&] {
            for (int i = 0; i < 4000 && ReadLog(containment).empty(); ++i) {
              std::this_thread::sleep_for(std::chrono::milliseconds(5));
            }
            proxy.reset();
          });
        },
        [&](Containment&) { ender.join(); });
    EXPECT_EQ(ended.log, "b'HTTP/1.1 200'\nb'' b'' b''\n");
  });
}

// A network namespace holds the abstract names of UNIX sockets: the host's session bus, its X
// server.
TEST_P(ContainmentTest, TheHostsUnixSocketsAreNotReached) {
  Case([] {
    const std::string name = StrCat("pavise-test-", getpid());
    const FileDescriptor listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    name.copy(address.sun_path + 1, sizeof(address.sun_path) - 1);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
    ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    const std::string script = StrCat(R"(
import socket
try:
    socket.socket(socket.AF_UNIX).connect("\0)",
                                      name, R"("); print("connected")
except OSError as e:
    print(e.errno)
)");
    for (const bool network : {true, false}) {
      ContainmentOptions options = SmallOptions();
      options.network = network;
      EXPECT_EQ(RunIn(options, {"python3", "-c", script}).log, "111\n");
    }
  });
}

TEST_P(ContainmentTest, SystemCallsThatNoNamespaceCoversAreRefused) {
  Case([] {
    // Called with arguments that do nothing; EPERM is 1, ENOSYS 38.
    const Ended ended = Python(R"(
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
calls = {"ptrace": (101, 117), "process_vm_readv": (310, 270), "keyctl": (250, 219),
         "add_key": (248, 217), "bpf": (321, 280), "mount": (165, 40), "umount2": (166, 39),
         "unshare": (272, 97), "setns": (308, 268), "userfaultfd": (323, 282),
         "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "open_tree": (428, 428),
         "fsopen": (430, 430), "pidfd_getfd": (438, 438), "kexec_load": (246, 104),
         "init_module": (175, 105), "open_by_handle_at": (304, 265), "chroot": (161, 51),
         "clone3": (435, 435), "later": (470, 470)}
for name, numbers in calls.items():
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(numbers[0 if x86 else 1]), 0, 0, 0, 0, 0)
    print(name, result, ctypes.get_errno())
CLONE_NEWUSER = 0x10000000
print("clone", libc.syscall(ctypes.c_long(56 if x86 else 220), CLONE_NEWUSER | 17, 0, 0, 0, 0),
      ctypes.get_errno())
import resource
print("core", resource.getrlimit(resource.RLIMIT_CORE))
try:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); print("changed")
except (ValueError, OSError):
    print("kept")
)");
    size_t refused = 0;
    std::istringstream lines(ended.log);
    std::string name;
    int result = 0;
    int error = 0;
    while (refused < 22 && lines >> name >> result >> error) {
      const bool is_unknown = name == "clone3" || name == "later";
      EXPECT_EQ(result, -1) << name;
      EXPECT_EQ(error, is_unknown ? ENOSYS : EPERM) << name;
      ++refused;
    }
    EXPECT_EQ(refused, 22u) << ended.log;
    EXPECT_THAT(ended.log, HasSubstr("core (1, 1)\nkept\n"));
  });
}

TEST_P(ContainmentTest, HasNoCapabilitiesAndGainsNone) {
  Case([] {
    const Ended ended =
        Shell("grep -E '^(CapEff|CapPrm|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status");
    EXPECT_EQ(ended.log,
              "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n"
              "CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n");
  });
}

TEST_P(ContainmentTest, SeesNoOtherProcesses) {
  Case([] {
    const Ended ended = Shell(
        StrCat("ls -d /proc/[0-9]* | wc -l; kill -0 ", getpid(), " 2>/dev/null || echo none"));
    // Process 1, the shell, ls and wc where it is there already.
    EXPECT_THAT(ended.log, ::testing::MatchesRegex("[34]\nnone\n"));
  });
}

TEST_P(ContainmentTest, AsRootItRunsUnderAUserThatNobodyElseHas) {
  Case([] {
    if (geteuid() != 0) return;
    RunIn(
        SmallOptions(), {"sh", "-c", "echo x > /pavise/outputs/x"}, [](Containment&) {},
        [](Containment& containment) {
          struct stat status;
          ASSERT_EQ(stat((containment.storage() + "/outputs/x").c_str(), &status), 0);
          EXPECT_GT(status.st_uid, 0x7000'0000u);
        });
  });
}

TEST_P(ContainmentTest, InheritsNoDescriptors) {
  Case([] {
    const int canary = open("/etc/hostname", O_RDONLY);  // not close-on-exec
    const Ended ended = Python("import os; print(sorted(os.listdir('/proc/self/fd')))");
    close(canary);
    EXPECT_EQ(ended.log, "['0', '1', '2', '3']\n") << "3 is the listed folder";
  });
}

TEST_P(ContainmentTest, ACommandThatIgnoresSigtermIsKilled) {
  Case([] {
    const std::string mark = StrCat("1", getpid());
    ContainmentOptions options = SmallOptions();
    options.limits.wall_clock = absl::Milliseconds(500);
    const Ended ended = Shell(
        StrCat("trap 'echo asked' TERM; echo began; while :; do sleep ", mark, "; done"), options);
    EXPECT_TRUE(ended.end.time_limit);
    EXPECT_EQ(ended.end.exit_status, 128 + SIGKILL);
    EXPECT_THAT(ended.log, HasSubstr("began"));
    EXPECT_THAT(ended.log, HasSubstr("asked"));
    EXPECT_FALSE(IsRunning(mark));
  });
}

TEST_P(ContainmentTest, ACommandThatEndsOnSigtermIsGivenTheTime) {
  Case([] {
    ContainmentOptions options = SmallOptions();
    options.limits.grace = absl::Seconds(60);
    const absl::StatusOr<std::unique_ptr<Containment>> containment = Containment::Create(
        options,
        {"sh", "-c", "trap 'echo saved; exit 3' TERM; echo began; while :; do sleep 0.05; done"});
    ASSERT_TRUE(containment.ok()) << containment.status();
    std::thread stopper([&] {
      while (ReadLog(**containment).empty())
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      (*containment)->Stop(Refuse(Reason::kRevoked, "consent", "was withdrawn"));
      (*containment)->Stop(Refuse(Reason::kPolicyDenied, "a later reason", "is not kept"));
    });
    const absl::StatusOr<CommandEnd> end = (*containment)->Run();
    stopper.join();
    ASSERT_TRUE(end.ok()) << end.status();
    EXPECT_EQ(ReasonOf(end->stopped), Reason::kRevoked);
    EXPECT_FALSE(end->time_limit);
    EXPECT_EQ(end->exit_status, 3);
    EXPECT_THAT(ReadLog(**containment), HasSubstr("saved\n"));
  });
}

TEST_P(ContainmentTest, StoppedBeforeItBeginsItStartsNothing) {
  Case([] {
    const Ended ended = RunIn(SmallOptions(), {"sh", "-c", "echo began"}, [](Containment& c) {
      c.Stop(Refuse(Reason::kRevoked, "consent", "was withdrawn"));
    });
    EXPECT_EQ(ReasonOf(ended.end.stopped), Reason::kRevoked);
    EXPECT_EQ(ended.log, "");
  });
}

TEST_P(ContainmentTest, LeftoverProcessesDieWithTheCommand) {
  Case([] {
    const std::string mark = StrCat("2", getpid());
    // Sessions of their own, twice forked, deaf.
    const Ended ended = Shell(
        StrCat("trap '' TERM HUP INT; for i in 1 2 3; do (setsid sh -c 'sleep ", mark, " & sleep ",
               mark, "' &) ; done; sleep 0.2; ls -d /proc/[0-9]* | wc -l; exit 5"));
    EXPECT_EQ(ended.end.exit_status, 5);
    EXPECT_GE(std::stoi("0" + ended.log), 8) << "they ran: " << ended.log;
    EXPECT_FALSE(IsRunning(mark));
  });
}

TEST_P(ContainmentTest, AForkBombStaysBelowItsLimit) {
  Case([] {
    const std::string mark = StrCat("3", getpid());
    const Ended ended = Python(StrCat(R"(
import os, time
made = 0
for i in range(1000):
    try:
        pid = os.fork()
    except OSError as e:
        print("stopped", e.errno, made, flush=True); break
    if pid == 0:
        os.execvp("sleep", ["sleep", ")",
                                      mark, R"("])
    made += 1
)"));
    EXPECT_THAT(ended.log, HasSubstr("stopped 11 "));
    const size_t at = ended.log.find("stopped 11 ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_LT(std::stoi(ended.log.substr(at + 11)), 64);
    EXPECT_FALSE(IsRunning(mark));
  });
}

TEST_P(ContainmentTest, FillingTheStorageFillsOnlyTheStorage) {
  Case([] {
    const Ended ended = Shell(
        "for d in /tmp /dev/shm /pavise/work /pavise/outputs; do "
        "dd if=/dev/zero of=$d/fill bs=1M count=64 2>/dev/null && echo no limit at $d; "
        "rm -f $d/fill; done; "
        "dd if=/dev/zero of=/pavise/outputs/all bs=1M count=64 2>/dev/null; "
        "s=$(stat -c %s /pavise/outputs/all); test $s -le 8388608 && exit 9");
    // The log lies in the full storage, too.
    EXPECT_EQ(ended.log, "");
    EXPECT_EQ(ended.end.exit_status, 9);
  });
}

TEST_P(ContainmentTest, KillingTheAgentKillsTheCommand) {
  Case([] {
    // At moments that lie before, within and after bubblewrap's preparations.
    for (int delay_us = 0; delay_us < 16'000; delay_us += 1'000) {
      const std::string mark = StrCat("4", getpid(), delay_us);
      const pid_t agent = fork();
      if (agent == 0) {
        auto containment = Containment::Create(SmallOptions(), {"sleep", mark});
        if (containment.ok()) (void)(*containment)->Run();
        _exit(0);
      }
      // Twice in a row: a process that becomes another program has no command line for a moment.
      const auto wait_until = [&](bool running) {
        for (int i = 0; i < 1000; ++i) {
          if (IsRunning(mark) == running && IsRunning(mark) == running) return true;
          std::this_thread::sleep_for(std::chrono::milliseconds(10));
        }
        return false;
      };
      EXPECT_TRUE(wait_until(true));
      usleep(static_cast<useconds_t>(delay_us));
      kill(agent, SIGKILL);
      waitpid(agent, nullptr, 0);
      EXPECT_TRUE(wait_until(false));
    }
  });
}

TEST_P(ContainmentTest, FilesOfTheHostAreCopiesForTheCommandAlone) {
  Case([] {
    const pavise::testing::TemporaryDirectory directory;  // mode 0700
    const std::string key = directory.Write("key", "of the host\n");
    ASSERT_EQ(chmod(key.c_str(), 0600), 0);
    ContainmentOptions options = SmallOptions();
    options.files = {{"worker-key", key}};
    const Ended ended = Shell(
        "cat /pavise/assets/.host/worker-key; echo x > /pavise/assets/.host/worker-key", options);
    EXPECT_THAT(ended.log, HasSubstr("of the host\n"));
    EXPECT_NE(ended.end.exit_status, 0) << "it can be written";
    options.files = {{"worker-key", directory / "none"}};
    EXPECT_EQ(ReasonOf(Containment::Create(options, {"true"}).status()), Reason::kFileUnreadable);
    directory.Write("key", std::string((1 << 20) + 1, 'x'));
    options.files = {{"worker-key", key}};
    EXPECT_EQ(ReasonOf(Containment::Create(options, {"true"}).status()), Reason::kLimitExceeded);
  });
}

TEST_P(ContainmentTest, AReadOnlyPathBelowTmpIsThere) {
  Case([] {
    const pavise::testing::TemporaryDirectory directory;
    ASSERT_EQ(chmod(directory.path().c_str(), 0755), 0);
    const std::string file = directory.Write("program", "echo it runs\n");
    ASSERT_EQ(chmod(file.c_str(), 0644), 0);
    ContainmentOptions options = SmallOptions();
    options.read_only = {directory.path()};
    const Ended ended =
        Shell(StrCat("sh ", file, " && touch /tmp/mine && echo x > ", file), options);
    EXPECT_THAT(ended.log, HasSubstr("it runs\n"));
    EXPECT_NE(ended.end.exit_status, 0) << "it can be written";
  });
}

TEST_P(ContainmentTest, ACommandThatCannotBeStartedIsAFailureOfTheMachine) {
  Case([] {
    ContainmentOptions options = SmallOptions();
    options.read_only = {"/no/such/path"};
    const auto no_path = Containment::Create(options, {"true"});
    ASSERT_TRUE(no_path.ok()) << no_path.status();
    const absl::StatusOr<CommandEnd> end = (*no_path)->Run();
    EXPECT_EQ(end.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(end.status().message()), HasSubstr("/no/such/path"));
    EXPECT_EQ((*no_path)->Run().status().code(), absl::StatusCode::kInvalidArgument);

    const auto no_program = Containment::Create(SmallOptions(), {"no-such-program"});
    ASSERT_TRUE(no_program.ok()) << no_program.status();
    EXPECT_THAT(std::string((*no_program)->Run().status().message()), HasSubstr("no-such-program"));
  });
}

TEST(Containment, AShortfallThatNobodyAcceptedIsRefusedByName) {
  ContainmentOptions options = SmallOptions();
  options.cgroup_mount = "/proc";  // no cgroup v2 there
  options.limits.cpu_percent = 50;
  options.accepted_shortfalls = {"swap"};
  const auto refused = Containment::Create(options, {"true"});
  const std::vector<Refusal> findings = RefusalsOf(refused.status());
  ASSERT_EQ(findings.size(), 2u) << refused.status();
  EXPECT_EQ(findings[0].item, "memory-limit");
  EXPECT_EQ(findings[1].item, "cpu-limit");
  EXPECT_EQ(findings[0].reason, Reason::kUnsupported);
  EXPECT_THAT(findings[0].remedy, HasSubstr("--accept memory-limit"));

  options.accepted_shortfalls = {"memory-limit", "cpu-limit", "swap"};
  const auto accepted = Containment::Create(options, {"true"});
  ASSERT_TRUE(accepted.ok()) << accepted.status();
  EXPECT_EQ((*accepted)->shortfalls()[0].name, "memory-limit");
}

TEST(Containment, OptionsThatMakeNoSenseAreRefused) {
  EXPECT_EQ(Containment::Create(SmallOptions(), {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  ContainmentOptions options = SmallOptions();
  options.devices = {"/dev/../etc/shadow"};
  EXPECT_EQ(Containment::Create(options, {"true"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  options = SmallOptions();
  options.read_only = {"relative"};
  EXPECT_EQ(Containment::Create(options, {"true"}).status().code(),
            absl::StatusCode::kInvalidArgument);
  options = SmallOptions();
  options.bubblewrap = "no-such-bubblewrap";
  EXPECT_EQ(ReasonOf(Containment::Create(options, {"true"}).status()), Reason::kUnsupported);
}

// A cgroup v2 without controllers is there even where version 1 holds them.
class ControlGroupTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      absl::StatusOr<ControlGroup> group = ControlGroup::Create(mount, "");
      if (group.ok()) mount_ = mount;
    }
    if (mount_.empty()) GTEST_SKIP() << "no cgroup v2 that may be divided";
  }
  std::string mount_;
};

TEST_F(ControlGroupTest, KillsWhatIsInItAndGoes) {
  std::filesystem::path path;
  {
    absl::StatusOr<ControlGroup> group = ControlGroup::Create(mount_, "");
    ASSERT_TRUE(group.ok()) << group.status();
    path = std::filesystem::read_symlink(StrCat("/proc/self/fd/", group->processes_file()))
               .parent_path();
    ASSERT_TRUE(std::filesystem::exists(path));
    const pid_t child = fork();
    if (child == 0) {
      (void)!write(group->processes_file(), "0", 1);
      for (;;) pause();
    }
    std::ifstream procs;
    std::string first;
    while (first.empty()) {
      procs.close();
      procs.open(path / "cgroup.procs");
      procs >> first;
    }
    EXPECT_EQ(first, std::to_string(child));
    group->Kill();
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WTERMSIG(status), SIGKILL);
    EXPECT_FALSE(group->WasOutOfMemory());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST_F(ControlGroupTest, ARunInIt) {
  ContainmentOptions options = SmallOptions();
  options.cgroup_mount = mount_;
  const Ended ended = Shell("cat /proc/self/cgroup; exit 4", options);
  EXPECT_EQ(ended.end.exit_status, 4);
}

TEST_F(ControlGroupTest, TheMemoryLimitEndsTheCommand) {
  ContainmentOptions options = SmallOptions();
  options.cgroup_mount = mount_;
  options.limits.memory_bytes = uint64_t{64} << 20;
  options.accepted_shortfalls = {"cpu-limit", "swap"};
  const auto containment =
      Containment::Create(options, {"python3", "-c", "b = bytearray(256 << 20); print(len(b))"});
  if (!containment.ok()) {
    EXPECT_EQ(RefusalsOf(containment.status())[0].item, "memory-limit");
    GTEST_SKIP() << "no memory controller in cgroup v2 here";
  }
  const absl::StatusOr<CommandEnd> end = (*containment)->Run();
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_TRUE(end->out_of_memory);
  EXPECT_NE(end->exit_status, 0);
}

}  // namespace
}  // namespace pavise::agent
