#include "pavise/base/process_memory.h"

#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>
#include <string>

#include "gtest/gtest.h"

namespace pavise {
namespace {

constexpr int kSkipped = 77;

// What `work` returns in a process of its own, which ends with what it changed.
int InAChild(const std::function<int()>& work) {
  const pid_t child = fork();
  if (child == 0) _exit(work());
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

uint64_t LockedKib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  uint64_t value = 0;
  while (status >> word) {
    if (word == "VmLck:" && status >> value) break;
  }
  return value;
}

constexpr size_t kNewBytes = 8u << 20;

// Touched, and left to the end of the process.
volatile char* NewMemory() {
  void* const memory =
      mmap(nullptr, kNewBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  volatile char* const bytes = static_cast<char*>(memory);
  for (size_t i = 0; i < kNewBytes; i += 4096) bytes[i] = 'x';
  return bytes;
}

TEST(ProcessMemoryTest, ForbidsDumps) {
  EXPECT_EQ(InAChild([] {
              if (!ForbidDumps().ok() || prctl(PR_GET_DUMPABLE) != 0) return 1;
              rlimit limit;
              return getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max <= 1 ? 0 : 2;
            }),
            0);
}

TEST(ProcessMemoryTest, LocksWhatIsAllocatedLater) {
  const int outcome = InAChild([] {
    if (!LockMemory()) return kSkipped;
    const uint64_t before = LockedKib();
    if (before == 0) return 1;
    if (NewMemory() == nullptr) return 2;
    // Less than all of it: the heap may shrink meanwhile.
    return LockedKib() >= before + (kNewBytes >> 11) ? 0 : 3;
  });
  if (outcome == kSkipped) GTEST_SKIP() << "this process may not lock its memory";
  EXPECT_EQ(outcome, 0);
}

// Half a lock would be worse than none: the next allocation over the limit would fail.
TEST(ProcessMemoryTest, UnderALimitNothingIsLocked) {
  EXPECT_EQ(InAChild([] {
              const rlimit small = {64u << 10, 64u << 10};
              if (setrlimit(RLIMIT_MEMLOCK, &small) != 0) return 1;
              __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
              __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = {};
              if (syscall(SYS_capset, &header, none) != 0) return 2;
              if (LockMemory()) return 3;
              return NewMemory() != nullptr && LockedKib() == 0 ? 0 : 4;
            }),
            0);
}

}  // namespace
}  // namespace pavise
