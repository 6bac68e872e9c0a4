#include "pavise/signing/bundle.h"

#include <limits>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"

namespace pavise::signing {
namespace {

constexpr size_t kMaxCertificates = 32;
constexpr size_t kMaxLogEntries = 32;
constexpr size_t kMaxTimestamps = 32;
constexpr size_t kMaxProofHashes = 64;  // a tree of 2^64 leaves is 64 high
constexpr uint64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

// What is large in a bundle is one string, the payload; the structure around it is small.
constexpr JsonLimits kBundleLimits{
    .max_bytes = kMaxBundleBytes, .max_depth = 12, .max_values = 65'536};

// Protobuf's JSON writers leave out fields at their default, and some write null for it.
const Json* FindSet(const JsonObject& object, std::string_view key) {
  const Json* member = object.Find(key);
  return member == nullptr || member->is_null() ? nullptr : member;
}

// Without the copy that GetString makes: the payload may be 100 MiB.
absl::StatusOr<Bytes> GetBase64(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* member, object.Get(key));
  const std::string* text = member->get_ptr<const std::string*>();
  if (text == nullptr) return Refuse(Reason::kMalformed, object.PathOf(key), "not a string");
  if (text->empty()) return Refuse(Reason::kMalformed, object.PathOf(key), "is empty");
  return FromBase64(*text, object.PathOf(key));
}

absl::StatusOr<Bytes> GetHash32(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(Bytes hash, GetBase64(object, key));
  if (hash.size() != sizeof(Digest32)) {
    return Refuse(Reason::kMalformed, object.PathOf(key),
                  StrCat("a hash of ", hash.size(), " bytes where 32 belong"));
  }
  return hash;
}

// A protobuf int64 that is never negative here: a decimal string (how protobuf spells it) or a
// number; 0 where it is left out.
absl::StatusOr<uint64_t> GetProtobufInt64(const JsonObject& object, std::string_view key) {
  const Json* member = FindSet(object, key);
  if (member == nullptr) return 0;
  uint64_t value = 0;
  if (const std::string* text = member->get_ptr<const std::string*>(); text != nullptr) {
    // SimpleAtoi takes signs, spaces and leading zeros: one spelling only.
    if (!absl::SimpleAtoi(*text, &value) || StrCat(value) != *text) {
      return Refuse(Reason::kMalformed, object.PathOf(key), "not a non-negative integer");
    }
  } else {
    PAVISE_ASSIGN_OR_RETURN(value, object.GetUint(key));
  }
  if (value > kMaxInt64) {
    return Refuse(Reason::kMalformed, object.PathOf(key), "not a signed 64-bit integer");
  }
  return value;
}

absl::Status CheckCount(size_t count, size_t limit, std::string_view path) {
  if (count <= limit) return absl::OkStatus();
  return Refuse(Reason::kLimitExceeded, path, StrCat(count, " entries, the limit is ", limit));
}

std::string Indexed(const JsonObject& object, std::string_view key, size_t index) {
  return StrCat(object.PathOf(key), "[", index, "]");
}

absl::StatusOr<Bytes> ReadCertificate(const Json& value, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject certificate, JsonObject::From(value, path));
  PAVISE_RETURN_IF_ERROR(certificate.RequireOnly({"rawBytes"}));
  return GetBase64(certificate, "rawBytes");
}

absl::Status ReadPublicKey(const JsonObject& material, Bundle& bundle) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject key, material.GetObject("publicKey"));
  PAVISE_RETURN_IF_ERROR(key.RequireOnly({"hint", "rawBytes", "keyDetails"}));
  bundle.method = Method::kKey;
  if (FindSet(key, "hint") != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(std::string hint, key.GetString("hint"));
    // Protobuf's default, which the reference tool takes for an absent hint too.
    if (!hint.empty()) bundle.key_hint = std::move(hint);
  }
  if (FindSet(key, "rawBytes") != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(bundle.key_pem, GetBase64(key, "rawBytes"));
  }
  // Says what the key itself says; only its form is looked at.
  if (FindSet(key, "keyDetails") != nullptr) {
    PAVISE_RETURN_IF_ERROR(key.GetString("keyDetails").status());
  }
  return absl::OkStatus();
}

