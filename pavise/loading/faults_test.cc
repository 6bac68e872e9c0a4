// Injected faults: every way in which bytes, answers or devices go wrong that the load and the
// guard have to notice, by name and in tables, with partners in which nothing is wrong.
#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/hash/cuda/cuda_device.h"
#include "pavise/hash/devices.h"
#include "pavise/hash/opencl/opencl_device.h"
#include "pavise/loading/guard.h"
#include "pavise/loading/load.h"
#include "pavise/loading/testing/hooked_device.h"
#include "pavise/loading/testing/signed_model.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using hash::Buffer;
using hash::ChainingValue;
using hash::Device;
using hash::RangeTag;
using ::testing::HasSubstr;

using Hooks = HookedDevice::Hooks;

// A tag is of a range of 16 rows (blocks of 64 KiB), of which kernels take 64 bytes a step.
constexpr uint64_t kRange = hash::kTagRangeBytes;
constexpr uint64_t kRow = hash::kTagBlockBytes;
constexpr uint64_t kStep = 64;
constexpr GuardHash kBoth[] = {GuardHash::kTag, GuardHash::kBlake3};
const TensorSizes kTensors = {{"a", 200'000}, {"b", 700'000}, {"c", 100}, {"d", 12'345}};

class FaultsTest : public SignedModelTest {
 protected:
  void SetUp() override {
    WriteModel(kTensors);
    Sign({});
    // The last range has whole rows and a part of one, which ends within a step.
    ASSERT_EQ(weights_.size() / kRange, 3u);
    ASSERT_GT(weights_.size() % kRange, kRow);
    ASSERT_NE(weights_.size() % kStep, 0u);
  }

  LoadOptions Options(GuardHash hash) const {
    LoadOptions options = SignedModelTest::Options();
    options.pass.references = ReferencesFor(hash);
    return options;
  }
  GuardOptions StepOptions(GuardHash hash) {
    GuardOptions options;
    options.hash = hash;
    options.own_thread = false;
    options.on_mismatch = [this](const GuardFinding& finding) { findings_.push_back(finding); };
    return options;
  }
  // One whole pass, or up to where the guard gives up.
  static void Pass(Guard& guard) {
    const uint64_t before = guard.Report().passes_completed;
    while (guard.Report().passes_completed == before) {
      if (guard.Step() == absl::InfiniteDuration()) return;
    }
  }

  std::vector<GuardFinding> findings_;
};

// ---- Bytes that change where they lie, on every device of this machine ----

std::vector<std::unique_ptr<Device>> Devices() {
  std::vector<std::string> names = {"cpu"};
  if (!hash::ListOpenClDevices().empty()) names.push_back("opencl:0");
  if (hash::ListCudaDevices().ok()) names.push_back("cuda:0");
  std::vector<std::unique_ptr<Device>> devices;
  for (const std::string& name : names) {
    auto device = hash::OpenDevice(name);
    EXPECT_TRUE(device.ok()) << device.status();
    if (device.ok()) devices.push_back(*std::move(device));
  }
  return devices;
}

struct ResidentFault {
  std::string name;
  std::function<void(Bytes&)> inject;
};

std::vector<ResidentFault> ResidentFaults(uint64_t size) {
  std::vector<ResidentFault> faults = {{"nothing", [](Bytes&) {}}};
  const uint64_t last = size / kRange * kRange;  // the last, partial range
  const uint64_t last_row = size / kRow * kRow;
  const std::vector<std::pair<std::string, uint64_t>> positions = {
      {"first row, first column", 0},
      {"first row, last column", kRow - 1},
      {"last row, first column", kRange - kRow},
      {"last row, last column", kRange - 1},
      {"last row of the first half", 7 * kRow + 12'345},
      {"first row of the second half", 8 * kRow + 12'345},
      {"first 16-row group, inside", 5 * kRow + 777},
      {"second 16-row group, first byte", kRange},
      {"last whole 16-row group, last byte", last - 1},
      {"first 64-byte step, last byte", kRange + kStep - 1},
      {"second 64-byte step, first byte", kRange + kStep},
      {"a lane's 16 bytes, last", kRange + 15},
      {"a lane's 16 bytes, next", kRange + 16},
      {"last 64-byte step of a row, first byte", kRange + 2 * kRow - kStep},
      {"last partial range, first byte", last},
      {"last partial range, last whole row", last_row - 1},
      {"last partial row, first byte", last_row},
      {"last partial row, last whole step", size / kStep * kStep - 1},
      {"last partial step, first byte", size / kStep * kStep},
      {"last byte", size - 1}};
  int bit = 0;
  for (const auto& [name, position] : positions) {
    const auto mask = static_cast<uint8_t>(1u << (bit++ % 8));
    faults.push_back({StrCat("a bit flipped: ", name),
                      [position = position, mask](Bytes& bytes) { bytes[position] ^= mask; }});
  }
  const auto swap = [&](const std::string& name, uint64_t a, uint64_t b, uint64_t tile) {
    faults.push_back({StrCat("two tiles swapped: ", name), [=](Bytes& bytes) {
                        const auto first = bytes.begin() + static_cast<ptrdiff_t>(a);
                        std::swap_ranges(first, first + static_cast<ptrdiff_t>(tile),
                                         bytes.begin() + static_cast<ptrdiff_t>(b));
                      }});
  };
  swap("ranges", 0, 2 * kRange, kRange);
  swap("rows of one range", kRange, kRange + 9 * kRow, kRow);
  swap("rows of two ranges", kRow, kRange + kRow, kRow);
  swap("steps of one row", kRange, kRange + 3 * kStep, kStep);
  const std::string other = SafetensorsBytes(kTensors, 2);
  for (const uint64_t tile : {kRange, kRow, kStep}) {
    faults.push_back({StrCat("a tile from another model: ", tile, " bytes"), [=](Bytes& bytes) {
                        const auto at = static_cast<ptrdiff_t>(kRange);
                        std::copy_n(other.begin() + at, tile, bytes.begin() + at);
                      }});
  }
  faults.push_back({"a truncated copy: the last range is of zeros", [=](Bytes& bytes) {
                      std::fill(bytes.begin() + static_cast<ptrdiff_t>(last), bytes.end(), 0);
                    }});
  faults.push_back({"a truncated copy: the last step is of zeros", [=](Bytes& bytes) {
                      std::fill(bytes.begin() + static_cast<ptrdiff_t>(size / kStep * kStep),
                                bytes.end(), 0);
                    }});
  return faults;
}

TEST_F(FaultsTest, BytesThatChangeInMemoryAreFoundAndNamed) {
  const std::vector<ResidentFault> faults = ResidentFaults(weights_.size());
  ASSERT_EQ(faults.size(), 1u + 20 + 4 + 3 + 2);
  size_t devices = 0;
  for (const std::unique_ptr<Device>& device : Devices()) {
    ++devices;
    size_t executed = 0;
    for (const GuardHash hash : kBoth) {
      for (const ResidentFault& fault : faults) {
        SCOPED_TRACE(StrCat(device->name(), ", ", GuardHashName(hash), ": ", fault.name));
        const auto load = Loader::Load(Options(hash), *device);
        ASSERT_TRUE(load.ok()) << load.status();
        findings_.clear();
        const auto guard = Guard::Start(*load, *device, StepOptions(hash));
        ASSERT_TRUE(guard.ok()) << guard.status();

        Buffer& memory = *Weights(**load).buffer;
        const auto stream = device->NewStream().value();
        Bytes bytes(weights_.size());
        ASSERT_TRUE(device->CopyOut(memory, {0, bytes.size()}, *stream, bytes).ok());
        ASSERT_TRUE(stream->Wait().ok());
        ASSERT_EQ(AsText(bytes), weights_);
        fault.inject(bytes);
        std::set<uint64_t> changed;  // MiB
        for (size_t i = 0; i < bytes.size(); ++i) {
          if (bytes[i] != static_cast<uint8_t>(weights_[i])) changed.insert(i / kRange);
        }
        ASSERT_EQ(changed.empty(), fault.name == "nothing");
        ASSERT_TRUE(device->CopyIn(bytes, memory, 0, *stream).ok());
        ASSERT_TRUE(stream->Wait().ok());

        Pass(**guard);
        std::set<uint64_t> named;
        for (const GuardFinding& finding : findings_) {
          EXPECT_EQ(finding.kind, GuardFinding::Kind::kChanged) << finding.status;
          EXPECT_EQ(finding.file, "model.safetensors");
          for (uint64_t at = finding.begin_bytes; at < finding.end_bytes; at += kRange) {
            named.insert(at / kRange);
          }
        }
        EXPECT_EQ(named, changed);
        EXPECT_EQ((*guard)->Report().vouches, changed.empty());
        ++executed;
      }
    }
    EXPECT_EQ(executed, 2 * faults.size());
    RecordProperty(StrCat("faults on ", device->name()), StrCat(executed));
  }
  EXPECT_GE(devices, 1u);
}

// ---- On the way to the device ----

TEST_F(FaultsTest, WhatGoesWrongOnTheWayToTheDeviceIsRefused) {
  const std::string other = SafetensorsBytes(kTensors, 2);
  using Copy = std::function<void(Bytes&, uint64_t&)>;
  const std::vector<std::pair<std::string, Copy>> faults = {
      {"a flipped bit", [](Bytes& bytes, uint64_t&) { bytes[bytes.size() / 2] ^= 0x10; }},
      {"a truncated copy", [](Bytes& bytes, uint64_t&) { bytes.resize(bytes.size() / 2); }},
      {"a copy without its last byte", [](Bytes& bytes, uint64_t&) { bytes.pop_back(); }},
      {"two swapped ranges",
       [](Bytes& bytes, uint64_t&) {
         if (bytes.size() < 2 * kRange) return;
         std::swap_ranges(bytes.begin(), bytes.begin() + kRange, bytes.begin() + kRange);
       }},
      {"another place",
       [](Bytes& bytes, uint64_t& offset) {
         if (bytes.size() < kRange) return;
         bytes.pop_back();
         offset += 1;
       }},
      {"another model's bytes",
       [&](Bytes& bytes, uint64_t& offset) {
         if (bytes.size() < kRange) return;
         std::copy_n(other.begin() + static_cast<ptrdiff_t>(offset), bytes.size(), bytes.begin());
       }},
      {"a tile of another model", [&](Bytes& bytes, uint64_t&) {
         if (bytes.size() < kRange) return;
         std::copy_n(other.begin() + kRow, kRow, bytes.begin() + kRow);
       }}};
  size_t executed = 0;
  for (const GuardHash hash : kBoth) {
    for (const auto& [name, copy] : faults) {
      SCOPED_TRACE(StrCat(GuardHashName(hash), ": ", name));
      HookedDevice device(HookedDevice::Memory::kHidden);
      device.hooks.copy_in = [&copy = copy](Bytes& bytes, uint64_t& offset) {
        copy(bytes, offset);
        return absl::OkStatus();
      };
      const absl::Status status = Loader::Load(Options(hash), device).status();
      EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << status;
      EXPECT_EQ(device.live_buffers(), 0) << "nothing may stay in the device's memory";
      ++executed;
    }
    HookedDevice sound(HookedDevice::Memory::kHidden);
    EXPECT_TRUE(Loader::Load(Options(hash), sound).ok());
  }
  EXPECT_EQ(executed, 2u * 7);
}

// ---- Devices that answer wrongly ----

// Without samples: what was signed is enough to refuse a wrong digest, though not to say whether
// the bytes or the device are wrong; the samples say so.
TEST_F(FaultsTest, ADeviceThatComputesWronglyIsFoundOutByTheLoad) {
  const auto flip = [](std::span<uint8_t> out) {
    if (!out.empty()) out[out.size() - 1] ^= 1;
    return absl::OkStatus();
  };
  const std::vector<std::pair<std::string, Hooks>> faults = {
      {"a wrong chaining value",
       {.after_subtrees =
            [&](std::span<ChainingValue> values) { return flip(values[values.size() / 2]); }}},
      {"chaining values in another order",
       {.after_subtrees =
            [](std::span<ChainingValue> values) {
              std::reverse(values.begin(), values.end());
              return absl::OkStatus();
            }}},
      {"a wrong digest", {.after_digests = flip}},
      {"no digest", {.after_digests = [](std::span<uint8_t> out) {
         std::fill(out.begin(), out.end(), 0);
         return absl::OkStatus();
       }}}};
  size_t executed = 0;
  for (const auto& [name, hooks] : faults) {
    for (const unsigned samples : {0u, 1000u}) {
      SCOPED_TRACE(StrCat(name, ", samples ", samples));
      HookedDevice device(HookedDevice::Memory::kHidden, hooks);
      LoadOptions options = SignedModelTest::Options();
      options.pass.sampled_answers = samples;
      const absl::Status status = Loader::Load(options, device).status();
      if (samples == 0) {
        EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << status;
      } else {
        EXPECT_EQ(ExitCodeOf(status), 3) << status;
        EXPECT_THAT(std::string(status.message()), HasSubstr("computed a wrong digest"));
      }
      EXPECT_EQ(device.live_buffers(), 0);
      ++executed;
    }
  }
  EXPECT_EQ(executed, 2u * 4);
}

// What a device may answer a guard: `out` of one call, of which the first half is under the next
// key and the second under the key being checked; `earlier` is that of the pass before.
TEST_F(FaultsTest, ADeviceThatAnswersWronglyIsNotVouchedFor) {
  using Answer = std::function<void(std::span<RangeTag> out, const std::vector<RangeTag>& earlier)>;
  const std::vector<std::pair<std::string, Answer>> faults = {
      {"a stale key, for the one that is checked",
       [](auto out, const auto& earlier) {
         std::copy(earlier.begin() + static_cast<ptrdiff_t>(out.size() / 2), earlier.end(),
                   out.begin() + static_cast<ptrdiff_t>(out.size() / 2));
       }},
      {"a stale key, for the next one",
       [](auto out, const auto& earlier) {
         std::copy_n(earlier.begin(), out.size() / 2, out.begin());
       }},
      {"the whole answer of the pass before",
       [](auto out, const auto& earlier) {
         std::copy(earlier.begin(), earlier.end(), out.begin());
       }},
      {"the keys exchanged",
       [](auto out, const auto&) {
         std::swap_ranges(out.begin(), out.begin() + static_cast<ptrdiff_t>(out.size() / 2),
                          out.begin() + static_cast<ptrdiff_t>(out.size() / 2));
       }},
      {"ranges exchanged",
       [](auto out, const auto&) { std::swap(out[out.size() / 2], out.back()); }},
      {"a wrong tag", [](auto out, const auto&) { out.back()[31] ^= 0x80; }},
      {"one key for both",
       [](auto out, const auto&) {
         std::copy_n(out.begin() + static_cast<ptrdiff_t>(out.size() / 2), out.size() / 2,
                     out.begin());
       }},
      {"nothing", [](auto out, const auto&) { std::fill(out.begin(), out.end(), RangeTag{}); }}};
  size_t executed = 0;
  for (size_t i = 0; i <= faults.size(); ++i) {
    const bool is_sound = i == faults.size();
    SCOPED_TRACE(is_sound ? "nothing is wrong" : faults[i].first);
    HookedDevice device;
    const auto load = Loader::Load(Options(GuardHash::kTag), device);
    ASSERT_TRUE(load.ok()) << load.status();
    GuardOptions options = StepOptions(GuardHash::kTag);
    options.sampled_ranges = 1000;
    findings_.clear();
    const auto guard = Guard::Start(*load, device, std::move(options));
    ASSERT_TRUE(guard.ok()) << guard.status();
    std::vector<RangeTag> earlier;
    bool inject = false;
    device.hooks.after_tag = [&](Buffer& memory, std::span<RangeTag> out) {
      if (memory.size_bytes() < kRange) return absl::OkStatus();  // config.json
      if (inject) {
        faults[i].second(out, earlier);
      } else {
        earlier.assign(out.begin(), out.end());
      }
      return absl::OkStatus();
    };
    Pass(**guard);
    Pass(**guard);
    ASSERT_TRUE(findings_.empty());
    inject = !is_sound;
    Pass(**guard);
    EXPECT_EQ(findings_.empty(), is_sound);
    EXPECT_EQ((*guard)->Report().vouches, is_sound);
    if (!is_sound) ++executed;
  }
  EXPECT_EQ(executed, 8u);

  HookedDevice device;
  const auto load = Loader::Load(Options(GuardHash::kBlake3), device);
  ASSERT_TRUE(load.ok()) << load.status();
  const auto guard = Guard::Start(*load, device, StepOptions(GuardHash::kBlake3));
  ASSERT_TRUE(guard.ok()) << guard.status();
  device.hooks.after_subtrees = [](std::span<ChainingValue> values) {
    values.back()[0] ^= 1;
    return absl::OkStatus();
  };
  Pass(**guard);
  EXPECT_FALSE((*guard)->Report().vouches);
}

// ---- A device that is lost ----

// At each call of each kind in turn, until the load or the pass needs no more of them.
TEST_F(FaultsTest, ADeviceLostAtAnyCallIsNoVerdictAndNoFallback) {
  const absl::Status lost = MachineFailure("hooked:0", "the device is lost");
  int calls = 0;
  int failing = 0;
  const auto lose = [&](auto&&...) { return ++calls == failing ? lost : absl::OkStatus(); };
  const std::vector<std::pair<std::string, Hooks>> kinds = {
      {"allocating", {.allocate = lose}},
      {"copying", {.copy_in = lose}},
      {"before tags", {.before_tag = lose}},
      {"after tags", {.after_tag = lose}},
      {"before digests", {.before_digests = lose}},
      {"after subtrees", {.after_subtrees = lose}},
      {"after digests", {.after_digests = lose}},
      {"reading by itself",
       {.direct_read = [&](const FileDescriptor&, uint64_t,
                           std::span<uint8_t>) -> absl::StatusOr<uint64_t> { return lost; }}}};
  size_t kinds_lost = 0;
  for (const auto& [name, hooks] : kinds) {
    bool is_over = false;
    int losses = 0;
    for (failing = 1; !is_over && failing < 100; ++failing) {
      SCOPED_TRACE(StrCat(name, ", call ", failing));
      calls = 0;
      HookedDevice device(HookedDevice::Memory::kHidden, hooks);
      LoadOptions options = Options(GuardHash::kTag);
      options.pass.readers = 1;
      const auto load = Loader::Load(options, device);
      is_over = load.ok() || hooks.direct_read != nullptr;
      if (load.ok()) break;
      EXPECT_EQ(ExitCodeOf(load.status()), 3) << load.status();
      EXPECT_THAT(std::string(load.status().message()), HasSubstr("hooked:0"));
      EXPECT_EQ(device.live_buffers(), 0);
      ++losses;
    }
    EXPECT_TRUE(is_over);
    EXPECT_GE(losses, 1) << name;
    kinds_lost += losses >= 1;
  }
  EXPECT_EQ(kinds_lost, 8u);

  size_t guards_lost = 0;
  for (const GuardHash hash : kBoth) {
    for (const bool before : {true, false}) {
      for (failing = 1; failing <= 2; ++failing) {
        SCOPED_TRACE(
            StrCat(GuardHashName(hash), before ? ", before" : ", after", " call ", failing));
        HookedDevice device;
        const auto load = Loader::Load(Options(hash), device);
        ASSERT_TRUE(load.ok()) << load.status();
        findings_.clear();
        const auto guard = Guard::Start(*load, device, StepOptions(hash));
        ASSERT_TRUE(guard.ok()) << guard.status();
        calls = 0;
        device.hooks =
            before ? Hooks{.before_digests = lose, .before_tag = lose}
                   : Hooks{.after_digests = lose, .after_subtrees = lose, .after_tag = lose};
        Pass(**guard);
        ASSERT_EQ(findings_.size(), 1u);
        EXPECT_EQ(findings_[0].kind, GuardFinding::Kind::kCannotVouch);
        EXPECT_EQ(ExitCodeOf(findings_[0].status), 3);
        EXPECT_FALSE((*guard)->Report().vouches);
        EXPECT_EQ((*guard)->Step(), absl::InfiniteDuration());
        device.hooks = {};
        ++guards_lost;
      }
    }
  }
  EXPECT_EQ(guards_lost, 2u * 2 * 2);
}

}  // namespace
}  // namespace pavise::loading
