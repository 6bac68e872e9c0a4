#ifndef PAVISE_LOADING_GUARD_H_
#define PAVISE_LOADING_GUARD_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/random.h"
#include "pavise/hash/device.h"
#include "pavise/hash/device_pass.h"
#include "pavise/loading/load.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

// Checks the bytes of a loaded model again and again, where they lie, while a program uses them.
//
// Against whom: whoever or whatever changes the memory after the load without controlling the
// device's computations: another process, a stray write, flipped bits. A change that still stands
// when its range is next read is found, with GuardHash::kTag but for a probability of 2^-128
// (docs/formats/tag.md) and against anyone who cannot read the device's memory, with kBlake3
// against those too. Not seen: bytes that are changed and changed back between two readings; a
// device that lies on purpose; the memory of anything but the loaded files (activations, code).
namespace pavise::loading {

enum class GuardHash {
  // Keyed tags: each pass checks those of the pass before and makes the next ones under a new key,
  // in one call at the speed of memory. Who reads the device's memory once can forge for good.
  kTag,
  // The chaining values that the signed BLAKE3 root or tensor digest was made of; without a secret,
  // so also against who reads the device's memory. Of files that only a serial digest (SHA-2,
  // BLAKE2b) proves, values recorded in the load; hash::References has what that rests on.
  kBlake3,
};
std::string_view GuardHashName(GuardHash hash);  // "tag", "blake3"
// What a load must keep for such a guard: LoadOptions::pass.references.
hash::References ReferencesFor(GuardHash hash);

// Time that only goes forward. Implementations are thread-safe.
class GuardClock {
 public:
  virtual ~GuardClock() = default;
  virtual absl::Duration Now() const = 0;  // since any fixed moment
};
// std::chrono::steady_clock; lives for the whole program.
const GuardClock& SteadyGuardClock();

struct GuardFinding {
  enum class Kind {
    kChanged,  // bytes are not those that were verified
    // The device failed, lacks what is needed, or disagreed with the CPU about a sample: from here
    // on the guard checks nothing and vouches for nothing.
    kCannotVouch,
  };
  Kind kind = Kind::kCannotVouch;
  std::string file;
  uint64_t begin_bytes = 0;  // of the file, [begin, end): whole ranges, joined where they touch
  uint64_t end_bytes = 0;
  std::vector<std::string> tensors;  // handed out by the load that lie in it, at least in part
  // kContentMismatch that names file, MiB ranges and tensors; or what the device said.
  absl::Status status;
};

struct GuardOptions {
  GuardHash hash = GuardHash::kTag;
  // Of the time, kLeastShare to 1: after a slice that took t the guard rests for t (1 - share) /
  // share.
  double share_of_time = 0.01;
  static constexpr double kLeastShare = 1e-6;
  // Called on the guard's thread (or the caller's of Step), once for each stretch that was found
  // changed in a slice and once when the guard cannot vouch. May call Report, not Step; must not
  // throw nor destroy the guard. Empty: prints the finding to standard error and aborts.
  std::function<void(const GuardFinding&)> on_mismatch;
  // The most ranges (MiB) that are read at a time, of one span of a file.
  size_t ranges_per_slice = 64;
  // In each pass so many ranges, chosen at random, are copied back and computed on the CPU too: a
  // device that answers for other bytes than those it holds is found out in time.
  size_t sampled_ranges = 1;
  // A thread of its own; else the caller calls Step.
  bool own_thread = true;
  const GuardClock* clock = &SteadyGuardClock();
  RandomSource* random = &SystemRandom();  // of the samples
};

struct GuardReport {
  GuardHash hash = GuardHash::kTag;
  uint64_t ranges = 0;
  uint64_t bytes = 0;
  uint64_t ranges_checked = 0;    // in all passes
  uint64_t passes_completed = 0;  // none are counted of a model without bytes
  double coverage = 0;            // of the pass under way, 0 to 1; 1 for a model without bytes
  // The longest time from the moment before a range was read to the verdict of its next reading:
  // as long may a change have gone unseen. A range's first reading counts from Start.
  absl::Duration longest_unchecked;
  // The same up to now, of the range whose last reading is the oldest.
  absl::Duration now_unchecked;
  absl::Duration running;    // since Start
  double share_of_time = 0;  // used so far
  uint64_t samples = 0;      // that the CPU computed again
  uint64_t ranges_changed = 0;
  bool vouches = true;  // false after the first finding
  std::optional<GuardFinding> last_finding;
};

// Thread-safe, but for Start and destruction. `load` and `device` must outlive it.
class Guard {
 public:
  // kUnsupported where the device has no tags (kTag) or no BLAKE3; kInvalidArgument for options
  // outside their limits, a load that kept no such references, another device than the load's, and
  // where another guard of kTag is at work on the load. Guards may follow one another: the next one
  // goes on from the tags that the former left, with keys that were never used.
  static absl::StatusOr<std::unique_ptr<Guard>> Start(const VerifiedLoad& load,
                                                      hash::Device& device, GuardOptions options);
  // Waits for the slice under way.
  ~Guard();
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  GuardReport Report() const;

  // Checks one slice, now, on this thread. Returns how long to rest for the share of time;
  // InfiniteDuration where there is nothing to check (any more). For programs with a loop of their
  // own, and tests; waits while the guard's own thread is in a slice.
  absl::Duration Step();

 private:
  class Work;
  explicit Guard(std::unique_ptr<Work> work);
  std::unique_ptr<Work> work_;
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_GUARD_H_
