#include <sys/stat.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "pavise/agent/provenance.h"
#include "pavise/agent/run_verifier.h"
#include "pavise/agent/vault_files.h"
#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/broker_connection.h"
#include "pavise/cli/log_trust.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/result_arguments.h"
#include "pavise/cli/sub_verbs.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/dsse.h"
#include "pavise/ledger/bundle.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kLogGroup = "Whom to believe";
constexpr const char* kOwnerGroup = "Owner";
constexpr const char* kResultGroup = "Result";
constexpr const char* kRunGroup = "A run's provenance";
constexpr uint64_t kMostEnvelopeBytes = uint64_t{6} << 20;  // 4 MiB in base64
constexpr size_t kMostListed = 50;

// A bundle, or a checkpoint alone.
absl::StatusOr<ledger::LedgerBundle> ReadBundle(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path, ledger::kMaxBundleBytes));
  // No log's name begins with a brace.
  if (!content.empty() && content[0] == '{') return ledger::ParseBundle(content, path);
  ledger::LedgerBundle bundle;
  PAVISE_ASSIGN_OR_RETURN(bundle.checkpoint, ledger::ParseCheckpointNote(content, path));
  return bundle;
}

absl::StatusOr<ledger::VerifiedBundle> Verified(const LogTrust& log, const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const ledger::CheckpointTrust trust, log.Resolve());
  PAVISE_ASSIGN_OR_RETURN(const ledger::LedgerBundle bundle, ReadBundle(path));
  return ledger::BundleVerifier::Verify(bundle, trust, path);
}

void DeclareBundle(CLI::App& app, std::string& path) {
  app.add_option("BUNDLE", path, "what the broker exported, or a checkpoint")
      ->required()
      ->type_name("FILE")
      ->group("Arguments");
}

OrderedJson CheckpointJson(const ledger::Checkpoint& checkpoint) {
  return {{"log", checkpoint.origin}, {"size", checkpoint.size}, {"root", ToHex(checkpoint.root)}};
}

absl::StatusOr<OrderedJson> EntryJson(const ledger::ProvenEntry& proven) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, ledger::FormatEntry(proven.entry));
  return OrderedJson{{"index", proven.index}, {"entry", OrderedJson::parse(text)}};
}

std::string Reasons(const ledger::LedgerEntry& entry) {
  std::string text;
  for (const ledger::EntryReason& reason : entry.reasons) {
    if (!text.empty()) text += "; ";
    StrAppend(&text, reason.reason);
    if (!reason.rule.empty()) StrAppend(&text, " (", reason.rule, ")");
    if (!reason.detail.empty()) StrAppend(&text, ": ", reason.detail);
  }
  return text;
}

std::string OptionalHex(const auto& digest) { return digest.has_value() ? ToHex(*digest) : ""; }

// ---- ledger verify ----

// Where a run's outputs come from, held against the broker's word, the agreement and the ledger.
struct ProvenanceArguments {
  std::string path;
  std::string broker_key;
  std::string agreement;
  std::vector<std::string> outputs;

  void Declare(CLI::App& app) {
    AddOption(app, "--provenance", path, "FILE",
              "what pavise run wrote: must be of a run that the entries show", kRunGroup);
    AddOption(app, "--broker-key", broker_key, "FILE",
              "the key that the broker signs tokens with, as it publishes it (pavise broker status "
              "--signing-key-out)",
              kRunGroup);
    AddOption(app, "--agreement", agreement, "FILE",
              "the agreement's version as it was proposed (pavise policy show --output)",
              kRunGroup);
    AddOption(app, "--output", outputs, "NAME=FILE",
              "a sealed output that must be the statement's; may be repeated", kRunGroup);
  }

  absl::Status Check() const {
    if (path.empty() && broker_key.empty() && agreement.empty() && outputs.empty()) {
      return absl::OkStatus();
    }
    if (!path.empty() && !broker_key.empty() && !agreement.empty()) return absl::OkStatus();
    return UsageError("--provenance, --broker-key and --agreement go together");
  }
  // Adds what the run was to `rows` and `json`.
  absl::Status Run(const ledger::VerifiedBundle& bundle,
                   std::vector<std::pair<std::string, std::string>>& rows, OrderedJson& json) const;
};

