#ifndef PAVISE_AGENT_CONTAINMENT_H_
#define PAVISE_AGENT_CONTAINMENT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/file.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// A command that the host does not trust with the host, over data that its owners do not trust to
// the host's disks. docs/guides/run.md says what this stops and what it does not.
namespace pavise::agent {

struct ContainmentLimits {
  uint64_t memory_bytes = uint64_t{4} << 30;   // of all processes together
  uint64_t storage_bytes = uint64_t{4} << 30;  // inputs, outputs, scratch and the log together
  uint32_t processes = 1024;                   // with their threads
  uint32_t cpu_percent = 0;                    // 100 is one CPU; 0: no limit
  absl::Duration wall_clock = absl::InfiniteDuration();
  absl::Duration grace = absl::Seconds(10);  // between SIGTERM and SIGKILL
};

struct ContainmentOptions {
  ContainmentLimits limits;
  // Whether TakeNetwork gives the way out. The command has a network of its own in any case.
  bool network = false;
  std::vector<std::string> read_only;  // host paths beside the system's programs and libraries
  std::vector<std::string> devices;    // device files below /dev
  // Name -> file of the host, of up to 1 MiB: the command has a copy, /pavise/assets/.host/NAME,
  // also where the file is readable for the caller only.
  std::map<std::string, std::string> files;
  // That this process's own memory, where keys are, goes to no swap device (LockMemory).
  bool memory_is_locked = false;
  // Names of shortfalls (below) that the run may go on with.
  std::set<std::string> accepted_shortfalls;

  std::string bubblewrap = "bwrap";  // looked up as RunProgram does
  // A cgroup v2 directory that may be divided further; empty: the one of this process, found
  // through `cgroup_mount`.
  std::string cgroup_parent;
  std::string cgroup_mount = "/sys/fs/cgroup";
};

// Something that this machine does not enforce. Names: "memory-limit", "cpu-limit" (no cgroup v2
// with the controller that may be written), "swap" (there is a swap device, and the storage may go
// there, since the kernel has no noswap or the caller is not root, or this process's keys may).
struct Shortfall {
  std::string name;
  std::string detail;
  std::string remedy;
};

// How the command ended.
struct CommandEnd {
  int exit_status = 0;         // 128 + N where signal N ended it
  bool time_limit = false;     // the wall clock ended it
  bool out_of_memory = false;  // the memory limit did (known with a cgroup only)
  absl::Status stopped;        // why Stop was called; OK where it was not, or came too late
};

// One command in bubblewrap: namespaces of its own (user, mount, pid, network, IPC, UTS), the
// system's programs and libraries read-only, no capability, a system call filter
// (seccomp_filter.h), a cgroup v2 where one may be made and resource limits otherwise. Its storage
// is one tmpfs of bounded size, which is mounted in the command's mount namespace and nowhere else:
// this process reaches it through a descriptor only, and it is freed with that descriptor and the
// command.
//
// The command sees /pavise/assets (read-only), /pavise/outputs, /pavise/work (its directory) and
// /tmp, all of that storage. Its output goes to the storage's file "log", not to the host's
// terminal.
//
// Needs user namespaces (kUnsupported, with what the kernel says), root or not. As root the command
// runs under a user ID that nobody else has. Stop is thread-safe, all else is not. Create
// forks a process that waits until Run: make the containment before secrets are in memory. It ends
// with the thread that called Create.
class Containment {
 public:
  // Mounts the storage and makes the cgroup; nothing runs yet. `command`[0] is a path, or a name on
  // /usr/local/bin:/usr/bin:/bin. kUnsupported: no bubblewrap, no user namespaces, a shortfall that
  // was not accepted. kStorageFull: no room for the mount's structures.
  static absl::StatusOr<std::unique_ptr<Containment>> Create(
      const ContainmentOptions& options, const std::vector<std::string>& command,
      const std::vector<std::string>& environment = {});

  // Kills what runs and frees the storage.
  ~Containment();
  Containment(const Containment&) = delete;
  Containment& operator=(const Containment&) = delete;

  // All of them, the accepted ones.
  const std::vector<Shortfall>& shortfalls() const;

  // A socket on which the command's connections arrive (internal/destination_proxy.h): it listens
  // in the command's network namespace, on 127.0.0.1:3128, which the command finds in HTTPS_PROXY.
  // Not open without `network`, or the second time.
  FileDescriptor TakeNetwork();

  // The storage, as a path that holds in this process only, until Wipe: it has the directories
  // "assets" and "outputs", and after Run the file "log".
  const std::string& storage() const;

  // Runs the command and returns when no process of it is left, however many it started. Once.
  // A machine failure where it could not be started, with what bubblewrap says.
  absl::StatusOr<CommandEnd> Run();

  // Ends the command: SIGTERM, after the grace SIGKILL to everything. The first `why` (not OK) is
  // kept. Before Run: it starts nothing. From any thread.
  void Stop(absl::Status why);

  // Kills what is left and gives the storage's memory back to the kernel, which hands no page on
  // before it is zeroed.
  void Wipe();

 private:
  struct State;
  explicit Containment(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_CONTAINMENT_H_
