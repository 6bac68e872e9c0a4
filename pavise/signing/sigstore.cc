#include "pavise/signing/sigstore.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <optional>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::signing {
namespace {

constexpr std::string_view kTrustedRootMediaTypes[] = {
    "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
    "application/vnd.dev.sigstore.trustedroot.v0.1+json",
    "application/vnd.dev.sigstore.trustedroot.v0.2+json",
};
constexpr JsonLimits kTrustedRootLimits{
    .max_bytes = kMaxTrustedRootBytes, .max_depth = 16, .max_values = 100'000};
constexpr size_t kMaxEntriesOfAKind = 1000;
constexpr size_t kMaxChainCertificates = 16;
constexpr size_t kMaxTimeCharacters = 40;  // RFC 3339 with nanoseconds and an offset: 35

// A Rekor body holds hashes, one signature and one certificate, whatever the model's size.
constexpr JsonLimits kBodyLimits{.max_bytes = 1 << 20, .max_depth = 16, .max_values = 10'000};
constexpr size_t kMaxCheckpointBytes = 64 << 10;
constexpr size_t kMaxCheckpointSignatures = 64;
constexpr size_t kNoteKeyHintBytes = 4;

constexpr char kKeyUsageOid[] = "2.5.29.15";
// https://github.com/sigstore/fulcio/blob/main/docs/oid-info.md
constexpr char kIssuerOid[] = "1.3.6.1.4.1.57264.1.8";
constexpr char kOldIssuerOid[] = "1.3.6.1.4.1.57264.1.1";
constexpr size_t kMaxIssuerBytes = 4096;

constexpr std::string_view kEntryItem = "transparency log entry";
constexpr std::string_view kNewRootRemedy =
    "get the current trusted root of the Sigstore instance that signed, if you trust it";

absl::Status RefuseLog(std::string_view item, std::string_view detail,
                       std::string_view remedy = "") {
  return Refuse(Reason::kTransparencyInvalid, item, detail, remedy);
}

// A refusal by a lower layer (malformed, bad signature) told as what it means here; what is no
// refusal, a machine failure, stays one.
absl::Status As(Reason reason, std::string_view item, std::string_view detail,
                const absl::Status& cause) {
  const std::vector<Refusal> findings = RefusalsOf(cause);
  if (findings.empty()) return cause;
  return Refuse(reason, item, StrCat(detail, ": ", findings.front().detail));
}

std::string ShowTime(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

// The trusted root file.

std::string Indexed(const JsonObject& object, std::string_view key, size_t index) {
  return StrCat(object.PathOf(key), "[", index, "]");
}

absl::StatusOr<Bytes> GetBase64(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  if (text.empty()) return Refuse(Reason::kMalformed, object.PathOf(key), "is empty");
  return FromBase64(text, object.PathOf(key));
}

absl::StatusOr<absl::Time> GetTime(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  absl::Time time;
  std::string error;
  // The parser takes spaces and "infinite-future" as well.
  if (text.size() > kMaxTimeCharacters || text.find('T') == std::string::npos ||
      text.find_first_not_of("0123456789-+:.TZ") != std::string::npos ||
      !absl::ParseTime(absl::RFC3339_full, text, &time, &error)) {
    return Refuse(Reason::kMalformed, object.PathOf(key),
                  StrCat("\"", Printable(text), "\" is not a time (RFC 3339)"));
  }
  return time;
}

struct Period {
  absl::Time from = absl::InfinitePast();
  absl::Time until = absl::InfiniteFuture();
};

bool Holds(absl::Time from, absl::Time time, absl::Time until) {
  return from <= time && time <= until;
}

// Absent bounds are open, as the format says.
absl::StatusOr<Period> ReadPeriod(const JsonObject& holder) {
  Period period;
  const Json* member = holder.Find("validFor");
  if (member == nullptr || member->is_null()) return period;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, holder.GetObject("validFor"));
  const Json* start = object.Find("start");
  if (start != nullptr && !start->is_null()) {
    PAVISE_ASSIGN_OR_RETURN(period.from, GetTime(object, "start"));
  }
  const Json* end = object.Find("end");
  if (end != nullptr && !end->is_null()) {
    PAVISE_ASSIGN_OR_RETURN(period.until, GetTime(object, "end"));
  }
  if (period.until < period.from) {
    return Refuse(Reason::kMalformed, object.path(), "the period ends before it begins");
  }
  return period;
}

absl::StatusOr<TransparencyLog> ReadLog(const Json& value, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject log, JsonObject::From(value, path));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject key, log.GetObject("publicKey"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes spki, GetBase64(key, "rawBytes"));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey parsed,
                          crypto::PublicKey::FromDer(spki, key.PathOf("rawBytes")));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject log_id, log.GetObject("logId"));
  PAVISE_ASSIGN_OR_RETURN(Bytes key_id, GetBase64(log_id, "keyId"));
  // A wrong identifier would let one log's key answer for another log.
  if (parsed.type() != crypto::KeyType::kEd25519) {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(spki));
    if (!std::equal(digest.begin(), digest.end(), key_id.begin(), key_id.end())) {
      return Refuse(Reason::kMalformed, log_id.PathOf("keyId"),
                    "is not the SHA-256 of the log's public key");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const Period period, ReadPeriod(key));
  std::string base_url;
  if (log.Has("baseUrl")) {
    PAVISE_ASSIGN_OR_RETURN(base_url, log.GetString("baseUrl"));
  }
  return TransparencyLog{.key = std::move(parsed),
                         .log_key_id = std::move(key_id),
                         .base_url = std::move(base_url),
                         .valid_from = period.from,
                         .valid_until = period.until};
}