absl::Status ProvenanceArguments::Run(const ledger::VerifiedBundle& bundle,
                                      std::vector<std::pair<std::string, std::string>>& rows,
                                      OrderedJson& json) const {
  PAVISE_ASSIGN_OR_RETURN(const auto files, ParseNamedPaths("--output", outputs));
  PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(broker_key, kMaxKeyFileBytes));
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey broker,
                          crypto::PublicKey::FromPem(AsText(pem), broker_key));
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMostEnvelopeBytes));
  PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope, crypto::ParseEnvelope(text, path));
  PAVISE_ASSIGN_OR_RETURN(const agent::VerifiedProvenance statement,
                          agent::ProvenanceVerifier::Verify(envelope, broker, path));
  PAVISE_ASSIGN_OR_RETURN(const Bytes version, ReadFile(agreement, kMostEnvelopeBytes));
  PAVISE_ASSIGN_OR_RETURN(const agent::VerifiedRun run,
                          agent::RunVerifier::Verify(statement, version, bundle, path));
  std::vector<Refusal> findings;
  for (const auto& [name, file] : files) {
    const auto output = run->outputs.find(name);
    if (output == run->outputs.end()) {
      findings.push_back({Reason::kBindingMismatch, name, "is no output of the run", ""});
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, agent::DigestOfFile(file));
    if (digest != output->second.file_sha256) {
      findings.push_back({Reason::kContentMismatch, file,
                          StrCat("has the digest ", ToHex(digest), "; the run's output ",
                                 Printable(name), " has ", ToHex(output->second.file_sha256)),
                          "take the file that the run wrote"});
    }
  }
  if (!findings.empty()) return Refuse(std::move(findings));

  rows.emplace_back("run", run->run);
  rows.emplace_back("of agreement", StrCat(run->agreement, ", version ", run->version));
  rows.emplace_back("stage", StrCat(run->stage, ", mode ", run->mode));
  rows.emplace_back("evidence", ToHex(run->evidence));
  json = {{"run", run->run},
          {"agreement", run->agreement},
          {"version", run->version},
          {"stage", run->stage},
          {"mode", run->mode},
          {"evidence", ToHex(run->evidence)},
          {"inputs", OrderedJson::array()},
          {"outputs", OrderedJson::array()},
          {"not_enforced", run->not_enforced}};
  for (const agent::ProvenanceMaterial& material : run->materials) {
    rows.emplace_back("input", StrCat(material.name, ", asset ", ToHex(material.sealed)));
    json["inputs"].push_back({{"name", material.name}, {"asset_id", ToHex(material.sealed)}});
  }
  for (const auto& [name, output] : run->outputs) {
    const bool held = files.contains(name);
    rows.emplace_back("output", StrCat(name, ", asset ", ToHex(output.sealed),
                                       held ? "" : ", its file was not looked at"));
    json["outputs"].push_back(
        {{"name", name}, {"asset_id", ToHex(output.sealed)}, {"file_verified", held}});
  }
  AddResidentWeights(*run, rows, json);
  for (const std::string& name : run->not_enforced) rows.emplace_back("not enforced", name);
  return absl::OkStatus();
}

struct LedgerVerifyArguments {
  std::string path;
  ProvenanceArguments provenance;
  LogTrust trust;
  std::string remember;
  bool complete = false;

  void Declare(CLI::App& app) {
    DeclareBundle(app, path);
    DeclareTrust(app);
    provenance.Declare(app);
  }
  void DeclareTrust(CLI::App& app) {
    trust.Declare(app);
    AddOption(app, "--remember", remember, "FILE",
              "the last checkpoint that was seen: held against this one, then replaced by it "
              "[none]",
              kLogGroup);
    AddFlag(app, "--complete", complete,
            "refuse a bundle in which entries of an agreement are missing before its last one",
            kLogGroup);
  }

