#include "pavise/cli/broker_connection.h"

#include <utility>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/owner_request.h"
#include "pavise/broker/service.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/pkcs11.h"
#include "pavise/policy/owner_statement.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kBrokerGroup = "Broker";

}  // namespace

void BrokerOptions::Declare(CLI::App& app, bool required) {
  CLI::Option* const broker =
      AddOption(app, "--broker", url, "URL[,URL]",
                "https://HOST[:PORT], or unix:/PATH; several are brokers side by side, of which "
                "one is used while it answers",
                kBrokerGroup);
  if (required) broker->required();
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

void SignerOptions::Declare(CLI::App& app, const std::string& group) {
  AddOption(app, "--private-key", private_key, "KEY.pem", "the owner's signing key", group);
  AddOption(app, "--pkcs11-uri", pkcs11_uri, "URI",
            "the owner's signing key in a PKCS#11 token (RFC 7512)", group);
  password.Declare(app, group, /*with_password=*/false);
}

absl::StatusOr<std::unique_ptr<crypto::Signer>> SignerOptions::Read() const {
  if (private_key.empty() == pkcs11_uri.empty()) {
    return UsageError("an owner's key is needed: one of --private-key and --pkcs11-uri");
  }
  if (!pkcs11_uri.empty()) {
    if (password.AnyGiven()) {
      return UsageError("a token takes its PIN from the URI: pin-source or pin-value");
    }
    return crypto::OpenPkcs11Signer(pkcs11_uri);
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes secret, password.Resolve());
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(private_key, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                          crypto::PrivateKey::FromPemOfAnyType(pem, secret, private_key));
  return std::make_unique<crypto::PrivateKey>(std::move(key));
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
  PAVISE_ASSIGN_OR_RETURN(std::string ledger_key, object.GetString("ledger_key"));
  return BrokerDescription{json, std::move(signing_key), std::move(encryption_key),
                           std::move(ledger_key)};
}

absl::StatusOr<BrokerEvidence> AskForEvidence(kbs::Client& client, const BrokerDescription& broker,
                                              const Digest32& challenge) {
  PAVISE_ASSIGN_OR_RETURN(
      const Digest32 nonce,
      broker::BrokerEvidenceNonce(challenge, broker.signing_key.Fingerprint(), broker.ledger_key));
  const std::string body = StrCat("{\"nonce\":\"", ToHex(challenge), "\"}");
  PAVISE_ASSIGN_OR_RETURN(kbs::HttpResponse answer,
                          client.Request("POST", "/pavise/v1/broker/attestation", AsBytes(body)));
  PAVISE_ASSIGN_OR_RETURN(evidence::CompositeEvidence composite,
                          evidence::FromJson(answer.body, "broker's evidence"));
  if (composite.nonce != nonce) {
    return Refuse(Reason::kNonceMismatch, "broker's evidence",
                  "answers another challenge, or is of a broker with other signing and ledger keys",
                  "ask again; if that changes nothing, find out who answers in the broker's place");
  }
  PAVISE_ASSIGN_OR_RETURN(
      crypto::PublicKey key,
      crypto::PublicKey::FromDer(composite.session_key, "broker's encryption key"));
  return BrokerEvidence{std::move(answer.body), std::move(composite), std::move(key), nonce};
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

absl::StatusOr<std::string> AgreementTarget(const std::string& agreement, std::string_view rest) {
  PAVISE_RETURN_IF_ERROR(Digest32FromHex(agreement, "agreement").status());
  return StrCat("/pavise/v1/agreements/", agreement, rest);
}

absl::StatusOr<Json> SendStatement(kbs::Client& client, const crypto::Envelope& envelope) {
  const std::string text = crypto::FormatEnvelope(envelope);
  if (envelope.payload_type == policy::kAgreementType) {
    return client.RequestJson("POST", "/pavise/v1/agreements", AsBytes(text));
  }
  PAVISE_ASSIGN_OR_RETURN(const Json payload, ParseJson(envelope.payload, "statement"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(payload, "statement"));
  PAVISE_ASSIGN_OR_RETURN(const std::string id, object.GetString("agreement"));
  const std::pair<std::string_view, std::string_view> kPaths[] = {
      {policy::kApprovalType, "/approvals"},
      {policy::kWithdrawalType, "/withdrawals"},
      {policy::kDepositType, "/deposits"},
      {policy::kOutputApprovalType, "/output-approvals"}};
  for (const auto& [type, path] : kPaths) {
    if (envelope.payload_type != type) continue;
    PAVISE_ASSIGN_OR_RETURN(const std::string target, AgreementTarget(id, path));
    return client.RequestJson("POST", target, AsBytes(text));
  }
  return Refuse(Reason::kUnsupported, envelope.payload_type, "no statement that a broker takes");
}

std::vector<std::pair<std::string, std::string>> AnswerRows(const Json& answer) {
  std::vector<std::pair<std::string, std::string>> rows;
  const auto add = [&](const char* label, const Json& value) {
    if (value.is_string()) rows.emplace_back(label, value.get<std::string>());
  };
  // What is not of this form is not shown: a broker can write anything here.
  for (const auto& [member, label] :
       {std::pair("agreement", "agreement"), std::pair("missing", "missing"),
        std::pair("attachments_missing", "file missing")}) {
    if (!answer.is_object() || !answer.contains(member)) continue;
    const Json& value = answer.at(member);
    add(label, value);
    if (value.is_array()) {
      for (const Json& each : value) add(label, each);
    }
  }
  if (answer.is_object() && answer.contains("events") && answer.at("events").is_array()) {
    for (const Json& event : answer.at("events")) {
      if (event.is_object() && event.contains("kind") && event.at("kind") == "in-force") {
        add("now in force", event.contains("payload") ? event.at("payload") : Json());
      }
    }
  }
  return rows;
}

absl::Status SendAttachment(kbs::Client& client, const BrokerDescription& broker,
                            const std::string& agreement, ByteSpan content,
                            crypto::Signer& signer) {
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(content));
  PAVISE_ASSIGN_OR_RETURN(const std::string target,
                          AgreementTarget(agreement, StrCat("/attachments/", ToHex(digest))));
  return SignedRequest(client, broker, "PUT", target, content, signer).status();
}

}  // namespace pavise::cli
