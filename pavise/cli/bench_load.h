#ifndef PAVISE_CLI_BENCH_LOAD_H_
#define PAVISE_CLI_BENCH_LOAD_H_

#include <string>

#include "pavise/cli/verb.h"

#include "absl/status/statusor.h"

namespace CLI {
class App;
}  // namespace CLI

namespace pavise::cli {

// `pavise bench load`: what verification costs a load, what verifying resident bytes again takes,
// and how much the guard slows a busy device. On a model of its own, which it writes, signs with a
// key that it forgets, and removes.
class LoadBench {
 public:
  void Declare(CLI::App& app);
  // Usage errors; the refusals of Loader::Load; kInternal where the device fails, and where what it
  // loaded is not the model.
  absl::StatusOr<Outcome> Run() const;

 private:
  std::string device_ = "cpu";
  std::string size_ = "1GiB";
  std::string directory_;
  std::string repeats_ = "5";
  std::string seconds_ = "2";
};

}  // namespace pavise::cli

#endif  // PAVISE_CLI_BENCH_LOAD_H_
