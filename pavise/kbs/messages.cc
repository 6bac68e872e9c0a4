#include "pavise/kbs/messages.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "pavise/base/canonical_json.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/kbs/jwk.h"
#include "pavise/kbs/resource_path.h"

namespace pavise::kbs {
namespace {

using crypto::DigestAlgorithm;

constexpr JsonLimits kSmallMessage{.max_bytes = 64 << 10, .max_depth = 8, .max_values = 4096};
constexpr size_t kMaxTokenBytes = 1 << 20;
constexpr size_t kMaxSessionIdBytes = 128;
constexpr size_t kReportDataBytes = 64;

// The protocol's default first; then from strong to weak.
constexpr DigestAlgorithm kHashAlgorithms[] = {DigestAlgorithm::kSha384, DigestAlgorithm::kSha512,
                                               DigestAlgorithm::kSha256};

std::optional<DigestAlgorithm> HashAlgorithmOf(std::string_view name) {
  for (const DigestAlgorithm algorithm : kHashAlgorithms) {
    if (crypto::DigestName(algorithm) == name) return algorithm;
  }
  return std::nullopt;
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// "MAJOR.MINOR.PATCH" of up to four digits each, without leading zeros.
std::optional<std::array<unsigned, 3>> VersionOf(std::string_view text) {
  std::array<unsigned, 3> version{};
  for (size_t i = 0; i < version.size(); ++i) {
    const size_t length = i + 1 < version.size() ? text.find('.') : text.size();
    if (length == text.npos || length == 0 || length > 4) return std::nullopt;
    const char* end = text.data() + length;
    const auto [parsed, error] = std::from_chars(text.data(), end, version[i]);
    if (error != std::errc() || parsed != end || (length > 1 && text.front() == '0')) {
      return std::nullopt;
    }
    text.remove_prefix(std::min(length + 1, text.size()));
  }
  return version;
}

absl::Status CheckVersion(std::string_view text, std::string_view item) {
  const auto version = VersionOf(text);
  if (version.has_value() && *version >= VersionOf(kOldestProtocolVersion) &&
      *version <= VersionOf(kProtocolVersion)) {
    return absl::OkStatus();
  }
  return Refuse(Reason::kUnsupported, item, StrCat("protocol version ", Printable(text)),
                StrCat("speak version ", kProtocolVersion, "; ", kOldestProtocolVersion, " to ",
                       kProtocolVersion, " are accepted"));
}

// extra-params: an object, or "" for none.
absl::StatusOr<const Json*> GetExtraParams(const JsonObject& message) {
  PAVISE_ASSIGN_OR_RETURN(const Json* params, message.Get("extra-params"));
  static const Json* const kNone = new Json(Json::object());
  if (params->is_string() && params->get_ref<const std::string&>().empty()) return kNone;
  if (params->is_object()) return params;
  return Refuse(Reason::kMalformed, message.PathOf("extra-params"),
                "neither an object nor the empty string");
}

absl::StatusOr<std::optional<Purpose>> GetPurpose(const JsonObject& params) {
  if (!params.Has("agreement") && !params.Has("stage") && !params.Has("mode")) return std::nullopt;
  Purpose purpose;
  PAVISE_ASSIGN_OR_RETURN(purpose.agreement, params.GetString("agreement"));
  PAVISE_ASSIGN_OR_RETURN(purpose.stage, params.GetString("stage"));
  PAVISE_ASSIGN_OR_RETURN(purpose.mode, params.GetString("mode"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 id,
                          Digest32FromHex(purpose.agreement, params.PathOf("agreement")));
  if (ToHex(id) != purpose.agreement) {
    return Refuse(Reason::kMalformed, params.PathOf("agreement"), "not in lower case");
  }
  PAVISE_RETURN_IF_ERROR(CheckPathPart(purpose.stage, params.PathOf("stage")));
  PAVISE_RETURN_IF_ERROR(CheckPathPart(purpose.mode, params.PathOf("mode")));
  return purpose;
}

absl::StatusOr<Digest32> GetNonce(const JsonObject& message) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, message.GetString("nonce"));
  PAVISE_ASSIGN_OR_RETURN(const Bytes bytes, FromBase64(text, message.PathOf("nonce")));
  Digest32 nonce;
  if (bytes.size() != nonce.size()) {
    return Refuse(Reason::kMalformed, message.PathOf("nonce"), "not 32 bytes");
  }
  std::copy(bytes.begin(), bytes.end(), nonce.begin());
  return nonce;
}

bool IsSessionIdCharacter(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '-';
}

}  // namespace

std::string_view TeeName(Tee tee) {
  switch (tee) {
    case Tee::kPavise:
      return "pavise";
    case Tee::kSnp:
      return "snp";
    case Tee::kTdx:
      return "tdx";
  }
  return "unknown";
}

absl::StatusOr<AuthRequest> ParseAuthRequest(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, kSmallMessage));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject message, JsonObject::From(json, item));
  AuthRequest request;
  // Before the members, whose set is a matter of the version.
  PAVISE_ASSIGN_OR_RETURN(request.version, message.GetString("version"));
  PAVISE_RETURN_IF_ERROR(CheckVersion(request.version, message.PathOf("version")));
  PAVISE_RETURN_IF_ERROR(message.RequireOnly({"version", "tee", "extra-params"}));
  PAVISE_ASSIGN_OR_RETURN(const std::string tee, message.GetString("tee"));
  constexpr Tee kTees[] = {Tee::kPavise, Tee::kSnp, Tee::kTdx};
  const Tee* known = std::find_if(std::begin(kTees), std::end(kTees),
                                  [&](Tee candidate) { return TeeName(candidate) == tee; });
  if (known == std::end(kTees)) {
    return Refuse(Reason::kUnsupported, message.PathOf("tee"), StrCat("tee ", Printable(tee)),
                  "use pavise (composite evidence), snp or tdx");
  }
  request.tee = *known;
  PAVISE_ASSIGN_OR_RETURN(const Json* params_json, GetExtraParams(message));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject params,
                          JsonObject::From(*params_json, message.PathOf("extra-params")));
  PAVISE_ASSIGN_OR_RETURN(request.purpose, GetPurpose(params));
  if (params.Has("supported-hash-algorithms")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* names, params.GetArray("supported-hash-algorithms"));
    request.hash_algorithms.emplace();
    for (const Json& name : *names) {
      if (!name.is_string()) {
        return Refuse(Reason::kMalformed, params.PathOf("supported-hash-algorithms"),
                      "not a list of names");
      }
      const auto algorithm = HashAlgorithmOf(name.get_ref<const std::string&>());
      if (algorithm.has_value()) request.hash_algorithms->push_back(*algorithm);
    }
  }
  return request;
}

