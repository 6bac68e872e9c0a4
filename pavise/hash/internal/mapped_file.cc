#include "pavise/hash/internal/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::hash::internal {
namespace {

// What the signal handler knows of one mapping. `version` is odd while the owner changes the
// addresses (a sequence lock): the handler may run in another thread at that very moment, and must
// never believe in a range made of an old begin and a new end. A mapping that faults is in use, so
// its own slot is not changing.
struct Slot {
  std::atomic<bool> taken{false};
  std::atomic<uint32_t> version{0};
  std::atomic<uintptr_t> begin{0};
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> faulted{false};
};
static_assert(std::atomic<uintptr_t>::is_always_lock_free);
static_assert(std::atomic<bool>::is_always_lock_free);

Slot g_slots[MappedFile::kMaximumMappings];
std::atomic<int> g_slots_used{0};  // slots at and above this were never taken
struct sigaction g_previous_action;
long g_page_bytes = 0;

void SetRange(Slot& slot, uintptr_t begin, uintptr_t end) {
  slot.version.fetch_add(1, std::memory_order_seq_cst);
  slot.begin.store(begin, std::memory_order_seq_cst);
  slot.end.store(end, std::memory_order_seq_cst);
  slot.version.fetch_add(1, std::memory_order_seq_cst);
}

// Async-signal-safe: atomics and one system call.
bool SupplyZeros(uintptr_t address) {
  const int used = g_slots_used.load(std::memory_order_seq_cst);
  for (int i = 0; i < used; ++i) {
    Slot& slot = g_slots[i];
    const uint32_t version = slot.version.load(std::memory_order_seq_cst);
    const uintptr_t begin = slot.begin.load(std::memory_order_seq_cst);
    const uintptr_t end = slot.end.load(std::memory_order_seq_cst);
    if (version % 2 != 0 || version != slot.version.load(std::memory_order_seq_cst)) continue;
    if (address < begin || address >= end) continue;
    slot.faulted.store(true, std::memory_order_seq_cst);
    // Everything from here to the end at once: what follows a truncation is missing as well, and
    // the result is thrown away in any case.
    const uintptr_t page = address & ~static_cast<uintptr_t>(g_page_bytes - 1);
    return mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  return false;
}

void HandleBusError(int signal_number, siginfo_t* info, void* context) {
  const int saved_errno = errno;
  // A positive code is a fault; kill(2) and the like carry no address.
  const bool supplied =
      info->si_code > 0 && SupplyZeros(reinterpret_cast<uintptr_t>(info->si_addr));
  errno = saved_errno;
  if (supplied) return;
  if ((g_previous_action.sa_flags & SA_SIGINFO) != 0) {
    g_previous_action.sa_sigaction(signal_number, info, context);
  } else if (g_previous_action.sa_handler == SIG_DFL ||
             (g_previous_action.sa_handler == SIG_IGN && info->si_code > 0)) {
    // A fault runs into the same instruction again and now ends the program with its core dump, as
    // it would have without us; a sent signal is sent again, and delivered when this one returns.
    struct sigaction default_action = {};
    default_action.sa_handler = SIG_DFL;
    sigaction(signal_number, &default_action, nullptr);
    if (info->si_code <= 0) raise(signal_number);
  } else if (g_previous_action.sa_handler != SIG_IGN) {
    g_previous_action.sa_handler(signal_number);
  }
}

absl::Status InstallHandler() {
  static std::once_flag once;
  static int error_number = 0;
  std::call_once(once, [] {
    g_page_bytes = sysconf(_SC_PAGESIZE);
    struct sigaction action = {};
    action.sa_sigaction = HandleBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    // The previous action is known before ours can run.
    if (sigaction(SIGBUS, nullptr, &g_previous_action) != 0 ||
        sigaction(SIGBUS, &action, nullptr) != 0) {
      error_number = errno;
    }
  });
  if (error_number != 0) {
    return MachineFailure("SIGBUS handler", std::strerror(error_number));
  }
  return absl::OkStatus();
}

int TakeSlot() {
  for (int i = 0; i < MappedFile::kMaximumMappings; ++i) {
    bool expected = false;
    if (!g_slots[i].taken.compare_exchange_strong(expected, true)) continue;
    g_slots[i].faulted.store(false);
    int used = g_slots_used.load();
    while (used <= i && !g_slots_used.compare_exchange_weak(used, i + 1)) {
    }
    return i;
  }
  return -1;
}

void FreeSlot(int slot) {
  SetRange(g_slots[slot], 0, 0);
  g_slots[slot].taken.store(false);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Map(const FileDescriptor& file,
                                                            uint64_t size_bytes,
                                                            std::string_view item) {
  PAVISE_RETURN_IF_ERROR(InstallHandler());
  if (size_bytes == 0) return UsageError("an empty mapping");
  const int slot = TakeSlot();
  if (slot < 0) {
    return MachineFailure(item, StrCat(kMaximumMappings, " files are mapped already"));
  }
  void* data = mmap(nullptr, size_bytes, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) {
    const int error_number = errno;
    FreeSlot(slot);
    return MachineFailure(item, StrCat("map: ", std::strerror(error_number)));
  }
  // Pages read once need not push out what others keep using.
  madvise(data, size_bytes, MADV_SEQUENTIAL);
  const auto begin = reinterpret_cast<uintptr_t>(data);
  // The last page's padding belongs to the mapping and faults like the rest.
  const auto page_mask = static_cast<uintptr_t>(g_page_bytes - 1);
  SetRange(g_slots[slot], begin, (begin + size_bytes + page_mask) & ~page_mask);
  return std::unique_ptr<MappedFile>(
      new MappedFile(file.get(), static_cast<uint8_t*>(data), size_bytes, slot));
}

MappedFile::~MappedFile() {
  // First out of the registry: after munmap the addresses may be anybody's.
  FreeSlot(slot_);
  munmap(data_, size_bytes_);
}

bool MappedFile::faulted() const { return g_slots[slot_].faulted.load(std::memory_order_seq_cst); }

void MappedFile::Prefetch(uint64_t offset_bytes, uint64_t size_bytes) const {
  if (offset_bytes >= size_bytes_) return;
  size_bytes = std::min(size_bytes, size_bytes_ - offset_bytes);
  // mincore(2) would answer the same only to the file's owner.
  uint8_t probe;
  const struct iovec vector = {&probe, 1};
  if (preadv2(fd_, &vector, 1, static_cast<off_t>(offset_bytes), RWF_NOWAIT) == 1) return;
  // The kernel cuts one request down to the device's readahead size, so it takes many.
  constexpr uint64_t kStepBytes = uint64_t{128} << 10;
  const auto page_mask = static_cast<uint64_t>(g_page_bytes - 1);
  for (uint64_t step = offset_bytes & ~page_mask; step < offset_bytes + size_bytes;
       step += kStepBytes) {
    madvise(data_ + step, std::min(kStepBytes, size_bytes_ - step), MADV_WILLNEED);
  }
}

void MappedFile::Populate(uint64_t offset_bytes, uint64_t size_bytes) const {
  if (offset_bytes >= size_bytes_) return;
  const uint64_t end = offset_bytes + std::min(size_bytes, size_bytes_ - offset_bytes);
  const uint64_t begin = offset_bytes & ~static_cast<uint64_t>(g_page_bytes - 1);
  // What this cannot do, a truncated file's pages among it, the read itself will meet.
  (void)madvise(data_ + begin, end - begin, MADV_POPULATE_READ);
}

void MappedFile::Release(uint64_t offset_bytes, uint64_t size_bytes) {
  if (offset_bytes >= size_bytes_) return;
  const auto page_mask = static_cast<uint64_t>(g_page_bytes - 1);
  const uint64_t begin = (offset_bytes + page_mask) & ~page_mask;
  const uint64_t end =
      (offset_bytes + std::min(size_bytes, size_bytes_ - offset_bytes)) & ~page_mask;
  if (begin >= end) return;
  // The addresses stay reserved: a hole could become somebody else's memory while it is still in
  // the signal handler's table. Where this fails the page tables stay until the destructor.
  (void)mmap(data_ + begin, end - begin, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

}  // namespace pavise::hash::internal
