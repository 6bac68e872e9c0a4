#ifndef PAVISE_BASE_SUBPROCESS_H_
#define PAVISE_BASE_SUBPROCESS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace pavise {

struct ProgramResult {
  int exit_status = 0;  // 128 + N where signal N ended it
  std::string output;   // standard output and standard error, the first MiB
};

// Runs a program and waits for its end: found on the PATH's absolute folders, then /usr/sbin and
// /sbin (a name with a slash is taken as it is), no shell, standard input empty, its environment
// only that PATH, LC_ALL=C and what `environment` adds ("NAME=value").
// kUnsupported where there is no such program; its remedy names `package`.
absl::StatusOr<ProgramResult> RunProgram(const std::vector<std::string>& command,
                                         const std::string& package,
                                         const std::vector<std::string>& environment = {});
// The same; an exit status other than 0 is a machine failure with the last line of the output.
absl::Status RunProgramOrFail(const std::vector<std::string>& command, const std::string& package,
                              const std::vector<std::string>& environment = {});

}  // namespace pavise

#endif  // PAVISE_BASE_SUBPROCESS_H_
