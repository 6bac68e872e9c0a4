#ifndef PAVISE_AGENT_ATTESTED_RUN_H_
#define PAVISE_AGENT_ATTESTED_RUN_H_

#include <functional>

#include "pavise/agent/containment.h"
#include "pavise/agent/run.h"
#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/collect/session.h"
#include "pavise/kbs/client.h"

#include "absl/status/statusor.h"

namespace pavise::agent {

// Evidence of this machine for one challenge and one session key.
using MachineEvidence = std::function<absl::StatusOr<evidence::CompositeEvidence>(
    const Digest32& nonce, const crypto::PublicKey& session_key)>;

// RunStage as a whole process does it, whoever asks (`pavise run`, `pavise job`): no dumps of this
// process from here on, its memory locked where that may be, the containment made, then the session
// key, then the broker asked. `containment.network` and `.memory_is_locked` are set here. The
// calling thread must live until it returns.
absl::StatusOr<RunResult> RunAttested(const RunOptions& options, ContainmentOptions containment,
                                      const kbs::ClientOptions& broker,
                                      const MachineEvidence& evidence);

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_ATTESTED_RUN_H_
