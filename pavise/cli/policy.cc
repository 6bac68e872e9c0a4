#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/broker/agreement_reader.h"
#include "pavise/cli/broker_connection.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/sub_verbs.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/keys.h"
#include "pavise/policy/decision.h"
#include "pavise/policy/review.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"

namespace pavise::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAgreementGroup = "Agreement";
constexpr const char* kEvidenceGroup = "Evidence";
constexpr const char* kResultGroup = "Result";
constexpr const char* kSigningGroup = "Signing";
constexpr uint64_t kMaxEvidenceBytes = uint64_t{144} << 20;
constexpr uint64_t kMaxEnvelopeBytes = uint64_t{4} << 20;

// Names from the folder of the agreement's file.
class FilesBeside final : public policy::FileSource {
 public:
  explicit FilesBeside(const std::string& path) : folder_(fs::path(path).parent_path()) {}
  absl::StatusOr<Bytes> Read(const std::string& name, uint64_t max_bytes) const override {
    return ReadFile((folder_ / name).string(), max_bytes);
  }
  absl::StatusOr<std::vector<std::string>> List(const std::string& name) const override {
    const fs::path folder = folder_ / name;
    std::vector<std::string> files;
    std::error_code error;
    for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
         it.increment(error)) {
      if (it->is_regular_file(error)) {
        files.push_back(it->path().lexically_relative(folder).string());
      }
    }
    if (error) return FromErrno(error.value(), "reading", folder.string());
    std::sort(files.begin(), files.end());
    return files;
  }

 private:
  const fs::path folder_;
};

class Attachments final : public policy::AttachmentSource {
 public:
  explicit Attachments(const policy::WrittenAgreement& written) : written_(written) {}
  absl::StatusOr<Bytes> Read(const Digest32& digest) const override {
    const auto found = written_.attachments.find(digest);
    if (found != written_.attachments.end()) return found->second;
    return Refuse(Reason::kFileMissing, ToHex(digest), "is not among the attachments");
  }

 private:
  const policy::WrittenAgreement& written_;
};

absl::StatusOr<absl::Time> TimeOf(const std::string& text) {
  if (text.empty()) return SystemClock().Now();
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return UsageError(StrCat("--at: a time as 2026-11-21T12:00:00Z: ", error));
  }
  return time;
}

absl::StatusOr<crypto::Envelope> ReadEnvelope(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMaxEnvelopeBytes));
  return crypto::ParseEnvelope(text, path);
}

// The payload of a proposal. Whose signature it has is for policy show to say.
absl::StatusOr<Bytes> ReadProposal(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(crypto::Envelope envelope, ReadEnvelope(path));
  if (envelope.payload_type != policy::kAgreementType) {
    return Refuse(Reason::kUnsupported, path,
                  StrCat("holds ", Printable(envelope.payload_type), ", no agreement"),
                  "give what pavise policy propose wrote");
  }
  return std::move(envelope.payload);
}

absl::StatusOr<policy::WrittenAgreement> ReadYaml(const std::string& path,
                                                  const std::string& previous) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes yaml, ReadFile(path, policy::kMaxAgreementBytes));
  const FilesBeside files(path);
  if (previous.empty()) return policy::AgreementFromYaml(yaml, path, files, std::nullopt);
  PAVISE_ASSIGN_OR_RETURN(const Bytes before, ReadProposal(previous));
  return policy::AgreementFromYaml(yaml, path, files, AsText(before));
}

// The key that signs, and where the envelope goes: to a file, to a broker, or to both.
struct SigningOptions {
  SignerOptions signer;
  std::string output;
  BrokerOptions connection;

  void Declare(CLI::App& app) {
    signer.Declare(app, kSigningGroup);
    AddOption(app, "-o,--output", output, "FILE", "where to write the signed envelope",
              kSigningGroup);
    connection.Declare(app, /*required=*/false);
  }
  absl::Status Check() const {
    if (!output.empty() || connection.AnyGiven()) return absl::OkStatus();
    return UsageError("where to? --output, --broker, or both");
  }
  // " in FILE", " to BROKER": for headlines.
  std::string Where() const {
    return StrCat(output.empty() ? "" : StrCat(" in ", Printable(output)),
                  connection.AnyGiven() ? StrCat(", sent to ", Printable(connection.url)) : "");
  }
  // Adds the broker's answer to the outcome, where one was asked. Of what it says is missing among
  // its files, those in `attachments` are sent.
  absl::Status Deliver(std::string_view type, std::string_view payload, Outcome& outcome,
                       const std::map<Digest32, Bytes>& attachments = {}) const {
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
    PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                            crypto::SignEnvelope(type, AsBytes(payload), *key));
    if (!output.empty()) {
      PAVISE_RETURN_IF_ERROR(
          WriteFileAtomically(output, AsBytes(crypto::FormatEnvelope(envelope))));
    }
    if (!connection.AnyGiven()) return absl::OkStatus();
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    PAVISE_ASSIGN_OR_RETURN(Json answer, SendStatement(client, envelope));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(answer, "broker's answer"));
    if (!attachments.empty()) {
      PAVISE_ASSIGN_OR_RETURN(const std::string id, object.GetString("agreement"));
      PAVISE_ASSIGN_OR_RETURN(const Json* const missing, object.GetArray("attachments_missing"));
      PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
      Json still = Json::array();
      for (const Json& each : *missing) {
        const std::string name = each.is_string() ? each.get<std::string>() : "";
        PAVISE_ASSIGN_OR_RETURN(const Digest32 digest,
                                Digest32FromHex(name, "attachments_missing"));
        const auto found = attachments.find(digest);
        if (found == attachments.end()) {
          still.push_back(name);
          continue;
        }
        PAVISE_RETURN_IF_ERROR(SendAttachment(client, broker, id, found->second, *key));
      }
      answer["attachments_missing"] = std::move(still);
    }
    StrAppend(&outcome.text, AlignedRows(AnswerRows(answer)));
    outcome.json["broker"] = answer;
    return absl::OkStatus();
  }
};

