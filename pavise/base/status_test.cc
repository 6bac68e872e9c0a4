#include "pavise/base/status.h"

#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "pavise/base/strings.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// The names are an interface: programs read them from --json.
TEST(ReasonTest, NamesAreDistinctAndStable) {
  const std::vector<std::pair<Reason, std::string_view>> names = {
      {Reason::kSignatureInvalid, "signature-invalid"},
      {Reason::kSignerUntrusted, "signer-untrusted"},
      {Reason::kKeyMismatch, "key-mismatch"},
      {Reason::kKeyUnsupported, "key-unsupported"},
      {Reason::kCertificateInvalid, "certificate-invalid"},
      {Reason::kIdentityMismatch, "identity-mismatch"},
      {Reason::kTransparencyInvalid, "transparency-invalid"},
      {Reason::kRevoked, "revoked"},
      {Reason::kVersionTooOld, "version-too-old"},
      {Reason::kContentMismatch, "content-mismatch"},
      {Reason::kFileMissing, "file-missing"},
      {Reason::kFileUnsigned, "file-unsigned"},
      {Reason::kFileUnreadable, "file-unreadable"},
      {Reason::kFileUnstable, "file-unstable"},
      {Reason::kFileTypeRefused, "file-type-refused"},
      {Reason::kPathUnsafe, "path-unsafe"},
      {Reason::kMalformed, "malformed"},
      {Reason::kLimitExceeded, "limit-exceeded"},
      {Reason::kUnsupported, "unsupported"},
      {Reason::kStorageFull, "storage-full"},
      {Reason::kPolicyDenied, "policy-denied"},
      {Reason::kRanksDisagree, "ranks-disagree"},
      {Reason::kKeyExhausted, "key-exhausted"},
      {Reason::kResultWrong, "result-wrong"},
      {Reason::kStateMissing, "state-missing"},
      {Reason::kEvidenceMissing, "evidence-missing"},
      {Reason::kNonceMismatch, "nonce-mismatch"},
      {Reason::kBindingMismatch, "binding-mismatch"},
      {Reason::kMeasurementMismatch, "measurement-mismatch"},
      {Reason::kMeasurementUnknown, "measurement-unknown"},
      {Reason::kPlatformInsecure, "platform-insecure"},
      {Reason::kPlatformOutOfDate, "platform-out-of-date"},
  };
  EXPECT_THAT(names, SizeIs(static_cast<size_t>(Reason::kPlatformOutOfDate) + 1));
  std::set<std::string_view> seen;
  for (const auto& [reason, name] : names) {
    EXPECT_EQ(ReasonName(reason), name);
    EXPECT_EQ(ReasonFromName(name), reason);
    EXPECT_TRUE(seen.insert(name).second) << name;
    EXPECT_EQ(ReasonOf(Refuse(reason, "item", "detail")), reason);
  }
  EXPECT_EQ(ReasonFromName("unknown"), std::nullopt);
  EXPECT_EQ(ReasonName(static_cast<Reason>(-1)), "unknown");
  EXPECT_EQ(ReasonName(static_cast<Reason>(1000)), "unknown");
}

TEST(ExitCodeTest, EachKindOfEndHasItsOwn) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), 0);
  EXPECT_EQ(ExitCodeOf(Refuse(Reason::kMalformed, "item", "detail")), 1);
  EXPECT_EQ(ExitCodeOf(UsageError("no such option")), 2);
  EXPECT_EQ(ExitCodeOf(MachineFailure("item", "detail")), 3);
}

// Nobody else's status is taken for a verdict, whatever its code.
TEST(ExitCodeTest, UnclassifiedErrorsAreMachineFailures) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "from elsewhere");
    EXPECT_EQ(ExitCodeOf(status), 3) << status;
    EXPECT_THAT(RefusalsOf(status), IsEmpty());
    EXPECT_EQ(ReasonOf(status), std::nullopt);
  }
}

TEST(RefuseTest, FindingsTravelWhole) {
  const std::vector<Refusal> findings = {
      {Reason::kContentMismatch, "a/b", "differs at byte 7", "get the file again"},
      {Reason::kFileMissing, "c", "is not there", ""},
      {Reason::kFileUnsigned, "line\nbreak \"quoted\" \x1b[2J", "", "remove it"}};
  const absl::Status status = Refuse(findings);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(status.message()), "a/b: differs at byte 7 (and 2 more)");
  EXPECT_EQ(RefusalsOf(status), findings);
  EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch);
  const absl::Status copy = status;
  EXPECT_EQ(RefusalsOf(copy), findings);
}

TEST(RefuseTest, NamesThatAreNotUtf8DoNoHarm) {
  const absl::Status status = Refuse(Reason::kPathUnsafe, "bad\xff", "detail\xc0");
  EXPECT_EQ(ExitCodeOf(status), 1);
  EXPECT_EQ(RefusalsOf(status)[0].item, "bad\xef\xbf\xbd");
}

