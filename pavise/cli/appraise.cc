#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "pavise/base/clock.h"
#include "pavise/base/file.h"
#include "pavise/base/random.h"
#include "pavise/base/strings.h"
#include "pavise/cli/machine_rules.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/sub_verbs.h"
#include "pavise/cli/trust_folder.h"
#include "pavise/cli/verb.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/eventlog/event_log_appraiser.h"
#include "pavise/evidence/appraise/ima/ima_replay.h"
#include "pavise/evidence/appraise/machine/machine_appraiser.h"
#include "pavise/evidence/appraise/tpm/credential.h"
#include "pavise/evidence/appraise/tpm/ek.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/appraise/tpm/quote.h"
#include "pavise/evidence/reference/sources.h"

#include "CLI/CLI.hpp"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"

namespace pavise::cli {
namespace {

constexpr const char* kEvidenceGroup = "Evidence";
constexpr const char* kPolicyGroup = "What it is held against";
constexpr const char* kResultGroup = "Result";
constexpr const char* kSourceGroup = "Source";
constexpr uint64_t kMostEvidenceBytes = uint64_t{144} << 20;
constexpr uint64_t kMostImageBytes = uint64_t{2} << 30;
constexpr size_t kMostListed = 20;

absl::StatusOr<evidence::CompositeEvidence> ReadEvidence(const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(path, kMostEvidenceBytes));
  // A CBOR map never begins with a brace or white space.
  const bool is_json = !content.empty() && (content[0] == '{' || content[0] <= ' ');
  return is_json ? evidence::FromJson(content, path) : evidence::FromCbor(content, path);
}

// "" is now.
absl::StatusOr<absl::Time> TimeOf(const std::string& text) {
  if (text.empty()) return SystemClock().Now();
  absl::Time time;
  std::string error;
  if (!absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return UsageError(StrCat("--at: a time as 2026-11-21T12:00:00Z: ", error));
  }
  return time;
}

std::string SomeLines(const std::vector<std::string>& lines) {
  std::string text;
  for (size_t i = 0; i < std::min(lines.size(), kMostListed); ++i) {
    StrAppend(&text, "  ", Printable(lines[i]), "\n");
  }
  if (lines.size() > kMostListed) {
    StrAppend(&text, "  and ", lines.size() - kMostListed, " more\n");
  }
  return text;
}

// ---- appraise evidence ----

struct EvidenceArguments {
  std::string path;
  std::string policy;
  std::string trust;
  std::string nonce;
  std::string at;
  std::string report;
  std::string token;
  std::string sign;
  PasswordOptions password;

  void Declare(CLI::App& app) {
    app.add_option("EVIDENCE", path, "what pavise attest wrote")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--policy", policy, "FILE", "the appraisal policy", kPolicyGroup)->required();
    AddOption(app, "--nonce", nonce, "HEX", "the challenge that was given to the machine",
              kEvidenceGroup)
        ->required();
    AddOption(app, "--trust", trust, "DIR",
              "certificates, revocation lists and collateral of vendors [none]", kPolicyGroup);
    AddOption(app, "--at", at, "TIME", "hold validity periods against this time, RFC 3339 [now]",
              kPolicyGroup);
    AddOption(app, "--report", report, "FILE",
              "write every check that was made, also where the evidence is refused", kResultGroup);
    AddOption(app, "-o,--output", token, "FILE",
              "where to write the attestation result, a signed token (EAR)", kResultGroup);
    AddOption(app, "--private-key", sign, "KEY.pem", "the key that signs the token", kResultGroup);
    password.Declare(app, kResultGroup, /*with_password=*/false);
  }

