#ifndef PAVISE_AGENT_TESTING_EXAMPLE_RUN_H_
#define PAVISE_AGENT_TESTING_EXAMPLE_RUN_H_

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "pavise/agent/provenance.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwt.h"
#include "pavise/ledger/testing/example_log.h"
#include "pavise/policy/testing/test_agreement.h"

namespace pavise::agent::testing {

// A run as its agent states it and as its broker's ledger has it. Tests change either, before they
// ask for statement and bundle.
struct ExampleRun {
  ExampleRun() {
    policy::EvidenceRules rules;
    rules.policy.fill(1);
    agreement = policy::testing::ThreeOwners(rules);
    proposal = policy::testing::Proposed(agreement, "vendor");
    const std::string payload = policy::testing::Payload(agreement);
    const Digest32 id = policy::testing::DigestOf(payload);
    const policy::Stage& stage = agreement.stages.at("train");

    run.agreement = ToHex(id);
    run.version = 1;
    run.agreement_payload = id;
    run.stage = "train";
    run.mode = "measured";
    run.purpose = stage.purpose;
    run.run = std::string(32, '7');
    run.command = {"/code/train", "--epochs", "3"};
    for (const std::string& name : agreement.AssetsOf(stage)) {
      const policy::Asset& asset = agreement.assets.at(name);
      run.materials.push_back(
          {name, std::string(policy::AssetKindName(asset.kind)), asset.sealed, asset.statement});
    }
    run.outputs["tuned"] = {crypto::Sha256(AsBytes(output)).value(), Digest32{9}};
    run.evidence = Digest32{5};
    run.began = policy::testing::kTestTime;
    run.ended = run.began + absl::Minutes(1);
    run.token = Token(StrCat(run.agreement, "/1/train/measured"));

    using ledger::EntryKind;
    Add(EntryKind::kAgreementProposed).statement = crypto::Sha256(proposal).value();
    entries.back().actor = policy::testing::SigningKey("vendor").public_key().Fingerprint();
    Add(EntryKind::kAgreementInForce);
    AddOfRun(EntryKind::kRunBegun).evidence = run.evidence;
    for (const ProvenanceMaterial& material : run.materials) {
      ledger::LedgerEntry& entry = AddOfRun(EntryKind::kRelease);
      entry.evidence = run.evidence;
      entry.decision = Digest32{6};
      entry.asset = material.name;
      entry.sealed = material.sealed;
    }
    AddOfRun(EntryKind::kReattested).evidence = Digest32{8};
    AddOfRun(EntryKind::kOutputDeposited).asset = "tuned";
    entries.back().sealed = run.outputs.at("tuned").sealed;
    run.ledger_index = entries.size();
    AddOfRun(EntryKind::kRunEnded);
  }

  // The broker's word that a machine holds the session key, and which text of the agreement it is
  // about.
  std::string Token(const std::string& policy_id) {
    const int64_t begun = absl::ToUnixSeconds(run.began);
    const Json claims = {
        {"eat_profile", "tag:ietf.org,2026:rats/ear#04"},
        {"iat", begun},
        {"exp", begun + 600},
        {"ear_status", "affirming"},
        {"pavise_agreement",
         {{"id", run.agreement},
          {"version", run.version},
          {"versions", {{std::to_string(run.version), ToHex(run.agreement_payload)}}}}},
        {"cnf", {{"jwk", crypto::ToJwk(session.public_key(), "session").value()}}},
        {"submods",
         {{"tpm",
           {{"ear_status", "affirming"},
            {"ear_appraisal_policy_ids", Json::array({policy_id})}}}}}};
    return crypto::SignJwt(claims, broker).value();
  }

  ledger::LedgerEntry& Add(ledger::EntryKind kind) {
    ledger::LedgerEntry entry;
    entry.kind = kind;
    entry.agreement = Digest32FromHex(run.agreement, "agreement").value();
    entry.version = run.version;
    entries.push_back(std::move(entry));
    return entries.back();
  }
  ledger::LedgerEntry& AddOfRun(ledger::EntryKind kind) {
    ledger::LedgerEntry& entry = Add(kind);
    entry.stage = run.stage;
    entry.mode = run.mode;
    entry.run.emplace().fill(0x77);
    entry.session = session.public_key().Fingerprint();
    return entry;
  }
  // The first of its kind.
  ledger::LedgerEntry& Entry(ledger::EntryKind kind) {
    return *std::find_if(entries.begin(), entries.end(),
                         [&](const ledger::LedgerEntry& entry) { return entry.kind == kind; });
  }

  crypto::Envelope Statement() {
    return crypto::SignEnvelope(kProvenancePayloadType, AsBytes(FormatProvenance(run).value()),
                                session)
        .value();
  }
  // All entries, in the order and at the times of a log.
  ledger::LedgerBundle Bundle() const {
    std::vector<ledger::LedgerEntry> logged = entries;
    uint64_t sequence = 0;
    for (ledger::LedgerEntry& entry : logged) {
      entry.sequence = ++sequence;
      entry.time = run.began + absl::Seconds(sequence);
    }
    return ledger::testing::LogOf(logged).BundleAt(logged.size());
  }

  policy::Agreement agreement;
  Bytes proposal;  // its envelope
  crypto::PrivateKey broker = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
  crypto::PrivateKey session = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256).value();
  std::string output = "the sealed file";
  Provenance run;
  std::vector<ledger::LedgerEntry> entries;
};

}  // namespace pavise::agent::testing

#endif  // PAVISE_AGENT_TESTING_EXAMPLE_RUN_H_
