#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/evidence/collect/linux/kernel_logs.h"
#include "pavise/evidence/collect/linux/tsm_report.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using testing::ContentOf;
using ::testing::HasSubstr;
using testing::TemporaryDirectory;

TEST(KernelLogTest, IsReadToItsEnd) {
  const TemporaryDirectory directory;
  for (const size_t size : {0u, 1u, 65535u, 65536u, 65537u, 200'000u}) {
    const std::string content(size, 'x');
    EXPECT_EQ(AsText(ReadKernelLog(directory.Write("log", content)).value()), content);
  }
  // A file that has no length of its own.
  EXPECT_THAT(std::string(AsText(ReadKernelLog("/proc/self/status").value())), HasSubstr("Pid:"));
}

TEST(KernelLogTest, WhatIsMissingIsSaid) {
  const absl::Status status = ReadKernelLog("/sys/kernel/security/no-such-log").status();
  EXPECT_EQ(ReasonOf(status), Reason::kFileUnreadable);
  EXPECT_THAT(RefusalsOf(status)[0].remedy, HasSubstr("securityfs"));
  EXPECT_FALSE(ReadKernelLog("/proc/self").ok());
}

class TsmReportTest : public ::testing::Test {
 protected:
  TsmReportTest() {
    directory_.Write("inblob", "");
    directory_.Write("outblob", "signed");
    directory_.Write("provider", "sev_guest\n");
    directory_.Write("generation", "1\n");
  }
  TemporaryDirectory directory_;
};

TEST_F(TsmReportTest, AsksAndReads) {
  std::array<uint8_t, 64> data;
  data.fill('n');
  TsmReport report = ReadTsmRequest(data, directory_.path()).value();
  EXPECT_EQ(ContentOf(directory_ / "inblob"), std::string(64, 'n'));
  EXPECT_EQ(report.provider, "sev_guest");
  EXPECT_EQ(AsText(report.report), "signed");
  EXPECT_TRUE(report.auxiliary.empty());
  directory_.Write("auxblob", "certificates");
  report = ReadTsmRequest(data, directory_.path()).value();
  EXPECT_EQ(AsText(report.auxiliary), "certificates");
}

TEST_F(TsmReportTest, IncompleteAnswers) {
  size_t executed = 0;
  for (const char* missing : {"inblob", "outblob", "provider", "generation"}) {
    const std::string content = ContentOf(directory_ / missing);
    std::filesystem::remove(directory_ / missing);
    EXPECT_FALSE(ReadTsmRequest({}, directory_.path()).ok()) << missing;
    directory_.Write(missing, content);
    ++executed;
  }
  EXPECT_EQ(executed, 4u);
  directory_.Write("outblob", "");
  EXPECT_EQ(ReadTsmRequest({}, directory_.path()).status().code(), absl::StatusCode::kInternal);
}

TEST(TsmDirectoryTest, WithoutConfidentialGuest) {
  const absl::Status status = CollectTsmReport({}, "/sys/kernel/config/no-tsm/report").status();
  EXPECT_EQ(ReasonOf(status), Reason::kUnsupported);
  EXPECT_THAT(RefusalsOf(status)[0].remedy, HasSubstr("leave TEE evidence out"));
}

}  // namespace
}  // namespace pavise::evidence
