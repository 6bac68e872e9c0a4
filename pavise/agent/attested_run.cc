#include "pavise/agent/attested_run.h"

#include <memory>
#include <string>
#include <vector>

#include "pavise/agent/kbs_broker.h"
#include "pavise/agent/provenance.h"
#include "pavise/agent/vault_files.h"
#include "pavise/base/process_memory.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::agent {

absl::StatusOr<RunResult> RunAttested(const RunOptions& options, ContainmentOptions containment,
                                      const kbs::ClientOptions& broker_options,
                                      const MachineEvidence& evidence) {
  PAVISE_ASSIGN_OR_RETURN(kbs::Client client, kbs::Client::Create(broker_options));
  // Keys will be in this process.
  PAVISE_RETURN_IF_ERROR(ForbidDumps());
  containment.memory_is_locked = LockMemory();
  containment.network = options.network;
  // First, since it forks: no other process has what comes now.
  std::vector<std::string> variables;
  if (options.needs_resident_weights) {
    variables.push_back(StrCat(kResidentWeightsVariable, "=/pavise/", kResidentWeightsFile));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<Containment> contained,
                          Containment::Create(containment, options.command, variables));
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                          crypto::PrivateKey::Generate(crypto::KeyType::kEcP256));
  KbsBroker broker(client, key, options);
  VaultFiles vault;
  return RunStage(options, *contained, key, broker, vault,
                  [&](const Digest32& nonce) { return evidence(nonce, key.public_key()); });
}

}  // namespace pavise::agent
