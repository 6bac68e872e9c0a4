#include "pavise/evidence/appraise/tpm/pcr_json.h"

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/numbers.h"

namespace pavise::evidence {
namespace {

constexpr uint64_t kMostBytes = 64u << 10;
constexpr PcrBank kBanks[] = {PcrBank::kSha1, PcrBank::kSha256, PcrBank::kSha384, PcrBank::kSha512};

}  // namespace

std::string FormatPcrValues(const PcrValues& values) {
  OrderedJson json = OrderedJson::object();
  for (const auto& [bank, registers] : values.banks()) {
    OrderedJson& of_bank = json[std::string(PcrBankName(bank))];
    for (const auto& [index, value] : registers) of_bank[std::to_string(index)] = ToHex(value);
  }
  return json.dump();
}

absl::StatusOr<PcrValues> ParsePcrValues(ByteSpan text, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(
      const Json json,
      ParseJson(text, item, {.max_bytes = kMostBytes, .max_depth = 4, .max_values = 1000}));
  PAVISE_ASSIGN_OR_RETURN(const JsonObject object, JsonObject::From(json, item));
  PcrValues values;
  for (const PcrBank bank : kBanks) {
    const std::string name(PcrBankName(bank));
    if (!object.Has(name)) continue;
    PAVISE_ASSIGN_OR_RETURN(const JsonObject of_bank, object.GetObject(name));
    for (const auto& [key, value] : json[name].items()) {
      uint32_t index = 0;
      if (!absl::SimpleAtoi(key, &index)) {
        return Refuse(Reason::kMalformed, item, StrCat("\"", key, "\" is no PCR's number"));
      }
      PAVISE_ASSIGN_OR_RETURN(const std::string hex, of_bank.GetString(key));
      PAVISE_ASSIGN_OR_RETURN(const Bytes digest, FromHex(hex, item));
      PAVISE_RETURN_IF_ERROR(values.Set(bank, index, digest));
    }
  }
  // One encoding: what is left out above (another bank, upper case, a leading zero) shows here.
  if (FormatPcrValues(values) != AsText(text)) {
    return Refuse(Reason::kMalformed, item, "are not PCR values in their one encoding",
                  "collect the evidence again with pavise attest");
  }
  return values;
}

}  // namespace pavise::evidence
