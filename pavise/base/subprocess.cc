#include "pavise/base/subprocess.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_split.h"

namespace pavise {
namespace {

constexpr size_t kMostOutputBytes = size_t{1} << 20;

struct FileActions {
  posix_spawn_file_actions_t native;
  FileActions() { posix_spawn_file_actions_init(&native); }
  ~FileActions() { posix_spawn_file_actions_destroy(&native); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
};

std::vector<char*> Pointers(const std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (const std::string& word : words) pointers.push_back(const_cast<char*>(word.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// posix_spawnp would look on our own PATH, which may lack the system programs' folders.
std::string SearchPath() {
  const char* given = std::getenv("PATH");
  return StrCat(given == nullptr ? "/usr/bin:/bin" : given, ":/usr/sbin:/sbin");
}

absl::Status NotInstalled(const std::string& name, const std::string& package) {
  return Refuse(Reason::kUnsupported, name, "is needed for this, and is not installed",
                StrCat("install it: apt-get install ", package));
}

}  // namespace

absl::StatusOr<std::string> FindProgram(const std::string& name, const std::string& package) {
  if (name.find('/') != std::string::npos) return name;
  for (const std::string& folder : std::vector<std::string>(absl::StrSplit(SearchPath(), ':'))) {
    // The current directory is never meant.
    if (folder.empty() || folder.front() != '/') continue;
    std::string candidate = StrCat(folder, "/", name);
    struct stat status;
    if (stat(candidate.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
        access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
  }
  return NotInstalled(name, package);
}

absl::StatusOr<ProgramResult> RunProgram(const std::vector<std::string>& command,
                                         const std::string& package,
                                         const std::vector<std::string>& environment) {
  if (command.empty()) return UsageError("no program is named");
  PAVISE_ASSIGN_OR_RETURN(const std::string program, FindProgram(command[0], package));
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return FromErrno(errno, "pipe", command[0]);
  const FileDescriptor read_end(ends[0]);
  FileDescriptor write_end(ends[1]);
  FileActions actions;
  posix_spawn_file_actions_addopen(&actions.native, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions.native, write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions.native, write_end.get(), STDERR_FILENO);
  std::vector<std::string> variables = {StrCat("PATH=", SearchPath()), "LC_ALL=C"};
  variables.insert(variables.end(), environment.begin(), environment.end());
  pid_t child = -1;
  const int error = posix_spawn(&child, program.c_str(), &actions.native, nullptr,
                                Pointers(command).data(), Pointers(variables).data());
  if (error == ENOENT) return NotInstalled(command[0], package);
  if (error != 0) return FromErrno(error, "starting", command[0]);
  write_end = FileDescriptor();

  ProgramResult result;
  char buffer[4096];
  for (;;) {
    const ssize_t count = read(read_end.get(), buffer, sizeof(buffer));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    const size_t room = kMostOutputBytes - result.output.size();
    result.output.append(buffer, std::min(room, static_cast<size_t>(count)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return FromErrno(errno, "waiting for", command[0]);
  }
  result.exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

absl::Status RunProgramOrFail(const std::vector<std::string>& command, const std::string& package,
                              const std::vector<std::string>& environment) {
  PAVISE_ASSIGN_OR_RETURN(ProgramResult result, RunProgram(command, package, environment));
  if (result.exit_status == 0) return absl::OkStatus();
  while (!result.output.empty() && result.output.back() == '\n') result.output.pop_back();
  const size_t newline = result.output.rfind('\n');
  return MachineFailure(
      command[0],
      StrCat("ended with status ", result.exit_status, ": ",
             newline == std::string::npos ? result.output : result.output.substr(newline + 1)));
}

}  // namespace pavise
