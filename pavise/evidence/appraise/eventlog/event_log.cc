#include "pavise/evidence/appraise/eventlog/event_log.h"

#include <algorithm>
#include <map>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kSpecIdSignature("Spec ID Event03", 16);
constexpr std::string_view kStartupLocality("StartupLocality", 16);
// An algorithm list longer than this is no log of a machine.
constexpr uint32_t kMaxAlgorithms = 16;
constexpr uint16_t kMaxDigestBytes = 64;

// TPM_ALG_ID -> digest length, as the log's header says.
using DigestSizes = std::map<uint16_t, uint16_t>;

// TCG_EfiSpecIdEvent (PFP 10.4.5.1), after the signature.
absl::StatusOr<DigestSizes> ParseSpecId(ByteReader reader) {
  PAVISE_RETURN_IF_ERROR(reader.Take(kSpecIdSignature.size(), "signature").status());
  PAVISE_RETURN_IF_ERROR(reader.Take(4, "platform class").status());
  PAVISE_RETURN_IF_ERROR(reader.Take(4, "specification version").status());
  PAVISE_ASSIGN_OR_RETURN(const uint32_t count, reader.LittleEndian32("number of algorithms"));
  if (count == 0 || count > kMaxAlgorithms) {
    return reader.Malformed(StrCat("the Spec ID event names ", count, " algorithms"));
  }
  DigestSizes sizes;
  for (uint32_t i = 0; i < count; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.LittleEndian16("algorithm"));
    PAVISE_ASSIGN_OR_RETURN(const uint16_t size_bytes, reader.LittleEndian16("digest size"));
    const std::optional<PcrBank> bank = PcrBankOfAlgorithm(algorithm);
    if (size_bytes == 0 || size_bytes > kMaxDigestBytes ||
        (bank.has_value() && size_bytes != PcrSizeBytes(*bank))) {
      return reader.Malformed(StrCat("a digest size of ", size_bytes, " bytes for algorithm ",
                                     absl::StrFormat("0x%04x", algorithm)));
    }
    if (!sizes.emplace(algorithm, size_bytes).second) {
      return reader.Malformed("an algorithm that is named twice");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const uint8_t vendor_bytes, reader.Uint8("vendor information size"));
  PAVISE_RETURN_IF_ERROR(reader.Take(vendor_bytes, "vendor information").status());
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return sizes;
}

