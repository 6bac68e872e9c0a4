#include "pavise/policy/stage_evidence.h"

#include <algorithm>
#include <set>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/evidence/appraise/machine/trust_files.h"
#include "pavise/policy/internal/prepared_rules.h"

namespace pavise::policy {
namespace internal {
namespace {

absl::StatusOr<Bytes> ReadAttachment(const AttachmentSource& attachments, const Digest32& digest,
                                     const std::string& item) {
  PAVISE_ASSIGN_OR_RETURN(Bytes content, attachments.Read(digest));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 actual, crypto::Sha256(content));
  if (actual != digest) {
    return Refuse(Reason::kContentMismatch, item,
                  StrCat("has the digest ", ToHex(actual), "; the agreement pins ", ToHex(digest)));
  }
  return content;
}

}  // namespace

absl::StatusOr<PreparedRules> PrepareRules(const EvidenceRules& rules,
                                           const AttachmentSource& attachments,
                                           std::string_view item) {
  const std::string policy_item = StrCat(item, ": appraisal policy");
  PreparedRules prepared;
  PAVISE_ASSIGN_OR_RETURN(const Bytes policy,
                          ReadAttachment(attachments, rules.policy, policy_item));
  PAVISE_ASSIGN_OR_RETURN(prepared.policy, evidence::ParseAppraisalPolicy(policy, policy_item));
  std::set<std::string> unused;
  for (const auto& [name, digest] : rules.files) unused.insert(name);
  const auto file = [&](const std::string& name) -> absl::StatusOr<Bytes> {
    const auto found = rules.files.find(name);
    const std::string file_item = StrCat(item, ": ", Printable(name));
    if (found == rules.files.end()) {
      return Refuse(Reason::kMalformed, file_item, "is named by the policy and not pinned");
    }
    unused.erase(name);
    return ReadAttachment(attachments, found->second, file_item);
  };
  for (const std::string& name : prepared.policy.reference_values) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes content, file(name));
    PAVISE_ASSIGN_OR_RETURN(
        const evidence::ReferenceValues values,
        evidence::ParseReferenceValues(content, StrCat(item, ": ", Printable(name))));
    PAVISE_RETURN_IF_ERROR(prepared.references.Merge(values));
  }
  for (const std::string& name : prepared.policy.driver_rims) {
    PAVISE_ASSIGN_OR_RETURN(Bytes content, file(name));
    prepared.trust.driver_rims.push_back(std::move(content));
  }
  for (const std::string& name : prepared.policy.vbios_rims) {
    PAVISE_ASSIGN_OR_RETURN(Bytes content, file(name));
    prepared.trust.vbios_rims.push_back(std::move(content));
  }
  if (!unused.empty()) {
    return Refuse(Reason::kMalformed, StrCat(item, ": ", Printable(*unused.begin())),
                  "is pinned, and the policy does not name it");
  }
  std::map<std::string, Bytes> anchors;
  for (const auto& [name, digest] : rules.anchors) {
    PAVISE_ASSIGN_OR_RETURN(
        anchors[name], ReadAttachment(attachments, digest, StrCat(item, ": ", Printable(name))));
  }
  PAVISE_ASSIGN_OR_RETURN(evidence::MachineTrust trust, evidence::ParseTrustFiles(anchors, item));
  trust.driver_rims = std::move(prepared.trust.driver_rims);
  trust.vbios_rims = std::move(prepared.trust.vbios_rims);
  prepared.trust = std::move(trust);
  if (prepared.policy.tpm.ima) {
    // Rules that make no policy are refused by each appraisal, with its other findings.
    if (auto ima = evidence::ImaPolicyOf(prepared.references); ima.ok()) {
      prepared.ima = *std::move(ima);
    }
  }
  return prepared;
}

absl::Status CheckMode(const evidence::AppraisalPolicy& policy, Mode mode, std::string_view item) {
  std::vector<evidence::PartKind> promised;
  switch (mode) {
    case Mode::kMeasured:
      promised = {evidence::PartKind::kTpm};
      break;
    case Mode::kTee:
      promised = {evidence::PartKind::kTee};
      break;
    case Mode::kConfidentialGpu:
      promised = {evidence::PartKind::kTee, evidence::PartKind::kGpu};
      break;
  }
  for (const evidence::PartKind kind : promised) {
    if (policy.composite.required.contains(kind)) continue;
    return Refuse(Reason::kPolicyDenied, item,
                  StrCat("its appraisal policy does not require evidence of a ",
                         evidence::PartKindName(kind)),
                  StrCat("add \"", evidence::PartKindName(kind), "\" to the policy's required"));
  }
  return absl::OkStatus();
}

}  // namespace internal

// One set of rules, of everybody who asks for it.
struct StageEvidence::Prepared {
  struct Rules {
    std::vector<std::string> owners;
    std::string rule;
    internal::PreparedRules prepared;
    std::unique_ptr<evidence::ImaPrefixes> ima_prefixes = std::make_unique<evidence::ImaPrefixes>();
  };
  Scope scope;
  std::vector<Rules> rules;
  std::unique_ptr<crypto::CertificateMemory> certificates =
      std::make_unique<crypto::CertificateMemory>();
};