absl::Status ReadCertificateChain(const JsonObject& material, Bundle& bundle) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject chain, material.GetObject("x509CertificateChain"));
  PAVISE_RETURN_IF_ERROR(chain.RequireOnly({"certificates"}));
  bundle.method = Method::kCertificate;
  PAVISE_ASSIGN_OR_RETURN(const Json* certificates, chain.GetArray("certificates"));
  if (certificates->empty()) {
    return Refuse(Reason::kMalformed, chain.PathOf("certificates"), "no certificate");
  }
  PAVISE_RETURN_IF_ERROR(
      CheckCount(certificates->size(), kMaxCertificates, chain.PathOf("certificates")));
  for (size_t i = 0; i < certificates->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(Bytes der,
                            ReadCertificate((*certificates)[i], Indexed(chain, "certificates", i)));
    bundle.certificates.push_back(std::move(der));
  }
  return absl::OkStatus();
}

absl::StatusOr<InclusionProof> ReadInclusionProof(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"logIndex", "rootHash", "treeSize", "hashes", "checkpoint"}));
  InclusionProof proof;
  PAVISE_ASSIGN_OR_RETURN(proof.log_index, GetProtobufInt64(object, "logIndex"));
  PAVISE_ASSIGN_OR_RETURN(proof.tree_size, GetProtobufInt64(object, "treeSize"));
  if (proof.log_index >= proof.tree_size) {
    return Refuse(Reason::kMalformed, object.PathOf("logIndex"),
                  StrCat("leaf ", proof.log_index, " of a tree of ", proof.tree_size));
  }
  PAVISE_ASSIGN_OR_RETURN(proof.root_hash, GetHash32(object, "rootHash"));
  if (FindSet(object, "hashes") != nullptr) {  // none in a tree of one leaf
    PAVISE_ASSIGN_OR_RETURN(const Json* hashes, object.GetArray("hashes"));
    PAVISE_RETURN_IF_ERROR(CheckCount(hashes->size(), kMaxProofHashes, object.PathOf("hashes")));
    for (size_t i = 0; i < hashes->size(); ++i) {
      const std::string path = Indexed(object, "hashes", i);
      const std::string* text = (*hashes)[i].get_ptr<const std::string*>();
      if (text == nullptr) return Refuse(Reason::kMalformed, path, "not a string");
      PAVISE_ASSIGN_OR_RETURN(Bytes hash, FromBase64(*text, path));
      if (hash.size() != sizeof(Digest32)) {
        return Refuse(Reason::kMalformed, path, "not a hash of 32 bytes");
      }
      proof.hashes.push_back(std::move(hash));
    }
  }
  if (FindSet(object, "checkpoint") != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject checkpoint, object.GetObject("checkpoint"));
    PAVISE_RETURN_IF_ERROR(checkpoint.RequireOnly({"envelope"}));
    PAVISE_ASSIGN_OR_RETURN(proof.checkpoint, checkpoint.GetString("envelope"));
  }
  return proof;
}

absl::StatusOr<TlogEntry> ReadLogEntry(const Json& value, std::string_view path) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(value, path));
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"logIndex", "logId", "kindVersion", "integratedTime", "inclusionPromise",
                          "inclusionProof", "canonicalizedBody"}));
  TlogEntry entry;
  PAVISE_ASSIGN_OR_RETURN(entry.log_index, GetProtobufInt64(object, "logIndex"));

  PAVISE_ASSIGN_OR_RETURN(const JsonObject log_id, object.GetObject("logId"));
  PAVISE_RETURN_IF_ERROR(log_id.RequireOnly({"keyId"}));
  PAVISE_ASSIGN_OR_RETURN(entry.log_key_id, GetBase64(log_id, "keyId"));

  PAVISE_ASSIGN_OR_RETURN(const JsonObject kind, object.GetObject("kindVersion"));
  PAVISE_RETURN_IF_ERROR(kind.RequireOnly({"kind", "version"}));
  PAVISE_ASSIGN_OR_RETURN(entry.kind, kind.GetString("kind"));
  PAVISE_ASSIGN_OR_RETURN(entry.kind_version, kind.GetString("version"));

  PAVISE_ASSIGN_OR_RETURN(const uint64_t time, GetProtobufInt64(object, "integratedTime"));
  entry.integrated_time_s = static_cast<int64_t>(time);

  if (FindSet(object, "inclusionPromise") != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject promise, object.GetObject("inclusionPromise"));
    PAVISE_RETURN_IF_ERROR(promise.RequireOnly({"signedEntryTimestamp"}));
    PAVISE_ASSIGN_OR_RETURN(entry.signed_entry_timestamp,
                            GetBase64(promise, "signedEntryTimestamp"));
  }
  if (FindSet(object, "inclusionProof") != nullptr) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject proof, object.GetObject("inclusionProof"));
    PAVISE_ASSIGN_OR_RETURN(entry.inclusion_proof, ReadInclusionProof(proof));
  }
  PAVISE_ASSIGN_OR_RETURN(entry.canonicalized_body, GetBase64(object, "canonicalizedBody"));
  return entry;
}

