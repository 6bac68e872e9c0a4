#ifndef PAVISE_CLI_BROKER_CONNECTION_H_
#define PAVISE_CLI_BROKER_CONNECTION_H_

#include <memory>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/client.h"

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

  void Declare(CLI::App& app);
  absl::StatusOr<kbs::Client> Connect() const;
};

// What `GET /pavise/v1/broker` says; nothing vouches for it but TLS.
struct BrokerDescription {
  Json json;
  crypto::PublicKey signing_key;
  crypto::PublicKey encryption_key;
};
absl::StatusOr<BrokerDescription> DescribeBroker(kbs::Client& client);

// A call that `signer` signs for this broker (docs/formats/broker_api.md).
absl::StatusOr<kbs::HttpResponse> SignedRequest(kbs::Client& client,
                                                const BrokerDescription& broker,
                                                std::string_view method, std::string_view target,
                                                ByteSpan body, crypto::Signer& signer);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_BROKER_CONNECTION_H_