absl::StatusOr<CertificateAuthority> ReadAuthority(const Json& value, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, path));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject chain, object.GetObject("certChain"));
  PAVISE_ASSIGN_OR_RETURN(const Json* certificates, chain.GetArray("certificates"));
  if (certificates->empty()) {
    return Refuse(Reason::kMalformed, chain.PathOf("certificates"), "no certificate");
  }
  if (certificates->size() > kMaxChainCertificates) {
    return Refuse(
        Reason::kLimitExceeded, chain.PathOf("certificates"),
        StrCat(certificates->size(), " certificates, the limit is ", kMaxChainCertificates));
  }
  CertificateAuthority authority;
  for (size_t i = 0; i < certificates->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        const JsonObject entry,
        JsonObject::From((*certificates)[i], Indexed(chain, "certificates", i)));
    PAVISE_ASSIGN_OR_RETURN(const Bytes der, GetBase64(entry, "rawBytes"));
    PAVISE_ASSIGN_OR_RETURN(crypto::Certificate certificate,
                            crypto::Certificate::FromDer(der, entry.PathOf("rawBytes")));
    authority.chain.push_back(std::move(certificate));
  }
  PAVISE_ASSIGN_OR_RETURN(const Period period, ReadPeriod(object));
  authority.valid_from = period.from;
  authority.valid_until = period.until;
  return authority;
}

absl::StatusOr<const Json*> GetList(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* list, object.GetArray(key));
  if (list->size() > kMaxEntriesOfAKind) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(key),
                  StrCat(list->size(), " entries, the limit is ", kMaxEntriesOfAKind));
  }
  return list;
}

absl::Status ReadLogs(const JsonObject& object, std::string_view key,
                      std::vector<TransparencyLog>& logs) {
  PAVISE_ASSIGN_OR_RETURN(const Json* list, GetList(object, key));
  for (size_t i = 0; i < list->size(); ++i) {
    absl::StatusOr<TransparencyLog> log = ReadLog((*list)[i], Indexed(object, key, i));
    // A log with a kind of key that is yet to come is one more log that is not trusted here.
    if (ReasonOf(log.status()) == Reason::kKeyUnsupported) continue;
    if (!log.ok()) return log.status();
    logs.push_back(*std::move(log));
  }
  return absl::OkStatus();
}

// The log entry.

