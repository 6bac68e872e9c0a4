#include "pavise/host/unified_kernel_image.h"

#include <algorithm>

#include "pavise/base/status.h"
#include "pavise/host/pe_image.h"

namespace pavise::host {

absl::StatusOr<Bytes> BuildUnifiedKernelImage(const UnifiedKernelParts& parts) {
  const bool is_printable = std::all_of(parts.cmdline.begin(), parts.cmdline.end(),
                                        [](char c) { return c >= ' ' && c <= '~'; });
  if (!is_printable || parts.cmdline.empty()) {
    return Refuse(Reason::kMalformed, "kernel command line",
                  "must be printable ASCII, and not empty", "write it in one line");
  }
  PAVISE_RETURN_IF_ERROR(ParsePe(parts.linux_image, "kernel").status());
  // .linux last: the stub maps the others where its own section headers say, while a kernel is
  // decompressed in place over what follows it.
  return AppendSections(parts.stub,
                        {{".osrel", AsBytes(parts.os_release)},
                         {".cmdline", AsBytes(parts.cmdline)},
                         {".initrd", parts.initrd},
                         {".linux", parts.linux_image}},
                        "EFI stub");
}

}  // namespace pavise::host
