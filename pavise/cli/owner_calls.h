#ifndef PAVISE_CLI_OWNER_CALLS_H_
#define PAVISE_CLI_OWNER_CALLS_H_

#include <string>

#include "pavise/cli/broker_connection.h"
#include "pavise/cli/options.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/keys.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

// What owners do with keys at a broker: `pavise broker deposit` and `pavise broker fetch-output`.
namespace pavise::cli {

// A key that opens what was encrypted to an owner.
struct DecryptionKeyOptions {
  std::string key;
  PasswordOptions password;

  void Declare(CLI::App& app, const std::string& names, const std::string& description);
  absl::StatusOr<crypto::PrivateKey> Read() const;
};

// Whether the broker is appraised before it is given a key. There is no way not to say.
struct BrokerAppraisalOptions {
  std::string policy;
  std::string trust;
  bool unattested = false;

  void Declare(CLI::App& app);
  // The encryption key that the broker's evidence of this moment vouches for; with
  // --accept-unattested-broker the one that the broker names. Refusals of the appraisal;
  // kNonceMismatch: the evidence answers another challenge.
  absl::StatusOr<crypto::PublicKey> EncryptionKey(kbs::Client& client,
                                                  const BrokerDescription& broker) const;
};

// The key of a sealed file, signed and encrypted to the broker.
struct DepositArguments {
  std::string sealed;
  std::string agreement;
  std::string asset;
  BrokerOptions connection;
  SignerOptions signer;
  DecryptionKeyOptions opener;
  BrokerAppraisalOptions appraisal;

  void Declare(CLI::App& app);
  absl::StatusOr<Outcome> Run() const;
};

// An output that its data owners approved, unsealed by a recipient.
struct FetchOutputArguments {
  std::string sealed;
  std::string directory;
  std::string agreement;
  std::string run;
  std::string name;
  BrokerOptions connection;
  SignerOptions signer;
  DecryptionKeyOptions opener;

  void Declare(CLI::App& app);
  absl::StatusOr<Outcome> Run(const Session& session) const;
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_OWNER_CALLS_H_