absl::Status CheckSignedEntryTimestamp(const TlogEntry& entry, const TransparencyLog& log) {
  constexpr std::string_view kItem = "signed entry timestamp";
  if (log.key.type() != crypto::KeyType::kEcP256) {
    return Refuse(Reason::kUnsupported, kItem,
                  StrCat("the log's key is ", crypto::KeyTypeName(log.key.type()),
                         ", where Rekor v1 has P-256"));
  }
  // RFC 8785: members by name, no space. The strings are base64 and hex, which need no escapes, and
  // the numbers are integers.
  const std::string canonical =
      StrCat("{\"body\":\"", ToBase64(entry.canonicalized_body),
             "\",\"integratedTime\":", entry.integrated_time_s, ",\"logID\":\"",
             ToHex(entry.log_key_id), "\",\"logIndex\":", entry.log_index, "}");
  const absl::Status verified =
      log.key.Verify(AsBytes(canonical), *entry.signed_entry_timestamp, kItem);
  if (verified.ok()) return verified;
  return As(Reason::kTransparencyInvalid, kItem,
            "is not the log's signature over this entry's body, time and index", verified);
}

absl::StatusOr<Digest32> HashChildren(ByteSpan left, ByteSpan right) {
  Bytes node;
  node.reserve(1 + left.size() + right.size());
  node.push_back(0x01);
  node.insert(node.end(), left.begin(), left.end());
  node.insert(node.end(), right.begin(), right.end());
  return crypto::Sha256(node);
}

// RFC 6962, 2.1.1. The path first climbs inside the subtree that leaf and last leaf share no part
// of (a sibling on either side, told by the index), then along the tree's right border, where every
// sibling is to the left.
absl::Status CheckMerklePath(const InclusionProof& proof, ByteSpan body) {
  constexpr std::string_view kItem = "inclusion proof";
  if (proof.log_index >= proof.tree_size) {
    return RefuseLog(kItem, StrCat("leaf ", proof.log_index, " of a tree of ", proof.tree_size));
  }
  const int inner = std::bit_width(proof.log_index ^ (proof.tree_size - 1));
  const int border = inner >= 64 ? 0 : std::popcount(proof.log_index >> inner);
  if (proof.hashes.size() != static_cast<size_t>(inner + border)) {
    return RefuseLog(kItem, StrCat(proof.hashes.size(), " hashes where a tree of ", proof.tree_size,
                                   " has ", inner + border, " above leaf ", proof.log_index));
  }
  Bytes leaf;
  leaf.reserve(1 + body.size());
  leaf.push_back(0x00);
  leaf.insert(leaf.end(), body.begin(), body.end());
  PAVISE_ASSIGN_OR_RETURN(Digest32 node, crypto::Sha256(leaf));
  for (int level = 0; level < inner + border; ++level) {
    const Bytes& sibling = proof.hashes[static_cast<size_t>(level)];
    if (sibling.size() != sizeof(Digest32)) {
      return RefuseLog(kItem, "a hash of another length than 32 bytes");
    }
    const bool sibling_is_left = level >= inner || ((proof.log_index >> level) & 1) != 0;
    PAVISE_ASSIGN_OR_RETURN(
        node, sibling_is_left ? HashChildren(sibling, node) : HashChildren(node, sibling));
  }
  if (!std::equal(node.begin(), node.end(), proof.root_hash.begin(), proof.root_hash.end())) {
    return RefuseLog(kItem, "the hashes do not lead from this entry to the root of the tree");
  }
  return absl::OkStatus();
}

struct NoteSignature {
  std::string_view name;
  Bytes key_hint;
  Bytes signature;
};

struct SignedNote {
  std::string_view text;  // what is signed, with its last newline
  std::vector<NoteSignature> signatures;
};

