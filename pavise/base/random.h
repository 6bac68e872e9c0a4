#ifndef PAVISE_BASE_RANDOM_H_
#define PAVISE_BASE_RANDOM_H_

#include <cstdint>
#include <span>

#include "absl/status/status.h"

namespace pavise {

// Random bytes fit for keys and nonces. Implementations are thread-safe.
class RandomSource {
 public:
  virtual ~RandomSource() = default;
  // Fills `out` whole, or fails (machine failure) and leaves it unspecified.
  virtual absl::Status Fill(std::span<uint8_t> out) = 0;
};

// getrandom(2); lives for the whole program.
RandomSource& SystemRandom();

}  // namespace pavise

#endif  // PAVISE_BASE_RANDOM_H_
