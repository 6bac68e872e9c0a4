#ifndef PAVISE_BASE_PROGRESS_H_
#define PAVISE_BASE_PROGRESS_H_

#include <cstdint>
#include <memory>
#include <string_view>

namespace pavise {

// Told how far a long operation is. Implementations are thread-safe; Advance is called from many
// threads, a few hundred times a second.
class Progress {
 public:
  virtual ~Progress() = default;
  // A phase of `total_bytes` begins ("hashing").
  virtual void Start(std::string_view phase, uint64_t total_bytes) = 0;
  virtual void Advance(uint64_t bytes) = 0;
  virtual void Finish() = 0;
};

// Ignores everything.
Progress& NoProgress();

// A bar on standard error with percent, GB/s and time left. It appears after one second and only on
// a terminal (otherwise it prints nothing), and is wiped at Finish.
std::unique_ptr<Progress> TerminalProgress();

}  // namespace pavise

#endif  // PAVISE_BASE_PROGRESS_H_
