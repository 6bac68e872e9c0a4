#include "pavise/policy/review.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/policy/internal/fields.h"
#include "pavise/policy/internal/prepared_rules.h"

#include "absl/strings/str_join.h"

namespace pavise::policy {
namespace {

using internal::EncodeTime;

std::string Joined(const std::set<std::string>& names) { return absl::StrJoin(names, ", "); }

// Why the rule keeps the stage from running in this mode at any machine; "" where it does not.
std::string Conflict(const Agreement& agreement, const OwnerRule& rule, const std::string& name,
                     const Stage& stage, Mode mode, absl::Time at) {
  if (rule.stages.has_value() && !rule.stages->contains(name)) return "does not allow the stage";
  if (rule.modes.has_value() && !rule.modes->contains(mode)) return "does not allow the mode";
  if (rule.purposes.has_value() && !rule.purposes->contains(stage.purpose)) {
    return "does not allow the purpose";
  }
  if (rule.code.has_value() && !rule.code->contains(agreement.assets.at(stage.code).statement)) {
    return "does not allow the code";
  }
  if (rule.recipients.has_value()) {
    for (const auto& [output_name, output] : stage.outputs) {
      if (!std::includes(rule.recipients->begin(), rule.recipients->end(),
                         output.recipients.begin(), output.recipients.end())) {
        return StrCat("does not allow every recipient of ", output_name);
      }
    }
  }
  if (rule.forbid_network && !stage.network.empty()) return "forbids the network";
  if (rule.not_after.has_value() && *rule.not_after < at) return "is over";
  return "";
}

class Linter {
 public:
  Linter(const Agreement& agreement, const AttachmentSource& attachments, absl::Time at)
      : agreement_(agreement), attachments_(attachments), at_(at) {}

  absl::StatusOr<std::vector<Warning>> Run() {
    LintUse();
    PAVISE_RETURN_IF_ERROR(LintStages());
    LintRules();
    LintChanges();
    return std::move(warnings_);
  }

 private:
  void Warn(std::string item, std::string detail) {
    const Warning warning = {std::move(item), std::move(detail)};
    if (std::find(warnings_.begin(), warnings_.end(), warning) == warnings_.end()) {
      warnings_.push_back(warning);
    }
  }

  void LintUse() {
    std::set<std::string> used_assets;
    std::set<std::string> used_stakeholders = agreement_.changes.of;
    used_stakeholders.insert(agreement_.changes.vetoes.begin(), agreement_.changes.vetoes.end());
    for (const auto& [name, stage] : agreement_.stages) {
      used_assets.merge(agreement_.AssetsOf(stage));
      for (const auto& [output_name, output] : stage.outputs) {
        used_stakeholders.insert(output.recipients.begin(), output.recipients.end());
        used_stakeholders.insert(output.approvals.begin(), output.approvals.end());
      }
    }
    for (const auto& [name, asset] : agreement_.assets) {
      used_stakeholders.insert(asset.owner);
      if (!used_assets.contains(name)) Warn(StrCat("asset ", name), "no stage uses it");
    }
    for (const auto& [name, stakeholder] : agreement_.stakeholders) {
      if (!used_stakeholders.contains(name)) {
        Warn(StrCat("stakeholder ", name), "owns nothing, receives nothing and decides nothing");
      }
    }
  }

  absl::Status LintStages() {
    for (const auto& [name, stage] : agreement_.stages) {
      const std::string item = StrCat("stage ", name);
      if (stage.limits.not_after < at_) {
        Warn(item, StrCat("nobody can run it: it ended on ", EncodeTime(stage.limits.not_after)));
      }
      if (stage.outputs.empty()) Warn(item, "has no outputs: nothing leaves a run");
      if (stage.limits.epochs.has_value()) {
        Warn(item,
             "its limit on epochs binds the code, which was agreed on, and not a hostile one");
      }
      bool runs = false;
      std::vector<std::string> why;
      const auto rules = agreement_.RulesOn(agreement_.AssetsOf(stage));
      for (const auto& [mode, evidence] : stage.modes) {
        std::string conflict;
        for (const auto& [rule_name, rule] : rules) {
          conflict = Conflict(agreement_, *rule, name, stage, mode, at_);
          if (conflict.empty()) continue;
          why.push_back(
              StrCat(ModeName(mode), ": rule ", rule_name, " of ", rule->owner, " ", conflict));
          break;
        }
        runs = runs || conflict.empty();
        PAVISE_RETURN_IF_ERROR(LintEvidence(StrCat(item, ", ", ModeName(mode)), evidence, mode));
        for (const auto& [rule_name, rule] : rules) {
          if (rule->evidence == evidence) {
            Warn(StrCat("rule ", rule_name), StrCat("its evidence is that of ", item, ", ",
                                                    ModeName(mode), ", and changes nothing there"));
          }
        }
      }
      if (!runs) Warn(item, StrCat("nobody can run it (", absl::StrJoin(why, "; "), ")"));
    }
    return absl::OkStatus();
  }

