#ifndef PAVISE_HOST_PREDICTED_BOOT_H_
#define PAVISE_HOST_PREDICTED_BOOT_H_

#include <string>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::host {

// The PCRs that a boot of this unified kernel image will leave, in every bank: 2 to 6, 9 and 11 to
// 13, started by UEFI firmware with Secure Boot off from a disk without a partition table, by
// systemd 252's stub and Linux 6.1. 0 and 1 belong to the machine, 7 to its Secure Boot keys.
//
//   2   the separator only: a driver from an option ROM, which runs before the image and can do
//   3   what it likes to it, would show in 2, its data in 3. A machine that has one needs a value
//       from a boot that its owner trusts
//   4   what the firmware started: the action "Calling EFI Application from Boot Option", the
//       separator, the image's Authenticode digest, and that of .linux, which the stub starts
//   5   the separator, and the two actions of ExitBootServices
//   6   the separator only
//   9   what the kernel was given: its command line as UTF-16 with its NUL, and the initrd
//   11  each of .linux, .osrel, .cmdline and .initrd: the name with its NUL, then the content
//   12  zero: command lines and credentials from elsewhere would show here
//   13  zero: so would system extensions
//
// (TCG PC Client Platform Firmware Profile 1.06, 3.3.4; systemd-stub(7); Linux,
// drivers/firmware/efi/libstub.) 4 and 11 do not suffice: load options can replace the command
// line, which only 9 and 12 show.
absl::StatusOr<evidence::PcrValues> PredictPcrs(ByteSpan unified_kernel_image,
                                                std::string_view item);

}  // namespace pavise::host

#endif  // PAVISE_HOST_PREDICTED_BOOT_H_
