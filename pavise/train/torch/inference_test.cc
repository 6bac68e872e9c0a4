// Inference on a verified model while its bytes are changed in memory.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/keys.h"
#include "pavise/hash/devices.h"
#include "pavise/offload/cpu/cpu_device.h"
#include "pavise/offload/in_process.h"
#include "pavise/offload/orthogonal.h"
#include "pavise/signing/sign.h"
#include "pavise/train/testing/datasets.h"
#include "pavise/train/torch/training.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::train {
namespace {

using loading::GuardHash;
using pavise::testing::ContentOf;
using pavise::testing::TemporaryDirectory;
using ::testing::HasSubstr;
using testing::MakeHalves;

constexpr uint64_t kBatches = 10;
constexpr uint64_t kBatchSize = 4;
constexpr GuardHash kBoth[] = {GuardHash::kTag, GuardHash::kBlake3};

// Each look at it is a second later.
class TickingClock final : public loading::GuardClock {
 public:
  absl::Duration Now() const override { return absl::Seconds(++seconds_); }

 private:
  mutable int64_t seconds_ = 0;
};

class InferenceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ImageSplits splits;
    splits.format = "NPZ";
    splits.classes = 2;
    splits.train = MakeHalves(41, 1, 8, 1);
    splits.test = images_;
    TrainingRequest request;
    request.options.network = "mlp";
    request.options.epochs = 1;
    request.options.batch_size = 8;
    request.options.learning_rate = 0.01;
    request.folder = directory_.path();
    TrainingObserver quiet;
    const auto trained = Train(request, splits, quiet);
    ASSERT_TRUE(trained.ok()) << trained.status();
    Sign();
  }

  void Sign() {
    signing::SignOptions sign;
    sign.model_path = directory_ / "model";
    sign.signature_path = directory_ / "model.sig";
    sign.signer = &key_;
    ASSERT_TRUE(signing::SignModel(sign).ok());
  }

  loading::VerifiedLoad Load(GuardHash hash) {
    loading::LoadOptions options;
    options.verify.model_path = directory_ / "model";
    options.verify.signature_path = directory_ / "model.sig";
    signing::TrustedSigners signers;
    signers.keys.push_back({key_.public_key()});
    options.verify.policy = signing::TrustPolicy::ForSigners(std::move(signers));
    options.pass.references = loading::ReferencesFor(hash);
    return loading::Loader::Load(options, *device_).value();
  }

  WeightsGuard GuardOf(GuardHash hash) {
    WeightsGuard guard;
    guard.device = device_.get();
    guard.options.hash = hash;
    guard.options.share_of_time = 1;
    return guard;
  }

  absl::StatusOr<InferenceResult> Run(const loading::VerifiedLoad& load, const WeightsGuard* guard,
                                      const OffloadSetting* offload = nullptr) {
    return Infer(load, images_, kBatchSize, 1, offload, guard);
  }

  static uint8_t& ByteOf(const loading::VerifiedLoad& load, const char* name, uint64_t offset) {
    const loading::LoadedTensor& tensor = *load->Find("model.safetensors", name);
    return const_cast<hash::Buffer*>(tensor.buffer)
        ->host_bytes()[tensor.buffer_offset_bytes + offset];
  }

  TemporaryDirectory directory_;
  crypto::PrivateKey key_ = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  const std::unique_ptr<hash::Device> device_ = hash::OpenDevice("cpu").value();
  const ImageDataset images_ = MakeHalves(kBatches * kBatchSize, 1, 8, 2);
};

TEST_F(InferenceTest, WeightsThatHoldChangeNothingAndAreCounted) {
  const loading::VerifiedLoad plain = Load(GuardHash::kTag);
  const auto expected = Run(plain, nullptr);
  ASSERT_TRUE(expected.ok()) << expected.status();
  EXPECT_FALSE(expected->guarded.has_value());
  for (const GuardHash hash : kBoth) {
    const loading::VerifiedLoad load = Load(hash);
    WeightsGuard guard = GuardOf(hash);
    uint64_t batches = 0;
    guard.after_batch = [&](uint64_t batch) { EXPECT_EQ(batch, batches++); };
    const auto result = Run(load, &guard);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(batches, kBatches);
    EXPECT_EQ(result->loss, expected->loss);
    ASSERT_TRUE(result->guarded.has_value());
    EXPECT_EQ(result->guarded->hash, hash);
    EXPECT_TRUE(result->guarded->vouches);
    // Two files, a slice of one after each batch: a pass for every two of them, and the last.
    EXPECT_EQ(result->guarded->passes_completed, kBatches / 2 + 1);
    EXPECT_EQ(result->guarded->bytes, load->device_bytes);
    // Another run on the same load goes on from there.
    batches = 0;
    EXPECT_TRUE(Run(load, &guard).ok());
  }
}

