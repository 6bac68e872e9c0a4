#ifndef PAVISE_EVIDENCE_APPRAISE_COMPOSITE_COMPOSITE_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_COMPOSITE_COMPOSITE_APPRAISER_H_

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/evidence/appraise/nvidia/gpu_appraiser.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// Trustworthiness claims of AR4SI (draft-ietf-rats-ar4si, 2.3.2): 0 no claim, 2 to 31 affirming, 32
// to 95 a warning, 96 and above contraindicated.
struct TrustVector {
  int8_t instance_identity = 0;
  int8_t configuration = 0;
  int8_t executables = 0;
  int8_t file_system = 0;
  int8_t hardware = 0;
  int8_t runtime_opaque = 0;
  int8_t storage_opaque = 0;
  int8_t sourced_data = 0;
};
enum class TrustTier { kNone, kAffirming, kWarning, kContraindicated };
std::string_view TrustTierName(TrustTier tier);  // "affirming"
// The worst tier of the claims that are made.
TrustTier TierOf(const TrustVector& vector);

// What an appraiser found out about one part. Made from Verified claims by the functions below, one
// a kind of evidence, and by nothing else.
struct PartClaims {
  PartKind kind = PartKind::kGpu;
  std::string label;                     // "gpu0", "tpm", "tee": unique, the EAR's submodule
  std::vector<std::string> machine_ids;  // what identifies the device: "gpu:48B0...", "ek:<sha256>"
  Digest32 bound{};                      // what the device signed: nonce, qualifying data, ...
  std::vector<std::string> vouched_ids;  // TEE only: devices that it itself has bound (TEE-IO)
  Json claims;
  TrustVector trust;
  std::vector<Check> checks;
};

PartClaims FromGpu(const VerifiedGpu& gpu, std::string_view label, const CheckList& checks);

// Devices that the owners say are one machine.
struct PinnedMachine {
  std::string name;
  std::vector<std::string> machine_ids;
};

struct CompositePolicy {
  std::set<PartKind> required;
  std::vector<PinnedMachine> machines;
  bool require_co_location = false;
};

// Whether the parts are parts of one machine. The binding proves one session, not one machine: a
// relay can carry a challenge to several.
enum class CoLocation { kSinglePart, kTeeBound, kPinned, kNotProven };
// "one part", "bound by the TEE", "identities pinned", "co-location not proven".
std::string_view CoLocationName(CoLocation co_location);

struct CompositeClaims {
  Digest32 nonce{};
  crypto::PublicKey session_key;
  std::vector<PartClaims> parts;
  CoLocation co_location = CoLocation::kNotProven;
  std::string machine;  // the pinned machine's name, else the parts' IDs
  absl::Time at;        // what validity was held against
  std::vector<Check> checks;
};

class CompositeAppraiser;
using VerifiedComposite = Verified<CompositeClaims, CompositeAppraiser>;

// Joins parts that were appraised one by one. Pure; thread-safe.
class CompositeAppraiser {
 public:
  // `parts`: one for each of `evidence.parts`, in its order. Each a check in `checks`:
  // - "composite form" (CheckForm, the session key's type). A refusal ends the appraisal.
  // - "session nonce": `evidence` answers `nonce`. kNonceMismatch.
  // - "required parts": kEvidenceMissing.
  // - "binding of ...": the part signed BindingValue of its role, nonce, session key and the parts
  //   before it. kBindingMismatch.
  // - "identity of ...": it names a device, and no other part names the same. kBindingMismatch.
  // - "co-location": proven by a TEE that vouches for every other part, or by one pinned machine
  // that
  //   lists an ID of every part; otherwise passed as "co-location not proven", or kBindingMismatch
  //   where the policy requires it.
  static absl::StatusOr<VerifiedComposite> Appraise(const CompositeEvidence& evidence,
                                                    std::vector<PartClaims> parts,
                                                    const Digest32& nonce,
                                                    const CompositePolicy& policy, absl::Time at,
                                                    CheckList& checks);
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_COMPOSITE_COMPOSITE_APPRAISER_H_
