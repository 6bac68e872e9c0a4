#ifndef PAVISE_JOB_RESULT_H_
#define PAVISE_JOB_RESULT_H_

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/agent/provenance.h"
#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/keys.h"
#include "pavise/ledger/checkpoint.h"
#include "pavise/ledger/entry.h"
#include "pavise/policy/decision.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// What a job leaves for the owners: a folder from which the whole chain is checked without a
// network, broker or database. docs/formats/job.md.
namespace pavise::job {

inline constexpr char kProvenanceFile[] = "provenance.json";
inline constexpr char kEvidenceFile[] = "evidence.cbor";
inline constexpr char kLedgerFile[] = "ledger.json";
inline constexpr char kAgreementFolder[] = "agreement";
inline constexpr char kOutputsFolder[] = "outputs";
inline constexpr std::string_view kSealedSuffix = ".sealed";

// What an owner knows from elsewhere, and believes nothing of the folder without.
struct ResultTrust {
  crypto::PublicKey broker;     // signs tokens
  ledger::CheckpointTrust log;  // the ledger's key, and cosigners'
  Digest32 agreement{};         // the id of what they approved
};

// An owner's statement on the agreement, as it was taken.
struct SignedStep {
  std::string file;  // below agreement/
  // "agreement-proposed", "approval", "abstention", "veto" or "withdrawal", and where it is of
  // another proposal of the run's version, " of another text".
  std::string kind;
  std::string stakeholder;
  uint64_t version = 0;
  absl::Time received;
  uint64_t ledger_index = 0;
};

struct LedgerReference {
  uint64_t index = 0;
  std::string kind;
  absl::Time time;
  std::string asset;
};

struct ResultClaims {
  agent::Provenance run;
  std::string session_key;  // key id
  std::string broker_key;   // key id
  std::string log;          // the ledger's name
  std::string log_key;      // its key, as ledger::NoteKey::Format
  uint64_t log_size = 0;    // of the checkpoint that proves the entries
  std::vector<std::string> cosigners;
  std::vector<SignedStep> agreement;     // up to the run's begin
  std::vector<LedgerReference> entries;  // of the run
  policy::Decision decision;             // the owners' rules on the evidence, made anew
  std::string machine;                   // what the evidence calls it, as the ledger has it
  std::set<std::string> network;         // what the stage's command may reach, by the agreement
};

class ResultVerifier;
using VerifiedResult = Verified<ResultClaims, ResultVerifier>;

// Stateless; thread-safe.
class ResultVerifier {
 public:
  // In this order, the first that fails ends it:
  // - the folder holds these files and no others (kFileMissing, kFileUnsigned, kFileTypeRefused);
  // - the statement: as ProvenanceVerifier; of the agreement that `trust` names (kBindingMismatch);
  // - the ledger's bundle: as BundleVerifier;
  // - each owner's statement is in the ledger as what it is (kTransparencyInvalid), is named by its
  //   number and kind, and pins the attachments (kFileUnsigned); none that the ledger has up to the
  //   run's end is left out (kFileMissing); replayed at the ledger's times they put the run's
  //   version in force before it began, and nobody had withdrawn when a key moved (kRevoked), so
  //   that the broker's word is not needed for approvals;
  // - statement against agreement and ledger: as RunVerifier;
  // - the evidence: the one that statement and ledger name (kContentMismatch), for the session key
  //   that signed (kBindingMismatch), and accepted by every owner's rules at the run's begin,
  //   with the runs that the ledger has before it (reasons of DecideRun);
  // - the sealed outputs: the statement's digests and ids (kContentMismatch).
  // What is left is whom the agreement trusts, and that the broker wrote every release.
  static absl::StatusOr<VerifiedResult> Verify(const std::string& folder, const ResultTrust& trust);
};

}  // namespace pavise::job

#endif  // PAVISE_JOB_RESULT_H_
