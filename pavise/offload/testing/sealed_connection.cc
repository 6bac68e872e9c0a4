#include "pavise/offload/testing/sealed_connection.h"

#include <openssl/evp.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace pavise::offload {

double ThreadCpuSeconds() {
  timespec now = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct SealedConnection::Cipher {
  Cipher() : context(EVP_CIPHER_CTX_new()) {}
  Cipher(const Cipher&) = delete;
  Cipher& operator=(const Cipher&) = delete;
  ~Cipher() { EVP_CIPHER_CTX_free(context); }

  void Seal(const Frames& frames) {
    const double begin = ThreadCpuSeconds();
    for (const Frame& frame : frames) {
      const uint8_t key[32] = {1};
      const uint8_t nonce[12] = {};
      EVP_EncryptInit_ex(context, EVP_aes_256_gcm(), nullptr, key, nonce);
      // In records, as TLS has them.
      for (size_t at = 0; at < frame.bytes.size(); at += sizeof record) {
        const size_t size = std::min(sizeof record, frame.bytes.size() - at);
        int written = 0;
        EVP_EncryptUpdate(context, record, &written, &frame.bytes[at], static_cast<int>(size));
      }
      int written = 0;
      EVP_EncryptFinal_ex(context, record, &written);
    }
    seconds += ThreadCpuSeconds() - begin;
  }

  EVP_CIPHER_CTX* const context;
  uint8_t record[16384] = {};
  double seconds = 0;
};

class SealedConnection::Pending final : public PendingReply {
 public:
  Pending(Cipher& cipher, std::unique_ptr<PendingReply> inner)
      : cipher_(cipher), inner_(std::move(inner)) {}
  absl::StatusOr<Reply> Wait(absl::Time deadline) override {
    auto reply = inner_->Wait(deadline);
    if (reply.ok()) cipher_.Seal(reply->frames);
    return reply;
  }

 private:
  Cipher& cipher_;
  const std::unique_ptr<PendingReply> inner_;
};

SealedConnection::SealedConnection(std::unique_ptr<WorkerConnection> inner)
    : inner_(std::move(inner)), cipher_(std::make_unique<Cipher>()) {}
SealedConnection::~SealedConnection() = default;

const WorkerDescription& SealedConnection::description() const { return inner_->description(); }

std::unique_ptr<PendingReply> SealedConnection::Send(Request request) {
  cipher_->Seal(request.frames);
  return std::make_unique<Pending>(*cipher_, inner_->Send(std::move(request)));
}

double SealedConnection::seconds() const { return cipher_->seconds; }

}  // namespace pavise::offload
