#ifndef PAVISE_OFFLOAD_INTERNAL_ROW_BLOCKS_H_
#define PAVISE_OFFLOAD_INTERNAL_ROW_BLOCKS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "pavise/offload/internal/coordinator_state.h"

namespace pavise::offload {

// The rows of one layer spread over several workers (docs/decisions/0022). Each block is a layer of
// its own at the coordinator, with a key, a sketch, checks, a log and a recovery of its own, and
// with the same weights: the first is the layer itself. A batch's samples are cut by the workers'
// measured speeds; the gradients that come back are checked block by block and summed, and the
// coordinator does the update and sends each block the new weights.
//
// Not thread-safe. Where a call refuses, the layer is as after its last update.
struct OffloadedLayer::RowBlocks {
  // Between batches, where workers came or went: spreads `layer`'s rows over as many workers as
  // would be done first. One is enough: the layer stays as it is.
  static absl::Status Spread(Impl& layer);

  explicit RowBlocks(Impl& first) : first_(first) {}

  // As OffloadedLayer's.
  absl::StatusOr<Outputs> Forward(MatrixView inputs, Use use, uint64_t known_rows);
  absl::StatusOr<Matrix> Backward(uint64_t pass, MatrixView output_gradients,
                                  bool want_input_gradients);
  void Forget(uint64_t pass);
  void Abandon();
  absl::Status CheckBetweenBatches() const;

  // `apply` does the optimizer's step with the first block's gradient.
  absl::Status Update(const std::function<absl::Status()>& apply);

  // All blocks take new keys before the next batch, under one number.
  void WantKeys();
  void AddTo(LayerReport& report) const;
  bool HasBlockOn(size_t worker, const Impl& other_than) const;
  MatrixView weights() const { return first_.weights; }

 private:
  // A block's part of a pass.
  struct Part {
    Impl* block = nullptr;
    uint64_t pass = 0;
    size_t samples = 0;
  };

  size_t count() const { return 1 + others_.size(); }
  std::vector<Impl*> All() const;
  absl::Status Add();
  // Until there are no more blocks than workers; those first that have no worker of their own.
  void Retire();
  // The samples that each block gets; blocks without any are left out. The blocks are on workers
  // then.
  absl::StatusOr<std::vector<Part>> Cut(size_t samples);
  absl::StatusOr<Outputs> Run(MatrixView inputs, Use use, uint64_t known_rows, size_t samples);
  absl::StatusOr<Matrix> RunBackward(const std::vector<Part>& parts, MatrixView output_gradients,
                                     bool want_input_gradients);
  absl::Status SumAndApply(const std::function<absl::Status()>& apply);
  template <typename T>
  T Guarded(T result) {
    if (!result.ok()) Abandon();
    for (Impl* const block : All()) block->has_sent = false;
    return result;
  }

  Impl& first_;
  std::vector<std::unique_ptr<Impl>> others_;
  std::vector<const Impl*> stale_;  // whose worker has the weights of an earlier update
  std::map<uint64_t, std::vector<Part>> open_;
  uint64_t last_pass_ = 0;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_INTERNAL_ROW_BLOCKS_H_