  absl::StatusOr<Outcome> Run() const;
  // The last checkpoint that was seen, verified; nullopt: none.
  absl::StatusOr<std::optional<ledger::VerifiedBundle>> Remembered() const;
  absl::Status HoldAgainstRemembered(const ledger::LedgerExtract& extract) const;
};

absl::StatusOr<std::optional<ledger::VerifiedBundle>> LedgerVerifyArguments::Remembered() const {
  if (remember.empty()) return std::nullopt;
  struct stat ignored {};
  if (lstat(remember.c_str(), &ignored) != 0 && errno == ENOENT) return std::nullopt;
  PAVISE_ASSIGN_OR_RETURN(ledger::CheckpointTrust log, trust.Resolve());
  log.cosigners.clear();
  log.cosigners_required = 0;
  PAVISE_ASSIGN_OR_RETURN(const ledger::LedgerBundle seen, ReadBundle(remember));
  return ledger::BundleVerifier::Verify(seen, log, remember);
}

// An owner who remembers checkpoints sees a log that was rolled back or written anew.
absl::Status LedgerVerifyArguments::HoldAgainstRemembered(
    const ledger::LedgerExtract& extract) const {
  PAVISE_ASSIGN_OR_RETURN(const std::optional<ledger::VerifiedBundle> seen, Remembered());
  if (!seen.has_value()) return absl::OkStatus();
  const ledger::VerifiedBundle& before = *seen;
  const uint64_t seen_size = before->checkpoint.checkpoint().size;
  if (seen_size > extract.checkpoint.checkpoint().size) {
    return Refuse(Reason::kVersionTooOld, path,
                  StrCat("is of ", extract.checkpoint.checkpoint().size, " entries; ", remember,
                         " shows that the log had ", seen_size),
                  "get a newer bundle; a log that lost entries was rolled back: keep both files");
  }
  return ledger::CompareViews(*before, remember, extract, path, nullptr);
}

absl::StatusOr<Outcome> LedgerVerifyArguments::Run() const {
  PAVISE_RETURN_IF_ERROR(provenance.Check());
  PAVISE_ASSIGN_OR_RETURN(const ledger::VerifiedBundle verified, Verified(trust, path));
  const ledger::Checkpoint& checkpoint = verified->checkpoint.checkpoint();
  if (complete) {
    for (const auto& [agreement, missing] : verified->missing) {
      if (missing == 0) continue;
      return Refuse(Reason::kTransparencyInvalid, path,
                    StrCat("lacks ", Counted(missing, "entry"), " of agreement ", ToHex(agreement)),
                    "ask the broker for all entries of the agreement");
    }
  }
  if (!remember.empty()) {
    PAVISE_RETURN_IF_ERROR(HoldAgainstRemembered(*verified));
    PAVISE_RETURN_IF_ERROR(
        WriteFileAtomically(remember, AsBytes(verified->checkpoint.note.Format())));
  }

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline =
      StrCat(Printable(path), ": entries, proofs and checkpoint are those of the log");
  outcome.json = CheckpointJson(checkpoint);
  std::vector<std::pair<std::string, std::string>> rows = {
      {"log", checkpoint.origin},
      {"entries in the log", std::to_string(checkpoint.size)},
      {"root", ToHex(checkpoint.root)},
      {"entries here", std::to_string(verified->entries.size())},
      {"earlier checkpoints", std::to_string(verified->earlier.size())}};
  outcome.json["cosignatures"] = OrderedJson::array();
  for (const ledger::Cosignature& cosignature : verified->checkpoint.cosignatures) {
    rows.emplace_back("cosigned by",
                      StrCat(cosignature.key.name(), ", ", FormatUtc(cosignature.time)));
    outcome.json["cosignatures"].push_back(
        {{"name", cosignature.key.name()}, {"time", FormatUtc(cosignature.time)}});
  }
  if (verified->checkpoint.cosignatures.empty()) {
    rows.emplace_back("cosigned by", "nobody: compare checkpoints with the other owners");
  }
  outcome.json["agreements"] = OrderedJson::array();
  for (const auto& [agreement, missing] : verified->missing) {
    rows.emplace_back("agreement", StrCat(ToHex(agreement), ", ",
                                          missing == 0 ? std::string("no entry missing")
                                                       : StrCat(missing, " earlier missing here")));
    outcome.json["agreements"].push_back({{"agreement", ToHex(agreement)}, {"missing", missing}});
  }
  if (!provenance.path.empty()) {
    PAVISE_RETURN_IF_ERROR(provenance.Run(verified, rows, outcome.json["provenance"]));
    StrAppend(&outcome.headline, "; they show the run of ", Printable(provenance.path));
  }
  outcome.text = AlignedRows(rows);
  outcome.json["earlier"] = OrderedJson::array();
  for (const ledger::SignedCheckpoint& earlier : verified->earlier) {
    outcome.json["earlier"].push_back(CheckpointJson(earlier.checkpoint()));
  }
  outcome.json["entries"] = OrderedJson::array();
  std::vector<std::vector<std::string>> table;
  for (const ledger::ProvenEntry& proven : verified->entries) {
    PAVISE_ASSIGN_OR_RETURN(OrderedJson json, EntryJson(proven));
    outcome.json["entries"].push_back(std::move(json));
    if (table.size() == kMostListed) continue;
    table.push_back({std::to_string(proven.index), FormatUtc(proven.entry.time),
                     std::string(ledger::EntryKindName(proven.entry.kind)), proven.entry.asset,
                     proven.entry.stage});
  }
  if (!table.empty()) StrAppend(&outcome.text, "\n", AlignedTable(table, {0}));
  if (verified->entries.size() > kMostListed) {
    StrAppend(&outcome.text, "and ", verified->entries.size() - kMostListed, " more\n");
  }
  return outcome;
}

