#include "pavise/loading/load.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/loading/testing/hooked_device.h"
#include "pavise/loading/testing/signed_model.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using hash::Buffer;
using hash::ChainingValue;
using hash::Device;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

constexpr HookedDevice::Memory kHidden = HookedDevice::Memory::kHidden;

class LoadTest : public SignedModelTest {
 protected:
  void SetUp() override {
    // Larger than a piece of the pass; tensors that begin and end anywhere.
    WriteModel({{"a", 200'000}, {"b", 5'000'000}, {"c", 100}, {"d", 300'001}, {"e", 0}});
    Sign({});
  }

  Bytes Content(Device& device, const LoadedTensor& tensor) {
    Bytes bytes(tensor.size_bytes());
    const auto stream = device.NewStream();
    EXPECT_TRUE(
        device.CopyOut(*tensor.buffer, {tensor.buffer_offset_bytes, bytes.size()}, **stream, bytes)
            .ok());
    EXPECT_TRUE((*stream)->Wait().ok());
    return bytes;
  }

  void ExpectSignedTensors(Device& device, const LoadedModel& model) {
    for (const LoadedTensor& tensor : model.tensors) {
      EXPECT_EQ(AsText(Content(device, tensor)),
                std::string_view(weights_).substr(tensor.entry.begin_bytes, tensor.size_bytes()))
          << tensor.entry.name;
    }
  }
};

TEST_F(LoadTest, TheWholeModel) {
  const auto cpu = hash::NewCpuDevice(2);
  HookedDevice sound(kHidden);
  struct Case {
    Device* device;
    Channel channel;
  };
  for (const Case& test : {Case{cpu.get(), Channel::kHostMemory}, {&sound, Channel::kPlain}}) {
    SCOPED_TRACE(test.device->name());
    const auto loaded = Loader::Load(Options(), *test.device);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const LoadedModel& model = **loaded;
    EXPECT_EQ(model.tensors.size(), 5u);
    EXPECT_EQ(model.files.size(), 3u);
    EXPECT_EQ(model.channel, test.channel);
    EXPECT_EQ(model.answers_sampled, 8u);
    EXPECT_EQ(model.report.files_checked, 3u);
    EXPECT_FALSE(model.report.partial);
    EXPECT_EQ(model.report.device, test.device->description());
    ExpectSignedTensors(*test.device, model);
    ASSERT_NE(model.Find("b"), nullptr);
    EXPECT_EQ(model.Find("b")->size_bytes(), 20'000'000u);
    EXPECT_EQ(model.Find("x"), nullptr);
  }
}

TEST_F(LoadTest, OnlyTheTensorsThatWereAskedFor) {
  HookedDevice device(kHidden);
  LoadOptions options = Options();
  options.verify.tensors = {"a", "c"};
  const auto loaded = Loader::Load(options, device);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LoadedModel& model = **loaded;
  EXPECT_TRUE(model.report.partial);
  ASSERT_EQ(model.tensors.size(), 2u);
  EXPECT_EQ(model.tensors[0].entry.name, "a");
  EXPECT_EQ(model.tensors[1].entry.name, "c");
  ExpectSignedTensors(device, model);
  EXPECT_LT(model.device_bytes, 2 * kMiB);
  // Damage elsewhere is nobody's business here, damage inside is.
  Flip(10 * kMiB);
  EXPECT_TRUE(Loader::Load(options, device).ok());
  Flip(model.Find("a")->entry.begin_bytes + 1000);
  EXPECT_EQ(ReasonOf(Loader::Load(options, device).status()), Reason::kContentMismatch);
}