// A signed GET of something of the agreement's.
absl::StatusOr<Json> AskBroker(const BrokerOptions& connection, crypto::Signer& key,
                               const std::string& agreement, std::string_view rest) {
  PAVISE_ASSIGN_OR_RETURN(const std::string target, AgreementTarget(agreement, rest));
  PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
  PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
  PAVISE_ASSIGN_OR_RETURN(const kbs::HttpResponse answer,
                          SignedRequest(client, broker, "GET", target, {}, key));
  return ParseJson(answer.body, "broker's answer");
}

// ---- policy lint, explain ----

struct LintArguments {
  std::string path;
  std::string previous;
  std::string at;

  void Declare(CLI::App& app) {
    app.add_option("AGREEMENT", path, "as people write it: YAML")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--previous", previous, "FILE", "the proposal that became the version before",
              kAgreementGroup);
    AddOption(app, "--at", at, "TIME", "what dates are held against, RFC 3339 [now]",
              kAgreementGroup);
  }
  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const absl::Time time, TimeOf(at));
    PAVISE_ASSIGN_OR_RETURN(const policy::WrittenAgreement written, ReadYaml(path, previous));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<policy::Warning> warnings,
                            policy::LintAgreement(written.agreement, Attachments(written), time));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(Printable(path), " is an agreement, with ", warnings.size(),
                              warnings.size() == 1 ? " warning" : " warnings");
    outcome.json["warnings"] = OrderedJson::array();
    for (const policy::Warning& warning : warnings) {
      StrAppend(&outcome.text, "  ", Printable(warning.item), ": ", warning.detail, "\n");
      outcome.json["warnings"].push_back({{"item", warning.item}, {"detail", warning.detail}});
    }
    return outcome;
  }
};

struct ExplainArguments {
  std::string path;

  void Declare(CLI::App& app) {
    app.add_option("AGREEMENT", path, "YAML, or what pavise policy propose wrote")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
  }
  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, kMaxEnvelopeBytes));
    Outcome outcome;
    if (!text.empty() && text[0] == '{') {
      PAVISE_ASSIGN_OR_RETURN(const Bytes payload, ReadProposal(path));
      PAVISE_ASSIGN_OR_RETURN(const policy::Agreement agreement,
                              policy::ParseAgreement(payload, path));
      outcome.text = policy::ExplainAgreement(agreement);
    } else {
      PAVISE_ASSIGN_OR_RETURN(const policy::WrittenAgreement written, ReadYaml(path, ""));
      outcome.text = policy::ExplainAgreement(written.agreement);
    }
    outcome.json["text"] = outcome.text;
    return outcome;
  }
};

// ---- policy test ----

// The agreement as if all had approved it: with throw-away signing keys in place of the owners',
// since nothing but approved agreements is decided about.
absl::StatusOr<policy::AgreementInForce> AsIfApproved(policy::Agreement agreement, absl::Time at) {
  std::map<std::string, crypto::PrivateKey> keys;
  agreement.version = 1;
  agreement.previous.reset();
  for (auto& [name, stakeholder] : agreement.stakeholders) {
    PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                            crypto::PrivateKey::Generate(crypto::KeyType::kEcP256));
    stakeholder.signing_key = key.public_key();
    keys.emplace(name, std::move(key));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string payload, policy::FormatAgreement(agreement));
  PAVISE_ASSIGN_OR_RETURN(
      const crypto::Envelope proposal,
      crypto::SignEnvelope(policy::kAgreementType, AsBytes(payload), keys.begin()->second));
  PAVISE_ASSIGN_OR_RETURN(
      policy::AgreementHistory history,
      policy::AgreementHistory::Begin(AsBytes(crypto::FormatEnvelope(proposal)), at));
  PAVISE_ASSIGN_OR_RETURN(
      const std::string approval,
      policy::Format(policy::Approval{
          .agreement = history.id(), .version = 1, .payload = history.id(), .time = at}));
  for (auto& [name, key] : keys) {
    if (history.InForce().has_value()) break;
    PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope vote,
                            crypto::SignEnvelope(policy::kApprovalType, AsBytes(approval), key));
    PAVISE_RETURN_IF_ERROR(history.Append(AsBytes(crypto::FormatEnvelope(vote)), at).status());
  }
  const std::optional<policy::AgreementInForce> in_force = history.InForce();
  if (!in_force.has_value()) return MachineFailure("agreement", "did not come in force");
  return *in_force;
}

