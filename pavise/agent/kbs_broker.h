#ifndef PAVISE_AGENT_KBS_BROKER_H_
#define PAVISE_AGENT_KBS_BROKER_H_

#include <optional>
#include <string>

#include "pavise/agent/run.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/client.h"

namespace pavise::agent {

// A broker over the key broker protocol and docs/formats/broker_api.md. Borrows client and session
// key, which must outlive it. One thread at a time.
class KbsBroker final : public RunBroker {
 public:
  // `options`: agreement, stage and mode are read here.
  KbsBroker(kbs::Client& client, const crypto::PrivateKey& session_key, const RunOptions& options);

  absl::StatusOr<Digest32> Challenge() override;
  absl::StatusOr<std::string> Attest(const evidence::CompositeEvidence& evidence) override;
  absl::StatusOr<Bytes> Agreement() override;
  absl::StatusOr<SecretBytes> Key(std::string_view asset) override;
  absl::StatusOr<std::string> RunId() override;
  absl::Status DepositOutput(std::string_view output, const Digest32& sealed,
                             const SecretBytes& key) override;
  absl::StatusOr<uint64_t> End(bool completed) override;

 private:
  // What outputs' keys are encrypted to. The server is the one that the client was told to expect.
  absl::StatusOr<crypto::PublicKey> EncryptionKey();

  kbs::Client& client_;
  kbs::Session session_;
  const kbs::Purpose purpose_;
  std::string run_;
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_KBS_BROKER_H_