  // `mode`: nullopt for an owner's own rules.
  absl::Status LintEvidence(const std::string& item, const EvidenceRules& rules,
                            std::optional<Mode> mode) {
    PAVISE_ASSIGN_OR_RETURN(const internal::PreparedRules prepared,
                            internal::PrepareRules(rules, attachments_, item));
    if (mode.has_value()) {
      PAVISE_RETURN_IF_ERROR(internal::CheckMode(prepared.policy, *mode, item));
    }
    const evidence::AppraisalPolicy& policy = prepared.policy;
    if (policy.composite.required.contains(evidence::PartKind::kTpm)) {
      if (policy.tpm.allow_unbound_key) {
        Warn(item, "allow_unbound_key accepts quotes of which nothing says that a TPM made them");
      } else if (policy.tpm.attestation_keys.empty() && prepared.trust.tpm.roots.empty() &&
                 !policy.tpm.accept_pinned_roots) {
        Warn(item,
             "nobody can run it: the policy lists no attestation key, and there is no anchor");
      }
      if (!policy.tpm.ima) Warn(item, "does not ask what programs the machine started");
      if (!policy.tpm.host_protections) {
        Warn(item, "does not ask for the protections that keep the operator's root out");
      }
      for (const std::string& exception : policy.tpm.protection_exceptions) {
        Warn(item, StrCat("does without the protection ", exception));
      }
      if (prepared.references.registers.empty() && prepared.references.images.empty()) {
        Warn(item, "has no reference values of what boots: any kernel may log what it likes");
      }
    }
    if (policy.composite.required.contains(evidence::PartKind::kTee) &&
        !policy.snp.measurement.has_value() && !policy.intel.td.mr_td.has_value() &&
        !policy.intel.sgx.mr_enclave.has_value()) {
      Warn(item, "names no measurement of a guest: any guest on such a processor is accepted");
    }
    if (policy.composite.required.size() > 1 && !policy.composite.require_co_location) {
      Warn(item, "does not ask for proof that all evidence is of one machine");
    }
    return LintReferences(item, rules, policy);
  }

  // Files of reference values that add nothing to the others.
  absl::Status LintReferences(const std::string& item, const EvidenceRules& rules,
                              const evidence::AppraisalPolicy& policy) {
    for (const std::string& name : policy.reference_values) {
      evidence::ReferenceValues others;
      evidence::ReferenceValues own;
      for (const std::string& each : policy.reference_values) {
        PAVISE_ASSIGN_OR_RETURN(const Bytes content, attachments_.Read(rules.files.at(each)));
        PAVISE_ASSIGN_OR_RETURN(const evidence::ReferenceValues values,
                                evidence::ParseReferenceValues(content, each));
        PAVISE_RETURN_IF_ERROR((each == name ? own : others).Merge(values));
      }
      evidence::ReferenceValues all = others;
      PAVISE_RETURN_IF_ERROR(all.Merge(own));
      if (policy.reference_values.size() > 1 && all == others) {
        Warn(item, StrCat("the reference values in ", Printable(name),
                          " are shadowed: others list all of them"));
      }
    }
    return absl::OkStatus();
  }