std::string RulesText(const std::vector<policy::RuleResult>& rules) {
  std::string text;
  for (const policy::RuleResult& rule : rules) {
    StrAppend(&text, rule.refusal.has_value() ? "  no   " : "  yes  ", Printable(rule.rule),
              rule.owner.empty() ? "" : StrCat(" (", Printable(rule.owner), ")"), "\n");
    if (!rule.refusal.has_value()) continue;
    StrAppend(&text, "         ", Printable(rule.refusal->item), ": ",
              Printable(rule.refusal->detail), "\n");
    if (!rule.refusal->remedy.empty()) {
      StrAppend(&text, "         what would change it: ", Printable(rule.refusal->remedy), "\n");
    }
  }
  return text;
}

struct TestArguments {
  std::string path;
  std::string evidence;
  std::string nonce;
  std::string stage;
  std::string mode;
  std::string at;

  void Declare(CLI::App& app) {
    app.add_option("AGREEMENT", path, "as people write it: YAML")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--evidence", evidence, "FILE", "what pavise attest wrote", kEvidenceGroup)
        ->required();
    AddOption(app, "--nonce", nonce, "HEX", "the challenge that was given to the machine",
              kEvidenceGroup)
        ->required();
    AddOption(app, "--stage", stage, "NAME", "what the machine would run", kAgreementGroup)
        ->required();
    AddOption(app, "--mode", mode, "NAME", "measured, tee or confidential-gpu", kAgreementGroup)
        ->required();
    AddOption(app, "--at", at, "TIME", "decide as at this time, RFC 3339 [now]", kAgreementGroup);
  }
  absl::StatusOr<Outcome> Run() const {
    const std::optional<policy::Mode> wanted = policy::ModeNamed(mode);
    if (!wanted.has_value()) return UsageError("--mode: measured, tee or confidential-gpu");
    PAVISE_ASSIGN_OR_RETURN(const absl::Time time, TimeOf(at));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 challenge, Digest32FromHex(nonce, "--nonce"));
    PAVISE_ASSIGN_OR_RETURN(const policy::WrittenAgreement written, ReadYaml(path, ""));
    PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(evidence, kMaxEvidenceBytes));
    const bool is_json = !content.empty() && (content[0] == '{' || content[0] <= ' ');
    PAVISE_ASSIGN_OR_RETURN(
        const evidence::CompositeEvidence composite,
        is_json ? evidence::FromJson(content, evidence) : evidence::FromCbor(content, evidence));
    PAVISE_ASSIGN_OR_RETURN(const policy::AgreementInForce in_force,
                            AsIfApproved(written.agreement, time));
    PAVISE_ASSIGN_OR_RETURN(
        const policy::StageEvidence rules,
        policy::StageEvidence::Prepare(in_force, stage, *wanted, Attachments(written)));
    const policy::Decision decision =
        policy::DecideRun(in_force, rules.Appraise(composite, challenge, time), {}, time);
    Outcome outcome;
    outcome.verdict = decision.allowed() ? "ALLOWED" : "";
    outcome.headline = StrCat(decision.allowed() ? "" : "would be refused: ", "a ", decision.act);
    outcome.text = RulesText(decision.rules);
    outcome.json["decision"] = decision.ToJson();
    // A refusal's findings, each with its rule's owner, are the decision's; exit code 1.
    if (!decision.allowed()) return decision.Verdict();
    return outcome;
  }
};

// ---- policy propose, approve, withdraw ----

struct ProposeArguments {
  std::string path;
  std::string previous;
  std::string attachments;
  SigningOptions signing;

  void Declare(CLI::App& app) {
    app.add_option("AGREEMENT", path, "as people write it: YAML")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--previous", previous, "FILE", "the proposal that became the version before",
              kAgreementGroup);
    AddOption(app, "--attachments", attachments, "DIR",
              "where to write the files that it pins, named by their SHA-256", kResultGroup);
    signing.Declare(app);
  }
  absl::StatusOr<Outcome> Run() const {
    PAVISE_RETURN_IF_ERROR(signing.Check());
    PAVISE_ASSIGN_OR_RETURN(const policy::WrittenAgreement written, ReadYaml(path, previous));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(AsBytes(written.payload)));
    if (!attachments.empty()) {
      std::error_code error;
      fs::create_directories(attachments, error);
      if (error) return FromErrno(error.value(), "making", attachments);
      for (const auto& [name, content] : written.attachments) {
        PAVISE_RETURN_IF_ERROR(
            WriteFileAtomically((fs::path(attachments) / ToHex(name)).string(), content));
      }
    }
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("version ", written.agreement.version, " proposed", signing.Where());
    outcome.text = AlignedRows(
        {{"digest", ToHex(digest)}, {"attachments", std::to_string(written.attachments.size())}});
    outcome.json = {{"version", written.agreement.version}, {"digest", ToHex(digest)}};
    PAVISE_RETURN_IF_ERROR(
        signing.Deliver(policy::kAgreementType, written.payload, outcome, written.attachments));
    return outcome;
  }
};

