#include "pavise/evidence/appraise/machine/appraisal_policy.h"

#include <algorithm>
#include <utility>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/boot/host_protections.h"

namespace pavise::evidence {
namespace {

constexpr uint64_t kMostBytes = 1u << 20;
constexpr std::string_view kVersionMember = "pavise_appraisal_policy";

absl::Status Malformed(const JsonObject& object, std::string_view key, std::string_view detail) {
  return Refuse(Reason::kMalformed, object.PathOf(key), detail);
}

// Absent: empty. Text that stands twice is refused.
absl::StatusOr<std::vector<std::string>> Texts(const JsonObject& object, std::string_view key) {
  std::vector<std::string> texts;
  if (!object.Has(key)) return texts;
  PAVISE_ASSIGN_OR_RETURN(const Json* array, object.GetArray(key));
  for (const Json& value : *array) {
    if (!value.is_string() || value.get_ref<const std::string&>().empty()) {
      return Malformed(object, key, "a list of texts, none of them empty, is expected");
    }
    std::string text = value.get<std::string>();
    if (std::find(texts.begin(), texts.end(), text) != texts.end()) {
      return Malformed(object, key, StrCat("\"", Printable(text), "\" stands twice"));
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

absl::StatusOr<bool> Flag(const JsonObject& object, std::string_view key, bool otherwise) {
  if (!object.Has(key)) return otherwise;
  return object.GetBool(key);
}

// nullopt where the member is absent: nothing is asked of the field. An empty list is refused,
// since it would accept nothing.
absl::StatusOr<AcceptedValues> Digests(const JsonObject& object, std::string_view key,
                                       size_t size_bytes) {
  if (!object.Has(key)) return AcceptedValues();
  PAVISE_ASSIGN_OR_RETURN(const std::vector<std::string> texts, Texts(object, key));
  if (texts.empty()) return Malformed(object, key, "is empty, so that nothing would be accepted");
  std::vector<Bytes> values;
  for (const std::string& text : texts) {
    PAVISE_ASSIGN_OR_RETURN(Bytes value, FromHex(text, object.PathOf(key)));
    if (value.size() != size_bytes || ToHex(value) != text) {
      return Malformed(
          object, key,
          StrCat("values of ", size_bytes, " bytes in lower-case hexadecimal are expected"));
    }
    values.push_back(std::move(value));
  }
  return AcceptedValues(std::move(values));
}

absl::StatusOr<uint8_t> Component(const JsonObject& object, std::string_view key) {
  if (!object.Has(key)) return uint8_t{0};
  PAVISE_ASSIGN_OR_RETURN(const uint64_t value, object.GetUint(key));
  if (value > 255) return Malformed(object, key, "is above 255");
  return static_cast<uint8_t>(value);
}

absl::StatusOr<TpmRules> ParseTpm(const JsonObject& object) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"attestation_keys", "allow_unbound_key",
                                             "accept_pinned_roots", "registers", "event_log", "ima",
                                             "host_protections", "protection_exceptions"}));
  TpmRules rules;
  PAVISE_ASSIGN_OR_RETURN(const auto keys, Texts(object, "attestation_keys"));
  for (const std::string& key : keys) {
    PAVISE_ASSIGN_OR_RETURN(const Bytes name, FromHex(key, object.PathOf("attestation_keys")));
    if (ToHex(name) != key || name.size() < 34) {  // of SHA-256
      return Malformed(object, "attestation_keys", "names of keys in lower-case hexadecimal");
    }
    rules.attestation_keys.insert(key);
  }
  PAVISE_ASSIGN_OR_RETURN(rules.allow_unbound_key, Flag(object, "allow_unbound_key", false));
  PAVISE_ASSIGN_OR_RETURN(rules.accept_pinned_roots, Flag(object, "accept_pinned_roots", false));
  PAVISE_ASSIGN_OR_RETURN(rules.event_log, Flag(object, "event_log", true));
  PAVISE_ASSIGN_OR_RETURN(rules.ima, Flag(object, "ima", true));
  PAVISE_ASSIGN_OR_RETURN(rules.host_protections, Flag(object, "host_protections", true));
  if (rules.host_protections && !rules.event_log) {
    return Malformed(object, "host_protections", "can only be seen in the event log");
  }
  PAVISE_ASSIGN_OR_RETURN(const auto exceptions, Texts(object, "protection_exceptions"));
  for (const std::string& exception : exceptions) {
    const auto known = HostProtections();
    if (std::none_of(known.begin(), known.end(), [&](const HostProtection& protection) {
          return protection.name == exception;
        })) {
      return Malformed(object, "protection_exceptions",
                       StrCat("\"", Printable(exception), "\" is no protection"));
    }
    rules.protection_exceptions.insert(exception);
  }
  if (object.Has("registers")) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject registers, object.GetObject("registers"));
    PAVISE_RETURN_IF_ERROR(registers.RequireOnly({"sha1", "sha256", "sha384", "sha512"}));
    for (const PcrBank bank :
         {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512}) {
      const std::string_view name = PcrBankName(bank);
      if (!registers.Has(name)) continue;
      PAVISE_ASSIGN_OR_RETURN(const Json* indices, registers.GetArray(name));
      for (const Json& index : *indices) {
        if (!index.is_number_unsigned() || index.get<uint64_t>() >= kPcrCount ||
            !rules.registers[bank].insert(index.get<uint32_t>()).second) {
          return Malformed(registers, name, "numbers of PCRs from 0 to 23, each once");
        }
      }
    }
  } else {
    for (uint32_t index = 0; index <= 14; ++index) {
      rules.registers[PcrBank::kSha256].insert(index);
    }
  }
  return rules;
}

