#include "pavise/base/random.h"

#include <sys/random.h>

#include <cerrno>

#include "pavise/base/status.h"

namespace pavise {
namespace {

class KernelRandom final : public RandomSource {
 public:
  absl::Status Fill(std::span<uint8_t> out) override {
    while (!out.empty()) {
      const ssize_t got = getrandom(out.data(), out.size(), 0);
      if (got < 0) {
        if (errno == EINTR) continue;
        return MachineFailure("getrandom", "the kernel gives no random bytes");
      }
      out = out.subspan(static_cast<size_t>(got));
    }
    return absl::OkStatus();
  }
};

}  // namespace

RandomSource& SystemRandom() {
  static KernelRandom source;
  return source;
}

}  // namespace pavise
