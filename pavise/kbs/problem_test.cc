#include "pavise/kbs/problem.h"

#include <string>

#include "pavise/base/json.h"
#include "pavise/base/strings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::kbs {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const Refusal kFirst{Reason::kMeasurementMismatch, "PCR 4", "is aa, not bb", "boot the image"};
const Refusal kSecond{Reason::kPolicyDenied, "stage train", "runs used up", ""};

Problem Parse(std::string_view text, int status) {
  return ParseProblem(AsBytes(text), status, "problem").value();
}

TEST(ProblemTest, ARefusalReadsTheSameAtBothEnds) {
  const absl::Status refused = Refuse({kFirst, kSecond});
  const Problem sent = ProblemOf(ProblemKind::kPolicyDeny, refused);
  EXPECT_EQ(sent.status, 403);
  EXPECT_EQ(sent.type, "https://github.com/confidential-containers/kbs/errors/PolicyDeny");
  const std::string text = FormatProblem(sent);
  EXPECT_EQ(Parse(text, 403), sent);
  EXPECT_EQ(RefusalsOf(StatusOf(sent, "GET /x")), RefusalsOf(refused));
  EXPECT_EQ(StatusOf(sent, "GET /x"), refused);
  // For whoever reads the protocol's members and the first finding only.
  const Json json = Json::parse(text);
  EXPECT_EQ(json["detail"], "PCR 4: is aa, not bb (and 1 more)");
  EXPECT_EQ(json["reason"], "measurement-mismatch");
  EXPECT_EQ(json["item"], "PCR 4");
  EXPECT_EQ(json["remedy"], "boot the image");
}

TEST(ProblemTest, AFailureOfTheBrokerTellsNothingOfIt) {
  for (const absl::Status& status :
       {MachineFailure("store", "disk /dev/sda1 on fire"), absl::UnknownError("secret")}) {
    const Problem problem = ProblemOf(ProblemKind::kPolicyDeny, status);
    EXPECT_EQ(problem.status, 503);
    EXPECT_THAT(FormatProblem(problem), Not(HasSubstr("sda1")));
    EXPECT_THAT(FormatProblem(problem), Not(HasSubstr("secret")));
    EXPECT_EQ(ExitCodeOf(StatusOf(problem, "GET /x")), 3);
  }
}

TEST(ProblemTest, ReadsThoseOfOtherBrokers) {
  const Problem problem =
      Parse(R"({"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny",)"
            R"("detail":"Access denied by policy"})",
            403);
  EXPECT_EQ(problem.findings.size(), 0u);
  const absl::Status status = StatusOf(problem, "GET /x");
  EXPECT_EQ(ReasonOf(status), Reason::kPolicyDenied);
  EXPECT_THAT(std::string(status.message()), HasSubstr("Access denied by policy"));
}

TEST(ProblemTest, ReasonsOfALaterVersionAreNamed) {
  const Problem problem =
      Parse(R"({"reason":"moon-phase","item":"sky","detail":"full","remedy":"wait"})", 403);
  EXPECT_EQ(problem.findings[0],
            (Refusal{Reason::kPolicyDenied, "sky", "moon-phase: full", "wait"}));
}

TEST(ProblemTest, TheHttpStatusDecidesWhatIsAVerdict) {
  Problem problem = ProblemOf(ProblemKind::kPolicyDeny, Refuse({kFirst}));
  for (const int status : {500, 502, 503, 429}) {
    problem.status = status;
    EXPECT_EQ(ExitCodeOf(StatusOf(problem, "GET /x")), 3) << status;
  }
  for (const int status : {400, 401, 403, 404, 409, 413, 302}) {
    problem.status = status;
    EXPECT_EQ(ExitCodeOf(StatusOf(problem, "GET /x")), 1) << status;
  }
}

TEST(ProblemTest, HostileTextsCannotRewriteTheTerminal) {
  const absl::Status status =
      StatusOf(Parse(R"({"reason":"policy-denied","detail":"\u001b[2J"})", 403), "GET /x");
  EXPECT_EQ(RefusalsOf(status)[0].detail, "\\x1b[2J");
  const absl::Status untyped = StatusOf(Parse(R"({"detail":"\u001b[2J"})", 403), "GET /x");
  EXPECT_THAT(std::string(untyped.message()), HasSubstr("\\x1b[2J"));
}

TEST(ProblemTest, RefusesWhatIsNone) {
  const auto refusal = [](std::string_view text) {
    return ReasonOf(ParseProblem(AsBytes(text), 403, "problem").status());
  };
  EXPECT_EQ(refusal(R"({"unknown":[{}]})"), std::nullopt);
  EXPECT_EQ(refusal("<html>"), Reason::kMalformed);
  EXPECT_EQ(refusal(""), Reason::kMalformed);
  EXPECT_EQ(refusal("[]"), Reason::kMalformed);
  EXPECT_EQ(refusal(R"({"detail":7})"), Reason::kMalformed);
  EXPECT_EQ(refusal(R"({"reason":7})"), Reason::kMalformed);
  EXPECT_EQ(refusal(R"({"findings":{}})"), Reason::kMalformed);
  EXPECT_EQ(refusal(R"({"findings":[{"item":"x"}]})"), Reason::kMalformed);
  std::string many = R"({"findings":[{"reason":"revoked"})";
  for (int i = 0; i < 63; ++i) many += R"(,{"reason":"revoked"})";
  EXPECT_EQ(refusal(many + "]}"), std::nullopt);
  EXPECT_EQ(refusal(many + R"(,{"reason":"revoked"}]})"), Reason::kLimitExceeded);
  EXPECT_EQ(refusal(StrCat(R"({"detail":")", std::string(256 << 10, 'a'), "\"}")),
            Reason::kLimitExceeded);
}

}  // namespace
}  // namespace pavise::kbs
