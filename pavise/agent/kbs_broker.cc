#include "pavise/agent/kbs_broker.h"

#include <algorithm>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/jwe.h"

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
               .mode = std::string(policy::ModeName(options.mode))} {}

absl::StatusOr<Digest32> KbsBroker::Challenge() {
  kbs::AuthRequest request;
  request.purpose = purpose_;
  PAVISE_ASSIGN_OR_RETURN(const kbs::Challenge challenge, session_.Auth(request));
  return challenge.nonce;
}

absl::StatusOr<std::string> KbsBroker::Attest(const evidence::CompositeEvidence& evidence) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, evidence::ToJson(evidence));
  PAVISE_ASSIGN_OR_RETURN(Json json, ParseJson(AsBytes(text), "evidence"));
  return session_.Attest(std::move(json));
}

absl::StatusOr<Bytes> KbsBroker::Agreement() {
  PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse response,
                          client_.Request("GET", "/pavise/v1/session/agreement"));
  PAVISE_ASSIGN_OR_RETURN(crypto::Envelope envelope,
                          crypto::ParseEnvelope(response.body, "agreement"));
  if (envelope.payload_type != kAgreementType) {
    return Refuse(Reason::kUnsupported, "agreement",
                  StrCat("of type ", Printable(envelope.payload_type)));
  }
  PAVISE_ASSIGN_OR_RETURN(agreement_payload_, crypto::Sha256(envelope.payload));
  return std::move(envelope.payload);
}

absl::StatusOr<SecretBytes> KbsBroker::Key(std::string_view asset) {
  if (!agreement_payload_.has_value()) return UsageError("the agreement is read before its keys");
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey broker, EncryptionKey());
  const kbs::ResourcePath path{purpose_.agreement, purpose_.stage, std::string(asset)};
  return session_.Resource(
      path, kbs::ReleaseBinding(path, purpose_.mode, *agreement_payload_, broker.Fingerprint()));
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

absl::StatusOr<crypto::PublicKey> KbsBroker::EncryptionKey() {
  if (encryption_key_.has_value()) return *encryption_key_;
  PAVISE_ASSIGN_OR_RETURN(const Json json, client_.RequestJson("GET", "/pavise/v1/broker"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject broker, JsonObject::From(json, kItem));
  PAVISE_ASSIGN_OR_RETURN(const std::string pem, broker.GetString("encryption_key"));
  PAVISE_ASSIGN_OR_RETURN(encryption_key_,
                          crypto::PublicKey::FromPem(pem, broker.PathOf("encryption_key")));
  return *encryption_key_;
}

absl::Status KbsBroker::DepositOutput(std::string_view output, const Digest32& sealed,
                                      const SecretBytes& key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string run, RunId());
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey broker, EncryptionKey());
  const std::string additional = StrCat("pavise-output/1 ", run, " ", output, " ", ToHex(sealed));
  PAVISE_ASSIGN_OR_RETURN(const Json encrypted,
                          crypto::EncryptJwe(key, broker, output, AsBytes(additional)));
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
