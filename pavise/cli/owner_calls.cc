#include "pavise/cli/owner_calls.h"

#include <utility>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/broker/service.h"
#include "pavise/cli/machine_rules.h"
#include "pavise/cli/output.h"
#include "pavise/cli/unsealing.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/jwe.h"
#include "pavise/evidence/appraise/machine/machine_appraiser.h"
#include "pavise/policy/owner_statement.h"
#include "pavise/vault/sealed_asset.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kOwnerGroup = "Owner";
constexpr const char* kTrustGroup = "Trust in the broker";
constexpr const char* kResultGroup = "Result";

}  // namespace

void DecryptionKeyOptions::Declare(CLI::App& app, const std::string& names,
                                   const std::string& description) {
  AddOption(app, names, key, "KEY.pem", description, kOwnerGroup)->required();
  AddOption(app, names + "-password-file", password.password_file, "FILE",
            StrCat("that key's password, one line; or set $", kPasswordVariable), kOwnerGroup);
}

absl::StatusOr<crypto::PrivateKey> DecryptionKeyOptions::Read() const {
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes secret, password.Resolve());
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(key, kMaxKeyFileBytes));
  return crypto::PrivateKey::FromPemOfAnyType(pem, secret, key);
}

// ---- broker deposit ----

void BrokerAppraisalOptions::Declare(CLI::App& app) {
  AddOption(app, "--policy", policy, "FILE", "the appraisal policy for the broker's machine",
            kTrustGroup);
  AddOption(app, "--trust", trust, "DIR",
            "certificates, revocation lists and collateral of vendors [none]", kTrustGroup);
  AddFlag(app, "--accept-unattested-broker", unattested,
          "give the key to whatever answers: whoever runs that machine can then read the asset",
          kTrustGroup);
}

absl::StatusOr<crypto::PublicKey> BrokerAppraisalOptions::EncryptionKey(
    kbs::Client& client, const BrokerDescription& broker) const {
  if (policy.empty() == !unattested) {
    return UsageError("one of --policy and --accept-unattested-broker is needed");
  }
  if (unattested) return broker.encryption_key;
  PAVISE_ASSIGN_OR_RETURN(const MachineRules rules, ReadMachineRules(policy, trust));
  Digest32 challenge;
  PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(challenge));
  PAVISE_ASSIGN_OR_RETURN(const BrokerEvidence evidence, AskForEvidence(client, broker, challenge));
  const evidence::MachineAppraisal appraisal =
      evidence::AppraiseMachine(evidence.composite, rules.policy, rules.references, rules.trust,
                                evidence.nonce, SystemClock().Now());
  if (!appraisal.status.ok()) return appraisal.status;
  if (!appraisal.accepted.has_value()) {
    return MachineFailure("broker's evidence", "neither accepted nor refused");
  }
  return evidence.session_key;
}

void DepositArguments::Declare(CLI::App& app) {
  app.add_option("X.sealed", sealed, "the asset, sealed to a key of yours too")
      ->required()
      ->type_name("FILE")
      ->group("Arguments");
  connection.Declare(app);
  AddOption(app, "--agreement", agreement, "ID", "the agreement that names the asset", kOwnerGroup)
      ->required();
  AddOption(app, "--asset", asset, "NAME", "what the agreement calls it", kOwnerGroup)->required();
  signer.Declare(app, kOwnerGroup);
  opener.Declare(app, "--encryption-key", "the private key that opens the sealed file");
  appraisal.Declare(app);
}

absl::StatusOr<Outcome> DepositArguments::Run() const {
  policy::Deposit deposit;
  PAVISE_ASSIGN_OR_RETURN(deposit.agreement, Digest32FromHex(agreement, "--agreement"));
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> signing_key, signer.Read());
  PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey opening_key, opener.Read());
  PAVISE_ASSIGN_OR_RETURN(const vault::SealedAsset file, vault::SealedAsset::Open(sealed));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes content_key, file.ContentKey(opening_key));
  // Another key would be found out when a run wants it.
  PAVISE_RETURN_IF_ERROR(file.Unlock(content_key).status());
  PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
  PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, appraisal.EncryptionKey(client, broker));

  deposit.asset = asset;
  PAVISE_ASSIGN_OR_RETURN(deposit.sealed, Digest32FromHex(file.asset_id(), sealed));
  deposit.broker = key.Fingerprint();
  const std::string binding = broker::DepositBinding(agreement, asset, deposit.sealed,
                                                     signing_key->public_key().Fingerprint());
  PAVISE_ASSIGN_OR_RETURN(const Json message,
                          crypto::EncryptJwe(content_key, key, "deposit", AsBytes(binding)));
  deposit.encrypted_key = message.dump();
  deposit.time = SystemClock().Now();
  PAVISE_ASSIGN_OR_RETURN(const std::string statement, policy::Format(deposit));
  PAVISE_ASSIGN_OR_RETURN(
      const crypto::Envelope envelope,
      crypto::SignEnvelope(policy::kDepositType, AsBytes(statement), *signing_key));
  PAVISE_RETURN_IF_ERROR(SendStatement(client, envelope).status());

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("the broker has the key of ", Printable(asset));
  outcome.text = AlignedRows(
      {{"agreement", agreement},
       {"sealed file", file.asset_id()},
       {"encrypted to", key.Fingerprint()},
       {"ledger key", broker.ledger_key},
       {"broker", appraisal.unattested ? "NOT appraised: its operator can read the asset"
                                       : "appraised now, accepted by the policy"}});
  outcome.json = {{"agreement", agreement},
                  {"asset", asset},
                  {"sealed", file.asset_id()},
                  {"broker_encryption_key", key.Fingerprint()},
                  {"broker_ledger_key", broker.ledger_key},
                  {"broker_appraised", !appraisal.unattested}};
  return outcome;
}

// ---- broker fetch-output ----

void FetchOutputArguments::Declare(CLI::App& app) {
  app.add_option("X.sealed", sealed, "the sealed output, as pavise run wrote it")
      ->required()
      ->type_name("FILE")
      ->group("Arguments");
  connection.Declare(app);
  AddOption(app, "--agreement", agreement, "ID", "the agreement", kOwnerGroup)->required();
  AddOption(app, "--run", run, "ID", "the run", kOwnerGroup)->required();
  AddOption(app, "--name", name, "NAME", "what the agreement calls the output", kOwnerGroup)
      ->required();
  signer.Declare(app, kOwnerGroup);
  opener.Declare(app, "--encryption-key",
                 "the private key to the encryption key that the agreement has of you");
  AddOption(app, "-o,--output", directory, "DIR", "the new directory", kResultGroup)->required();
}

absl::StatusOr<Outcome> FetchOutputArguments::Run(const Session& session) const {
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> signing_key, signer.Read());
  PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey opening_key, opener.Read());
  PAVISE_ASSIGN_OR_RETURN(const vault::SealedAsset file, vault::SealedAsset::Open(sealed));
  PAVISE_ASSIGN_OR_RETURN(
      const std::string target,
      AgreementTarget(agreement, StrCat("/runs/", run, "/outputs/", name, "/key")));
  PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
  PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
  PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse answer,
                          SignedRequest(client, broker, "GET", target, {}, *signing_key));
  PAVISE_ASSIGN_OR_RETURN(const Json message, ParseJson(answer.body, "output's key"));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes content_key,
                          crypto::DecryptJwe(message, opening_key, "output's key"));
  return UnsealAsset(file, content_key, {.directory = directory, .signature = "", .threads = ""},
                     session.progress);
}

}  // namespace pavise::cli
