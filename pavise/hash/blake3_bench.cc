#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/blake3_highway.h"

// BLAKE3 in memory, one thread. Sizes up to 1 MiB stay in a server core's L2 cache; 64 MiB do not.
// Nothing is copied to a device. Every benchmark first checks its answer against the reference.
namespace pavise::hash {
namespace {

Bytes Repeating(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

void BM_Blake3(benchmark::State& state) {
  const Bytes input = Repeating(static_cast<size_t>(state.range(0)));
  if (Blake3(input) != reference::Blake3(input)) {
    state.SkipWithError("wrong digest");
    return;
  }
  for (auto _ : state) {
    Digest32 digest = Blake3(input);
    benchmark::DoNotOptimize(digest);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}
BENCHMARK(BM_Blake3)->RangeMultiplier(4)->Range(1 << 10, 64 << 20);

void BM_Blake3Hasher(benchmark::State& state) {
  const Bytes input = Repeating(static_cast<size_t>(state.range(0)));
  if (Blake3(input) != reference::Blake3(input)) {
    state.SkipWithError("wrong digest");
    return;
  }
  for (auto _ : state) {
    Blake3Hasher hasher;
    hasher.Update(input);
    Digest32 digest = hasher.Finish();
    benchmark::DoNotOptimize(digest);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations()) * state.range(0));
}
BENCHMARK(BM_Blake3Hasher)->Arg(1 << 20)->Arg(64 << 20);

// Parents: bytes are those of the chaining values that are joined.
void BM_Blake3RootFromSubtrees(benchmark::State& state) {
  const size_t count = static_cast<size_t>(state.range(0));
  std::vector<ChainingValue> subtrees(count);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t byte = static_cast<uint8_t>(i);
    subtrees[i] = reference::Blake3Subtree({&byte, 1}, i);
  }
  std::vector<ChainingValue> level = subtrees;  // `count` is a power of two
  while (level.size() > 2) {
    for (size_t i = 0; i < level.size() / 2; ++i) {
      level[i] = reference::Blake3Parent(level[2 * i], level[2 * i + 1]);
    }
    level.resize(level.size() / 2);
  }
  if (Blake3RootFromSubtrees(subtrees) != reference::Blake3RootParent(level[0], level[1])) {
    state.SkipWithError("wrong root");
    return;
  }
  for (auto _ : state) {
    Digest32 root = Blake3RootFromSubtrees(subtrees);
    benchmark::DoNotOptimize(root);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * count * sizeof(ChainingValue)));
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations() * (count - 1)));
}
BENCHMARK(BM_Blake3RootFromSubtrees)->Arg(2)->Arg(64)->Arg(1024)->Arg(65536);

// Each target of this CPU, in the L2 cache.
void BenchmarkTarget(benchmark::State& state, std::string_view target) {
  internal::ForceTarget(target);
  BM_Blake3(state);
  internal::ForceTarget("");
}

}  // namespace
}  // namespace pavise::hash

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::AddCustomContext("blake3_target", std::string(pavise::hash::Blake3Target()));
  for (std::string_view target : pavise::hash::internal::AvailableTargets()) {
    benchmark::RegisterBenchmark(("BM_Blake3Target/" + std::string(target)).c_str(),
                                 pavise::hash::BenchmarkTarget, target)
        ->Arg(1 << 20);
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