struct ApproveArguments {
  std::string path;
  std::string agreement;
  std::string vote = "approve";
  SigningOptions signing;

  void Declare(CLI::App& app) {
    app.add_option("PROPOSAL", path, "what pavise policy propose wrote")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--agreement", agreement, "HEX",
              "the agreement's id: the digest of version 1 [this proposal's, for version 1]",
              kAgreementGroup);
    AddOption(app, "--vote", vote, "approve|abstain|veto", "what to sign [approve]",
              kAgreementGroup);
    signing.Declare(app);
  }
  absl::StatusOr<Outcome> Run() const {
    PAVISE_RETURN_IF_ERROR(signing.Check());
    PAVISE_ASSIGN_OR_RETURN(const Bytes payload, ReadProposal(path));
    PAVISE_ASSIGN_OR_RETURN(const policy::Agreement text, policy::ParseAgreement(payload, path));
    policy::Approval approval;
    approval.version = text.version;
    PAVISE_ASSIGN_OR_RETURN(approval.payload, crypto::Sha256(payload));
    approval.agreement = approval.payload;
    if (!agreement.empty()) {
      PAVISE_ASSIGN_OR_RETURN(approval.agreement, Digest32FromHex(agreement, "--agreement"));
    } else if (text.version != 1) {
      return UsageError("--agreement: which agreement's version is it?");
    }
    bool known = false;
    for (const policy::Vote each :
         {policy::Vote::kApprove, policy::Vote::kAbstain, policy::Vote::kVeto}) {
      if (policy::VoteName(each) != vote) continue;
      approval.vote = each;
      known = true;
    }
    if (!known) return UsageError("--vote: approve, abstain or veto");
    approval.time = SystemClock().Now();
    PAVISE_ASSIGN_OR_RETURN(const std::string statement, policy::Format(approval));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(vote, " of version ", text.version, signing.Where());
    outcome.text = AlignedRows(
        {{"agreement", ToHex(approval.agreement)}, {"digest", ToHex(approval.payload)}});
    outcome.json = {{"agreement", ToHex(approval.agreement)},
                    {"version", text.version},
                    {"digest", ToHex(approval.payload)},
                    {"vote", vote}};
    PAVISE_RETURN_IF_ERROR(signing.Deliver(policy::kApprovalType, statement, outcome));
    return outcome;
  }
};

struct WithdrawArguments {
  std::string agreement;
  std::vector<std::string> assets;
  std::string explanation;
  SigningOptions signing;

  void Declare(CLI::App& app) {
    AddOption(app, "--agreement", agreement, "HEX", "the agreement's id: the digest of version 1",
              kAgreementGroup)
        ->required();
    AddOption(app, "--asset", assets, "NAME", "an asset of yours; may stand several times",
              kAgreementGroup)
        ->required();
    AddOption(app, "--explanation", explanation, "TEXT", "for the other owners", kAgreementGroup);
    signing.Declare(app);
  }
  absl::StatusOr<Outcome> Run() const {
    PAVISE_RETURN_IF_ERROR(signing.Check());
    policy::Withdrawal withdrawal;
    PAVISE_ASSIGN_OR_RETURN(withdrawal.agreement, Digest32FromHex(agreement, "--agreement"));
    withdrawal.assets.insert(assets.begin(), assets.end());
    withdrawal.explanation = explanation;
    withdrawal.time = SystemClock().Now();
    PAVISE_ASSIGN_OR_RETURN(const std::string statement, policy::Format(withdrawal));
    PAVISE_RETURN_IF_ERROR(policy::ParseWithdrawal(AsBytes(statement), "withdrawal").status());
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline =
        StrCat("withdrawal of ", absl::StrJoin(withdrawal.assets, ", "), signing.Where());
    outcome.text =
        "Once it is received, no key is released for a stage that uses it. What was released "
        "before stays\nwhere it is: a model may have memorised what it was trained on.\n";
    outcome.json = {{"agreement", agreement}, {"assets", withdrawal.assets}};
    PAVISE_RETURN_IF_ERROR(signing.Deliver(policy::kWithdrawalType, statement, outcome));
    return outcome;
  }
};

// ---- policy approve-output ----

struct ApproveOutputArguments {
  std::string agreement;
  std::string run;
  std::string name;
  std::string sealed;
  std::vector<std::string> recipients;
  bool refuse = false;
  SigningOptions signing;

  void Declare(CLI::App& app) {
    AddOption(app, "--agreement", agreement, "HEX", "the agreement's id: the digest of version 1",
              kAgreementGroup)
        ->required();
    AddOption(app, "--run", run, "ID", "the run that the output is of", kAgreementGroup)
        ->required();
    AddOption(app, "--name", name, "NAME", "what the agreement calls the output", kAgreementGroup)
        ->required();
    AddOption(app, "--recipient", recipients, "NAME",
              "a stakeholder who may have it; may stand several times", kAgreementGroup)
        ->required();
    AddOption(app, "--sealed", sealed, "HEX",
              "the sealed output's id, as pavise run printed it [what the broker lists]",
              kAgreementGroup);
    AddFlag(app, "--refuse", refuse, "sign that they may not, also after an approval",
            kAgreementGroup);
    signing.Declare(app);
  }

