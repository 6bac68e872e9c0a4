#ifndef PAVISE_JOB_JOB_FILE_H_
#define PAVISE_JOB_JOB_FILE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/agent/containment.h"
#include "pavise/base/bytes.h"
#include "pavise/evidence/collect/session.h"
#include "pavise/kbs/client.h"
#include "pavise/offload/leakage.h"
#include "pavise/policy/agreement.h"

#include "absl/status/statusor.h"

// One run of an agreement's stage as its operator writes it down: docs/formats/job.md. Values;
// nothing here is checked against the agreement (plan.h does).
namespace pavise::job {

inline constexpr uint64_t kMaxJobBytes = uint64_t{64} << 10;
inline constexpr size_t kMaxWorkers = 64;

enum class TrustMode {
  kMeasured,
  kTee,
  kConfidentialGpu,
  kObfuscated,  // this machine as under `Job::machine`, products by workers that nobody trusts
};
std::string_view TrustModeName(TrustMode mode);  // "measured", "tee", ...

struct Worker {
  std::string address;        // host:port
  std::string operator_name;  // who can read its memory; "": not said
  friend bool operator==(const Worker&, const Worker&) = default;
};

// Who multiplies, where it is not this machine.
struct Obfuscation {
  std::string scheme;           // "none", "tempo", "orthogonal", "shared"
  std::vector<Worker> workers;  // at addresses, or
  uint64_t in_process = 0;      // so many within the command, which hide nothing from it
};

struct Job {
  std::string item;    // the file, as refusals name it
  Digest32 digest{};   // of what it says, but for workers and their certificates
  std::string folder;  // that paths in it are from

  std::string agreement;  // a folder that `pavise policy show --output` wrote
  std::string stage;
  TrustMode mode = TrustMode::kMeasured;
  policy::Mode machine = policy::Mode::kMeasured;  // what this machine is to be accepted under
  std::optional<Obfuscation> obfuscation;
  kbs::ClientOptions broker;
  std::map<std::string, std::string> assets;             // name -> sealed file, or URL
  std::map<std::string, std::set<std::string>> outputs;  // name -> its recipients
  // What runs, as it is signed: written out, or made of the settings of train or infer.
  std::vector<std::string> command;
  std::optional<offload::Use> use;  // of train and infer
  // That the command checks the weights in its memory and says how often: infer, unless it is told
  // not to.
  bool guards_weights = false;
  bool network = false;                // whether the command reaches what the stage grants,
  std::set<std::string> destinations;  // or these of it only, where there are any
  agent::ContainmentOptions containment;
  evidence::CollectionOptions evidence;
  std::string output;         // folder for state and result
  std::string ledger_reader;  // a stakeholder's signing key (PEM), to fetch the ledger; may be ""
};

// kMalformed: not the subset of YAML, a member that is not known or missing, a value that is none;
// kLimitExceeded. Refusals name the file, the line and the member. Paths become absolute where
// `folder` is; nothing is read.
absl::StatusOr<Job> ParseJob(ByteSpan yaml, const std::string& item, const std::string& folder);
// The file, with its own folder.
absl::StatusOr<Job> ReadJob(const std::string& path);

}  // namespace pavise::job

#endif  // PAVISE_JOB_JOB_FILE_H_
