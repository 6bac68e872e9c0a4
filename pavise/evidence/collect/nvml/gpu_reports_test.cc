#include "pavise/evidence/collect/nvml/gpu_reports.h"

#include <cstring>

#include "pavise/base/status.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::evidence {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

// A driver with two GPUs, of which one call may fail.
struct Driver {
  static inline std::string failing;
  static inline int code = 999;
  static inline unsigned gpus = 2;
  static inline unsigned report_size_bytes = 5;
  static inline int open = 0;

  static int Outcome(const char* call) { return failing == call ? code : 0; }
  static NvmlLibrary Library() {
    failing.clear();
    code = 999;
    gpus = 2;
    report_size_bytes = 5;
    open = 0;
    NvmlLibrary library;
    library.init = [] {
      const int outcome = Outcome("init");
      if (outcome == 0) ++open;
      return outcome;
    };
    library.shutdown = [] {
      --open;
      return 0;
    };
    library.error_string = [](int) { return "told so"; };
    library.device_count = [](unsigned* count) {
      *count = gpus;
      return Outcome("count");
    };
    library.device_by_index = [](unsigned index, void** device) {
      *device = reinterpret_cast<void*>(uintptr_t{index} + 1);
      return Outcome("index");
    };
    library.device_uuid = [](void* device, char* out, unsigned size) {
      std::snprintf(out, size, "GPU-%u",
                    static_cast<unsigned>(reinterpret_cast<uintptr_t>(device)));
      return Outcome("uuid");
    };
    library.attestation_report = [](void* device, NvmlLibrary::Report* report) {
      report->report_size_bytes = report_size_bytes;
      report->report[0] = static_cast<unsigned char>(reinterpret_cast<uintptr_t>(device));
      std::memcpy(report->report + 1, report->nonce, 4);
      return Outcome("report");
    };
    library.certificate = [](void*, NvmlLibrary::Certificate* certificate) {
      std::memcpy(certificate->attestation_chain, "chain", 5);
      certificate->attestation_chain_size_bytes = 5;
      return Outcome("certificate");
    };
    return library;
  }
};

absl::StatusOr<std::vector<CollectedGpu>> Collect(const NvmlLibrary& library) {
  return CollectGpuReports(library, [](const std::vector<CollectedGpu>& before) {
    Digest32 nonce;
    nonce.fill(static_cast<uint8_t>(0x41 + before.size()));
    return nonce;
  });
}

TEST(GpuReportsTest, EveryGpuSignsItsNonce) {
  const NvmlLibrary library = Driver::Library();
  const std::vector<CollectedGpu> evidence = Collect(library).value();
  ASSERT_THAT(evidence, SizeIs(2));
  EXPECT_EQ(evidence[0].uuid, "GPU-1");
  EXPECT_EQ(evidence[1].report, (Bytes{2, 0x42, 0x42, 0x42, 0x42}));
  EXPECT_EQ(evidence[1].certificate_chain_pem, "chain");
  EXPECT_EQ(evidence[0].report, (Bytes{1, 0x41, 0x41, 0x41, 0x41}));
  EXPECT_EQ(Driver::open, 0);
  const auto no_nonce = [](const std::vector<CollectedGpu>&) -> absl::StatusOr<Digest32> {
    return Refuse(Reason::kLimitExceeded, "nonce", "there is none");
  };
  EXPECT_EQ(ReasonOf(CollectGpuReports(library, no_nonce).status()), Reason::kLimitExceeded);
  EXPECT_EQ(Driver::open, 0);
}

TEST(GpuReportsTest, FailuresOfTheDriver) {
  const NvmlLibrary library = Driver::Library();
  size_t executed = 0;
  for (const char* call : {"init", "count", "index", "uuid", "report", "certificate"}) {
    Driver::failing = call;
    Driver::code = 999;
    EXPECT_EQ(Collect(library).status().code(), absl::StatusCode::kInternal) << call;
    Driver::code = 3;  // NVML_ERROR_NOT_SUPPORTED
    const absl::Status status = Collect(library).status();
    EXPECT_EQ(ReasonOf(status), Reason::kUnsupported) << call;
    EXPECT_THAT(RefusalsOf(status)[0].detail, HasSubstr("told so"));
    EXPECT_EQ(Driver::open, 0);
    ++executed;
  }
  EXPECT_EQ(executed, 6u);
}

TEST(GpuReportsTest, AnswersThatCannotBe) {
  const NvmlLibrary library = Driver::Library();
  for (const unsigned size : {0u, 0x2001u, 0xffffffffu}) {
    Driver::report_size_bytes = size;
    EXPECT_EQ(Collect(library).status().code(), absl::StatusCode::kInternal);
  }
  Driver::report_size_bytes = 5;
  Driver::gpus = 0;
  EXPECT_EQ(ReasonOf(Collect(library).status()), Reason::kUnsupported);
  Driver::gpus = 100'000;
  EXPECT_EQ(Collect(library).status().code(), absl::StatusCode::kInternal);
}

TEST(GpuReportsTest, WithoutADriver) {
  EXPECT_EQ(ReasonOf(OpenNvml("libno-such-driver.so.1").status()), Reason::kUnsupported);
  EXPECT_EQ(ReasonOf(OpenNvml("libm.so.6").status()), Reason::kUnsupported);
}

}  // namespace
}  // namespace pavise::evidence
