#ifndef PAVISE_SIGNING_BUNDLE_H_
#define PAVISE_SIGNING_BUNDLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/dsse.h"

#include "absl/status/statusor.h"

// The signature file: a Sigstore bundle v0.3 (JSON) around a DSSE envelope. Parsing checks form
// only; nothing here says that a signature is good.
namespace pavise::signing {

inline constexpr std::string_view kBundleMediaType =
    "application/vnd.dev.sigstore.bundle.v0.3+json";
inline constexpr std::string_view kInTotoPayloadType = "application/vnd.in-toto+json";
inline constexpr uint64_t kMaxBundleBytes = uint64_t{128} << 20;

// Rekor's proof that an entry is in the log (RFC 6962, 2.1.1), with the signed checkpoint.
struct InclusionProof {
  uint64_t log_index = 0;
  uint64_t tree_size = 0;
  Bytes root_hash;            // 32 bytes
  std::vector<Bytes> hashes;  // 32 bytes each, at most 64
  std::string checkpoint;     // signed note, as text
};

struct TlogEntry {
  uint64_t log_index = 0;
  Bytes log_key_id;  // SHA-256 of the log's SubjectPublicKeyInfo
  std::string kind;  // "dsse", "intoto", "hashedrekord"
  std::string kind_version;
  int64_t integrated_time_s = 0;  // seconds since 1970
  std::optional<Bytes> signed_entry_timestamp;
  std::optional<InclusionProof> inclusion_proof;
  Bytes canonicalized_body;
};

enum class Method { kKey, kCertificate, kSigstore };
std::string_view MethodName(Method method);  // "key", "certificate", "sigstore"

struct Bundle {
  Method method = Method::kKey;
  // kKey. Releases before 1.1 carry the PEM text of the key in place of a hint.
  std::optional<std::string> key_hint;
  std::optional<Bytes> key_pem;
  // kCertificate: the chain, leaf first. kSigstore: the leaf alone. DER.
  std::vector<Bytes> certificates;
  std::vector<TlogEntry> tlog_entries;
  std::vector<Bytes> rfc3161_timestamps;  // DER; carried, not judged

  std::string payload_type;
  Bytes payload;    // the statement, raw bytes as signed
  Bytes signature;  // DER ECDSA
};

// Strict (docs/formats/bundle.md): unknown members at any level, several or no key materials,
// several signatures, another media type, no `tlogEntries` beside a `certificate` are refused
// (kMalformed), another payload type (kUnsupported), more than 32 certificates, log entries or
// timestamps and text above kMaxBundleBytes (kLimitExceeded). Lenient where the reference tool's
// releases differ: `tlogEntries` absent beside a key or a chain, `keyid` absent, null or "",
// `publicKey.rawBytes` and `keyDetails` of the releases before 1.1. Log entries beside a key or a
// chain are kept and prove nothing.
absl::StatusOr<Bundle> ParseBundle(ByteSpan text, std::string_view item);
// The JSON text, compact, as the reference tool reads it. ParseBundle gives the same bundle back.
std::string FormatBundle(const Bundle& bundle);

// What is signed.
using crypto::PreAuthenticationEncoding;
// The encoding that release 0.2.0 of the reference tool signed by mistake ("DSSEV1", and the
// payload as a Python bytes literal). For verification only.
Bytes PreAuthenticationEncoding020(std::string_view payload_type, ByteSpan payload);

}  // namespace pavise::signing

#endif  // PAVISE_SIGNING_BUNDLE_H_