// By a tool that signs no tensor tables, under each of its digests.
TEST_F(LoadTest, ModelsSignedWithoutAnnotations) {
  HookedDevice device(kHidden);
  for (const hash::Algorithm algorithm :
       {hash::Algorithm::kSha256, hash::Algorithm::kBlake2b, hash::Algorithm::kBlake3}) {
    SCOPED_TRACE(hash::AlgorithmName(algorithm));
    signing::SignOptions signing;
    signing.serialization.hash_type = algorithm;
    signing.annotate = false;
    Sign(signing);
    const auto loaded = Loader::Load(Options(), device);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ((*loaded)->tensors.size(), 5u);
    ExpectSignedTensors(device, **loaded);
    Flip(5 * kMiB);
    EXPECT_EQ(ReasonOf(Loader::Load(Options(), device).status()), Reason::kContentMismatch);
    directory_.Write("model/model.safetensors", weights_);
  }
}

TEST_F(LoadTest, FilesThatAreNotWhatWasSignedAreRefused) {
  const auto device = hash::NewCpuDevice(2);
  for (const uint64_t offset : {uint64_t{0}, uint64_t{100}, kMiB - 1, kMiB, 16 * kMiB - 1,
                                16 * kMiB, uint64_t{weights_.size() - 1}}) {
    Flip(offset);
    const absl::Status status = Loader::Load(Options(), *device).status();
    EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << offset << ": " << status;
  }
  directory_.Write("model/model.safetensors", weights_.substr(0, weights_.size() - 1));
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), *device).status()), Reason::kContentMismatch);
  directory_.Write("model/model.safetensors", weights_ + "x");
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), *device).status()), Reason::kContentMismatch);
  directory_.Write("model/model.safetensors", weights_);
  directory_.Write("model/more", "x");
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), *device).status()), Reason::kFileUnsigned);
}

TEST_F(LoadTest, ASignerWhoIsNotTrustedIsRefused) {
  const auto device = hash::NewCpuDevice(2);
  LoadOptions options = Options();
  auto other = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  signing::TrustedSigners signers;
  signers.keys.push_back({other.public_key()});
  options.verify.policy = signing::TrustPolicy::ForSigners(std::move(signers));
  EXPECT_TRUE(ReasonOf(Loader::Load(options, *device).status()).has_value());
  options = Options();
  options.verify.fips = true;
  EXPECT_EQ(ReasonOf(Loader::Load(options, *device).status()), Reason::kUnsupported);
}

// A device that answers with the signed digests whatever it holds: the samples find it out.
TEST_F(LoadTest, ADeviceThatAnswersForOtherBytesIsFoundOut) {
  // It hashes what it was sent and then keeps something else.
  HookedDevice device(kHidden, {.after_subtrees = [&](std::span<ChainingValue> values) {
                        for (ChainingValue& value : values) value[0] ^= 1;
                        return absl::OkStatus();
                      }});
  const absl::Status status = Loader::Load(Options(), device).status();
  EXPECT_EQ(ExitCodeOf(status), 3) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("computed a wrong digest"));

  HookedDevice digests(kHidden, {.after_digests = [&](std::span<uint8_t> out) {
                         out[0] ^= 1;
                         return absl::OkStatus();
                       }});
  LoadOptions options = Options();
  options.verify.tensors = {"*"};
  options.pass.sampled_answers = 1000;  // all of them: one is wrong
  EXPECT_THAT(Loader::Load(options, digests).status().ToString(),
              HasSubstr("computed a wrong digest"));
  // Without samples a wrong answer still matches nothing that was signed.
  options.pass.sampled_answers = 0;
  EXPECT_EQ(ReasonOf(Loader::Load(options, digests).status()), Reason::kContentMismatch);
}

