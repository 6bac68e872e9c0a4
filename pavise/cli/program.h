#ifndef PAVISE_CLI_PROGRAM_H_
#define PAVISE_CLI_PROGRAM_H_

namespace pavise::cli {

// The `pavise` program: parses, runs one verb, prints its result (standard output) or refusal
// (standard error; with --json both on standard output as one JSON object). Returns the exit code:
// 0 done, 1 refused, 2 usage, 3 the machine failed. A password given in `argv` is overwritten
// there, so that it does not stay visible in the process list. May throw std::bad_alloc.
int RunProgram(int argc, char** argv);

// What main says and returns when memory ran out; allocates nothing.
int ReportOutOfMemory(int argc, char** argv) noexcept;

}  // namespace pavise::cli

#endif  // PAVISE_CLI_PROGRAM_H_
