#include "pavise/agent/kbs_broker.h"

#include <algorithm>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/jwe.h"
#include "pavise/kbs/token.h"

namespace pavise::agent {
namespace {

constexpr std::string_view kAgreementType = "application/vnd.pavise.agreement+json";
constexpr std::string_view kItem = "broker's answer";
constexpr size_t kRunIdDigits = 32;

}  // namespace

KbsBroker::KbsBroker(kbs::Client& client, const crypto::PrivateKey& session_key,
                     const RunOptions& options)
    : client_(client),
      session_(client, session_key),
      purpose_{.agreement = options.agreement,
               .stage = options.stage,
               .mode = std::string(policy::ModeName(options.mode))},
      session_key_(session_key.public_key()),
      clock_(*options.clock) {}

absl::StatusOr<Digest32> KbsBroker::Challenge() {
  kbs::AuthRequest request;
  request.purpose = purpose_;
  PAVISE_ASSIGN_OR_RETURN(const kbs::Challenge challenge, session_.Auth(request));
  return challenge.nonce;
}

absl::StatusOr<std::string> KbsBroker::Attest(const evidence::CompositeEvidence& evidence) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, evidence::ToJson(evidence));
  PAVISE_ASSIGN_OR_RETURN(Json json, ParseJson(AsBytes(text), "evidence"));
  PAVISE_ASSIGN_OR_RETURN(std::string token, session_.Attest(std::move(json)));
  PAVISE_RETURN_IF_ERROR(AskForKeys());
  PAVISE_ASSIGN_OR_RETURN(const kbs::TokenClaims claims,
                          kbs::VerifyToken(token, keys_->signing, clock_.Now(), "token"));
  if (!(claims.confirmed_key == session_key_) ||
      !std::ranges::equal(claims.nonce, evidence.nonce)) {
    return Refuse(Reason::kBindingMismatch, "token", "is not about this evidence",
                  "find out who answers in the broker's place");
  }
  PAVISE_ASSIGN_OR_RETURN(decided_, AgreementOfToken(claims, purpose_.agreement, "token"));
  return token;
}

absl::StatusOr<Bytes> KbsBroker::Agreement() {
  if (!decided_.has_value()) return UsageError("the machine is appraised before it reads");
  PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse response,
                          client_.Request("GET", "/pavise/v1/session/agreement"));
  PAVISE_ASSIGN_OR_RETURN(crypto::Envelope envelope,
                          crypto::ParseEnvelope(response.body, "agreement"));
  if (envelope.payload_type != kAgreementType) {
    return Refuse(Reason::kUnsupported, "agreement",
                  StrCat("of type ", Printable(envelope.payload_type)));
  }
  PAVISE_ASSIGN_OR_RETURN(const Digest32 payload, crypto::Sha256(envelope.payload));
  if (payload != decided_->payloads.at(decided_->version)) {
    return Refuse(Reason::kBindingMismatch, "agreement",
                  StrCat("is not version ", decided_->version, ", under which the token was given"),
                  "run again, if a later version came into force just now; else find out who "
                  "answers in the broker's place");
  }
  agreement_payload_ = payload;
  return std::move(envelope.payload);
}

absl::StatusOr<SecretBytes> KbsBroker::Key(std::string_view asset) {
  if (!agreement_payload_.has_value()) return UsageError("the agreement is read before its keys");
  PAVISE_RETURN_IF_ERROR(AskForKeys());
  const kbs::ResourcePath path{purpose_.agreement, purpose_.stage, std::string(asset)};
  return session_.Resource(
      path, kbs::ReleaseBinding(path, purpose_.mode, *agreement_payload_,
                                keys_->encryption.Fingerprint(), keys_->signing.Fingerprint()));
}

absl::StatusOr<std::string> KbsBroker::RunId() {
  if (!run_.empty()) return run_;
  PAVISE_ASSIGN_OR_RETURN(const Json json, client_.RequestJson("GET", "/pavise/v1/session"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject session, JsonObject::From(json, kItem));
  PAVISE_ASSIGN_OR_RETURN(const std::string run, session.GetString("run"));
  // It becomes part of paths and of what is authenticated.
  if (run.size() != kRunIdDigits ||
      run.find_first_not_of("0123456789abcdef") != std::string::npos) {
    return Refuse(Reason::kMalformed, session.PathOf("run"), "no run's id");
  }
  run_ = run;
  return run;
}

absl::Status KbsBroker::AskForKeys() {
  if (keys_.has_value()) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json json, client_.RequestJson("GET", "/pavise/v1/broker"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject broker, JsonObject::From(json, kItem));
  PAVISE_ASSIGN_OR_RETURN(const std::string encryption, broker.GetString("encryption_key"));
  PAVISE_ASSIGN_OR_RETURN(const std::string signing, broker.GetString("signing_key"));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey encryption_key,
                          crypto::PublicKey::FromPem(encryption, broker.PathOf("encryption_key")));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey signing_key,
                          crypto::PublicKey::FromPem(signing, broker.PathOf("signing_key")));
  keys_.emplace(BrokerKeys{std::move(encryption_key), std::move(signing_key)});
  return absl::OkStatus();
}

absl::Status KbsBroker::DepositOutput(std::string_view output, const Digest32& sealed,
                                      const SecretBytes& key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string run, RunId());
  PAVISE_RETURN_IF_ERROR(AskForKeys());
  const std::string additional = StrCat("pavise-output/1 ", run, " ", output, " ", ToHex(sealed));
  PAVISE_ASSIGN_OR_RETURN(const Json encrypted,
                          crypto::EncryptJwe(key, keys_->encryption, output, AsBytes(additional)));
  const OrderedJson body = {
      {"output", std::string(output)}, {"sealed", ToHex(sealed)}, {"encrypted_key", encrypted}};
  return client_
      .Request("POST", StrCat("/pavise/v1/runs/", run, "/outputs"), AsBytes(DumpJson(body)))
      .status();
}

absl::StatusOr<uint64_t> KbsBroker::End(bool completed) {
  PAVISE_ASSIGN_OR_RETURN(const std::string run, RunId());
  const OrderedJson body = {{"outcome", completed ? "completed" : "failed"}};
  PAVISE_ASSIGN_OR_RETURN(const Json json,
                          client_.RequestJson("POST", StrCat("/pavise/v1/runs/", run, "/end"),
                                              AsBytes(DumpJson(body))));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject answer, JsonObject::From(json, kItem));
  return answer.GetUint("ledger_index");
}

}  // namespace pavise::agent
