#include "pavise/loading/slice.h"

#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/loading/guard.h"
#include "pavise/loading/load.h"
#include "pavise/signing/sign.h"

#include "absl/strings/str_join.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using model::TensorEntry;
using model::TensorFormat;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kMiB = uint64_t{1} << 20;

TensorEntry Entry(const std::string& dtype, const std::vector<uint64_t>& shape,
                  TensorFormat format = TensorFormat::kSafetensors, uint64_t begin_bytes = 1000) {
  const model::ElementUnit unit = *model::ElementUnitOf(format, dtype);
  uint64_t elements = 1;
  for (const uint64_t length : shape) elements *= length;
  return {"w", dtype, shape, begin_bytes, begin_bytes + elements / unit.elements * unit.bytes};
}

// Calls `visit` with every index below `shape`, in row-major order.
void ForEachIndex(const std::vector<uint64_t>& shape,
                  const std::function<void(const std::vector<uint64_t>&)>& visit) {
  std::vector<uint64_t> index(shape.size(), 0);
  while (true) {
    visit(index);
    size_t dimension = shape.size();
    while (dimension > 0 && ++index[dimension - 1] == shape[dimension - 1]) {
      index[--dimension] = 0;
    }
    if (dimension == 0) return;
  }
}

// Every element of every rank's view lies where it lies in the whole tensor, and the view begins at
// its first byte and ends at its last.
TEST(SliceViewTest, EveryElementOfEveryShareIsWhereTheTensorHasIt) {
  size_t views = 0;
  for (const std::vector<uint64_t>& shape :
       std::vector<std::vector<uint64_t>>{{12}, {6, 4}, {1, 6}, {6, 1}, {4, 6, 2}, {2, 1, 4, 3}}) {
    const TensorEntry entry = Entry("F16", shape);
    for (uint64_t dimension = 0; dimension < shape.size(); ++dimension) {
      for (const uint64_t ranks : {1, 2, 3, 6}) {
        if (shape[dimension] % ranks != 0) continue;
        for (uint64_t rank = 0; rank < ranks; ++rank) {
          const auto view =
              SliceView({"*", dimension, rank, ranks}, entry, TensorFormat::kSafetensors);
          ASSERT_TRUE(view.ok()) << view.status();
          ++views;
          uint64_t first = UINT64_MAX;
          uint64_t last = 0;
          ForEachIndex(view->shape, [&](const std::vector<uint64_t>& index) {
            uint64_t in_whole = 0;
            uint64_t in_view = view->begin_bytes;
            for (size_t i = 0; i < shape.size(); ++i) {
              const uint64_t shift = i == dimension ? rank * view->shape[i] : 0;
              in_whole = in_whole * shape[i] + index[i] + shift;
              in_view += index[i] * view->strides_elements[i] * 2;
            }
            ASSERT_EQ(in_view, entry.begin_bytes + in_whole * 2);
            first = std::min(first, in_view);
            last = std::max(last, in_view + 2);
          });
          EXPECT_EQ(view->begin_bytes, first);
          EXPECT_EQ(view->end_bytes, last);
        }
      }
    }
  }
  EXPECT_EQ(views, 82u);
}

// GGUF lists [columns, rows] of what programs call [rows, columns].
TEST(SliceViewTest, GgufDimensionsAreCountedFromTheOutermostToo) {
  const TensorEntry entry = Entry("F32", {8, 6}, TensorFormat::kGguf);
  const auto whole = WholeView(entry, TensorFormat::kGguf);
  ASSERT_TRUE(whole.ok());
  EXPECT_THAT(whole->shape, ElementsAre(6, 8));
  EXPECT_THAT(whole->strides_elements, ElementsAre(8, 1));
  const auto rows = SliceView({"*", 0, 1, 2}, entry, TensorFormat::kGguf);
  ASSERT_TRUE(rows.ok());
  EXPECT_THAT(rows->shape, ElementsAre(3, 8));
  EXPECT_EQ(rows->begin_bytes, 1000u + 3 * 8 * 4);
  EXPECT_EQ(rows->end_bytes, 1000u + 6 * 8 * 4);
  const auto columns = SliceView({"*", 1, 1, 2}, entry, TensorFormat::kGguf);
  ASSERT_TRUE(columns.ok());
  EXPECT_THAT(columns->shape, ElementsAre(6, 4));
  EXPECT_THAT(columns->strides_elements, ElementsAre(8, 1));
  EXPECT_EQ(columns->begin_bytes, 1000u + 4 * 4);
  EXPECT_EQ(columns->end_bytes, 1000u + 6 * 8 * 4);
}