absl::Status ReadLogEntries(const JsonObject& material, Bundle& bundle) {
  if (material.Has("tlogEntries")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* entries, material.GetArray("tlogEntries"));
    PAVISE_RETURN_IF_ERROR(
        CheckCount(entries->size(), kMaxLogEntries, material.PathOf("tlogEntries")));
    for (size_t i = 0; i < entries->size(); ++i) {
      PAVISE_ASSIGN_OR_RETURN(TlogEntry entry,
                              ReadLogEntry((*entries)[i], Indexed(material, "tlogEntries", i)));
      bundle.tlog_entries.push_back(std::move(entry));
    }
  }
  if (bundle.method == Method::kSigstore && bundle.tlog_entries.empty()) {
    return Refuse(Reason::kMalformed, material.PathOf("tlogEntries"),
                  "no transparency log entry beside a Sigstore certificate",
                  "sign again, with a transparency log");
  }
  return absl::OkStatus();
}

absl::Status ReadTimestamps(const JsonObject& material, Bundle& bundle) {
  if (FindSet(material, "timestampVerificationData") == nullptr) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const JsonObject data, material.GetObject("timestampVerificationData"));
  PAVISE_RETURN_IF_ERROR(data.RequireOnly({"rfc3161Timestamps"}));
  if (FindSet(data, "rfc3161Timestamps") == nullptr) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json* timestamps, data.GetArray("rfc3161Timestamps"));
  PAVISE_RETURN_IF_ERROR(
      CheckCount(timestamps->size(), kMaxTimestamps, data.PathOf("rfc3161Timestamps")));
  for (size_t i = 0; i < timestamps->size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(
        const JsonObject timestamp,
        JsonObject::From((*timestamps)[i], Indexed(data, "rfc3161Timestamps", i)));
    PAVISE_RETURN_IF_ERROR(timestamp.RequireOnly({"signedTimestamp"}));
    PAVISE_ASSIGN_OR_RETURN(Bytes der, GetBase64(timestamp, "signedTimestamp"));
    bundle.rfc3161_timestamps.push_back(std::move(der));
  }
  return absl::OkStatus();
}

absl::Status ReadVerificationMaterial(const JsonObject& material, Bundle& bundle) {
  PAVISE_RETURN_IF_ERROR(material.RequireOnly({"publicKey", "x509CertificateChain", "certificate",
                                               "tlogEntries", "timestampVerificationData"}));
  // A null beside another material counts as a second one: no reader should have to guess.
  const int materials = int{material.Has("publicKey")} + int{material.Has("x509CertificateChain")} +
                        int{material.Has("certificate")};
  if (materials != 1) {
    return Refuse(Reason::kMalformed, material.path(),
                  StrCat(materials,
                         " key materials where exactly one of publicKey, "
                         "x509CertificateChain and certificate belongs"));
  }
  if (material.Has("publicKey")) {
    PAVISE_RETURN_IF_ERROR(ReadPublicKey(material, bundle));
  } else if (material.Has("x509CertificateChain")) {
    PAVISE_RETURN_IF_ERROR(ReadCertificateChain(material, bundle));
  } else {
    bundle.method = Method::kSigstore;
    PAVISE_ASSIGN_OR_RETURN(const Json* certificate, material.Get("certificate"));
    PAVISE_ASSIGN_OR_RETURN(Bytes der,
                            ReadCertificate(*certificate, material.PathOf("certificate")));
    bundle.certificates.push_back(std::move(der));
  }
  PAVISE_RETURN_IF_ERROR(ReadLogEntries(material, bundle));
  return ReadTimestamps(material, bundle);
}