std::string FormatAuthRequest(const AuthRequest& request) {
  Json params = Json::object();
  if (request.purpose.has_value()) {
    params["agreement"] = request.purpose->agreement;
    params["stage"] = request.purpose->stage;
    params["mode"] = request.purpose->mode;
  }
  if (request.hash_algorithms.has_value()) {
    Json& names = params["supported-hash-algorithms"] = Json::array();
    for (const DigestAlgorithm algorithm : *request.hash_algorithms) {
      names.push_back(std::string(crypto::DigestName(algorithm)));
    }
  }
  return Dump({{"version", request.version},
               {"tee", std::string(TeeName(request.tee))},
               {"extra-params", std::move(params)}});
}

absl::StatusOr<DigestAlgorithm> ChooseHashAlgorithm(const AuthRequest& request) {
  if (!request.hash_algorithms.has_value()) return DigestAlgorithm::kSha384;
  for (const DigestAlgorithm algorithm : kHashAlgorithms) {
    if (std::count(request.hash_algorithms->begin(), request.hash_algorithms->end(), algorithm)) {
      return algorithm;
    }
  }
  return Refuse(Reason::kUnsupported, "supported-hash-algorithms", "none that is known here",
                "offer sha384, sha512 or sha256");
}

absl::StatusOr<Challenge> ParseChallenge(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, kSmallMessage));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject message, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(message.RequireOnly({"nonce", "extra-params"}));
  Challenge challenge;
  PAVISE_ASSIGN_OR_RETURN(challenge.nonce, GetNonce(message));
  PAVISE_ASSIGN_OR_RETURN(const Json* params_json, GetExtraParams(message));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject params,
                          JsonObject::From(*params_json, message.PathOf("extra-params")));
  if (params.Has("selected-hash-algorithm")) {
    PAVISE_ASSIGN_OR_RETURN(const std::string name, params.GetString("selected-hash-algorithm"));
    const auto algorithm = HashAlgorithmOf(name);
    if (!algorithm.has_value()) {
      return Refuse(Reason::kUnsupported, params.PathOf("selected-hash-algorithm"),
                    StrCat("hash algorithm ", Printable(name)));
    }
    challenge.hash_algorithm = *algorithm;
  }
  return challenge;
}