TEST(SliceViewTest, BlocksAreCutBetweenBlocksOnly) {
  // 18 bytes for 32 elements.
  const TensorEntry quantised = Entry("Q4_0", {128, 4}, TensorFormat::kGguf);
  const auto rows = SliceView({"*", 0, 1, 4}, quantised, TensorFormat::kGguf);
  ASSERT_TRUE(rows.ok()) << rows.status();
  EXPECT_EQ(rows->begin_bytes, 1000u + 4 * 18);
  EXPECT_EQ(rows->end_bytes, 1000u + 8 * 18);
  const auto columns = SliceView({"*", 1, 1, 2}, quantised, TensorFormat::kGguf);
  ASSERT_TRUE(columns.ok()) << columns.status();
  EXPECT_EQ(columns->begin_bytes, 1000u + 2 * 18);
  EXPECT_EQ(columns->end_bytes, 1000u + 16 * 18);
  const auto inside = SliceView({"*", 1, 0, 8}, quantised, TensorFormat::kGguf);
  EXPECT_EQ(ReasonOf(inside.status()), Reason::kUnsupported);
  EXPECT_THAT(inside.status().ToString(), HasSubstr("inside a block"));
  // Two elements a byte; four in three.
  for (const char* dtype : {"F4", "F6_E2M3"}) {
    const TensorEntry packed = Entry(dtype, {4, 12});
    EXPECT_TRUE(SliceView({"*", 1, 2, 3}, packed, TensorFormat::kSafetensors).ok());
    const auto cut = SliceView({"*", 1, 0, 4}, packed, TensorFormat::kSafetensors);
    EXPECT_EQ(ReasonOf(cut.status()), Reason::kUnsupported) << dtype;
    EXPECT_THAT(cut.status().ToString(), HasSubstr("inside a byte"));
  }
}

TEST(SliceViewTest, WhatCannotBeCutIsRefusedWithARemedy) {
  const auto expect = [](const char* why, uint64_t dimension, uint64_t ranks,
                         const TensorEntry& entry, Reason reason) {
    const auto view = SliceView({"*", dimension, 0, ranks}, entry, TensorFormat::kSafetensors);
    EXPECT_EQ(ReasonOf(view.status()), reason) << why << ": " << view.status();
    if (reason == Reason::kUnsupported) {
      EXPECT_THAT(RefusalsOf(view.status()).front().remedy, HasSubstr("--tensors")) << why;
    }
  };
  expect("no such dimension", 2, 2, Entry("F32", {4, 4}), Reason::kUnsupported);
  expect("a scalar", 0, 1, Entry("F32", {}), Reason::kUnsupported);
  expect("not divisible", 0, 3, Entry("F32", {4, 3}), Reason::kUnsupported);
  expect("no elements", 0, 2, Entry("F32", {4, 0}), Reason::kUnsupported);
  expect("more ranks than elements", 0, 8, Entry("F32", {4}), Reason::kUnsupported);
  TensorEntry entry = Entry("F32", {4});
  entry.dtype = "F128";
  expect("an unknown dtype", 0, 2, entry, Reason::kUnsupported);
  entry = Entry("F32", {4});
  entry.end_bytes += 4;
  expect("another length", 0, 2, entry, Reason::kMalformed);
  entry.shape = {uint64_t{1} << 40, uint64_t{1} << 40};
  expect("overflow", 0, 2, entry, Reason::kMalformed);
}

