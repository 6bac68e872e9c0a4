#ifndef PAVISE_KBS_MESSAGES_H_
#define PAVISE_KBS_MESSAGES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/json.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/keys.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Messages of the key broker protocol of Confidential Containers (Request, Challenge, Attestation,
// Response), version 0.4.0, for both ends: docs/formats/kbs.md. Values and pure functions; parsing
// checks form only. Parsers are strict: members that the protocol does not have are refused, but in
// `extra-params`, which is there to be extended.
namespace pavise::kbs {

inline constexpr std::string_view kProtocolVersion = "0.4.0";
inline constexpr std::string_view kOldestProtocolVersion = "0.1.1";

inline constexpr std::string_view kAuthPath = "/kbs/v0/auth";
inline constexpr std::string_view kAttestPath = "/kbs/v0/attest";
inline constexpr std::string_view kResourcePrefix = "/kbs/v0/resource/";
inline constexpr std::string_view kSessionCookie = "kbs-session-id";

// "pavise": composite evidence (docs/formats/evidence.md), whose nonce and session key are the
// challenge and the tee-pubkey. The others: a raw report or quote, whose report data starts with
// the digest of the runtime data (CheckReportData).
enum class Tee { kPavise, kSnp, kTdx };
std::string_view TeeName(Tee tee);

// What a client wants keys for. Clients of other makers do not say it: for them the resource's path
// does.
struct Purpose {
  std::string agreement;  // id: 64 lower-case hexadecimal digits
  std::string stage;      // as parts of resource paths
  std::string mode;
  friend bool operator==(const Purpose&, const Purpose&) = default;
};

struct AuthRequest {
  std::string version{kProtocolVersion};
  Tee tee = Tee::kPavise;
  std::optional<Purpose> purpose;
  // What the client can hash its runtime data with (extra-params' supported-hash-algorithms), of
  // sha256, sha384, sha512; others in its list are passed over. Nullopt: it does not say.
  std::optional<std::vector<crypto::DigestAlgorithm>> hash_algorithms;
  friend bool operator==(const AuthRequest&, const AuthRequest&) = default;
};

// At most 64 KiB. kUnsupported: a version outside of kOldestProtocolVersion to kProtocolVersion
// (the remedy says which there are), another tee; kMalformed; kLimitExceeded; kPathUnsafe: a stage
// or mode that no path could have.
absl::StatusOr<AuthRequest> ParseAuthRequest(ByteSpan text, std::string_view item);
std::string FormatAuthRequest(const AuthRequest& request);

struct Challenge {
  Digest32 nonce{};  // travels as base64 with padding
  // What the runtime data is to be hashed with (extra-params' selected-hash-algorithm).
  crypto::DigestAlgorithm hash_algorithm = crypto::DigestAlgorithm::kSha384;
  friend bool operator==(const Challenge&, const Challenge&) = default;
};

// SHA-384, the protocol's default, where the client can or does not say; else the strongest that it
// can. kUnsupported: it can do none.
absl::StatusOr<crypto::DigestAlgorithm> ChooseHashAlgorithm(const AuthRequest& request);

// At most 64 KiB. kMalformed: also a nonce that is not 32 bytes; kUnsupported; kLimitExceeded.
absl::StatusOr<Challenge> ParseChallenge(ByteSpan text, std::string_view item);
std::string FormatChallenge(const Challenge& challenge);
// The nonce as it travels in challenges and runtime data.
std::string FormatNonce(const Digest32& nonce);

// What the evidence binds: the challenge and the key that secrets are to be wrapped to.
struct RuntimeData {
  Digest32 nonce{};
  Json tee_pubkey;  // as it came: it is hashed as sent
  crypto::PublicKey key;
};
absl::StatusOr<RuntimeData> MakeRuntimeData(const Digest32& nonce, const crypto::PublicKey& key);

// Settings of the guest that its launch measurement may cover. Read, and of no effect here.
struct InitData {
  std::string format;  // "toml" or "json"
  std::string body;
};

struct Attestation {
  RuntimeData runtime_data;
  Json primary_evidence;            // not null
  std::string additional_evidence;  // JSON text, or ""; hashed as sent
  std::optional<InitData> init_data;
};

// At most `max_bytes`. kMalformed, kLimitExceeded, kKeyUnsupported; kUnsupported: additional
// evidence that is more than "" or "{}" (several devices are one composite here).
absl::StatusOr<Attestation> ParseAttestation(ByteSpan text, std::string_view item,
                                             uint64_t max_bytes = 32u << 20);
// The same in two steps, for who reads the text by ParseLongJson.
JsonLimits AttestationLimits(uint64_t max_bytes);
absl::StatusOr<Attestation> ReadAttestation(Json json, std::string_view item);
std::string FormatAttestation(const Attestation& attestation);

// The primary evidence of Tee::kSnp, {"report","certificates"}, and of Tee::kTdx, {"quote",
// "cc_eventlog"} (as Trustee's clients send it): base64 with padding, the second one null or left
// out where there is none.
struct TeeEvidence {
  Bytes statement;   // the report or quote
  Bytes supplement;  // SNP: certificates; TDX: event log; may be empty
};
// kMalformed; kUnsupported for Tee::kPavise, whose evidence is composite.
absl::StatusOr<TeeEvidence> ParseTeeEvidence(Tee tee, const Json& primary_evidence,
                                             std::string_view item);

// The digest of the canonical JSON (RFC 8785) of
//   {"additional-evidence":text,"nonce":...,"tee-pubkey":...}
// which clients of protocol 0.4.0 sign; without `additional_evidence` the member is left out, as
// the protocol's text says it.
absl::StatusOr<Bytes> RuntimeDataDigest(const RuntimeData& runtime_data,
                                        const std::optional<std::string>& additional_evidence,
                                        crypto::DigestAlgorithm algorithm);
// OK: 64 bytes that start with that digest (either of the two), the rest zero. kBindingMismatch.
absl::Status CheckReportData(const Attestation& attestation, crypto::DigestAlgorithm algorithm,
                             ByteSpan report_data, std::string_view item);

// The answer to an attestation: a JSON Web Token in compact form, at most 1 MiB. kMalformed,
// kLimitExceeded.
absl::StatusOr<std::string> ParseTokenResponse(ByteSpan text, std::string_view item);
std::string FormatTokenResponse(std::string_view token);

// The session's id in a Cookie or Set-Cookie header's value, "" where there is none: 1 to 128
// characters out of A-Z a-z 0-9 _ -. kMalformed: another value, or two.
absl::StatusOr<std::string> SessionIdOfCookie(std::string_view header, std::string_view item);

}  // namespace pavise::kbs

#endif  // PAVISE_KBS_MESSAGES_H_
