#include "pavise/cli/broker_connection.h"

#include "pavise/base/clock.h"
#include "pavise/base/json.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/broker/owner_request.h"
#include "pavise/cli/options.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kBrokerGroup = "Broker";

}  // namespace

void BrokerOptions::Declare(CLI::App& app) {
  AddOption(app, "--broker", url, "URL", "https://HOST[:PORT], or unix:/PATH", kBrokerGroup)
      ->required();
  AddOption(app, "--broker-ca", authority, "FILE", "PEM certificates of its authorities",
            kBrokerGroup);
  AddOption(app, "--broker-certificate", certificate, "HEX",
            "SHA-256 of its TLS certificate: that one and no other", kBrokerGroup);
  AddFlag(app, "--plain-loopback", plain, "allow http:// to a loopback address", kBrokerGroup);
}

absl::StatusOr<kbs::Client> BrokerOptions::Connect() const {
  kbs::ClientOptions options;
  options.base_url = url;
  options.authority_file = authority;
  options.server_certificate = certificate;
  options.allow_plain_loopback = plain;
  options.max_response_bytes = uint64_t{256} << 20;
  return kbs::Client::Create(options);
}

absl::StatusOr<BrokerDescription> DescribeBroker(kbs::Client& client) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, client.RequestJson("GET", "/pavise/v1/broker"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, "broker"));
  PAVISE_ASSIGN_OR_RETURN(const std::string signing, object.GetString("signing_key"));
  PAVISE_ASSIGN_OR_RETURN(const std::string encryption, object.GetString("encryption_key"));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey signing_key,
                          crypto::PublicKey::FromPem(signing, "broker's signing key"));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey encryption_key,
                          crypto::PublicKey::FromPem(encryption, "broker's encryption key"));
  return BrokerDescription{json, std::move(signing_key), std::move(encryption_key)};
}

absl::StatusOr<kbs::HttpResponse> SignedRequest(kbs::Client& client,
                                                const BrokerDescription& broker,
                                                std::string_view method, std::string_view target,
                                                ByteSpan body, crypto::Signer& signer) {
  PAVISE_ASSIGN_OR_RETURN(
      const std::string header,
      broker::SignOwnerCall({broker.signing_key.Fingerprint(), method, target, body},
                            SystemClock().Now(), SystemRandom(), signer));
  return client.Request(method, target, body, {{"Pavise-Request", header}});
}

}  // namespace pavise::cli
