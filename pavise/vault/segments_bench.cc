#include <benchmark/benchmark.h>

#include <algorithm>

#include "pavise/base/status.h"
#include "pavise/vault/format.h"
#include "pavise/vault/segment_cipher.h"

// Segments of 1 MiB in memory, on one thread: what `openssl speed -evp aes-256-gcm -bytes 1048576`
// is the measure of.
namespace pavise::vault {
namespace {

constexpr std::array<uint8_t, 32> kSalt{};

SegmentCipher NewCipher() {
  return SegmentCipher::Create(SecretBytes(Bytes(kContentKeyBytes, 1)), kSalt, {}).value();
}

void SealSegments(benchmark::State& state) {
  SegmentCipher cipher = NewCipher();
  Bytes segment(kSegmentBytes + kTagBytes);
  uint64_t number = 0;
  for (auto _ : state) {
    if (!cipher.Seal(number++, false, segment).ok()) return state.SkipWithError("not sealed");
  }
  if (!cipher.Open(number - 1, false, segment, "segment").ok()) {
    return state.SkipWithError("a wrong answer");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kSegmentBytes));
}
BENCHMARK(SealSegments);

void OpenSegments(benchmark::State& state) {
  SegmentCipher cipher = NewCipher();
  Bytes sealed(kSegmentBytes + kTagBytes, 7);
  if (!cipher.Seal(5, false, sealed).ok()) return state.SkipWithError("not sealed");
  Bytes segment = sealed;
  for (auto _ : state) {
    // Decryption is in place, so that each turn needs the bytes again; copying them is not timed.
    state.PauseTiming();
    std::ranges::copy(sealed, segment.begin());
    state.ResumeTiming();
    if (!cipher.Open(5, false, segment, "segment").ok()) return state.SkipWithError("refused");
  }
  sealed[9] ^= 1;
  if (cipher.Open(5, false, sealed, "segment").ok()) {
    return state.SkipWithError("accepts a changed segment");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kSegmentBytes));
}
BENCHMARK(OpenSegments);

}  // namespace
}  // namespace pavise::vault

BENCHMARK_MAIN();