// A model of 2-D and 3-D tensors, larger than a few MiB.
class SliceLoadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Write("model/model.safetensors", {{"rows", {1024, 1000}},     // 4 MiB
                                      {"columns", {1000, 1024}},  // 4 MiB
                                      {"norm", {1000}},
                                      {"experts", {4, 300, 500}},  // 2.4 MB
                                      {"head", {3000, 500}},       // 6 MB
                                      {"empty", {0, 8}}});
    directory_.Write("model/config.json", "{}");
    Sign();
  }

  void Write(const std::string& path,
             const std::vector<std::pair<std::string, std::vector<uint64_t>>>& tensors) {
    std::string header = "{";
    uint64_t offset = 0;
    for (const auto& [name, shape] : tensors) {
      uint64_t size_bytes = 4;
      for (const uint64_t length : shape) size_bytes *= length;
      StrAppend(&header, header.size() > 1 ? "," : "", "\"", name,
                "\":{\"dtype\":\"F32\",\"shape\":[", absl::StrJoin(shape, ","),
                "],\"data_offsets\":[", offset, ",", offset + size_bytes, "]}");
      offset += size_bytes;
    }
    header += "}";
    std::string out(8, '\0');
    const uint64_t length = header.size();
    std::memcpy(out.data(), &length, 8);
    out += header;
    data_begin_ = out.size();
    std::mt19937 generator(7);
    out.resize(data_begin_ + offset);
    for (size_t i = data_begin_; i < out.size(); ++i) out[i] = static_cast<char>(generator());
    weights_ = out;
    directory_.Write(path, out);
  }

  void Sign() {
    signing::SignOptions options;
    options.model_path = directory_ / model_;
    options.signature_path = directory_ / "model.sig";
    options.signer = &key_;
    const auto report = signing::SignModel(options);
    ASSERT_TRUE(report.ok()) << report.status();
  }

  LoadOptions Options(const std::vector<Slice>& slices) {
    LoadOptions options;
    options.verify.model_path = directory_ / model_;
    options.verify.signature_path = directory_ / "model.sig";
    signing::TrustedSigners signers;
    signers.keys.push_back({key_.public_key()});
    options.verify.policy = signing::TrustPolicy::ForSigners(std::move(signers));
    options.slices = slices;
    return options;
  }

  void Flip(uint64_t offset) {
    std::string bytes = weights_;
    bytes[offset] = static_cast<char>(bytes[offset] ^ 1);
    directory_.Write("model/model.safetensors", bytes);
  }

  absl::StatusOr<VerifiedLoad> Load(const LoadOptions& options) {
    return Loader::Load(options, *device_);
  }

  // The view's elements in row-major order, read through shape and strides.
  std::string Gathered(const LoadedTensor& tensor) {
    const auto memory = const_cast<hash::Buffer*>(tensor.buffer)->host_bytes();
    std::string out;
    ForEachIndex(tensor.view.shape, [&](const std::vector<uint64_t>& index) {
      uint64_t offset = tensor.buffer_offset_bytes;
      for (size_t i = 0; i < index.size(); ++i) {
        offset += index[i] * tensor.view.strides_elements[i] * 4;
      }
      ASSERT_LE(offset + 4, tensor.buffer_offset_bytes + tensor.size_bytes());
      out += AsText(memory.subspan(offset, 4));
    });
    return out;
  }

  // The same out of the file that was written.
  std::string Expected(const LoadedTensor& tensor) {
    std::string out;
    const std::vector<uint64_t>& whole = tensor.entry.shape;
    ForEachIndex(tensor.view.shape, [&](const std::vector<uint64_t>& index) {
      uint64_t element = 0;
      for (size_t i = 0; i < whole.size(); ++i) {
        const bool is_cut = tensor.slice.has_value() && tensor.slice->dimension == i;
        element = element * whole[i] + index[i] +
                  (is_cut ? tensor.slice->rank * tensor.view.shape[i] : 0);
      }
      out += weights_.substr(tensor.entry.begin_bytes + element * 4, 4);
    });
    return out;
  }

  testing::TemporaryDirectory directory_;
  std::string model_ = "model";
  std::string weights_;
  uint64_t data_begin_ = 0;
  crypto::PrivateKey key_ = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  std::unique_ptr<hash::Device> device_ = hash::NewCpuDevice(2);
};

TEST_F(SliceLoadTest, EachRankGetsItsShareAndTheRestWhole) {
  for (uint64_t rank = 0; rank < 4; ++rank) {
    SCOPED_TRACE(rank);
    LoadOptions options =
        Options({{"rows", 0, rank, 4}, {"columns", 1, rank, 4}, {"experts", 1, rank, 4}});
    options.verify.tensors = {"norm", "empty", "rows"};  // "rows": its slice goes first
    const auto loaded = Load(options);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const LoadedModel& model = **loaded;
    EXPECT_TRUE(model.report.partial);
    EXPECT_THAT(model.report.digests_read, ElementsAre("outboard", "tensor-digests"));
    EXPECT_EQ(model.tensors.size(), 5u);
    ASSERT_NE(model.Find("rows"), nullptr);
    EXPECT_THAT(model.Find("rows")->view.shape, ElementsAre(256, 1000));
    ASSERT_NE(model.Find("columns"), nullptr);
    EXPECT_THAT(model.Find("columns")->view.shape, ElementsAre(1000, 256));
    EXPECT_THAT(model.Find("columns")->view.strides_elements, ElementsAre(1024, 1));
    ASSERT_NE(model.Find("experts"), nullptr);
    EXPECT_THAT(model.Find("experts")->view.shape, ElementsAre(4, 75, 500));
    ASSERT_NE(model.Find("norm"), nullptr);
    EXPECT_FALSE(model.Find("norm")->slice.has_value());
    for (const LoadedTensor& tensor : model.tensors) {
      if (tensor.size_bytes() == 0) continue;
      EXPECT_EQ(Gathered(tensor), Expected(tensor)) << tensor.entry.name;
    }
  }
}