// ---- ledger fetch ----

// The broker's bundle for an agreement, verified before it is kept.
struct LedgerFetchArguments {
  std::string agreement;
  BrokerOptions connection;
  SignerOptions signer;
  LedgerVerifyArguments verify;

  void Declare(CLI::App& app) {
    connection.Declare(app);
    AddOption(app, "--agreement", agreement, "ID", "whose entries", kOwnerGroup)->required();
    signer.Declare(app, kOwnerGroup);
    AddOption(app, "-o,--output", verify.path, "FILE", "where to write the bundle", kResultGroup)
        ->required();
    verify.DeclareTrust(app);
  }

  absl::StatusOr<Outcome> Run() const {
    std::string rest = "/ledger";
    PAVISE_ASSIGN_OR_RETURN(const std::optional<ledger::VerifiedBundle> seen, verify.Remembered());
    if (seen.has_value()) {
      StrAppend(&rest, "?earlier=", (*seen)->checkpoint.checkpoint().size);
    }
    PAVISE_ASSIGN_OR_RETURN(const std::string target, AgreementTarget(agreement, rest));
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
    absl::StatusOr<kbs::HttpResponse> answer =
        SignedRequest(client, broker, "GET", target, {}, *key);
    if (seen.has_value() && ReasonOf(answer.status()) == Reason::kMalformed) {
      // A log that is smaller than what was seen cannot prove that it grew from it: the bundle
      // alone shows how small it is.
      PAVISE_ASSIGN_OR_RETURN(const std::string all, AgreementTarget(agreement, "/ledger"));
      answer = SignedRequest(client, broker, "GET", all, {}, *key);
    }
    if (!answer.ok()) return answer.status();
    // Also what is refused below: it may be the proof of a fork.
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(verify.path, answer->body));
    return verify.Run();
  }
};

// ---- ledger cosign ----

struct CosignArguments {
  std::string name;
  std::string output;
  std::string key_output;
  SignerOptions signer;
  LedgerVerifyArguments verify;

