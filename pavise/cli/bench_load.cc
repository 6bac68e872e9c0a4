#include "pavise/cli/bench_load.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/cli/bench_hash.h"
#include "pavise/cli/options.h"
#include "pavise/cli/output.h"
#include "pavise/cli/rate_plot.h"
#include "pavise/cli/work_directory.h"
#include "pavise/crypto/keys.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/hash/device_pass.h"
#include "pavise/hash/devices.h"
#include "pavise/loading/guard.h"
#include "pavise/loading/load.h"
#include "pavise/signing/sign.h"

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace pavise::cli {
namespace {

constexpr const char* kGroup = "What is measured";
constexpr uint64_t kBlockBytes = hash::DevicePass::kPieceBytes;
constexpr uint64_t kLeastModelBytes = uint64_t{1} << 20;
constexpr uint64_t kMostModelBytes = uint64_t{128} << 30;
constexpr uint64_t kMostRepeats = 100;
// Of the work that the guard disturbs: a digest of so much, again and again.
constexpr uint64_t kBusyBytes = uint64_t{64} << 20;

using Clock = std::chrono::steady_clock;
double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A safetensors file of `size_bytes` of U8 tensors of 64 MiB and a rest, in the pattern that
// repeats every 251 bytes.
absl::Status WriteModel(const std::string& path, uint64_t size_bytes) {
  std::string header = "{";
  constexpr uint64_t kTensorBytes = uint64_t{64} << 20;
  for (uint64_t begin = 0; begin < size_bytes; begin += kTensorBytes) {
    const uint64_t bytes = std::min(kTensorBytes, size_bytes - begin);
    StrAppend(&header, begin == 0 ? "" : ",", "\"block.", begin / kTensorBytes,
              "\":{\"dtype\":\"U8\",\"shape\":[", bytes, "],\"data_offsets\":[", begin, ",",
              begin + bytes, "]}");
  }
  header += "}";
  header.append((8 - header.size() % 8) % 8, ' ');
  Bytes start;
  AppendLittleEndian64(header.size(), start);
  PAVISE_ASSIGN_OR_RETURN(AtomicFileWriter writer, AtomicFileWriter::Create(path));
  PAVISE_RETURN_IF_ERROR(writer.Append(start));
  PAVISE_RETURN_IF_ERROR(writer.Append(AsBytes(header)));
  Bytes block(251 << 16);
  for (size_t i = 0; i < block.size(); ++i) block[i] = static_cast<uint8_t>(i % 251);
  for (uint64_t done = 0; done < size_bytes; done += block.size()) {
    PAVISE_RETURN_IF_ERROR(
        writer.Append(ByteSpan(block).first(std::min<uint64_t>(block.size(), size_bytes - done))));
  }
  return writer.Commit();
}

// The same readers, pieces and copies as DevicePass, and no hashing: what a load takes that trusts
// its files. Returns the buffer, of which the caller checks the digest.
absl::StatusOr<std::unique_ptr<hash::Buffer>> LoadUnverified(hash::Device& device,
                                                             const std::string& path) {
  PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
  PAVISE_ASSIGN_OR_RETURN(const FileIdentity identity, IdentityOf(file, path));
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<hash::Buffer> buffer,
                          device.Allocate(identity.size_bytes));
  const std::span<uint8_t> host = buffer->host_bytes();
  std::atomic<uint64_t> next{0};
  const auto read_pieces = [&](absl::Status& status) {
    std::unique_ptr<hash::Staging> staging;
    absl::StatusOr<std::unique_ptr<hash::Stream>> stream = device.NewStream();
    status = stream.status();
    for (uint64_t begin = next.fetch_add(kBlockBytes); status.ok() && begin < identity.size_bytes;
         begin = next.fetch_add(kBlockBytes)) {
      const uint64_t bytes = std::min(kBlockBytes, identity.size_bytes - begin);
      if (!host.empty()) {
        status = ReadExactly(file, begin, host.subspan(begin, bytes), path);
        continue;
      }
      if (staging == nullptr) {
        auto made = device.AllocateStaging(kBlockBytes);
        status = made.status();
        if (!status.ok()) return;
        staging = *std::move(made);
      }
      status = ReadExactly(file, begin, staging->bytes().first(bytes), path);
      if (status.ok()) {
        status = device.CopyIn(staging->bytes().first(bytes), *buffer, begin, **stream);
        status.Update((*stream)->Wait());
      }
    }
  };
  // As many as DevicePassOptions::readers says.
  const unsigned readers = std::min(hash::UsableCpus() + 1, 8u);
  std::vector<absl::Status> statuses(readers);
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < readers; ++i) {
    try {
      threads.emplace_back(read_pieces, std::ref(statuses[i]));
    } catch (const std::exception&) {
      break;  // fewer readers do the same work
    }
  }
  read_pieces(statuses[0]);
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : statuses) PAVISE_RETURN_IF_ERROR(status);
  return buffer;
}

