#include "pavise/agent/provenance.h"

#include <utility>

#include "pavise/base/canonical_json.h"
#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/kbs/token.h"

#include "absl/strings/numbers.h"
#include "absl/strings/strip.h"

namespace pavise::agent {
namespace {

constexpr std::string_view kStatementType = "https://in-toto.io/Statement/v1";
constexpr std::string_view kPredicateType = "https://slsa.dev/provenance/v1";
constexpr std::string_view kBuildType = "urn:pavise:run:1";
constexpr std::string_view kBuilder = "urn:pavise:agent";
constexpr size_t kMostEntries = 1024;
constexpr const char* kTimeFormat = "%Y-%m-%d%ET%H:%M:%SZ";

std::string TimeText(absl::Time time) {
  return absl::FormatTime(kTimeFormat, time, absl::UTCTimeZone());
}

absl::StatusOr<absl::Time> GetTime(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string text, object.GetString(key));
  absl::Time time;
  std::string error;
  // ParseTime takes "infinite-future", too.
  if (!absl::ParseTime(kTimeFormat, text, &time, &error) || TimeText(time) != text ||
      !text.ends_with('Z')) {
    return Refuse(Reason::kMalformed, object.PathOf(key), "no time in UTC");
  }
  return time;
}

absl::StatusOr<Digest32> GetDigest(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const std::string hex, object.GetString(key));
  return Digest32FromHex(hex, object.PathOf(key));
}

absl::StatusOr<std::vector<JsonObject>> GetObjects(const JsonObject& object, std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
  if (array->size() > kMostEntries) {
    return Refuse(Reason::kLimitExceeded, object.PathOf(key), "too many entries");
  }
  std::vector<JsonObject> objects;
  for (const Json& value : *array) {
    PAVISE_ASSIGN_OR_RETURN(JsonObject entry, JsonObject::From(value, object.PathOf(key)));
    objects.push_back(std::move(entry));
  }
  return objects;
}

absl::StatusOr<std::vector<std::string>> GetStrings(const JsonObject& object,
                                                    std::string_view key) {
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
  std::vector<std::string> strings;
  for (const Json& value : *array) {
    if (!value.is_string() || strings.size() == kMostEntries) {
      return Refuse(Reason::kMalformed, object.PathOf(key), "not up to 1024 strings");
    }
    strings.push_back(value.get<std::string>());
  }
  return strings;
}

Json ToJson(const ResidentWeights& weights) {
  return {{"hash", weights.hash}, {"passes", weights.passes}, {"ranges", weights.ranges}};
}

absl::StatusOr<ResidentWeights> ReadResidentWeights(const JsonObject& object) {
  ResidentWeights weights;
  PAVISE_ASSIGN_OR_RETURN(weights.hash, object.GetString("hash"));
  PAVISE_ASSIGN_OR_RETURN(weights.passes, object.GetUint("passes"));
  PAVISE_ASSIGN_OR_RETURN(weights.ranges, object.GetUint("ranges"));
  const auto is_count = [](uint64_t count) {
    return count >= 1 && count <= ResidentWeights::kMost;
  };
  if ((weights.hash != "tag" && weights.hash != "blake3") || !is_count(weights.passes) ||
      !is_count(weights.ranges)) {
    return Refuse(Reason::kMalformed, object.path(),
                  "is not tag or blake3, with 1 to 1048576 passes and ranges");
  }
  return weights;
}

