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
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/keys.h"
#include "pavise/policy/decision.h"
#include "pavise/policy/review.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"

namespace pavise::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAgreementGroup = "Agreement";
constexpr const char* kEvidenceGroup = "Evidence";
constexpr const char* kResultGroup = "Result";
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

// The key that signs, and where the envelope goes.
struct SigningOptions {
  std::string key;
  std::string output;
  PasswordOptions password;

  void Declare(CLI::App& app) {
    AddOption(app, "--private-key", key, "KEY.pem", "the stakeholder's signing key", kResultGroup)
        ->required();
    password.Declare(app, kResultGroup, /*with_password=*/false);
    AddOption(app, "-o,--output", output, "FILE", "where to write the signed envelope",
              kResultGroup)
        ->required();
  }
  absl::Status Write(std::string_view type, std::string_view payload) const {
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes secret, password.Resolve());
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(key, kMaxKeyFileBytes));
    PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey signer,
                            crypto::PrivateKey::FromPem(pem, secret, key));
    PAVISE_ASSIGN_OR_RETURN(const crypto::Envelope envelope,
                            crypto::SignEnvelope(type, AsBytes(payload), signer));
    return WriteFileAtomically(output, AsBytes(crypto::FormatEnvelope(envelope)));
  }
};

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

std::string RulesText(const policy::Decision& decision) {
  std::string text;
  for (const policy::RuleResult& rule : decision.rules) {
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
    outcome.text = RulesText(decision);
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
    PAVISE_RETURN_IF_ERROR(signing.Write(policy::kAgreementType, written.payload));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline =
        StrCat("version ", written.agreement.version, " proposed in ", Printable(signing.output));
    outcome.text = AlignedRows(
        {{"digest", ToHex(digest)}, {"attachments", std::to_string(written.attachments.size())}});
    outcome.json = {{"version", written.agreement.version}, {"digest", ToHex(digest)}};
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
    PAVISE_RETURN_IF_ERROR(signing.Write(policy::kApprovalType, statement));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline =
        StrCat(vote, " of version ", text.version, " in ", Printable(signing.output));
    outcome.text = AlignedRows(
        {{"agreement", ToHex(approval.agreement)}, {"digest", ToHex(approval.payload)}});
    outcome.json = {{"agreement", ToHex(approval.agreement)},
                    {"version", text.version},
                    {"digest", ToHex(approval.payload)},
                    {"vote", vote}};
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
    policy::Withdrawal withdrawal;
    PAVISE_ASSIGN_OR_RETURN(withdrawal.agreement, Digest32FromHex(agreement, "--agreement"));
    withdrawal.assets.insert(assets.begin(), assets.end());
    withdrawal.explanation = explanation;
    withdrawal.time = SystemClock().Now();
    PAVISE_ASSIGN_OR_RETURN(const std::string statement, policy::Format(withdrawal));
    PAVISE_RETURN_IF_ERROR(policy::ParseWithdrawal(AsBytes(statement), "withdrawal").status());
    PAVISE_RETURN_IF_ERROR(signing.Write(policy::kWithdrawalType, statement));
    Outcome outcome;
    outcome.verdict = "OK";
    outcome.headline = StrCat("withdrawal of ", absl::StrJoin(withdrawal.assets, ", "), " in ",
                              Printable(signing.output));
    outcome.text =
        "Once it is received, no key is released for a stage that uses it. What was released "
        "before stays\nwhere it is: a model may have memorised what it was trained on.\n";
    outcome.json = {{"agreement", agreement}, {"assets", withdrawal.assets}};
    return outcome;
  }
};

// ---- policy show ----

struct ShowArguments {
  std::vector<std::string> paths;

  void Declare(CLI::App& app) {
    app.add_option("ENVELOPE", paths,
                   "version 1's proposal, then votes, withdrawals and later versions, in the order "
                   "in which they were received")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
  }
  absl::StatusOr<Outcome> Run() const {
    const absl::Time now = SystemClock().Now();
    PAVISE_ASSIGN_OR_RETURN(const Bytes first, ReadFile(paths.front(), kMaxEnvelopeBytes));
    PAVISE_ASSIGN_OR_RETURN(policy::AgreementHistory history,
                            policy::AgreementHistory::Begin(first, now));
    for (size_t i = 1; i < paths.size(); ++i) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(paths[i], kMaxEnvelopeBytes));
      const absl::Status status = history.Append(text, now).status();
      if (status.ok()) continue;
      std::vector<Refusal> findings = RefusalsOf(status);
      if (findings.empty()) return status;
      for (Refusal& finding : findings) finding.item = StrCat(paths[i], ": ", finding.item);
      return Refuse(std::move(findings));
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
    outcome.text = AlignedRows(rows);
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
           "(policy "
           "test), propose a version, vote on it, withdraw consent (policy propose, approve, "
           "withdraw), and see what is in force (policy show).";
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
           "\n"
           "Exit codes: 0 done or allowed, 1 refused, 2 wrong usage, 3 the machine failed.";
  }

  void Declare(CLI::App& app) override {
    app.require_subcommand(1);
    const auto add = [&](const char* name, const char* description, auto& arguments) {
      CLI::App* sub = app.add_subcommand(name, description);
      sub->group("What to do");
      arguments.Declare(*sub);
      runs_.emplace_back(sub, [&arguments] { return arguments.Run(); });
    };
    add("lint", "check an agreement, and warn of what surprises", lint_);
    add("explain", "say in plain words what an agreement allows, and what it does not protect from",
        explain_);
    add("test", "decide about recorded evidence as if all owners had approved", test_);
    add("propose", "sign a version for the others to vote on", propose_);
    add("approve", "sign a vote on a proposal", approve_);
    add("withdraw", "sign that your consent to the use of your assets ends", withdraw_);
    add("show", "replay signed envelopes, and say what is in force and what is missing", show_);
  }

  absl::StatusOr<Outcome> Run(const Session&) override {
    for (const auto& [app, run] : runs_) {
      if (app->parsed()) return run();
    }
    return UsageError("what to do?");
  }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    for (const auto& [app, run] : runs_) {
      if (!app->parsed()) continue;
      if (app->get_name() == "test") return "a run would be refused";
      if (app->get_name() == "lint" || app->get_name() == "explain") return "this is no agreement";
      if (app->get_name() == "show") return "the envelopes are no history of an agreement";
    }
    return "nothing was signed";
  }

 private:
  std::vector<std::pair<CLI::App*, std::function<absl::StatusOr<Outcome>()>>> runs_;
  LintArguments lint_;
  ExplainArguments explain_;
  TestArguments test_;
  ProposeArguments propose_;
  ApproveArguments approve_;
  WithdrawArguments withdraw_;
  ShowArguments show_;
};

}  // namespace

std::unique_ptr<Verb> NewPolicyVerb() { return std::make_unique<PolicyVerb>(); }

}  // namespace pavise::cli
