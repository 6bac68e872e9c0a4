#include "pavise/agent/run.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <utility>

#include "pavise/agent/internal/destination_proxy.h"
#include "pavise/agent/internal/reattestation.h"
#include "pavise/agent/provenance.h"
#include "pavise/agent/remote_file.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/dsse.h"
#include "pavise/signing/verify.h"

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"

namespace pavise::agent {
namespace {

constexpr std::string_view kLogOutput = "log";
constexpr uint64_t kMaxResidentWeightsBytes = 256;

absl::Status Exactly(const std::map<std::string, std::string>& given,
                     const std::set<std::string>& wanted, std::string_view option) {
  for (const std::string& name : wanted) {
    if (!given.contains(name)) {
      return Refuse(Reason::kFileMissing, name, "the stage has it, and no file is named for it",
                    StrCat("add ", option, " ", name, "=FILE"));
    }
  }
  for (const auto& [name, path] : given) {
    if (!wanted.contains(name)) {
      return Refuse(Reason::kPolicyDenied, name, "is not the stage's",
                    StrCat("leave out ", option, " ", name, "=", path));
    }
  }
  return absl::OkStatus();
}

// What the unsealed files are to be for the command, which as root's is another user's.
void LetEverybodyRead(const std::string& directory) {
  using std::filesystem::perms;
  constexpr perms kRead = perms::owner_read | perms::group_read | perms::others_read;
  constexpr perms kEnter = perms::owner_exec | perms::group_exec | perms::others_exec;
  std::error_code ignored;
  const auto add = [&](const std::filesystem::path& path, bool enter) {
    std::filesystem::permissions(path, enter ? kRead | kEnter : kRead,
                                 std::filesystem::perm_options::add, ignored);
  };
  add(directory, true);
  for (std::filesystem::recursive_directory_iterator at(directory, ignored), end; at != end;
       at.increment(ignored)) {
    if (at->is_symlink(ignored)) continue;
    const perms before = at->status(ignored).permissions();
    add(at->path(), at->is_directory(ignored) || (before & perms::owner_exec) != perms::none);
  }
}

// The content key alone does not make a payload the owner's: their signature does.
absl::Status VerifyAsset(const policy::Agreement& agreement, const std::string& name,
                         const std::string& directory, const std::string& signature,
                         const Clock& clock) {
  const policy::Asset& asset = agreement.assets.at(name);
  signing::TrustedSigners owner;
  owner.keys.push_back({agreement.stakeholders.at(asset.owner).signing_key});
  signing::VerifyOptions options;
  options.model_path = directory;
  options.signature_path = signature;
  options.policy = signing::TrustPolicy::ForSigners(std::move(owner));
  options.digests = signing::DigestChoice::kAll;
  options.clock = &clock;
  PAVISE_ASSIGN_OR_RETURN(const signing::VerifiedModel verified,
                          signing::ModelVerifier::Verify(options));
  if (verified->signed_statement.payload_sha256 != asset.statement) {
    return Refuse(Reason::kContentMismatch, name,
                  "is signed by its owner, and is not what the agreement names");
  }
  return absl::OkStatus();
}

// The state of one run, between its steps.
class StageRun {
 public:
  StageRun(const RunOptions& options, Containment& containment, crypto::PrivateKey& session_key,
           RunBroker& broker, RunVault& vault, const EvidenceSource& evidence)
      : options_(options),
        containment_(containment),
        session_key_(session_key),
        broker_(broker),
        vault_(vault),
        evidence_(evidence) {}

  absl::StatusOr<RunResult> Run() {
    PAVISE_RETURN_IF_ERROR(Attest());
    PAVISE_RETURN_IF_ERROR(ReadAgreement());
    PAVISE_RETURN_IF_ERROR(Reached(RunStep::kAgreed));
    absl::Status done = ObtainAssets();
    if (done.ok()) done = RunCommand();
    if (done.ok()) done = SealOutputs();
    // Nothing of the assets stays while the broker is asked, and whatever it says.
    containment_.Wipe();
    if (!done.ok()) {
      if (begun_) (void)broker_.End(false);
      return done;
    }
    return Conclude();
  }

