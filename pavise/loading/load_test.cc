#include "pavise/loading/load.h"

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/signing/sign.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using hash::Buffer;
using hash::ChainingValue;
using hash::Device;
using hash::Range;
using hash::Staging;
using hash::Stream;
using hash::SubtreeRange;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = uint64_t{1} << 20;

// F32 tensors of so many elements, one after the other.
std::string SafetensorsBytes(const std::vector<std::pair<std::string, uint64_t>>& tensors,
                             uint32_t seed) {
  std::string header = "{";
  uint64_t offset = 0;
  for (const auto& [name, elements] : tensors) {
    StrAppend(&header, header.size() > 1 ? "," : "", "\"", name,
              "\":{\"dtype\":\"F32\",\"shape\":[", elements, "],\"data_offsets\":[", offset, ",",
              offset + elements * 4, "]}");
    offset += elements * 4;
  }
  header += "}";
  std::string out(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(out.data(), &length, 8);
  out += header;
  std::mt19937 generator(seed);
  const size_t begin = out.size();
  out.resize(begin + offset);
  for (size_t i = begin; i < out.size(); ++i) out[i] = static_cast<char>(generator());
  return out;
}

// The CPU, behind the face of a device with memory of its own and faults on demand.
class FaultyDevice final : public Device {
 public:
  // What goes wrong; each may be empty.
  struct Faults {
    std::function<absl::Status()> allocate;
    // May change the bytes that reach the device, and where.
    std::function<absl::Status(Bytes& bytes, uint64_t& offset_bytes)> copy_in;
    std::function<absl::Status(std::span<ChainingValue>)> subtrees;
    std::function<absl::Status(std::span<uint8_t>)> digests;
    // What the host is told the device holds.
    std::function<void(std::span<uint8_t>)> copy_out;
    uint64_t memory_bytes = uint64_t{1} << 40;
  };

  explicit FaultyDevice(Faults faults) : faults_(std::move(faults)) {}

  std::string name() const override { return "faulty:0"; }
  std::string description() const override { return "a faulty device"; }
  bool supports(hash::Algorithm algorithm) const override { return cpu_->supports(algorithm); }
  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override { return cpu_->NewStream(); }
  absl::StatusOr<std::unique_ptr<Buffer>> Upload(ByteSpan host) override {
    return cpu_->Upload(host);
  }
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(uint64_t size_bytes) override {
    if (faults_.allocate) PAVISE_RETURN_IF_ERROR(faults_.allocate());
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> inner, cpu_->Allocate(size_bytes));
    return std::make_unique<Hidden>(*this, std::move(inner));
  }
  absl::StatusOr<std::unique_ptr<Staging>> AllocateStaging(size_t size_bytes) override {
    return cpu_->AllocateStaging(size_bytes);
  }
  absl::Status CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                      Stream& stream) override {
    Bytes bytes(host.begin(), host.end());
    if (faults_.copy_in) PAVISE_RETURN_IF_ERROR(faults_.copy_in(bytes, offset_bytes));
    return cpu_->CopyIn(bytes, Inner(buffer), offset_bytes, stream);
  }
  uint64_t memory_bytes() const override { return faults_.memory_bytes; }
  absl::Status CopyOut(const Buffer& buffer, Range range, Stream& stream,
                       std::span<uint8_t> host) override {
    PAVISE_RETURN_IF_ERROR(cpu_->CopyOut(Inner(buffer), range, stream, host));
    if (faults_.copy_out) faults_.copy_out(host);
    return absl::OkStatus();
  }
  absl::Status Digest(hash::Algorithm algorithm, const Buffer& buffer,
                      std::span<const Range> ranges, Stream& stream,
                      std::span<uint8_t> out) override {
    PAVISE_RETURN_IF_ERROR(cpu_->Digest(algorithm, Inner(buffer), ranges, stream, out));
    PAVISE_RETURN_IF_ERROR(stream.Wait());
    return faults_.digests ? faults_.digests(out) : absl::OkStatus();
  }
  absl::Status Blake3Subtrees(const Buffer& buffer, std::span<const SubtreeRange> ranges,
                              Stream& stream, std::span<ChainingValue> out) override {
    PAVISE_RETURN_IF_ERROR(cpu_->Blake3Subtrees(Inner(buffer), ranges, stream, out));
    PAVISE_RETURN_IF_ERROR(stream.Wait());
    return faults_.subtrees ? faults_.subtrees(out) : absl::OkStatus();
  }

 private:
  // Memory that the host does not see.
  struct Hidden final : Buffer {
    Hidden(const Device& owner, std::unique_ptr<Buffer> memory)
        : device_(owner), inner(std::move(memory)) {
      ++live_buffers;
    }
    ~Hidden() override { --live_buffers; }
    uint64_t size_bytes() const override { return inner->size_bytes(); }
    const Device& device() const override { return device_; }
    const Device& device_;
    std::unique_ptr<Buffer> inner;
  };
  static Buffer& Inner(Buffer& buffer) { return *static_cast<Hidden&>(buffer).inner; }
  static const Buffer& Inner(const Buffer& buffer) {
    return *static_cast<const Hidden&>(buffer).inner;
  }

  Faults faults_;
  std::unique_ptr<Device> cpu_ = hash::NewCpuDevice(2);

 public:
  static std::atomic<int> live_buffers;
};
std::atomic<int> FaultyDevice::live_buffers{0};

class LoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // Larger than a piece of the pass; tensors that begin and end anywhere.
    weights_ = SafetensorsBytes(
        {{"a", 200'000}, {"b", 5'000'000}, {"c", 100}, {"d", 300'001}, {"e", 0}}, 1);
    directory_.Write("model/model.safetensors", weights_);
    directory_.Write("model/config.json", "{}");
    directory_.Write("model/empty", "");
    Sign({});
  }

  void Sign(const signing::SignOptions& base) {
    signing::SignOptions options = base;
    options.model_path = directory_ / "model";
    options.signature_path = directory_ / "model.sig";
    options.signer = &key_;
    const auto report = signing::SignModel(options);
    ASSERT_TRUE(report.ok()) << report.status();
  }

  LoadOptions Options() {
    LoadOptions options;
    options.verify.model_path = directory_ / "model";
    options.verify.signature_path = directory_ / "model.sig";
    signing::TrustedSigners signers;
    signers.keys.push_back({key_.public_key()});
    options.verify.policy = signing::TrustPolicy::ForSigners(std::move(signers));
    return options;
  }

  void Flip(uint64_t offset) {
    std::string bytes = weights_;
    bytes[offset] = static_cast<char>(bytes[offset] ^ 1);
    directory_.Write("model/model.safetensors", bytes);
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

  testing::TemporaryDirectory directory_;
  std::string weights_;
  crypto::PrivateKey key_ = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
};

