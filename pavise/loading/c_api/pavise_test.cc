#include "pavise/loading/c_api/pavise.h"

#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/hash/opencl/opencl_device.h"
#include "pavise/loading/c_api/dlpack.h"
#include "pavise/signing/sign.h"

#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct TensorBytes {
  std::string name;
  std::string dtype;
  std::vector<uint64_t> shape;
  std::string bytes;
};

// Little-endian F32 of 0, 1, 2, ...
std::string Counting(size_t count) {
  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    const float value = static_cast<float>(i);
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  return bytes;
}

std::string Number(uint64_t value, size_t size_bytes) {
  return std::string(reinterpret_cast<const char*>(&value), size_bytes);
}

// The header padded with spaces so that the data begins at a multiple of 8, and `more` bytes on.
std::string Safetensors(const std::vector<TensorBytes>& tensors, size_t more = 0) {
  std::string header = "{";
  std::string data;
  for (const TensorBytes& tensor : tensors) {
    StrAppend(&header, header.size() > 1 ? "," : "", "\"", tensor.name, "\":{\"dtype\":\"",
              tensor.dtype, "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
              "],\"data_offsets\":[", data.size(), ",", data.size() + tensor.bytes.size(), "]}");
    data += tensor.bytes;
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8 + more, ' ');
  return Number(header.size(), 8) + header + data;
}

