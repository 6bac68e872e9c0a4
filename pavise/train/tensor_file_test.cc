#include "pavise/train/tensor_file.h"

#include <sys/stat.h>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::train {
namespace {

using ::testing::IsSupersetOf;
using ::testing::Pair;

TEST(TensorFileTest, ReadsWhatWasWritten) {
  const pavise::testing::TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  const Bytes wide(16, 1);
  const Bytes narrow(12, 2);
  ASSERT_TRUE(WriteTensorFile(path,
                              {{"b", "F32", {3}, narrow},
                               {"count", "I64", {}, ByteSpan(wide).first(8)},
                               {"a", "I64", {2, 1}, wide},
                               {"empty", "F32", {0, 5}, {}}},
                              {{"state", R"({"sha256":"no"})"}, {"format", "pt"}}, true, 0600)
                  .ok());
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  const auto file = ReadTensorFile(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_THAT(file->metadata,
              IsSupersetOf({Pair("state", R"({"sha256":"no"})"), Pair("format", "pt")}));
  ASSERT_EQ(file->table.tensors.size(), 4u);
  EXPECT_EQ(file->table.data_begin_bytes % 8, 0u);
  EXPECT_EQ(file->table.tensors[0].name, "a");  // wider ones first
  ASSERT_NE(file->Find("b"), nullptr);
  EXPECT_EQ(ToHex(file->BytesOf(*file->Find("b"))), ToHex(narrow));
  EXPECT_EQ(file->Find("c"), nullptr);
}

TEST(TensorFileTest, RefusesEveryFlippedBitAndEveryCut) {
  const pavise::testing::TemporaryDirectory directory;
  const std::string path = directory / "a.safetensors";
  const Bytes values(40, 3);
  ASSERT_TRUE(WriteTensorFile(path, {{"w", "F32", {2, 5}, values}}, {{"k", "v"}}, true, 0644).ok());
  const std::string content = pavise::testing::ContentOf(path);
  for (size_t i = 0; i < content.size(); ++i) {
    for (const bool cut : {false, true}) {
      std::string changed = cut ? content.substr(0, i) : content;
      if (!cut) changed[i] = static_cast<char>(changed[i] ^ 1);
      directory.Write("b", changed);
      const absl::Status status = ReadTensorFile(directory / "b").status();
      EXPECT_EQ(ExitCodeOf(status), 1) << i << cut << status;
    }
  }
  directory.Write("b", content + "x");
  EXPECT_EQ(ExitCodeOf(ReadTensorFile(directory / "b").status()), 1);
  // One without a digest says nothing of itself.
  ASSERT_TRUE(WriteTensorFile(path, {{"w", "F32", {2, 5}, values}}, {}, false, 0644).ok());
  EXPECT_EQ(ReasonOf(ReadTensorFile(path).status()), Reason::kContentMismatch);
}

TEST(TensorFileTest, RefusesTensorsThatDoNotFitTheirShape) {
  const pavise::testing::TemporaryDirectory directory;
  const Bytes values(8);
  EXPECT_EQ(
      ExitCodeOf(WriteTensorFile(directory / "x", {{"w", "F32", {3}, values}}, {}, true, 0644)), 2);
  EXPECT_EQ(
      ExitCodeOf(WriteTensorFile(directory / "x", {{"w", "F9", {1}, values}}, {}, true, 0644)), 2);
  EXPECT_EQ(
      ExitCodeOf(WriteTensorFile(
          directory / "x", {{"w", "F32", {2}, values}, {"w", "F32", {2}, values}}, {}, true, 0644)),
      2);
}

}  // namespace
}  // namespace pavise::train
