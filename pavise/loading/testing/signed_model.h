#ifndef PAVISE_LOADING_TESTING_SIGNED_MODEL_H_
#define PAVISE_LOADING_TESTING_SIGNED_MODEL_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/keys.h"
#include "pavise/hash/device_pass.h"
#include "pavise/loading/load.h"
#include "pavise/signing/sign.h"

#include "gtest/gtest.h"

namespace pavise::loading {

// Names and numbers of elements.
using TensorSizes = std::vector<std::pair<std::string, uint64_t>>;

// A safetensors file of F32 tensors, one after the other; their bytes depend on `seed` only.
std::string SafetensorsBytes(const TensorSizes& tensors, uint32_t seed);

// A directory with model/, signed by a key of the test: model.safetensors (weights_), config.json
// and an empty file.
class SignedModelTest : public ::testing::Test {
 protected:
  void WriteModel(const TensorSizes& tensors);
  // model.sig, by key_.
  void Sign(const signing::SignOptions& base);
  // A load of that model, with the trust in key_.
  LoadOptions Options() const;
  // The weights with one bit changed at `offset_bytes`, on disk.
  void Flip(uint64_t offset_bytes) const;
  static const hash::LoadedFile& Weights(const LoadedModel& model);

  testing::TemporaryDirectory directory_;
  std::string weights_;
  crypto::PrivateKey key_ = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_TESTING_SIGNED_MODEL_H_
