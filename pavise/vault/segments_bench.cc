#include <benchmark/benchmark.h>

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
  const Bytes plain(kSegmentBytes, 7);
  Bytes sealed(kSegmentBytes + kTagBytes);
  uint64_t number = 0;
  for (auto _ : state) {
    if (!cipher.Seal(number++, false, plain, sealed).ok()) return state.SkipWithError("not sealed");
  }
  Bytes opened(kSegmentBytes);
  if (!cipher.Open(number - 1, false, sealed, opened, "segment").ok() || opened != plain) {
    return state.SkipWithError("a wrong answer");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kSegmentBytes));
}
BENCHMARK(SealSegments);

void OpenSegments(benchmark::State& state) {
  SegmentCipher cipher = NewCipher();
  const Bytes expected(kSegmentBytes, 7);
  Bytes sealed(kSegmentBytes + kTagBytes);
  if (!cipher.Seal(5, false, expected, sealed).ok()) return state.SkipWithError("not sealed");
  Bytes plain(kSegmentBytes);
  for (auto _ : state) {
    if (!cipher.Open(5, false, sealed, plain, "segment").ok()) {
      return state.SkipWithError("refused");
    }
  }
  if (plain != expected) return state.SkipWithError("a wrong answer");
  sealed[9] ^= 1;
  if (cipher.Open(5, false, sealed, plain, "segment").ok()) {
    return state.SkipWithError("accepts a changed segment");
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kSegmentBytes));
}
BENCHMARK(OpenSegments);

}  // namespace
}  // namespace pavise::vault

BENCHMARK_MAIN();
