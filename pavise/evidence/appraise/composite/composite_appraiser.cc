#include "pavise/evidence/appraise/composite/composite_appraiser.h"

#include <algorithm>
#include <utility>

#include "pavise/base/strings.h"

#include "absl/strings/str_join.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kItem = "composite evidence";

TrustTier TierOfClaim(int8_t claim) {
  // Negative values are a verifier's own (AR4SI, 2.3.1): -2 to -32 affirm, -33 to -96 warn.
  const int size = claim < -1 ? std::max(2, -claim - 1) : claim;
  if (size <= 1) return TrustTier::kNone;
  if (size < 32) return TrustTier::kAffirming;
  return size < 96 ? TrustTier::kWarning : TrustTier::kContraindicated;
}

bool Shares(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  return std::any_of(a.begin(), a.end(), [&](const std::string& id) {
    return std::find(b.begin(), b.end(), id) != b.end();
  });
}

absl::Status CheckForms(const CompositeEvidence& evidence, const std::vector<PartClaims>& parts) {
  PAVISE_RETURN_IF_ERROR(CheckForm(evidence));
  if (parts.size() != evidence.parts.size()) {
    return Refuse(Reason::kEvidenceMissing, kItem,
                  StrCat(evidence.parts.size(), " parts, and claims of ", parts.size()),
                  "appraise every part");
  }
  std::set<std::string> labels;
  for (size_t i = 0; i < parts.size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(const PartKind kind, KindOf(evidence.parts[i]));
    if (parts[i].kind != kind || parts[i].label.empty() || !labels.insert(parts[i].label).second) {
      return Refuse(Reason::kBindingMismatch, kItem,
                    StrCat("the claims of ", parts[i].label, " are not those of part ", i, ", a ",
                           PartKindName(kind)),
                    "appraise the parts in their order, each under a name of its own");
    }
  }
  return absl::OkStatus();
}

// The values that the parts must have signed, in order.
absl::StatusOr<std::vector<Digest32>> Bindings(const CompositeEvidence& evidence) {
  std::vector<Digest32> bindings, collected;
  for (const EvidencePart& part : evidence.parts) {
    PAVISE_ASSIGN_OR_RETURN(const PartKind kind, KindOf(part));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 binding,
                            BindingValue(kind, evidence.nonce, evidence.session_key, collected));
    bindings.push_back(binding);
    if (&part == &evidence.parts.back()) break;  // nothing is bound to it
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, PartDigest(part));
    collected.push_back(digest);
  }
  return bindings;
}

void CheckRequired(const std::vector<PartClaims>& parts, const CompositePolicy& policy,
                   CheckList& checks) {
  for (const PartKind kind : policy.required) {
    const bool is_there = std::any_of(parts.begin(), parts.end(),
                                      [&](const PartClaims& part) { return part.kind == kind; });
    if (is_there) {
      checks.Pass("required parts", PartKindName(kind));
    } else {
      checks.Fail("required parts", Reason::kEvidenceMissing, kItem,
                  StrCat("the policy requires evidence of a ", PartKindName(kind)),
                  "collect it on the machine, for a new challenge");
    }
  }
}

void CheckIdentities(const std::vector<PartClaims>& parts, CheckList& checks) {
  for (const PartClaims& part : parts) {
    const std::string name = StrCat("identity of ", part.label);
    const auto same = std::find_if(parts.begin(), parts.end(), [&](const PartClaims& other) {
      return &other != &part && Shares(other.machine_ids, part.machine_ids);
    });
    if (part.machine_ids.empty()) {
      checks.Fail(name, Reason::kBindingMismatch, part.label, "it names no device",
                  "send evidence that says which one it is of; on an SEV-SNP host, with the chip's "
                  "ID not masked");
    } else if (same != parts.end()) {
      checks.Fail(name, Reason::kBindingMismatch, part.label,
                  StrCat("it is the same device as ", same->label),
                  "send the evidence of each device once");
    } else {
      checks.Pass(name, absl::StrJoin(part.machine_ids, ", "));
    }
  }
}

CoLocation Locate(const std::vector<PartClaims>& parts, const CompositePolicy& policy,
                  std::string& machine) {
  for (const PinnedMachine& pinned : policy.machines) {
    const bool has_all = std::all_of(parts.begin(), parts.end(), [&](const PartClaims& part) {
      return Shares(part.machine_ids, pinned.machine_ids);
    });
    if (!has_all) continue;
    machine = pinned.name;
    return parts.size() == 1 ? CoLocation::kSinglePart : CoLocation::kPinned;
  }
  std::vector<std::string> ids;
  for (const PartClaims& part : parts) {
    ids.insert(ids.end(), part.machine_ids.begin(), part.machine_ids.end());
  }
  machine = absl::StrJoin(ids, ", ");
  if (parts.size() == 1) return CoLocation::kSinglePart;
  for (const PartClaims& tee : parts) {
    const bool vouches = tee.kind == PartKind::kTee &&
                         std::all_of(parts.begin(), parts.end(), [&](const PartClaims& part) {
                           return &part == &tee || Shares(part.machine_ids, tee.vouched_ids);
                         });
    if (vouches) return CoLocation::kTeeBound;
  }
  return CoLocation::kNotProven;
}

}  // namespace