absl::Status ParseDigests(ByteReader& reader, const DigestSizes& sizes, Event& event) {
  PAVISE_ASSIGN_OR_RETURN(const uint32_t count, reader.LittleEndian32("digest count"));
  if (count != sizes.size()) {
    return reader.Malformed(StrCat("an event with ", count, " digests where the header names ",
                                   sizes.size(), " algorithms"));
  }
  std::vector<uint16_t> seen;
  for (uint32_t i = 0; i < count; ++i) {
    PAVISE_ASSIGN_OR_RETURN(const uint16_t algorithm, reader.LittleEndian16("digest algorithm"));
    const auto size_bytes = sizes.find(algorithm);
    if (size_bytes == sizes.end() || std::find(seen.begin(), seen.end(), algorithm) != seen.end()) {
      return reader.Malformed(
          StrCat("a digest of algorithm ", absl::StrFormat("0x%04x", algorithm),
                 size_bytes == sizes.end() ? ", which the header does not name" : ", twice"));
    }
    seen.push_back(algorithm);
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan digest, reader.Take(size_bytes->second, "digest"));
    if (const std::optional<PcrBank> bank = PcrBankOfAlgorithm(algorithm)) {
      event.digests.emplace_back(*bank, digest);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadStartupLocality(const ByteReader& reader, const Event& event, EventLog& log) {
  if (event.type != kEvNoAction || !AsText(event.data).starts_with(kStartupLocality)) {
    return absl::OkStatus();
  }
  const bool extended = std::any_of(log.events.begin(), log.events.end(), [](const Event& other) {
    return other.register_index == 0 && other.type != kEvNoAction;
  });
  if (event.data.size() != kStartupLocality.size() + 1 || event.register_index != 0 || extended ||
      log.startup_locality.has_value() || event.data.back() > 4) {
    return reader.Malformed("a StartupLocality event that is doubled, odd or too late");
  }
  log.startup_locality = event.data.back();
  return absl::OkStatus();
}

}  // namespace

std::string EventTypeName(uint32_t type) {
  switch (type) {
    case kEvNoAction:
      return "EV_NO_ACTION";
    case kEvSeparator:
      return "EV_SEPARATOR";
    case kEvEventTag:
      return "EV_EVENT_TAG";
    case kEvSCrtmVersion:
      return "EV_S_CRTM_VERSION";
    case kEvIpl:
      return "EV_IPL";
    case kEvOmitBootDeviceEvents:
      return "EV_OMIT_BOOT_DEVICE_EVENTS";
    case kEvEfiVariableDriverConfig:
      return "EV_EFI_VARIABLE_DRIVER_CONFIG";
    case kEvEfiVariableBoot:
      return "EV_EFI_VARIABLE_BOOT";
    case kEvEfiBootServicesApplication:
      return "EV_EFI_BOOT_SERVICES_APPLICATION";
    case kEvEfiBootServicesDriver:
      return "EV_EFI_BOOT_SERVICES_DRIVER";
    case kEvEfiRuntimeServicesDriver:
      return "EV_EFI_RUNTIME_SERVICES_DRIVER";
    case kEvEfiGptEvent:
      return "EV_EFI_GPT_EVENT";
    case kEvEfiAction:
      return "EV_EFI_ACTION";
    case kEvEfiVariableBoot2:
      return "EV_EFI_VARIABLE_BOOT2";
    case kEvEfiVariableAuthority:
      return "EV_EFI_VARIABLE_AUTHORITY";
  }
  return absl::StrFormat("event type 0x%08x", type);
}

ByteSpan Event::digest(PcrBank bank) const {
  for (const auto& [of_bank, digest] : digests) {
    if (of_bank == bank) return digest;
  }
  return {};
}

absl::StatusOr<EventLog> ParseEventLog(ByteSpan log, std::string_view item,
                                       const EventLogLimits& limits) {
  if (log.size() > limits.max_bytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("an event log of ", HumanBytes(log.size()), "; at most ",
                         HumanBytes(limits.max_bytes), " are read"));
  }
  ByteReader reader(log, item);
  EventLog result;
  result.banks = {PcrBank::kSha1};
  DigestSizes sizes;
  for (size_t number = 0; reader.left() > 0; ++number) {
    const ByteSpan rest = log.subspan(reader.offset());
    if (std::all_of(rest.begin(), rest.begin() + std::min<size_t>(rest.size(), 4),
                    [](uint8_t byte) { return byte == 0xff; }) &&
        std::all_of(rest.begin(), rest.end(), [](uint8_t byte) { return byte == 0xff; })) {
      result.padding_bytes = rest.size();
      break;
    }
    if (number > limits.max_events) {
      return Refuse(Reason::kLimitExceeded, item,
                    StrCat("more than ", limits.max_events, " events"));
    }
    Event event;
    event.number = number;
    event.offset = reader.offset();
    PAVISE_ASSIGN_OR_RETURN(event.register_index, reader.LittleEndian32("register index"));
    PAVISE_ASSIGN_OR_RETURN(event.type, reader.LittleEndian32("event type"));
    // Registers of EV_NO_ACTION events mean nothing: some firmware writes 0xffffffff there.
    if (event.register_index >= kPcrCount && event.type != kEvNoAction) {
      return reader.Malformed(StrCat("event ", number, " extends register ", event.register_index));
    }
    if (result.crypto_agile) {
      PAVISE_RETURN_IF_ERROR(ParseDigests(reader, sizes, event));
    } else {
      PAVISE_ASSIGN_OR_RETURN(const ByteSpan digest, reader.Take(20, "digest"));
      event.digests = {{PcrBank::kSha1, digest}};
    }
    PAVISE_ASSIGN_OR_RETURN(const uint32_t data_bytes, reader.LittleEndian32("event size"));
    PAVISE_ASSIGN_OR_RETURN(event.data, reader.Take(data_bytes, "event data"));
    if (number == 0 && event.type == kEvNoAction &&
        AsText(event.data).starts_with(kSpecIdSignature.substr(0, 13))) {
      if (!AsText(event.data).starts_with(kSpecIdSignature)) {
        // "Spec ID Event00" (BIOS) and "Event02" (EFI before 2.0) head SHA-1 logs.
        continue;
      }
      PAVISE_ASSIGN_OR_RETURN(sizes, ParseSpecId(ByteReader(event.data, item, event.offset + 32)));
      result.crypto_agile = true;
      result.banks.clear();
      for (const auto& [algorithm, size_bytes] : sizes) {
        if (const auto bank = PcrBankOfAlgorithm(algorithm)) result.banks.push_back(*bank);
      }
      if (result.banks.empty()) {
        return Refuse(Reason::kUnsupported, item,
                      "the log has digests of no algorithm that Pavise knows",
                      "enable the TPM's SHA-256 bank");
      }
      continue;
    }
    PAVISE_RETURN_IF_ERROR(ReadStartupLocality(reader, event, result));
    result.events.push_back(std::move(event));
  }
  return result;
}

absl::StatusOr<PcrValues> ReplayEventLog(const EventLog& log, PcrBank bank, std::string_view item) {
  if (std::find(log.banks.begin(), log.banks.end(), bank) == log.banks.end()) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("the event log has no ", PcrBankName(bank), " digests"),
                  "enable that bank in the firmware, or quote one that the log covers");
  }
  PcrValues values;
  if (log.startup_locality.value_or(0) != 0) {
    Bytes initial = InitialPcrValue(bank, 0);
    initial.back() = *log.startup_locality;
    PAVISE_RETURN_IF_ERROR(values.Set(bank, 0, initial));
  }
  for (const Event& event : log.events) {
    if (event.type == kEvNoAction) continue;
    PAVISE_RETURN_IF_ERROR(values.Extend(bank, event.register_index, event.digest(bank)));
  }
  return values;
}

}  // namespace pavise::evidence