// https://github.com/C2SP/C2SP/blob/main/signed-note.md: lines of text, one empty line, signature
// lines "— <name> <base64 of key hint and signature>".
absl::StatusOr<SignedNote> ReadNote(std::string_view note, std::string_view item) {
  constexpr std::string_view kSeparator = "\n\n";
  constexpr std::string_view kDash = "\xe2\x80\x94 ";
  if (note.empty()) return RefuseLog(item, "is missing: nothing ties the tree's root to the log");
  if (note.size() > kMaxCheckpointBytes) {
    return Refuse(Reason::kLimitExceeded, item, StrCat("of ", HumanBytes(note.size())));
  }
  const size_t separator = note.find(kSeparator);
  if (separator == std::string_view::npos || note.find(kSeparator, separator + 1) != note.npos ||
      !note.ends_with('\n')) {
    return RefuseLog(item, "is not a signed note");
  }
  SignedNote result;
  result.text = note.substr(0, separator + 1);
  std::string_view rest = note.substr(separator + kSeparator.size());
  while (!rest.empty()) {
    const size_t end = rest.find('\n');
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    const size_t space = line.starts_with(kDash) ? line.find(' ', kDash.size()) : line.npos;
    if (space == line.npos || space == kDash.size()) {
      return RefuseLog(item, "a signature line has another form than the standard's");
    }
    const absl::StatusOr<Bytes> bytes = FromBase64(line.substr(space + 1), item);
    if (!bytes.ok() || bytes->size() <= kNoteKeyHintBytes) {
      return RefuseLog(item, "a signature line does not hold a signature");
    }
    if (result.signatures.size() == kMaxCheckpointSignatures) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat("has more than ", kMaxCheckpointSignatures, " signatures"));
    }
    result.signatures.push_back({line.substr(kDash.size(), space - kDash.size()),
                                 Bytes(bytes->begin(), bytes->begin() + kNoteKeyHintBytes),
                                 Bytes(bytes->begin() + kNoteKeyHintBytes, bytes->end())});
  }
  return result;
}

absl::Status CheckCheckpoint(const InclusionProof& proof, const TransparencyLog& log) {
  constexpr std::string_view kItem = "checkpoint of the inclusion proof";
  PAVISE_ASSIGN_OR_RETURN(const SignedNote note, ReadNote(proof.checkpoint, kItem));
  // Origin, size, root; further lines are the log's own.
  std::string_view rest = note.text;
  std::string_view lines[3];
  for (std::string_view& line : lines) {
    const size_t end = rest.find('\n');
    if (end == rest.npos || end == 0) return RefuseLog(kItem, "has fewer than three lines");
    line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
  }
  // Compared as text, so that each number and hash has one spelling.
  if (lines[1] != StrCat(proof.tree_size)) {
    return RefuseLog(kItem, StrCat("is of a tree of ", Printable(lines[1]),
                                   ", the proof of one of ", proof.tree_size));
  }
  if (lines[2] != ToBase64(proof.root_hash)) {
    return RefuseLog(kItem, "is of a tree with another root than the proof's");
  }
  absl::Status last = RefuseLog(kItem, "is not signed by the log that holds the entry");
  for (const NoteSignature& signature : note.signatures) {
    // Others are of witnesses, whom nobody asked.
    if (!std::equal(signature.key_hint.begin(), signature.key_hint.end(), log.log_key_id.begin(),
                    log.log_key_id.begin() + kNoteKeyHintBytes)) {
      continue;
    }
    // Rekor's origin is "<name> - <tree>"; the origin is signed, the name beside the signature not.
    if (lines[0] != signature.name && !lines[0].starts_with(StrCat(signature.name, " - "))) {
      last = RefuseLog(kItem, "names another signer than its origin");
      continue;
    }
    const absl::Status verified = log.key.Verify(AsBytes(note.text), signature.signature, kItem);
    if (verified.ok()) return absl::OkStatus();
    last = As(Reason::kTransparencyInvalid, kItem, "the log's signature does not verify", verified);
    if (!ReasonOf(last).has_value()) return last;
  }
  return last;
}

// The entry's body. Everything in it is malformed input of the log's, told as kTransparencyInvalid.

absl::Status CheckPayloadHash(const JsonObject& holder, const Bundle& bundle) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject hash, holder.GetObject("payloadHash"));
  PAVISE_ASSIGN_OR_RETURN(const std::string algorithm, hash.GetString("algorithm"));
  PAVISE_ASSIGN_OR_RETURN(const std::string value, hash.GetString("value"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, crypto::Sha256(bundle.payload));
  if (algorithm != "sha256") {
    return RefuseLog(hash.path(), StrCat("a hash by \"", Printable(algorithm), "\", not sha256"));
  }
  if (value != ToHex(digest)) {
    return RefuseLog(hash.path(), "the log holds an entry about another payload");
  }
  return absl::OkStatus();
}