TEST_F(InferenceTest, WhatIsChangedIsWhatIsUsed) {
  const loading::VerifiedLoad load = Load(GuardHash::kTag);
  const auto expected = Run(load, nullptr);
  ASSERT_TRUE(expected.ok()) << expected.status();
  for (const char* name : {"layers.0.weight", "layers.2.bias", "layers.4.weight"}) {
    uint8_t& byte = ByteOf(load, name, 3);  // exponent and sign of the first number
    byte ^= 0x40;
    const auto changed = Run(load, nullptr);
    byte ^= 0x40;
    ASSERT_TRUE(changed.ok()) << changed.status();
    EXPECT_NE(changed->loss, expected->loss) << name;
  }
}

TEST_F(InferenceTest, AChangeInMemoryStopsItSoon) {
  size_t cases = 0;
  for (const GuardHash hash : kBoth) {
    for (const char* name : {"layers.0.weight", "layers.2.weight", "layers.4.bias"}) {
      for (const uint8_t bit : {0x01, 0x80}) {
        const loading::VerifiedLoad load = Load(hash);
        WeightsGuard guard = GuardOf(hash);
        uint64_t last = 0;
        guard.after_batch = [&](uint64_t batch) {
          last = batch;
          if (batch == 3) ByteOf(load, name, 5) ^= bit;
        };
        const absl::Status status = Run(load, &guard).status();
        EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << status;
        ASSERT_FALSE(RefusalsOf(status).empty());
        EXPECT_EQ(RefusalsOf(status)[0].item, "model.safetensors");
        EXPECT_THAT(RefusalsOf(status)[0].detail, HasSubstr(name));
        EXPECT_THAT(RefusalsOf(status)[0].remedy, HasSubstr("load it again"));
        EXPECT_LE(last, 5u) << "it went on";
        ++cases;
      }
    }
  }
  EXPECT_EQ(cases, 12u);
}

// The share of time leaves no check between batches but the first: the last one is made anyhow.
TEST_F(InferenceTest, AChangeBehindTheLastCheckIsFoundBeforeAnythingIsGivenOut) {
  for (const GuardHash hash : kBoth) {
    for (const uint64_t when : {uint64_t{0}, uint64_t{4}, kBatches - 1}) {
      const loading::VerifiedLoad load = Load(hash);
      const TickingClock clock;
      WeightsGuard guard = GuardOf(hash);
      guard.options.clock = &clock;
      guard.options.share_of_time = 1e-4;
      uint64_t last = 0;
      guard.after_batch = [&](uint64_t batch) {
        last = batch;
        // Behind the slice of the weights.
        if (batch == when) ByteOf(load, "layers.4.weight", 0) ^= 1;
      };
      const absl::Status status = Run(load, &guard).status();
      EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch) << status;
      EXPECT_EQ(last, when == 0 ? 0 : kBatches - 1);
    }
  }
}

TEST_F(InferenceTest, UnderASchemeWhatStaysAndWhatWentIsChecked) {
  OffloadSetting setting;
  setting.scheme = *offload::NewOrthogonalScheme();
  setting.workers.push_back(
      {offload::ConnectInProcess({.name = "worker", .memory_limit_bytes = uint64_t{1} << 30},
                                 offload::OpenCpuDevice(1)),
       "operator"});
  const loading::VerifiedLoad load = Load(GuardHash::kTag);
  WeightsGuard guard = GuardOf(GuardHash::kTag);
  const auto result = Run(load, &guard, &setting);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_TRUE(result->guarded->vouches);
  EXPECT_EQ(result->guarded->passes_completed, kBatches / 2 + 1);
}

TEST_F(InferenceTest, TensorsThatDoNotLieAlignedAreRefused) {
  const std::string path = directory_ / "model/model.safetensors";
  std::string file = ContentOf(path);
  ASSERT_LT(static_cast<uint8_t>(file[0]), 255);
  ++file[0];  // the header's length, and a space more of it
  const size_t header = 8 + static_cast<uint8_t>(file[0]) + 256 * static_cast<uint8_t>(file[1]) - 1;
  file.insert(header, " ");
  directory_.Write("model/model.safetensors", file);
  Sign();
  const absl::Status status = Run(Load(GuardHash::kTag), nullptr).status();
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << status;
}

}  // namespace
}  // namespace pavise::train
