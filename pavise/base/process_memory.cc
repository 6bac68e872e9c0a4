#include "pavise/base/process_memory.h"

#include <linux/capability.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <limits>

#include "pavise/base/status.h"

namespace pavise {
namespace {

bool MayLockEverything() {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  std::array<__user_cap_data_struct, _LINUX_CAPABILITY_U32S_3> sets = {};
  if (syscall(SYS_capget, &header, sets.data()) == 0 &&
      (sets[0].effective & (1u << CAP_IPC_LOCK)) != 0) {
    return true;
  }
  rlimit limit;
  if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_max != RLIM_INFINITY) return false;
  limit.rlim_cur = RLIM_INFINITY;
  return setrlimit(RLIMIT_MEMLOCK, &limit) == 0;
}

}  // namespace

absl::Status ForbidDumps() {
  const rlimit none = {1, 1};  // not 0: a handler that is a pipe would still be fed
  if (setrlimit(RLIMIT_CORE, &none) != 0 || prctl(PR_SET_DUMPABLE, 0) != 0) {
    return MachineFailure("this process", "cannot be kept from being dumped");
  }
  return absl::OkStatus();
}

bool LockMemory() {
  // As pages are touched: what is only reserved takes no memory.
  return MayLockEverything() && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0;
}

void KeepFreedMemory() {
#if defined(__GLIBC__)
  // One arena: those of threads give buffers over 64 MiB back in any case.
  mallopt(M_ARENA_MAX, 1);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

}  // namespace pavise
