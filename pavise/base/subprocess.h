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

// The file that a program's name stands for: on the PATH's absolute folders, then /usr/sbin and
// /sbin; a name with a slash is taken as it is. kUnsupported where there is none; its remedy names
// `package`.
absl::StatusOr<std::string> FindProgram(const std::string& name, const std::string& package);

// Runs a program (FindProgram) and waits for its end: no shell, standard input empty, its
// environment only the PATH that it was looked for on, LC_ALL=C and what `environment` adds
// ("NAME=value").
absl::StatusOr<ProgramResult> RunProgram(const std::vector<std::string>& command,
                                         const std::string& package,
                                         const std::vector<std::string>& environment = {});
// The same; an exit status other than 0 is a machine failure with the last line of the output.
absl::Status RunProgramOrFail(const std::vector<std::string>& command, const std::string& package,
                              const std::vector<std::string>& environment = {});

}  // namespace pavise

#endif  // PAVISE_BASE_SUBPROCESS_H_
