#include "pavise/offload/key_budget.h"

#include "pavise/base/status.h"

#include "gtest/gtest.h"

namespace pavise::offload {
namespace {

TEST(KeyBudgetTest, StepsAndEquationsRunOut) {
  KeyBudget budget("layer 3", {.steps = 3, .known_equations = 10});
  EXPECT_TRUE(budget.Spend(10).ok());
  EXPECT_EQ(ReasonOf(budget.Spend(1)), Reason::kKeyExhausted);
  EXPECT_EQ(budget.spent(), (KeyLimits{1, 10})) << "a refusal spends nothing";
  EXPECT_TRUE(budget.Spend(0).ok());
  EXPECT_TRUE(budget.Spend(0).ok());
  const absl::Status refused = budget.Spend(0);
  EXPECT_EQ(ReasonOf(refused), Reason::kKeyExhausted);
  EXPECT_EQ(RefusalsOf(refused)[0].item, "layer 3");
  EXPECT_EQ(budget.Report(), "layer 3: 3 of 3 steps, 10 of 10 known equations");
}

TEST(KeyBudgetTest, NumbersDoNotWrap) {
  KeyBudget budget("layer", {.steps = kUnlimited, .known_equations = 10});
  EXPECT_TRUE(budget.Spend(9).ok());
  EXPECT_EQ(ReasonOf(budget.Spend(kUnlimited)), Reason::kKeyExhausted);
  EXPECT_EQ(ReasonOf(budget.Spend(kUnlimited - 8)), Reason::kKeyExhausted);
  EXPECT_TRUE(budget.Spend(1).ok());
  EXPECT_EQ(budget.Report(), "layer: 2 steps (no limit), 10 of 10 known equations");
}

}  // namespace
}  // namespace pavise::offload