// Right digests, other bytes: also where no signed digest covers less than a large file or tensor.
TEST_F(LoadTest, ADeviceThatHoldsOtherBytesIsFoundOutWhateverIsSigned) {
  const auto garbled = [](std::span<uint8_t> bytes) {
    for (uint8_t& byte : bytes) byte = 0x66;
  };
  HookedDevice device(kHidden, {.after_copy_out = garbled});
  directory_.Write("model/large.bin", std::string(65 * kMiB, 'x'));
  std::filesystem::remove(directory_ / "model/model.safetensors");
  for (const bool annotate : {true, false}) {
    SCOPED_TRACE(annotate);
    signing::SignOptions signing;
    signing.annotate = annotate;
    Sign(signing);
    const absl::Status status = Loader::Load(Options(), device).status();
    EXPECT_EQ(ExitCodeOf(status), 3) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("computed a wrong digest"));
  }
  // One tensor, larger than any digest that is computed again as a whole.
  directory_.Write("model/model.safetensors", SafetensorsBytes({{"w", 17 * kMiB}, {"v", 5}}, 3));
  std::filesystem::remove(directory_ / "model/large.bin");
  Sign({});
  LoadOptions options = Options();
  options.verify.tensors = {"w"};
  EXPECT_THAT(Loader::Load(options, device).status().ToString(),
              HasSubstr("computed a wrong digest"));
}

// What lies between tensors that were asked for was not proven, so it is in no buffer.
TEST_F(LoadTest, APartialLoadHoldsNothingElse) {
  const auto device = hash::NewCpuDevice(2);
  const uint64_t c_begin = weights_.size() - 300'001 * 4 - 400;
  Flip(c_begin + 7);
  LoadOptions options = Options();
  options.verify.tensors = {"b", "d"};
  const auto loaded = Loader::Load(options, *device);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->Find("c"), nullptr);
  EXPECT_EQ((*loaded)->Find("e"), nullptr) << "an empty tensor that nobody asked for";
  ASSERT_EQ((*loaded)->files.size(), 1u);
  EXPECT_FALSE((*loaded)->files[0].Find(c_begin, c_begin + 400).has_value());
  EXPECT_FALSE((*loaded)->files[0].Find(c_begin + 7, c_begin + 8).has_value());
  EXPECT_NE((*loaded)->Find("model.safetensors", "d"), nullptr);
  EXPECT_EQ((*loaded)->Find("config.json", "d"), nullptr);
}

TEST_F(LoadTest, WhatDoesNotFitIsRefusedBeforeAnythingIsRead) {
  HookedDevice device(kHidden,
                      {.allocate = [] { return MachineFailure("hooked:0", "not asked for"); },
                       .memory_bytes = weights_.size() - 1});
  const absl::Status status = Loader::Load(Options(), device).status();
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << status;
  // Whoever may write the files and the signature names no length: a sparse file costs nothing.
  signing::SignOptions signing;
  signing.annotate = false;
  Sign(signing);
  std::filesystem::resize_file(directory_ / "model/config.json", uint64_t{1} << 42);
  const auto cpu = hash::NewCpuDevice(2);
  EXPECT_TRUE(ReasonOf(Loader::Load(Options(), *cpu).status()).has_value());
}

// One bad file, and what was loaded before and after it is given back.
TEST_F(LoadTest, ARefusedFileLeavesNoBuffers) {
  HookedDevice device(kHidden);
  directory_.Write("model/config.json", "[]");
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), device).status()), Reason::kContentMismatch);
  EXPECT_EQ(device.live_buffers(), 0);
}

TEST_F(LoadTest, AFileTooShortForItsNameIsRefused) {
  directory_.Write("model/short.safetensors", "1234567");
  signing::SignOptions signing;
  signing.annotate = false;
  Sign(signing);
  const auto device = hash::NewCpuDevice(2);
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), *device).status()), Reason::kMalformed);
}