absl::Status ParseSnp(const JsonObject& object, SnpExpectations& snp) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"products", "max_vmpl", "min_guest_svn", "allow_smt",
                                             "allow_migration_agent", "measurement", "host_data",
                                             "id_key_digest", "author_key_digest", "chip_id"}));
  if (object.Has("products")) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject products, object.GetObject("products"));
    PAVISE_RETURN_IF_ERROR(products.RequireOnly({"Milan", "Genoa", "Turin"}));
    snp.tcb_floors.clear();
    for (const SnpProduct product : {SnpProduct::kMilan, SnpProduct::kGenoa, SnpProduct::kTurin}) {
      if (!products.Has(SnpProductName(product))) continue;
      PAVISE_ASSIGN_OR_RETURN(const JsonObject floor, products.GetObject(SnpProductName(product)));
      PAVISE_RETURN_IF_ERROR(floor.RequireOnly({"fmc", "boot_loader", "tee", "snp", "microcode"}));
      SnpTcb tcb;
      PAVISE_ASSIGN_OR_RETURN(tcb.fmc, Component(floor, "fmc"));
      PAVISE_ASSIGN_OR_RETURN(tcb.boot_loader, Component(floor, "boot_loader"));
      PAVISE_ASSIGN_OR_RETURN(tcb.tee, Component(floor, "tee"));
      PAVISE_ASSIGN_OR_RETURN(tcb.snp, Component(floor, "snp"));
      PAVISE_ASSIGN_OR_RETURN(tcb.microcode, Component(floor, "microcode"));
      snp.tcb_floors[product] = tcb;
    }
  }
  PAVISE_ASSIGN_OR_RETURN(snp.max_vmpl, Component(object, "max_vmpl"));
  if (object.Has("min_guest_svn")) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t svn, object.GetUint("min_guest_svn"));
    if (svn > UINT32_MAX) return Malformed(object, "min_guest_svn", "is above 2^32 - 1");
    snp.min_guest_svn = static_cast<uint32_t>(svn);
  }
  PAVISE_ASSIGN_OR_RETURN(snp.allow_smt, Flag(object, "allow_smt", true));
  PAVISE_ASSIGN_OR_RETURN(snp.allow_migration_agent, Flag(object, "allow_migration_agent", false));
  PAVISE_ASSIGN_OR_RETURN(snp.measurement, Digests(object, "measurement", 48));
  PAVISE_ASSIGN_OR_RETURN(snp.host_data, Digests(object, "host_data", 32));
  PAVISE_ASSIGN_OR_RETURN(snp.id_key_digest, Digests(object, "id_key_digest", 48));
  PAVISE_ASSIGN_OR_RETURN(snp.author_key_digest, Digests(object, "author_key_digest", 48));
  PAVISE_ASSIGN_OR_RETURN(snp.chip_id, Digests(object, "chip_id", 64));
  return absl::OkStatus();
}

