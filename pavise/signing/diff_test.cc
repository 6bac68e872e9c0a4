#include "pavise/signing/diff.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::signing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TensorDigest Tensor(const std::string& name, uint8_t content, const std::string& dtype = "F32") {
  TensorDigest digest;
  digest.tensor = {name, dtype, {4}, 0, 16};
  digest.blake3[0] = content;
  return digest;
}

Resource File(const std::string& path, uint8_t content, std::vector<TensorDigest> tensors = {}) {
  Resource resource;
  resource.name = resource.path = path;
  resource.algorithm = "sha256";
  resource.digest = Bytes(32, content);
  FileAnnotation annotation;
  annotation.size_bytes = 100;
  annotation.blake3[0] = content;
  annotation.tensors = std::move(tensors);
  resource.annotation = std::move(annotation);
  return resource;
}

Statement Of(std::vector<Resource> resources) {
  Statement statement;
  statement.resources = std::move(resources);
  return statement;
}

auto Entry(Change change, const std::string& name, const std::string& detail) {
  return AllOf(Field(&DiffEntry::change, change), Field(&DiffEntry::name, name),
               Field(&DiffEntry::detail, HasSubstr(detail)));
}

TEST(DiffTest, EqualStatementsHaveNoDifference) {
  const Statement statement = Of({File("a", 1, {Tensor("x", 1), Tensor("y", 2)})});
  const StatementDiff diff = DiffStatements(statement, statement);
  EXPECT_THAT(diff.files, IsEmpty());
  EXPECT_THAT(diff.tensors, IsEmpty());
  EXPECT_EQ(diff.tensors_unchanged, 2u);
  EXPECT_THAT(diff.notes, IsEmpty());
}

TEST(DiffTest, FilesAndTensorsAddedRemovedChanged) {
  const StatementDiff diff = DiffStatements(
      Of({File("a", 1, {Tensor("changed", 1), Tensor("gone", 2), Tensor("typed", 3)}),
          File("old", 1)}),
      Of({File("a", 2, {Tensor("changed", 9), Tensor("come", 5), Tensor("typed", 3, "BF16")}),
          File("new", 1)}));
  EXPECT_THAT(diff.files,
              ElementsAre(Entry(Change::kChanged, "a", "content"),
                          Entry(Change::kRemoved, "old", ""), Entry(Change::kAdded, "new", "")));
  EXPECT_THAT(diff.tensors, ElementsAre(Entry(Change::kChanged, "changed", "content"),
                                        Entry(Change::kAdded, "come", "in a"),
                                        Entry(Change::kRemoved, "gone", "from a"),
                                        Entry(Change::kChanged, "typed", "F32 [4] -> BF16 [4]")));
}

TEST(DiffTest, ReshardingChangesNoTensor) {
  const StatementDiff diff = DiffStatements(
      Of({File("whole", 1, {Tensor("x", 1), Tensor("y", 2)})}),
      Of({File("part-1", 2, {Tensor("x", 1)}), File("part-2", 3, {Tensor("y", 2)})}));
  EXPECT_EQ(diff.files.size(), 3u);
  EXPECT_THAT(diff.tensors, IsEmpty());
  EXPECT_EQ(diff.tensors_unchanged, 2u);
}

TEST(DiffTest, OmsDigestsServeWhereNothingElseIsSigned) {
  Resource plain_before = File("a", 1);
  Resource plain_after = File("a", 2);
  plain_before.annotation.reset();
  plain_after.annotation.reset();
  const StatementDiff changed = DiffStatements(Of({plain_before}), Of({plain_after}));
  EXPECT_THAT(changed.files, ElementsAre(Entry(Change::kChanged, "a", "content")));
  EXPECT_THAT(changed.notes, ElementsAre(HasSubstr("neither")));

  plain_after.algorithm = "blake3";
  const StatementDiff other = DiffStatements(Of({plain_before}), Of({plain_after}));
  EXPECT_THAT(other.files, IsEmpty());
  EXPECT_THAT(other.notes, ElementsAre(HasSubstr("cannot be compared"), HasSubstr("neither")));
}

}  // namespace
}  // namespace pavise::signing