  // What the broker lists for this output of this run.
  absl::StatusOr<std::string> SealedAtBroker() const {
    if (!signing.connection.AnyGiven()) return UsageError("--sealed or --broker is needed");
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signing.signer.Read());
    PAVISE_ASSIGN_OR_RETURN(const Json runs,
                            AskBroker(signing.connection, *key, agreement, "/runs"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(runs, "runs"));
    PAVISE_ASSIGN_OR_RETURN(const Json* const list, object.GetArray("runs"));
    for (const Json& each : *list) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject listed, JsonObject::From(each, "run"));
      PAVISE_ASSIGN_OR_RETURN(const std::string id, listed.GetString("run"));
      if (id != run) continue;
      PAVISE_ASSIGN_OR_RETURN(const Json* const outputs, listed.GetArray("outputs"));
      for (const Json& output : *outputs) {
        PAVISE_ASSIGN_OR_RETURN(const JsonObject deposited, JsonObject::From(output, "output"));
        PAVISE_ASSIGN_OR_RETURN(const std::string called, deposited.GetString("output"));
        if (called == name) return deposited.GetString("sealed");
      }
    }
    return Refuse(Reason::kFileMissing, name, StrCat("no such output of run ", Printable(run)),
                  "list them with pavise broker show --what runs");
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_RETURN_IF_ERROR(signing.Check());
    policy::OutputApproval approval;
    PAVISE_ASSIGN_OR_RETURN(approval.agreement, Digest32FromHex(agreement, "--agreement"));
    std::string digest = sealed;
    if (digest.empty()) {
      PAVISE_ASSIGN_OR_RETURN(digest, SealedAtBroker());
    }
    PAVISE_ASSIGN_OR_RETURN(approval.sealed, Digest32FromHex(digest, "--sealed"));
    approval.run = run;
    approval.output = name;
    approval.recipients.insert(recipients.begin(), recipients.end());
    approval.approved = !refuse;
    approval.time = SystemClock().Now();
    PAVISE_ASSIGN_OR_RETURN(const std::string statement, policy::Format(approval));
    PAVISE_RETURN_IF_ERROR(policy::ParseOutputApproval(AsBytes(statement), "approval").status());
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat(refuse ? "refusal" : "approval", " of ", Printable(name), " for ",
                              absl::StrJoin(approval.recipients, ", "), signing.Where());
    outcome.text = AlignedRows({{"run", run}, {"sealed output", digest}});
    if (!refuse) {
      StrAppend(&outcome.text,
                "Whoever receives it keeps it: a model may have memorised what it was trained "
                "on.\n");
    }
    outcome.json = {{"agreement", agreement},
                    {"run", run},
                    {"output", name},
                    {"sealed", digest},
                    {"recipients", approval.recipients},
                    {"approved", !refuse}};
    PAVISE_RETURN_IF_ERROR(signing.Deliver(policy::kOutputApprovalType, statement, outcome));
    return outcome;
  }
};

// ---- policy show ----

struct ReceivedEnvelope {
  std::string item;
  Bytes text;
  absl::Time received;
};

absl::StatusOr<policy::AgreementHistory> ReplayEnvelopes(
    const std::vector<ReceivedEnvelope>& envelopes, absl::Time now) {
  if (envelopes.empty()) return Refuse(Reason::kFileMissing, "statements", "there are none");
  PAVISE_ASSIGN_OR_RETURN(
      policy::AgreementHistory history,
      policy::AgreementHistory::Begin(envelopes.front().text, envelopes.front().received));
  for (size_t i = 1; i < envelopes.size(); ++i) {
    const absl::Status status = history.Append(envelopes[i].text, envelopes[i].received).status();
    if (status.ok()) continue;
    std::vector<Refusal> findings = RefusalsOf(status);
    if (findings.empty()) return status;
    for (Refusal& finding : findings) {
      finding.item = StrCat(envelopes[i].item, ": ", finding.item);
    }
    return Refuse(std::move(findings));
  }
  history.Settle(now);
  return history;
}

struct ShowArguments {
  std::vector<std::string> paths;
  std::string agreement;
  std::string folder;
  BrokerOptions connection;
  SignerOptions signer;

  void Declare(CLI::App& app) {
    app.add_option("ENVELOPE", paths,
                   "version 1's proposal, then votes, withdrawals and later versions, in the order "
                   "in which they were received; or --broker")
        ->type_name("FILE")
        ->group("Arguments");
    connection.Declare(app, /*required=*/false);
    AddOption(app, "--agreement", agreement, "HEX",
              "with --broker: the agreement's id, the digest of version 1", kAgreementGroup);
    signer.Declare(app, kSigningGroup);
    AddOption(app, "-o,--output", folder, "DIR",
              "with --broker: where to write the envelopes, and the files that they pin",
              kResultGroup);
  }

  absl::StatusOr<std::vector<ReceivedEnvelope>> FromFiles(absl::Time now) const {
    std::vector<ReceivedEnvelope> envelopes;
    for (const std::string& path : paths) {
      PAVISE_ASSIGN_OR_RETURN(Bytes text, ReadFile(path, kMaxEnvelopeBytes));
      envelopes.push_back({path, std::move(text), now});
    }
    return envelopes;
  }

