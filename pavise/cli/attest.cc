#include <errno.h>
#include <fcntl.h>
#include <termios.h>
#include <unistd.h>

#include <memory>

#include "pavise/base/file.h"
#include "pavise/base/json.h"
#include "pavise/base/random.h"
#include "pavise/base/strings.h"
#include "pavise/cli/evidence_arguments.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/verb.h"
#include "pavise/evidence/appraise/composite/composite_evidence.h"
#include "pavise/evidence/collect/session.h"

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"

namespace pavise::cli {
namespace {

constexpr const char* kChallengeGroup = "Challenge";
constexpr const char* kEvidenceGroup = "What is collected";
// docs/formats/evidence.md, "Over a serial port".
constexpr std::string_view kGreeting = "pavise-evidence 1\n";
constexpr size_t kNonceTextBytes = 64;
constexpr uint64_t kMostChallengeBytes = uint64_t{64} << 10;

// A terminal line without translation of what passes, closed when it goes.
class SerialPort {
 public:
  static absl::StatusOr<SerialPort> Open(const std::string& path) {
    FileDescriptor file(open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    if (!file.is_open()) return FromErrno(errno, "opening", path);
    struct termios settings;
    if (tcgetattr(file.get(), &settings) != 0) return FromErrno(errno, "asking", path);
    cfmakeraw(&settings);
    if (tcsetattr(file.get(), TCSANOW, &settings) != 0) return FromErrno(errno, "setting", path);
    return SerialPort(std::move(file), path);
  }

  absl::Status Write(ByteSpan bytes) const {
    while (!bytes.empty()) {
      const ssize_t count = write(file_.get(), bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return FromErrno(errno, "writing", path_);
      bytes = bytes.subspan(static_cast<size_t>(count));
    }
    if (tcdrain(file_.get()) != 0) return FromErrno(errno, "writing", path_);
    return absl::OkStatus();
  }

  // Up to and without the line feed.
  absl::StatusOr<std::string> ReadLine(size_t max_bytes) const {
    std::string line;
    while (line.size() <= max_bytes) {
      char c = 0;
      const ssize_t count = read(file_.get(), &c, 1);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return FromErrno(errno, "reading", path_);
      if (count == 0) return MachineFailure(path_, "the line was hung up");
      if (c == '\n') return line;
      line.push_back(c);
    }
    return Refuse(Reason::kMalformed, path_, "the challenge is longer than a challenge is");
  }

 private:
  SerialPort(FileDescriptor file, std::string path)
      : file_(std::move(file)), path_(std::move(path)) {}
  FileDescriptor file_;
  std::string path_;
};

class AttestVerb final : public Verb {
 public:
  std::string_view name() const override { return "attest"; }
  std::string_view group() const override { return "Evidence"; }
  std::string_view summary() const override {
    return "Collect evidence of what this machine is and runs: TPM quote, boot and IMA logs, "
           "confidential guest, GPUs, bound to one challenge and one session key.";
  }
  std::string_view examples() const override {
    return "Example:\n"
           "  pavise attest --nonce $CHALLENGE --session-key session.pub -o evidence.cbor\n"
           "  pavise attest --nonce $CHALLENGE --tee --no-tpm -o evidence.json\n"
           "  pavise attest --activate challenge.json -o answer.json\n"
           "\n"
           "The relying party makes the challenge (openssl rand -hex 32) and keeps it for pavise "
           "appraise. Evidence without a challenge shows what can be collected, and proves nothing "
           "about when.";
  }

  void Declare(CLI::App& app) override {
    AddOption(app, "-o,--output", output_, "FILE",
              "where to write the evidence: CBOR, or JSON where the name ends in .json",
              kEvidenceGroup);
    AddOption(app, "--nonce", nonce_, "HEX", "the challenge, 32 bytes [random]", kChallengeGroup);
    AddOption(app, "--session-key", session_key_, "KEY.pub",
              "the public key that the evidence is to vouch for [a new one, not kept]",
              kChallengeGroup);
    AddOption(app, "--serial", serial_, "DEVICE",
              "take the challenge from a serial port and answer there, as host images do",
              kChallengeGroup);
    AddOption(app, "--activate", activate_, "FILE",
              "open the challenge of pavise appraise enrol, and write the answer", kChallengeGroup);
    evidence_.Declare(app);
  }

  absl::StatusOr<Outcome> Run(const Session&) override;

  std::string RefusalHeadline(const std::vector<Refusal>&) const override {
    return "no evidence was collected";
  }

 private:
  absl::StatusOr<evidence::CompositeEvidence> Collect(const Digest32& nonce) const;
  absl::StatusOr<Outcome> AnswerOnSerialPort();
  absl::StatusOr<Outcome> Activate() const;

  std::string output_;
  std::string nonce_;
  std::string session_key_;
  std::string serial_;
  std::string activate_;
  EvidenceArguments evidence_;
  evidence::CollectionOptions options_;
};

absl::StatusOr<evidence::CompositeEvidence> AttestVerb::Collect(const Digest32& nonce) const {
  std::optional<crypto::PublicKey> session_key;
  if (session_key_.empty()) {
    PAVISE_ASSIGN_OR_RETURN(const crypto::PrivateKey key,
                            crypto::PrivateKey::Generate(crypto::KeyType::kEcP256));
    session_key = key.public_key();
  } else {
    PAVISE_ASSIGN_OR_RETURN(const Bytes pem, ReadFile(session_key_, kMaxKeyFileBytes));
    PAVISE_ASSIGN_OR_RETURN(session_key, crypto::PublicKey::FromPem(AsText(pem), session_key_));
  }
  return evidence::CollectEvidence(options_, nonce, *session_key);
}

absl::StatusOr<Outcome> AttestVerb::AnswerOnSerialPort() {
  PAVISE_ASSIGN_OR_RETURN(const SerialPort port, SerialPort::Open(serial_));
  PAVISE_RETURN_IF_ERROR(port.Write(AsBytes(kGreeting)));
  PAVISE_ASSIGN_OR_RETURN(const std::string challenge, port.ReadLine(kNonceTextBytes));
  absl::StatusOr<Bytes> answer = [&]() -> absl::StatusOr<Bytes> {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, Digest32FromHex(challenge, "challenge"));
    PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence collected, Collect(nonce));
    return evidence::ToCbor(collected);
  }();
  if (!answer.ok()) {
    PAVISE_RETURN_IF_ERROR(port.Write(
        AsBytes(StrCat("refused ", Printable(FromAbsl(answer.status().message())), "\n"))));
    return answer.status();
  }
  PAVISE_RETURN_IF_ERROR(port.Write(AsBytes(StrCat("evidence ", answer->size(), "\n"))));
  PAVISE_RETURN_IF_ERROR(port.Write(*answer));
  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("evidence sent on ", Printable(serial_));
  outcome.json = {{"serial", serial_}, {"bytes", answer->size()}};
  return outcome;
}

absl::StatusOr<Outcome> AttestVerb::Activate() const {
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(activate_, kMostChallengeBytes));
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, activate_));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, activate_));
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"pavise_challenge", "credential_blob", "encrypted_secret"}));
  evidence::CredentialChallenge challenge;
  PAVISE_ASSIGN_OR_RETURN(const std::string blob, object.GetString("credential_blob"));
  PAVISE_ASSIGN_OR_RETURN(challenge.credential_blob, FromHex(blob, activate_));
  PAVISE_ASSIGN_OR_RETURN(const std::string secret, object.GetString("encrypted_secret"));
  PAVISE_ASSIGN_OR_RETURN(challenge.encrypted_secret, FromHex(secret, activate_));
  PAVISE_ASSIGN_OR_RETURN(const SecretBytes activated,
                          evidence::ActivateCredential(options_, challenge));
  const OrderedJson answer = {{"pavise_answer", 1}, {"activated", ToHex(activated.Reveal())}};
  PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output_, AsBytes(DumpJson(answer)), 0600));
  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("the challenge is opened, the answer is in ", Printable(output_));
  outcome.json = {{"output", output_}};
  return outcome;
}

