#include "pavise/base/internal/unfinished_paths.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cstring>

#include "pavise/base/file.h"

namespace pavise {
namespace {

// Fixed memory for the signal handler, and a state that says whether the path is whole.
constexpr size_t kPlaces = 16;
enum State : int { kFree, kTaken, kNamed };
char paths[kPlaces][PATH_MAX];
std::atomic<int> states[kPlaces];
static_assert(std::atomic<int>::is_always_lock_free);

// What a signal handler may do to a directory: system calls only, no allocation, no recursion.
// Other threads may still be adding to it, so that an entry that comes too late ends an attempt.
void RemoveDirectory(const char* path) {
  constexpr int kFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  int depth = 0;
  int directory = open(path, kFlags);
  while (directory >= 0) {
    int next = -1;
    bool is_stuck = false;
    alignas(dirent64) char entries[4096];
    for (long size = 1; next < 0 && !is_stuck && size > 0;) {
      size = syscall(SYS_getdents64, directory, entries, sizeof entries);
      for (long at = 0; at < size && next < 0 && !is_stuck;) {
        const auto* const entry = reinterpret_cast<const dirent64*>(entries + at);
        at += entry->d_reclen;
        const char* const name = entry->d_name;
        if (std::strcmp(name, ".") == 0 || std::strcmp(name, "..") == 0) continue;
        if (unlinkat(directory, name, 0) == 0 || unlinkat(directory, name, AT_REMOVEDIR) == 0) {
          continue;
        }
        next = openat(directory, name, kFlags);
        is_stuck = next < 0;
      }
    }
    if (next >= 0) {
      ++depth;
    } else if (depth > 0 && !is_stuck) {
      next = openat(directory, "..", kFlags);  // where it is looked at again, empty by now
      --depth;
    }
    close(directory);
    directory = next;
  }
}

extern "C" void RemoveAndEnd(int signal_number) {
  constexpr int kAttempts = 10;
  for (size_t i = 0; i < kPlaces; ++i) {
    if (states[i] != kNamed || unlink(paths[i]) == 0) continue;
    for (int attempt = 0; attempt < kAttempts && rmdir(paths[i]) != 0; ++attempt) {
      RemoveDirectory(paths[i]);
    }
  }
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

}  // namespace

int internal::RememberUnfinished(const std::string& path) {
  if (path.size() >= PATH_MAX) return -1;
  for (size_t i = 0; i < kPlaces; ++i) {
    int expected = kFree;
    if (!states[i].compare_exchange_strong(expected, kTaken)) continue;
    std::copy_n(path.c_str(), path.size() + 1, paths[i]);
    states[i] = kNamed;
    return static_cast<int>(i);
  }
  return -1;
}

void internal::ForgetUnfinished(int place) {
  if (place >= 0) states[static_cast<size_t>(place)] = kFree;
}

void RemoveUnfinishedFilesOnSignals() {
  struct sigaction action = {};
  action.sa_handler = RemoveAndEnd;
  sigemptyset(&action.sa_mask);
  for (const int signal_number : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction previous = {};
    // Ignored on purpose (nohup): stays so.
    if (sigaction(signal_number, nullptr, &previous) == 0 && previous.sa_handler == SIG_IGN)
      continue;
    sigaction(signal_number, &action, nullptr);
  }
}

}  // namespace pavise
