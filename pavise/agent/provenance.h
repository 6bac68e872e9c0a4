#ifndef PAVISE_AGENT_PROVENANCE_H_
#define PAVISE_AGENT_PROVENANCE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/crypto/dsse.h"
#include "pavise/crypto/keys.h"
#include "pavise/kbs/token.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Where a run's outputs come from: an in-toto Statement v1 with a SLSA provenance v1 predicate, in
// a DSSE envelope signed by the session key that the run's evidence named.
// docs/formats/provenance.md.
namespace pavise::agent {

inline constexpr std::string_view kProvenancePayloadType = "application/vnd.in-toto+json";
inline constexpr uint64_t kMaxProvenanceBytes = uint64_t{4} << 20;

struct ProvenanceMaterial {
  std::string name;
  std::string kind;      // "code", "model", "data"
  Digest32 sealed{};     // the sealed asset's id
  Digest32 statement{};  // SHA-256 of its signed OMS statement
  friend bool operator==(const ProvenanceMaterial&, const ProvenanceMaterial&) = default;
};

struct ProvenanceOutput {
  Digest32 file_sha256{};  // of the sealed file
  Digest32 sealed{};       // the sealed asset's id
  friend bool operator==(const ProvenanceOutput&, const ProvenanceOutput&) = default;
};

// How often a command checked the weights that it kept in memory, all of which held: where they do
// not, it fails, and there is no statement. The word of the command, which its owner signed and
// which the agreement names; the agent adds none of its own.
struct ResidentWeights {
  std::string hash;  // "tag", "blake3": loading::GuardHashName
  // From 1 to kMost, which stands for itself and more.
  uint64_t passes = 0;  // over all ranges, whole ones
  uint64_t ranges = 0;  // of up to 1 MiB
  static constexpr uint64_t kMost = uint64_t{1} << 20;
  friend bool operator==(const ResidentWeights&, const ResidentWeights&) = default;
};
// The environment variable that tells a command which file to write it to, where it is wanted, and
// that file, within the storage. It is the one thing that a command says to the machine's operator
// in the clear: about 42 bits, beside the times and sizes that the operator sees anyway.
inline constexpr std::string_view kResidentWeightsVariable = "PAVISE_RESIDENT_WEIGHTS";
inline constexpr std::string_view kResidentWeightsFile = "work/.resident-weights.json";
// {"hash":"tag","passes":3,"ranges":44}; of none, which Parse refuses: they changed. kMalformed.
std::string FormatResidentWeights(const ResidentWeights& weights);
// For people: "checked 3 times by tag, 44 ranges: all held, by the command's word".
std::string Describe(const ResidentWeights& weights);
absl::StatusOr<ResidentWeights> ParseResidentWeights(ByteSpan text, std::string_view item);

struct Provenance {
  std::string agreement;  // id
  uint64_t version = 0;
  Digest32 agreement_payload{};  // SHA-256 of that version's payload
  std::string stage;
  std::string mode;
  std::string purpose;
  std::string run;  // 32 hex digits
  std::vector<std::string> command;
  std::vector<ProvenanceMaterial> materials;
  std::map<std::string, ProvenanceOutput> outputs;  // not empty
  Digest32 evidence{};        // SHA-256 of the first composite evidence's CBOR
  std::string token;          // the last attestation token, which confirms the session key
  uint64_t ledger_index = 0;  // of the run's end
  absl::Time began;           // whole seconds
  absl::Time ended;
  std::vector<std::string> not_enforced;  // names of shortfalls that the run was accepted with
  std::optional<ResidentWeights> resident_weights;
  friend bool operator==(const Provenance&, const Provenance&) = default;
};

// Which texts a broker's token speaks of (its claim pavise_agreement): the version that the machine
// was appraised under, and the payloads' digests of this and the earlier ones that were in force.
struct TokenAgreement {
  uint64_t version = 0;
  std::map<uint64_t, Digest32> payloads;
};
// kBindingMismatch: the token is of another agreement; kMalformed.
absl::StatusOr<TokenAgreement> AgreementOfToken(const kbs::TokenClaims& token,
                                                std::string_view agreement, std::string_view item);

absl::StatusOr<std::string> FormatProvenance(const Provenance& provenance);
// Strict: what FormatProvenance writes. kMalformed, kLimitExceeded, kUnsupported.
absl::StatusOr<Provenance> ParseProvenance(ByteSpan payload, std::string_view item);

class ProvenanceVerifier;
// Signed by a session key that the broker's token confirms.
using VerifiedProvenance = Verified<Provenance, ProvenanceVerifier>;

// Stateless; thread-safe.
class ProvenanceVerifier {
 public:
  // The envelope's signature, by the key that the token confirms; the token's, by `broker`; and
  // that the token is for this agreement, version, stage and mode, and names this payload for the
  // version. Whether the ledger holds the run
  // is for a ledger bundle to show. The token's expiry is held against the statement's end, not
  // against now. kSignatureInvalid, kKeyMismatch, kBindingMismatch, kPolicyDenied (the token
  // contraindicates), and the parsers' reasons.
  static absl::StatusOr<VerifiedProvenance> Verify(const crypto::Envelope& envelope,
                                                   const crypto::PublicKey& broker,
                                                   std::string_view item);
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_PROVENANCE_H_
