#ifndef PAVISE_AGENT_RUN_VERIFIER_H_
#define PAVISE_AGENT_RUN_VERIFIER_H_

#include <string_view>

#include "pavise/agent/provenance.h"
#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/ledger/bundle.h"

#include "absl/status/statusor.h"

namespace pavise::agent {

class RunVerifier;
// A statement that agreement and ledger bear out.
using VerifiedRun = Verified<Provenance, RunVerifier>;

// Stateless; thread-safe.
class RunVerifier {
 public:
  // Holds a run's statement against what its owners have, offline. `agreement`: the envelope of the
  // agreement's version, as it was proposed. `ledger`: with every entry of that agreement up to the
  // run's end. All findings together:
  // - kBindingMismatch: the statement names another agreement, or is not what that one allows
  //   (stage, mode, purpose, command, inputs and outputs by name, kind and digest);
  // - kEvidenceMissing: the ledger, as far as it is here, lacks an entry of the agreement, or one
  //   that the run must have: the version in force, the run's begin and end, a release for each
  //   input, a deposit for each output;
  // - kTransparencyInvalid: an entry of the run says otherwise: session key (of each of its
  //   entries), evidence, stage, mode, version, sealed assets, an input or output that the
  //   statement lacks, a release or deposit that does not stand between begin and end, a run that
  //   failed;
  // - kRevoked: the run was stopped.
  // That the version's approvals are the owners' is the broker's word in the ledger, and theirs to
  // replay (pavise policy show).
  static absl::StatusOr<VerifiedRun> Verify(const VerifiedProvenance& statement, ByteSpan agreement,
                                            const ledger::VerifiedBundle& ledger,
                                            std::string_view item);
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_RUN_VERIFIER_H_