std::string FormatChallenge(const Challenge& challenge) {
  return Dump(
      {{"nonce", FormatNonce(challenge.nonce)},
       {"extra-params",
        {{"selected-hash-algorithm", std::string(crypto::DigestName(challenge.hash_algorithm))}}}});
}

std::string FormatNonce(const Digest32& nonce) { return ToBase64(nonce); }

absl::StatusOr<RuntimeData> MakeRuntimeData(const Digest32& nonce, const crypto::PublicKey& key) {
  PAVISE_ASSIGN_OR_RETURN(Json jwk, FormatTeePublicKey(key, "session key"));
  return RuntimeData{nonce, std::move(jwk), key};
}

JsonLimits AttestationLimits(uint64_t max_bytes) {
  return {.max_bytes = max_bytes, .max_depth = 16, .max_values = 65536};
}

absl::StatusOr<Attestation> ParseAttestation(ByteSpan text, std::string_view item,
                                             uint64_t max_bytes) {
  PAVISE_ASSIGN_OR_RETURN(Json json, ParseJson(text, item, AttestationLimits(max_bytes)));
  return ReadAttestation(std::move(json), item);
}

absl::StatusOr<Attestation> ReadAttestation(Json json, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject message, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(message.RequireOnly({"init-data", "runtime-data", "tee-evidence"}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject runtime_data, message.GetObject("runtime-data"));
  PAVISE_RETURN_IF_ERROR(runtime_data.RequireOnly({"nonce", "tee-pubkey"}));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 nonce, GetNonce(runtime_data));
  PAVISE_ASSIGN_OR_RETURN(const Json* jwk, runtime_data.Get("tee-pubkey"));
  PAVISE_ASSIGN_OR_RETURN(crypto::PublicKey key,
                          ParseTeePublicKey(*jwk, runtime_data.PathOf("tee-pubkey")));
  Attestation attestation{{nonce, *jwk, std::move(key)}, {}, {}, {}};

  PAVISE_ASSIGN_OR_RETURN(const JsonObject evidence, message.GetObject("tee-evidence"));
  PAVISE_RETURN_IF_ERROR(evidence.RequireOnly({"primary_evidence", "additional_evidence"}));
  PAVISE_RETURN_IF_ERROR(evidence.Get("primary_evidence").status());
  if (evidence.Has("additional_evidence")) {
    PAVISE_ASSIGN_OR_RETURN(attestation.additional_evidence,
                            evidence.GetString("additional_evidence"));
    if (!attestation.additional_evidence.empty() && attestation.additional_evidence != "{}") {
      return Refuse(Reason::kUnsupported, evidence.PathOf("additional_evidence"),
                    "evidence of further devices beside the primary one",
                    "send the devices' evidence as one composite, with tee \"pavise\"");
    }
  }
  if (const Json* init_json = message.Find("init-data");
      init_json != nullptr && !init_json->is_null()) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject init_data,
                            JsonObject::From(*init_json, message.PathOf("init-data")));
    PAVISE_RETURN_IF_ERROR(init_data.RequireOnly({"format", "body"}));
    attestation.init_data.emplace();
    PAVISE_ASSIGN_OR_RETURN(attestation.init_data->format, init_data.GetString("format"));
    PAVISE_ASSIGN_OR_RETURN(attestation.init_data->body, init_data.GetString("body"));
  }
  // Megabytes: moved. `message` is not used any more.
  attestation.primary_evidence = std::move(json["tee-evidence"]["primary_evidence"]);
  if (attestation.primary_evidence.is_null()) {
    return Refuse(Reason::kEvidenceMissing, StrCat(item, ".tee-evidence.primary_evidence"),
                  "no evidence");
  }
  return attestation;
}

std::string FormatAttestation(const Attestation& attestation) {
  Json json = {{"runtime-data",
                {{"nonce", FormatNonce(attestation.runtime_data.nonce)},
                 {"tee-pubkey", attestation.runtime_data.tee_pubkey}}},
               {"tee-evidence",
                {{"primary_evidence", attestation.primary_evidence},
                 {"additional_evidence", attestation.additional_evidence}}}};
  if (attestation.init_data.has_value()) {
    json["init-data"] = {{"format", attestation.init_data->format},
                         {"body", attestation.init_data->body}};
  }
  return Dump(json);
}

