#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <string>

#include "pavise/hash/cpu/range_tagger.h"
#include "pavise/hash/tag.h"

// Tags in memory, one thread. 1 MiB stays in a server core's L2 cache, 256 MiB do not. Nothing is
// copied to a device. Every benchmark first checks its answers against the reference.
namespace pavise::hash {
namespace {

void BenchmarkTags(benchmark::State& state, internal::TagTarget target, size_t key_count) {
  Bytes bytes(static_cast<size_t>(state.range(0)));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  const std::array<uint8_t, 32> secret = {1, 2, 3};
  const TagKey first = TagKey::Derive(secret, 1, bytes.size());
  const TagKey second = TagKey::Derive(secret, 2, bytes.size());
  const TagKey* const keys[] = {&first, &second};
  const internal::RangeTagger tagger({keys, key_count}, target);
  const ByteSpan range = ByteSpan(bytes).first(kTagRangeBytes);
  const auto tags = tagger.Tag(range, 5);
  for (size_t k = 0; k < key_count; ++k) {
    if (tags[k] != reference::TagRanges(*keys[k], range, 5).front()) {
      state.SkipWithError("wrong tag");
      return;
    }
  }
  for (auto _ : state) {
    for (size_t begin = 0; begin < bytes.size(); begin += kTagRangeBytes) {
      auto result = tagger.Tag(ByteSpan(bytes).subspan(begin, kTagRangeBytes), begin);
      benchmark::DoNotOptimize(result);
    }
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}

void BM_Tag(benchmark::State& state) {
  BenchmarkTags(state, internal::BestTagTarget(), static_cast<size_t>(state.range(1)));
  state.SetLabel(std::string(internal::TagTargetName(internal::BestTagTarget())));
}
BENCHMARK(BM_Tag)->ArgNames({"bytes", "keys"})->ArgsProduct({{1 << 20, 256 << 20}, {1, 2}});

void BM_TagPlain(benchmark::State& state) { BenchmarkTags(state, internal::TagTarget::kPlain, 1); }
BENCHMARK(BM_TagPlain)->Arg(1 << 20);

void BM_TagKeyDerive(benchmark::State& state) {
  const std::array<uint8_t, 32> secret = {1, 2, 3};
  for (auto _ : state) {
    TagKey key = TagKey::Derive(secret, 1, 1);
    benchmark::DoNotOptimize(key);
  }
}
BENCHMARK(BM_TagKeyDerive);

}  // namespace
}  // namespace pavise::hash