  absl::StatusOr<std::vector<ReceivedEnvelope>> FromBroker(crypto::Signer& key) const {
    PAVISE_ASSIGN_OR_RETURN(const Json answer,
                            AskBroker(connection, key, agreement, "/statements"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(answer, "statements"));
    PAVISE_ASSIGN_OR_RETURN(const Json* const list, object.GetArray("statements"));
    std::vector<ReceivedEnvelope> envelopes;
    for (const Json& each : *list) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject statement, JsonObject::From(each, "statement"));
      PAVISE_ASSIGN_OR_RETURN(const std::string text, statement.GetString("envelope"));
      PAVISE_ASSIGN_OR_RETURN(const std::string received, statement.GetString("received"));
      ReceivedEnvelope envelope;
      envelope.item = StrCat("statement ", envelopes.size() + 1);
      envelope.text.assign(text.begin(), text.end());
      std::string error;
      if (!absl::ParseTime(absl::RFC3339_full, received, &envelope.received, &error)) {
        return Refuse(Reason::kMalformed, envelope.item, StrCat("received: ", error));
      }
      envelopes.push_back(std::move(envelope));
    }
    return envelopes;
  }

  // "001-agreement.json", "002-approval.json", ...
  absl::Status WriteEnvelopes(const std::vector<ReceivedEnvelope>& envelopes) const {
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) return FromErrno(error.value(), "making", folder);
    for (size_t i = 0; i < envelopes.size(); ++i) {
      PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                              crypto::ParseEnvelope(envelopes[i].text, envelopes[i].item));
      const std::string kind = envelope.payload_type == policy::kAgreementType  ? "agreement"
                               : envelope.payload_type == policy::kApprovalType ? "approval"
                                                                                : "withdrawal";
      const std::string name = absl::StrFormat("%03d-%s.json", i + 1, kind);
      PAVISE_RETURN_IF_ERROR(
          WriteFileAtomically((fs::path(folder) / name).string(), envelopes[i].text));
    }
    return absl::OkStatus();
  }

  // "attachments/DIGEST": what the versions in force and open pin and the broker has. The
  // signatures are over the digests, so that the broker cannot show another file.
  absl::StatusOr<uint64_t> WriteAttachments(const policy::AgreementHistory& history,
                                            crypto::Signer& key) const {
    const fs::path below = fs::path(folder) / "attachments";
    std::error_code error;
    fs::create_directories(below, error);
    if (error) return FromErrno(error.value(), "making", below.string());
    PAVISE_ASSIGN_OR_RETURN(kbs::Client client, connection.Connect());
    PAVISE_ASSIGN_OR_RETURN(const BrokerDescription broker, DescribeBroker(client));
    uint64_t written = 0;
    for (const Digest32& digest : broker::ViewOf(history).PinnedFiles()) {
      const std::string name = ToHex(digest);
      PAVISE_ASSIGN_OR_RETURN(const std::string target,
                              AgreementTarget(agreement, StrCat("/attachments/", name)));
      const absl::StatusOr<kbs::HttpResponse> answer =
          SignedRequest(client, broker, "GET", target, {}, key);
      // Not sent yet: the outcome names it.
      if (ReasonOf(answer.status()) == Reason::kFileMissing) continue;
      if (!answer.ok()) return answer.status();
      PAVISE_ASSIGN_OR_RETURN(const Digest32 actual, crypto::Sha256(answer->body));
      if (actual != digest) {
        return Refuse(Reason::kContentMismatch, name, StrCat("the broker sent ", ToHex(actual)),
                      "ask the proposer for the file, and tell the other owners");
      }
      PAVISE_RETURN_IF_ERROR(WriteFileAtomically((below / name).string(), answer->body));
      ++written;
    }
    return written;
  }

  absl::StatusOr<Outcome> Run() const {
    if (paths.empty() == !connection.AnyGiven()) {
      return UsageError("one of ENVELOPE ... and --broker is needed");
    }
    const absl::Time now = SystemClock().Now();
    std::vector<ReceivedEnvelope> envelopes;
    Json at_broker;
    if (connection.AnyGiven()) {
      if (agreement.empty() || !signer.AnyGiven()) {
        return UsageError("--broker needs --agreement and --private-key or --pkcs11-uri");
      }
      PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
      PAVISE_ASSIGN_OR_RETURN(envelopes, FromBroker(*key));
      PAVISE_ASSIGN_OR_RETURN(at_broker, AskBroker(connection, *key, agreement, ""));
    } else {
      PAVISE_ASSIGN_OR_RETURN(envelopes, FromFiles(now));
    }
    // What the broker says of it is not asked: the owners' signatures are.
    PAVISE_ASSIGN_OR_RETURN(const policy::AgreementHistory history,
                            ReplayEnvelopes(envelopes, now));
    if (!agreement.empty() && history.IdHex() != agreement) {
      return Refuse(Reason::kBindingMismatch, agreement,
                    StrCat("these envelopes are of agreement ", history.IdHex()));
    }
    uint64_t attached = 0;
    if (!folder.empty()) {
      if (!connection.AnyGiven()) return UsageError("--output goes with --broker");
      PAVISE_RETURN_IF_ERROR(WriteEnvelopes(envelopes));
      PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
      PAVISE_ASSIGN_OR_RETURN(attached, WriteAttachments(history, *key));
    }
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.json["agreement"] = history.IdHex();
    const std::optional<policy::AgreementInForce> in_force = history.InForce();
    outcome.headline = in_force.has_value()
                           ? StrCat("version ", (*in_force)->agreement->version, " is in force")
                           : std::string("no version is in force yet");
    std::vector<std::pair<std::string, std::string>> rows = {{"agreement", history.IdHex()}};
    if (in_force.has_value()) {
      outcome.json["version"] = (*in_force)->agreement->version;
      rows.emplace_back("digest", ToHex((*in_force)->payload));
      outcome.json["withdrawn"] = OrderedJson::array();
      for (const auto& [name, when] : (*in_force)->withdrawn) {
        rows.emplace_back("withdrawn", name);
        outcome.json["withdrawn"].push_back(name);
      }
    }
    outcome.json["open"] = OrderedJson::array();
    for (const policy::OpenProposal& open : history.Open()) {
      rows.emplace_back(StrCat("version ", open.version, " waits"), ToHex(open.payload));
      for (const std::string& missing : open.missing) rows.emplace_back("", missing);
      outcome.json["open"].push_back(
          {{"version", open.version}, {"digest", ToHex(open.payload)}, {"missing", open.missing}});
    }
    // Keys and files are the broker's to know.
    for (const auto& [member, label] : {std::pair("deposits", "key deposited"),
                                        std::pair("attachments_missing", "file missing")}) {
      if (!at_broker.is_object() || !at_broker.contains(member)) continue;
      outcome.json[member] = at_broker.at(member);
      for (const Json& each : at_broker.at(member)) {
        if (each.is_string()) rows.emplace_back(label, each.get<std::string>());
      }
    }
    if (!folder.empty()) {
      rows.emplace_back("written", StrCat(folder, ": ", Counted(envelopes.size(), "envelope"), ", ",
                                          Counted(attached, "attachment")));
      outcome.json["output"] = folder;
      outcome.json["attachments"] = attached;
    }
    outcome.text = AlignedRows(rows);
    return outcome;
  }
};