absl::StatusOr<Digest32> DigestOf(hash::Device& device, hash::Stream& stream,
                                  const hash::Buffer& buffer, hash::Range range) {
  Digest32 digest = {};
  absl::Status status =
      device.Digest(hash::Algorithm::kBlake3, buffer, std::span(&range, 1), stream, digest);
  status.Update(stream.Wait());
  PAVISE_RETURN_IF_ERROR(status);
  return digest;
}

// How many digests of `busy` the device gives in `seconds`; each must be `expected`.
absl::StatusOr<double> BusyRate(hash::Device& device, hash::Stream& stream,
                                const hash::Buffer& busy, const Digest32& expected,
                                double seconds) {
  const auto begin = Clock::now();
  uint64_t digests = 0;
  do {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest,
                            DigestOf(device, stream, busy, {0, busy.size_bytes()}));
    if (digest != expected) {
      return MachineFailure(device.name(), "a wrong answer while the guard was at work");
    }
    ++digests;
  } while (SecondsSince(begin) < seconds);
  return static_cast<double>(digests) / SecondsSince(begin);
}

struct Figures {
  std::vector<double> verified_s;
  std::vector<double> unverified_s;
  std::vector<double> load_ratios;
  std::vector<double> resident_s;
  std::vector<double> slowdowns;  // the busy work's rate without the guard / with it
  loading::GuardReport guard;
};

}  // namespace

void LoadBench::Declare(CLI::App& app) {
  AddOption(app, "--device", device_, "NAME", "cpu, opencl:N, cuda:N or auto [cpu]", kGroup);
  AddOption(app, "--size", size_, "SIZE",
            "bytes of the model, or with a unit; written to the disk and kept in its cache [1GiB]",
            kGroup);
  AddOption(app, "--directory", directory_, "DIR", "where it is written [.]", kGroup);
  AddOption(app, "--repeats", repeats_, "N", "pairs that each ratio is the median of [5]", kGroup);
  AddOption(app, "--seconds", seconds_, "S",
            "how long the device is busy, with and without the guard, in each pair [2]", kGroup);
}

