#include "pavise/offload/compute_device.h"

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload {
namespace {

absl::Status RequireShape(const MatrixForm& form, size_t rows, size_t columns,
                          std::string_view what, std::string_view item) {
  if (form.rows == rows && form.columns == columns) return absl::OkStatus();
  return Refuse(Reason::kMalformed, item,
                StrCat(what, ": ", form.rows, " x ", form.columns, ", not ", rows, " x ", columns));
}

}  // namespace

absl::StatusOr<MatrixForm> ResultForm(const Multiplication& multiplication, const MatrixForm& a,
                                      const MatrixForm& b, std::string_view item) {
  if (a.modulus != b.modulus) {
    return Refuse(Reason::kMalformed, item, "its operands have two moduli");
  }
  const bool left = multiplication.operation == Operation::kTransposeLeft;
  const bool right = multiplication.operation == Operation::kTransposeRight;
  MatrixForm result;
  result.modulus = a.modulus;
  result.rows = left ? a.columns : a.rows;
  result.columns = right ? b.rows : b.columns;
  size_t inner = left ? a.rows : a.columns;
  if (multiplication.convolution.has_value()) {
    const ConvolutionShape& shape = *multiplication.convolution;
    PAVISE_RETURN_IF_ERROR(CheckConvolution(shape, item));
    const size_t inputs = shape.samples * shape.height * shape.width;
    const size_t outputs = shape.samples * shape.output_height() * shape.output_width();
    const size_t weights = shape.taps() * shape.channels;
    if (right) {
      PAVISE_RETURN_IF_ERROR(RequireShape(a, outputs, b.columns, "output gradients", item));
    } else {
      PAVISE_RETURN_IF_ERROR(RequireShape(a, inputs, shape.channels, "images", item));
    }
    if (left) {
      PAVISE_RETURN_IF_ERROR(RequireShape(b, outputs, b.columns, "output gradients", item));
    } else {
      PAVISE_RETURN_IF_ERROR(RequireShape(b, weights, b.columns, "weights", item));
    }
    result.rows = left ? weights : right ? inputs : outputs;
    result.columns = right ? shape.channels : b.columns;
    inner = left ? outputs : right ? b.columns : weights;
  } else if (inner != (right ? b.columns : b.rows)) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("the product of ", a.rows, " x ", a.columns, " and ", b.rows, " x ",
                         b.columns, " does not fit"));
  }
  if (result.modulus != 0 && inner > kMaxInnerResidues) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("sums of ", inner, " residues, over ", kMaxInnerResidues),
                  "split the layer or the batch");
  }
  PAVISE_RETURN_IF_ERROR(CheckShape(result.rows, result.columns, item));
  return result;
}

absl::StatusOr<uint64_t> FrameSizeBytes(const Frame& frame, std::string_view item) {
  PAVISE_RETURN_IF_ERROR(CheckShape(frame.rows, frame.columns, item));
  const uint64_t elements = uint64_t{frame.rows} * frame.columns;
  if (frame.modulus != 0) return elements;
  return elements * DTypeSizeBytes(frame.type) + (frame.type == DType::kInt8 ? sizeof(float) : 0);
}

}  // namespace pavise::offload
