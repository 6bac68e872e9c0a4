#include "pavise/cli/testing/command.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <system_error>

#include "pavise/base/bytes.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::cli::testing {
namespace {

namespace fs = std::filesystem;

void Require(bool condition, const char* what) {
  if (condition) return;
  perror(what);
  std::abort();
}

// Reads both pipes to their ends.
void Drain(int out, int error, CommandOutput& output) {
  pollfd pipes[] = {{out, POLLIN, 0}, {error, POLLIN, 0}};
  std::string* texts[] = {&output.out, &output.error};
  int open_pipes = (out >= 0 ? 1 : 0) + 1;
  while (open_pipes > 0) {
    Require(poll(pipes, 2, -1) >= 0 || errno == EINTR, "poll");
    for (int i = 0; i < 2; ++i) {
      if (pipes[i].fd < 0 || pipes[i].revents == 0) continue;
      char buffer[65536];
      const ssize_t got = read(pipes[i].fd, buffer, sizeof(buffer));
      if (got > 0) {
        texts[i]->append(buffer, static_cast<size_t>(got));
      } else {
        pipes[i].fd = -1;
        --open_pipes;
      }
    }
  }
}

}  // namespace

Json CommandOutput::json() const {
  Json value = Json::parse(out, nullptr, /*allow_exceptions=*/false);
  EXPECT_TRUE(value.is_object()) << "not one JSON object: " << out << "\nstderr: " << error;
  return value.is_object() ? value : Json();
}

std::vector<std::string> CommandOutput::reasons() const {
  std::vector<std::string> reasons;
  const Json object = json();
  if (!object.contains("findings")) return reasons;
  for (const Json& finding : object["findings"]) {
    reasons.push_back(finding["reason"].get<std::string>());
  }
  return reasons;
}

CommandOutput RunProgram(const std::vector<std::string>& words, const CommandSetting& setting) {
  int out[2] = {-1, -1};
  int error[2];
  Require(pipe2(error, O_CLOEXEC) == 0, "pipe");
  int child_out = -1;
  if (setting.stdout_path.empty()) {
    Require(pipe2(out, O_CLOEXEC) == 0, "pipe");
    child_out = out[1];
    if (setting.close_stdout_reader) {
      close(out[0]);
      out[0] = -1;
    }
  } else {
    child_out = open(setting.stdout_path.c_str(), O_WRONLY | O_CLOEXEC);
    Require(child_out >= 0, setting.stdout_path.c_str());
  }
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  std::vector<std::string> variables = {StrCat("PATH=", std::getenv("PATH"))};
  for (const auto& [name, value] : setting.environment) {
    variables.push_back(StrCat(name, "=", value));
  }
  std::vector<char*> environment;
  for (std::string& variable : variables) environment.push_back(variable.data());
  environment.push_back(nullptr);

  const pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    signal(SIGPIPE, SIG_DFL);
    if (dup2(child_out, STDOUT_FILENO) < 0 || dup2(error[1], STDERR_FILENO) < 0 ||
        (!setting.directory.empty() && chdir(setting.directory.c_str()) != 0)) {
      _exit(127);
    }
    if (setting.address_space_bytes != 0) {
      const rlimit limit = {setting.address_space_bytes, setting.address_space_bytes};
      if (setrlimit(RLIMIT_AS, &limit) != 0) _exit(127);
    }
    if (setting.user_id != 0 && (setgid(setting.user_id) != 0 || setuid(setting.user_id) != 0)) {
      _exit(127);
    }
    execvpe(arguments[0], arguments.data(), environment.data());
    _exit(127);
  }
  close(child_out);
  close(error[1]);
  CommandOutput output;
  Drain(out[0], error[0], output);
  if (out[0] >= 0) close(out[0]);
  close(error[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0) Require(errno == EINTR, "waitpid");
  if (WIFEXITED(status)) output.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) output.signal = WTERMSIG(status);
  return output;
}

CommandTest::CommandTest() { setting_.directory = directory_.path(); }

CommandOutput CommandTest::Pavise(const std::vector<std::string>& words) const {
  std::vector<std::string> all = {PAVISE_PROGRAM};
  all.insert(all.end(), words.begin(), words.end());
  return RunProgram(all, setting_);
}