 private:
  absl::Status Reached(RunStep step) const {
    return options_.on_step ? options_.on_step(step) : absl::OkStatus();
  }

  absl::Status Attest() {
    const absl::Status first = AttestOnce();
    // A broker that was started anew, or another one on the same database, knows no challenge.
    return ReasonOf(first) == Reason::kNonceMismatch ? AttestOnce() : first;
  }

  absl::Status AttestOnce() {
    const absl::Duration asked = internal::SinceBoot();
    PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, broker_.Challenge());
    PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence collected, evidence_(nonce));
    PAVISE_ASSIGN_OR_RETURN(std::string token, broker_.Attest(collected));
    if (token_.empty()) {
      PAVISE_ASSIGN_OR_RETURN(const Bytes encoded, evidence::ToCbor(collected));
      PAVISE_ASSIGN_OR_RETURN(evidence_digest_, crypto::Sha256(encoded));
      if (IsRemote(options_.evidence)) {
        PAVISE_RETURN_IF_ERROR(PutText(AsText(encoded), options_.evidence));
      } else if (!options_.evidence.empty()) {
        PAVISE_RETURN_IF_ERROR(WriteFileAtomically(options_.evidence, encoded));
      }
    }
    token_ = std::move(token);
    attested_ = asked;
    return Reached(RunStep::kAttested);
  }

  // Asks again where the broker cannot be reached, or has forgotten the session, as one does that
  // was started anew or takes another's place on the same database: the machine is appraised again
  // under its session key, with which the run goes on. What is asked this way gives the same when
  // it is asked twice. For no longer than a command would be left running meanwhile.
  template <typename Ask>
  auto Persist(const Ask& ask) -> decltype(ask()) {
    constexpr absl::Duration kPause = absl::Seconds(1);
    const absl::Duration end = internal::SinceBoot() + stage_->reattest + stage_->broker_grace;
    bool was_forgotten = false;
    while (true) {
      auto answer = ask();
      const absl::Status status = StatusOf(answer);
      const std::optional<Reason> reason = ReasonOf(status);
      const bool is_forgotten = reason == Reason::kEvidenceMissing && !was_forgotten;
      if (status.ok() || (reason.has_value() && !is_forgotten)) return answer;
      if (internal::SinceBoot() > end) return answer;
      if (!is_forgotten) {
        absl::SleepFor(kPause);
        continue;
      }
      was_forgotten = true;
      const absl::Status again = Attest();
      if (ReasonOf(again).has_value()) return again;
      // Not reached again: what is asked next says so, too.
      if (!again.ok()) was_forgotten = false;
    }
  }
  static const absl::Status& StatusOf(const absl::Status& status) { return status; }
  template <typename Value>
  static const absl::Status& StatusOf(const absl::StatusOr<Value>& value) {
    return value.status();
  }

