#ifndef PAVISE_OFFLOAD_COMPUTE_DEVICE_H_
#define PAVISE_OFFLOAD_COMPUTE_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "pavise/offload/worker.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// What a worker computes with: a CPU or a GPU.
namespace pavise::offload {

// A matrix in a device's memory: floats of one type (never kInt8: these become fp32), or residues
// of a modulus, one byte each.
struct MatrixForm {
  DType type = DType::kFp32;
  int modulus = 0;
  size_t rows = 0;
  size_t columns = 0;

  uint64_t size_bytes() const {
    return uint64_t{rows} * columns * (modulus != 0 ? 1 : DTypeSizeBytes(type));
  }
};

// Belongs to the device that made it, which outlives it.
class DeviceMatrix {
 public:
  explicit DeviceMatrix(const MatrixForm& form) : form_(form) {}
  DeviceMatrix(const DeviceMatrix&) = delete;
  DeviceMatrix& operator=(const DeviceMatrix&) = delete;
  virtual ~DeviceMatrix() = default;
  const MatrixForm& form() const { return form_; }

 private:
  const MatrixForm form_;
};

// a b, a b^T or a^T b. With a convolution b, or for the weights' gradient the result, are weights:
//   kPlain           images, weights            -> output images
//   kTransposeRight  output gradients, weights  -> gradients of the images
//   kTransposeLeft   images, output gradients   -> gradients of the weights
struct Multiplication {
  Operation operation = Operation::kPlain;
  DType operand_type = DType::kFp32;  // Request::operand_type
  std::optional<ConvolutionShape> convolution;
};

// The result's form: fp32, or residues of the operands' modulus. kMalformed: shapes that do not
// fit, operands of two kinds; kLimitExceeded: refusals of CheckShape and CheckConvolution, sums
// over kMaxInnerResidues.
absl::StatusOr<MatrixForm> ResultForm(const Multiplication& multiplication, const MatrixForm& a,
                                      const MatrixForm& b, std::string_view item);

// How long a frame of that kind is; at most 2^34 + 4 bytes. Refusals of CheckShape.
absl::StatusOr<uint64_t> FrameSizeBytes(const Frame& frame, std::string_view item);

// Callers charge what functions allocate (MemoryBudget) before they call. `item` names the matrix
// in refusals. No memory and errors of a driver are machine failures. Thread-safe.
class ComputeDevice {
 public:
  virtual ~ComputeDevice() = default;
  // "cpu (oneDNN 2.6, 2 threads)"
  virtual std::string_view name() const = 0;
  // As an operand of products.
  virtual bool multiplies(DType type) const = 0;
  virtual bool multiplies_residues() const = 0;
  virtual bool convolves() const = 0;

  // The frame in this device's memory; floats as `type`, which is fp32 or the frame's own.
  // kMalformed: another length than the shape takes, NaN, infinities, no residues.
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> Upload(Frame frame, DType type,
                                                               std::string_view item) = 0;
  // Zeros.
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> Create(const MatrixForm& form,
                                                               std::string_view item) = 0;
  // Floats as `type`. kMalformed where they are not finite (a product left fp32's range),
  // kLimitExceeded where they leave that of `type`.
  virtual absl::StatusOr<Frame> Download(const DeviceMatrix& matrix, DType type,
                                         std::string_view item) = 0;

  // What Multiply allocates besides its result.
  virtual uint64_t WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                                  const MatrixForm& b) const = 0;
  // Refusals of ResultForm; kUnsupported: an operand type or a convolution that the device lacks.
  virtual absl::StatusOr<std::unique_ptr<DeviceMatrix>> Multiply(
      const Multiplication& multiplication, const DeviceMatrix& a, const DeviceMatrix& b,
      std::string_view item) = 0;
  // kMalformed where floats are not; residues always are.
  virtual absl::Status CheckFinite(const DeviceMatrix& matrix, std::string_view item) = 0;
  // sum += addend, both fp32 or residues of one modulus, of one form.
  virtual absl::Status Add(DeviceMatrix& sum, const DeviceMatrix& addend) = 0;
  // ApplySgd with gradient(i, j) * rows[i % rows.size()] * columns[j]; all fp32, of one form.
  virtual absl::Status Update(const SgdStep& step, const KeyShift& shift,
                              const DeviceMatrix& gradient, DeviceMatrix& velocity,
                              DeviceMatrix& weights) = 0;
};

}  // namespace pavise::offload

#endif  // PAVISE_OFFLOAD_COMPUTE_DEVICE_H_