// Who loads may ask for more than a bus in the clear; what offers less is not even read for.
TEST_F(LoadTest, AChannelBelowTheLeastIsRefusedBeforeAnythingIsRead) {
  using Kind = hash::MemoryLink::Kind;
  struct Case {
    Kind link;
    HookedDevice::Memory memory;
    Channel channel;
  };
  const std::vector<Case> cases = {
      {Kind::kPlain, kHidden, Channel::kPlain},
      {Kind::kEncryptedUnattested, kHidden, Channel::kConfidentialGpu},
      {Kind::kHost, HookedDevice::Memory::kHost, Channel::kHostMemory}};
  size_t refused = 0;
  size_t loaded = 0;
  for (const Case& test : cases) {
    HookedDevice device(test.memory);
    device.hooks.link = {test.link, "the test says so"};
    for (const Channel least : {Channel::kPlain, Channel::kConfidentialGpu, Channel::kHostMemory}) {
      SCOPED_TRACE(StrCat(ChannelName(test.channel), " for ", ChannelName(least)));
      LoadOptions options = Options();
      options.least_channel = least;
      if (test.channel >= least) {
        const auto load = Loader::Load(options, device);
        ASSERT_TRUE(load.ok()) << load.status();
        EXPECT_EQ((*load)->channel, test.channel);
        EXPECT_FALSE((*load)->channel_because.empty());
        ++loaded;
        continue;
      }
      // Nothing is there to be read.
      options.verify.model_path = directory_ / "nowhere";
      options.verify.signature_path = directory_ / "nowhere.sig";
      const absl::Status status = Loader::Load(options, device).status();
      EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << status;
      EXPECT_EQ(RefusalsOf(status).front().item, "hooked:0");
      EXPECT_THAT(RefusalsOf(status).front().detail, HasSubstr("the test says so"));
      ++refused;
    }
  }
  EXPECT_EQ(loaded, 6u);
  EXPECT_EQ(refused, 3u);
}

TEST_F(LoadTest, MemoryThatIsSaidToBeTheHostsAndIsHiddenIsNoHostMemory) {
  HookedDevice device(kHidden);
  device.hooks.link.kind = hash::MemoryLink::Kind::kHost;
  EXPECT_EQ(ExitCodeOf(Loader::Load(Options(), device).status()), 3);
  EXPECT_EQ(device.live_buffers(), 0);
}

TEST(ChannelTest, NamesAreThereAndBack) {
  size_t executed = 0;
  for (const Channel channel : {Channel::kPlain, Channel::kConfidentialGpu, Channel::kHostMemory}) {
    EXPECT_EQ(ChannelNamed(ChannelName(channel)), channel);
    ++executed;
  }
  EXPECT_EQ(executed, 3u);
  for (const char* name : {"", "Plain", "confidential", "host"}) {
    EXPECT_EQ(ChannelNamed(name), std::nullopt) << name;
  }
}

// ---- Reads that the device makes by itself ----

class DirectLoadTest : public LoadTest {
 protected:
  static absl::StatusOr<uint64_t> Read(const FileDescriptor& file, uint64_t offset_bytes,
                                       std::span<uint8_t> memory) {
    const ssize_t got =
        pread(file.get(), memory.data(), memory.size(), static_cast<off_t>(offset_bytes));
    if (got < 0) return MachineFailure("hooked:0", "pread");
    return static_cast<uint64_t>(got);
  }
  LoadOptions Options(hash::DirectReads direct_reads) const {
    LoadOptions options = LoadTest::Options();
    options.pass.direct_reads = direct_reads;
    return options;
  }
};

TEST_F(DirectLoadTest, WhoReadsIsPartOfTheResult) {
  using hash::DirectReads;
  struct Case {
    bool has_reader;
    bool bypasses_host;
    DirectReads direct_reads;
    std::string_view read_by;  // empty: refused
  };
  const std::vector<Case> cases = {{true, true, DirectReads::kAuto, "hooked reader"},
                                   {true, true, DirectReads::kOn, "hooked reader"},
                                   {true, true, DirectReads::kOff, "read, copied"},
                                   {true, false, DirectReads::kAuto, "read, copied"},
                                   {true, false, DirectReads::kOn, "hooked reader"},
                                   {false, true, DirectReads::kAuto, "read, copied"},
                                   {false, true, DirectReads::kOn, ""}};
  size_t executed = 0;
  for (const Case& test : cases) {
    SCOPED_TRACE(executed);
    HookedDevice device(kHidden);
    if (test.has_reader) device.hooks.direct_read = Read;
    device.hooks.direct_bypasses_host = test.bypasses_host;
    const auto loaded = Loader::Load(Options(test.direct_reads), device);
    ++executed;
    if (test.read_by.empty()) {
      EXPECT_EQ(ReasonOf(loaded.status()), Reason::kUnsupported) << loaded.status();
      EXPECT_EQ(device.copies_in(), 0u);
      continue;
    }
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(Weights(**loaded).read_by, test.read_by);
    ExpectSignedTensors(device, **loaded);
    const bool is_direct = test.read_by == "hooked reader";
    EXPECT_EQ(device.direct_reads() > 0, is_direct);
    EXPECT_EQ(device.copies_in() > 0, !is_direct);
  }
  EXPECT_EQ(executed, 7u);
  // Memory that the host sees takes a reader as well, if it is asked for one.
  HookedDevice host;
  host.hooks.direct_read = Read;
  EXPECT_TRUE(Loader::Load(Options(DirectReads::kOn), host).ok());
}