absl::Status ReadEnvelope(const JsonObject& envelope, Bundle& bundle) {
  PAVISE_RETURN_IF_ERROR(envelope.RequireOnly({"payload", "payloadType", "signatures"}));
  PAVISE_ASSIGN_OR_RETURN(bundle.payload_type, envelope.GetString("payloadType"));
  if (bundle.payload_type != kInTotoPayloadType) {
    return Refuse(Reason::kUnsupported, envelope.PathOf("payloadType"),
                  StrCat("\"", Printable(std::string_view(bundle.payload_type).substr(0, 200)),
                         "\" where \"", kInTotoPayloadType, "\" belongs"));
  }
  PAVISE_ASSIGN_OR_RETURN(bundle.payload, GetBase64(envelope, "payload"));

  PAVISE_ASSIGN_OR_RETURN(const Json* signatures, envelope.GetArray("signatures"));
  if (signatures->size() != 1) {
    return Refuse(Reason::kMalformed, envelope.PathOf("signatures"),
                  StrCat(signatures->size(), " signatures where exactly one belongs"));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject signature,
                          JsonObject::From((*signatures)[0], Indexed(envelope, "signatures", 0)));
  PAVISE_RETURN_IF_ERROR(signature.RequireOnly({"sig", "keyid"}));
  PAVISE_ASSIGN_OR_RETURN(bundle.signature, GetBase64(signature, "sig"));
  // DSSE's keyid is an unauthenticated hint; the specification has verifiers disregard it.
  if (FindSet(signature, "keyid") != nullptr) {
    PAVISE_RETURN_IF_ERROR(signature.GetString("keyid").status());
  }
  return absl::OkStatus();
}

OrderedJson FormatLogEntry(const TlogEntry& entry) {
  OrderedJson out;
  out["logIndex"] = StrCat(entry.log_index);
  out["logId"]["keyId"] = ToBase64(entry.log_key_id);
  out["kindVersion"]["kind"] = entry.kind;
  out["kindVersion"]["version"] = entry.kind_version;
  out["integratedTime"] = StrCat(entry.integrated_time_s);
  if (entry.signed_entry_timestamp.has_value()) {
    out["inclusionPromise"]["signedEntryTimestamp"] = ToBase64(*entry.signed_entry_timestamp);
  }
  if (entry.inclusion_proof.has_value()) {
    const InclusionProof& proof = *entry.inclusion_proof;
    OrderedJson& object = out["inclusionProof"];
    object["logIndex"] = StrCat(proof.log_index);
    object["rootHash"] = ToBase64(proof.root_hash);
    object["treeSize"] = StrCat(proof.tree_size);
    object["hashes"] = OrderedJson::array();
    for (const Bytes& hash : proof.hashes) object["hashes"].push_back(ToBase64(hash));
    object["checkpoint"]["envelope"] = proof.checkpoint;
  }
  out["canonicalizedBody"] = ToBase64(entry.canonicalized_body);
  return out;
}

OrderedJson FormatCertificate(const Bytes& der) {
  OrderedJson out;
  out["rawBytes"] = ToBase64(der);
  return out;
}