  void Declare(CLI::App& app) {
    DeclareBundle(app, verify.path);
    verify.DeclareTrust(app);
    AddOption(app, "--name", name, "NAME", "the cosigner's name, best a host name of yours",
              kOwnerGroup)
        ->required();
    signer.Declare(app, kOwnerGroup);
    AddOption(app, "-o,--output", output, "FILE", "where to write the cosigned checkpoint",
              kResultGroup)
        ->required();
    AddOption(app, "--key-out", key_output, "FILE",
              "where to write the cosigner's key, for --cosigner of the others [nowhere]",
              kResultGroup);
  }

  absl::StatusOr<Outcome> Run() const {
    // A cosignature says that the log continued all that its signer saw before.
    if (verify.remember.empty()) return UsageError("--remember is needed");
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
    PAVISE_ASSIGN_OR_RETURN(
        const ledger::NoteKey public_key,
        ledger::NoteKey::Create(name, ledger::NoteKeyKind::kCosigner, key->public_key()));
    PAVISE_ASSIGN_OR_RETURN(Outcome outcome, verify.Run());
    PAVISE_ASSIGN_OR_RETURN(const ledger::CheckpointTrust keys, verify.trust.Resolve());
    PAVISE_ASSIGN_OR_RETURN(ledger::LedgerBundle bundle, ReadBundle(verify.path));
    PAVISE_ASSIGN_OR_RETURN(
        const ledger::VerifiedCheckpoint checkpoint,
        ledger::CheckpointVerifier::Verify(bundle.checkpoint, keys, verify.path));
    PAVISE_ASSIGN_OR_RETURN(ledger::NoteSignature cosignature,
                            ledger::Cosign(checkpoint, name, *key, SystemClock().Now()));
    bundle.checkpoint.signatures.push_back(std::move(cosignature));
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output, AsBytes(bundle.checkpoint.Format())));
    if (!key_output.empty()) {
      PAVISE_RETURN_IF_ERROR(
          WriteFileAtomically(key_output, AsBytes(StrCat(public_key.Format(), "\n"))));
    }
    outcome.headline =
        StrCat("the checkpoint in ", Printable(output), " is cosigned by ", Printable(name));
    outcome.text = AlignedRows({{"log", checkpoint->checkpoint().origin},
                                {"entries in the log", StrCat(checkpoint->checkpoint().size)},
                                {"root", ToHex(checkpoint->checkpoint().root)},
                                {"cosigner's key", public_key.Format()}});
    outcome.json = CheckpointJson(checkpoint->checkpoint());
    outcome.json["output"] = output;
    outcome.json["key"] = public_key.Format();
    return outcome;
  }
};

// ---- ledger prove ----

struct LedgerProveArguments {
  std::string path;
  LogTrust trust;
  std::vector<std::string> indices;
  std::string output;

  void Declare(CLI::App& app) {
    DeclareBundle(app, path);
    trust.Declare(app);
    AddOption(app, "--entry", indices, "INDEX", "an entry to prove; may be repeated", kResultGroup)
        ->required();
    AddOption(app, "-o,--output", output, "FILE", "where to write a bundle with these alone",
              kResultGroup)
        ->required();
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const ledger::CheckpointTrust keys, trust.Resolve());
    PAVISE_ASSIGN_OR_RETURN(ledger::LedgerBundle bundle, ReadBundle(path));
    PAVISE_RETURN_IF_ERROR(ledger::BundleVerifier::Verify(bundle, keys, path).status());
    std::vector<uint64_t> wanted;
    for (const std::string& text : indices) {
      PAVISE_ASSIGN_OR_RETURN(const uint64_t index, ParseCount("--entry", text));
      if (std::none_of(bundle.entries.begin(), bundle.entries.end(),
                       [&](const ledger::BundleEntry& each) { return each.index == index; })) {
        return UsageError(StrCat("--entry: ", path, " does not hold entry ", index));
      }
      wanted.push_back(index);
    }
    std::erase_if(bundle.entries, [&](const ledger::BundleEntry& each) {
      return std::find(wanted.begin(), wanted.end(), each.index) == wanted.end();
    });
    bundle.earlier.clear();
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output, AsBytes(ledger::FormatBundle(bundle))));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(Printable(output), " proves ",
                              bundle.entries.size() == 1 ? "one entry" : "the entries");
    outcome.text = "  whoever reads it sees these entries, and of the others their hashes only\n";
    outcome.json = {{"output", output}, {"entries", bundle.entries.size()}};
    return outcome;
  }
};

