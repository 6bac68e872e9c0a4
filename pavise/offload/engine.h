#ifndef PAVISE_OFFLOAD_ENGINE_H_
#define PAVISE_OFFLOAD_ENGINE_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "pavise/offload/compute_device.h"
#include "pavise/offload/memory_budget.h"
#include "pavise/offload/worker.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

// Of one session.
inline constexpr size_t kMaxWorkerLayers = size_t{1} << 14;
inline constexpr size_t kMaxKeptSteps = size_t{1} << 16;  // in all layers

// What one coordinator's session does on a worker: keeps its layers and answers its requests. Every
// request is taken for hostile: a refused one changes nothing (but for a kUpdate whose weights left
// the range of fp32), and the session goes on. What is kept and what a request takes on the way is
// charged to the budget before it is allocated; the request's own frames are the carrier's to
// charge. Destroying it forgets the session. Not thread-safe: a session is one thread's.
class WorkerEngine {
 public:
  WorkerEngine(std::shared_ptr<ComputeDevice> device, std::shared_ptr<MemoryBudget> budget);
  ~WorkerEngine();

  // The answer stays charged until the next call or ReleaseAnswer. Refusals:
  //   kMalformed      frames of another number, shape, kind or length; NaN, infinities, no residues
  //   kLimitExceeded  memory, layers, kept steps, sizes; an answer that leaves the reply's type
  //   kStateMissing   no such layer, another version, a step that was there before or is not kept
  //   kUnsupported    what the device lacks; SGD on residues
  absl::StatusOr<Reply> Execute(Request request);
  // The last answer is on its way, and its memory free.
  void ReleaseAnswer() { reply_charges_.clear(); }

 private:
  struct Held;
  struct KeptStep;
  struct LayerState;

  absl::StatusOr<Reply> Dispatch(Request& request);
  absl::StatusOr<Reply> PutWeights(Request& request);
  absl::StatusOr<Reply> Forward(Request& request);
  absl::StatusOr<Reply> Backward(Request& request);
  absl::StatusOr<Reply> Update(Request& request);
  absl::StatusOr<Reply> GetWeights(Request& request);
  absl::StatusOr<Reply> Product(Request& request);
  absl::StatusOr<Reply> Forget(const Request& request);

  absl::StatusOr<LayerState*> LayerOf(const Request& request);
  // The request's frames from `first` on, one for each modulus; rows of 0 are any.
  absl::StatusOr<std::vector<Held>> Receive(Request& request, size_t first,
                                            const std::vector<int>& moduli, size_t rows,
                                            size_t columns, bool as_fp32, std::string_view item);
  absl::StatusOr<std::vector<Held>> Multiply(const Multiplication& multiplication,
                                             const std::vector<Held>& a, const std::vector<Held>& b,
                                             std::string_view item);
  absl::Status Send(const std::vector<Held>& results, DType type, std::string_view item,
                    Reply& reply);

  const std::shared_ptr<ComputeDevice> device_;
  const std::shared_ptr<MemoryBudget> budget_;
  std::map<uint64_t, LayerState> layers_;
  size_t kept_steps_ = 0;
  std::vector<MemoryCharge> reply_charges_;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_ENGINE_H_
