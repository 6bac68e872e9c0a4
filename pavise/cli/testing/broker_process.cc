#include "pavise/cli/testing/broker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_files.h"

#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace pavise::cli::testing {

BrokerProcess::BrokerProcess(const std::string& directory, const std::string& configuration) {
  const std::string log = directory + "/broker.log";
  std::filesystem::remove(log);  // another broker's port
  child_ = fork();
  if (child_ == 0) {
    const int file = open(log.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0 || dup2(file, STDERR_FILENO) < 0 || dup2(file, STDOUT_FILENO) < 0 ||
        chdir(directory.c_str()) != 0) {
      _exit(127);
    }
    execl(PAVISE_PROGRAM, "pavise", "broker", "serve", "--config", configuration.c_str(), nullptr);
    _exit(127);
  }
  // It says its port when it listens, or ends.
  while (port_ == 0 && waitpid(child_, nullptr, WNOHANG) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    for (const absl::string_view line : absl::StrSplit(crypto::testing::ReadText(log), '\n')) {
      const Json event = Json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (event.is_object() && event.value("event", "") == "started") port_ = event["port"];
    }
  }
  if (port_ == 0) {
    child_ = 0;
    ADD_FAILURE() << "no broker: " << crypto::testing::ReadText(log);
  }
}

BrokerProcess::~BrokerProcess() {
  if (child_ <= 0) return;
  kill(child_, SIGTERM);
  waitpid(child_, nullptr, 0);
}

std::string BrokerProcess::url() const { return StrCat("http://127.0.0.1:", port_); }

void BrokerProcess::ExpectKilled() {
  int status = 0;
  waitpid(child_, &status, 0);
  child_ = 0;
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

}  // namespace pavise::cli::testing
