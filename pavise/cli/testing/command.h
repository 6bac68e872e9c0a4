#ifndef PAVISE_CLI_TESTING_COMMAND_H_
#define PAVISE_CLI_TESTING_COMMAND_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"

#include "gtest/gtest.h"

// Runs the built program as its users do: another process, with a directory and files of its own.
namespace pavise::cli::testing {

struct CommandOutput {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;
  std::string out;
  std::string error;
  // `out` as one JSON object; a test failure and null otherwise.
  Json json() const;
  // The reasons of its findings, in order.
  std::vector<std::string> reasons() const;
};

struct CommandSetting {
  std::string directory;
  std::map<std::string, std::string> environment;  // beside PATH; nothing else is inherited
  std::string stdout_path;                         // empty: captured
  bool close_stdout_reader = false;                // a pipe that nobody reads
  uint64_t address_space_bytes = 0;                // RLIMIT_AS; 0: no limit
  uint32_t user_id = 0;                            // run as this user (and group); 0: as the test
};

// `words[0]` is looked up on the PATH.
CommandOutput RunProgram(const std::vector<std::string>& words, const CommandSetting& setting);

// A temporary directory to work in, with a model in it.
class CommandTest : public ::testing::Test {
 protected:
  CommandTest();

  // `pavise WORDS...` in the temporary directory.
  CommandOutput Pavise(const std::vector<std::string>& words) const;
  // The same, and a test failure unless it ends with this exit code.
  CommandOutput ExpectExit(int exit_code, const std::vector<std::string>& words) const;

  std::string Path(const std::string& name) const { return directory_ / name; }
  std::string Read(const std::string& name) const;
  void Write(const std::string& name, const std::string& content) const;
  void FlipBit(const std::string& name, uint64_t offset_bytes) const;
  bool Exists(const std::string& name) const;
  // Every entry below the directory whose name marks it as a temporary file.
  std::vector<std::string> TemporaryFiles() const;

  // "model/": a safetensors file of three tensors over 3 MiB ("a.weight" F32 [300000], "b.weight"
  // F32 [400000], "c.bias" F32 [100]), a JSON file, one file in a folder.
  void MakeModel() const;
  // key.pem and key.pub, made by the program.
  void MakeKey(const std::string& curve = "p256", const std::string& name = "key") const;
  void MakeSignedModel() const;
  // "NAME.pem" in a new SoftHSM token of that name, whose PIN is in "pin.txt": its URI. "" where
  // SoftHSM is not installed.
  std::string MakeToken(const std::string& name);

  pavise::testing::TemporaryDirectory directory_;
  CommandSetting setting_;
};

// The bytes of a safetensors file with F32 tensors (name, number of elements) in this order, filled
// from `seed`.
std::string SafetensorsBytes(const std::vector<std::pair<std::string, uint64_t>>& tensors,
                             uint32_t seed);

}  // namespace pavise::cli::testing

#endif  // PAVISE_CLI_TESTING_COMMAND_H_