TEST(RefuseTest, ManyFindingsTravelToo) {
  std::vector<Refusal> findings;
  for (int i = 0; i < 1000; ++i) {
    findings.push_back({Reason::kFileMissing, std::to_string(i), "is not there", ""});
  }
  EXPECT_EQ(RefusalsOf(Refuse(findings)), findings);
}

TEST(RefuseTest, ARefusalWithoutAFindingIsNoVerdict) {
  EXPECT_EQ(ExitCodeOf(Refuse(std::vector<Refusal>())), 3);
}

TEST(StatusTest, OtherStatusesHaveNoFindings) {
  EXPECT_THAT(RefusalsOf(absl::OkStatus()), IsEmpty());
  EXPECT_THAT(RefusalsOf(MachineFailure("disk", "broken")), IsEmpty());
  EXPECT_THAT(RefusalsOf(UsageError("what?")), IsEmpty());
  EXPECT_EQ(ReasonOf(absl::OkStatus()), std::nullopt);
  EXPECT_THAT(std::string(MachineFailure("disk", "broken").message()), HasSubstr("disk: broken"));
}

TEST(FromErrnoTest, TellsVerdictsFromFailures) {
  const auto reason = [](int error_number) {
    return ReasonOf(FromErrno(error_number, "open", "file"));
  };
  for (const int error_number : {ENOENT, ENOTDIR, EISDIR, EACCES, EPERM}) {
    EXPECT_EQ(reason(error_number), Reason::kFileUnreadable) << error_number;
  }
  for (const int error_number : {ELOOP, EXDEV}) {
    EXPECT_EQ(reason(error_number), Reason::kFileTypeRefused) << error_number;
  }
  EXPECT_EQ(reason(ENAMETOOLONG), Reason::kPathUnsafe);
  for (const int error_number : {ENOSPC, EDQUOT, EFBIG}) {
    EXPECT_EQ(reason(error_number), Reason::kStorageFull) << error_number;
  }
  for (const int error_number : {0, EIO, ENOMEM, EMFILE, EINVAL, ENOSYS, ESTALE, 9999}) {
    EXPECT_EQ(ExitCodeOf(FromErrno(error_number, "open", "file")), 3) << error_number;
  }
  EXPECT_THAT(RefusalsOf(FromErrno(EACCES, "open", "file")),
              ElementsAre(::testing::Field(&Refusal::item, "file")));
}

class Checker {
 public:
  static Verified<std::string, Checker> Check(std::string value) {
    return Verified<std::string, Checker>(std::move(value));
  }
};
class Impostor {};

TEST(VerifiedTest, OnlyItsVerifierMakesOne) {
  using Text = Verified<std::string, Checker>;
  static_assert(!std::is_constructible_v<Text, std::string>);
  static_assert(!std::is_convertible_v<std::string, Text>);
  static_assert(!std::is_default_constructible_v<Text>);
  static_assert(!std::is_constructible_v<Text, Verified<std::string, Impostor>>);
  static_assert(!std::is_assignable_v<decltype(*std::declval<Text&>()), std::string>);
  static_assert(!std::is_convertible_v<Text, bool>);
  const Text text = Checker::Check("checked");
  EXPECT_EQ(*text, "checked");
  EXPECT_EQ(text->size(), 7u);
}

absl::StatusOr<std::unique_ptr<int>> Make(bool works) {
  if (!works) return UsageError("asked not to");
  return std::make_unique<int>(7);
}
absl::StatusOr<int> Add(bool works) {
  PAVISE_RETURN_IF_ERROR(absl::OkStatus());
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<int> first, Make(true));
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<int> second, Make(works));
  return *first + *second;
}
absl::Status Forward(absl::Status status) {
  PAVISE_RETURN_IF_ERROR(status);
  return MachineFailure("", "went on");
}

// Names and values out of hostile files: a refusal stays small whatever they hold.
TEST(RefusalTest, LongTextsAreCut) {
  const std::string name(10 << 20, 'n');
  const absl::Status status =
      Refuse({{Reason::kMalformed, name, StrCat("detail ", name), StrCat("remedy ", name)},
              {Reason::kMalformed, "second", "short", ""}});
  EXPECT_LT(status.ToString().size(), 64u << 10);
  const std::vector<Refusal> findings = RefusalsOf(status);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].item, std::string(4096, 'n') + "...");
  EXPECT_EQ(findings[0].detail.size(), 4096u + 3);
  EXPECT_EQ(findings[0].remedy.size(), 4096u + 3);
  EXPECT_EQ(findings[1].detail, "short");
}

TEST(MacrosTest, PassErrorsOn) {
  EXPECT_EQ(*Add(true), 14);
  EXPECT_EQ(ExitCodeOf(Add(false).status()), 2);
  EXPECT_EQ(ReasonOf(Forward(Refuse(Reason::kRevoked, "k", "d"))), Reason::kRevoked);
  EXPECT_EQ(ExitCodeOf(Forward(absl::OkStatus())), 3);
}

}  // namespace
}  // namespace pavise