  void LintRules() {
    for (const auto& [name, rule] : agreement_.rules) {
      const std::string item = StrCat("rule ", name);
      bool applies = false;
      for (const auto& [stage_name, stage] : agreement_.stages) {
        const auto on_stage = agreement_.RulesOn(agreement_.AssetsOf(stage));
        applies = applies || on_stage.contains(name);
      }
      if (!applies) Warn(item, "is unused: no stage uses what it is about");
      for (const std::string& stage : rule.stages.value_or(std::set<std::string>())) {
        if (!agreement_.stages.contains(stage)) {
          Warn(item, StrCat("names the stage ", stage, ", which is not there"));
        }
      }
      const OwnerRule nothing = {.owner = rule.owner, .assets = rule.assets};
      if (rule == nothing) Warn(item, "is unused: it narrows nothing");
    }
  }

  void LintChanges() {
    std::set<std::string> owners;
    for (const auto& [name, asset] : agreement_.assets) owners.insert(asset.owner);
    const ChangeRule& changes = agreement_.changes;
    for (const std::string& owner : owners) {
      const bool needed = changes.vetoes.contains(owner) ||
                          (changes.of.contains(owner) && changes.approvals == changes.of.size());
      if (needed) continue;
      const bool has_stages =
          std::any_of(agreement_.rules.begin(), agreement_.rules.end(), [&](const auto& rule) {
            return rule.second.owner == owner && rule.second.stages.has_value();
          });
      Warn(StrCat("stakeholder ", owner),
           has_stages
               ? "others can replace its keys without it"
               : "others can replace its keys, and put its assets to other uses, without it: "
                 "a veto, or a rule that names stages, would prevent the latter");
    }
  }