// A file or file system that the reader does not do is read in the other way; a reader that fails
// at it is not.
TEST_F(DirectLoadTest, OnlyWhatIsAbsentIsReplaced) {
  HookedDevice device(kHidden);
  device.hooks.direct_read = Read;
  device.hooks.open_direct = [] { return Refuse(Reason::kUnsupported, "reader", "not this one"); };
  const auto loaded = Loader::Load(Options(hash::DirectReads::kAuto), device);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(Weights(**loaded).read_by, "read, copied");
  EXPECT_EQ(ReasonOf(Loader::Load(Options(hash::DirectReads::kOn), device).status()),
            Reason::kUnsupported);
  const auto broken = [] { return MachineFailure("reader", "it broke"); };
  size_t executed = 0;
  for (const bool starts : {true, false}) {
    device.hooks.start_direct = starts ? std::function<absl::Status()>() : broken;
    device.hooks.open_direct = starts ? broken : std::function<absl::Status()>();
    for (const auto direct_reads : {hash::DirectReads::kAuto, hash::DirectReads::kOn}) {
      const absl::Status status = Loader::Load(Options(direct_reads), device).status();
      EXPECT_EQ(ExitCodeOf(status), 3) << status;
      ++executed;
    }
    EXPECT_TRUE(Loader::Load(Options(hash::DirectReads::kOff), device).ok());
  }
  EXPECT_EQ(executed, 4u);
}

// What the device was given is what is hashed, however it came.
TEST_F(DirectLoadTest, WhatGoesWrongOnTheWayIsRefused) {
  struct Case {
    std::string name;
    std::function<absl::StatusOr<uint64_t>(const FileDescriptor&, uint64_t, std::span<uint8_t>)>
        read;
    std::optional<Reason> reason;  // nullopt: a machine failure
  };
  const std::vector<Case> cases = {
      {"ends early",
       [](const FileDescriptor& file, uint64_t offset,
          std::span<uint8_t> memory) -> absl::StatusOr<uint64_t> {
         if (offset >= 16 * kMiB) return 0;
         return Read(file, offset, memory);
       },
       Reason::kFileUnstable},
      {"says more than was asked for",
       [](const FileDescriptor&, uint64_t, std::span<uint8_t> memory) -> absl::StatusOr<uint64_t> {
         return memory.size() + 1;
       },
       std::nullopt},
      {"fails",
       [](const FileDescriptor& file, uint64_t offset,
          std::span<uint8_t> memory) -> absl::StatusOr<uint64_t> {
         if (offset >= 16 * kMiB) return MachineFailure("hooked:0", "read error");
         return Read(file, offset, memory);
       },
       std::nullopt},
      {"says it read and did not",
       [](const FileDescriptor&, uint64_t, std::span<uint8_t> memory) -> absl::StatusOr<uint64_t> {
         return memory.size();
       },
       Reason::kContentMismatch},
      {"leaves out the end",
       [](const FileDescriptor& file, uint64_t offset,
          std::span<uint8_t> memory) -> absl::StatusOr<uint64_t> {
         const auto got = Read(file, offset, memory.first(memory.size() / 2));
         return got.ok() ? absl::StatusOr<uint64_t>(memory.size()) : got;
       },
       Reason::kContentMismatch},
      {"another place of the file",
       [](const FileDescriptor& file, uint64_t offset, std::span<uint8_t> memory) {
         return Read(file, offset >= 4096 ? offset - 4096 : offset, memory);
       },
       Reason::kContentMismatch},
      {"another place of the memory",
       [](const FileDescriptor& file, uint64_t offset,
          std::span<uint8_t> memory) -> absl::StatusOr<uint64_t> {
         if (memory.size() < 2 * kMiB) return Read(file, offset, memory);
         const auto got = Read(file, offset, memory.subspan(512));
         return got.ok() ? absl::StatusOr<uint64_t>(memory.size()) : got;
       },
       Reason::kContentMismatch},
      {"a flipped bit",
       [](const FileDescriptor& file, uint64_t offset, std::span<uint8_t> memory) {
         const auto got = Read(file, offset, memory);
         if (memory.size() > kMiB) memory[kMiB] ^= 1;
         return got;
       },
       Reason::kContentMismatch}};
  size_t executed = 0;
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    HookedDevice device(kHidden);
    device.hooks.direct_read = test.read;
    const absl::Status status = Loader::Load(Options(hash::DirectReads::kAuto), device).status();
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(ReasonOf(status), test.reason) << status;
    EXPECT_EQ(device.copies_in(), 0u) << "no other way may step in";
    EXPECT_EQ(device.live_buffers(), 0);
    ++executed;
  }
  EXPECT_EQ(executed, 8u);
}