// ---- policy decisions ----

struct DecisionsArguments {
  std::string agreement;
  bool refused = false;
  BrokerOptions connection;
  SignerOptions signer;

  void Declare(CLI::App& app) {
    connection.Declare(app);
    AddOption(app, "--agreement", agreement, "HEX", "the agreement's id: the digest of version 1",
              kAgreementGroup)
        ->required();
    AddFlag(app, "--refused", refused, "refusals only", kAgreementGroup);
    signer.Declare(app, kSigningGroup);
  }

  static absl::StatusOr<std::vector<policy::RuleResult>> ParseRules(const Json& list) {
    std::vector<policy::RuleResult> rules;
    for (const Json& each : list) {
      PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(each, "rule"));
      policy::RuleResult rule;
      PAVISE_ASSIGN_OR_RETURN(rule.owner, object.GetString("owner"));
      PAVISE_ASSIGN_OR_RETURN(rule.rule, object.GetString("rule"));
      PAVISE_ASSIGN_OR_RETURN(const bool passed, object.GetBool("passed"));
      if (!passed) {
        PAVISE_ASSIGN_OR_RETURN(const std::string reason, object.GetString("reason"));
        const std::optional<Reason> known = ReasonFromName(reason);
        if (!known.has_value()) return Refuse(Reason::kUnsupported, reason, "no known reason");
        rule.refusal.emplace();
        rule.refusal->reason = *known;
        PAVISE_ASSIGN_OR_RETURN(rule.refusal->item, object.GetString("item"));
        PAVISE_ASSIGN_OR_RETURN(rule.refusal->detail, object.GetString("detail"));
        PAVISE_ASSIGN_OR_RETURN(rule.refusal->remedy, object.GetString("remedy"));
      }
      rules.push_back(std::move(rule));
    }
    return rules;
  }

  absl::Status Show(const Json& entry, Outcome& outcome, uint64_t& allowed,
                    uint64_t& denied) const {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject listed, JsonObject::From(entry, "decisions[]"));
    PAVISE_ASSIGN_OR_RETURN(const std::string digest, listed.GetString("digest"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject kept, listed.GetObject("decision"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject decision, kept.GetObject("decision"));
    PAVISE_ASSIGN_OR_RETURN(const bool is_allowed, decision.GetBool("allowed"));
    is_allowed ? ++allowed : ++denied;
    if (refused && is_allowed) return absl::OkStatus();
    PAVISE_ASSIGN_OR_RETURN(const std::string act, decision.GetString("act"));
    PAVISE_ASSIGN_OR_RETURN(const std::string time, decision.GetString("time"));
    PAVISE_ASSIGN_OR_RETURN(const Json* const list, decision.GetArray("rules"));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<policy::RuleResult> rules, ParseRules(*list));
    StrAppend(&outcome.text, Printable(time), "  ", is_allowed ? "allowed  " : "refused  ",
              Printable(act), "  (", Printable(digest), ")\n");
    if (!is_allowed) StrAppend(&outcome.text, RulesText(rules));
    outcome.json["decisions"].push_back(OrderedJson(entry));
    return absl::OkStatus();
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<crypto::Signer> key, signer.Read());
    Outcome outcome;
    outcome.json["decisions"] = OrderedJson::array();
    uint64_t allowed = 0;
    uint64_t denied = 0;
    uint64_t after = 0;
    while (true) {
      PAVISE_ASSIGN_OR_RETURN(const Json answer, AskBroker(connection, *key, agreement,
                                                           StrCat("/decisions?after=", after)));
      PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(answer, "decisions"));
      PAVISE_ASSIGN_OR_RETURN(const Json* const list, object.GetArray("decisions"));
      if (list->empty()) break;
      for (const Json& entry : *list) {
        PAVISE_RETURN_IF_ERROR(Show(entry, outcome, allowed, denied));
        PAVISE_ASSIGN_OR_RETURN(const JsonObject listed, JsonObject::From(entry, "decisions[]"));
        PAVISE_ASSIGN_OR_RETURN(const uint64_t sequence, listed.GetUint("sequence"));
        if (sequence <= after) {
          return Refuse(Reason::kMalformed, "decisions", "the broker repeats itself");
        }
        after = sequence;
      }
    }
    outcome.verdict = "OK";
    outcome.headline = StrCat(allowed, " allowed, ", denied, " refused");
    outcome.json["allowed"] = allowed;
    outcome.json["refused"] = denied;
    return outcome;
  }
};

