// A worker that lies: honest at first, later one number of one of its answers is not what it
// computed. For the demo, which shows what becomes of such a worker; no part of the product. Usage:
//   lying_worker ADDRESS CERTIFICATE KEY COORDINATORS_CA HONEST_ANSWERS
// Ends on SIGTERM.

#include <signal.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/grpc/worker_server.h"

#include "absl/strings/numbers.h"

namespace pavise::offload {
namespace {

constexpr uint64_t kMaxPemBytes = uint64_t{1} << 20;

// Another number of the same kind, which nobody can tell by looking at it: the largest one with the
// other sign; of residues the first that is not 0.
void Falsify(Frame& frame) {
  const size_t width = frame.modulus != 0 ? 1 : DTypeSizeBytes(frame.type);
  size_t largest = 0;
  uint64_t most = 0;
  for (size_t at = 0; at + width <= frame.bytes.size(); at += width) {
    uint64_t magnitude = 0;
    for (size_t i = width; i-- > 0;) magnitude = magnitude << 8 | frame.bytes[at + i];
    if (frame.modulus != 0) {
      magnitude = magnitude == 0 ? 0 : 1;
    } else {
      magnitude &= (uint64_t{1} << (8 * width - 1)) - 1;
    }
    if (magnitude <= most) continue;
    most = magnitude;
    largest = at;
  }
  uint8_t& byte = frame.bytes[largest + width - 1];
  byte = static_cast<uint8_t>(frame.modulus != 0 ? -byte : byte ^ 0x80);
}

class LyingDevice final : public ComputeDevice {
 public:
  LyingDevice(std::shared_ptr<ComputeDevice> honest, uint64_t answers)
      : honest_(std::move(honest)), answers_left_(static_cast<int64_t>(answers)) {}

  std::string_view name() const override { return honest_->name(); }
  bool multiplies(DType type) const override { return honest_->multiplies(type); }
  bool multiplies_residues() const override { return honest_->multiplies_residues(); }
  bool convolves() const override { return honest_->convolves(); }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Upload(Frame frame, DType type,
                                                       std::string_view item) override {
    return honest_->Upload(std::move(frame), type, item);
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Create(const MatrixForm& form,
                                                       std::string_view item) override {
    return honest_->Create(form, item);
  }
  absl::StatusOr<Frame> Download(const DeviceMatrix& matrix, DType type,
                                 std::string_view item) override {
    PAVISE_ASSIGN_OR_RETURN(Frame frame, honest_->Download(matrix, type, item));
    if (--answers_left_ < 0) Falsify(frame);
    return frame;
  }
  uint64_t WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                          const MatrixForm& b) const override {
    return honest_->WorkspaceBytes(multiplication, a, b);
  }
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Multiply(const Multiplication& multiplication,
                                                         const DeviceMatrix& a,
                                                         const DeviceMatrix& b,
                                                         std::string_view item) override {
    return honest_->Multiply(multiplication, a, b, item);
  }
  absl::Status CheckFinite(const DeviceMatrix& matrix, std::string_view item) override {
    return honest_->CheckFinite(matrix, item);
  }
  absl::Status Add(DeviceMatrix& sum, const DeviceMatrix& addend) override {
    return honest_->Add(sum, addend);
  }
  absl::Status Update(const SgdStep& step, const KeyShift& shift, const DeviceMatrix& gradient,
                      DeviceMatrix& velocity, DeviceMatrix& weights) override {
    return honest_->Update(step, shift, gradient, velocity, weights);
  }

 private:
  const std::shared_ptr<ComputeDevice> honest_;
  std::atomic<int64_t> answers_left_;
};

absl::Status Serve(char** words) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  uint64_t answers = 0;
  if (!absl::SimpleAtoi(words[5], &answers)) return UsageError("HONEST_ANSWERS: a number");
  WorkerServerOptions options;
  options.worker = {.name = "worker", .memory_limit_bytes = uint64_t{1} << 30};
  options.address = words[1];
  PAVISE_ASSIGN_OR_RETURN(const Bytes chain, ReadFile(words[2], kMaxPemBytes));
  options.identity.certificate_chain = std::string(AsText(chain));
  PAVISE_ASSIGN_OR_RETURN(options.identity.private_key, ReadSecretFile(words[3], kMaxPemBytes));
  PAVISE_ASSIGN_OR_RETURN(const Bytes authorities, ReadFile(words[4], kMaxPemBytes));
  options.identity.authorities = std::string(AsText(authorities));
  PAVISE_ASSIGN_OR_RETURN(
      const auto server,
      WorkerServer::Start(options, std::make_shared<LyingDevice>(OpenCpuDevice(1), answers)));
  std::printf("lying_worker: port %u\n", server->port());
  std::fflush(stdout);
  int signal_number = 0;
  sigwait(&signals, &signal_number);
  server->Stop();
  return absl::OkStatus();
}

}  // namespace
}  // namespace pavise::offload

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr,
                 "usage: lying_worker ADDRESS CERTIFICATE KEY COORDINATORS_CA HONEST_ANSWERS\n");
    return 2;
  }
  const absl::Status status = pavise::offload::Serve(argv);
  if (!status.ok()) std::fprintf(stderr, "lying_worker: %s\n", status.ToString().c_str());
  return pavise::ExitCodeOf(status);
}
