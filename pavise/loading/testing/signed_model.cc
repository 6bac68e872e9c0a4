#include "pavise/loading/testing/signed_model.h"

#include <cstdlib>
#include <cstring>
#include <random>

#include "pavise/base/strings.h"

namespace pavise::loading {

std::string SafetensorsBytes(const TensorSizes& tensors, uint32_t seed) {
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

void SignedModelTest::WriteModel(const TensorSizes& tensors) {
  weights_ = SafetensorsBytes(tensors, 1);
  directory_.Write("model/model.safetensors", weights_);
  directory_.Write("model/config.json", "{}");
  directory_.Write("model/empty", "");
}

void SignedModelTest::Sign(const signing::SignOptions& base) {
  signing::SignOptions options = base;
  options.model_path = directory_ / "model";
  options.signature_path = directory_ / "model.sig";
  options.signer = &key_;
  const auto report = signing::SignModel(options);
  ASSERT_TRUE(report.ok()) << report.status();
}

LoadOptions SignedModelTest::Options() const {
  LoadOptions options;
  options.verify.model_path = directory_ / "model";
  options.verify.signature_path = directory_ / "model.sig";
  signing::TrustedSigners signers;
  signers.keys.push_back({key_.public_key()});
  options.verify.policy = signing::TrustPolicy::ForSigners(std::move(signers));
  return options;
}

void SignedModelTest::Flip(uint64_t offset_bytes) const {
  std::string bytes = weights_;
  bytes[offset_bytes] = static_cast<char>(bytes[offset_bytes] ^ 1);
  directory_.Write("model/model.safetensors", bytes);
}

const hash::LoadedFile& SignedModelTest::Weights(const LoadedModel& model) {
  for (const hash::LoadedFile& file : model.files) {
    if (file.name.ends_with("model.safetensors")) return file;
  }
  std::abort();
}

}  // namespace pavise::loading
