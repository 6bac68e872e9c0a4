#ifndef PAVISE_HASH_CPU_SHA256_PAIR_H_
#define PAVISE_HASH_CPU_SHA256_PAIR_H_

#include <array>
#include <cstdint>

#include "pavise/base/bytes.h"

// SHA-256 (FIPS 180-4) with the SHA instructions of x86, two messages at a time on one thread.
//
// One message cannot keep such a CPU busy: each of its rounds waits for the one before (the latency
// of sha256rnds2). The rounds of a second message fit into the gaps. Measured on an Intel Xeon
// (Emerald Rapids): 131 cycles a block alone, 100 to 102 in a pair; as it starts a sha256rnds2
// every three cycles, 96 is the least there. OpenSSL hashes one message a thread, and is what to
// use where Sha256PairAvailable() is false or its provider is asked for.
namespace pavise::hash::internal {

// Whether this CPU has the instructions. Asks the CPU: for callers to keep.
bool Sha256PairAvailable();

// An incremental SHA-256. To be used only where Sha256PairAvailable(). Copyable, not thread-safe,
// reusable after Finish.
class Sha256Stream {
 public:
  void Update(ByteSpan bytes);
  // The digest of everything since the construction or the last Finish. FIPS 180-4 ends at 2^61
  // bytes, which no file reaches.
  Digest32 Finish();

 private:
  friend void UpdatePair(Sha256Stream& a, ByteSpan bytes_a, Sha256Stream& b, ByteSpan bytes_b);

  // FIPS 180-4, section 5.3.3.
  static constexpr std::array<uint32_t, 8> kInitialWords = {0x6A09E667u, 0xBB67AE85u, 0x3C6EF372u,
                                                            0xA54FF53Au, 0x510E527Fu, 0x9B05688Cu,
                                                            0x1F83D9ABu, 0x5BE0CD19u};

  // Completes a block that was begun, if there is one and `bytes` reach its end; returns the rest.
  ByteSpan FillBuffer(ByteSpan bytes);

  std::array<uint32_t, 8> words_ = kInitialWords;
  // The last, incomplete block: size_bytes_ % 64 bytes.
  std::array<uint8_t, 64> buffer_ = {};
  uint64_t size_bytes_ = 0;
};

// a.Update(bytes_a) and b.Update(bytes_b), for different streams: interleaved as long as both have
// whole blocks, the rest of the longer one alone.
void UpdatePair(Sha256Stream& a, ByteSpan bytes_a, Sha256Stream& b, ByteSpan bytes_b);

}  // namespace pavise::hash::internal

#endif  // PAVISE_HASH_CPU_SHA256_PAIR_H_
