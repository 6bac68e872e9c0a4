#ifndef PAVISE_OFFLOAD_SCHEME_H_
#define PAVISE_OFFLOAD_SCHEME_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/offload/key_budget.h"
#include "pavise/offload/leakage.h"
#include "pavise/offload/secret_stream.h"
#include "pavise/offload/tensor.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// How a matrix product is done by workers that see neither of its operands (docs/schemes.md has the
// algebra). A layer is  Y = X W  with X of m rows (samples x positions) and k columns, W of k x n.
// A worker that holds the encoded W computes, from what it is sent,
//   forward          Y'  = X' W'
//   input gradient   dX' = dY' W'^T
//   weight gradient  dW' = a * (X'^T dY') * b   (KeyShift's a for rows, b for columns)
// and the coordinator decodes. All encodings are linear in what they encode.
namespace pavise::offload {

namespace internal {
class AxisKey;
enum class Variant;
}  // namespace internal

// Rows, columns or samples of one operand.
inline constexpr size_t kMaxDimension = size_t{1} << 24;

enum class Product { kForward, kInputGradient, kWeightGradient };

// Optimizers whose step the worker could do on encoded weights.
enum class Optimizer { kSgd, kAdamW, kMuon };  // kSgd with momentum and weight decay

// What one worker is sent of a matrix, or returns. One of the two is empty.
struct Share {
  Matrix values;
  std::vector<ResidueMatrix> residues;  // one for each of the layer's moduli
};
// One share for each worker.
using Encoding = std::vector<Share>;

// A layer's matrices. A linear layer, a 1x1 convolution and a convolution through im2col
// (convolution.h) have one tap. A k x k convolution that workers do as such ("native") has k*k
// taps: its weights lie tap by tap, each k x n, and its samples have one row for each position, so
// that keys act on samples and channels and the image's geometry stays visible.
struct LayerShape {
  size_t inputs = 0;   // k
  size_t outputs = 0;  // n
  size_t taps = 1;
  // The most rows (samples x positions) of a step: schemes with a range have it bounded by this.
  size_t max_rows = 0;
};

struct StepShape {
  size_t samples = 0;           // what the m key acts on
  size_t input_positions = 1;   // rows of X and dX: samples * input_positions, sample by sample
  size_t output_positions = 1;  // rows of Y and dY: samples * output_positions
  // Rows of X whose plaintext a worker may know; charged to the layer's key.
  uint64_t known_rows = 0;
  // A permutation of the samples. Steps that were given the same one can be decoded and encoded in
  // one pass (fused_pass.h) where the scheme needs it; drawn by the step where it is empty. Secret.
  std::vector<uint32_t> grouping;
};

// The step's matrices as they travel.
enum class Wire { kInputs, kOutputs, kOutputGradients, kInputGradients };

// Keys of one of them, for fused passes; they live as long as the step. No keys: it travels as it
// is
// (`none`), or not in floats (Layer::moduli).
struct WireKeys {
  const internal::AxisKey* samples = nullptr;
  const internal::AxisKey* features = nullptr;
  internal::Variant samples_variant = {};
  internal::Variant features_variant = {};
  size_t positions = 1;
};

// Factors that bring a weight gradient under the weights' key. Empty where none are needed. Workers
// see them.
struct KeyShift {
  std::vector<float> rows;
  std::vector<float> columns;  // 1 / factor^2: exact to one rounding
};

// One batch at one layer, with a key of the m dimension that nothing else uses. Matrices must have
// the shapes that the step was made for (usage error), and what is encoded must be finite
// (kMalformed). Each Encode may be called once: a second encoding of another batch under the same
// key is refused (kKeyExhausted). A decoded share of the wrong form is kMalformed: it comes from a
// worker. Not thread-safe.
class Step {
 public:
  virtual ~Step() = default;
  virtual absl::StatusOr<Encoding> EncodeInputs(MatrixView inputs) = 0;
  virtual absl::StatusOr<Encoding> EncodeOutputGradients(MatrixView gradients) = 0;
  virtual absl::StatusOr<Matrix> DecodeOutputs(const Encoding& outputs) const = 0;
  virtual absl::StatusOr<Matrix> DecodeInputGradients(const Encoding& gradients) const = 0;
  // Of the shifted gradient: (taps * k) x n.
  virtual absl::StatusOr<Matrix> DecodeWeightGradients(const Encoding& gradients) const = 0;
  // Who encodes with these keys sends one batch and no second.
  virtual WireKeys keys(Wire) const { return {}; }
};

// A layer's keys of its k and n dimensions, and their budget. Not thread-safe.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual const LayerShape& shape() const = 0;
  // Moduli of the residues; empty for schemes in floats.
  virtual std::vector<int> moduli() const = 0;
  virtual const KeyShift& key_shift() const = 0;
  virtual const KeyBudget& budget() const = 0;
  // (taps * k) x n. A second call starts a new version of the weights.
  virtual absl::StatusOr<Encoding> EncodeWeights(MatrixView weights) = 0;
  // Also of weights that a worker updated, for schemes where it may.
  virtual absl::StatusOr<Matrix> DecodeWeights(const Encoding& weights) const = 0;
  // Charges the budget. kKeyExhausted; kLimitExceeded (shape, range); kUnsupported (training under
  // a scheme for inference); a usage
  // error where the grouping is no permutation. Steps must not outlive their layer.
  virtual absl::StatusOr<std::unique_ptr<Step>> NewStep(const StepShape& shape, Use use) = 0;
};

// Immutable, thread-safe; outlives its layers.
class Scheme {
 public:
  virtual ~Scheme() = default;
  virtual std::string_view name() const = 0;
  // Workers that each product goes to.
  virtual size_t workers() const = 0;
  virtual bool supports(Use use) const = 0;
  // Whether the optimizer's step on encoded weights is the encoding of its step on plain ones.
  virtual bool updates_encoded_weights(Optimizer optimizer) const = 0;
  virtual LeakageProfile leakage(Use use) const = 0;
  // Of a layer of that shape.
  virtual KeyLimits limits(const LayerShape& shape) const = 0;
  // The layer's keys, and those of all its steps, come from `stream`; `item` names it in refusals.
  // kLimitExceeded: a dimension is 0 or too large, or the products leave the scheme's range.
  virtual absl::StatusOr<std::unique_ptr<Layer>> NewLayer(std::string item, const LayerShape& shape,
                                                          SecretStream stream) const = 0;
};

// What every scheme asks of shapes. kLimitExceeded.
absl::Status CheckLayerShape(std::string_view item, const LayerShape& shape);
absl::Status CheckStepShape(std::string_view item, const LayerShape& layer, const StepShape& step);

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_SCHEME_H_