  absl::Status ReadAgreement() {
    PAVISE_ASSIGN_OR_RETURN(const Bytes payload, broker_.Agreement());
    PAVISE_ASSIGN_OR_RETURN(payload_digest_, crypto::Sha256(payload));
    PAVISE_ASSIGN_OR_RETURN(agreement_, policy::ParseAgreement(payload, "agreement"));
    // The id is the digest of version 1; of later ones the broker says that they follow.
    if (agreement_.version == 1 && ToHex(payload_digest_) != options_.agreement) {
      return Refuse(Reason::kContentMismatch, "agreement",
                    StrCat("the broker's text is not that of ", Printable(options_.agreement)));
    }
    const uint64_t planned = options_.planned_version;
    if (planned != 0 && planned != agreement_.version) {
      return Refuse(
          planned < agreement_.version ? Reason::kVersionTooOld : Reason::kContentMismatch,
          "agreement",
          StrCat("version ", agreement_.version, " is in force at the broker, and version ",
                 planned, " is what was planned under"),
          "write the agreement's folder anew (pavise policy show), and look at the plan");
    }
    const auto found = agreement_.stages.find(options_.stage);
    if (found == agreement_.stages.end()) {
      return Refuse(Reason::kPolicyDenied, options_.stage, "is no stage of the agreement");
    }
    stage_ = &found->second;
    if (!stage_->modes.contains(options_.mode)) {
      return Refuse(Reason::kPolicyDenied, policy::ModeName(options_.mode),
                    StrCat("is not allowed for ", Printable(options_.stage)));
    }
    PAVISE_RETURN_IF_ERROR(policy::CheckCommand(*stage_, options_.command));
    if (options_.network && stage_->network.empty()) {
      return Refuse(Reason::kPolicyDenied, "network",
                    StrCat("is not granted to ", Printable(options_.stage)), "leave --network out");
    }
    for (const std::string& destination : options_.destinations) {
      if (stage_->network.contains(destination)) continue;
      return Refuse(Reason::kPolicyDenied, destination, "is no destination that the stage grants",
                    StrCat("one of ", absl::StrJoin(stage_->network, ", ")));
    }
    PAVISE_RETURN_IF_ERROR(Exactly(options_.assets, agreement_.AssetsOf(*stage_), "--asset"));
    std::set<std::string> outputs;
    for (const auto& [name, output] : stage_->outputs) outputs.insert(name);
    return Exactly(options_.outputs, outputs, "--output");
  }

  absl::Status ObtainAssets() {
    const std::string& storage = containment_.storage();
    // For commands that load what they verified: no asset's name begins with a dot.
    const std::string signatures = StrCat(storage, "/assets/.signatures");
    const std::string owners = StrCat(storage, "/assets/.owners");
    for (const std::string& folder :
         {signatures, owners, StrCat(storage, "/fetched"), StrCat(storage, "/to-send")}) {
      if (mkdir(folder.c_str(), 0700) != 0) return FromErrno(errno, "mkdir", "storage");
    }
    // Before a key is asked for: what does not arrive costs no run.
    std::map<std::string, std::string> files = options_.assets;
    for (auto& [name, file] : files) {
      if (!IsRemote(file)) continue;
      const std::string fetched = StrCat(storage, "/fetched/", name);
      PAVISE_RETURN_IF_ERROR(FetchFile(file, fetched));
      file = fetched;
    }
    for (const auto& [name, sealed] : files) {
      const std::string directory = StrCat(storage, "/assets/", name);
      const std::string signature = StrCat(signatures, "/", name);
      PAVISE_ASSIGN_OR_RETURN(const SecretBytes key,
                              Persist([this, &name = name] { return broker_.Key(name); }));
      begun_ = true;
      PAVISE_RETURN_IF_ERROR(Reached(RunStep::kKeyReleased));
      PAVISE_RETURN_IF_ERROR(
          vault_.Unseal(sealed, key, agreement_.assets.at(name), directory, signature));
      PAVISE_RETURN_IF_ERROR(VerifyAsset(agreement_, name, directory, signature, *options_.clock));
      const std::string& owner = agreement_.assets.at(name).owner;
      PAVISE_RETURN_IF_ERROR(
          WriteFileAtomically(StrCat(owners, "/", name),
                              AsBytes(agreement_.stakeholders.at(owner).signing_key.ToPem())));
      LetEverybodyRead(directory);
      PAVISE_RETURN_IF_ERROR(Reached(RunStep::kUnsealed));
      if (sealed != options_.assets.at(name)) (void)unlink(sealed.c_str());  // room
    }
    LetEverybodyRead(signatures);
    LetEverybodyRead(owners);
    PAVISE_ASSIGN_OR_RETURN(result_.run, Persist([&] { return broker_.RunId(); }));
    return absl::OkStatus();
  }