// Short reads in the middle are gone on with, as with any read.
TEST_F(DirectLoadTest, ReadsInPartsAreJoined) {
  HookedDevice device(kHidden);
  device.hooks.direct_read = [](const FileDescriptor& file, uint64_t offset,
                                std::span<uint8_t> memory) {
    return Read(file, offset, memory.first(std::min<size_t>(memory.size(), 3'000'001)));
  };
  const auto loaded = Loader::Load(Options(hash::DirectReads::kAuto), device);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ExpectSignedTensors(device, **loaded);
}

// References has the reason: tags of bytes that are there, and digests after them.
TEST_F(DirectLoadTest, TheOrderOfReadTagAndDigestHolds) {
  HookedDevice device(kHidden);
  std::vector<std::string> order;
  device.hooks.direct_read = [&](const FileDescriptor& file, uint64_t offset,
                                 std::span<uint8_t> memory) {
    const auto got = Read(file, offset, memory);
    order.emplace_back("read");
    return got;
  };
  device.hooks.before_tag = [&](Buffer&) {
    order.emplace_back("tag");
    return absl::OkStatus();
  };
  device.hooks.before_digests = [&](Buffer&) {
    order.emplace_back("digest");
    return absl::OkStatus();
  };
  LoadOptions options = Options(hash::DirectReads::kAuto);
  options.pass.references = hash::References::kTags;
  options.pass.readers = 1;
  const auto loaded = Loader::Load(options, device);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  // config.json, the empty file, and the two pieces of the weights.
  EXPECT_THAT(order, ElementsAre("read", "tag", "digest", "digest", "read", "tag", "digest", "read",
                                 "tag", "digest"));
}

// No memory on the host is a failure of the machine, wherever it shows.
TEST_F(LoadTest, ExceptionsStayInside) {
  HookedDevice device(kHidden, {.after_copy_out = [](auto&&) { throw std::bad_alloc(); }});
  signing::SignOptions signing;
  signing.annotate = false;  // so that the table is read back after the pass
  Sign(signing);
  LoadOptions options = Options();
  options.pass.sampled_answers = 0;
  absl::Status status;
  ASSERT_NO_THROW(status = Loader::Load(options, device).status());
  EXPECT_EQ(ExitCodeOf(status), 3) << status;
  EXPECT_EQ(device.live_buffers(), 0);
}

}  // namespace
}  // namespace pavise::loading