// Dimension 0 of a large tensor: the MiB of the share and no other.
TEST_F(SliceLoadTest, OnlyTheCoveringRangesAreReadAndProven) {
  const LoadOptions options = Options({{"head", 0, 1, 3}});
  const auto loaded = Load(options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LoadedModel& model = **loaded;
  ASSERT_EQ(model.tensors.size(), 1u);
  const LoadedTensor& head = model.tensors.front();
  EXPECT_EQ(head.size_bytes(), 2'000'000u);
  ASSERT_EQ(model.files.size(), 1u);
  ASSERT_EQ(model.files[0].spans.size(), 1u);
  const hash::LoadedSpan& span = model.files[0].spans[0];
  EXPECT_EQ(span.file_begin_bytes, head.view.begin_bytes / kMiB * kMiB);
  EXPECT_EQ(span.file_begin_bytes + span.size_bytes,
            (head.view.end_bytes + kMiB - 1) / kMiB * kMiB);
  EXPECT_EQ(model.report.bytes_checked, span.size_bytes);
  // What the share's MiB do not hold is nobody's business here; all of what they hold is.
  Flip(span.file_begin_bytes - 1);
  EXPECT_TRUE(Load(options).ok());
  Flip(span.file_begin_bytes + span.size_bytes);
  EXPECT_TRUE(Load(options).ok());
  for (const uint64_t offset :
       {span.file_begin_bytes, head.view.begin_bytes, head.view.end_bytes - 1,
        span.file_begin_bytes + span.size_bytes - 1}) {
    Flip(offset);
    EXPECT_EQ(ReasonOf(Load(options).status()), Reason::kContentMismatch) << offset;
  }
}

// Slices that share a MiB, and with whole tensors: each byte lies in the view of what was proven.
TEST_F(SliceLoadTest, AllTensorsOfAModelInOneLoad) {
  LoadOptions options = Options({{"[rc]o*s", 0, 1, 2}, {"head", 1, 0, 2}});
  options.verify.tensors = {"*"};
  const auto loaded = Load(options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->tensors.size(), 6u);
  size_t sliced = 0;
  for (const LoadedTensor& tensor : (*loaded)->tensors) {
    sliced += tensor.slice.has_value() ? 1 : 0;
    if (tensor.size_bytes() == 0) continue;
    EXPECT_EQ(Gathered(tensor), Expected(tensor)) << tensor.entry.name;
  }
  EXPECT_EQ(sliced, 3u);
}

TEST_F(SliceLoadTest, WithoutTheTreeALargeFileIsRefusedAndASmallOneIsNot) {
  std::filesystem::remove(directory_ / "model.sig.tree");
  const absl::Status status = Load(Options({{"r*", 0, 0, 2}, {"c*", 0, 0, 2}})).status();
  const std::vector<Refusal> findings = RefusalsOf(status);
  ASSERT_EQ(findings.size(), 1u) << status;
  EXPECT_EQ(findings[0].reason, Reason::kFileMissing);
  EXPECT_THAT(findings[0].item, HasSubstr("model.sig.tree"));
  EXPECT_THAT(findings[0].remedy, HasSubstr("fetch it"));

  Write("model/model.safetensors", {{"small", {8, 4}}});
  Sign();
  std::filesystem::remove(directory_ / "model.sig.tree");
  const auto loaded = Load(Options({{"small", 1, 1, 2}}));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(Gathered((*loaded)->tensors.at(0)), Expected((*loaded)->tensors.at(0)));
  Flip(weights_.size() - 1);
  EXPECT_EQ(ReasonOf(Load(Options({{"small", 1, 1, 2}})).status()), Reason::kContentMismatch);
}

TEST_F(SliceLoadTest, AnotherModelsTreeIsRefused) {
  const std::string tree = testing::ContentOf(directory_ / "model.sig.tree");
  Write("model/model.safetensors", {{"rows", {1000, 1024}}});
  Sign();
  EXPECT_TRUE(Load(Options({{"rows", 0, 0, 2}})).ok());
  directory_.Write("model.sig.tree", tree);
  EXPECT_EQ(ReasonOf(Load(Options({{"rows", 0, 0, 2}})).status()), Reason::kContentMismatch);
}

TEST_F(SliceLoadTest, AHeaderThatNamesOtherTensorsIsRefused) {
  const size_t name = weights_.find("\"rows\"");
  ASSERT_NE(name, std::string::npos);
  Flip(name + 1);
  EXPECT_EQ(ReasonOf(Load(Options({{"head", 0, 1, 3}})).status()), Reason::kContentMismatch);
}

TEST_F(SliceLoadTest, AModelOfOneFile) {
  model_ = "model/model.safetensors";
  Sign();
  LoadOptions options = Options({{"head", 1, 1, 2}});
  options.verify.tensors = {"norm"};
  const auto loaded = Load(options);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ((*loaded)->tensors.size(), 2u);
  for (const LoadedTensor& tensor : (*loaded)->tensors) {
    EXPECT_EQ(Gathered(tensor), Expected(tensor));
  }
}

TEST_F(SliceLoadTest, SlicesThatMakeNoSense) {
  EXPECT_EQ(ExitCodeOf(Load(Options({{"rows", 0, 2, 2}})).status()), 2);
  EXPECT_EQ(ExitCodeOf(Load(Options({{"rows", 0, 0, 0}})).status()), 2);
  EXPECT_EQ(ExitCodeOf(Load(Options({{"r*", 0, 0, 2}, {"*s", 1, 0, 2}})).status()), 2);
  EXPECT_EQ(ReasonOf(Load(Options({{"rows", 0, 0, 2}, {"none*", 0, 0, 2}})).status()),
            Reason::kFileMissing);
  // Every tensor that cannot be cut is named.
  const std::vector<Refusal> findings = RefusalsOf(Load(Options({{"*", 0, 0, 16}})).status());
  EXPECT_EQ(findings.size(), 5u);  // all but "rows"
  for (const Refusal& finding : findings) EXPECT_EQ(finding.reason, Reason::kUnsupported);
  LoadOptions all_digests = Options({{"rows", 0, 0, 2}});
  all_digests.verify.digests = signing::DigestChoice::kAll;
  EXPECT_EQ(ExitCodeOf(Load(all_digests).status()), 2);
}

TEST_F(SliceLoadTest, SlicesOfASignatureWithoutTablesAreRefused) {
  signing::SignOptions signing;
  signing.model_path = directory_ / model_;
  signing.signature_path = directory_ / "model.sig";
  signing.signer = &key_;
  signing.annotate = false;
  ASSERT_TRUE(signing::SignModel(signing).ok());
  EXPECT_EQ(ReasonOf(Load(Options({{"rows", 0, 0, 2}})).status()), Reason::kFileMissing);
}

// A finding names the tensors of which the share was loaded and lies there, at least in part.
TEST_F(SliceLoadTest, TheGuardNamesShares) {
  for (const GuardHash hash : {GuardHash::kTag, GuardHash::kBlake3}) {
    SCOPED_TRACE(GuardHashName(hash));
    LoadOptions options = Options({{"head", 0, 2, 3}});
    options.verify.tensors = {"norm"};
    options.pass.references = ReferencesFor(hash);
    const auto loaded = Load(options);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    std::vector<GuardFinding> findings;
    GuardOptions guarding;
    guarding.hash = hash;
    guarding.own_thread = false;
    guarding.share_of_time = 1;
    guarding.on_mismatch = [&](const GuardFinding& finding) { findings.push_back(finding); };
    const auto guard = Guard::Start(*loaded, *device_, guarding);
    ASSERT_TRUE(guard.ok()) << guard.status();
    const auto pass = [&] {
      const uint64_t passes = (*guard)->Report().passes_completed;
      while ((*guard)->Report().passes_completed == passes) (*guard)->Step();
    };
    pass();
    EXPECT_TRUE(findings.empty());
    const auto flip = [&](const LoadedTensor& tensor, uint64_t offset) {
      const_cast<hash::Buffer*>(tensor.buffer)->host_bytes()[tensor.buffer_offset_bytes + offset] ^=
          1;
      pass();
    };
    const LoadedTensor& head = *(*loaded)->Find("head");
    flip(head, 1'500'000);
    ASSERT_EQ(findings.size(), 1u);
    EXPECT_THAT(findings[0].tensors, ElementsAre("head"));
    EXPECT_THAT(findings[0].status.ToString(), HasSubstr("tensor head"));
    flip(*(*loaded)->Find("norm"), 5);
    ASSERT_EQ(findings.size(), 2u);
    EXPECT_THAT(findings[1].tensors, ElementsAre("norm"));
  }
}

}  // namespace
}  // namespace pavise::loading