struct RunResult {
  int exit_code = -1;
  std::string text;  // standard output and standard error
};
RunResult RunCommand(const std::string& command) {
  RunResult result;
  FILE* const pipe = popen(StrCat(command, " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (size_t count = 0; (count = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    result.text.append(buffer.data(), count);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
  return result;
}

// Errors and handles as a C++ test wants them.
struct ErrorFree {
  void operator()(pavise_error* error) const { pavise_error_free(error); }
};
using Error = std::unique_ptr<pavise_error, ErrorFree>;
struct ModelClose {
  void operator()(pavise_model* model) const { pavise_model_close(model); }
};
using Model = std::unique_ptr<pavise_model, ModelClose>;

class CApiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_.Write("key.pub", key_.public_key().ToPem());
    model_path_ = directory_ / "model";
    signature_path_ = directory_ / "model.sig";
    key_path_ = directory_ / "key.pub";
    // The second begins at no multiple of 256; the rest makes it larger than a MiB.
    SignModel({{"vector", "F32", {6}, Counting(6)},
               {"matrix", "F32", {4, 6}, Counting(24)},
               {"large", "F32", {600, 500}, Counting(300'000)}});
  }

  void SignModel(const std::vector<TensorBytes>& tensors, size_t more = 0) {
    weights_ = Safetensors(tensors, more);
    directory_.Write("model/model.safetensors", weights_);
    Sign();
  }

  void Sign() {
    signing::SignOptions options;
    options.model_path = model_path_;
    options.signature_path = signature_path_;
    options.signer = &key_;
    const auto report = signing::SignModel(options);
    ASSERT_TRUE(report.ok()) << report.status();
  }

  void Flip(size_t offset) {
    std::string bytes = weights_;
    bytes[offset] = static_cast<char>(bytes[offset] ^ 1);
    directory_.Write("model/model.safetensors", bytes);
  }

  pavise_load_options Options() const {
    pavise_load_options options;
    pavise_load_options_init(&options, sizeof(options));
    options.model_path = model_path_.c_str();
    options.signature_path = signature_path_.c_str();
    options.public_key_path = key_path_.c_str();
    options.device = "cpu";
    return options;
  }

  // nullptr, with `error` and `result` set, where it is refused.
  Model Load(const pavise_load_options& options, Error* error = nullptr, int* result = nullptr) {
    pavise_model* model = nullptr;
    pavise_error* failure = nullptr;
    const int code = pavise_load(&options, &model, &failure);
    EXPECT_EQ(code == PAVISE_OK, model != nullptr);
    EXPECT_EQ(code == PAVISE_OK, failure == nullptr);
    if (failure != nullptr) {
      EXPECT_EQ(pavise_error_class(failure), code);
      if (error == nullptr) ADD_FAILURE() << pavise_error_json(failure);
    }
    Error owned(failure);
    if (error != nullptr) *error = std::move(owned);
    if (result != nullptr) *result = code;
    return Model(model);
  }

  size_t Find(const Model& model, const char* name) {
    size_t index = 1000;
    EXPECT_EQ(pavise_tensor_find(model.get(), nullptr, name, &index, nullptr), PAVISE_OK) << name;
    return index;
  }

  std::string Example(const std::string& more) const {
    return StrCat(PAVISE_LOAD_EXAMPLE, " ", model_path_, " ", signature_path_, " ", key_path_, " ",
                  more);
  }

  testing::TemporaryDirectory directory_;
  std::string model_path_;
  std::string signature_path_;
  std::string key_path_;
  std::string weights_;
  crypto::PrivateKey key_ = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
};

// The C99 program reads through an exported tensor after the model was closed.
TEST_F(CApiTest, TheExampleReadsWhatWasSigned) {
  const RunResult whole = RunCommand(Example("matrix"));
  EXPECT_EQ(whole.exit_code, 0) << whole.text;
  EXPECT_EQ(whole.text, "matrix of model.safetensors on cpu: 4 6 F32\nsum 276.0\n");
  // Rows 2 and 3; columns 4 and 5.
  EXPECT_EQ(RunCommand(Example("matrix 0 1 2")).text,
            "matrix of model.safetensors on cpu: 2 6 F32\nsum 210.0\n");
  EXPECT_EQ(RunCommand(Example("matrix 1 2 3")).text,
            "matrix of model.safetensors on cpu: 4 2 F32\nsum 108.0\n");
}

TEST_F(CApiTest, TheExampleRefusesWhatWasNotSigned) {
  struct Case {
    const char* arguments;
    int exit_code;
    const char* text;
  };
  for (const Case& test : std::vector<Case>{{"none", 1, "file-missing"},
                                            {"matrix 0 0 3", 1, "unsupported"},
                                            {"matrix 0 2 2", 2, "usage"}}) {
    const RunResult result = RunCommand(Example(test.arguments));
    EXPECT_EQ(result.exit_code, test.exit_code) << result.text;
    EXPECT_THAT(result.text, HasSubstr(test.text));
  }
  Flip(weights_.size() - 300'000 * 4 - 1);  // the matrix's last byte
  RunResult changed = RunCommand(Example("matrix"));
  EXPECT_EQ(changed.exit_code, 1);
  EXPECT_THAT(changed.text, HasSubstr("content-mismatch: model.safetensors: damaged tensor"));
  EXPECT_EQ(RunCommand(Example("matrix 0 0 2")).exit_code, 1);
  EXPECT_EQ(RunCommand(Example("vector")).exit_code, 0) << "of which nothing changed";
  directory_.Write("model/model.safetensors", weights_);
  directory_.Write("key.pub",
                   crypto::PrivateKey::Generate(crypto::KeyType::kEcP256)->public_key().ToPem());
  EXPECT_EQ(RunCommand(Example("matrix")).exit_code, 1);
}

TEST_F(CApiTest, TheExampleInNumpy) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitized library needs a sanitized interpreter";
#endif
  if (RunCommand("python3 -c 'import numpy'").exit_code != 0) {
    GTEST_SKIP() << "python3 has no numpy";
  }
  const auto command = [&](const char* tensor) {
    return StrCat("python3 ", PAVISE_SOURCE_DIR, "/examples/load_numpy.py ", PAVISE_LIBRARY, " ",
                  model_path_, " ", signature_path_, " ", key_path_, " ", tensor);
  };
  const RunResult matrix = RunCommand(command("matrix"));
  EXPECT_EQ(matrix.exit_code, 0) << matrix.text;
  EXPECT_EQ(matrix.text, "float32 [4, 6] writeable=False sum=276.0\n");
  const RunResult none = RunCommand(command("none"));
  EXPECT_NE(none.exit_code, 0);
  EXPECT_THAT(none.text, HasSubstr("file-missing"));
}

TEST_F(CApiTest, TheLibraryExportsItsFunctionsAndNothingElse) {
  const RunResult symbols = RunCommand(StrCat("nm -D --defined-only ", PAVISE_LIBRARY));
  ASSERT_EQ(symbols.exit_code, 0) << symbols.text;
  size_t functions = 0;
  for (const absl::string_view line : absl::StrSplit(symbols.text, '\n', absl::SkipEmpty())) {
    EXPECT_TRUE(absl::StrContains(line, " T pavise_")) << line;
    ++functions;
  }
  EXPECT_EQ(functions, 22u);
}

TEST_F(CApiTest, TensorsAreListed) {
  const Model model = Load(Options());
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(pavise_model_is_partial(model.get()), 0);
  EXPECT_STREQ(pavise_model_device(model.get()), "cpu");
  ASSERT_EQ(pavise_tensor_count(model.get()), 3u);
  pavise_tensor tensor;
  ASSERT_EQ(pavise_tensor_get(model.get(), 1, &tensor, nullptr), PAVISE_OK);
  EXPECT_STREQ(tensor.name, "matrix");
  EXPECT_STREQ(tensor.file, "model.safetensors");
  EXPECT_STREQ(tensor.dtype, "F32");
  EXPECT_THAT(std::vector<uint64_t>(tensor.shape, tensor.shape + tensor.dimensions),
              ElementsAre(4, 6));
  EXPECT_EQ(tensor.size_bytes, 96u);
  EXPECT_EQ(tensor.is_slice, 0);
  EXPECT_EQ(pavise_tensor_get(model.get(), 3, &tensor, nullptr), PAVISE_USAGE);
  size_t index = 0;
  EXPECT_EQ(pavise_tensor_find(model.get(), "other", "matrix", &index, nullptr), PAVISE_USAGE);
  EXPECT_EQ(pavise_tensor_find(model.get(), "model.safetensors", "matrix", &index, nullptr),
            PAVISE_OK);
  EXPECT_EQ(index, 1u);
}

TEST_F(CApiTest, ExportedTensorsKeepTheMemory) {
  Model model = Load(Options());
  ASSERT_NE(model, nullptr);
  const size_t index = Find(model, "matrix");
  DLManagedTensorVersioned* exported = nullptr;
  DLManagedTensor* unversioned = nullptr;
  ASSERT_EQ(pavise_tensor_export(model.get(), index, &exported, nullptr), PAVISE_OK);
  ASSERT_EQ(pavise_tensor_export_unversioned(model.get(), index, &unversioned, nullptr), PAVISE_OK);
  model = nullptr;
  EXPECT_EQ(exported->version.major, 1u);
  EXPECT_EQ(exported->flags, DLPACK_FLAG_BITMASK_READ_ONLY);
  for (const DLTensor* tensor : {&exported->dl_tensor, &unversioned->dl_tensor}) {
    EXPECT_EQ(tensor->device.device_type, kDLCPU);
    EXPECT_EQ(tensor->device.device_id, 0);
    ASSERT_EQ(tensor->ndim, 2);
    EXPECT_EQ(tensor->shape[0], 4);
    EXPECT_EQ(tensor->shape[1], 6);
    EXPECT_EQ(tensor->strides[0], 6);
    EXPECT_EQ(tensor->strides[1], 1);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor->data) % 256, 0u);
    EXPECT_EQ(std::memcmp(static_cast<const char*>(tensor->data) + tensor->byte_offset,
                          Counting(24).data(), 96),
              0);
  }
  exported->deleter(exported);
  const DLTensor& last = unversioned->dl_tensor;
  EXPECT_EQ(
      std::memcmp(static_cast<const char*>(last.data) + last.byte_offset, Counting(24).data(), 96),
      0);
  unversioned->deleter(unversioned);
}

// Codes and bits as in dlpack.h 1.1; the reference is its text, not our table.
TEST_F(CApiTest, EveryDtypeOfSafetensors) {
  struct Expected {
    const char* dtype;
    size_t bits;
    int code;  // -1: refused
  };
  const std::vector<Expected> all = {
      {"BOOL", 8, 6},     {"U8", 8, 1},       {"I8", 8, 0},           {"F8_E5M2", 8, 12},
      {"F8_E4M3", 8, 10}, {"F8_E8M0", 8, 14}, {"F8_E5M2FNUZ", 8, 13}, {"F8_E4M3FNUZ", 8, 11},
      {"F4", 4, -1},      {"F6_E2M3", 6, -1}, {"F6_E3M2", 6, -1},     {"I16", 16, 0},
      {"U16", 16, 1},     {"F16", 16, 2},     {"BF16", 16, 4},        {"I32", 32, 0},
      {"U32", 32, 1},     {"F32", 32, 2},     {"F64", 64, 2},         {"I64", 64, 0},
      {"U64", 64, 1},     {"C64", 64, 5}};
  std::vector<TensorBytes> tensors;
  for (const Expected& expected : all) {
    tensors.push_back({expected.dtype, expected.dtype, {64}, std::string(8 * expected.bits, 'x')});
  }
  SignModel(tensors);
  const Model model = Load(Options());
  ASSERT_NE(model, nullptr);
  size_t exported_count = 0;
  for (const Expected& expected : all) {
    SCOPED_TRACE(expected.dtype);
    DLManagedTensorVersioned* exported = nullptr;
    pavise_error* error = nullptr;
    const int result =
        pavise_tensor_export(model.get(), Find(model, expected.dtype), &exported, &error);
    const Error owned(error);
    if (expected.code < 0) {
      EXPECT_EQ(result, PAVISE_REFUSED);
      EXPECT_EQ(exported, nullptr);
      EXPECT_STREQ(pavise_error_reason(error), "unsupported");
      EXPECT_STREQ(pavise_error_item(error), expected.dtype);
      continue;
    }
    ASSERT_EQ(result, PAVISE_OK) << pavise_error_json(error);
    EXPECT_EQ(exported->dl_tensor.dtype.code, expected.code);
    EXPECT_EQ(exported->dl_tensor.dtype.bits, expected.bits);
    EXPECT_EQ(exported->dl_tensor.dtype.lanes, 1);
    exported->deleter(exported);
    ++exported_count;
  }
  EXPECT_EQ(exported_count, 19u);
}

TEST_F(CApiTest, EmptyAndMisalignedTensors) {
  SignModel({{"empty", "F32", {0, 3}, ""}, {"vector", "F32", {6}, Counting(6)}}, /*more=*/1);
  Model model = Load(Options());
  ASSERT_NE(model, nullptr);
  DLManagedTensorVersioned* exported = nullptr;
  ASSERT_EQ(pavise_tensor_export(model.get(), Find(model, "empty"), &exported, nullptr), PAVISE_OK);
  EXPECT_EQ(exported->dl_tensor.data, nullptr);
  EXPECT_EQ(exported->dl_tensor.shape[0], 0);
  exported->deleter(exported);
  EXPECT_EQ(pavise_tensor_export(model.get(), Find(model, "vector"), &exported, nullptr),
            PAVISE_REFUSED);
  EXPECT_EQ(exported, nullptr);
  // Alone it begins its buffer.
  pavise_load_options options = Options();
  const char* const names[] = {"vector"};
  options.tensors = names;
  options.tensor_count = 1;
  model = Load(options);
  ASSERT_NE(model, nullptr);
  EXPECT_NE(pavise_model_is_partial(model.get()), 0);
  ASSERT_EQ(pavise_tensor_export(model.get(), Find(model, "vector"), &exported, nullptr),
            PAVISE_OK);
  exported->deleter(exported);
}

// A GGUF file of one F32 [columns 8, rows 2] and one Q8_0 [32].
TEST_F(CApiTest, GgufShapesAreTurnedAndBlocksRefused) {
  std::string file = "GGUF" + Number(3, 4) + Number(2, 8) + Number(0, 8);
  file += Number(6, 8) + "floats" + Number(2, 4) + Number(8, 8) + Number(2, 8) + Number(0, 4) +
          Number(0, 8);
  file += Number(6, 8) + "blocks" + Number(1, 4) + Number(32, 8) + Number(8, 4) + Number(64, 8);
  file.resize((file.size() + 31) / 32 * 32, '\0');
  file += Counting(16) + std::string(34, 'q');
  file.resize((file.size() + 31) / 32 * 32, '\0');
  directory_.Write("model/model.safetensors", Safetensors({}));
  directory_.Write("model/model.gguf", file);
  Sign();
  pavise_load_options options = Options();
  const pavise_slice slice = {"floats", 0, 1, 2};
  const char* const names[] = {"blocks"};
  for (const bool sliced : {false, true}) {
    if (sliced) {
      options.slices = &slice;
      options.slice_count = 1;
      options.tensors = names;
      options.tensor_count = 1;
    }
    const Model model = Load(options);
    ASSERT_NE(model, nullptr);
    ASSERT_EQ(pavise_tensor_count(model.get()), 2u);
    DLManagedTensorVersioned* exported = nullptr;
    ASSERT_EQ(pavise_tensor_export(model.get(), Find(model, "floats"), &exported, nullptr),
              PAVISE_OK);
    const DLTensor& tensor = exported->dl_tensor;
    EXPECT_EQ(tensor.shape[0], sliced ? 1 : 2);
    EXPECT_EQ(tensor.shape[1], 8);
    EXPECT_EQ(std::memcmp(static_cast<const char*>(tensor.data) + tensor.byte_offset,
                          Counting(16).data() + (sliced ? 32 : 0), 32),
              0);
    exported->deleter(exported);
    EXPECT_EQ(pavise_tensor_export(model.get(), Find(model, "blocks"), &exported, nullptr),
              PAVISE_REFUSED);
  }
}

TEST_F(CApiTest, OpenClMemoryIsExportedAsItsHandle) {
  if (hash::ListOpenClDevices().empty()) GTEST_SKIP() << "no OpenCL device";
  pavise_load_options options = Options();
  options.device = "opencl:0";
  const Model model = Load(options);
  ASSERT_NE(model, nullptr);
  DLManagedTensorVersioned* exported = nullptr;
  ASSERT_EQ(pavise_tensor_export(model.get(), Find(model, "matrix"), &exported, nullptr),
            PAVISE_OK);
  EXPECT_EQ(exported->dl_tensor.device.device_type, kDLOpenCL);
  EXPECT_EQ(exported->dl_tensor.device.device_id, 0);
  EXPECT_NE(exported->dl_tensor.data, nullptr);
  EXPECT_GT(exported->dl_tensor.byte_offset, 0u);
  exported->deleter(exported);
}

TEST_F(CApiTest, AnErrorSaysAllThatIsWrong) {
  Flip(weights_.size() - 1);
  directory_.Write("model/more", "x");
  Error error;
  int result = 0;
  EXPECT_EQ(Load(Options(), &error, &result), nullptr);
  EXPECT_EQ(result, PAVISE_REFUSED);
  EXPECT_STREQ(pavise_error_reason(error.get()), "file-unsigned");
  EXPECT_STREQ(pavise_error_item(error.get()), "more");
  EXPECT_THAT(pavise_error_remedy(error.get()), HasSubstr("remove it"));
  const Json json = Json::parse(pavise_error_json(error.get()));
  EXPECT_EQ(json["exit_code"], 1);
  ASSERT_EQ(json["findings"].size(), 2u);
  EXPECT_EQ(json["findings"][1]["reason"], "content-mismatch");
  // No place for an error: the class is returned all the same.
  const pavise_load_options options = Options();
  pavise_model* model = nullptr;
  EXPECT_EQ(pavise_load(&options, &model, nullptr), PAVISE_REFUSED);
  EXPECT_EQ(model, nullptr);
}

TEST_F(CApiTest, CallsThatMakeNoSense) {
  const auto refused = [&](auto&& change) {
    pavise_load_options options = Options();
    change(options);
    Error error;
    int result = 0;
    EXPECT_EQ(Load(options, &error, &result), nullptr);
    EXPECT_STREQ(pavise_error_reason(error.get()), "usage");
    return result;
  };
  using Options = pavise_load_options;
  EXPECT_EQ(refused([](Options& o) { o.size_bytes = 0; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.size_bytes = SIZE_MAX; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.model_path = nullptr; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.signature_path = nullptr; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.public_key_path = nullptr; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.trust_file_path = "trust.yaml"; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.model_name = "x"; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.tensor_count = 1; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.slice_count = 1; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.guard = 3; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.sampled_answers = 1'000'001; }), PAVISE_USAGE);
  EXPECT_EQ(refused([](Options& o) { o.device = "abacus"; }), PAVISE_USAGE);
  EXPECT_EQ(pavise_load(nullptr, nullptr, nullptr), PAVISE_USAGE);
  EXPECT_EQ(pavise_tensor_export(nullptr, 0, nullptr, nullptr), PAVISE_USAGE);
  pavise_model_close(nullptr);
  pavise_guard_stop(nullptr);
  pavise_error_free(nullptr);
}

// From a header with more members: fine as long as they are not used.
TEST_F(CApiTest, OptionsOfANewerHeader) {
  struct {
    pavise_load_options options;
    uint64_t newer;
  } newer;
  pavise_load_options_init(&newer.options, sizeof(newer));
  EXPECT_EQ(newer.options.sampled_answers, 8u);
  newer.options = Options();
  newer.options.size_bytes = sizeof(newer);
  pavise_model* model = nullptr;
  ASSERT_EQ(pavise_load(&newer.options, &model, nullptr), PAVISE_OK);
  pavise_model_close(model);
  newer.newer = 1;
  EXPECT_EQ(pavise_load(&newer.options, &model, nullptr), PAVISE_USAGE);
}

TEST_F(CApiTest, ATrustFileAndItsModelName) {
  directory_.Write(
      "trust.yaml",
      "version: 1\nmodels:\n  - model: \"acme/*\"\n    signers:\n      - key: key.pub\n");
  signing::SignOptions signing;
  signing.model_path = model_path_;
  signing.signature_path = signature_path_;
  signing.signer = &key_;
  signing.model_name = "acme/llm";
  ASSERT_TRUE(signing::SignModel(signing).ok());
  const std::string trust = directory_ / "trust.yaml";
  pavise_load_options options = Options();
  options.public_key_path = nullptr;
  options.trust_file_path = trust.c_str();
  options.model_name = "acme/llm";
  EXPECT_NE(Load(options), nullptr);
  for (const char* name : {"acme/other", "else/llm"}) {
    options.model_name = name;
    Error error;
    EXPECT_EQ(Load(options, &error), nullptr);
    EXPECT_STREQ(pavise_error_reason(error.get()), "policy-denied") << name;
  }
}

struct Told {
  std::mutex mutex;
  std::condition_variable came;
  int count = 0;
  int is_change = 0;
  std::vector<std::string> tensors;
  std::string reason;
};

TEST_F(CApiTest, TheGuardTellsOfAChange) {
  for (const int hash : {PAVISE_GUARD_TAG, PAVISE_GUARD_BLAKE3}) {
    SCOPED_TRACE(hash);
    pavise_load_options options = Options();
    options.guard = hash;
    Model model = Load(options);
    ASSERT_NE(model, nullptr);
    Told told;
    pavise_guard_options guarding;
    pavise_guard_options_init(&guarding, sizeof(guarding));
    EXPECT_EQ(guarding.share_of_time, 0.01);
    guarding.share_of_time = 1;
    guarding.context = &told;
    guarding.on_finding = [](void* context, const pavise_finding* finding) {
      auto& what = *static_cast<Told*>(context);
      const std::lock_guard lock(what.mutex);
      ++what.count;
      what.is_change = finding->is_change;
      what.tensors.assign(finding->tensors, finding->tensors + finding->tensor_count);
      what.reason = pavise_error_reason(finding->error);
      what.came.notify_all();
    };
    pavise_guard* guard = nullptr;
    ASSERT_EQ(pavise_guard_start(model.get(), &guarding, &guard, nullptr), PAVISE_OK);
    pavise_guard_report report;
    ASSERT_EQ(pavise_guard_get_report(guard, &report, nullptr), PAVISE_OK);
    EXPECT_EQ(report.vouches, 1);
    EXPECT_EQ(report.ranges, 2u);
    pavise_guard_stop(guard);
    EXPECT_EQ(told.count, 0);
    DLManagedTensorVersioned* exported = nullptr;
    ASSERT_EQ(pavise_tensor_export(model.get(), Find(model, "large"), &exported, nullptr),
              PAVISE_OK);
    // The last byte lies in the second MiB, which holds nothing else. Between two guards: a write
    // while a sample of the range is computed looks like a device that is wrong.
    const DLTensor& tensor = exported->dl_tensor;
    static_cast<char*>(tensor.data)[tensor.byte_offset + 300'000 * 4 - 1] ^= 1;
    ASSERT_EQ(pavise_guard_start(model.get(), &guarding, &guard, nullptr), PAVISE_OK);
    model = nullptr;  // the guard and the tensor keep the memory
    {
      std::unique_lock lock(told.mutex);
      told.came.wait(lock, [&] { return told.count > 0; });
      EXPECT_EQ(told.is_change, 1);
      EXPECT_THAT(told.tensors, ElementsAre("large"));
      EXPECT_EQ(told.reason, "content-mismatch");
    }
    ASSERT_EQ(pavise_guard_get_report(guard, &report, nullptr), PAVISE_OK);
    EXPECT_EQ(report.vouches, 0);
    pavise_guard_stop(guard);
    exported->deleter(exported);
  }
}

// A fork has none of the threads that the handles would wait for.
TEST_F(CApiTest, AForkHasNoGuardAndGivesNothingBack) {
  for (const int hash : {PAVISE_GUARD_TAG, PAVISE_GUARD_BLAKE3}) {
    SCOPED_TRACE(hash);
    pavise_load_options options = Options();
    options.guard = hash;
    Model model = Load(options);
    ASSERT_NE(model, nullptr);
    DLManagedTensorVersioned* exported = nullptr;
    ASSERT_EQ(pavise_tensor_export(model.get(), Find(model, "vector"), &exported, nullptr),
              PAVISE_OK);
    pavise_guard_options guarding;
    pavise_guard_options_init(&guarding, sizeof(guarding));
    pavise_guard* guard = nullptr;
    ASSERT_EQ(pavise_guard_start(model.get(), &guarding, &guard, nullptr), PAVISE_OK);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(60);  // in place of waiting for ever
      pavise_guard_report report;
      const bool reports = pavise_guard_get_report(guard, &report, nullptr) == PAVISE_OK;
      const bool vouches = report.vouches != 0 || report.ranges != 0;
      pavise_guard* second = nullptr;
      const bool starts =
          pavise_guard_start(model.get(), &guarding, &second, nullptr) != PAVISE_USAGE ||
          second != nullptr;
      pavise_guard_stop(guard);
      pavise_model_close(model.release());
      exported->deleter(exported);  // the last of them
      _exit(!reports ? 10 : vouches ? 11 : starts ? 12 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    pavise_guard_report report;
    ASSERT_EQ(pavise_guard_get_report(guard, &report, nullptr), PAVISE_OK);
    EXPECT_EQ(report.vouches, 1) << "in the process that loaded";
    EXPECT_EQ(report.ranges, 2u);
    pavise_guard_stop(guard);
    exported->deleter(exported);
  }
}

TEST_F(CApiTest, GuardsThatCannotBeStarted) {
  const Model model = Load(Options());
  ASSERT_NE(model, nullptr);
  pavise_guard_options options;
  pavise_guard_options_init(&options, sizeof(options));
  pavise_guard* guard = nullptr;
  EXPECT_EQ(pavise_guard_start(model.get(), &options, &guard, nullptr), PAVISE_USAGE);
  EXPECT_EQ(guard, nullptr);
  pavise_load_options loading = Options();
  loading.guard = PAVISE_GUARD_TAG;
  const Model guarded = Load(loading);
  ASSERT_NE(guarded, nullptr);
  options.share_of_time = 2;
  EXPECT_EQ(pavise_guard_start(guarded.get(), &options, &guard, nullptr), PAVISE_USAGE);
  options.size_bytes = 1;
  EXPECT_EQ(pavise_guard_start(guarded.get(), &options, &guard, nullptr), PAVISE_USAGE);
}

}  // namespace
}  // namespace pavise::loading
