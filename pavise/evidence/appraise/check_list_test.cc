#include "pavise/evidence/appraise/check_list.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::SizeIs;

TEST(CheckListTest, PassesOnlyWhereEveryCheckPassed) {
  CheckList checks;
  EXPECT_TRUE(checks.Verdict().ok());
  checks.Pass("signature", "ECDSA P-256");
  EXPECT_TRUE(checks.Add("nonce", "as challenged", absl::OkStatus()).ok());
  EXPECT_TRUE(checks.all_passed());
  EXPECT_TRUE(checks.Verdict().ok());

  checks.Fail("PCR 10", Reason::kMeasurementMismatch, "PCR 10", "another value", "boot again");
  checks.Pass("clock", "5 s");
  EXPECT_FALSE(checks.all_passed());
  EXPECT_THAT(checks.checks(), SizeIs(4));
  EXPECT_EQ(ReasonOf(checks.Verdict()), Reason::kMeasurementMismatch);
  EXPECT_EQ(RefusalsOf(checks.Verdict())[0].remedy, "boot again");
}

TEST(CheckListTest, KeepsEveryFindingOfARefusalAndNoOtherError) {
  CheckList checks;
  const absl::Status two = Refuse({{Reason::kMalformed, "a", "is wrong", ""},
                                   {Reason::kNonceMismatch, "b", "is old", "ask again"}});
  EXPECT_EQ(checks.Add("form", "", two), two);
  ASSERT_THAT(checks.checks(), SizeIs(2));
  EXPECT_EQ(checks.checks()[1].refusal->reason, Reason::kNonceMismatch);
  EXPECT_THAT(RefusalsOf(checks.Verdict()), SizeIs(2));

  CheckList others;
  EXPECT_EQ(others.Add("disk", "", MachineFailure("disk", "broke")).code(),
            absl::StatusCode::kInternal);
  EXPECT_THAT(others.checks(), SizeIs(0));
  // A check that could not be made does not pass for one that was.
  others.Pass("another", "");
  EXPECT_FALSE(others.all_passed());
  EXPECT_EQ(others.Verdict().code(), absl::StatusCode::kInternal);
}

TEST(CheckListTest, GoesOnAfterARefusalAndEndsWithAnyOtherError) {
  CheckList checks;
  EXPECT_TRUE(checks.Record("a", "", absl::OkStatus()).ok());
  EXPECT_TRUE(checks.all_passed());
  EXPECT_TRUE(checks.Record("b", "", Refuse(Reason::kMalformed, "b", "is wrong")).ok());
  EXPECT_FALSE(checks.all_passed());
  EXPECT_EQ(checks.Record("c", "", MachineFailure("disk", "broke")).code(),
            absl::StatusCode::kInternal);
  EXPECT_THAT(checks.checks(), SizeIs(2));
}

}  // namespace
}  // namespace pavise::evidence
