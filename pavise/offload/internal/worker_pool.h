#ifndef PAVISE_OFFLOAD_INTERNAL_WORKER_POOL_H_
#define PAVISE_OFFLOAD_INTERNAL_WORKER_POOL_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/offload/coordinator.h"
#include "pavise/offload/secret_stream.h"

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace pavise::offload::internal {

// A coordinator's workers: who they are, how quick, how loaded, and which were evicted. Not
// thread-safe.
class WorkerPool {
 public:
  struct Worker {
    WorkerSeat seat;
    double products_per_second = 0;
    double load = 0;  // products of a pass of all that was given to it
    uint64_t state_losses = 0;
    absl::Status verdict;  // not OK: evicted, and why
  };
  // What the scheme sends.
  struct Needs {
    DType type = DType::kFp32;
    DType operand_type = DType::kFp32;
    bool residues = false;
    absl::Duration reply_timeout;
  };

  WorkerPool(Needs needs, SecretStream stream) : needs_(needs), stream_(std::move(stream)) {}

  // Asks for a product, checks and times it. Its index, with the verdict where it failed.
  size_t Join(WorkerSeat seat);

  size_t size() const { return workers_.size(); }
  bool needs_residues() const { return needs_.residues; }
  Worker& worker(size_t i) { return workers_[i]; }
  const Worker& worker(size_t i) const { return workers_[i]; }
  bool is_at_work(size_t i) const { return workers_[i].verdict.ok(); }
  const std::string& name(size_t i) const {
    const WorkerSeat& seat = workers_[i].seat;
    return seat.name.empty() ? seat.connection->description().name : seat.name;
  }

  // For good; the first verdict stays. `item` is what it was asked for.
  void Evict(size_t i, std::string_view item, const absl::Status& why);
  // Its restart lost what it kept: forgiven a few times, then evicted.
  void LoseState(size_t i, std::string_view item, const absl::Status& why);

  // The worker at work that would be done first with `work` more products; nullopt: none is
  // suitable.
  std::optional<size_t> Choose(double work, const std::function<bool(size_t)>& is_suitable) const;
  // Names all workers, with their verdicts. See OffloadedLayer.
  absl::Status NoneLeft(std::string_view item) const;

 private:
  absl::Status Probe(Worker& worker);

  const Needs needs_;
  SecretStream stream_;
  std::vector<Worker> workers_;
  uint64_t probes_ = 0;
};

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_WORKER_POOL_H_
