#ifndef PAVISE_BROKER_RUN_RECORD_H_
#define PAVISE_BROKER_RUN_RECORD_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/broker/store.h"
#include "pavise/policy/decision.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Rows of the store that a stage's runs leave behind: runs, their counters, deposits of assets'
// keys, outputs. `agreement` is an agreement's id in hexadecimal.
namespace pavise::broker {

enum class RunState { kOpen, kEnded, kRevoked };
std::string_view RunStateName(RunState state);  // "open", "ended", "revoked"

// One run: begun by the first key that a session got for a stage.
struct RunRecord {
  std::string id;  // 16 bytes in hexadecimal
  std::string stage;
  std::string mode;
  uint64_t first_version = 0;  // of the agreement, when it began
  uint64_t version = 0;        // at its last appraisal
  std::string session;         // key id
  // Devices of the machine that it began on (evidence::PartClaims::machine_ids).
  std::set<std::string> machines;
  RunState state = RunState::kOpen;
  absl::Time begun;
  absl::Time appraised;
  uint64_t epochs = 0;
  uint64_t ended_index = 0;  // of the ledger entry of its end

  OrderedJson ToJson() const;
};

absl::StatusOr<std::vector<RunRecord>> ReadRuns(StoreReader& reader, const std::string& agreement);
absl::StatusOr<std::optional<RunRecord>> FindRun(StoreReader& reader, const std::string& agreement,
                                                 const std::string& id);
// The session's open run of the stage. A session has one at a time. kBindingMismatch: it began in
// another mode, and would be recorded as what it was not.
absl::StatusOr<std::optional<RunRecord>> FindOpenRun(StoreReader& reader,
                                                     const std::string& agreement,
                                                     const std::string& stage,
                                                     std::string_view mode,
                                                     const std::string& session);
absl::StatusOr<policy::RunCounters> ReadCounters(StoreReader& reader, const std::string& agreement,
                                                 const std::string& stage,
                                                 const std::optional<RunRecord>& run);
// `runs_begun`: of its stage, with this one.
absl::Status BeginRun(StoreTransaction& transaction, const std::string& agreement,
                      const RunRecord& run, uint64_t runs_begun);
absl::Status PutRun(StoreTransaction& transaction, const std::string& agreement,
                    const RunRecord& run);
// Ended or revoked. A session key whose run was revoked gets nothing more under this agreement.
absl::Status CloseRun(StoreTransaction& transaction, const std::string& agreement, RunRecord run,
                      RunState state);
// kPolicyDenied: this session key has had its run of the stage. Its token is in the provenance for
// everybody to read by then, and must begin no other.
absl::Status CheckNotEnded(StoreReader& reader, const std::string& agreement,
                           const std::string& stage, const std::string& session);
// kRevoked: a run of this session key was.
absl::Status CheckNotRevoked(StoreReader& reader, const std::string& agreement,
                             const std::string& session);

// An asset's key, and the owner's signed word that came with it.
struct DepositRecord {
  std::string envelope;
  std::string broker_key_id;  // that it was encrypted to
  absl::Time time;            // when it was signed
  SecretBytes content_key;
};
absl::StatusOr<std::optional<DepositRecord>> ReadDeposit(StoreReader& reader,
                                                         const std::string& agreement,
                                                         const std::string& asset);
absl::Status PutDeposit(StoreTransaction& transaction, const std::string& agreement,
                        const std::string& asset, const DepositRecord& deposit);

struct OutputRecord {
  std::string run;
  std::string output;
  Digest32 sealed{};
  std::string stage;
  std::string mode;
  uint64_t first_version = 0;  // that the run began under
  uint64_t version = 0;        // that it was under when this was deposited
};
struct KeptOutput {
  OutputRecord record;
  SecretBytes content_key;
};
absl::StatusOr<std::optional<KeptOutput>> ReadOutput(StoreReader& reader,
                                                     const std::string& agreement,
                                                     const std::string& run,
                                                     const std::string& output);
absl::StatusOr<std::vector<OutputRecord>> ReadOutputs(StoreReader& reader,
                                                      const std::string& agreement,
                                                      const std::string& run);
absl::Status PutOutput(StoreTransaction& transaction, const std::string& agreement,
                       const OutputRecord& output, const SecretBytes& content_key);

}  // namespace pavise::broker

#endif  // PAVISE_BROKER_RUN_RECORD_H_
