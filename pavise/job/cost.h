#ifndef PAVISE_JOB_COST_H_
#define PAVISE_JOB_COST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/job/job_file.h"

#include "absl/status/statusor.h"

// What training will cost by figures that `pavise bench modes --report-json` measured of the same
// job, and by nothing else: where there are none, "not measured".
namespace pavise::job {

// The member that marks the file, and its value.
inline constexpr std::string_view kFiguresKey = "pavise_bench_modes";
inline constexpr uint64_t kFiguresVersion = 1;
inline constexpr uint64_t kMaxFiguresBytes = uint64_t{1} << 20;

struct RecordedMode {
  std::string mode;    // of TrustModeName
  std::string scheme;  // "": all of it on this machine
  uint64_t threads = 0;
  double seconds_per_image = 0;  // above 0
  double setup_seconds = 0;
  double coordinator_cpu_seconds_per_image = 0;
  double bytes_per_image = 0;  // sent and received
  uint64_t setup_bytes = 0;
};
struct RecordedFigures {
  std::string item;  // the file
  std::string machine;
  double load_before = 0;
  bool tee_guest = false;
  std::string data;  // "synthetic noise of 3 x 32 x 32"
  std::string workers;
  // Of the trainer's options: "network", "batch-size", "optimizer", "wire", ...
  struct Setting {
    std::string name;
    std::string measured;
    std::string
        by_default;  // what the trainer takes where a job says nothing; "": a job has to say
  };
  std::vector<Setting> settings;
  std::vector<RecordedMode> modes;  // those that were offered
};

// kMalformed, kUnsupported (another version): what `bench modes` does not write. Members that an
// expected cost does not take are not looked at.
absl::StatusOr<RecordedFigures> ParseFigures(ByteSpan json, const std::string& item);

// Lines of a plan. `figures`: nullptr where nobody gave any. `machine`: this one, as the figures
// name theirs; "" is not compared. Only figures of the same settings and mode count: for others the
// line says what differs, and how to measure.
std::vector<std::string> ExpectedCost(const Job& job, const RecordedFigures* figures,
                                      std::string_view machine);

}  // namespace pavise::job

#endif  // PAVISE_JOB_COST_H_
