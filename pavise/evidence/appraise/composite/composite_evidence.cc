#include "pavise/evidence/appraise/composite/composite_evidence.h"

#include <cbor.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "pavise/base/canonical_json.h"
#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwt.h"
#include "pavise/crypto/keys.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kItem = "composite evidence";
constexpr uint64_t kVersion = 1;
constexpr size_t kMaxParts = 32;
constexpr size_t kMaxSessionKeyBytes = 1024;
constexpr uint64_t kMaxItemBytes = 64 << 20;
constexpr uint64_t kMaxTotalBytes = 96 << 20;
constexpr uint64_t kMaxJsonBytes = 144 << 20;

constexpr std::string_view kSmaller =
    "restart the machine, so that its logs begin anew, or leave a log out";

struct ItemRule {
  std::string_view name;
  bool is_required;
};
struct FormatRule {
  std::string_view name;
  PartKind kind;
  std::vector<ItemRule> items;
};

const std::vector<FormatRule>& Formats() {
  static const auto* const formats = new std::vector<FormatRule>{
      {"nvidia-spdm-1.1", PartKind::kGpu, {{"report", true}, {"certificates", true}}},
      {"tpm-2.0",
       PartKind::kTpm,
       {{"quote", true},
        {"signature", true},
        {"attestation_key", true},
        {"pcr_values", true},
        {"endorsement_key", false},
        {"endorsement_certificates", false},
        {"attestation_certificates", false},
        {"event_log", false},
        {"ima_log", false}}},
      {"amd-sev-snp", PartKind::kTee, {{"report", true}, {"certificates", false}}},
      {"intel-tdx", PartKind::kTee, {{"quote", true}, {"event_log", false}}},
      {"intel-sgx", PartKind::kTee, {{"quote", true}}},
  };
  return *formats;
}

absl::StatusOr<const FormatRule*> RuleOf(const EvidencePart& part) {
  for (const FormatRule& rule : Formats()) {
    if (rule.name == part.format) return &rule;
  }
  return Refuse(Reason::kUnsupported, kItem,
                StrCat("evidence of format ", Printable(part.format.substr(0, 64))));
}

absl::Status CheckPart(const FormatRule& rule, const EvidencePart& part) {
  for (const auto& [name, bytes] : part.items) {
    const bool is_known =
        std::any_of(rule.items.begin(), rule.items.end(),
                    [&name = name](const ItemRule& item) { return item.name == name; });
    if (!is_known) {
      return Refuse(Reason::kMalformed, kItem,
                    StrCat(rule.name, " has no item ", Printable(name.substr(0, 64))));
    }
    if (bytes.empty()) return Refuse(Reason::kMalformed, kItem, StrCat(name, " is empty"));
    if (bytes.size() > kMaxItemBytes) {
      return Refuse(Reason::kLimitExceeded, kItem,
                    StrCat(name, " of ", HumanBytes(bytes.size()), ", the limit is ",
                           HumanBytes(kMaxItemBytes)),
                    kSmaller);
    }
  }
  for (const ItemRule& item : rule.items) {
    if (item.is_required && !part.items.contains(std::string(item.name))) {
      return Refuse(Reason::kEvidenceMissing, kItem, StrCat(rule.name, " lacks its ", item.name),
                    "collect the evidence again");
    }
  }
  return absl::OkStatus();
}

// Writes the few forms of CBOR that occur here, each in its shortest encoding.
class CborWriter {
 public:
  void Map(size_t members) { Head(members, cbor_encode_map_start); }
  void Array(size_t elements) { Head(elements, cbor_encode_array_start); }
  void Uint(uint64_t value) { Head(value, cbor_encode_uint); }
  void Text(std::string_view text) {
    Head(text.size(), cbor_encode_string_start);
    out_.insert(out_.end(), text.begin(), text.end());
  }
  void ByteString(ByteSpan bytes) {
    Head(bytes.size(), cbor_encode_bytestring_start);
    out_.insert(out_.end(), bytes.begin(), bytes.end());
  }
  Bytes Take() { return std::move(out_); }

 private:
  template <typename Encode>
  void Head(uint64_t value, Encode encode) {
    uint8_t head[9];
    const size_t size = encode(value, head, sizeof(head));
    out_.insert(out_.end(), head, head + size);
  }
  Bytes out_;
};

void WritePart(const EvidencePart& part, CborWriter& out) {
  out.Map(2);
  out.Text("items");
  out.Map(part.items.size());
  // RFC 8949, 4.2.1 sorts by the encoded key: shorter ones first.
  std::vector<const std::pair<const std::string, Bytes>*> items;
  for (const auto& item : part.items) items.push_back(&item);
  std::stable_sort(items.begin(), items.end(),
                   [](const auto* a, const auto* b) { return a->first.size() < b->first.size(); });
  for (const auto* item : items) {
    out.Text(item->first);
    out.ByteString(item->second);
  }
  out.Text("format");
  out.Text(part.format);
}

