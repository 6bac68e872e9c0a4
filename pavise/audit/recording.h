#ifndef PAVISE_AUDIT_RECORDING_H_
#define PAVISE_AUDIT_RECORDING_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "pavise/offload/scheme.h"
#include "pavise/offload/tensor.h"
#include "pavise/offload/worker.h"

// What the workers of a run are sent and return, kept so that it can be attacked.
namespace pavise::audit {

// One batch at one layer, as a worker has it. Matrices that did not travel are empty. Of residues
// those of the first modulus, as numbers.
struct SeenStep {
  uint64_t step = 0;
  offload::Matrix inputs;            // X': m x k
  offload::Matrix outputs;           // Y': m x n
  offload::Matrix output_gradients;  // dY': m x n
};

// A layer under its first key.
struct SeenLayer {
  offload::WorkerLayer form;
  offload::Matrix weights;  // W' as first sent: (taps * k) x n
  offload::KeyShift shift;  // as sent with the first update; empty where there was none
  std::vector<SeenStep> steps;
};

// A product of two secrets (attention), under a key that serves it alone.
struct SeenProduct {
  uint64_t number = 0;  // from 1, in the order in which the coordinator makes them
  offload::Operation operation = offload::Operation::kPlain;
  std::vector<int> moduli;  // empty: floats
  offload::Matrix a;
  offload::Matrix b;
  offload::Matrix result;
};

// Which layers' steps are kept, by their place in the order in which they were made; weights are
// kept of all.
using RecordsLayer = std::function<bool(size_t layer)>;
// Which products are kept, by their number.
using RecordsProduct = std::function<bool(uint64_t number)>;

// The traffic of one worker. Thread-safe while it is recorded; read it when the run is over.
class Recording {
 public:
  Recording(
      RecordsLayer records, size_t max_steps,
      RecordsProduct records_product = [](uint64_t) { return false; });
  ~Recording();
  // In the order in which the coordinator made them. What a layer is sent under later keys is not
  // kept.
  const std::vector<SeenLayer>& layers() const;
  // nullptr: it was not kept.
  const SeenProduct* product(uint64_t number) const;

 private:
  friend std::unique_ptr<offload::WorkerConnection> RecordConnection(
      std::unique_ptr<offload::WorkerConnection> worker, std::shared_ptr<Recording> recording);
  struct State;
  std::shared_ptr<State> state_;
};

// `worker`, with what passes kept in `recording`: all that an operator who reads this worker's
// memory would have, and nothing of the coordinator's.
std::unique_ptr<offload::WorkerConnection> RecordConnection(
    std::unique_ptr<offload::WorkerConnection> worker, std::shared_ptr<Recording> recording);

// A scheme whose layers' keys an auditor can ask about: `scheme` under keys that are each drawn
// twice, once for the run and once for the scoring of guesses, so that nothing of the run changes.
class AuditedScheme final : public offload::Scheme {
 public:
  // Keys of the layers that `keeps` says so of; empty: of all. A layer for each product comes, too.
  explicit AuditedScheme(std::shared_ptr<const offload::Scheme> scheme,
                         std::function<bool(const std::string& item)> keeps = {});

  std::string_view name() const override { return scheme_->name(); }
  size_t workers() const override { return scheme_->workers(); }
  bool supports(offload::Use use) const override { return scheme_->supports(use); }
  bool updates_encoded_weights(offload::Optimizer optimizer) const override {
    return scheme_->updates_encoded_weights(optimizer);
  }
  offload::LeakageProfile leakage(offload::Use use) const override { return scheme_->leakage(use); }
  offload::KeyLimits limits(const offload::LayerShape& shape) const override {
    return scheme_->limits(shape);
  }
  absl::StatusOr<std::unique_ptr<offload::Layer>> NewLayer(
      std::string item, const offload::LayerShape& shape,
      offload::SecretStream stream) const override;

  // A second holder of the keys of the layer `item`, those it had first; nullptr: they were not
  // kept. Lives as long as this.
  offload::Layer* KeysOf(const std::string& item) const;

 private:
  struct Kept {
    std::vector<std::string> items;
    std::vector<std::unique_ptr<offload::Layer>> layers;
  };
  const std::shared_ptr<const offload::Scheme> scheme_;
  const std::function<bool(const std::string& item)> keeps_;
  const std::unique_ptr<Kept> kept_;  // by the coordinator's thread alone
};

}  // namespace pavise::audit

#endif  // PAVISE_AUDIT_RECORDING_H_
