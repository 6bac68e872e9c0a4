#ifndef PAVISE_AGENT_KBS_BROKER_H_
#define PAVISE_AGENT_KBS_BROKER_H_

#include <optional>
#include <string>

#include "pavise/agent/provenance.h"
#include "pavise/agent/run.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/client.h"

namespace pavise::agent {

// A broker over the key broker protocol and docs/formats/broker_api.md. Borrows client and session
// key, which must outlive it. One thread at a time.
class KbsBroker final : public RunBroker {
 public:
  // `options`: agreement, stage, mode and clock are read here.
  KbsBroker(kbs::Client& client, const crypto::PrivateKey& session_key, const RunOptions& options);

  absl::StatusOr<Digest32> Challenge() override;
  // The token is the broker's word on this evidence and session key, and no older one: else whoever
  // stands between would keep a run going whose consent was withdrawn. kSignatureInvalid,
  // kBindingMismatch, and what kbs::VerifyToken refuses.
  absl::StatusOr<std::string> Attest(const evidence::CompositeEvidence& evidence) override;
  // After Attest. kBindingMismatch: another text than the token names.
  absl::StatusOr<Bytes> Agreement() override;
  // After Agreement. kBindingMismatch: the broker that released it has another text in force than
  // the one that was shown, or another encryption key.
  absl::StatusOr<SecretBytes> Key(std::string_view asset) override;
  absl::StatusOr<std::string> RunId() override;
  absl::Status DepositOutput(std::string_view output, const Digest32& sealed,
                             const SecretBytes& key) override;
  absl::StatusOr<uint64_t> End(bool completed) override;

 private:
  // Asked once. Every key that the broker releases is bound to these two, so that nobody in between
  // puts keys of his own here.
  struct BrokerKeys {
    crypto::PublicKey encryption;  // outputs' keys are encrypted to it
    crypto::PublicKey signing;     // of tokens
  };
  absl::Status AskForKeys();

  kbs::Client& client_;
  kbs::Session session_;
  const kbs::Purpose purpose_;
  const crypto::PublicKey session_key_;
  const Clock& clock_;
  std::optional<TokenAgreement> decided_;      // of the last token
  std::optional<Digest32> agreement_payload_;  // of the last Agreement()
  std::optional<BrokerKeys> keys_;
  std::string run_;
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_KBS_BROKER_H_
