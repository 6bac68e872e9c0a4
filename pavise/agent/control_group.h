#ifndef PAVISE_AGENT_CONTROL_GROUP_H_
#define PAVISE_AGENT_CONTROL_GROUP_H_

#include <cstdint>
#include <string>

#include "pavise/base/file.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::agent {

// A cgroup v2 of one run (Linux, Documentation/admin-guide/cgroup-v2.rst). Removed with the object;
// what is still in it is killed then. Not thread-safe.
class ControlGroup {
 public:
  // A child "pavise-run-PID-N" of `parent`, a directory of a cgroup v2 that this process may
  // divide; empty: of the group that this process is in, whose only process it then has to be (it
  // moves to a child of its own), or the root group. Groups that ended runs left behind are
  // removed. kUnsupported: no cgroup v2, or no permission.
  static absl::StatusOr<ControlGroup> Create(const std::string& mount, const std::string& parent);
  ~ControlGroup();
  ControlGroup(ControlGroup&& other) noexcept;
  ControlGroup& operator=(ControlGroup&&) = delete;

  // kUnsupported where the controller is not there.
  absl::Status LimitMemory(uint64_t bytes);  // no swap; the whole group is killed at the limit
  absl::Status LimitProcesses(uint32_t count);
  absl::Status LimitCpu(uint32_t percent);

  // Open for writing process IDs to; valid with the object.
  int processes_file() const { return processes_.get(); }
  // Whether the memory limit killed the group.
  bool WasOutOfMemory() const;
  void Kill() const;

 private:
  explicit ControlGroup(std::string path) : path_(std::move(path)) {}
  absl::Status Set(const char* name, const std::string& value) const;

  std::string path_;
  FileDescriptor processes_;
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_CONTROL_GROUP_H_
