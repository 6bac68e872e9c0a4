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
  std::string name;     // UTF-8; empty where the digest is of the content alone
  std::string vendor;   // GUID, as text; the same
  Bytes digest;         // the event's, in the appraised bank
  uint64_t size_bytes;  // of the variable's content
  uint32_t register_index;
};

struct BootImage {
  std::string path;  // of the device path's file nodes; not proven, empty where there are none
  Bytes digest;      // Authenticode digest of the image
  uint32_t register_index;
};

// A command line that a boot loader or stub passed on, or what may be one for all that was measured
// (see EventLogClaims).
struct CommandLine {
  std::optional<std::string> text;  // UTF-8, where the digest proves it and it decodes
  Bytes digest;
  std::string source;  // "GRUB kernel_cmdline", "load options", ...: the log's word
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

enum class LogRegisters { kTpm, kTdx };

// Where the firmware measures what it starts: PCR 4; RTMR 1.
uint32_t ImageRegister(LogRegisters kind);
// Where boot loaders and stubs measure command lines: PCR 8 (GRUB), 9 (Linux) and 12 (systemd);
// RTMR
// 2. Nothing elsewhere is taken for one: others write what they like there, such as boot variables.
std::set<uint32_t> CommandLineRegisters(LogRegisters kind);

// Types and labels of events are not measured, so what a log calls an event decides nothing that a
// liar could gain by.
// - Of the image register everything is an image but separators, the firmware's action strings (a
//   list, in the source) and in RTMR 1 also partition tables, which no firmware starts.
// - Of PCR 12 everything but separators is a command line, of unknown text where no data proves it.
// - Of PCR 8 everything but separators is a command line, and but what the log proves to be another
//   text of GRUB's: one without NULs that does not begin as a kernel's path does, with '/', '(',
//   '+' or a digit.
// - Of PCR 9 what is labelled or proven to be one is a command line; the initrd and files that GRUB
//   read cannot be told from one and are `measurements`. Whoever needs to know that there is no
//   other line needs PCR 9's reference value, or each of those digests listed.
// - RTMR 2 is all three at once: the rules of PCR 8 hold for GRUB's texts, those of PCR 9 for the
//   rest.
struct EventLogClaims {
  PcrBank bank;
  LogRegisters kind = LogRegisters::kTpm;
  uint64_t event_count = 0;
  std::set<uint32_t> registers;            // that replay to the quoted values
  std::set<uint32_t> described_registers;  // of those: with events whose data proves nothing
  // Of the variable SecureBoot as measured before the first separator of PCR 7 (TDX: RTMR 0);
  // nullopt: never measured there. It rests on the digest alone, since types are not measured.
  std::optional<bool> secure_boot;
  std::vector<EfiVariable> variables;
  std::vector<BootImage> images;           // boot loaders and kernels as the firmware started them
  std::vector<CommandLine> command_lines;  // of CommandLineRegisters only
  std::vector<std::string> actions;        // EV_EFI_ACTION and GRUB's commands, proven
  std::vector<NamedMeasurement> measurements;
  PcrValues values;  // of the replay, in `bank`, of `registers`
};

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
  // kPlatformInsecure: a separator that reports a firmware error, whatever its type. Errors of
  // ParseEventLog are the caller's.
  static absl::StatusOr<Verified<EventLogClaims, EventLogAppraiser>> Appraise(
      const EventLog& log, const EventLogRequest& request, const PcrValues& quoted,
      std::string_view item, CheckList& checks);
};

using VerifiedEventLog = Verified<EventLogClaims, EventLogAppraiser>;

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_EVENTLOG_EVENT_LOG_APPRAISER_H_