// `text`: base64 of a certificate in PEM form.
absl::Status CheckVerifier(const std::string& text, std::string_view path, const Bundle& bundle) {
  PAVISE_ASSIGN_OR_RETURN(const Bytes pem, FromBase64(text, path));
  PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::Certificate> certificates,
                          crypto::Certificate::ListFromPem(AsText(pem), path));
  if (certificates.size() != 1 || certificates[0].der() != bundle.certificates[0]) {
    return RefuseLog(path, "the log holds an entry about another certificate");
  }
  return absl::OkStatus();
}

absl::StatusOr<JsonObject> OnlySignature(const JsonObject& holder) {
  PAVISE_ASSIGN_OR_RETURN(const Json* signatures, holder.GetArray("signatures"));
  if (signatures->size() != 1) {
    return RefuseLog(holder.PathOf("signatures"),
                     StrCat(signatures->size(), " signatures where exactly one belongs"));
  }
  return JsonObject::From((*signatures)[0], Indexed(holder, "signatures", 0));
}

absl::Status CheckDsseBody(const JsonObject& spec, const Bundle& bundle) {
  PAVISE_RETURN_IF_ERROR(CheckPayloadHash(spec, bundle));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject signature, OnlySignature(spec));
  PAVISE_ASSIGN_OR_RETURN(const std::string text, signature.GetString("signature"));
  if (text != ToBase64(bundle.signature)) {
    return RefuseLog(signature.PathOf("signature"),
                     "the log holds an entry about another signature");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string verifier, signature.GetString("verifier"));
  return CheckVerifier(verifier, signature.PathOf("verifier"), bundle);
}

absl::Status CheckIntotoBody(const JsonObject& spec, const Bundle& bundle) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject content, spec.GetObject("content"));
  PAVISE_RETURN_IF_ERROR(CheckPayloadHash(content, bundle));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject envelope, content.GetObject("envelope"));
  PAVISE_ASSIGN_OR_RETURN(const std::string payload_type, envelope.GetString("payloadType"));
  if (payload_type != bundle.payload_type) {
    return RefuseLog(envelope.PathOf("payloadType"),
                     "the log holds an entry about another type of payload");
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject signature, OnlySignature(envelope));
  PAVISE_ASSIGN_OR_RETURN(const std::string text, signature.GetString("sig"));
  // This kind encodes the envelope's base64 text once more.
  if (text != ToBase64(AsBytes(ToBase64(bundle.signature)))) {
    return RefuseLog(signature.PathOf("sig"), "the log holds an entry about another signature");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string key, signature.GetString("publicKey"));
  return CheckVerifier(key, signature.PathOf("publicKey"), bundle);
}

absl::Status CheckBody(const TlogEntry& entry, const Bundle& bundle) {
  constexpr std::string_view kItem = "body of the log entry";
  const std::string kind = StrCat(Printable(entry.kind), " ", Printable(entry.kind_version));
  const bool dsse = entry.kind == "dsse" && entry.kind_version == "0.0.1";
  const bool intoto = entry.kind == "intoto" && entry.kind_version == "0.0.2";
  if (!dsse && !intoto) {
    return Refuse(Reason::kUnsupported, kItem,
                  StrCat("an entry of the kind ", kind,
                         ", where an envelope's is dsse 0.0.1 or intoto 0.0.2"));
  }
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(entry.canonicalized_body, kItem, kBodyLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject body, JsonObject::From(json, kItem));
  PAVISE_ASSIGN_OR_RETURN(const std::string body_kind, body.GetString("kind"));
  PAVISE_ASSIGN_OR_RETURN(const std::string body_version, body.GetString("apiVersion"));
  // The log signs the body; the kind beside it in the bundle is anybody's.
  if (body_kind != entry.kind || body_version != entry.kind_version) {
    return RefuseLog(kItem, StrCat("is of another kind than ", kind));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject spec, body.GetObject("spec"));
  return dsse ? CheckDsseBody(spec, bundle) : CheckIntotoBody(spec, bundle);
}