std::string Scope::PolicyId() const {
  return StrCat(ToHex(agreement), "/", version, "/", stage, "/", ModeName(mode));
}

bool StageAppraisalClaims::accepted() const {
  return !appraisals.empty() &&
         std::all_of(appraisals.begin(), appraisals.end(), [](const RulesAppraisal& each) {
           return each.appraisal.status.ok() && each.appraisal.accepted.has_value();
         });
}

const evidence::VerifiedComposite* StageAppraisalClaims::composite() const {
  return accepted() ? &*appraisals.front().appraisal.accepted : nullptr;
}

std::set<std::string> StageAppraisalClaims::SignedBy() const {
  std::set<std::string> devices;
  for (const RulesAppraisal& each : appraisals) {
    devices.insert(each.appraisal.signed_by.begin(), each.appraisal.signed_by.end());
  }
  return devices;
}

StageEvidence::StageEvidence(std::shared_ptr<const Prepared> prepared)
    : prepared_(std::move(prepared)) {}

absl::StatusOr<StageEvidence> StageEvidence::Prepare(const AgreementInForce& agreement,
                                                     std::string_view stage_name, Mode mode,
                                                     const AttachmentSource& attachments) {
  const Agreement& text = *agreement->agreement;
  const auto stage = text.stages.find(std::string(stage_name));
  if (stage == text.stages.end()) {
    return Refuse(Reason::kPolicyDenied, StrCat("stage ", Printable(stage_name)),
                  "is not in the agreement", "take one of the stages that it names");
  }
  const std::string item = StrCat("stage ", stage_name, ", ", ModeName(mode));
  const auto rules = stage->second.modes.find(mode);
  if (rules == stage->second.modes.end()) {
    return Refuse(Reason::kPolicyDenied, item, "the stage may not run in this mode",
                  "take one of the modes that the stage names");
  }
  auto prepared = std::make_shared<Prepared>();
  prepared->scope = {
      .agreement = agreement->id, .version = text.version, .stage = stage->first, .mode = mode};
  std::map<EvidenceRules, size_t> places;
  const auto add = [&](const EvidenceRules& each, std::vector<std::string> owners,
                       const std::string& rule) -> absl::Status {
    const auto [place, is_new] = places.emplace(each, prepared->rules.size());
    if (!is_new) {
      std::vector<std::string>& known = prepared->rules[place->second].owners;
      for (std::string& owner : owners) {
        if (std::find(known.begin(), known.end(), owner) == known.end()) {
          known.push_back(std::move(owner));
        }
      }
      return absl::OkStatus();
    }
    PAVISE_ASSIGN_OR_RETURN(internal::PreparedRules parsed,
                            internal::PrepareRules(each, attachments, rule));
    prepared->rules.push_back({std::move(owners), rule, std::move(parsed)});
    return absl::OkStatus();
  };
  const std::set<std::string> owners = text.OwnersOf(stage->second);
  PAVISE_RETURN_IF_ERROR(add(rules->second, {owners.begin(), owners.end()}, item));
  PAVISE_RETURN_IF_ERROR(internal::CheckMode(prepared->rules.front().prepared.policy, mode, item));
  for (const auto& [name, rule] : text.RulesOn(text.AssetsOf(stage->second))) {
    if (rule->evidence.has_value()) {
      PAVISE_RETURN_IF_ERROR(add(*rule->evidence, {rule->owner}, StrCat("rule ", name)));
    }
  }
  return StageEvidence(std::move(prepared));
}

const Scope& StageEvidence::scope() const { return prepared_->scope; }

StageAppraisal StageEvidence::Appraise(const evidence::CompositeEvidence& composite,
                                       const Digest32& nonce, absl::Time at,
                                       const evidence::RecordedTee* recorded) const {
  StageAppraisalClaims claims;
  claims.scope = prepared_->scope;
  claims.at = at;
  for (const Prepared::Rules& rules : prepared_->rules) {
    claims.appraisals.push_back(
        {rules.owners, rules.rule,
         evidence::AppraiseMachine(composite, rules.prepared.policy, rules.prepared.references,
                                   rules.prepared.trust, nonce, at,
                                   rules.prepared.ima ? &*rules.prepared.ima : nullptr, recorded,
                                   rules.ima_prefixes.get(), prepared_->certificates.get())});
  }
  // What could not be named is not accepted either: the decision would not say of what it speaks.
  const auto refuse = [&](const absl::Status& status) {
    evidence::MachineAppraisal& first = claims.appraisals.front().appraisal;
    first.accepted.reset();
    if (first.status.ok()) first.status = status;
  };
  if (const auto key = crypto::PublicKey::FromDer(composite.session_key, "session key"); key.ok()) {
    claims.session_key_id = key->Fingerprint();
  } else {
    refuse(key.status());
  }
  const absl::StatusOr<Bytes> encoded = evidence::ToCbor(composite);
  const absl::StatusOr<Digest32> digest =
      encoded.ok() ? crypto::Sha256(*encoded) : absl::StatusOr<Digest32>(encoded.status());
  if (digest.ok()) {
    claims.evidence = *digest;
  } else {
    refuse(digest.status());
  }
  return StageAppraisal(std::move(claims));
}

}  // namespace pavise::policy