absl::StatusOr<Outcome> AttestVerb::Run(const Session&) {
  if (output_.empty() == serial_.empty()) {
    return UsageError("one of --output and --serial is needed");
  }
  PAVISE_ASSIGN_OR_RETURN(options_, evidence_.Resolve());
  if (!activate_.empty()) {
    if (output_.empty() || !options_.tcti.has_value()) {
      return UsageError("--activate needs --output, and a TPM");
    }
    return Activate();
  }
  if (!serial_.empty()) {
    if (!nonce_.empty()) return UsageError("--serial brings the challenge: leave --nonce out");
    return AnswerOnSerialPort();
  }
  Digest32 nonce;
  if (nonce_.empty()) {
    PAVISE_RETURN_IF_ERROR(SystemRandom().Fill(nonce));
  } else {
    PAVISE_ASSIGN_OR_RETURN(nonce, Digest32FromHex(nonce_, "--nonce"));
  }
  PAVISE_ASSIGN_OR_RETURN(const evidence::CompositeEvidence collected, Collect(nonce));
  Bytes encoded;
  if (absl::EndsWith(output_, ".json")) {
    PAVISE_ASSIGN_OR_RETURN(const std::string text, evidence::ToJson(collected));
    const ByteSpan bytes = AsBytes(text);
    encoded.assign(bytes.begin(), bytes.end());
  } else {
    PAVISE_ASSIGN_OR_RETURN(encoded, evidence::ToCbor(collected));
  }
  PAVISE_RETURN_IF_ERROR(WriteFileAtomically(output_, encoded));

  Outcome outcome;
  outcome.verdict = "OK";
  outcome.headline = StrCat("evidence in ", Printable(output_));
  std::vector<std::pair<std::string, std::string>> rows;
  OrderedJson parts = OrderedJson::array();
  for (const evidence::EvidencePart& part : collected.parts) {
    std::string items;
    OrderedJson sizes = OrderedJson::object();
    for (const auto& [name, content] : part.items) {
      StrAppend(&items, items.empty() ? "" : ", ", name, " (", HumanBytes(content.size()), ")");
      sizes[name] = content.size();
    }
    rows.emplace_back(part.format, items);
    parts.push_back({{"format", part.format}, {"items", sizes}});
  }
  rows.emplace_back("nonce", ToHex(nonce));
  if (nonce_.empty()) {
    rows.emplace_back("warning",
                      "the challenge was made here: this evidence proves nothing about "
                      "when it was collected");
  }
  outcome.text = AlignedRows(rows);
  outcome.json = {{"output", output_},
                  {"nonce", ToHex(nonce)},
                  {"challenged", !nonce_.empty()},
                  {"parts", parts}};
  return outcome;
}

}  // namespace

std::unique_ptr<Verb> NewAttestVerb() { return std::make_unique<AttestVerb>(); }

}  // namespace pavise::cli