absl::Status CheckLogEntry(const Bundle& bundle, const SigstoreTrustedRoot& root) {
  if (bundle.tlog_entries.empty()) {
    return RefuseLog(kEntryItem, "is missing: nothing attests when the certificate was used",
                     "sign again, with a transparency log");
  }
  if (bundle.tlog_entries.size() > 1) {
    return Refuse(Reason::kUnsupported, kEntryItem,
                  StrCat(bundle.tlog_entries.size(), " entries; bundles with one are verified"));
  }
  const TlogEntry& entry = bundle.tlog_entries[0];
  const bool has_promise = entry.signed_entry_timestamp.has_value();
  if ((!has_promise && entry.integrated_time_s == 0) || entry.kind_version == "0.0.2") {
    if (entry.kind != "intoto") {
      return Refuse(Reason::kUnsupported, kEntryItem,
                    "it is of a Rekor v2 log, whose entries get their time from an RFC 3161 "
                    "timestamp: this version verifies entries of Rekor v1",
                    "have the model signed with a Rekor v1 log (https://rekor.sigstore.dev)");
    }
  }
  if (!has_promise) {
    return RefuseLog(kEntryItem,
                     "has no signed entry timestamp: nothing attests its integrated time");
  }
  if (!entry.inclusion_proof.has_value()) {
    return RefuseLog(kEntryItem, "has no inclusion proof, which a bundle v0.3 must carry");
  }
  if (entry.log_key_id.size() != sizeof(Digest32)) {
    return RefuseLog(kEntryItem, "its log's identifier is not 32 bytes long");
  }
  // Fixed at the seconds that a calendar can show (year 9999).
  if (entry.integrated_time_s <= 0 || entry.integrated_time_s > 253'402'300'799) {
    return RefuseLog(kEntryItem, "its integrated time is no time");
  }
  const absl::Time time = absl::FromUnixSeconds(entry.integrated_time_s);
  absl::Status last = RefuseLog(
      kEntryItem, StrCat("log ", ToHex(entry.log_key_id), " is not a trusted log"), kNewRootRemedy);
  // A file may name one log several times, with different periods.
  const TransparencyLog* log = nullptr;
  for (const TransparencyLog& candidate : root.rekor_logs) {
    if (candidate.log_key_id != entry.log_key_id) continue;
    if (Holds(candidate.valid_from, time, candidate.valid_until)) {
      log = &candidate;
      break;
    }
    last = RefuseLog(
        kEntryItem, StrCat("log ", ToHex(entry.log_key_id), " was not trusted at ", ShowTime(time)),
        kNewRootRemedy);
  }
  if (log == nullptr) return last;
  PAVISE_RETURN_IF_ERROR(CheckSignedEntryTimestamp(entry, *log));
  PAVISE_RETURN_IF_ERROR(CheckMerklePath(*entry.inclusion_proof, entry.canonicalized_body));
  PAVISE_RETURN_IF_ERROR(CheckCheckpoint(*entry.inclusion_proof, *log));
  const absl::Status body = CheckBody(entry, bundle);
  // What the log took in was not of the form it promises: still a matter of the log.
  if (ReasonOf(body) == Reason::kMalformed) {
    return As(Reason::kTransparencyInvalid, RefusalsOf(body).front().item, "cannot be read", body);
  }
  return body;
}

// The certificate.

bool HasDigitalSignatureUsage(const crypto::Certificate& certificate) {
  constexpr uint8_t kBitString = 0x03;
  constexpr uint8_t kDigitalSignature = 0x80;  // bit 0, RFC 5280, 4.2.1.3
  // Tag, length, count of unused bits, the bits.
  const std::optional<Bytes> usage = certificate.Extension(kKeyUsageOid);
  return usage.has_value() && usage->size() >= 4 && (*usage)[0] == kBitString &&
         (*usage)[1] == usage->size() - 2 && ((*usage)[3] & kDigitalSignature) != 0;
}

