#include "pavise/evidence/appraise/intel/tdx_event_log.h"

#include <algorithm>

#include "pavise/crypto/testing/test_files.h"
#include "pavise/evidence/appraise/testing/test_intel.h"
#include "pavise/evidence/appraise/testing/test_signatures.h"
#include "pavise/evidence/testing/log_writer.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using crypto::testing::ReadText;
using crypto::testing::VectorsDirectory;
using ::testing::Contains;
using testing::EventLogWriter;
using testing::IntelPlatform;
using ::testing::IsEmpty;
using testing::ReasonsOf;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

// A verified quote whose RTMRs are those of `writer`, zero without an event.
absl::StatusOr<VerifiedIntelQuote> QuoteOf(const EventLogWriter& writer, bool tdx = true) {
  IntelPlatform platform;
  IntelExpectations expectations;
  expectations.report_data = Bytes(64, 0xd0);
  const Bytes quote =
      platform.Quote({.version = 4, .tdx = tdx, .body = [&](Bytes& body) {
                        if (!tdx) return;
                        for (uint32_t i = 0; i < 4; ++i) {
                          const Bytes* value = writer.values().Get(PcrBank::kSha384, i + 1);
                          const Bytes rtmr = value == nullptr ? Bytes(48) : *value;
                          std::copy(rtmr.begin(), rtmr.end(), body.begin() + 328 + 48 * i);
                        }
                      }});
  CheckList checks;
  return IntelQuoteAppraiser::Appraise(quote, platform.Collateral(tdx), expectations, kNow, checks,
                                       platform.root_fingerprint());
}

EventLogWriter Log() {
  EventLogWriter writer({PcrBank::kSha384});
  writer.Add(1, kEvSeparator, Bytes(4));
  writer.Add(2, kEvEfiAction, AsBytes("Calling EFI Application from Boot Option"));
  writer.Add(3, kEvIpl, AsBytes("a kernel"));
  return writer;
}

TEST(TdxEventLogTest, AllFourRegistersReplay) {
  const EventLogWriter writer = Log();
  const auto quote = QuoteOf(writer);
  ASSERT_TRUE(quote.ok()) << quote.status();
  CheckList checks;
  const auto log = AppraiseTdxEventLog(writer.bytes(), *quote, checks);
  ASSERT_TRUE(log.ok()) << log.status();
  EXPECT_EQ((*log)->registers, (std::set<uint32_t>{1, 2, 3, 4}));

  // An event more in each register, one less, and a byte changed.
  for (uint32_t index = 1; index <= 4; ++index) {
    EventLogWriter longer = Log();
    longer.Add(index, kEvIpl, AsBytes("and more"));
    CheckList refused;
    EXPECT_FALSE(AppraiseTdxEventLog(longer.bytes(), *quote, refused).ok()) << index;
    EXPECT_THAT(ReasonsOf(refused), Contains(Reason::kMeasurementMismatch)) << index;
    std::set<uint32_t> others = {0, 1, 2, 3};
    others.erase(index - 1);
    CheckList without;
    const auto verified = AppraiseTdxEventLog(longer.bytes(), *quote, without, others);
    ASSERT_TRUE(verified.ok()) << verified.status();
    EXPECT_FALSE((*verified)->registers.contains(index));
  }
  EventLogWriter shorter({PcrBank::kSha384});
  shorter.Add(1, kEvSeparator, Bytes(4));
  CheckList missing;
  EXPECT_FALSE(AppraiseTdxEventLog(shorter.bytes(), *quote, missing).ok());
  EXPECT_THAT(ReasonsOf(missing), Contains(Reason::kMeasurementMismatch));
  Bytes cut = writer.bytes();
  cut.pop_back();
  CheckList malformed;
  EXPECT_FALSE(AppraiseTdxEventLog(cut, *quote, malformed).ok());
  EXPECT_THAT(ReasonsOf(malformed), Contains(Reason::kMalformed));
}

TEST(TdxEventLogTest, AnEnclaveHasNone) {
  const auto quote = QuoteOf(Log(), false);
  ASSERT_TRUE(quote.ok()) << quote.status();
  CheckList checks;
  EXPECT_EQ(ReasonOf(AppraiseTdxEventLog(Log().bytes(), *quote, checks).status()),
            Reason::kUnsupported);
}

// A real machine's log replays to all four RTMRs of its quote.
TEST(TdxEventLogTest, ARealLogReplays) {
  const auto vectors = VectorsDirectory();
  if (!vectors.has_value()) GTEST_SKIP() << "no ../shared/vectors: no real log is replayed";
  const std::string folder = *vectors + "/attest/tdx/";
  const std::string quote_text = ReadText(folder + "cos-113-tdx-quote.dat");
  const std::string log_text = ReadText(folder + "ccel_data.dat");
  const auto quote = ParseIntelQuote(AsBytes(quote_text), "quote");
  ASSERT_TRUE(quote.ok()) << quote.status();
  const auto log = ParseEventLog(AsBytes(log_text), "CCEL");
  ASSERT_TRUE(log.ok()) << log.status();
  const EventLogRequest request = {
      .bank = PcrBank::kSha384, .kind = LogRegisters::kTdx, .required = {1, 2, 3, 4}};
  const auto verdict = [&](const TdReportBody& body) {
    CheckList checks;
    const auto rtmrs = RtmrValues(body);
    EXPECT_TRUE(rtmrs.ok());
    (void)EventLogAppraiser::Appraise(*log, request, *rtmrs, "CCEL", checks);
    return ReasonsOf(checks);
  };
  TdReportBody body = std::get<TdReportBody>(quote->body);
  EXPECT_THAT(verdict(body), IsEmpty());
  int executed = 0;
  for (auto& rtmr : body.rtmr) {
    rtmr[47] ^= 1;
    EXPECT_THAT(verdict(body), Contains(Reason::kMeasurementMismatch));
    rtmr[47] ^= 1;
    ++executed;
  }
  EXPECT_EQ(executed, 4);
}

}  // namespace
}  // namespace pavise::evidence
