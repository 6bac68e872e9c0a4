#include "pavise/evidence/collect/linux/kernel_logs.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "pavise/base/file.h"
#include "pavise/base/status.h"

namespace pavise::evidence {
namespace {

constexpr size_t kMostLogBytes = size_t{64} << 20;
constexpr size_t kReadBytes = size_t{1} << 16;

}  // namespace

absl::StatusOr<Bytes> ReadKernelLog(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) {
    if (errno == ENOENT) {
      return Refuse(Reason::kFileUnreadable, path, "is not there",
                    "mount securityfs (mount -t securityfs securityfs /sys/kernel/security), or "
                    "leave this log out");
    }
    return FromErrno(errno, "opening", path);
  }
  Bytes log;
  for (;;) {
    const size_t size = log.size();
    if (size > kMostLogBytes) {
      return Refuse(
          Reason::kLimitExceeded, path, "is longer than 64 MiB, the most that evidence carries",
          "restart the machine, so that its log begins anew, and measure less (the IMA policy), "
          "or leave this log out");
    }
    log.resize(size + kReadBytes);
    const ssize_t count = read(file.get(), log.data() + size, kReadBytes);
    if (count < 0 && errno != EINTR) return FromErrno(errno, "reading", path);
    log.resize(size + static_cast<size_t>(count > 0 ? count : 0));
    if (count == 0) return log;
  }
}

}  // namespace pavise::evidence
