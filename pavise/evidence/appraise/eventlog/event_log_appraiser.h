#ifndef PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_APPRAISER_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/eventlog/event_log.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// How an event's digest relates to its data. What is not proven may be said by anybody who wrote
// the log; only the digest was measured.
enum class EventProof {
  kProven,      // the digest is recomputed from the data, by the rule of its type
  kDescribed,   // the digest is of something else (an image, a blob), the data describes it
  kMismatched,  // of a type whose digest must be that of its data, and is not
};

// The part of the data that the digest is of, where there is one.
struct EventContent {
  EventProof proof = EventProof::kDescribed;
  Bytes measured;
};

// The rules (PFP 1.06, table 27, and what the writers of the events do):
// - EV_SEPARATOR, EV_EFI_ACTION, EV_OMIT_BOOT_DEVICE_EVENTS, EV_EFI_GPT_EVENT, EV_S_CRTM_VERSION,
//   EV_EFI_VARIABLE_DRIVER_CONFIG, _AUTHORITY and _BOOT2: the data, else kMismatched.
//   _AUTHORITY also: the data but for its last byte (shim up to 15 logs a byte too many).
// - EV_EFI_VARIABLE_BOOT: the data (PFP 1.06) or the variable's content alone (EDK II).
// - EV_IPL that begins with "grub_cmd: ", "kernel_cmdline: " or "module_cmdline: ": what follows,
//   without the last NUL (GRUB 2.06, core/tpm.c), else kMismatched.
// - EV_EVENT_TAG: the data after the 8 bytes of the tag's header (TCG_PCClientTaggedEvent), or all.
// - any other type: the data, or with the NULs that systemd-boot forgot in the logged length.
absl::StatusOr<EventContent> ContentOf(const Event& event, PcrBank bank);

struct EfiVariable {
  std::string name;     // UTF-8
  std::string vendor;   // GUID, as text
  Bytes digest;         // the event's, in the appraised bank
  uint64_t size_bytes;  // of the variable's content
  uint32_t register_index;
};

struct BootImage {
  std::string path;  // of the device path's file nodes; not proven, empty where there are none
  Bytes digest;      // Authenticode digest of the image
  uint32_t register_index;
};

// A command line that a boot loader or stub passed on.
struct CommandLine {
  std::optional<std::string> text;  // UTF-8, where the digest proves it
  Bytes digest;
  std::string source;  // "GRUB kernel_cmdline", "LOADED_IMAGE::LoadOptions", "load options"
  uint32_t register_index;
};

// Something measured with a name: sections of a unified kernel image (".linux", PCR 11), files that
// GRUB read (PCR 9), the initrd, MOK lists. Where `name_proven`, the event before it measured the
// name itself.
struct NamedMeasurement {
  std::string name;
  bool name_proven = false;
  Bytes digest;
  uint32_t register_index;
};

struct EventLogClaims {
  PcrBank bank;
  uint64_t event_count = 0;
  std::set<uint32_t> registers;            // that replay to the quoted values
  std::set<uint32_t> described_registers;  // of those: with events whose data proves nothing
  // Of the variable SecureBoot as measured before the first separator of PCR 7 (TDX: RTMR 0);
  // nullopt: never measured there. It rests on the digest alone, since types are not measured.
  std::optional<bool> secure_boot;
  std::vector<EfiVariable> variables;
  std::vector<BootImage> images;  // boot loaders and kernels as the firmware started them
  std::vector<CommandLine> command_lines;
  std::vector<std::string> actions;  // EV_EFI_ACTION and GRUB's commands, proven
  std::vector<NamedMeasurement> measurements;
  PcrValues values;  // of the replay, in `bank`, of `registers`
};

enum class LogRegisters { kTpm, kTdx };

struct EventLogRequest {
  PcrBank bank = PcrBank::kSha256;
  LogRegisters kind = LogRegisters::kTpm;
  // Must be quoted, and must replay. For TDX: {1, 2, 3, 4}.
  std::set<uint32_t> required = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14};
};

// Holds an event log against register values whose signature was verified, and draws claims from
// it. Stateless, thread-safe.
class EventLogAppraiser {
 public:
  // `quoted`: what a verified quote says (its PCR values, or the RTMRs as registers 1 to 4). The
  // required registers are compared in every bank that both log and quote have; claims come from
  // every quoted register that replays, and from no other.
  // kEvidenceMissing: a required register or the bank is not quoted; kMeasurementMismatch: a
  // register that does not replay, an event whose data is not what its digest measured;
  // kPlatformInsecure: a separator that reports a firmware error. Errors of ParseEventLog are the
  // caller's.
  static absl::StatusOr<Verified<EventLogClaims, EventLogAppraiser>> Appraise(
      const EventLog& log, const EventLogRequest& request, const PcrValues& quoted,
      std::string_view item, CheckList& checks);
};

using VerifiedEventLog = Verified<EventLogClaims, EventLogAppraiser>;

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_APPRAISER_H_
