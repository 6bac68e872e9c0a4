#include "pavise/model/tensor_table.h"

#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::model {
namespace {

using ::testing::SizeIs;

class ReadTensorTableTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::optional<TensorTable>> Read(const std::string& name,
                                                  const std::string& content,
                                                  const TensorTableLimits& limits = {}) {
    const std::string path = directory_.Write(name, content);
    PAVISE_ASSIGN_OR_RETURN(const FileDescriptor file, OpenRegularFile(path));
    return ReadTensorTable(file, name, content.size(), limits);
  }

  testing::TemporaryDirectory directory_;
};

std::string Safetensors(const std::string& json, const std::string& data) {
  Bytes length;
  AppendLittleEndian64(json.size(), length);
  return std::string(AsText(length)) + json + data;
}

// One tensor of 32 bytes behind one metadata string of this length.
std::string Gguf(uint64_t string_bytes) {
  Bytes header = {'G', 'G', 'U', 'F'};
  AppendLittleEndian32(3, header);
  AppendLittleEndian64(1, header);
  AppendLittleEndian64(1, header);
  AppendLittleEndian64(1, header);
  header.push_back('k');
  AppendLittleEndian32(8, header);
  AppendLittleEndian64(string_bytes, header);
  header.resize(header.size() + string_bytes, 'x');
  AppendLittleEndian64(1, header);
  header.push_back('t');
  AppendLittleEndian32(1, header);
  AppendLittleEndian64(8, header);
  AppendLittleEndian32(0, header);
  AppendLittleEndian64(0, header);
  header.resize((header.size() + 31) / 32 * 32 + 32);
  return std::string(AsText(header));
}

TEST(TensorFormatTest, NamesAreDistinctAndReadBack) {
  for (const TensorFormat format : {TensorFormat::kSafetensors, TensorFormat::kGguf}) {
    EXPECT_EQ(TensorFormatFromName(TensorFormatName(format)), format);
  }
  for (const char* name : {"", "GGUF", "safetensor", "safetensors ", "unknown"}) {
    EXPECT_EQ(TensorFormatFromName(name), std::nullopt) << name;
  }
}

TEST(ElementUnitTest, IsTheFewestWholeBytes) {
  using Unit = ElementUnit;
  EXPECT_EQ(ElementUnitOf(TensorFormat::kSafetensors, "BF16"), (Unit{1, 2}));
  EXPECT_EQ(ElementUnitOf(TensorFormat::kSafetensors, "C64"), (Unit{1, 8}));
  EXPECT_EQ(ElementUnitOf(TensorFormat::kSafetensors, "F4"), (Unit{2, 1}));
  EXPECT_EQ(ElementUnitOf(TensorFormat::kSafetensors, "F6_E3M2"), (Unit{4, 3}));
  EXPECT_EQ(ElementUnitOf(TensorFormat::kGguf, "BF16"), (Unit{1, 2}));
  EXPECT_EQ(ElementUnitOf(TensorFormat::kGguf, "Q4_K"), (Unit{256, 144}));
  EXPECT_EQ(ElementUnitOf(TensorFormat::kSafetensors, "Q4_K"), std::nullopt);
  EXPECT_EQ(ElementUnitOf(TensorFormat::kGguf, "F4"), std::nullopt);
}

TEST(TensorFormatTest, IsFoundByNameOrContent) {
  const auto detect = [](std::string_view path, std::string_view start) {
    return DetectTensorFormat(path, AsBytes(start));
  };
  EXPECT_EQ(detect("a/model.safetensors", ""), TensorFormat::kSafetensors);
  EXPECT_EQ(detect("model.safetensors", "GGUF"), TensorFormat::kSafetensors);
  EXPECT_EQ(detect("model.gguf", "GGUF\3"), TensorFormat::kGguf);
  EXPECT_EQ(detect("model.bin", "GGUF"), TensorFormat::kGguf);
  EXPECT_EQ(detect("model.gguf", "GGU"), std::nullopt);
  EXPECT_EQ(detect("model.gguf", ""), std::nullopt);
  EXPECT_EQ(detect("model.safetensors.index.json", "{"), std::nullopt);
  EXPECT_EQ(detect("safetensors", "\x02"), std::nullopt);
}

TEST_F(ReadTensorTableTest, FilesOfOtherKindsHaveNoTable) {
  for (const char* content : {"", "G", "GGU", "{}", "some text that is longer than eight bytes"}) {
    const absl::StatusOr<std::optional<TensorTable>> table = Read("config.json", content);
    ASSERT_TRUE(table.ok()) << table.status();
    EXPECT_FALSE(table->has_value()) << content;
  }
}

TEST_F(ReadTensorTableTest, ReadsSafetensors) {
  const std::string json = R"({"t":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})";
  const absl::StatusOr<std::optional<TensorTable>> table =
      Read("m.safetensors", Safetensors(json, "abc"));
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_TRUE(table->has_value());
  const uint64_t begin = 8 + json.size();
  EXPECT_EQ((**table).tensors, (std::vector<TensorEntry>{{"t", "U8", {3}, begin, begin + 3}}));

  EXPECT_EQ(ReasonOf(Read("m.safetensors", Safetensors(json, "abcd")).status()),
            Reason::kMalformed);
  EXPECT_EQ(ReasonOf(Read("m.safetensors", Safetensors(json, "ab")).status()), Reason::kMalformed);
  for (const char* other : {"", "1234567", "version https://git-lfs.github.com/spec/v1\n"}) {
    EXPECT_EQ(ReasonOf(Read("m.safetensors", other).status()), Reason::kMalformed) << other;
  }
}

TEST_F(ReadTensorTableTest, ReadsGgufHeadersOfAnyLength) {
  // Around the first and the second prefix that is read (1 and 2 MiB).
  size_t executed = 0;
  for (const uint64_t prefix : {uint64_t{0}, uint64_t{1} << 20, uint64_t{1} << 21}) {
    for (const uint64_t more : {1, 64, 100, 200}) {
      const std::string content = Gguf(prefix > 128 ? prefix - 128 + more : more);
      const absl::StatusOr<std::optional<TensorTable>> table = Read("m.gguf", content);
      ASSERT_TRUE(table.ok()) << table.status();
      ASSERT_TRUE(table->has_value());
      ASSERT_THAT((**table).tensors, SizeIs(1));
      EXPECT_EQ((**table).tensors[0].end_bytes, content.size());
      ++executed;
    }
  }
  EXPECT_EQ(executed, 12u);
}

TEST_F(ReadTensorTableTest, GgufHeadersMeetTheBound) {
  const std::string content = Gguf(5000);
  TensorTableLimits limits;
  limits.max_header_bytes = 4000;
  EXPECT_EQ(ReasonOf(Read("m.gguf", content, limits).status()), Reason::kLimitExceeded);
  limits.max_header_bytes = 6000;
  EXPECT_TRUE(Read("m.gguf", content, limits).ok());
  EXPECT_EQ(ReasonOf(Read("m.gguf", content.substr(0, 4000)).status()), Reason::kMalformed);
}

TEST_F(ReadTensorTableTest, FilesShorterThanTheyWereAreUnstable) {
  const std::string content = Gguf(10);
  const std::string path = directory_.Write("m", content);
  const absl::StatusOr<FileDescriptor> file = OpenRegularFile(path);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(ReasonOf(ReadTensorTable(*file, "m", content.size() + 1).status()),
            Reason::kFileUnstable);
}

}  // namespace
}  // namespace pavise::model