// Reads what it knows; ParseProvenance refuses all else by comparing the text.
absl::StatusOr<Provenance> Read(const Json& json, std::string_view item) {
  Provenance provenance;
  PAVISE_ASSIGN_OR_RETURN(const JsonObject statement, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const auto subjects, GetObjects(statement, "subject"));
  for (const JsonObject& subject : subjects) {
    PAVISE_ASSIGN_OR_RETURN(const std::string name, subject.GetString("name"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject digest, subject.GetObject("digest"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject annotations, subject.GetObject("annotations"));
    ProvenanceOutput output;
    PAVISE_ASSIGN_OR_RETURN(output.file_sha256, GetDigest(digest, "sha256"));
    PAVISE_ASSIGN_OR_RETURN(output.sealed, GetDigest(annotations, "sealed"));
    provenance.outputs[name] = output;
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject predicate, statement.GetObject("predicate"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject definition, predicate.GetObject("buildDefinition"));
  PAVISE_ASSIGN_OR_RETURN(const std::string type, definition.GetString("buildType"));
  if (type != kBuildType) {
    return Refuse(Reason::kUnsupported, definition.PathOf("buildType"),
                  StrCat(Printable(type), " is not ", kBuildType));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject outer, definition.GetObject("externalParameters"));
  PAVISE_ASSIGN_OR_RETURN(provenance.agreement, outer.GetString("agreement"));
  PAVISE_ASSIGN_OR_RETURN(provenance.version, outer.GetUint("version"));
  PAVISE_ASSIGN_OR_RETURN(provenance.agreement_payload, GetDigest(outer, "agreementPayload"));
  PAVISE_ASSIGN_OR_RETURN(provenance.stage, outer.GetString("stage"));
  PAVISE_ASSIGN_OR_RETURN(provenance.mode, outer.GetString("mode"));
  PAVISE_ASSIGN_OR_RETURN(provenance.purpose, outer.GetString("purpose"));
  PAVISE_ASSIGN_OR_RETURN(provenance.command, GetStrings(outer, "command"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject inner, definition.GetObject("internalParameters"));
  PAVISE_ASSIGN_OR_RETURN(provenance.not_enforced, GetStrings(inner, "notEnforced"));
  PAVISE_ASSIGN_OR_RETURN(const auto dependencies, GetObjects(definition, "resolvedDependencies"));
  for (const JsonObject& dependency : dependencies) {
    ProvenanceMaterial material;
    PAVISE_ASSIGN_OR_RETURN(material.name, dependency.GetString("name"));
    PAVISE_ASSIGN_OR_RETURN(const JsonObject annotations, dependency.GetObject("annotations"));
    PAVISE_ASSIGN_OR_RETURN(material.kind, annotations.GetString("kind"));
    PAVISE_ASSIGN_OR_RETURN(material.sealed, GetDigest(annotations, "sealed"));
    PAVISE_ASSIGN_OR_RETURN(material.statement, GetDigest(annotations, "statement"));
    provenance.materials.push_back(std::move(material));
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject details, predicate.GetObject("runDetails"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject metadata, details.GetObject("metadata"));
  PAVISE_ASSIGN_OR_RETURN(provenance.run, metadata.GetString("invocationId"));
  PAVISE_ASSIGN_OR_RETURN(provenance.began, GetTime(metadata, "startedOn"));
  PAVISE_ASSIGN_OR_RETURN(provenance.ended, GetTime(metadata, "finishedOn"));
  PAVISE_ASSIGN_OR_RETURN(const auto byproducts, GetObjects(details, "byproducts"));
  if (byproducts.size() != 3 && byproducts.size() != 4) {
    return Refuse(Reason::kMalformed, details.PathOf("byproducts"), "not three or four of them");
  }
  PAVISE_ASSIGN_OR_RETURN(const JsonObject evidence, byproducts[0].GetObject("digest"));
  PAVISE_ASSIGN_OR_RETURN(provenance.evidence, GetDigest(evidence, "sha256"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject token, byproducts[1].GetObject("annotations"));
  PAVISE_ASSIGN_OR_RETURN(provenance.token, token.GetString("token"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject ledger, byproducts[2].GetObject("annotations"));
  PAVISE_ASSIGN_OR_RETURN(provenance.ledger_index, ledger.GetUint("index"));
  if (byproducts.size() == 4) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject weights, byproducts[3].GetObject("annotations"));
    PAVISE_ASSIGN_OR_RETURN(provenance.resident_weights, ReadResidentWeights(weights));
  }
  return provenance;
}

}  // namespace

std::string FormatResidentWeights(const ResidentWeights& weights) {
  return DumpJson(ToJson(weights), -1);
}

std::string Describe(const ResidentWeights& weights) {
  const auto or_more = [](uint64_t count) {
    return StrCat(count, count == ResidentWeights::kMost ? " or more" : "");
  };
  return StrCat("checked ", or_more(weights.passes), " times by ", weights.hash, ", ",
                or_more(weights.ranges), " ranges: all held, by the command's word");
}

absl::StatusOr<ResidentWeights> ParseResidentWeights(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(ResidentWeights weights, ReadResidentWeights(object));
  if (FormatResidentWeights(weights) != AsText(text)) {
    return Refuse(Reason::kMalformed, item, "is not the canonical text of what it says");
  }
  return weights;
}

absl::StatusOr<TokenAgreement> AgreementOfToken(const kbs::TokenClaims& token,
                                                std::string_view agreement, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const JsonObject claims, JsonObject::From(token.claims, item));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject claim, claims.GetObject("pavise_agreement"));
  PAVISE_ASSIGN_OR_RETURN(const std::string id, claim.GetString("id"));
  if (id != agreement) {
    return Refuse(Reason::kBindingMismatch, item, StrCat("is for agreement ", Printable(id)));
  }
  TokenAgreement named;
  PAVISE_ASSIGN_OR_RETURN(named.version, claim.GetUint("version"));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject versions, claim.GetObject("versions"));
  for (const auto& member : claim.Find("versions")->items()) {
    uint64_t number = 0;
    if (!absl::SimpleAtoi(member.key(), &number)) {
      return Refuse(Reason::kMalformed, versions.path(), "not by version");
    }
    PAVISE_ASSIGN_OR_RETURN(named.payloads[number], GetDigest(versions, member.key()));
  }
  if (!named.payloads.contains(named.version)) {
    return Refuse(Reason::kMalformed, versions.path(), "the version itself is not among them");
  }
  return named;
}

absl::StatusOr<std::string> FormatProvenance(const Provenance& provenance) {
  if (provenance.outputs.empty()) return UsageError("provenance of no output");
  Json subjects = Json::array();
  for (const auto& [name, output] : provenance.outputs) {
    subjects.push_back({{"name", name},
                        {"digest", {{"sha256", ToHex(output.file_sha256)}}},
                        {"annotations", {{"sealed", ToHex(output.sealed)}}}});
  }
  Json dependencies = Json::array();
  for (const ProvenanceMaterial& material : provenance.materials) {
    dependencies.push_back({{"name", material.name},
                            {"annotations",
                             {{"kind", material.kind},
                              {"sealed", ToHex(material.sealed)},
                              {"statement", ToHex(material.statement)}}}});
  }
  Json byproducts = Json::array();
  byproducts.push_back(
      {{"name", "evidence"}, {"digest", {{"sha256", ToHex(provenance.evidence)}}}});
  byproducts.push_back(
      {{"name", "attestation-token"}, {"annotations", {{"token", provenance.token}}}});
  byproducts.push_back(
      {{"name", "ledger-entry"}, {"annotations", {{"index", provenance.ledger_index}}}});
  if (provenance.resident_weights.has_value()) {
    byproducts.push_back(
        {{"name", "resident-weights"}, {"annotations", ToJson(*provenance.resident_weights)}});
  }
  const Json definition = {{"buildType", kBuildType},
                           {"externalParameters",
                            {{"agreement", provenance.agreement},
                             {"version", provenance.version},
                             {"agreementPayload", ToHex(provenance.agreement_payload)},
                             {"stage", provenance.stage},
                             {"mode", provenance.mode},
                             {"purpose", provenance.purpose},
                             {"command", provenance.command}}},
                           {"internalParameters", {{"notEnforced", provenance.not_enforced}}},
                           {"resolvedDependencies", dependencies}};
  const Json details = {{"builder", {{"id", kBuilder}}},
                        {"metadata",
                         {{"invocationId", provenance.run},
                          {"startedOn", TimeText(provenance.began)},
                          {"finishedOn", TimeText(provenance.ended)}}},
                        {"byproducts", byproducts}};
  const Json statement = {
      {"_type", kStatementType},
      {"subject", subjects},
      {"predicateType", kPredicateType},
      {"predicate", {{"buildDefinition", definition}, {"runDetails", details}}}};
  return CanonicalJson(statement, "provenance");
}

absl::StatusOr<Provenance> ParseProvenance(ByteSpan payload, std::string_view item) {
  if (payload.size() > kMaxProvenanceBytes) {
    return Refuse(Reason::kLimitExceeded, item, "longer than 4 MiB");
  }
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(payload, item));
  PAVISE_ASSIGN_OR_RETURN(Provenance provenance, Read(json, item));
  absl::StatusOr<std::string> text = FormatProvenance(provenance);
  if (!text.ok() || *text != AsText(payload)) {
    return Refuse(Reason::kMalformed, item,
                  "is not the canonical text of what it says, or has other members");
  }
  return provenance;
}