  absl::Status RunCommand() {
    // Unsealing may have taken longer than an appraisal may be old.
    if (internal::SinceBoot() - attested_ > stage_->reattest * 2 / 3)
      PAVISE_RETURN_IF_ERROR(Attest());
    began_ = options_.clock->Now();
    absl::StatusOr<CommandEnd> end;
    {
      std::optional<internal::DestinationProxy> network;
      if (options_.network) {
        network.emplace(containment_.TakeNetwork(),
                        options_.destinations.empty() ? stage_->network : options_.destinations);
      }
      internal::Reattestation again(containment_, attested_, stage_->reattest * 2 / 3,
                                    stage_->reattest + stage_->broker_grace,
                                    [this] { return Attest(); });
      end = containment_.Run();
      result_.reattestations = again.count();
    }
    PAVISE_RETURN_IF_ERROR(end.status());
    PAVISE_RETURN_IF_ERROR(end->stopped);
    if (end->exit_status == 0 && !end->time_limit && !end->out_of_memory) {
      PAVISE_RETURN_IF_ERROR(ReadResidentWeights());
      return Reached(RunStep::kCommandEnded);
    }
    if (stage_->outputs.contains(std::string(kLogOutput))) {
      PAVISE_RETURN_IF_ERROR(SealOutput(std::string(kLogOutput)));
    }
    PAVISE_RETURN_IF_ERROR(CheckThatNoWeightsChanged());
    return MachineFailure(
        options_.command[0],
        end->out_of_memory ? "came to its memory limit and was ended"
        : end->time_limit
            ? "came to its time limit and was ended"
            : StrCat("ended with status ", end->exit_status,
                     "; what it printed stays in the containment, unless the agreement has an "
                     "output named \"log\""));
  }

  // Nothing of the command is left that could change the file meanwhile.
  absl::Status ReadResidentWeights() {
    if (!options_.needs_resident_weights) return absl::OkStatus();
    PAVISE_ASSIGN_OR_RETURN(const std::optional<Bytes> text, ResidentWeightsText());
    if (!text.has_value()) {
      return Refuse(Reason::kEvidenceMissing, options_.command[0],
                    "does not say how often the weights in its memory were checked",
                    "take a program that guards them, as pavise infer does; or, in a job, write "
                    "guard_hash: none, where the owners agreed to that");
    }
    PAVISE_ASSIGN_OR_RETURN(resident_weights_, ParseResidentWeights(*text, kResidentWeightsFile));
    return absl::OkStatus();
  }

  // Of a command that failed: whether that is why.
  absl::Status CheckThatNoWeightsChanged() {
    if (!options_.needs_resident_weights) return absl::OkStatus();
    const absl::StatusOr<std::optional<Bytes>> text = ResidentWeightsText();
    if (!text.ok() || !text->has_value() || AsText(**text) != FormatResidentWeights({})) {
      return absl::OkStatus();
    }
    return Refuse(Reason::kContentMismatch, options_.command[0],
                  "found that its weights changed in this machine's memory while it used them, and "
                  "stopped",
                  "run it again; where it comes again, look for what writes to this memory, or for "
                  "a memory module that fails");
  }

  absl::StatusOr<std::optional<Bytes>> ResidentWeightsText() {
    const std::string path = StrCat(containment_.storage(), "/", kResidentWeightsFile);
    struct stat status;
    if (lstat(path.c_str(), &status) != 0) return std::nullopt;
    if (!S_ISREG(status.st_mode)) {
      return Refuse(Reason::kFileTypeRefused, kResidentWeightsFile, "is not a file");
    }
    return ReadFile(path, kMaxResidentWeightsBytes);
  }