  absl::StatusOr<Outcome> Run() const;
};

absl::StatusOr<Outcome> EvidenceArguments::Run() const {
  if (token.empty() != sign.empty()) return UsageError("--output and --private-key go together");
  PAVISE_ASSIGN_OR_RETURN(const Digest32 challenge, Digest32FromHex(nonce, "--nonce"));
  PAVISE_ASSIGN_OR_RETURN(const absl::Time time, TimeOf(at));
  PAVISE_ASSIGN_OR_RETURN(const MachineRules rules, ReadMachineRules(policy, trust));
  PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence composite, ReadEvidence(path));
  const evidence::MachineAppraisal appraisal = evidence::AppraiseMachine(
      composite, rules.policy, rules.references, rules.trust, challenge, time);
  const std::string text = evidence::FormatReport(appraisal.sections);
  if (!report.empty()) {
    std::string whole = text;
    if (!appraisal.unused.empty()) {
      StrAppend(&whole, "\nreference values and rules that nothing needed:\n");
      for (const std::string& line : appraisal.unused) {
        StrAppend(&whole, "  ", Printable(line), "\n");
      }
    }
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(report, AsBytes(whole)));
  }
  if (!appraisal.status.ok()) return appraisal.status;
  if (!appraisal.accepted.has_value()) return MachineFailure(path, "neither accepted nor refused");

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat(Printable(path), " is what the policy asks for");
  outcome.text = text;
  if (!appraisal.unused.empty()) {
    StrAppend(&outcome.text, "\nreference values and rules that nothing needed:\n",
              SomeLines(appraisal.unused));
  }
  PAVISE_ASSIGN_OR_RETURN(const Json claims,
                          evidence::EarClaims(*appraisal.accepted, {.policy_id = policy}));
  outcome.json["result"] = claims;
  outcome.json["unused"] = appraisal.unused;
  if (!token.empty()) {
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes secret, password.Resolve());
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes pem, ReadSecretFile(sign, kMaxKeyFileBytes));
    PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key, crypto::PrivateKey::FromPem(pem, secret, sign));
    PAVISE_ASSIGN_OR_RETURN(const std::string signed_result,
                            evidence::SignEar(*appraisal.accepted, {.policy_id = policy}, key));
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(token, AsBytes(signed_result)));
    StrAppend(&outcome.text, "\nattestation result: ", Printable(token), "\n");
    outcome.json["token"] = token;
  }
  return outcome;
}

// ---- appraise enrol ----

constexpr uint64_t kMostEnrolmentBytes = uint64_t{64} << 10;

// Binds a machine's attestation key to its TPM's endorsement key, in two steps with the machine in
// between: a challenge that only this TPM can open, and the answer.
struct EnrolArguments {
  std::string path;
  std::string trust;
  std::string secret;
  std::string challenge;
  std::string answer;
  std::string at;

  void Declare(CLI::App& app) {
    app.add_option("EVIDENCE", path, "what pavise attest wrote on the machine")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    AddOption(app, "--trust", trust, "DIR", "certificates of TPM vendors, below tpm/", kPolicyGroup)
        ->required();
    AddOption(app, "--secret", secret, "FILE",
              "what stays here between the two steps: written with --challenge, read with --answer",
              kResultGroup)
        ->required();
    AddOption(app, "--challenge", challenge, "FILE",
              "first step: where to write what the machine is to open (pavise attest --activate)",
              kResultGroup);
    AddOption(app, "--answer", answer, "FILE", "second step: what the machine wrote",
              kEvidenceGroup);
    AddOption(app, "--at", at, "TIME", "hold certificates against this time, RFC 3339 [now]",
              kPolicyGroup);
  }

  absl::StatusOr<Outcome> Run() const;
};

