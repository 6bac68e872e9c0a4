#ifndef PAVISE_EVIDENCE_COLLECT_LINUX_KERNEL_LOGS_H_
#define PAVISE_EVIDENCE_COLLECT_LINUX_KERNEL_LOGS_H_

#include <string>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

// What Linux logged of its boot and of the files that it measured.
namespace pavise::evidence {

struct KernelLogPaths {
  std::string event_log = "/sys/kernel/security/tpm0/binary_bios_measurements";
  std::string ima_log = "/sys/kernel/security/ima/binary_runtime_measurements";
  // Of a TDX guest: the event log that its firmware keeps for the RTMRs (ACPI table CCEL).
  std::string confidential_event_log = "/sys/firmware/acpi/tables/data/CCEL";
};

// A log file to its end; files of the kernel have no length that could be asked for. The IMA log
// may grow meanwhile: what is read is a prefix of it, whole entries or not, and later ones are the
// appraiser's to ignore, so it is read *after* the quote. kFileUnreadable names what is missing
// ("mount securityfs", "not permitted"); kLimitExceeded above 64 MiB.
absl::StatusOr<Bytes> ReadKernelLog(const std::string& path);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_COLLECT_LINUX_KERNEL_LOGS_H_
