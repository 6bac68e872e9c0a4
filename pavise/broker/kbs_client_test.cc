// The broker over TLS and a client of the key broker protocol that shares no code with it
// (interop/kbs_client.py), which attests with a software TPM through tpm2-tools.
#include <signal.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/subprocess.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/broker/http_server.h"
#include "pavise/broker/testing/test_broker.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/evidence/appraise/reference/reference_values.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::broker {
namespace {

using testing::ContentKeyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TestBroker;

// An interpreter that has the client's one library; "" where there is none.
std::string Python() {
  for (const std::string& python :
       {std::string(PAVISE_SOURCE_DIR "/build/interop-venv/bin/python"), std::string("python3")}) {
    const auto found = RunProgram({python, "-c", "import cryptography"}, "python3");
    if (found.ok() && found->exit_status == 0) return python;
  }
  return "";
}

// A software TPM on a unix socket, in a folder of its own.
class SoftwareTpm {
 public:
  absl::Status Start() {
    PAVISE_RETURN_IF_ERROR(RunProgramOrFail(
        {"swtpm_setup", "--tpm2", "--tpm-state", directory_.path(), "--pcr-banks", "sha256"},
        "swtpm-tools"));
    const std::string socket = directory_ / "socket";
    const std::string pid_file = directory_ / "pid";
    PAVISE_RETURN_IF_ERROR(RunProgramOrFail(
        {"swtpm", "socket", "--tpm2", "--tpmstate", "dir=" + directory_.path(), "--server",
         "type=unixio,path=" + socket, "--ctrl", "type=unixio,path=" + socket + ".ctrl", "--flags",
         "not-need-init,startup-clear", "--daemon", "--pid", "file=" + pid_file},
        "swtpm"));
    PAVISE_ASSIGN_OR_RETURN(const Bytes pid, ReadFile(pid_file, 64));
    process_ = static_cast<pid_t>(std::atoi(std::string(AsText(pid)).c_str()));
    return process_ > 1 ? absl::OkStatus() : MachineFailure("swtpm", "wrote no process id");
  }
  ~SoftwareTpm() {
    if (process_ > 1) kill(process_, SIGKILL);
  }
  std::string tcti() const { return "swtpm:path=" + directory_ / "socket"; }

 private:
  pavise::testing::TemporaryDirectory directory_;
  pid_t process_ = 0;
};

class KbsClientTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* program : {"swtpm", "swtpm_setup", "tpm2_quote"}) {
      if (!RunProgram({program, "--version"}, "").ok()) GTEST_SKIP() << program << " is missing";
    }
    python_ = Python();
    if (python_.empty()) GTEST_SKIP() << "no Python with the library cryptography (make interop)";
    const absl::Status started = tpm_.Start();
    ASSERT_TRUE(started.ok()) << started;
    broker_.Agree(policy::testing::ThreeOwners(RulesForABootedNothing()));
    StartServer();
  }

  // PCR 4 and 7 as they are before anything booted; whose TPM it is does not matter here.
  policy::EvidenceRules RulesForABootedNothing() {
    evidence::PcrValues pcrs;
    for (const uint32_t index : {4u, 7u}) {
      EXPECT_TRUE(pcrs.Set(evidence::PcrBank::kSha256, index, Bytes(32)).ok());
    }
    evidence::ReferenceValues references;
    evidence::AddRegisters(pcrs, evidence::PcrBank::kSha256, {4, 7}, "nothing", references);
    broker_.files.Add("reference.json", evidence::FormatReferenceValues(references));
    broker_.files.Add("appraisal.json", Json{{"pavise_appraisal_policy", 1},
                                             {"required", {"tpm"}},
                                             {"reference_values", {"reference.json"}},
                                             {"tpm",
                                              {{"allow_unbound_key", true},
                                               {"registers", {{"sha256", {4, 7}}}},
                                               {"event_log", false},
                                               {"ima", false},
                                               {"host_protections", false}}}}
                                            .dump());
    return {.policy = broker_.files.DigestOf("appraisal.json"),
            .files = {{"reference.json", broker_.files.DigestOf("reference.json")}},
            .anchors = {}};
  }

  void StartServer() {
    const auto root = crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test root"));
    crypto::testing::CertificateOptions names;
    names.subject_alternative_name = "IP:127.0.0.1";
    names.extended_key_usage = "serverAuth";
    const auto certificate = crypto::testing::Issue(root, names);
    root_file_ = directory_.Write("root.pem", root.certificate.ToPem());
    HttpServerOptions options;
    options.address = "127.0.0.1:0";
    options.certificate_file = directory_.Write("tls.pem", certificate.certificate.ToPem());
    options.private_key_file =
        directory_.Write("tls.key", certificate.key.ToPem(SecretBytes())->RevealText());
    options.body_limit = [this](std::string_view method, std::string_view path) {
      return broker_.service().BodyLimit(method, path);
    };
    auto server = HttpServer::Start(
        options, [this](const HttpRequest& request) { return broker_.service().Handle(request); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  ProgramResult RunClient(const std::string& agreement, const std::vector<std::string>& assets) {
    std::vector<std::string> command = {python_,
                                        "-B",
                                        PAVISE_SOURCE_DIR "/interop/kbs_client.py",
                                        "--url",
                                        StrCat("https://127.0.0.1:", server_->port()),
                                        "--ca",
                                        root_file_,
                                        "--agreement",
                                        agreement,
                                        "--stage",
                                        "train",
                                        "--mode",
                                        "measured",
                                        "--tcti",
                                        tpm_.tcti()};
    command.insert(command.end(), assets.begin(), assets.end());
    return RunProgram(command, "python3").value();
  }
  static std::string Line(const std::string& asset) {
    return StrCat(asset, " ", ToHex(ContentKeyOf(asset).Reveal()), "\n");
  }

  std::string python_;
  SoftwareTpm tpm_;
  TestBroker broker_;
  pavise::testing::TemporaryDirectory directory_;
  std::string root_file_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(KbsClientTest, AStrangersClientGetsItsKeysFromAnAgreedMachineOnly) {
  const ProgramResult served = RunClient(broker_.id, {"base", "scans-a"});
  EXPECT_EQ(served.exit_status, 0) << served.output;
  EXPECT_EQ(served.output, Line("base") + Line("scans-a"));

  // An agreement that is not there.
  EXPECT_EQ(RunClient(std::string(64, '0'), {"base"}).exit_status, 1);
  // An asset that is not the stage's.
  const ProgramResult other = RunClient(broker_.id, {"nothing"});
  EXPECT_EQ(other.exit_status, 1);
  EXPECT_THAT(other.output, HasSubstr("\"reason\""));

  // The same machine after something else ran.
  ASSERT_TRUE(RunProgramOrFail({"tpm2_pcrextend", "4:sha256=" + std::string(64, '5')}, "tpm2-tools",
                               {"TPM2TOOLS_TCTI=" + tpm_.tcti()})
                  .ok());
  const ProgramResult refused = RunClient(broker_.id, {"base"});
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_THAT(refused.output, HasSubstr("measurement-"));
  EXPECT_THAT(refused.output, Not(HasSubstr(ToHex(ContentKeyOf("base").Reveal()))));
}

}  // namespace
}  // namespace pavise::broker