  absl::Status SealOutput(const std::string& name) {
    const std::string& storage = containment_.storage();
    const std::string path =
        name == kLogOutput ? StrCat(storage, "/log") : StrCat(storage, "/outputs/", name);
    struct stat status;
    if (lstat(path.c_str(), &status) != 0) {
      return Refuse(Reason::kFileMissing, name, "the command did not write this output",
                    StrCat("let it write /pavise/outputs/", name));
    }
    if (!S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode)) {
      return Refuse(Reason::kFileTypeRefused, name, "is neither a file nor a directory");
    }
    const std::string& place = options_.outputs.at(name);
    const std::string file = IsRemote(place) ? StrCat(storage, "/to-send/", name) : place;
    PAVISE_ASSIGN_OR_RETURN(SealedOutput sealed, vault_.Seal(path, file));
    if (IsRemote(place)) {
      PAVISE_RETURN_IF_ERROR(PutFile(file, place));
      (void)unlink(file.c_str());
    }
    PAVISE_RETURN_IF_ERROR(Reached(RunStep::kOutputSealed));
    PAVISE_RETURN_IF_ERROR(
        Persist([&] { return broker_.DepositOutput(name, sealed.id, sealed.key); }));
    PAVISE_RETURN_IF_ERROR(Reached(RunStep::kOutputDeposited));
    result_.outputs.emplace(name, std::move(sealed));
    return absl::OkStatus();
  }

  absl::Status SealOutputs() {
    // Once more: what is deposited now is this machine's as it is now.
    PAVISE_RETURN_IF_ERROR(Attest());
    for (const auto& [name, output] : stage_->outputs) PAVISE_RETURN_IF_ERROR(SealOutput(name));
    return absl::OkStatus();
  }

  absl::StatusOr<RunResult> Conclude() {
    PAVISE_ASSIGN_OR_RETURN(result_.ledger_index, Persist([&] { return broker_.End(true); }));
    PAVISE_RETURN_IF_ERROR(Reached(RunStep::kEnded));
    result_.version = agreement_.version;
    result_.shortfalls = containment_.shortfalls();
    Provenance provenance;
    provenance.agreement = options_.agreement;
    provenance.version = agreement_.version;
    provenance.agreement_payload = payload_digest_;
    provenance.stage = options_.stage;
    provenance.mode = policy::ModeName(options_.mode);
    provenance.purpose = stage_->purpose;
    provenance.run = result_.run;
    provenance.command = options_.command;
    for (const auto& [name, path] : options_.assets) {
      const policy::Asset& asset = agreement_.assets.at(name);
      provenance.materials.push_back(
          {name, std::string(policy::AssetKindName(asset.kind)), asset.sealed, asset.statement});
    }
    for (const auto& [name, output] : result_.outputs) {
      provenance.outputs[name] = {output.file_sha256, output.id};
    }
    provenance.evidence = evidence_digest_;
    provenance.token = token_;
    provenance.ledger_index = result_.ledger_index;
    provenance.began = began_;
    provenance.ended = options_.clock->Now();
    for (const Shortfall& shortfall : result_.shortfalls) {
      provenance.not_enforced.push_back(shortfall.name);
    }
    provenance.resident_weights = resident_weights_;
    PAVISE_ASSIGN_OR_RETURN(const std::string text, FormatProvenance(provenance));
    PAVISE_ASSIGN_OR_RETURN(
        const crypto::Envelope envelope,
        crypto::SignEnvelope(kProvenancePayloadType, AsBytes(text), session_key_));
    const std::string statement = crypto::FormatEnvelope(envelope);
    PAVISE_RETURN_IF_ERROR(IsRemote(options_.provenance)
                               ? PutText(statement, options_.provenance)
                               : WriteFileAtomically(options_.provenance, AsBytes(statement)));
    PAVISE_RETURN_IF_ERROR(Reached(RunStep::kStated));
    return std::move(result_);
  }

  const RunOptions& options_;
  Containment& containment_;
  crypto::PrivateKey& session_key_;
  RunBroker& broker_;
  RunVault& vault_;
  const EvidenceSource& evidence_;

  std::string token_;
  absl::Duration attested_;
  Digest32 evidence_digest_{};
  Digest32 payload_digest_{};
  policy::Agreement agreement_;
  const policy::Stage* stage_ = nullptr;
  bool begun_ = false;  // the broker counts a run
  absl::Time began_;
  std::optional<ResidentWeights> resident_weights_;
  RunResult result_;
};

}  // namespace

absl::StatusOr<RunResult> RunStage(const RunOptions& options, Containment& containment,
                                   crypto::PrivateKey& session_key, RunBroker& broker,
                                   RunVault& vault, const EvidenceSource& evidence) {
  return StageRun(options, containment, session_key, broker, vault, evidence).Run();
}

}  // namespace pavise::agent