class PolicyVerb final : public Verb {
 public:
  std::string_view name() const override { return "policy"; }
  std::string_view group() const override { return "Agreements"; }
  std::string_view summary() const override {
    return "Agreements between the owners of code, models and data: look for mistakes (policy "
           "lint), read one in plain words (policy explain), try it on a machine's evidence "
           "(policy test), propose a version, vote on it, withdraw consent (policy propose, "
           "approve, "
           "withdraw), let an output go to its recipients (policy approve-output), see what is in "
           "force (policy show), and why a broker gave or refused a key (policy decisions).";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise policy lint lungs.yaml\n"
           "  pavise policy explain lungs.yaml\n"
           "  pavise policy test lungs.yaml --evidence evidence.cbor --nonce $CHALLENGE \\\n"
           "    --stage train --mode measured\n"
           "  pavise policy propose lungs.yaml --private-key vendor.pem -o proposal.json\n"
           "  pavise policy approve proposal.json --private-key clinic.pem -o approval.json\n"
           "  pavise policy show proposal.json approval.json\n"
           "  pavise policy withdraw --agreement $ID --asset scans --private-key clinic.pem \\\n"
           "    -o withdrawal.json\n"
           "  pavise policy propose lungs.yaml --private-key vendor.pem --broker "
           "https://b.example\n"
           "  pavise policy show --broker https://b.example --agreement $ID \\\n"
           "    --private-key clinic.pem -o received\n"
           "  pavise policy approve received/001-agreement.json --private-key clinic.pem \\\n"
           "    --broker https://b.example\n"
           "  pavise policy decisions --broker https://b.example --agreement $ID --refused \\\n"
           "    --private-key clinic.pem\n"
           "  pavise policy approve-output --broker https://b.example --agreement $ID \\\n"
           "    --run $RUN --name tuned --recipient vendor --private-key clinic.pem\n"
           "\n"
           "Exit codes: 0 done or allowed, 1 refused, 2 wrong usage, 3 the machine failed.";
  }

  void Declare(CLI::App& app) override {
    const auto add = [&](const char* verb, const char* description, auto& arguments) {
      verbs_.Add(app, verb, description, arguments);
    };
    add("lint", "check an agreement, and warn of what surprises", lint_);
    add("explain", "say in plain words what an agreement allows, and what it does not protect from",
        explain_);
    add("test", "decide about recorded evidence as if all owners had approved", test_);
    add("propose", "sign a version for the others to vote on", propose_);
    add("approve", "sign a vote on a proposal", approve_);
    add("withdraw", "sign that your consent to the use of your assets ends", withdraw_);
    add("approve-output", "sign that an output of a run may go to its recipients", approve_output_);
    add("show", "replay signed envelopes, and say what is in force and what is missing", show_);
    add("decisions", "read why a broker gave or refused a key, rule by rule", decisions_);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override { return verbs_.Run(session); }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    const std::string given = verbs_.given();
    if (given == "test") return "a run would be refused";
    if (given == "lint" || given == "explain") return "this is no agreement";
    if (given == "show") return "the agreement cannot be shown";
    if (given == "decisions") return "the decisions cannot be shown";
    return "nothing was signed, or nobody took it";
  }

 private:
  SubVerbs verbs_;
  LintArguments lint_;
  ExplainArguments explain_;
  TestArguments test_;
  ProposeArguments propose_;
  ApproveArguments approve_;
  WithdrawArguments withdraw_;
  ApproveOutputArguments approve_output_;
  ShowArguments show_;
  DecisionsArguments decisions_;
};

}  // namespace

std::unique_ptr<Verb> NewPolicyVerb() { return std::make_unique<PolicyVerb>(); }

}  // namespace pavise::cli
