#ifndef PAVISE_POLICY_STAGE_EVIDENCE_H_
#define PAVISE_POLICY_STAGE_EVIDENCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/machine/machine_appraiser.h"
#include "pavise/policy/history.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::policy {

// What a machine was, or is to be, appraised for.
struct Scope {
  Digest32 agreement{};
  uint64_t version = 0;
  std::string stage;
  Mode mode = Mode::kMeasured;

  // "<agreement id>/<version>/<stage>/<mode>": the policy id of tokens.
  std::string PolicyId() const;
  friend bool operator==(const Scope&, const Scope&) = default;
};

// One appraisal by one set of rules.
struct RulesAppraisal {
  std::vector<std::string> owners;  // whose rules they are; every owner of the stage's for its own
  std::string rule;                 // "stage train, measured", "rule only-our-hosts"
  evidence::MachineAppraisal appraisal;
};

// The outcome of appraising one machine for one scope. `accepted` of every appraisal is there
// exactly where its rules accept.
struct StageAppraisalClaims {
  Scope scope;
  absl::Time at;
  Digest32 evidence{};                     // SHA-256 of the composite's CBOR
  std::string session_key_id;              // fingerprint of the session key; "" where it is no key
  std::vector<RulesAppraisal> appraisals;  // the stage's own first; never empty

  bool accepted() const;
  // What a token is made of. nullptr where not accepted.
  const evidence::VerifiedComposite* composite() const;
  // Devices that some rules trust and that signed this nonce and session key, accepted or not.
  std::set<std::string> SignedBy() const;
};
class StageEvidence;
// Appraised, not necessarily accepted.
using StageAppraisal = Verified<StageAppraisalClaims, StageEvidence>;

// Where attachments come from: by SHA-256, checked again by whoever reads them.
class AttachmentSource {
 public:
  virtual ~AttachmentSource() = default;
  // kFileMissing.
  virtual absl::StatusOr<Bytes> Read(const Digest32& digest) const = 0;
};

// Every set of evidence rules that a stage asks for in one mode: its own, and each owner's whose
// assets it uses. Where sets differ, each is appraised by itself and all must accept; equal ones
// once. Parsed once, then immutable but for what is kept of accepted IMA logs and of certificates,
// which changes no verdict (evidence::ImaPrefixes, crypto::CertificateMemory); thread-safe; copies
// share.
class StageEvidence {
 public:
  // kPolicyDenied: no such stage, or not in this mode; kFileMissing: an attachment is not there;
  // kContentMismatch: its bytes are others; refusals of its parser; kPolicyDenied: a policy that
  // does not require what its mode promises ("measured": tpm; "tee": tee; "confidential-gpu": tee
  // and gpu).
  static absl::StatusOr<StageEvidence> Prepare(const AgreementInForce& agreement,
                                               std::string_view stage, Mode mode,
                                               const AttachmentSource& attachments);

  const Scope& scope() const;
  // `recorded`: nullptr but in tests.
  StageAppraisal Appraise(const evidence::CompositeEvidence& evidence, const Digest32& nonce,
                          absl::Time at, const evidence::RecordedTee* recorded = nullptr) const;

 private:
  struct Prepared;
  explicit StageEvidence(std::shared_ptr<const Prepared> prepared);
  std::shared_ptr<const Prepared> prepared_;
};

}  // namespace pavise::policy

#endif  // PAVISE_POLICY_STAGE_EVIDENCE_H_