absl::StatusOr<TeeEvidence> ParseTeeEvidence(Tee tee, const Json& primary_evidence,
                                             std::string_view item) {
  if (tee == Tee::kPavise) {
    return Refuse(Reason::kUnsupported, item, "composite evidence where a report is expected");
  }
  const bool snp = tee == Tee::kSnp;
  const std::string_view statement_key = snp ? "report" : "quote";
  const std::string_view supplement_key = snp ? "certificates" : "cc_eventlog";
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(primary_evidence, item));
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({statement_key, supplement_key}));
  TeeEvidence evidence;
  PAVISE_ASSIGN_OR_RETURN(const std::string statement, object.GetString(statement_key));
  PAVISE_ASSIGN_OR_RETURN(evidence.statement, FromBase64(statement, object.PathOf(statement_key)));
  const Json* supplement = object.Find(supplement_key);
  if (supplement != nullptr && !supplement->is_null()) {
    PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(supplement_key));
    PAVISE_ASSIGN_OR_RETURN(evidence.supplement, FromBase64(text, object.PathOf(supplement_key)));
  }
  return evidence;
}

absl::StatusOr<Bytes> RuntimeDataDigest(const RuntimeData& runtime_data,
                                        const std::optional<std::string>& additional_evidence,
                                        DigestAlgorithm algorithm) {
  Json json = {{"nonce", FormatNonce(runtime_data.nonce)}, {"tee-pubkey", runtime_data.tee_pubkey}};
  if (additional_evidence.has_value()) json["additional-evidence"] = *additional_evidence;
  PAVISE_ASSIGN_OR_RETURN(const std::string text, CanonicalJson(json, "runtime-data"));
  return crypto::Digest(algorithm, AsBytes(text));
}

absl::Status CheckReportData(const Attestation& attestation, DigestAlgorithm algorithm,
                             ByteSpan report_data, std::string_view item) {
  const std::optional<std::string> forms[] = {attestation.additional_evidence, std::nullopt};
  for (const auto& additional_evidence : forms) {
    PAVISE_ASSIGN_OR_RETURN(Bytes expected, RuntimeDataDigest(attestation.runtime_data,
                                                              additional_evidence, algorithm));
    expected.resize(kReportDataBytes);
    if (ConstantTimeEquals(expected, report_data)) return absl::OkStatus();
  }
  return Refuse(Reason::kBindingMismatch, item,
                StrCat("its report data is not the ", crypto::DigestName(algorithm),
                       " digest of the runtime data"),
                "make the evidence for this session's nonce and key");
}

absl::StatusOr<std::string> ParseTokenResponse(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(
      const Json json,
      ParseJson(text, item, {.max_bytes = kMaxTokenBytes + 64, .max_depth = 2, .max_values = 16}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject message, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(message.RequireOnly({"token"}));
  PAVISE_ASSIGN_OR_RETURN(std::string token, message.GetString("token"));
  const bool in_alphabet = std::all_of(token.begin(), token.end(),
                                       [](char c) { return IsSessionIdCharacter(c) || c == '.'; });
  if (!in_alphabet || std::count(token.begin(), token.end(), '.') != 2) {
    return Refuse(Reason::kMalformed, message.PathOf("token"), "not a JSON Web Token");
  }
  return token;
}

std::string FormatTokenResponse(std::string_view token) {
  return Dump({{"token", std::string(token)}});
}

absl::StatusOr<std::string> SessionIdOfCookie(std::string_view header, std::string_view item) {
  std::string session_id;
  while (!header.empty()) {
    const size_t length = std::min(header.find(';'), header.size());
    std::string_view pair = header.substr(0, length);
    header.remove_prefix(std::min(length + 1, header.size()));
    pair.remove_prefix(std::min(pair.find_first_not_of(' '), pair.size()));
    const size_t equals = pair.find('=');
    if (equals == pair.npos || pair.substr(0, equals) != kSessionCookie) continue;
    const std::string_view value = pair.substr(equals + 1);
    if (!session_id.empty() || value.empty() || value.size() > kMaxSessionIdBytes ||
        !std::all_of(value.begin(), value.end(), IsSessionIdCharacter)) {
      return Refuse(Reason::kMalformed, item, StrCat("not one ", kSessionCookie));
    }
    session_id = value;
  }
  return session_id;
}

}  // namespace pavise::kbs
