#ifndef PAVISE_CLI_BROKER_CONNECTION_H_
#define PAVISE_CLI_BROKER_CONNECTION_H_

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/cli/options.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/kbs/client.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// Which broker, and who it must be.
struct BrokerOptions {
  std::string url;
  std::string authority;
  std::string certificate;
  bool plain = false;

  // `required`: the verb does nothing without a broker.
  void Declare(CLI::App& app, bool required = true);
  bool AnyGiven() const { return !url.empty(); }
  absl::StatusOr<kbs::Client> Connect() const;
};

// An owner's signing key.
struct SignerOptions {
  std::string private_key;
  std::string pkcs11_uri;
  PasswordOptions password;

  void Declare(CLI::App& app, const std::string& group);
  bool AnyGiven() const { return !private_key.empty() || !pkcs11_uri.empty(); }
  // A usage error where not exactly one is given.
  absl::StatusOr<std::unique_ptr<crypto::Signer>> Read() const;
};

// What `GET /pavise/v1/broker` says; nothing vouches for it but TLS, and its evidence once that is
// appraised.
struct BrokerDescription {
  Json json;
  crypto::PublicKey signing_key;
  crypto::PublicKey encryption_key;
  std::string ledger_key;  // a note key's text
};
absl::StatusOr<BrokerDescription> DescribeBroker(kbs::Client& client);

// The broker's evidence, which nobody has appraised yet.
struct BrokerEvidence {
  Bytes text;
  evidence::CompositeEvidence composite;
  // Of the evidence, not of what the broker says beside it: to encrypt to once it is appraised.
  crypto::PublicKey session_key;
  // What the evidence is to answer: the challenge, and the signing and ledger keys of `broker`.
  Digest32 nonce{};
};
// kNonceMismatch: it answers another challenge, or is of a broker with other keys than it names.
absl::StatusOr<BrokerEvidence> AskForEvidence(kbs::Client& client, const BrokerDescription& broker,
                                              const Digest32& challenge);

// A call that `signer` signs for this broker (docs/formats/broker_api.md).
absl::StatusOr<kbs::HttpResponse> SignedRequest(kbs::Client& client,
                                                const BrokerDescription& broker,
                                                std::string_view method, std::string_view target,
                                                ByteSpan body, crypto::Signer& signer);
// "/pavise/v1/agreements/ID" and what follows. kMalformed: an id that is none.
absl::StatusOr<std::string> AgreementTarget(const std::string& agreement,
                                            std::string_view rest = "");

// The answer to a signed statement, which goes where its type says. kUnsupported: not one that a
// broker takes.
absl::StatusOr<Json> SendStatement(kbs::Client& client, const crypto::Envelope& envelope);
// What the answer says is missing or has come in force, for AlignedRows.
std::vector<std::pair<std::string, std::string>> AnswerRows(const Json& answer);
// A file that the agreement pins.
absl::Status SendAttachment(kbs::Client& client, const BrokerDescription& broker,
                            const std::string& agreement, ByteSpan content, crypto::Signer& signer);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_BROKER_CONNECTION_H_
