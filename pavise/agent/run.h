#ifndef PAVISE_AGENT_RUN_H_
#define PAVISE_AGENT_RUN_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/agent/containment.h"
#include "pavise/base/bytes.h"
#include "pavise/base/clock.h"
#include "pavise/base/json.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/collect/session.h"
#include "pavise/policy/agreement.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// One run of an agreement's stage on this machine: from sealed assets to sealed outputs and a
// signed statement of where they come from.
namespace pavise::agent {

// The broker, as a run needs it. One thread at a time. Refusals are the broker's, with what would
// change them; any other error means that it could not be asked.
class RunBroker {
 public:
  virtual ~RunBroker() = default;
  // Begins a session, or goes on with it: the challenge that the next evidence must answer.
  virtual absl::StatusOr<Digest32> Challenge() = 0;
  // Has the machine appraised; the attestation token.
  virtual absl::StatusOr<std::string> Attest(const evidence::CompositeEvidence& evidence) = 0;
  // The payload of the agreement's version in force.
  virtual absl::StatusOr<Bytes> Agreement() = 0;
  // The content key of an asset of the stage. The first one begins a run.
  virtual absl::StatusOr<SecretBytes> Key(std::string_view asset) = 0;
  // The run that has begun: 32 hex digits.
  virtual absl::StatusOr<std::string> RunId() = 0;
  // Leaves an output's content key with the broker, until everybody concerned has approved.
  virtual absl::Status DepositOutput(std::string_view output, const Digest32& sealed,
                                     const SecretBytes& key) = 0;
  // Ends the run; the index of its ledger entry.
  virtual absl::StatusOr<uint64_t> End(bool completed) = 0;
};

struct SealedOutput {
  Digest32 id{};           // of the sealed asset
  Digest32 file_sha256{};  // of the sealed file
  SecretBytes key;         // its content key
};

// Sealed assets, as a run needs them.
class RunVault {
 public:
  virtual ~RunVault() = default;
  // Unseals into `directory`, which does not exist yet, and writes the asset's OMS signature to the
  // file `signature`. Refuses a sealed file with another id or over another signed statement,
  // before anything is written.
  virtual absl::Status Unseal(const std::string& sealed, const SecretBytes& key,
                              const policy::Asset& expected, const std::string& directory,
                              const std::string& signature) = 0;
  // Seals a file or directory that an untrusted command has written: links and special files are
  // refused.
  virtual absl::StatusOr<SealedOutput> Seal(const std::string& path, const std::string& sealed) = 0;
};

using EvidenceSource =
    std::function<absl::StatusOr<evidence::CompositeEvidence>(const Digest32& nonce)>;

// What is behind a run, in order. A run that is cut off begins anew with another session key:
// nothing of it is left on the machine but sealed files.
enum class RunStep {
  kAttested,         // the machine is accepted; also each time that it is appraised again
  kAgreed,           // the agreement in force allows this run
  kKeyReleased,      // of one asset
  kUnsealed,         // one asset; of code its owner's signature held
  kCommandEnded,     // without a failure
  kOutputSealed,     // one output
  kOutputDeposited,  // its key is at the broker
  kEnded,            // at the broker, in its ledger
  kStated,           // the signed statement is written
};

struct RunOptions {
  std::string agreement;  // id: 64 hex digits
  std::string stage;
  policy::Mode mode = policy::Mode::kMeasured;
  // Files, or URLs (remote_file.h): these are fetched into the containment's storage first, and
  // sent from there.
  std::map<std::string, std::string> assets;   // name -> sealed file; all of the stage's
  std::map<std::string, std::string> outputs;  // name -> file to seal to; all of the stage's
  std::string provenance;                      // file to write the signed statement to
  // File for the evidence (CBOR) that the run begins on, written as soon as the broker has accepted
  // it; empty: it is not kept.
  std::string evidence;
  uint64_t planned_version = 0;  // of the agreement; 0: whichever is in force
  std::vector<std::string> command;
  // Whether the command is asked, and then must say, how often it checked the weights in its memory
  // (provenance.h, ResidentWeights).
  bool needs_resident_weights = false;
  // What the containment was made with; only where the stage grants destinations, and those only.
  bool network = false;
  // Where given, of these only; each must be granted.
  std::set<std::string> destinations;
  const Clock* clock = &SystemClock();
  // Called after each step, on the run's thread or, of kAttested, on that which has the machine
  // appraised again. May be empty. An error ends the run as one of that step's does.
  std::function<absl::Status(RunStep)> on_step;
};

struct RunResult {
  std::string run;
  uint64_t version = 0;  // of the agreement
  std::map<std::string, SealedOutput> outputs;
  uint64_t reattestations = 0;
  uint64_t ledger_index = 0;  // of the run's end
  std::vector<Shortfall> shortfalls;
};

// Does it all, in this order: challenge, evidence, token, agreement, files, keys, unsealing into
// the containment's storage, each asset's signature, the command, sealing, deposits, end,
// statement. Nothing of the assets is left when it returns.
//
// While the command runs, a second thread has the machine appraised again, each time after two
// thirds of the stage's `reattest`. A refusal stops the command. So does a broker that was not
// reached for the stage's `reattest` and `broker_grace` together since the last accept.
//
// `containment`: made with `options.command`, and before there was a `session_key`, which is made
// for this run and is what the evidence names. Refusals: kPolicyDenied (the stage,
// mode or command is not the agreement's, a network that it does not grant), kFileMissing (an asset
// without a sealed file, an output that the command did not write), kContentMismatch (another
// agreement's text, or an earlier version than was planned under), kVersionTooOld (a later one is
// in force than was planned under), kSignerUntrusted and others of ModelVerifier for assets,
// kEvidenceMissing (the broker was not reached in time, or the command does not say what it must of
// its weights), kMalformed (or says it wrongly), kRevoked and others of the broker. A command that
// fails, runs out of time or memory is a machine failure; no output is sealed then but "log".
//
// An output named "log" is what the command printed, and is sealed also where it failed.
absl::StatusOr<RunResult> RunStage(const RunOptions& options, Containment& containment,
                                   crypto::PrivateKey& session_key, RunBroker& broker,
                                   RunVault& vault, const EvidenceSource& evidence);

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_RUN_H_
