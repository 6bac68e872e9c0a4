#include "pavise/base/glob.h"

#include <string>

#include "gtest/gtest.h"

namespace pavise {
namespace {

TEST(GlobTest, WithoutWildcardsANameIsExact) {
  EXPECT_TRUE(GlobMatches("model.layers.3", "model.layers.3"));
  EXPECT_FALSE(GlobMatches("model.layers.3", "model.layers.31"));
  EXPECT_FALSE(GlobMatches("model.layers.3", "Model.layers.3"));
  EXPECT_TRUE(GlobMatches("", ""));
  EXPECT_FALSE(GlobMatches("", "a"));
  EXPECT_TRUE(GlobMatches("a\\b", "a\\b"));
  EXPECT_TRUE(GlobMatches(std::string("a\0b", 3), std::string("a\0b", 3)));
}

TEST(GlobTest, WildcardsCoverTheWholeString) {
  EXPECT_TRUE(GlobMatches("model.layers.3.*", "model.layers.3.self_attn.q_proj.weight"));
  EXPECT_FALSE(GlobMatches("model.layers.3.*", "model.layers.30.mlp.weight"));
  EXPECT_TRUE(GlobMatches("*", ""));
  EXPECT_TRUE(GlobMatches("*", ".a/b/.c"));
  EXPECT_TRUE(GlobMatches("*.weight", "a/b.weight"));
  EXPECT_FALSE(GlobMatches("*.weight", "a.weights"));
  EXPECT_TRUE(GlobMatches("layer.?", "layer.7"));
  EXPECT_FALSE(GlobMatches("layer.?", "layer.17"));
  EXPECT_TRUE(GlobMatches("layer.[0-3].*", "layer.2.w"));
  EXPECT_FALSE(GlobMatches("layer.[!0-3].*", "layer.2.w"));
}

TEST(GlobTest, BackslashesAreCharacters) {
  EXPECT_TRUE(GlobMatches("a\\*", "a\\b"));
  EXPECT_FALSE(GlobMatches("a\\*", "a*"));
}

TEST(GlobTest, ANulNeverHidesTheRestOfAName) {
  EXPECT_FALSE(GlobMatches("a*", std::string("a\0evil", 6)));
  EXPECT_FALSE(GlobMatches(std::string("a*\0b", 4), "abc"));
  EXPECT_FALSE(GlobMatches("a", std::string("a\0b", 3)));
}

}  // namespace
}  // namespace pavise
