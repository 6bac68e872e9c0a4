#ifndef PAVISE_CLI_PROGRAM_H_
#define PAVISE_CLI_PROGRAM_H_

#include <memory>
#include <vector>

#include "pavise/cli/verb.h"

namespace pavise::cli {

// The verbs of `pavise`, in the order of the program's help.
std::vector<std::unique_ptr<Verb>> AllVerbs();

// The program over these verbs: parses, runs one, prints its result (standard output) or refusal
// (standard error; with --json both on standard output as one JSON object). Returns the exit code:
// 0 done, 1 refused, 2 usage, 3 the machine failed. A password given in `argv` is overwritten
// there, so that it does not stay visible in the process list. May throw std::bad_alloc.
int RunProgram(int argc, char** argv, std::vector<std::unique_ptr<Verb>> verbs);

// What main says and returns when memory ran out; allocates nothing.
int ReportOutOfMemory(int argc, char** argv) noexcept;

}  // namespace pavise::cli

#endif  // PAVISE_CLI_PROGRAM_H_
