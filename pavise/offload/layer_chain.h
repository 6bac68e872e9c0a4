#ifndef PAVISE_OFFLOAD_LAYER_CHAIN_H_
#define PAVISE_OFFLOAD_LAYER_CHAIN_H_

#include <cstdint>
#include <map>
#include <vector>

#include "pavise/offload/coordinator.h"
#include "pavise/offload/fused_pass.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload {

// What lies between two offloaded layers, or on one side of one. Of `pass`, rows, columns, keys,
// direction and the matrices on the wire are the chain's; `in` is read where there is no `from`,
// and where there is no `to`, `plain` takes the result.
struct Hop {
  OffloadedLayer* from = nullptr;  // whose outputs (or input gradients) are decoded
  OffloadedLayer* to = nullptr;    // which takes the result as its inputs (or output gradients)
  FusedPass pass;
  // Backward: of `to`. Where they are not wanted no hop comes from there.
  bool wants_input_gradients = true;
};

// One batch through offloaded layers with the coordinator's own work between them fused: what a
// worker answered is checked where it lies, decoded, passed through the glue (bias, residual,
// activation or layer norm; their gradients) and encoded for the next worker in one pass over
// memory. Micro-batches (CoordinatorOptions) take each hop one after another, so that one is at the
// workers while the next one is here.
//
// The steps of the chain's layers share the secret grouping of the samples, which is what
// `orthogonal` needs for that (fused_pass.h); keys are otherwise as always.
//
// Not thread-safe. Must not outlive the coordinator. Layers are each in a chain once, and their
// updates are called as ever. A hop that is refused abandons the batch at all layers of the chain,
// as OffloadedLayer::Abandon does; what hops wrote to before is then of no use.
class LayerChain {
 public:
  // Of layers without convolutions whose products travel as fp32 or bf16. Others compute layer by
  // layer.
  static bool Supports(const OffloadedLayer& layer);

  // A batch of that many rows.
  static absl::StatusOr<LayerChain> Begin(Coordinator& coordinator, size_t rows, Use use);
  LayerChain(LayerChain&&) = default;
  LayerChain& operator=(LayerChain&&) = delete;
  ~LayerChain();  // drops passes that got no Backward, and wipes

  // Usage errors: a layer that is not supported, or is twice in the chain; a `from` that was sent
  // nothing; shapes. Else the refusals of OffloadedLayer::Forward and Backward.
  absl::Status Forward(const Hop& hop);
  absl::Status Backward(const Hop& hop);

 private:
  LayerChain(Coordinator::State& coordinator, size_t rows, Use use)
      : coordinator_(&coordinator), rows_(rows), use_(use) {}
  absl::Status Run(const Hop& hop, bool is_backward);
  void Abandon();
  absl::Status CheckHop(const Hop& hop, size_t columns, bool is_backward) const;
  // The same for rows [first, first + pass.rows) alone.
  static FusedPass PartOf(const FusedPass& pass, size_t first);

  Coordinator::State* coordinator_;
  size_t rows_;
  Use use_;
  std::vector<std::vector<uint32_t>> groupings_;  // of each micro-batch
  std::map<OffloadedLayer*, uint64_t> passes_;    // 0: done
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_LAYER_CHAIN_H_
