#ifndef PAVISE_CRYPTO_TESTING_TEST_FILES_H_
#define PAVISE_CRYPTO_TESTING_TEST_FILES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pavise::crypto::testing {

// The whole file; empty where it cannot be read.
std::string ReadText(const std::string& path);

// The folder of third-party vectors: $PAVISE_VECTORS, else ../shared/vectors beside the source
// tree; nullopt where it is absent (the test skips then, and says so).
std::optional<std::string> VectorsDirectory();

// The regular files below a directory whose paths end so, sorted.
std::vector<std::string> FilesBelow(const std::string& directory, std::string_view end);

struct CommandResult {
  int exit_code = -1;
  std::string output;  // standard output and standard error
};
// Runs a shell command and waits for it.
CommandResult RunCommand(const std::string& command);

// Whether a program is on the PATH.
bool HasProgram(const std::string& name);

}  // namespace pavise::crypto::testing

#endif  // PAVISE_CRYPTO_TESTING_TEST_FILES_H_