TEST_F(LoadTest, TheWholeModel) {
  const auto cpu = hash::NewCpuDevice(2);
  FaultyDevice sound({});
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
  FaultyDevice device({});
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
  FaultyDevice device({});
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

// What happens to the bytes between the file and the device's memory shows, since that memory is
// what is hashed.
TEST_F(LoadTest, WhatGoesWrongOnTheWayIsRefused) {
  using Copy = std::function<absl::Status(Bytes&, uint64_t&)>;
  const std::map<std::string, Copy> cases = {
      {"a flipped bit",
       [](Bytes& bytes, uint64_t&) {
         bytes[bytes.size() / 2] ^= 0x10;
         return absl::OkStatus();
       }},
      {"a truncated copy",
       [](Bytes& bytes, uint64_t&) {
         bytes.resize(bytes.size() / 2);
         return absl::OkStatus();
       }},
      {"two swapped ranges",
       [](Bytes& bytes, uint64_t&) {
         if (bytes.size() >= 2 * kMiB) {
           std::swap_ranges(bytes.begin(), bytes.begin() + kMiB, bytes.begin() + kMiB);
         }
         return absl::OkStatus();
       }},
      {"another place",
       [](Bytes& bytes, uint64_t& offset) {
         if (offset > 0) offset -= 1;
         (void)bytes;
         return absl::OkStatus();
       }},
      {"another model's bytes", [](Bytes& bytes, uint64_t&) {
         for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(byte + 1);
         return absl::OkStatus();
       }}};
  size_t refused = 0;
  for (const auto& [name, copy] : cases) {
    SCOPED_TRACE(name);
    FaultyDevice device({.copy_in = copy});
    LoadOptions options = Options();
    options.pass.readers = 1;  // a copy to another place must not race with its neighbour
    // A byte of a piece that was hashed already is overwritten there, which samples may see first.
    options.pass.sampled_answers = 0;
    const absl::Status status = Loader::Load(options, device).status();
    EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << status;
    ++refused;
    EXPECT_EQ(FaultyDevice::live_buffers, 0) << "nothing may stay in the device's memory";
  }
  EXPECT_EQ(refused, 5u);
}

TEST_F(LoadTest, ADeviceThatFailsIsNoVerdictAndNoFallback) {
  std::atomic<int> calls{0};
  const absl::Status lost = MachineFailure("faulty:0", "the device is lost");
  const auto second_time = [&](auto&&...) { return ++calls >= 2 ? lost : absl::OkStatus(); };
  const std::map<std::string, FaultyDevice::Faults> cases = {
      {"no memory", {.allocate = [&] { return MachineFailure("faulty:0", "out of memory"); }}},
      {"lost while copying", {.copy_in = second_time}},
      {"lost while hashing", {.subtrees = second_time}},
      {"lost before the last digest", {.digests = [&](auto&&) { return lost; }}}};
  for (const auto& [name, faults] : cases) {
    SCOPED_TRACE(name);
    calls = 0;
    FaultyDevice device(faults);
    const absl::Status status = Loader::Load(Options(), device).status();
    EXPECT_FALSE(status.ok());
    EXPECT_FALSE(ReasonOf(status).has_value()) << status;
    EXPECT_EQ(ExitCodeOf(status), 3) << status;
    EXPECT_THAT(status.ToString(), HasSubstr("faulty:0"));
    EXPECT_EQ(FaultyDevice::live_buffers, 0);
  }
}

// A device that answers with the signed digests whatever it holds: the samples find it out.
TEST_F(LoadTest, ADeviceThatAnswersForOtherBytesIsFoundOut) {
  // It hashes what it was sent and then keeps something else.
  FaultyDevice device({.subtrees = [&](std::span<ChainingValue> values) {
    for (ChainingValue& value : values) value[0] ^= 1;
    return absl::OkStatus();
  }});
  const absl::Status status = Loader::Load(Options(), device).status();
  EXPECT_EQ(ExitCodeOf(status), 3) << status;
  EXPECT_THAT(status.ToString(), HasSubstr("computed a wrong digest"));

  FaultyDevice digests({.digests = [&](std::span<uint8_t> out) {
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
  FaultyDevice device({.copy_out = garbled});
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
  FaultyDevice device({.allocate = [] { return MachineFailure("faulty:0", "not asked for"); },
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
  FaultyDevice device({});
  directory_.Write("model/config.json", "[]");
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), device).status()), Reason::kContentMismatch);
  EXPECT_EQ(FaultyDevice::live_buffers, 0);
}

TEST_F(LoadTest, AFileTooShortForItsNameIsRefused) {
  directory_.Write("model/short.safetensors", "1234567");
  signing::SignOptions signing;
  signing.annotate = false;
  Sign(signing);
  const auto device = hash::NewCpuDevice(2);
  EXPECT_EQ(ReasonOf(Loader::Load(Options(), *device).status()), Reason::kMalformed);
}

}  // namespace
}  // namespace pavise::loading