  const Agreement& agreement_;
  const AttachmentSource& attachments_;
  const absl::Time at_;
  std::vector<Warning> warnings_;
};

std::string Owned(const Agreement& agreement, const std::string& name) {
  const Asset& asset = agreement.assets.at(name);
  return StrCat(name, " (", AssetKindName(asset.kind), " of ", asset.owner, ")");
}

std::string_view ModeInWords(Mode mode) {
  switch (mode) {
    case Mode::kMeasured:
      return "measured: a host that measured what it started, with a TPM";
    case Mode::kTee:
      return "tee: a confidential virtual machine";
    case Mode::kConfidentialGpu:
      return "confidential-gpu: a confidential virtual machine with a GPU in confidential mode";
  }
  return "";
}

void ExplainStage(const Agreement& agreement, const std::string& name, const Stage& stage,
                  std::string& out) {
  StrAppend(&out, "\nStage ", name, ", \"", stage.purpose, "\"\n");
  StrAppend(&out, "  runs:     ", Owned(agreement, stage.code),
            " as: ", absl::StrJoin(stage.command, " "), "\n");
  std::vector<std::string> inputs;
  for (const std::string& input : stage.inputs) inputs.push_back(Owned(agreement, input));
  StrAppend(&out, "  reads:    ", absl::StrJoin(inputs, ", "), "\n");
  for (const auto& [mode, evidence] : stage.modes) {
    StrAppend(&out, "  on:       ", ModeInWords(mode), "\n            (appraisal policy ",
              ToHex(evidence.policy).substr(0, 16), "...)\n");
  }
  StrAppend(&out, "  until:    ", EncodeTime(stage.limits.not_after), ", ", stage.limits.runs,
            stage.limits.runs == 1 ? " run" : " runs");
  if (stage.limits.epochs.has_value()) StrAppend(&out, ", ", *stage.limits.epochs, " epochs each");
  StrAppend(&out, ", appraised again every ", absl::ToInt64Seconds(stage.reattest), " s\n");
  StrAppend(&out, "  network:  ", stage.network.empty() ? "none" : Joined(stage.network), "\n");
  const std::set<std::string> data_owners = agreement.OwnersOf(stage, AssetKind::kData);
  for (const auto& [output_name, output] : stage.outputs) {
    std::set<std::string> approvers = output.approvals;
    approvers.insert(data_owners.begin(), data_owners.end());
    StrAppend(&out, "  output:   ", output_name, " to ", Joined(output.recipients),
              approvers.empty() ? std::string(" without anybody's approval")
                                : StrCat(", once approved by ", Joined(approvers)),
              "\n");
  }
  if (stage.outputs.empty()) StrAppend(&out, "  output:   none\n");
}

void ExplainRule(const std::string& name, const OwnerRule& rule, std::string& out) {
  StrAppend(&out, "  ", name, ", of ", rule.owner, ", on ",
            rule.assets.empty() ? "everything of theirs" : Joined(rule.assets), ":\n");
  const auto line = [&](std::string_view what, std::string_view value) {
    StrAppend(&out, "    ", what, value, "\n");
  };
  if (rule.stages.has_value()) line("only stages ", Joined(*rule.stages));
  if (rule.modes.has_value()) {
    std::set<std::string> names;
    for (const Mode mode : *rule.modes) names.emplace(ModeName(mode));
    line("only in mode ", Joined(names));
  }
  if (rule.purposes.has_value()) {
    line("only for ", StrCat("\"", absl::StrJoin(*rule.purposes, "\", \""), "\""));
  }
  for (const Digest32& code : rule.code.value_or(std::set<Digest32>())) {
    line("only with code whose statement is ", ToHex(code));
  }
  if (rule.recipients.has_value()) line("outputs only to ", Joined(*rule.recipients));
  if (rule.not_after.has_value()) line("until ", EncodeTime(*rule.not_after));
  if (rule.runs.has_value()) line("runs of a stage: ", StrCat(*rule.runs));
  if (rule.forbid_network) line("only without a network", "");
  if (rule.evidence.has_value()) {
    line("only on machines that also fulfil the appraisal policy ", ToHex(rule.evidence->policy));
  }
}

}  // namespace

absl::StatusOr<std::vector<Warning>> LintAgreement(const Agreement& agreement,
                                                   const AttachmentSource& attachments,
                                                   absl::Time at) {
  return Linter(agreement, attachments, at).Run();
}

std::string ExplainAgreement(const Agreement& agreement) {
  std::string out = StrCat(agreement.name, ", version ", agreement.version, "\n\nOwners\n");
  for (const auto& [name, stakeholder] : agreement.stakeholders) {
    std::vector<std::string> owned;
    for (const auto& [asset_name, asset] : agreement.assets) {
      if (asset.owner == name) {
        owned.push_back(StrCat(asset_name, " (", AssetKindName(asset.kind), ")"));
      }
    }
    StrAppend(&out, "  ", name, ": ", owned.empty() ? "owns nothing" : absl::StrJoin(owned, ", "),
              "; signs with ", stakeholder.signing_key.Fingerprint().substr(0, 16), "...\n");
  }
  for (const auto& [name, stage] : agreement.stages) ExplainStage(agreement, name, stage, out);
  if (!agreement.rules.empty()) StrAppend(&out, "\nWhat owners ask in addition\n");
  for (const auto& [name, rule] : agreement.rules) ExplainRule(name, rule, out);

  const ChangeRule& changes = agreement.changes;
  StrAppend(
      &out, "\nChanges\n  need ", changes.approvals, " approvals of ", Joined(changes.of),
      ", and of every owner whose own assets or rules they touch;\n"
      "  so do new keys for somebody who lost theirs: those approvals can replace anybody's.\n");
  if (!changes.vetoes.empty()) {
    StrAppend(&out, "  ", Joined(changes.vetoes), " may veto, for ",
              absl::ToInt64Hours(changes.veto_period), " h after a proposal.\n");
  }
  StrAppend(
      &out,
      "\nA key is released only while every owner of the stage's assets agrees. Each may "
      "withdraw at any\ntime: no key is released then for a stage that uses what is theirs, "
      "and running ones are stopped.\n"
      "\nWhat this does not protect from\n"
      "  - Outputs: who gets one may keep and copy it. A model may have memorised what it was "
      "trained on,\n    and withdrawing consent takes nothing out of a model that was "
      "released.\n"
      "  - The code: it sees its inputs. What it writes to outputs is what owners approve by "
      "looking at it.\n"
      "  - Modes: a measured host is trusted in its hardware and firmware, a confidential one "
      "in its processor;\n    who opens the machine reads the memory of a measured host.\n"
      "  - Keys: whoever holds an owner's signing key is that owner.\n");
  return out;
}

}  // namespace pavise::policy