Bytes WriteCbor(const CompositeEvidence& evidence) {
  CborWriter out;
  out.Map(4);
  out.Text("nonce");
  out.ByteString(evidence.nonce);
  out.Text("parts");
  out.Array(evidence.parts.size());
  for (const EvidencePart& part : evidence.parts) WritePart(part, out);
  out.Text("version");
  out.Uint(kVersion);
  out.Text("session_key");
  out.ByteString(evidence.session_key);
  return out.Take();
}

// Reads them: one item at a time, without allocating for lengths that are only claimed. Order,
// shortest forms and what follows are not looked at: FromCbor compares with what would be written.
class CborReader {
 public:
  CborReader(ByteSpan bytes, std::string_view item) : bytes_(bytes), item_(item) {}

  absl::StatusOr<size_t> Map() { return Count(Kind::kMap, "a map"); }
  absl::StatusOr<size_t> Array() { return Count(Kind::kArray, "an array"); }
  absl::StatusOr<uint64_t> Uint() {
    PAVISE_RETURN_IF_ERROR(Next(Kind::kUint, "a number"));
    return value_;
  }
  absl::StatusOr<std::string> Text() {
    PAVISE_RETURN_IF_ERROR(Next(Kind::kText, "a text"));
    return std::string(AsText(span_));
  }
  absl::StatusOr<Bytes> ByteString() {
    PAVISE_RETURN_IF_ERROR(Next(Kind::kBytes, "a byte string"));
    return Bytes(span_.begin(), span_.end());
  }

 private:
  enum class Kind { kOther, kMap, kArray, kUint, kText, kBytes };

  absl::StatusOr<size_t> Count(Kind kind, std::string_view what) {
    PAVISE_RETURN_IF_ERROR(Next(kind, what));
    // No map or array here has more members than there are parts allowed.
    if (value_ > kMaxParts) {
      return Refuse(Reason::kLimitExceeded, item_,
                    StrCat(what, " of ", value_, ", the limit is ", kMaxParts));
    }
    return value_;
  }

  void Set(Kind kind, uint64_t value, ByteSpan span = {}) {
    kind_ = kind;
    value_ = value;
    span_ = span;
  }

  absl::Status Next(Kind kind, std::string_view what) {
    static const cbor_callbacks kCallbacks = [] {
      cbor_callbacks callbacks = cbor_empty_callbacks;
      callbacks.uint8 = [](void* c, uint8_t v) { Self(c).Set(Kind::kUint, v); };
      callbacks.uint16 = [](void* c, uint16_t v) { Self(c).Set(Kind::kUint, v); };
      callbacks.uint32 = [](void* c, uint32_t v) { Self(c).Set(Kind::kUint, v); };
      callbacks.uint64 = [](void* c, uint64_t v) { Self(c).Set(Kind::kUint, v); };
      callbacks.string = [](void* c, cbor_data data, size_t size) {
        Self(c).Set(Kind::kText, 0, {data, size});
      };
      callbacks.byte_string = [](void* c, cbor_data data, size_t size) {
        Self(c).Set(Kind::kBytes, 0, {data, size});
      };
      callbacks.array_start = [](void* c, size_t size) { Self(c).Set(Kind::kArray, size); };
      callbacks.map_start = [](void* c, size_t size) { Self(c).Set(Kind::kMap, size); };
      return callbacks;
    }();
    kind_ = Kind::kOther;
    const ByteSpan rest = bytes_.subspan(next_);
    const cbor_decoder_result result =
        cbor_stream_decode(rest.data(), rest.size(), &kCallbacks, this);
    if (result.status != CBOR_DECODER_FINISHED || kind_ != kind) {
      return Refuse(Reason::kMalformed, item_,
                    StrCat("at byte ", next_, ": not ", what, " where one stands"));
    }
    next_ += result.read;
    return absl::OkStatus();
  }

  static CborReader& Self(void* context) { return *static_cast<CborReader*>(context); }

  ByteSpan bytes_;
  std::string item_;
  size_t next_ = 0;
  Kind kind_ = Kind::kOther;
  uint64_t value_ = 0;
  ByteSpan span_;
};

absl::Status RequireKey(CborReader& reader, std::string_view key, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, reader.Text());
  if (text == key) return absl::OkStatus();
  return Refuse(Reason::kMalformed, item,
                StrCat("key \"", Printable(text.substr(0, 64)), "\" where \"", key, "\" stands"));
}

absl::Status RequireVersion(uint64_t version, std::string_view item) {
  if (version == kVersion) return absl::OkStatus();
  return Refuse(Reason::kUnsupported, item, StrCat("version ", version, ", not ", kVersion));
}

