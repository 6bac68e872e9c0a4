#include "pavise/broker/configuration.h"

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::broker {
namespace {

absl::Status ReadString(const JsonObject& object, std::string_view key, std::string& value) {
  if (!object.Has(key)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(value, object.GetString(key));
  return absl::OkStatus();
}

absl::Status ReadBool(const JsonObject& object, std::string_view key, bool& value) {
  if (!object.Has(key)) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(value, object.GetBool(key));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Configuration> ParseConfiguration(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, {.max_bytes = 1u << 20}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({"pavise_broker", "name", "listen", "unix_socket", "certificate",
                          "private_key", "metrics", "sqlite", "postgresql", "root_key", "tpm",
                          "counter", "attest", "attest_tee", "attest_logs", "proposers"}));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, object.GetUint("pavise_broker"));
  if (version != 1) return Refuse(Reason::kUnsupported, item, "pavise_broker: 1 is known");
  Configuration configuration;
  PAVISE_ASSIGN_OR_RETURN(configuration.name, object.GetString("name"));
  PAVISE_ASSIGN_OR_RETURN(configuration.root_key, object.GetString("root_key"));
  PAVISE_RETURN_IF_ERROR(ReadString(object, "listen", configuration.listen));
  PAVISE_RETURN_IF_ERROR(ReadString(object, "unix_socket", configuration.unix_socket));
  PAVISE_RETURN_IF_ERROR(ReadString(object, "certificate", configuration.certificate));
  PAVISE_RETURN_IF_ERROR(ReadString(object, "private_key", configuration.private_key));
  PAVISE_RETURN_IF_ERROR(ReadString(object, "metrics", configuration.metrics));
  PAVISE_RETURN_IF_ERROR(ReadString(object, "tpm", configuration.tpm));
  PAVISE_RETURN_IF_ERROR(ReadBool(object, "counter", configuration.counter));
  PAVISE_RETURN_IF_ERROR(ReadBool(object, "attest", configuration.attest));
  PAVISE_RETURN_IF_ERROR(ReadBool(object, "attest_tee", configuration.attest_tee));
  PAVISE_RETURN_IF_ERROR(ReadBool(object, "attest_logs", configuration.attest_logs));
  if (object.Has("sqlite") == object.Has("postgresql")) {
    return Refuse(Reason::kMalformed, item, "one of sqlite and postgresql is needed");
  }
  const bool is_sqlite = object.Has("sqlite");
  configuration.store = is_sqlite ? StoreOptions::Kind::kSqlite : StoreOptions::Kind::kPostgresql;
  PAVISE_ASSIGN_OR_RETURN(configuration.store_location,
                          object.GetString(is_sqlite ? "sqlite" : "postgresql"));
  if (configuration.counter && (configuration.tpm.empty() || !is_sqlite)) {
    return Refuse(Reason::kMalformed, item, "a counter needs a TPM, and SQLite");
  }
  if (object.Has("proposers")) {
    PAVISE_ASSIGN_OR_RETURN(const Json* const list, object.GetArray("proposers"));
    for (const Json& key : *list) {
      if (!key.is_string()) return Refuse(Reason::kMalformed, item, "proposers: key ids");
      const std::string id = key;
      PAVISE_RETURN_IF_ERROR(Digest32FromHex(id, "proposers").status());
      configuration.proposers.insert(id);
    }
  }
  return configuration;
}

}  // namespace pavise::broker
