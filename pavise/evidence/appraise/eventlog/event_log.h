#ifndef PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_H_
#define PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// Event types (TCG PC Client Platform Firmware Profile 1.06, table 27) that the appraiser treats
// apart. All others are kept as numbers. The type itself is not measured: only digests are.
enum EventType : uint32_t {
  kEvNoAction = 0x00000003,
  kEvSeparator = 0x00000004,
  kEvEventTag = 0x00000006,
  kEvSCrtmVersion = 0x00000008,
  kEvIpl = 0x0000000d,
  kEvOmitBootDeviceEvents = 0x00000012,
  kEvEfiVariableDriverConfig = 0x80000001,
  kEvEfiVariableBoot = 0x80000002,
  kEvEfiBootServicesApplication = 0x80000003,
  kEvEfiBootServicesDriver = 0x80000004,
  kEvEfiRuntimeServicesDriver = 0x80000005,
  kEvEfiGptEvent = 0x80000006,
  kEvEfiAction = 0x80000007,
  kEvEfiVariableBoot2 = 0x8000000c,
  kEvEfiVariableAuthority = 0x800000e0,
};

// "EV_SEPARATOR"; "event type 0x..." for those without a name here.
std::string EventTypeName(uint32_t type);

// One TCG_PCR_EVENT2 (or TCG_PCR_EVENT). `digests` and `data` lie in the bytes that were parsed.
struct Event {
  size_t number = 0;        // in the log, from 0
  uint64_t offset = 0;      // of the event in the log
  uint32_t register_index;  // PCR, or in logs of other registers their number (TDX: 1 is RTMR 0)
  uint32_t type;
  std::vector<std::pair<PcrBank, ByteSpan>> digests;  // of the banks that Pavise knows
  ByteSpan data;

  // Empty where the event has none of that bank.
  ByteSpan digest(PcrBank bank) const;
};

struct EventLog {
  bool crypto_agile = false;                // else the SHA-1 form of TPM 1.2 firmware
  std::vector<PcrBank> banks;               // that the log has digests of and that Pavise knows
  std::vector<Event> events;                // without the Spec ID header
  std::optional<uint8_t> startup_locality;  // what PCR 0 starts at
  uint64_t padding_bytes = 0;               // of 0xff, after the last event
};

struct EventLogLimits {
  uint64_t max_bytes = 64u << 20;
  uint32_t max_events = 100'000;
};

// Parses a log as Linux gives it (binary_bios_measurements, or the CCEL table's area): PFP 1.06,
// 10.2 (TCG_PCR_EVENT, TCG_PCR_EVENT2) and 10.4.5 (Spec ID and StartupLocality events), all
// integers little-endian. A log whose first event is "Spec ID Event03" is crypto-agile; any other
// is of the SHA-1 form. Bytes after the last event must all be 0xff (an unfilled area). Digests of
// algorithms that Pavise does not know are passed over by the lengths of the Spec ID event. `log`
// must outlive the result.
// kMalformed: a length that does not fit, a register above 23, an event with an undeclared, doubled
// or missing digest, a StartupLocality that is doubled, odd or too late; kLimitExceeded;
// kUnsupported: "Spec ID Event" of another form, no bank that Pavise knows.
absl::StatusOr<EventLog> ParseEventLog(ByteSpan log, std::string_view item,
                                       const EventLogLimits& limits = {});

// The registers that the log extends, in one bank: those without an event are absent.
// EV_NO_ACTION extends nothing (PFP 10.4.5). kUnsupported: a bank that the log has no digests of.
absl::StatusOr<PcrValues> ReplayEventLog(const EventLog& log, PcrBank bank, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_H_