absl::StatusOr<VerifiedProvenance> ProvenanceVerifier::Verify(const crypto::Envelope& envelope,
                                                              const crypto::PublicKey& broker,
                                                              std::string_view item) {
  // A second signature would be nobody's: no key but the session's is looked for.
  if (envelope.signatures.size() != 1) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("has ", envelope.signatures.size(), " signatures; a run signs once"));
  }
  // The statement names the token that says whose key may have signed it; nothing of it is
  // believed before both signatures hold.
  PAVISE_ASSIGN_OR_RETURN(Provenance provenance, ParseProvenance(envelope.payload, item));
  PAVISE_ASSIGN_OR_RETURN(
      const kbs::TokenClaims token,
      kbs::VerifyToken(provenance.token, broker, provenance.ended, StrCat(item, ": token")));
  PAVISE_RETURN_IF_ERROR(
      crypto::VerifyEnvelope(envelope, kProvenancePayloadType, token.confirmed_key, item));
  const std::string before = StrCat(provenance.agreement, "/");
  const std::string after = StrCat("/", provenance.stage, "/", provenance.mode);
  bool named = false;
  for (const auto& [name, part] : token.parts) {
    if (part.status == "contraindicated") {
      return Refuse(Reason::kPolicyDenied, StrCat(item, ": token"),
                    StrCat("its status of ", Printable(name), " is contraindicated"));
    }
    absl::string_view version = ToAbsl(part.policy_id);
    uint64_t number = 0;
    // A later version may have come into force while the command ran.
    named |= absl::ConsumePrefix(&version, before) && absl::ConsumeSuffix(&version, after) &&
             absl::SimpleAtoi(version, &number) && number >= provenance.version;
  }
  if (!named) {
    return Refuse(Reason::kBindingMismatch, StrCat(item, ": token"),
                  StrCat("is not for ", Printable(StrCat(before, provenance.version, after))));
  }
  PAVISE_ASSIGN_OR_RETURN(const TokenAgreement decided,
                          AgreementOfToken(token, provenance.agreement, StrCat(item, ": token")));
  const auto payload = decided.payloads.find(provenance.version);
  if (payload == decided.payloads.end() || payload->second != provenance.agreement_payload) {
    return Refuse(Reason::kBindingMismatch, StrCat(item, ": token"),
                  StrCat("version ", provenance.version,
                         " of the agreement was another text when the broker decided"));
  }
  return VerifiedProvenance(std::move(provenance));
}

}  // namespace pavise::agent