// Python's repr() of a bytes object, of which release 0.2.0 signed the text.
void AppendPythonBytesLiteral(ByteSpan bytes, Bytes& out) {
  constexpr char kHexDigits[] = "0123456789abcdef";
  const std::string_view text = AsText(bytes);
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const uint8_t quote = has_single && !has_double ? '"' : '\'';
  const auto append = [&](std::string_view piece) {
    out.insert(out.end(), piece.begin(), piece.end());
  };
  out.push_back('b');
  out.push_back(quote);
  for (const uint8_t byte : bytes) {
    if (byte == quote || byte == '\\') {
      out.push_back('\\');
      out.push_back(byte);
    } else if (byte == '\t') {
      append("\\t");
    } else if (byte == '\n') {
      append("\\n");
    } else if (byte == '\r') {
      append("\\r");
    } else if (byte < 0x20 || byte >= 0x7f) {
      append("\\x");
      out.push_back(static_cast<uint8_t>(kHexDigits[byte >> 4]));
      out.push_back(static_cast<uint8_t>(kHexDigits[byte & 15]));
    } else {
      out.push_back(byte);
    }
  }
  out.push_back(quote);
}

}  // namespace

std::string_view MethodName(Method method) {
  switch (method) {
    case Method::kKey:
      return "key";
    case Method::kCertificate:
      return "certificate";
    case Method::kSigstore:
      return "sigstore";
  }
  return "unknown";
}

absl::StatusOr<Bundle> ParseBundle(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, kBundleLimits));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"mediaType", "verificationMaterial", "dsseEnvelope"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string media_type, object.GetString("mediaType"));
  if (media_type != kBundleMediaType) {
    return Refuse(Reason::kMalformed, object.PathOf("mediaType"),
                  StrCat("\"", Printable(std::string_view(media_type).substr(0, 200)),
                         "\" where \"", kBundleMediaType, "\" belongs"));
  }
  Bundle bundle;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject material, object.GetObject("verificationMaterial"));
  PAVISE_RETURN_IF_ERROR(ReadVerificationMaterial(material, bundle));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject envelope, object.GetObject("dsseEnvelope"));
  PAVISE_RETURN_IF_ERROR(ReadEnvelope(envelope, bundle));
  return bundle;
}

std::string FormatBundle(const Bundle& bundle) {
  OrderedJson json;
  json["mediaType"] = kBundleMediaType;
  OrderedJson& material = json["verificationMaterial"];
  switch (bundle.method) {
    case Method::kKey: {
      OrderedJson& key = material["publicKey"] = OrderedJson::object();
      if (bundle.key_hint.has_value()) key["hint"] = *bundle.key_hint;
      if (bundle.key_pem.has_value()) key["rawBytes"] = ToBase64(*bundle.key_pem);
      break;
    }
    case Method::kCertificate: {
      OrderedJson& chain = material["x509CertificateChain"]["certificates"] = OrderedJson::array();
      for (const Bytes& der : bundle.certificates) chain.push_back(FormatCertificate(der));
      break;
    }
    case Method::kSigstore:
      if (!bundle.certificates.empty()) {
        material["certificate"] = FormatCertificate(bundle.certificates[0]);
      }
      break;
  }
  OrderedJson& entries = material["tlogEntries"] = OrderedJson::array();
  for (const TlogEntry& entry : bundle.tlog_entries) entries.push_back(FormatLogEntry(entry));
  if (!bundle.rfc3161_timestamps.empty()) {
    OrderedJson& timestamps = material["timestampVerificationData"]["rfc3161Timestamps"];
    for (const Bytes& der : bundle.rfc3161_timestamps) {
      OrderedJson timestamp;
      timestamp["signedTimestamp"] = ToBase64(der);
      timestamps.push_back(std::move(timestamp));
    }
  }
  OrderedJson& envelope = json["dsseEnvelope"];
  envelope["payload"] = ToBase64(bundle.payload);
  envelope["payloadType"] = bundle.payload_type;
  OrderedJson signature;
  signature["sig"] = ToBase64(bundle.signature);
  signature["keyid"] = "";
  envelope["signatures"] = OrderedJson::array({std::move(signature)});
  return DumpJson(json, /*indent=*/-1);
}

Bytes PreAuthenticationEncoding020(std::string_view payload_type, ByteSpan payload) {
  const std::string head =
      StrCat("DSSEV1 ", payload_type.size(), " ", payload_type, " ", payload.size(), " ");
  Bytes out;
  out.reserve(head.size() + payload.size() + payload.size() / 8);
  out.insert(out.end(), head.begin(), head.end());
  AppendPythonBytesLiteral(payload, out);
  return out;
}

}  // namespace pavise::signing
