#include "pavise/evidence/testing/swtpm.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pavise/crypto/testing/test_files.h"

#include "gtest/gtest.h"

namespace pavise::evidence::testing {

using crypto::testing::CommandResult;
using crypto::testing::HasProgram;
using crypto::testing::ReadText;
using crypto::testing::RunCommand;

std::string SwtpmMissing() {
  for (const char* program : {"swtpm", "swtpm_setup", "swtpm_localca"}) {
    if (!HasProgram(program)) return std::string(program) + " is not installed";
  }
  return "";
}

SwtpmAuthority::SwtpmAuthority() {
  const std::string& directory = path();
  directory_.Write("localca.conf", "statedir = " + directory + "\nsigningkey = " + directory +
                                       "/signkey.pem" + "\nissuercert = " + directory +
                                       "/issuercert.pem" + "\ncertserial = " + directory +
                                       "/certserial\n");
  directory_.Write("localca.options", "");
  directory_.Write("setup.conf",
                   "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = " + directory +
                       "/localca.conf" + "\ncreate_certs_tool_options = " + directory +
                       "/localca.options\n");
}

std::vector<crypto::Certificate> SwtpmAuthority::issuers() const {
  std::vector<crypto::Certificate> result;
  const std::string pem = ReadText(directory_ / "issuercert.pem");
  const auto read = crypto::Certificate::ListFromPem(pem, "issuercert.pem");
  EXPECT_TRUE(read.ok()) << read.status();
  if (read.ok()) result = *read;
  result.push_back(root());
  return result;
}

crypto::Certificate SwtpmAuthority::root() const {
  const std::string pem = ReadText(directory_ / "swtpm-localca-rootca-cert.pem");
  return crypto::Certificate::ListFromPem(pem, "root").value()[0];
}

std::unique_ptr<Swtpm> Swtpm::Start(const SwtpmAuthority& authority) {
  std::unique_ptr<Swtpm> result(new Swtpm());
  const std::string& state = result->path();  // absolute, which swtpm insists on
  const std::string socket = result->directory_ / "socket";
  const std::string pid_file = result->directory_ / "pid";
  const CommandResult made =
      RunCommand("swtpm_setup --tpm2 --tpm-state " + state + " --config " + authority.path() +
                 "/setup.conf --create-ek-cert --pcr-banks sha1,sha256");
  if (made.exit_code != 0) {
    ADD_FAILURE() << made.output;
    return nullptr;
  }
  // It returns when both sockets listen.
  const CommandResult started = RunCommand(
      "swtpm socket --tpm2 --tpmstate dir=" + state + " --server type=unixio,path=" + socket +
      " --ctrl type=unixio,path=" + socket + ".ctrl --flags not-need-init,startup-clear --daemon" +
      " --pid file=" + pid_file + " --log file=" + state + "/log");
  result->process_ = static_cast<pid_t>(atoi(ReadText(pid_file).c_str()));
  if (started.exit_code != 0 || result->process_ <= 1) {
    ADD_FAILURE() << started.output << ReadText(state + "/log");
    return nullptr;
  }
  return result;
}

Swtpm::~Swtpm() {
  if (process_ <= 1) return;
  // It writes its state once more before it ends, so the directory is removed after that.
  // The C library's own declarations lack extern "C" before glibc 2.37.
  const int descriptor = static_cast<int>(syscall(SYS_pidfd_open, process_, 0));
  if (descriptor < 0) return;  // gone already
  pollfd ended = {descriptor, POLLIN, 0};
  if (kill(process_, SIGTERM) == 0) poll(&ended, 1, /*timeout=*/-1);
  close(descriptor);
}

}  // namespace pavise::evidence::testing