absl::StatusOr<Outcome> EnrolArguments::Run() const {
  if (challenge.empty() == answer.empty()) {
    return UsageError("one of --challenge (first) and --answer (then) is needed");
  }
  PAVISE_ASSIGN_OR_RETURN(const absl::Time time, TimeOf(at));
  PAVISE_ASSIGN_OR_RETURN(evidence::MachineTrust endorsements, ReadTrustFolder(trust));
  PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence composite, ReadEvidence(path));
  const auto part =
      std::find_if(composite.parts.begin(), composite.parts.end(),
                   [](const evidence::EvidencePart& each) { return each.format == "tpm-2.0"; });
  if (part == composite.parts.end() || !part->items.contains("endorsement_key") ||
      !part->items.contains("endorsement_certificates")) {
    return Refuse(Reason::kEvidenceMissing, path, "holds no endorsement key with its certificate",
                  "collect it with pavise attest on a machine whose TPM has one");
  }
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<crypto::Certificate> certificates,
      crypto::Certificate::ListFromPem(AsText(part->items.at("endorsement_certificates")),
                                       "EK certificates"));
  // The endorsement key is that of the first; the others may be of other keys, or lead to a root.
  endorsements.tpm.others.insert(endorsements.tpm.others.end(), certificates.begin() + 1,
                                 certificates.end());
  evidence::CheckList checks;
  PAVISE_ASSIGN_OR_RETURN(
      const evidence::VerifiedEk ek,
      evidence::EkAppraiser::Appraise(part->items.at("endorsement_key"), certificates.front(),
                                      endorsements.tpm, time, checks));
  PAVISE_ASSIGN_OR_RETURN(
      evidence::AkEnrolment enrolment,
      evidence::AkEnroller::Begin(ek, part->items.at("attestation_key"), SystemRandom(), checks));
  const std::string name = ToHex(enrolment.claims.ak.name);
  Outcome outcome;
  outcome.verdict = "OK";
  if (!challenge.empty()) {
    const OrderedJson kept = {{"pavise_enrolment", 1},
                              {"attestation_key", name},
                              {"secret", ToHex(enrolment.secret.Reveal())}};
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(secret, AsBytes(DumpJson(kept)), 0600));
    const OrderedJson sent = {{"pavise_challenge", 1},
                              {"credential_blob", ToHex(enrolment.challenge.credential_blob)},
                              {"encrypted_secret", ToHex(enrolment.challenge.encrypted_secret)}};
    PAVISE_RETURN_IF_ERROR(WriteFileAtomically(challenge, AsBytes(DumpJson(sent))));
    outcome.headline = StrCat("a challenge in ", Printable(challenge));
    outcome.text = AlignedRows({{"TPM", ek->tpm.manufacturer},
                                {"certified by", ek->tpm.root},
                                {"attestation key", name},
                                {"next", StrCat("on the machine: pavise attest --activate ",
                                                challenge, " -o answer.json")}});
    outcome.json = {{"challenge", challenge}, {"attestation_key", name}};
    return outcome;
  }
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes kept_text, ReadSecretFile(secret, kMostEnrolmentBytes));
  PAVISE_ASSIGN_OR_RETURN(const Json kept, ParseJson(kept_text.Reveal(), secret));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject kept_object, JsonObject::From(kept, secret));
  PAVISE_RETURN_IF_ERROR(
      kept_object.RequireOnly({"pavise_enrolment", "attestation_key", "secret"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string kept_name, kept_object.GetString("attestation_key"));
  if (kept_name != name) {
    return Refuse(Reason::kBindingMismatch, path,
                  "is of another attestation key than the challenge was made for",
                  "give the evidence that the first step was given");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string kept_secret, kept_object.GetString("secret"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes secret_bytes, FromHex(kept_secret, secret));
  PAVISE_ASSIGN_OR_RETURN(const Bytes answer_text, ReadFile(answer, kMostEnrolmentBytes));
  PAVISE_ASSIGN_OR_RETURN(const Json answered, ParseJson(answer_text, answer));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject answer_object, JsonObject::From(answered, answer));
  PAVISE_RETURN_IF_ERROR(answer_object.RequireOnly({"pavise_answer", "activated"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string activated_hex, answer_object.GetString("activated"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes activated, FromHex(activated_hex, answer));
  enrolment.secret = SecretBytes(AsText(secret_bytes));
  PAVISE_ASSIGN_OR_RETURN(
      const evidence::VerifiedAk ak,
      evidence::AkEnroller::Finish(std::move(enrolment), SecretBytes(AsText(activated)), checks));
  outcome.headline = "the attestation key lives in the TPM of that endorsement key";
  outcome.text =
      AlignedRows({{"attestation key", ToHex(ak->ak.name)},
                   {"TPM", ek->tpm.manufacturer},
                   {"certified by", ek->tpm.root},
                   {"EK certificate", ek->tpm.certificate_fingerprint},
                   {"next", "add the key to tpm.attestation_keys of the appraisal policy"}});
  outcome.json = {{"attestation_key", ToHex(ak->ak.name)},
                  {"ek_certificate", ek->tpm.certificate_fingerprint},
                  {"tpm_manufacturer", ek->tpm.manufacturer},
                  {"tpm_root", ek->tpm.root}};
  return outcome;
}

// ---- appraise reference ----

struct ReferenceArguments {
  std::string from;
  std::vector<std::string> sources;
  std::string output;
  std::string prefix;
  std::string registers;
  std::string name;

  void Declare(CLI::App& app) {
    app.add_option("SOURCE", sources,
                   "log: evidence of a machine in a known state; dir: a directory tree; initramfs: "
                   "its image; packages: .deb files; host: names of installed packages, or none "
                   "for all of this machine's")
        ->type_name("SOURCE")
        ->group("Arguments");
    AddOption(app, "--from", from, "log|dir|initramfs|packages|host", "what SOURCE is",
              kSourceGroup)
        ->required();
    AddOption(app, "-o,--output", output, "FILE", "where to write the reference values",
              kResultGroup)
        ->required();
    AddOption(app, "--prefix", prefix, "PATH",
              "dir: where the tree lies on the measured machine [its root]", kSourceGroup);
    AddOption(app, "--registers", registers, "LIST",
              "log: PCRs whose values become reference values, as 0,1,7 [none]", kSourceGroup);
    AddOption(app, "--name", name, "TEXT", "what the values' source is called [SOURCE]",
              kSourceGroup);
  }

  absl::StatusOr<Outcome> Run() const;
  absl::StatusOr<evidence::FileReferences> FromLog(const std::string& path) const;
  absl::StatusOr<evidence::FileReferences> From(const std::string& source) const;
};

// Who gives golden evidence vouches for it: whose TPM signed is not asked, that the logs are what
// was quoted is.
absl::StatusOr<evidence::FileReferences> ReferenceArguments::FromLog(
    const std::string& path) const {
  PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence composite, ReadEvidence(path));
  std::vector<Digest32> before;
  for (const evidence::EvidencePart& part : composite.parts) {
    PAVISE_ASSIGN_OR_RETURN(const evidence::PartKind kind, evidence::KindOf(part));
    if (kind != evidence::PartKind::kTpm) {
      PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, evidence::PartDigest(part));
      before.push_back(digest);
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(
        const Digest32 bound,
        evidence::BindingValue(kind, composite.nonce, composite.session_key, before));
    evidence::QuoteEvidence quote;
    quote.ak_public = part.items.at("attestation_key");
    quote.quote = part.items.at("quote");
    quote.signature = part.items.at("signature");
    PAVISE_ASSIGN_OR_RETURN(quote.pcrs,
                            evidence::ParsePcrValues(part.items.at("pcr_values"), "PCR values"));
    evidence::QuoteExpectation expected;
    expected.nonce.assign(bound.begin(), bound.end());
    evidence::CheckList checks;
    PAVISE_ASSIGN_OR_RETURN(const evidence::VerifiedQuote verified,
                            evidence::QuoteAppraiser::Appraise(quote, expected, checks));
    const std::string source = name.empty() ? path : name;
    evidence::FileReferences references;
    std::set<uint32_t> indices;
    for (const std::string& text :
         std::vector<std::string>(absl::StrSplit(registers, ',', absl::SkipEmpty()))) {
      PAVISE_ASSIGN_OR_RETURN(const uint64_t index, ParseCount("--registers", text));
      if (index >= evidence::kPcrCount) return UsageError("--registers: numbers from 0 to 23");
      indices.insert(static_cast<uint32_t>(index));
    }
    evidence::AddRegisters(verified->pcrs, evidence::PcrBank::kSha256, indices, source,
                           references.values);
    if (const auto found = part.items.find("event_log"); found != part.items.end()) {
      PAVISE_ASSIGN_OR_RETURN(const evidence::EventLog log,
                              evidence::ParseEventLog(found->second, "event log"));
      evidence::EventLogRequest request;
      const auto quoted = verified->pcrs.banks().find(request.bank);
      std::erase_if(request.required, [&](uint32_t index) {
        return quoted == verified->pcrs.banks().end() || !quoted->second.contains(index);
      });
      PAVISE_ASSIGN_OR_RETURN(
          const evidence::VerifiedEventLog boot,
          evidence::EventLogAppraiser::Appraise(log, request, verified->pcrs, "event log", checks));
      PAVISE_RETURN_IF_ERROR(evidence::AddBoot(boot, source, references.values));
    }
    if (const auto found = part.items.find("ima_log"); found != part.items.end()) {
      PAVISE_ASSIGN_OR_RETURN(
          const evidence::ImaLog log,
          evidence::ParseImaLog(found->second, evidence::ImaForm::kLittleEndian, "IMA log"));
      evidence::ImaReplay replay;
      PAVISE_ASSIGN_OR_RETURN(
          const size_t entries,
          replay.Continue(log.entries, evidence::PcrBank::kSha256, verified->pcrs, "IMA log"));
      references.left_out = evidence::AddImaLog(log, entries, source, references.values);
      references.file_count = references.values.files.size();
    }
    return references;
  }
  return Refuse(Reason::kEvidenceMissing, path, "holds no TPM evidence",
                "collect it with pavise attest on the machine in its known state");
}

absl::StatusOr<evidence::FileReferences> ReferenceArguments::From(const std::string& source) const {
  const std::string called = name.empty() ? BaseName(source) : name;
  if (from == "log") return FromLog(source);
  if (from == "dir") return evidence::ReferencesOfTree(source, prefix, called);
  PAVISE_ASSIGN_OR_RETURN(const Bytes content, ReadFile(source, kMostImageBytes));
  if (from == "initramfs") return evidence::ReferencesOfInitramfs(content, source, called);
  return evidence::ReferencesOfDebianPackage(content, source, called);
}

absl::StatusOr<Outcome> ReferenceArguments::Run() const {
  if (!prefix.empty() && from != "dir") return UsageError("--prefix goes with --from dir");
  if (!registers.empty() && from != "log") return UsageError("--registers goes with --from log");
  if (sources.empty() && from != "host") return UsageError(StrCat("--from ", from, ": of what?"));
  evidence::FileReferences all;
  if (from == "host") {
    PAVISE_ASSIGN_OR_RETURN(all, evidence::ReferencesOfInstalledPackages("/", sources));
  } else {
    for (const std::string& source : sources) {
      PAVISE_ASSIGN_OR_RETURN(evidence::FileReferences more, From(source));
      PAVISE_RETURN_IF_ERROR(all.values.Merge(more.values));
      all.file_count += more.file_count;
      all.left_out.insert(all.left_out.end(), more.left_out.begin(), more.left_out.end());
    }
  }
  PAVISE_RETURN_IF_ERROR(
      WriteFileAtomically(output, AsBytes(evidence::FormatReferenceValues(all.values))));
  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("reference values in ", Printable(output));
  size_t registers_listed = 0;
  for (const auto& [bank, values] : all.values.registers) registers_listed += values.size();
  outcome.text = AlignedRows({{"files", std::to_string(all.values.files.size())},
                              {"registers", std::to_string(registers_listed)},
                              {"boot images", std::to_string(all.values.images.size())},
                              {"command lines", std::to_string(all.values.command_lines.size())}});
  if (!all.left_out.empty()) {
    StrAppend(&outcome.text, "left out:\n", SomeLines(all.left_out));
  }
  outcome.json = {{"output", output},
                  {"files", all.values.files.size()},
                  {"registers", registers_listed},
                  {"images", all.values.images.size()},
                  {"command_lines", all.values.command_lines.size()},
                  {"left_out", all.left_out}};
  return outcome;
}

// ---- appraise diff ----

struct DiffArguments {
  std::string before;
  std::string after;

  void Declare(CLI::App& app) {
    app.add_option("BEFORE", before, "reference values")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
    app.add_option("AFTER", after, "reference values")
        ->required()
        ->type_name("FILE")
        ->group("Arguments");
  }

  absl::StatusOr<Outcome> Run() const {
    PAVISE_ASSIGN_OR_RETURN(const evidence::ReferenceValues old_values, ReadReferences(before));
    PAVISE_ASSIGN_OR_RETURN(const evidence::ReferenceValues new_values, ReadReferences(after));
    const auto differences = evidence::DiffReferenceValues(old_values, new_values);
    Outcome outcome;
    outcome.headline = differences.empty() ? "no difference" : Counted(differences.size(), "item");
    outcome.json["differences"] = OrderedJson::array();
    for (const evidence::ReferenceDifference& difference : differences) {
      StrAppend(&outcome.text, Printable(difference.item), "\n");
      for (const std::string& value : difference.removed) {
        StrAppend(&outcome.text, "  - ", Printable(value), "\n");
      }
      for (const std::string& value : difference.added) {
        StrAppend(&outcome.text, "  + ", Printable(value), "\n");
      }
      outcome.json["differences"].push_back({{"item", difference.item},
                                             {"removed", difference.removed},
                                             {"added", difference.added}});
    }
    return outcome;
  }
};

class AppraiseVerb final : public Verb {
 public:
  std::string_view name() const override { return "appraise"; }
  std::string_view group() const override { return "Evidence"; }
  std::string_view summary() const override {
    return "Appraise a machine's evidence against a policy (appraise evidence), bind its "
           "attestation key to its TPM (appraise enrol), make the reference values that a policy "
           "lists (appraise reference), and show what an update changed (appraise diff). Without "
           "a network.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise appraise evidence evidence.cbor --policy policy.json --nonce $CHALLENGE\n"
           "  pavise appraise evidence evidence.cbor --policy policy.json --nonce $CHALLENGE \\\n"
           "    --trust endorsements --private-key verifier.pem -o result.jwt\n"
           "  pavise appraise enrol evidence.cbor --trust endorsements --secret kept.json \\\n"
           "    --challenge challenge.json\n"
           "  pavise appraise enrol evidence.cbor --trust endorsements --secret kept.json \\\n"
           "    --answer answer.json\n"
           "  pavise appraise reference --from dir rootfs -o files.json\n"
           "  pavise appraise reference --from log golden.cbor --registers 0,1,7 -o golden.json\n"
           "  pavise appraise diff before.json after.json\n"
           "\n"
           "Exit codes: 0 accepted, 1 refused, 2 wrong usage, 3 the machine failed.";
  }

  void Declare(CLI::App& app) override {
    verbs_.Add(app, "evidence", "appraise evidence against a policy", evidence_);
    verbs_.Add(app, "enrol",
               "bind a machine's attestation key to its TPM, by a challenge only that TPM opens",
               enrol_);
    verbs_.Add(app, "reference", "make reference values", reference_);
    verbs_.Add(app, "diff", "compare two files of reference values", diff_);
  }

  absl::StatusOr<Outcome> Run(const Session& session) override { return verbs_.Run(session); }

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    const std::string given = verbs_.given();
    if (given == "evidence") return StrCat(Printable(evidence_.path), " is refused");
    if (given == "enrol") return StrCat(Printable(enrol_.path), " is not enrolled");
    return "no reference values were made";
  }

 private:
  SubVerbs verbs_;
  EvidenceArguments evidence_;
  EnrolArguments enrol_;
  ReferenceArguments reference_;
  DiffArguments diff_;
};

}  // namespace

std::unique_ptr<Verb> NewAppraiseVerb() { return std::make_unique<AppraiseVerb>(); }

}  // namespace pavise::cli
