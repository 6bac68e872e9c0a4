#ifndef PAVISE_HOST_UNIFIED_KERNEL_IMAGE_H_
#define PAVISE_HOST_UNIFIED_KERNEL_IMAGE_H_

#include <string>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

// One EFI application that holds a kernel, its initial file system and its command line (UAPI Group
// Specification "Unified Kernel Image"), on systemd's stub, so that the firmware measures all of
// it.
namespace pavise::host {

struct UnifiedKernelParts {
  Bytes stub;              // linuxx64.efi.stub of systemd 252
  Bytes linux_image;       // vmlinuz with EFI stub
  Bytes initrd;            // cpio, compressed or not
  std::string cmdline;     // printable ASCII, no newline
  std::string os_release;  // text of os-release(5)
};

// The same parts give the same bytes. kMalformed: a part that is empty or no EFI application, a
// command line that is not printable ASCII.
absl::StatusOr<Bytes> BuildUnifiedKernelImage(const UnifiedKernelParts& parts);

}  // namespace pavise::host

#endif  // PAVISE_HOST_UNIFIED_KERNEL_IMAGE_H_