absl::StatusOr<Digest32> AsNonce(const Bytes& bytes, std::string_view item) {
  Digest32 nonce;
  if (bytes.size() != nonce.size()) {
    return Refuse(Reason::kMalformed, item, StrCat("a nonce of ", bytes.size(), " bytes, not 32"));
  }
  std::copy(bytes.begin(), bytes.end(), nonce.begin());
  return nonce;
}

}  // namespace

std::string_view PartKindName(PartKind kind) {
  return kind == PartKind::kGpu ? "gpu" : kind == PartKind::kTpm ? "tpm" : "tee";
}

absl::StatusOr<PartKind> KindOf(const EvidencePart& part) {
  PAVISE_ASSIGN_OR_RETURN(const FormatRule* rule, RuleOf(part));
  return rule->kind;
}

absl::Status CheckForm(const CompositeEvidence& evidence) {
  if (evidence.session_key.empty() || evidence.session_key.size() > kMaxSessionKeyBytes) {
    return Refuse(Reason::kMalformed, kItem,
                  StrCat("a session key of ", evidence.session_key.size(), " bytes"));
  }
  if (evidence.parts.empty()) {
    return Refuse(Reason::kEvidenceMissing, kItem, "it has no parts",
                  "collect evidence of at least one device");
  }
  if (evidence.parts.size() > kMaxParts) {
    return Refuse(Reason::kLimitExceeded, kItem,
                  StrCat(evidence.parts.size(), " parts, the limit is ", kMaxParts));
  }
  uint64_t total_bytes = 0;
  std::optional<PartKind> last;
  for (const EvidencePart& part : evidence.parts) {
    PAVISE_ASSIGN_OR_RETURN(const FormatRule* rule, RuleOf(part));
    PAVISE_RETURN_IF_ERROR(CheckPart(*rule, part));
    for (const auto& [name, bytes] : part.items) total_bytes += bytes.size();
    if (last.has_value() &&
        (rule->kind < *last || (rule->kind == *last && *last != PartKind::kGpu))) {
      return Refuse(Reason::kMalformed, kItem,
                    StrCat("a ", PartKindName(rule->kind), " after a ", PartKindName(*last),
                           ": the order is GPUs, then one TPM, then one TEE"));
    }
    last = rule->kind;
  }
  if (total_bytes > kMaxTotalBytes) {
    return Refuse(
        Reason::kLimitExceeded, kItem,
        StrCat(HumanBytes(total_bytes), " of evidence, the limit is ", HumanBytes(kMaxTotalBytes)),
        kSmaller);
  }
  return absl::OkStatus();
}

absl::StatusOr<Bytes> ToCbor(const CompositeEvidence& evidence) {
  PAVISE_RETURN_IF_ERROR(CheckForm(evidence));
  return WriteCbor(evidence);
}

absl::StatusOr<CompositeEvidence> FromCbor(ByteSpan bytes, std::string_view item) {
  if (bytes.size() > kMaxTotalBytes + (1 << 20)) {
    return Refuse(
        Reason::kLimitExceeded, item,
        StrCat(HumanBytes(bytes.size()), " of CBOR, the limit is ", HumanBytes(kMaxTotalBytes)));
  }
  CborReader reader(bytes, item);
  const auto other_members = [&] {
    return Refuse(Reason::kMalformed, item, "a map with other members than belong there");
  };
  CompositeEvidence evidence;
  PAVISE_ASSIGN_OR_RETURN(const size_t members, reader.Map());
  if (members != 4) return other_members();
  PAVISE_RETURN_IF_ERROR(RequireKey(reader, "nonce", item));
  PAVISE_ASSIGN_OR_RETURN(const Bytes nonce, reader.ByteString());
  PAVISE_ASSIGN_OR_RETURN(evidence.nonce, AsNonce(nonce, item));
  PAVISE_RETURN_IF_ERROR(RequireKey(reader, "parts", item));
  PAVISE_ASSIGN_OR_RETURN(const size_t parts, reader.Array());
  for (size_t i = 0; i < parts; ++i) {
    EvidencePart part;
    PAVISE_ASSIGN_OR_RETURN(const size_t part_members, reader.Map());
    if (part_members != 2) return other_members();
    PAVISE_RETURN_IF_ERROR(RequireKey(reader, "items", item));
    PAVISE_ASSIGN_OR_RETURN(const size_t items, reader.Map());
    for (size_t j = 0; j < items; ++j) {
      PAVISE_ASSIGN_OR_RETURN(std::string name, reader.Text());
      PAVISE_ASSIGN_OR_RETURN(part.items[std::move(name)], reader.ByteString());
    }
    PAVISE_RETURN_IF_ERROR(RequireKey(reader, "format", item));
    PAVISE_ASSIGN_OR_RETURN(part.format, reader.Text());
    evidence.parts.push_back(std::move(part));
  }
  PAVISE_RETURN_IF_ERROR(RequireKey(reader, "version", item));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, reader.Uint());
  PAVISE_RETURN_IF_ERROR(RequireVersion(version, item));
  PAVISE_RETURN_IF_ERROR(RequireKey(reader, "session_key", item));
  PAVISE_ASSIGN_OR_RETURN(evidence.session_key, reader.ByteString());
  PAVISE_RETURN_IF_ERROR(CheckForm(evidence));
  const Bytes again = WriteCbor(evidence);
  if (!std::equal(again.begin(), again.end(), bytes.begin(), bytes.end())) {
    return Refuse(Reason::kMalformed, item,
                  "not the deterministic encoding (RFC 8949, 4.2.1), or bytes follow it");
  }
  return evidence;
}