std::string_view TrustTierName(TrustTier tier) {
  switch (tier) {
    case TrustTier::kNone:
      return "none";
    case TrustTier::kAffirming:
      return "affirming";
    case TrustTier::kWarning:
      return "warning";
    case TrustTier::kContraindicated:
      break;
  }
  return "contraindicated";
}

TrustTier TierOf(const TrustVector& vector) {
  TrustTier worst = TrustTier::kNone;
  for (const int8_t claim :
       {vector.instance_identity, vector.configuration, vector.executables, vector.file_system,
        vector.hardware, vector.runtime_opaque, vector.storage_opaque, vector.sourced_data}) {
    worst = std::max(worst, TierOfClaim(claim));
  }
  return worst;
}

std::string_view CoLocationName(CoLocation co_location) {
  switch (co_location) {
    case CoLocation::kSinglePart:
      return "one part";
    case CoLocation::kTeeBound:
      return "bound by the TEE";
    case CoLocation::kPinned:
      return "identities pinned";
    case CoLocation::kNotProven:
      break;
  }
  return "co-location not proven";
}

PartClaims FromGpu(const VerifiedGpu& gpu, std::string_view label, const CheckList& checks) {
  PartClaims part;
  part.kind = PartKind::kGpu;
  part.label = label;
  part.machine_ids = {StrCat("gpu:", gpu->serial)};
  part.bound = gpu->nonce;
  part.claims = {{"architecture", std::string(GpuArchitectureName(gpu->architecture))},
                 {"product", gpu->product},
                 {"serial", gpu->serial},
                 {"device_certificate", gpu->device_certificate},
                 {"driver_version", gpu->driver_version},
                 {"vbios_version", gpu->vbios_version},
                 {"board_id", gpu->board_id},
                 {"driver_rim", gpu->driver_rim},
                 {"vbios_rim", gpu->vbios_rim},
                 {"matched_measurements", gpu->matched},
                 {"uncovered_measurements", gpu->uncovered}};
  if (gpu->firmware_id.has_value()) part.claims["firmware_id"] = ToHex(*gpu->firmware_id);
  if (gpu->protected_pcie.has_value()) part.claims["protected_pcie"] = *gpu->protected_pcie;
  // Known device, genuine hardware, boot-time firmware as published. Whether memory is encrypted,
  // the report does not say.
  part.trust.instance_identity = 2;
  part.trust.hardware = 2;
  part.trust.executables = 3;
  part.checks = checks.checks();
  return part;
}

absl::StatusOr<VerifiedComposite> CompositeAppraiser::Appraise(const CompositeEvidence& evidence,
                                                               std::vector<PartClaims> parts,
                                                               const Digest32& nonce,
                                                               const CompositePolicy& policy,
                                                               absl::Time at, CheckList& checks) {
  PAVISE_RETURN_IF_ERROR(
      checks.Add("composite form", StrCat(parts.size(), " parts"), CheckForms(evidence, parts)));
  const absl::StatusOr<std::vector<Digest32>> bindings = Bindings(evidence);
  PAVISE_RETURN_IF_ERROR(checks.Add("session key", "an EC key", bindings.status()));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey session_key,
                          crypto::PublicKey::FromDer(evidence.session_key, "session key"));
  if (evidence.nonce == nonce) {
    checks.Pass("session nonce", ToHex(nonce));
  } else {
    checks.Fail("session nonce", Reason::kNonceMismatch, kItem,
                StrCat("it answers ", ToHex(evidence.nonce), ", the challenge was ", ToHex(nonce)),
                "collect the evidence anew, for this challenge");
  }
  CheckRequired(parts, policy, checks);
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string name = StrCat("binding of ", parts[i].label);
    if (parts[i].bound == (*bindings)[i]) {
      checks.Pass(name, ToHex(parts[i].bound));
    } else {
      checks.Fail(name, Reason::kBindingMismatch, parts[i].label,
                  StrCat("it signed ", ToHex(parts[i].bound), ", and not ", ToHex((*bindings)[i]),
                         " (this nonce, session key and the parts before it)"),
                  "collect all parts in one go: GPUs, TPM, TEE");
    }
  }
  CheckIdentities(parts, checks);

  std::string machine;
  const CoLocation co_location = Locate(parts, policy, machine);
  if (co_location == CoLocation::kNotProven && policy.require_co_location) {
    checks.Fail("co-location", Reason::kBindingMismatch, machine, CoLocationName(co_location),
                "list the devices as one machine in the policy, or use a TEE that binds them");
  } else {
    checks.Pass("co-location", CoLocationName(co_location));
  }
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedComposite(CompositeClaims{evidence.nonce, std::move(session_key), std::move(parts),
                                           co_location, std::move(machine), at, checks.checks()});
}

}  // namespace pavise::evidence
