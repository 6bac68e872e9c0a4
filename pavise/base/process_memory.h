#ifndef PAVISE_BASE_PROCESS_MEMORY_H_
#define PAVISE_BASE_PROCESS_MEMORY_H_

#include "absl/status/status.h"

// What programs decide for all of their memory.
namespace pavise {

// What a program that is to hold keys does first: libraries copy keys to where nobody could lock or
// wipe them one by one. No core dumps of this process, and no reading of its memory by others of
// its user. A machine failure where the kernel refuses.
absl::Status ForbidDumps();

// Whether nothing of this process's memory, present and future, goes to a swap device from now on.
// Asked of the kernel only where the process may lock as much as it likes (CAP_IPC_LOCK, or no
// RLIMIT_MEMLOCK): under a limit, later allocations would fail. Children begin unlocked.
bool LockMemory();

// Memory that is freed stays with the process, whose next buffer of that size takes it: for
// programs that take and free large buffers all the time, which otherwise get every page anew and
// zeroed from the kernel. The process keeps as much as it once needed. Before the first thread.
void KeepFreedMemory();

}  // namespace pavise

#endif  // PAVISE_BASE_PROCESS_MEMORY_H_