absl::StatusOr<std::string> ToJson(const CompositeEvidence& evidence) {
  PAVISE_RETURN_IF_ERROR(CheckForm(evidence));
  Json parts = Json::array();
  for (const EvidencePart& part : evidence.parts) {
    Json items = Json::object();
    for (const auto& [name, bytes] : part.items) items[name] = ToBase64(bytes);
    parts.push_back({{"format", part.format}, {"items", std::move(items)}});
  }
  return CanonicalJson({{"version", kVersion},
                        {"nonce", ToBase64(evidence.nonce)},
                        {"session_key", ToBase64(evidence.session_key)},
                        {"parts", std::move(parts)}},
                       kItem);
}

absl::StatusOr<CompositeEvidence> FromJson(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(
      const Json json,
      ParseJson(text, item, {.max_bytes = kMaxJsonBytes, .max_depth = 5, .max_values = 1000}));
  return FromJsonValue(json, item);
}

absl::StatusOr<CompositeEvidence> FromJsonValue(const Json& json, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"version", "nonce", "session_key", "parts"}));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, object.GetUint("version"));
  PAVISE_RETURN_IF_ERROR(RequireVersion(version, item));
  CompositeEvidence evidence;
  const auto bytes_of = [](const JsonObject& from, std::string_view key) -> absl::StatusOr<Bytes> {
    PAVISE_ASSIGN_OR_RETURN(const Json* base64, from.Get(key));
    if (!base64->is_string()) return from.GetString(key).status();
    return FromBase64(base64->get_ref<const std::string&>(), from.PathOf(key));
  };
  PAVISE_ASSIGN_OR_RETURN(const Bytes nonce, bytes_of(object, "nonce"));
  PAVISE_ASSIGN_OR_RETURN(evidence.nonce, AsNonce(nonce, item));
  PAVISE_ASSIGN_OR_RETURN(evidence.session_key, bytes_of(object, "session_key"));
  PAVISE_ASSIGN_OR_RETURN(const Json* parts, object.GetArray("parts"));
  for (const Json& element : *parts) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject part_object,
                            JsonObject::From(element, object.PathOf("parts")));
    PAVISE_RETURN_IF_ERROR(part_object.RequireOnly({"format", "items"}));
    EvidencePart part;
    PAVISE_ASSIGN_OR_RETURN(part.format, part_object.GetString("format"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject items, part_object.GetObject("items"));
    for (const auto& member : element["items"].items()) {
      PAVISE_ASSIGN_OR_RETURN(part.items[member.key()], bytes_of(items, member.key()));
    }
    evidence.parts.push_back(std::move(part));
  }
  PAVISE_RETURN_IF_ERROR(CheckForm(evidence));
  return evidence;
}

absl::StatusOr<Digest32> PartDigest(const EvidencePart& part) {
  CborWriter out;
  WritePart(part, out);
  return crypto::Sha256(out.Take());
}

absl::StatusOr<Digest32> BindingValue(PartKind role, const Digest32& nonce, ByteSpan session_key,
                                      const std::vector<Digest32>& collected) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key,
                          crypto::PublicKey::FromDer(session_key, "session key"));
  PAVISE_ASSIGN_OR_RETURN(Json jwk, crypto::ToJwk(key, "session key"));
  Json digests = Json::array();
  for (const Digest32& digest : collected) digests.push_back(ToHex(digest));
  PAVISE_ASSIGN_OR_RETURN(const std::string text,
                          CanonicalJson({{"binding", "pavise-1"},
                                         {"evidence", std::move(digests)},
                                         {"nonce", ToHex(nonce)},
                                         {"role", std::string(PartKindName(role))},
                                         {"session_key", std::move(jwk)}},
                                        kItem));
  return crypto::Sha256(AsBytes(text));
}

}  // namespace pavise::evidence