// ---- ledger who-had ----

struct WhoHadArguments {
  std::string subject;
  std::string path;
  LogTrust trust;

  void Declare(CLI::App& app) {
    app.add_option("KEY", subject,
                   "an asset's name or vault id, or the key id of an owner, a session or a "
                   "recipient, or a machine, or a run")
        ->required()
        ->type_name("TEXT")
        ->group("Arguments");
    DeclareBundle(app, path);
    trust.Declare(app);
  }

  absl::StatusOr<Outcome> Run() const;
};

absl::StatusOr<Outcome> WhoHadArguments::Run() const {
  PAVISE_ASSIGN_OR_RETURN(const ledger::VerifiedBundle verified, Verified(trust, path));
  Outcome outcome;
  outcome.json = CheckpointJson(verified->checkpoint.checkpoint());
  outcome.json["subject"] = subject;
  outcome.json["entries"] = OrderedJson::array();
  uint64_t released = 0;
  uint64_t refused = 0;
  uint64_t revoked = 0;
  for (const ledger::ProvenEntry* proven : ledger::WhoHad(*verified, subject)) {
    const ledger::LedgerEntry& entry = proven->entry;
    if (entry.kind == ledger::EntryKind::kRefusal) {
      ++refused;
    } else if (entry.kind == ledger::EntryKind::kRevocation) {
      ++revoked;
    } else {
      ++released;
    }
    std::string recipients;
    for (const std::string& each : entry.recipients) {
      StrAppend(&recipients, recipients.empty() ? "" : ", ", each);
    }
    StrAppend(&outcome.text, FormatUtc(entry.time), "  ", ledger::EntryKindName(entry.kind),
              "  (entry ", proven->index, ")\n",
              AlignedRows({{"asset", entry.asset},
                           {"session key", entry.session},
                           {"recipients", recipients},
                           {"machine", entry.machine},
                           {"evidence", OptionalHex(entry.evidence)},
                           {"agreement", OptionalHex(entry.agreement)},
                           {"version", entry.version == 0 ? "" : std::to_string(entry.version)},
                           {"stage", entry.stage},
                           {"mode", entry.mode},
                           {"run", OptionalHex(entry.run)},
                           {"decision", OptionalHex(entry.decision)},
                           {"why", Reasons(entry)}}));
    PAVISE_ASSIGN_OR_RETURN(OrderedJson json, EntryJson(*proven));
    outcome.json["entries"].push_back(std::move(json));
  }
  outcome.headline = StrCat(Printable(subject), ": ", Counted(released, "release"), ", ",
                            Counted(refused, "refusal"), ", ", Counted(revoked, "revocation"),
                            " in ", Printable(path));
  uint64_t missing = 0;
  for (const auto& [agreement, count] : verified->missing) missing += count;
  if (missing != 0) {
    StrAppend(&outcome.text, "entries of these agreements that are missing here: ", missing, "\n");
  }
  outcome.json["missing"] = missing;
  return outcome;
}

// ---- ledger compare ----

struct CompareArguments {
  std::string a;
  std::string b;
  std::string bridge;
  LogTrust trust;