CommandOutput CommandTest::ExpectExit(int exit_code, const std::vector<std::string>& words) const {
  CommandOutput output = Pavise(words);
  EXPECT_EQ(output.exit_code, exit_code)
      << "pavise " << (words.empty() ? "" : words.front()) << "\nstdout: " << output.out
      << "\nstderr: " << output.error;
  return output;
}

std::string CommandTest::Read(const std::string& name) const {
  return crypto::testing::ReadText(Path(name));
}

void CommandTest::Write(const std::string& name, const std::string& content) const {
  fs::create_directories(fs::path(Path(name)).parent_path());
  std::ofstream(Path(name), std::ios::binary)
      .write(content.data(), static_cast<std::streamsize>(content.size()));
}

void CommandTest::FlipBit(const std::string& name, uint64_t offset_bytes) const {
  std::string content = Read(name);
  ASSERT_LT(offset_bytes, content.size());
  content[offset_bytes] = static_cast<char>(content[offset_bytes] ^ 1);
  Write(name, content);
}

bool CommandTest::Exists(const std::string& name) const {
  std::error_code error;
  return fs::exists(fs::symlink_status(Path(name), error));
}

std::vector<std::string> CommandTest::TemporaryFiles() const {
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory_.path())) {
    const std::string name = entry.path().filename().string();
    for (const char* const mark : {".tmp-", ".unfinished-"}) {
      if (name.find(mark) != std::string::npos) found.push_back(name);
    }
  }
  return found;
}

void CommandTest::MakeModel() const {
  Write("model/model.safetensors",
        SafetensorsBytes({{"a.weight", 300'000}, {"b.weight", 400'000}, {"c.bias", 100}}, 1));
  Write("model/config.json", "{\"layers\": 2}\n");
  Write("model/tokenizer/vocabulary.txt", "the\nof\n");
}

void CommandTest::MakeKey(const std::string& curve, const std::string& name) const {
  ExpectExit(0, {"keygen", "--curve", curve, "-o", name + ".pem"});
}

void CommandTest::MakeSignedModel() const {
  MakeModel();
  MakeKey();
  ExpectExit(0, {"sign", "model", "--private-key", "key.pem"});
}

std::string CommandTest::MakeToken(const std::string& name) {
  std::string module;
  for (const char* path :
       {"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"}) {
    if (access(path, R_OK) == 0) module = path;
  }
  if (module.empty() || !crypto::testing::HasProgram("softhsm2-util")) return "";
  fs::create_directory(Path("tokens"));
  Write("softhsm2.conf", StrCat("directories.tokendir = ", Path("tokens"),
                                "\nobjectstore.backend = file\nlog.level = ERROR\n"));
  setting_.environment["SOFTHSM2_CONF"] = Path("softhsm2.conf");
  Write("pin.txt", "1234");
  const std::vector<std::string> commands[] = {
      {"softhsm2-util", "--init-token", "--free", "--label", name, "--pin", "1234", "--so-pin",
       "5678"},
      {"softhsm2-util", "--import", Path(name + ".pem"), "--token", name, "--label", name, "--id",
       "a1", "--pin", "1234"}};
  for (const auto& words : commands) {
    const CommandOutput output = RunProgram(words, setting_);
    EXPECT_EQ(output.exit_code, 0) << output.out << output.error;
  }
  return StrCat("pkcs11:token=", name, ";object=", name, ";type=private?module-path=", module,
                "&pin-source=file:", Path("pin.txt"));
}

std::string SafetensorsBytes(const std::vector<std::pair<std::string, uint64_t>>& tensors,
                             uint32_t seed) {
  Json header = Json::object();
  uint64_t offset = 0;
  for (const auto& [name, elements] : tensors) {
    header[name] = {
        {"dtype", "F32"}, {"shape", {elements}}, {"data_offsets", {offset, offset + elements * 4}}};
    offset += elements * 4;
  }
  const std::string text = header.dump();
  Bytes bytes;
  AppendLittleEndian64(text.size(), bytes);
  bytes.insert(bytes.end(), text.begin(), text.end());
  std::mt19937 generator(seed);
  for (uint64_t i = 0; i < offset; ++i) bytes.push_back(static_cast<uint8_t>(generator()));
  return std::string(bytes.begin(), bytes.end());
}

}  // namespace pavise::cli::testing