absl::Status ParseIntel(const JsonObject& object, IntelExpectations& intel) {
  PAVISE_RETURN_IF_ERROR(object.RequireOnly({"accepted_statuses", "min_tcb_evaluation_data_number",
                                             "mr_td", "mr_config_id", "mr_owner", "rtmr0", "rtmr1",
                                             "rtmr2", "rtmr3", "mr_enclave", "mr_signer"}));
  if (object.Has("accepted_statuses")) {
    PAVISE_ASSIGN_OR_RETURN(const auto names, Texts(object, "accepted_statuses"));
    intel.accepted_statuses.clear();
    for (const std::string& name : names) {
      bool found = false;
      // Revoked is accepted by nobody.
      for (const IntelTcbStatus status :
           {IntelTcbStatus::kUpToDate, IntelTcbStatus::kSwHardeningNeeded,
            IntelTcbStatus::kConfigurationNeeded,
            IntelTcbStatus::kConfigurationAndSwHardeningNeeded, IntelTcbStatus::kOutOfDate,
            IntelTcbStatus::kOutOfDateConfigurationNeeded}) {
        if (IntelTcbStatusName(status) != name) continue;
        intel.accepted_statuses.insert(status);
        found = true;
      }
      if (!found) {
        return Malformed(object, "accepted_statuses",
                         StrCat("\"", Printable(name), "\" is no status that can be accepted"));
      }
    }
  }
  if (object.Has("min_tcb_evaluation_data_number")) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t number,
                            object.GetUint("min_tcb_evaluation_data_number"));
    if (number > UINT32_MAX) {
      return Malformed(object, "min_tcb_evaluation_data_number", "is above 2^32 - 1");
    }
    intel.min_tcb_evaluation_data_number = static_cast<uint32_t>(number);
  }
  PAVISE_ASSIGN_OR_RETURN(intel.td.mr_td, Digests(object, "mr_td", 48));
  PAVISE_ASSIGN_OR_RETURN(intel.td.mr_config_id, Digests(object, "mr_config_id", 48));
  PAVISE_ASSIGN_OR_RETURN(intel.td.mr_owner, Digests(object, "mr_owner", 48));
  for (size_t i = 0; i < intel.td.rtmr.size(); ++i) {
    PAVISE_ASSIGN_OR_RETURN(intel.td.rtmr[i], Digests(object, StrCat("rtmr", i), 48));
  }
  PAVISE_ASSIGN_OR_RETURN(intel.sgx.mr_enclave, Digests(object, "mr_enclave", 32));
  PAVISE_ASSIGN_OR_RETURN(intel.sgx.mr_signer, Digests(object, "mr_signer", 32));
  return absl::OkStatus();
}

absl::Status ParseMachines(const JsonObject& object, CompositePolicy& composite) {
  if (!object.Has("machines")) return absl::OkStatus();
  PAVISE_ASSIGN_OR_RETURN(const Json* machines, object.GetArray("machines"));
  for (const Json& value : *machines) {
    PAVISE_ASSIGN_OR_RETURN(const JsonObject machine,
                            JsonObject::From(value, object.PathOf("machines")));
    PAVISE_RETURN_IF_ERROR(machine.RequireOnly({"name", "ids"}));
    PinnedMachine pinned;
    PAVISE_ASSIGN_OR_RETURN(pinned.name, machine.GetString("name"));
    PAVISE_ASSIGN_OR_RETURN(pinned.machine_ids, Texts(machine, "ids"));
    if (pinned.name.empty() || pinned.machine_ids.empty()) {
      return Malformed(object, "machines", "a machine needs a name and ids");
    }
    composite.machines.push_back(std::move(pinned));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AppraisalPolicy> ParseAppraisalPolicy(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const Json json, ParseJson(text, item, {.max_bytes = kMostBytes}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t version, object.GetUint(kVersionMember));
  if (version != 1) {
    return Refuse(Reason::kUnsupported, item, StrCat("is an appraisal policy of version ", version),
                  "use a version of pavise that knows it");
  }
  PAVISE_RETURN_IF_ERROR(
      object.RequireOnly({kVersionMember, "required", "machines", "require_co_location", "tpm",
                          "snp", "intel", "reference_values", "driver_rims", "vbios_rims"}));
  AppraisalPolicy policy;
  PAVISE_ASSIGN_OR_RETURN(const auto required, Texts(object, "required"));
  if (required.empty()) {
    return Malformed(object, "required", "names no kind of evidence: tpm, tee, gpu");
  }
  for (const std::string& name : required) {
    bool found = false;
    for (const PartKind kind : {PartKind::kGpu, PartKind::kTpm, PartKind::kTee}) {
      if (PartKindName(kind) != name) continue;
      policy.composite.required.insert(kind);
      found = true;
    }
    if (!found) {
      return Malformed(object, "required",
                       StrCat("\"", Printable(name), "\" is none of tpm, tee, gpu"));
    }
  }
  PAVISE_RETURN_IF_ERROR(ParseMachines(object, policy.composite));
  PAVISE_ASSIGN_OR_RETURN(policy.composite.require_co_location,
                          Flag(object, "require_co_location", false));
  // Absent: the defaults, by way of an empty object.
  const Json empty = Json::object();
  const auto section = [&](std::string_view key) {
    return JsonObject::From(object.Has(key) ? *object.Find(key) : empty, object.PathOf(key));
  };
  PAVISE_ASSIGN_OR_RETURN(const JsonObject tpm, section("tpm"));
  PAVISE_ASSIGN_OR_RETURN(policy.tpm, ParseTpm(tpm));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject snp, section("snp"));
  PAVISE_RETURN_IF_ERROR(ParseSnp(snp, policy.snp));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject intel, section("intel"));
  PAVISE_RETURN_IF_ERROR(ParseIntel(intel, policy.intel));
  PAVISE_ASSIGN_OR_RETURN(policy.reference_values, Texts(object, "reference_values"));
  PAVISE_ASSIGN_OR_RETURN(policy.driver_rims, Texts(object, "driver_rims"));
  PAVISE_ASSIGN_OR_RETURN(policy.vbios_rims, Texts(object, "vbios_rims"));
  return policy;
}

}  // namespace pavise::evidence