  void Declare(CLI::App& app) {
    app.add_option("A", a, "a bundle or checkpoint")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    app.add_option("B", b, "what another owner was given by the same broker")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--proof", bridge, "FILE",
              "a bundle at the size of the larger with the smaller among its earlier checkpoints, "
              "where neither A nor B is [none]",
              kLogGroup);
    trust.Declare(app);
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const ledger::VerifiedBundle ours, Verified(trust, a));
    PAVISE_ASSIGN_OR_RETURN(const ledger::VerifiedBundle theirs, Verified(trust, b));
    std::optional<ledger::VerifiedBundle> proof;
    if (!bridge.empty()) {
      PAVISE_ASSIGN_OR_RETURN(proof, Verified(trust, bridge));
    }
    PAVISE_RETURN_IF_ERROR(
        ledger::CompareViews(*ours, a, *theirs, b, proof.has_value() ? &**proof : nullptr));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline =
        StrCat(Printable(a), " and ", Printable(b), " are of one history of the log");
    outcome.json = {{"a", CheckpointJson(ours->checkpoint.checkpoint())},
                    {"b", CheckpointJson(theirs->checkpoint.checkpoint())}};
    return outcome;
  }
};

class LedgerVerb final : public Verb {
 public:
  std::string_view name() const override { return "ledger"; }
  std::string_view group() const override { return "Agreements"; }
  std::string_view summary() const override {
    return "Get an agreement's entries of a broker's ledger (ledger fetch), and check without a "
           "network what they say: that they are in the log, that the log only grew and that a "
           "run's provenance is of one that it shows (ledger verify), "
           "one entry's proof (ledger prove), who held a key, when and on what evidence (ledger "
           "who-had), that two owners were shown one history (ledger compare); and cosign what was "
           "seen (ledger cosign).";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise ledger fetch --broker https://broker.example --agreement $ID \\\n"
           "    --private-key clinic.pem --log-key broker.vkey --remember seen.txt -o bundle.json\n"
           "  pavise ledger verify bundle.json --log-key broker.vkey --remember seen.txt\n"
           "  pavise ledger verify bundle.json --log-key broker.vkey --provenance weights.json \\\n"
           "    --broker-key broker.pub --agreement 001-agreement.json --output w=w.sealed\n"
           "  pavise ledger who-had scans bundle.json --log-key broker.vkey\n"
           "  pavise ledger prove bundle.json --log-key broker.vkey --entry 17 -o release.json\n"
           "  pavise ledger compare mine.json theirs.txt --log-key broker.vkey\n"
           "  pavise ledger cosign bundle.json --log-key broker.vkey --remember seen.txt \\\n"
           "    --name clinic.example --private-key witness.pem -o cosigned.txt\n"
           "\n"
           "Exit codes: 0 accepted, 1 refused, 2 wrong usage, 3 the machine failed.";
  }

  void Declare(CLI::App& app) override {
    const auto add = [&](const char* verb, const char* description, auto& arguments) {
      verbs_.Add(app, verb, description, arguments);
    };
    add("fetch", "get an agreement's entries with their proofs from a broker, and verify them",
        fetch_);
    add("verify", "verify a bundle of entries or a checkpoint", verify_);
    add("prove", "take single entries with their proofs out of a bundle", prove_);
    add("who-had", "list what became of a key", who_had_);
    add("compare", "look for a fork between two owners' views", compare_);
    add("cosign", "sign that this checkpoint continues all that you saw before", cosign_);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override { return verbs_.Run(session); }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    const std::string given = verbs_.given();
    if (given == "fetch") return "the broker's ledger is refused";
    if (given == "verify") {
      const std::string& statement = verify_.provenance.path;
      return StrCat(Printable(statement.empty() ? verify_.path : statement), " is refused");
    }
    if (given == "prove") return "nothing was proven";
    if (given == "who-had") return StrCat(Printable(who_had_.path), " is refused");
    if (given == "cosign") return "nothing was signed";
    return "one history is not shown";
  }

 private:
  SubVerbs verbs_;
  LedgerFetchArguments fetch_;
  LedgerVerifyArguments verify_;
  LedgerProveArguments prove_;
  WhoHadArguments who_had_;
  CompareArguments compare_;
  CosignArguments cosign_;
};

}  // namespace

std::unique_ptr<Verb> NewLedgerVerb() { return std::make_unique<LedgerVerb>(); }

}  // namespace pavise::cli