absl::StatusOr<Outcome> LoadBench::Run() const {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, ParseSize("--size", size_));
  if (size_bytes < kLeastModelBytes || size_bytes > kMostModelBytes) {
    return UsageError(
        StrCat("--size: from ", SizeLabel(kLeastModelBytes), " to ", SizeLabel(kMostModelBytes)));
  }
  PAVISE_ASSIGN_OR_RETURN(const uint64_t repeats, ParseCount("--repeats", repeats_));
  if (repeats == 0 || repeats > kMostRepeats) {
    return UsageError(StrCat("--repeats: from 1 to ", kMostRepeats));
  }
  double seconds = 0;
  if (!absl::SimpleAtod(seconds_, &seconds) || !(seconds >= 0 && seconds <= 600)) {
    return UsageError("--seconds: a number from 0 to 600");
  }
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Device> device, hash::OpenDevice(device_));
  const double load_before = LoadAverage();
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<WorkDirectory> directory,
                          WorkDirectory::Create(directory_));
  const std::string model = *directory / "model.safetensors";
  PAVISE_RETURN_IF_ERROR(WriteModel(model, size_bytes));
  PAVISE_ASSIGN_OR_RETURN(crypto::PrivateKey key,
                          crypto::PrivateKey::Generate(crypto::KeyType::kEcP256));
  signing::SignOptions sign;
  sign.model_path = model;
  sign.signature_path = *directory / "model.sig";
  sign.signer = &key;
  PAVISE_RETURN_IF_ERROR(signing::SignModel(sign).status());

  loading::LoadOptions options;
  options.verify.model_path = model;
  options.verify.signature_path = sign.signature_path;
  signing::TrustedSigners signers;
  signers.keys.push_back({key.public_key()});
  options.verify.policy = signing::TrustPolicy::ForSigners(std::move(signers));
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Stream> stream, device->NewStream());

  Figures figures;
  Digest32 signed_root = {};
  // The first pair warms up and is not counted.
  for (uint64_t pair = 0; pair <= repeats; ++pair) {
    auto begin = Clock::now();
    double verified_s = 0;
    {
      PAVISE_ASSIGN_OR_RETURN(const loading::VerifiedLoad loaded,
                              loading::Loader::Load(options, *device));
      verified_s = SecondsSince(begin);
      const hash::LoadedFile& file = loaded->files.at(0);
      begin = Clock::now();
      PAVISE_ASSIGN_OR_RETURN(
          const Digest32 root,
          DigestOf(*device, *stream, *file.buffer,
                   file.Find(0, file.size_bytes).value_or(hash::Range{0, file.size_bytes})));
      if (pair == 0) signed_root = root;
      if (pair > 0) figures.resident_s.push_back(SecondsSince(begin));
      if (root != signed_root) {
        return MachineFailure(device->name(), "two digests of one loaded model");
      }
    }
    begin = Clock::now();
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Buffer> unverified,
                            LoadUnverified(*device, model));
    const double unverified_s = SecondsSince(begin);
    PAVISE_ASSIGN_OR_RETURN(const Digest32 root,
                            DigestOf(*device, *stream, *unverified, {0, unverified->size_bytes()}));
    if (root != signed_root) {
      return MachineFailure(device->name(), "the unverified load gave other bytes");
    }
    if (pair == 0) continue;
    figures.verified_s.push_back(verified_s);
    figures.unverified_s.push_back(unverified_s);
    figures.load_ratios.push_back(verified_s / unverified_s);
  }

  const loading::GuardHash guard_hash =
      device->supports_tags() ? loading::GuardHash::kTag : loading::GuardHash::kBlake3;
  options.pass.references = loading::ReferencesFor(guard_hash);
  PAVISE_ASSIGN_OR_RETURN(const loading::VerifiedLoad loaded,
                          loading::Loader::Load(options, *device));
  Bytes busy_bytes(std::min(kBusyBytes, size_bytes));
  for (size_t i = 0; i < busy_bytes.size(); ++i) busy_bytes[i] = static_cast<uint8_t>(i % 251);
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<hash::Buffer> busy, device->Upload(busy_bytes));
  const Digest32 expected = hash::Blake3(busy_bytes);
  for (uint64_t pair = 0; pair < repeats; ++pair) {
    PAVISE_ASSIGN_OR_RETURN(const double alone,
                            BusyRate(*device, *stream, *busy, expected, seconds));
    std::atomic<bool> found = false;
    loading::GuardOptions guard_options;
    guard_options.hash = guard_hash;
    guard_options.share_of_time = 0.01;
    guard_options.on_mismatch = [&](const loading::GuardFinding&) { found = true; };
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<loading::Guard> guard,
                            loading::Guard::Start(loaded, *device, std::move(guard_options)));
    PAVISE_ASSIGN_OR_RETURN(const double guarded,
                            BusyRate(*device, *stream, *busy, expected, seconds));
    figures.guard = guard->Report();
    guard = nullptr;
    if (found) return MachineFailure(device->name(), "the guard found a change that nobody made");
    figures.slowdowns.push_back(alone / guarded);
  }

  const double verified_s = Median(figures.verified_s);
  const double unverified_s = Median(figures.unverified_s);
  const double ratio = Median(figures.load_ratios);
  const double resident_s = Median(figures.resident_s);
  const double slowdown = Median(figures.slowdowns);
  const auto spread = [](std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return absl::StrFormat("%.3f to %.3f", values.front(), values.back());
  };
  Outcome outcome;
  outcome.headline =
      StrCat(SizeLabel(size_bytes), ", ", Printable(device->description()), "; ",
             Printable(MachineLine()), "; load before: ", absl::StrFormat("%.1f", load_before));
  outcome.text = AlignedRows(
      {{"verified load", StrCat(Throughput(size_bytes, verified_s), ", the files cached")},
       {"unverified load", Throughput(size_bytes, unverified_s)},
       {"verified / unverified",
        StrCat(absl::StrFormat("%.3f", ratio), " (", spread(figures.load_ratios), "; ",
               Counted(repeats, "pair"), ")")},
       {"resident bytes verified", Throughput(size_bytes, resident_s)},
       {"guard at 1%",
        StrCat("slows a busy device by ", absl::StrFormat("%.2f%%", 100 * (slowdown - 1)),
               " (rate without / with: ", spread(figures.slowdowns), "), by ",
               loading::GuardHashName(guard_hash), ", ",
               Counted(figures.guard.ranges_checked, "range"), " checked in the last pair")},
       {"answers", "every digest compared; both loads gave the same bytes"}});
  outcome.json = {{"machine", MachineLine()},
                  {"load_before", load_before},
                  {"device", device->description()},
                  {"device_name", device->name()},
                  {"size_bytes", size_bytes},
                  {"repeats", repeats},
                  {"verified_seconds", verified_s},
                  {"unverified_seconds", unverified_s},
                  {"verified_to_unverified", ratio},
                  {"verified_to_unverified_all", figures.load_ratios},
                  {"resident_seconds", resident_s},
                  {"guard_hash", loading::GuardHashName(guard_hash)},
                  {"guard_slowdown", slowdown},
                  {"guard_slowdown_all", figures.slowdowns},
                  {"guard_ranges_checked", figures.guard.ranges_checked},
                  {"guard_share_of_time", figures.guard.share_of_time}};
  return outcome;
}

}  // namespace pavise::cli
