#include "pavise/policy/decision.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/policy/internal/fields.h"

#include "absl/strings/str_join.h"

namespace pavise::policy {
namespace {

using internal::EncodeTime;

constexpr size_t kMaxFindings = 16;  // of one set of evidence rules

// Collects results; each method is one rule.
class Rules {
 public:
  explicit Rules(Decision& decision) : decision_(decision) {}

  bool Check(bool passed, std::string owner, std::string rule, Refusal otherwise) {
    decision_.rules.push_back({std::move(owner), std::move(rule),
                               passed ? std::nullopt : std::optional(std::move(otherwise))});
    return passed;
  }

 private:
  Decision& decision_;
};

std::string Joined(const std::set<std::string>& names) { return absl::StrJoin(names, ", "); }

Decision Begin(std::string act, const Scope& scope, absl::Time now) {
  return {.act = std::move(act), .scope = scope, .at = now, .rules = {}};
}

// That consent stands for what the stage uses.
void CheckConsent(const AgreementInForce& agreement, const Agreement& text,
                  const std::set<std::string>& assets, Rules& rules) {
  for (const std::string& name : assets) {
    const auto withdrawn = agreement->withdrawn.find(name);
    const bool stands = withdrawn == agreement->withdrawn.end();
    const std::string& owner = text.assets.at(name).owner;
    rules.Check(
        stands, owner, StrCat("consent to the use of ", name),
        stands ? Refusal{}
               : Refusal{Reason::kPolicyDenied, name,
                         StrCat(owner, " withdrew its consent on ", EncodeTime(withdrawn->second)),
                         StrCat(owner, " may approve a later version of the agreement")});
  }
}

// Runs of all stages that used, in one version or another, what the rule is on. Else whoever adds a
// stage adds as many runs.
uint64_t RunsUnder(const OwnerRule& rule, const AgreementInForce& agreement,
                   const RunCounters& counters) {
  uint64_t runs = 0;
  for (const auto& [stage_name, begun] : counters.of_stages) {
    const bool uses = std::any_of(
        agreement->versions.begin(), agreement->versions.end(),
        [&rule, &stage_name = stage_name](const auto& version) {
          const Agreement& text = *version.second;
          const auto stage = text.stages.find(stage_name);
          if (stage == text.stages.end()) return false;
          const std::set<std::string> assets = text.AssetsOf(stage->second);
          return std::any_of(assets.begin(), assets.end(), [&](const std::string& asset) {
            return text.assets.at(asset).owner == rule.owner &&
                   (rule.assets.empty() || rule.assets.contains(asset));
          });
        });
    if (uses) runs += begun;
  }
  return std::max(runs, counters.runs_begun);
}

void CheckOwnerRule(const AgreementInForce& agreement, const std::string& name,
                    const OwnerRule& rule, const std::string& stage_name, const Stage& stage,
                    Mode mode, const RunCounters& counters, absl::Time now, Rules& rules) {
  const Agreement& text = *agreement->agreement;
  const auto check = [&](bool passed, const char* what, std::string_view item,
                         const std::string& detail) {
    rules.Check(passed, rule.owner, StrCat("rule ", name, ": ", what),
                passed ? Refusal{}
                       : Refusal{Reason::kPolicyDenied, std::string(item), detail,
                                 StrCat(rule.owner, " would have to approve another rule")});
  };
  if (rule.stages.has_value()) {
    check(rule.stages->contains(stage_name), "stages", stage_name,
          StrCat("the owner allows ", Joined(*rule.stages), " only"));
  }
  if (rule.modes.has_value()) {
    std::set<std::string> names;
    for (const Mode each : *rule.modes) names.emplace(ModeName(each));
    check(rule.modes->contains(mode), "modes", ModeName(mode),
          StrCat("the owner allows ", Joined(names), " only"));
  }
  if (rule.purposes.has_value()) {
    check(rule.purposes->contains(stage.purpose), "purposes", stage.purpose,
          StrCat("the owner allows \"", absl::StrJoin(*rule.purposes, "\", \""), "\" only"));
  }
  if (rule.code.has_value()) {
    const Digest32& statement = text.assets.at(stage.code).statement;
    check(rule.code->contains(statement), "code", stage.code,
          StrCat("the owner does not allow the code with the statement ", ToHex(statement)));
  }
  if (rule.recipients.has_value()) {
    std::set<std::string> others;
    for (const auto& [output_name, output] : stage.outputs) {
      std::set_difference(output.recipients.begin(), output.recipients.end(),
                          rule.recipients->begin(), rule.recipients->end(),
                          std::inserter(others, others.end()));
    }
    check(others.empty(), "recipients", Joined(others),
          StrCat("outputs would go there; the owner allows ", Joined(*rule.recipients), " only"));
  }
  if (rule.not_after.has_value()) {
    check(now <= *rule.not_after, "not after", stage_name,
          StrCat("the owner's consent ended on ", EncodeTime(*rule.not_after)));
  }
  if (rule.runs.has_value()) {
    const uint64_t runs = RunsUnder(rule, agreement, counters);
    check(counters.run_is_open || runs < *rule.runs, "runs", stage_name,
          StrCat(runs, " runs have begun; the owner allows ", *rule.runs));
  }
  if (rule.forbid_network) {
    check(stage.network.empty(), "no network", Joined(stage.network),
          "the stage's command may reach the network; the owner forbids it");
  }
}

void CheckEvidence(const StageAppraisal& appraisal, const Stage& stage, absl::Time now,
                   Rules& rules) {
  const absl::Duration age = now - appraisal->at;
  rules.Check(age >= absl::ZeroDuration() && age <= stage.reattest, "",
              "the machine's appraisal is recent",
              {Reason::kPolicyDenied, "appraisal",
               StrCat("was made at ", EncodeTime(appraisal->at), "; the agreement asks for one in ",
                      absl::ToInt64Seconds(stage.reattest), " s"),
               "attest again"});
  for (const RulesAppraisal& each : appraisal->appraisals) {
    const std::string owners = absl::StrJoin(each.owners, ", ");
    const std::string rule = StrCat("evidence: ", each.rule);
    if (each.appraisal.status.ok() && each.appraisal.accepted.has_value()) {
      rules.Check(true, owners, rule, {});
      continue;
    }
    std::vector<Refusal> findings = RefusalsOf(each.appraisal.status);
    if (findings.empty()) {
      // A failure of the machine that appraises: no verdict, so no key.
      findings.push_back(
          {Reason::kEvidenceMissing, "appraisal",
           StrCat("could not be finished: ", std::string(each.appraisal.status.message())),
           "attest again"});
    }
    const size_t listed = std::min(findings.size(), kMaxFindings);
    for (size_t i = 0; i < listed; ++i) {
      rules.Check(false, owners, rule, std::move(findings[i]));
    }
    if (findings.size() > listed) {
      rules.Check(false, owners, rule,
                  {findings[listed].reason, "and more",
                   StrCat(findings.size() - listed, " further findings"), ""});
    }
  }
}

// Every rule of every owner whose assets the stage uses; the stage where it is one of the
// agreement.
const Stage* CheckStage(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                        const RunCounters& counters, absl::Time now, Rules& rules) {
  const Scope& scope = appraisal->scope;
  const Agreement& text = *agreement->agreement;
  rules.Check(scope.agreement == agreement->id, "", "agreement",
              {Reason::kBindingMismatch, ToHex(scope.agreement),
               "the machine was appraised for another agreement", "attest for this one"});
  rules.Check(scope.version == text.version, "", "version",
              {Reason::kVersionTooOld, StrCat("version ", scope.version),
               StrCat("the machine was appraised for it; version ", text.version, " is in force"),
               "attest again"});
  const auto found = text.stages.find(scope.stage);
  if (!rules.Check(found != text.stages.end(), "", "stage",
                   {Reason::kPolicyDenied, scope.stage, "is no stage of the agreement",
                    "take one of the stages that it names"})) {
    return nullptr;
  }
  const Stage& stage = found->second;
  const std::string title = StrCat("stage ", scope.stage);
  rules.Check(stage.modes.contains(scope.mode), "", StrCat(title, ": mode"),
              {Reason::kPolicyDenied, std::string(ModeName(scope.mode)),
               "the stage may not run in this mode", "take one of the modes that it names"});
  const std::set<std::string> assets = text.AssetsOf(stage);
  CheckConsent(agreement, text, assets, rules);
  rules.Check(
      now <= stage.limits.not_after, "", StrCat(title, ": not after"),
      {Reason::kPolicyDenied, scope.stage, StrCat("ended on ", EncodeTime(stage.limits.not_after)),
       "the owners may agree on a later date in a new version"});
  rules.Check(counters.run_is_open || counters.runs_begun < stage.limits.runs, "",
              StrCat(title, ": runs"),
              {Reason::kPolicyDenied, scope.stage,
               StrCat(counters.runs_begun, " runs have begun of ", stage.limits.runs),
               "the owners may agree on more in a new version"});
  if (stage.limits.epochs.has_value()) {
    rules.Check(
        counters.epochs_reported <= *stage.limits.epochs, "", StrCat(title, ": epochs"),
        {Reason::kPolicyDenied, scope.stage,
         StrCat("the run reported ", counters.epochs_reported, " epochs of ", *stage.limits.epochs),
         "the owners may agree on more in a new version"});
  }
  for (const auto& [name, rule] : text.RulesOn(assets)) {
    CheckOwnerRule(agreement, name, *rule, scope.stage, stage, scope.mode, counters, now, rules);
  }
  CheckEvidence(appraisal, stage, now, rules);
  return &stage;
}

// The latest word of each on this sealed output. A refusal of the same second counts.
std::map<std::string, const OutputApproval*> LatestWords(
    const OutputOfRun& output, const AgreementInForce& agreement,
    const std::vector<VerifiedOutputApproval>& approvals) {
  std::map<std::string, const OutputApproval*> words;
  for (const VerifiedOutputApproval& each : approvals) {
    const OutputApproval& word = each->approval;
    // A key that was replaced since speaks for nobody.
    if (agreement->agreement->StakeholderWithKey(each->key_id) != each->stakeholder ||
        word.agreement != agreement->id || word.run != output.run || word.output != output.output ||
        word.sealed != output.sealed) {
      continue;
    }
    const OutputApproval*& latest = words[each->stakeholder];
    if (latest == nullptr || word.time > latest->time ||
        (word.time == latest->time && !word.approved)) {
      latest = &word;
    }
  }
  return words;
}

}  // namespace

bool Decision::allowed() const {
  return !rules.empty() && std::none_of(rules.begin(), rules.end(), [](const RuleResult& rule) {
    return rule.refusal.has_value();
  });
}

absl::Status Decision::Verdict() const {
  std::vector<Refusal> findings;
  for (const RuleResult& rule : rules) {
    if (!rule.refusal.has_value()) continue;
    Refusal finding = *rule.refusal;
    StrAppend(&finding.detail, " (", rule.rule, rule.owner.empty() ? "" : ", of ", rule.owner, ")");
    findings.push_back(std::move(finding));
  }
  if (!findings.empty()) return Refuse(std::move(findings));
  if (rules.empty()) return MachineFailure(act, "no rule was looked at");
  return absl::OkStatus();
}

OrderedJson Decision::ToJson() const {
  OrderedJson json = {
      {"act", act},           {"agreement", ToHex(scope.agreement)}, {"version", scope.version},
      {"stage", scope.stage}, {"mode", ModeName(scope.mode)},        {"time", EncodeTime(at)},
      {"allowed", allowed()}, {"rules", OrderedJson::array()}};
  for (const RuleResult& rule : rules) {
    OrderedJson each = {
        {"owner", rule.owner}, {"rule", rule.rule}, {"passed", !rule.refusal.has_value()}};
    if (rule.refusal.has_value()) {
      each["reason"] = ReasonName(rule.refusal->reason);
      each["item"] = rule.refusal->item;
      each["detail"] = rule.refusal->detail;
      each["remedy"] = rule.refusal->remedy;
    }
    json["rules"].push_back(std::move(each));
  }
  return json;
}

Decision DecideRun(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                   const RunCounters& counters, absl::Time now) {
  Decision decision = Begin(StrCat("run of ", appraisal->scope.stage), appraisal->scope, now);
  Rules rules(decision);
  CheckStage(agreement, appraisal, counters, now, rules);
  return decision;
}

Decision DecideReattestation(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                             const RunCounters& counters, absl::Time now) {
  Decision decision =
      Begin(StrCat("going on with ", appraisal->scope.stage), appraisal->scope, now);
  Rules rules(decision);
  RunCounters counted = counters;
  counted.run_is_open = true;
  CheckStage(agreement, appraisal, counted, now, rules);
  return decision;
}

Decision DecideKeyRelease(const AgreementInForce& agreement, const StageAppraisal& appraisal,
                          std::string_view asset_name, const VerifiedDeposit* deposit,
                          const RunCounters& counters, absl::Time now) {
  const std::string asset(asset_name);
  Decision decision =
      Begin(StrCat("release of ", asset, " for ", appraisal->scope.stage), appraisal->scope, now);
  Rules rules(decision);
  const Stage* stage = CheckStage(agreement, appraisal, counters, now, rules);
  if (stage == nullptr) return decision;
  const Agreement& text = *agreement->agreement;
  if (!rules.Check(text.AssetsOf(*stage).contains(asset), "", "asset of the stage",
                   {Reason::kPolicyDenied, asset, "the stage does not use this asset",
                    "ask for the code or an input of the stage"})) {
    return decision;
  }
  const Asset& named = text.assets.at(asset);
  if (!rules.Check(deposit != nullptr, named.owner, "deposit",
                   {Reason::kFileMissing, asset, "its owner has deposited no key with this broker",
                    StrCat(named.owner, " deposits it (pavise broker deposit)")})) {
    return decision;
  }
  const DepositClaims& claims = **deposit;
  // Verified against an earlier version, it may be of another file or by somebody else by now.
  rules.Check(claims.deposit.agreement == agreement->id && claims.deposit.asset == asset &&
                  claims.deposit.sealed == named.sealed,
              named.owner, "deposit is of the sealed asset",
              {Reason::kBindingMismatch, asset,
               "the deposited key is of another sealed file than the agreement names",
               StrCat(named.owner, " deposits the key of ", ToHex(named.sealed))});
  rules.Check(agreement->depositors.at(asset).contains(claims.key_id), named.owner,
              "deposit is the owner's",
              {Reason::kSignerUntrusted, asset, StrCat("was deposited by the key ", claims.key_id),
               StrCat(named.owner, " deposits it")});
  return decision;
}

Decision DecideOutputRelease(const AgreementInForce& agreement, const OutputOfRun& output,
                             std::string_view recipient_name,
                             const std::vector<VerifiedOutputApproval>& approvals, absl::Time now) {
  const std::string recipient(recipient_name);
  const Agreement& current = *agreement->agreement;
  Decision decision = Begin(StrCat("release of output ", output.output, " to ", recipient),
                            {agreement->id, current.version, output.stage, output.mode}, now);
  Rules rules(decision);
  std::vector<const Agreement*> of_run;
  for (auto version = agreement->versions.lower_bound(output.first_version);
       version != agreement->versions.end() && version->first <= output.version; ++version) {
    of_run.push_back(version->second.get());
  }
  if (!rules.Check(
          !of_run.empty() && of_run.front()->version == output.first_version &&
              of_run.back()->version == output.version,
          "", "versions of the run",
          {Reason::kPolicyDenied, StrCat("versions ", output.first_version, " to ", output.version),
           "were never in force", ""})) {
    return decision;
  }
  std::vector<const Agreement*> texts = of_run;
  if (texts.back() != &current) texts.push_back(&current);
  // Each of them must name the output and the recipient.
  std::set<std::string> all_used;
  std::set<std::string> approvers;
  for (const Agreement* text : of_run) {
    const auto stage = text->stages.find(output.stage);
    if (stage == text->stages.end()) continue;  // refused below
    all_used.merge(text->AssetsOf(stage->second));
    approvers.merge(text->OwnersOf(stage->second, AssetKind::kData));
  }
  for (const Agreement* text : texts) {
    const auto stage = text->stages.find(output.stage);
    const auto named = stage == text->stages.end() ? std::map<std::string, Output>::const_iterator()
                                                   : stage->second.outputs.find(output.output);
    const bool is_output = stage != text->stages.end() && named != stage->second.outputs.end();
    const std::string title = StrCat("version ", text->version);
    if (!rules.Check(is_output, "", StrCat(title, ": output"),
                     {Reason::kPolicyDenied, output.output,
                      StrCat("is no output of the stage ", output.stage), ""})) {
      return decision;
    }
    rules.Check(named->second.recipients.contains(recipient), "", StrCat(title, ": recipient"),
                {Reason::kPolicyDenied, recipient,
                 StrCat("the output goes to ", Joined(named->second.recipients), " only"),
                 "the owners may agree on another recipient in a new version"});
    approvers.insert(named->second.approvals.begin(), named->second.approvals.end());
    std::set<std::string> used = all_used;
    std::erase_if(used, [&](const std::string& name) { return !text->assets.contains(name); });
    CheckConsent(agreement, *text, used, rules);
    for (const auto& [name, rule] : text->RulesOn(used)) {
      if (!rule->recipients.has_value()) continue;
      rules.Check(rule->recipients->contains(recipient), rule->owner,
                  StrCat(title, ": rule ", name, ": recipients"),
                  {Reason::kPolicyDenied, recipient,
                   StrCat("the owner allows ", Joined(*rule->recipients), " only"),
                   StrCat(rule->owner, " would have to approve another rule")});
    }
  }
  const auto words = LatestWords(output, agreement, approvals);
  for (const std::string& name : approvers) {
    const auto word = words.find(name);
    const bool refused = word != words.end() && !word->second->approved;
    const bool passed = word != words.end() && word->second->approved &&
                        word->second->recipients.contains(recipient);
    rules.Check(passed, name, "approval of the output",
                {Reason::kPolicyDenied, output.output,
                 refused ? StrCat(name, " refused it")
                         : StrCat(name, " has not approved this sealed output for ", recipient),
                 StrCat(name, " may approve it for this run")});
  }
  return decision;
}

}  // namespace pavise::policy
