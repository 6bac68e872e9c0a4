#ifndef PAVISE_CLI_BENCH_HASH_H_
#define PAVISE_CLI_BENCH_HASH_H_

#include <string>

#include "pavise/cli/verb.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// "Intel(R) Xeon(R) ..., 2 CPUs, 23.5 GiB, Linux 6.1.0", and the load average when it was asked
// for.
std::string MachineLine();
double LoadAverage();

// `pavise bench hash`: the rates of devices over sizes (hash/measure.h), as a table, JSON and a
// plot.
class HashBench {
 public:
  void Declare(CLI::App& app);
  // Usage errors; kUnsupported for a device that is not there, and for a --resume file of another
  // version, machine, device or duration; kMalformed for one that is none; kInternal for a device
  // that fails or answers wrongly. Points that are done are in the --resume file all the same.
  absl::StatusOr<Outcome> Run() const;

 private:
  std::string devices_ = "cpu";
  std::string sizes_;
  std::string seconds_ = "0.5";
  std::string threads_;
  std::string resume_;
  std::string stop_after_;
  std::string plot_;
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_BENCH_HASH_H_
