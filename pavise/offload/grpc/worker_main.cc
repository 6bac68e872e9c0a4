// pavise-worker: computes for coordinators, which take none of its answers on trust. Keeps nothing
// on disk. Exit codes: 0 stopped by SIGTERM or SIGINT, 1 refused, 2 usage, 3 the machine failed.

#include <signal.h>

#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/process_memory.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/devices.h"
#include "pavise/offload/grpc/worker_server.h"

#include "CLI/CLI.hpp"

namespace pavise::offload {
namespace {

constexpr uint64_t kMaxPemBytes = uint64_t{1} << 20;

struct Arguments {
  std::string name = "worker";
  std::string listen = "127.0.0.1:7443";
  std::string certificate;
  std::string key;
  std::string client_ca;
  std::string device = "cpu";
  int threads = 0;
  uint64_t memory_bytes = uint64_t{8} << 30;
  size_t sessions = 4;
};

void Declare(Arguments& arguments, CLI::App& app) {
  app.add_option("--listen", arguments.listen, "address and port [127.0.0.1:7443]")
      ->type_name("ADDRESS");
  app.add_option("--cert", arguments.certificate, "this worker's certificate chain, PEM")
      ->type_name("FILE")
      ->required();
  app.add_option("--key", arguments.key, "its private key, PEM")->type_name("FILE")->required();
  app.add_option("--client-ca", arguments.client_ca,
                 "authorities of coordinators' certificates, PEM; whoever has one is served")
      ->type_name("FILE")
      ->required();
  app.add_option("--device", arguments.device, "what computes: cpu, or cuda:N, an NVIDIA GPU [cpu]")
      ->type_name("NAME");
  app.add_option("--threads", arguments.threads, "of the CPU [all]")
      ->type_name("N")
      ->check(CLI::Range(0, 4096));
  app.add_option("--memory", arguments.memory_bytes,
                 "limit of all sessions' tensors together, on the device and on their way [8GiB]")
      ->type_name("SIZE")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--sessions", arguments.sessions, "at a time [4]")
      ->type_name("N")
      ->check(CLI::Range(1, 256));
  app.add_option("--name", arguments.name, "as coordinators are told [worker]")->type_name("NAME");
  app.set_version_flag("--version", "pavise-worker " PAVISE_VERSION);
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, ReadFile(path, kMaxPemBytes));
  return std::string(AsText(bytes));
}

absl::Status Serve(const Arguments& arguments) {
  KeepFreedMemory();
  // Before any thread: all of them leave these signals to sigwait below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  // Neither a coordinator that is gone nor a reader of this output that is ends the others'
  // sessions.
  signal(SIGPIPE, SIG_IGN);
  PAVISE_ASSIGN_OR_RETURN(const std::shared_ptr<ComputeDevice> device,
                          OpenComputeDevice(arguments.device, arguments.threads));
  WorkerServerOptions options;
  options.worker = {arguments.name, arguments.memory_bytes};
  options.address = arguments.listen;
  options.max_sessions = arguments.sessions;
  PAVISE_ASSIGN_OR_RETURN(options.identity.certificate_chain, ReadPem(arguments.certificate));
  PAVISE_ASSIGN_OR_RETURN(options.identity.private_key,
                          ReadSecretFile(arguments.key, kMaxPemBytes));
  PAVISE_ASSIGN_OR_RETURN(options.identity.authorities, ReadPem(arguments.client_ca));
  PAVISE_ASSIGN_OR_RETURN(const auto server, WorkerServer::Start(options, device));
  std::printf("pavise-worker %s: port %u, %s, tensors up to %s, %zu sessions\n",
              Printable(arguments.name).c_str(), server->port(),
              std::string(device->name()).c_str(), HumanBytes(arguments.memory_bytes).c_str(),
              arguments.sessions);
  std::fflush(stdout);
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  server->Stop();
  std::printf("pavise-worker %s: stopped\n", Printable(arguments.name).c_str());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Computes for Pavise coordinators, over mutual TLS 1.3.", "pavise-worker");
  Declare(arguments, app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = Serve(arguments);
  if (status.ok()) return 0;
  const std::vector<Refusal> refusals = RefusalsOf(status);
  if (refusals.empty()) {
    std::fprintf(stderr, "FAILED: %s\n", Printable(FromAbsl(status.message())).c_str());
  }
  for (const Refusal& refusal : refusals) {
    std::fprintf(stderr, "REFUSED: %s: %s (%s)\n", Printable(refusal.item).c_str(),
                 Printable(refusal.detail).c_str(),
                 std::string(ReasonName(refusal.reason)).c_str());
    if (!refusal.remedy.empty()) {
      std::fprintf(stderr, "  what would help: %s\n", Printable(refusal.remedy).c_str());
    }
  }
  return ExitCodeOf(status);
}

}  // namespace
}  // namespace pavise::offload

int main(int argc, char** argv) {
  try {
    return pavise::offload::Main(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "FAILED: %s\n", e.what());
    return 3;
  }
}