absl::StatusOr<std::vector<crypto::Certificate>> CheckAuthority(const crypto::Certificate& leaf,
                                                                const SigstoreTrustedRoot& root,
                                                                absl::Time at) {
  absl::Status last =
      Refuse(Reason::kCertificateInvalid, "signing certificate",
             StrCat("no certificate authority of the trusted root was trusted at ", ShowTime(at)),
             kNewRootRemedy);
  std::optional<absl::Status> first_refusal;
  for (const CertificateAuthority& authority : root.fulcio) {
    if (authority.chain.empty()) continue;
    if (!Holds(authority.valid_from, at, authority.valid_until)) continue;
    const std::vector<crypto::Certificate> intermediates(authority.chain.begin(),
                                                         authority.chain.end() - 1);
    // The file names the anchor, self-signed or not.
    absl::StatusOr<std::vector<crypto::Certificate>> chain = crypto::VerifyChain(
        leaf, intermediates, {authority.chain.back()}, at, /*partial_chain=*/true);
    if (chain.ok()) return chain;
    if (!ReasonOf(chain.status()).has_value()) return chain.status();
    if (!first_refusal.has_value()) first_refusal = chain.status();
  }
  return first_refusal.value_or(last);
}

// A UTF8String in DER.
absl::StatusOr<std::string> ReadUtf8String(ByteSpan der, std::string_view item) {
  constexpr uint8_t kUtf8String = 0x0c;
  const absl::Status refusal =
      Refuse(Reason::kCertificateInvalid, item, "its issuer is not a UTF-8 string");
  if (der.size() < 2 || der.size() > kMaxIssuerBytes || der[0] != kUtf8String) return refusal;
  size_t length = der[1];
  size_t head = 2;
  if (length == 0x81) {
    if (der.size() < 3 || der[2] < 0x80) return refusal;
    length = der[2];
    head = 3;
  } else if (length == 0x82) {
    if (der.size() < 4 || der[2] == 0) return refusal;
    length = size_t{der[2]} << 8 | der[3];
    head = 4;
  } else if (length >= 0x80) {
    return refusal;
  }
  if (der.size() - head != length) return refusal;
  return std::string(AsText(der.subspan(head)));
}

absl::StatusOr<std::string> IssuerOf(const crypto::Certificate& leaf) {
  constexpr std::string_view kItem = "signing certificate";
  const std::optional<Bytes> value = leaf.Extension(kIssuerOid);
  const std::optional<Bytes> old_value = leaf.Extension(kOldIssuerOid);
  if (!value.has_value() && !old_value.has_value()) {
    return Refuse(Reason::kCertificateInvalid, kItem, "does not say who vouched for the identity");
  }
  std::string issuer;
  if (value.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(issuer, ReadUtf8String(*value, kItem));
  }
  if (old_value.has_value()) {
    if (value.has_value() && AsText(*old_value) != issuer) {
      return Refuse(Reason::kCertificateInvalid, kItem, "names two different issuers");
    }
    issuer = AsText(*old_value);
  }
  if (issuer.empty() || issuer.size() > kMaxIssuerBytes || !IsUtf8(issuer) ||
      std::any_of(issuer.begin(), issuer.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; })) {
    return Refuse(Reason::kCertificateInvalid, kItem, "its issuer is not a name");
  }
  return issuer;
}

}  // namespace

