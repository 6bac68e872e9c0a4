#include "pavise/cli/training.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/cli/options.h"
#include "pavise/model/tensor_table.h"
#include "pavise/train/batches.h"

#include "CLI/CLI.hpp"

namespace pavise::cli {
namespace {

constexpr const char* kGroup = "Who multiplies";

}  // namespace

void OffloadArguments::Declare(CLI::App& app) {
  AddOption(
      app, "--mode", mode, "tee|obfuscated",
      "tee: everything on this machine, which you trust; obfuscated: products by workers that see "
      "neither data nor weights in the clear [tee]",
      kGroup);
  AddOption(app, "--scheme", scheme, "none|tempo|orthogonal|shared",
            "how they are hidden, and what leaks: docs/schemes.md", kGroup);
  DeclareWorkers(app);
}

void OffloadArguments::DeclareWorkers(CLI::App& app) {
  AddOption(
      app, "--workers", workers, "LIST",
      "ADDRESS[=OPERATOR],... (pavise-worker); @FILE with one of them a line, to which more may "
      "be added while training goes on; or in-process:N[@DEVICE] for workers within this process, "
      "on cpu or cuda:N, which hide nothing from it",
      kGroup);
  AddOption(app, "--worker-ca", worker_ca, "FILE", "authorities of the workers' certificates (PEM)",
            kGroup);
  AddOption(app, "--cert", certificate, "FILE", "this machine's certificate for workers (PEM)",
            kGroup);
  AddOption(app, "--key", key, "FILE", "its key (PEM, not encrypted)", kGroup);
  AddOption(app, "--wire", wire, "bf16|fp16|fp32", "how numbers travel [bf16]", kGroup);
  AddOption(app, "--micro-batches", micro_batches, "N",
            "parts of a batch that are under way at once [1]", kGroup);
  AddOption(app, "--row-blocks", row_blocks, "N",
            "the most workers that one layer's rows are spread over, where that is quicker "
            "[64; in-process: 1]",
            kGroup);
  AddOption(app, "--convolutions", convolutions, "im2col|native",
            "convolutions larger than 1x1: as products, which hides where things are in an image, "
            "or by the "
            "worker, which does not and takes a fraction of the traffic [im2col]",
            kGroup);
  AddOption(
      app, "--least-width", least_width, "N",
      "layers with fewer inputs or outputs stay on this machine; the first layer always does [32]",
      kGroup);
  AddFlag(app, "--no-attention", no_attention, "the products of attention stay on this machine",
          kGroup);
  AddFlag(app, "--plan", plan, "measure, and keep layers on this machine where offloading loses",
          kGroup);
}

absl::Status OffloadArguments::Check() const {
  if (!is_obfuscated()) {
    if (scheme.empty() && workers.empty()) return absl::OkStatus();
    return UsageError("--scheme and --workers go with --mode obfuscated");
  }
  if (scheme.empty()) return UsageError("--mode obfuscated needs a --scheme");
  if (workers.empty()) return UsageError("--mode obfuscated needs --workers");
  return absl::OkStatus();
}

absl::Status NoTrainer() {
  return MachineFailure(
      "pavise-train", "this program has no libtorch: start `pavise`, with pavise-train beside it");
}

absl::StatusOr<train::ImageSplits> ReadData(const std::string& option) {
  const char* const variable = std::getenv("PAVISE_DATA");
  if (!option.empty()) return train::ReadImageSplits(option);
  if (variable == nullptr) return UsageError("no dataset: give --data, or set PAVISE_DATA");
  return train::ReadImageSplits(variable);
}

absl::StatusOr<train::TensorFile> ReadWeights(const std::string& path) {
  std::error_code ignored;
  const std::string file =
      std::filesystem::is_directory(path, ignored) ? path + "/model.safetensors" : path;
  train::TensorFile weights;
  PAVISE_ASSIGN_OR_RETURN(weights.bytes, ReadFile(file, train::kMaxTensorFileBytes));
  const ByteSpan bytes = weights.bytes;
  PAVISE_ASSIGN_OR_RETURN(const uint64_t header_bytes,
                          model::SafetensorsHeaderBytes(
                              bytes.first(std::min<size_t>(bytes.size(), 8)), bytes.size(), file));
  PAVISE_ASSIGN_OR_RETURN(
      weights.table, model::ParseSafetensorsHeader(bytes.first(header_bytes), bytes.size(), file));
  return weights;
}

// In blocks of four pixels, so that neighbours agree.
train::ImageSplits SyntheticImages(size_t count) {
  train::ImageSplits splits;
  splits.format = "synthetic noise";
  splits.classes = 10;
  train::ImageDataset& images = splits.train;
  images.channels = 3;
  images.height = images.width = 32;
  images.labels.resize(count);
  images.images.resize(count * images.image_bytes());
  for (size_t i = 0; i < count; ++i) {
    images.labels[i] = static_cast<uint8_t>(i % splits.classes);
    for (size_t j = 0; j < images.image_bytes(); ++j) {
      const size_t block = j / 1024 * 64 + j / 128 % 8 * 8 + j % 32 / 4;
      images.images[i * images.image_bytes() + j] =
          static_cast<uint8_t>(train::MixSeed(i, block, images.labels[i]));
    }
  }
  return splits;
}

absl::StatusOr<unsigned> ResolveThreads(const std::string& option) {
  PAVISE_ASSIGN_OR_RETURN(const unsigned threads, ParseThreads(option));
  if (threads != 0) return threads;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1u;
  return static_cast<unsigned>(CPU_COUNT(&set));
}

}  // namespace pavise::cli