absl::StatusOr<SigstoreTrustedRoot> ParseSigstoreTrustedRoot(ByteSpan json, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json value, ParseJson(json, item, kTrustedRootLimits));
  PAVISE_ASSIGN_OR_RETURN(JsonObject object, JsonObject::From(value, item));
  if (object.Has("trustedRoot")) {
    PAVISE_ASSIGN_OR_RETURN(object, object.GetObject("trustedRoot"));
  }
  PAVISE_ASSIGN_OR_RETURN(const std::string media_type, object.GetString("mediaType"));
  if (std::find(std::begin(kTrustedRootMediaTypes), std::end(kTrustedRootMediaTypes), media_type) ==
      std::end(kTrustedRootMediaTypes)) {
    return Refuse(Reason::kUnsupported, object.PathOf("mediaType"),
                  StrCat("\"", Printable(media_type), "\" is not a Sigstore trusted root"),
                  "give the trusted_root.json of the Sigstore instance that signed");
  }
  SigstoreTrustedRoot root;
  PAVISE_RETURN_IF_ERROR(ReadLogs(object, "tlogs", root.rekor_logs));
  PAVISE_ASSIGN_OR_RETURN(const Json* authorities, GetList(object, "certificateAuthorities"));
  for (size_t i = 0; i < authorities->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        CertificateAuthority authority,
        ReadAuthority((*authorities)[i], Indexed(object, "certificateAuthorities", i)));
    root.fulcio.push_back(std::move(authority));
  }
  if (object.Has("ctlogs")) {
    std::vector<TransparencyLog> logs;
    PAVISE_RETURN_IF_ERROR(ReadLogs(object, "ctlogs", logs));
    for (TransparencyLog& log : logs) {
      root.ct_logs.push_back({std::move(log.key), log.valid_from, log.valid_until});
    }
  }
  if (root.rekor_logs.empty() || root.fulcio.empty()) {
    return Refuse(Reason::kMalformed, item,
                  "names no transparency log or no certificate authority");
  }
  return root;
}

absl::StatusOr<SigstoreIdentity> VerifySigstoreBundle(const Bundle& bundle,
                                                      const SigstoreTrustedRoot& root) {
  if (bundle.method != Method::kSigstore || bundle.certificates.size() != 1) {
    return Refuse(Reason::kMalformed, "bundle", "not a Sigstore bundle with one certificate");
  }
  PAVISE_RETURN_IF_ERROR(CheckLogEntry(bundle, root));
  const absl::Time signed_at = absl::FromUnixSeconds(bundle.tlog_entries[0].integrated_time_s);

  PAVISE_ASSIGN_OR_RETURN(
      const crypto::Certificate leaf,
      crypto::Certificate::FromDer(bundle.certificates[0], "signing certificate"));
  PAVISE_ASSIGN_OR_RETURN(std::vector<crypto::Certificate> chain,
                          CheckAuthority(leaf, root, signed_at));
  if (chain.size() < 2) {
    return Refuse(Reason::kCertificateInvalid, "signing certificate",
                  "is itself an authority of the trusted root");
  }
  if (!HasDigitalSignatureUsage(leaf) || !leaf.HasCodeSigningUsage()) {
    return Refuse(Reason::kCertificateInvalid, "signing certificate",
                  "may not sign code (it needs the usages digitalSignature and codeSigning)");
  }
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, leaf.public_key());
  if (!crypto::IsOmsKey(key.type())) {
    return Refuse(Reason::kKeyUnsupported, "signing certificate",
                  StrCat("its key is ", crypto::KeyTypeName(key.type()),
                         ", where models are signed with P-256, P-384 or P-521"));
  }
  PAVISE_RETURN_IF_ERROR(crypto::VerifyEmbeddedScts(leaf, chain[1], root.ct_logs));
  PAVISE_RETURN_IF_ERROR(key.Verify(PreAuthenticationEncoding(bundle.payload_type, bundle.payload),
                                    bundle.signature, "signature of the envelope"));

  PAVISE_ASSIGN_OR_RETURN(const std::vector<crypto::SubjectAlternativeName> names,
                          leaf.SubjectAlternativeNames());
  if (names.size() != 1 || names[0].value.empty()) {
    return Refuse(Reason::kCertificateInvalid, "signing certificate",
                  StrCat("has ", names.size(), " names where exactly one belongs"));
  }
  PAVISE_ASSIGN_OR_RETURN(std::string issuer, IssuerOf(leaf));
  return SigstoreIdentity{.identity = names[0].value,
                          .issuer = std::move(issuer),
                          .signed_at = signed_at,
                          .chain = std::move(chain)};
}

}  // namespace pavise::signing
