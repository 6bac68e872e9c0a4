#include "pavise/offload/cpu/cpu_device.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <exception>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/onednn/onednn_products.h"

static_assert(std::endian::native == std::endian::little, "frames are read in place");

namespace pavise::offload {
namespace {

// int32 sums of residues are made and reduced in rows of about as many elements.
constexpr size_t kSumElements = size_t{1} << 20;

absl::StatusOr<Bytes> NewBytes(uint64_t size_bytes, std::string_view item) {
  try {
    return Bytes(size_bytes);
  } catch (const std::exception&) {
    return MachineFailure(item, StrCat("no memory for ", size_bytes, " bytes"));
  }
}

class CpuMatrix final : public DeviceMatrix {
 public:
  CpuMatrix(const MatrixForm& form, Bytes bytes) : DeviceMatrix(form), bytes_(std::move(bytes)) {}

  template <typename T>
  ViewOf<const T> view() const {
    return {reinterpret_cast<const T*>(bytes_.data()), form().rows, form().columns, form().columns};
  }
  template <typename T>
  ViewOf<T> view() {
    return {reinterpret_cast<T*>(bytes_.data()), form().rows, form().columns, form().columns};
  }
  size_t elements() const { return form().rows * form().columns; }

 private:
  Bytes bytes_;
};

absl::StatusOr<std::unique_ptr<CpuMatrix>> NewMatrix(const MatrixForm& form,
                                                     std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(Bytes bytes, NewBytes(form.size_bytes(), item));
  return std::make_unique<CpuMatrix>(form, std::move(bytes));
}

const CpuMatrix& Of(const DeviceMatrix& matrix) { return static_cast<const CpuMatrix&>(matrix); }
CpuMatrix& Of(DeviceMatrix& matrix) { return static_cast<CpuMatrix&>(matrix); }

// Of finite numbers; the exponent of what becomes an infinity is all ones.
uint16_t RoundToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
constexpr uint16_t kBf16Exponent = 0x7F80;
constexpr uint16_t kFp16Exponent = 0x7C00;

// Exact, denormal numbers too: fp16's bits in fp32's place are too small by the difference of the
// exponents' biases.
float WidenFp16(uint16_t bits) {
  const float magnitude =
      std::bit_cast<float>(static_cast<uint32_t>(bits & 0x7FFF) << 13) * 0x1p112f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) |
                              static_cast<uint32_t>(bits & 0x8000) << 16);
}

void Widen(const void* from, DType type, size_t count, float* to) {
  const auto* const halves = static_cast<const uint16_t*>(from);
  switch (type) {
    case DType::kFp32:
      std::memcpy(to, from, count * sizeof *to);
      return;
    case DType::kBf16:
      for (size_t i = 0; i < count; ++i) to[i] = FloatFromBf16(halves[i]);
      return;
    case DType::kFp16:
      for (size_t i = 0; i < count; ++i) to[i] = WidenFp16(halves[i]);
      return;
    case DType::kInt8:
      return;
  }
}

// Whether no exponent is all ones.
bool AreFinite(const uint16_t* values, size_t count, uint16_t exponent) {
  bool are_finite = true;
  for (size_t i = 0; i < count; ++i) are_finite &= (values[i] & exponent) != exponent;
  return are_finite;
}

void Reduce(ViewOf<const int32_t> sums, int modulus, ViewOf<int8_t> out) {
  // Adding and subtracting 1.5 * 2^52 rounds to an integer. No sum is near the middle of two: the
  // modulus is odd.
  constexpr double kRound = 0x1.8p52;
  const double inverse = 1.0 / modulus;
  for (size_t i = 0; i < sums.rows; ++i) {
    const int32_t* const from = sums.Row(i);
    int8_t* const to = out.Row(i);
    for (size_t j = 0; j < sums.columns; ++j) {
      const double quotient = (from[j] * inverse + kRound) - kRound;
      to[j] = static_cast<int8_t>(from[j] - static_cast<int32_t>(quotient) * modulus);
    }
  }
}

template <typename T>
ViewOf<T> RowsOf(ViewOf<T> view, size_t first, size_t count) {
  return {view.Row(first), count, view.columns, view.stride};
}

class CpuDevice final : public ComputeDevice {
 public:
  explicit CpuDevice(std::unique_ptr<HostProducts> products)
      : products_(std::move(products)), name_(StrCat("cpu (", products_->name(), ")")) {}

  std::string_view name() const override { return name_; }
  bool multiplies(DType type) const override {
    return type == DType::kFp32 || type == DType::kBf16;
  }
  bool multiplies_residues() const override { return true; }
  bool convolves() const override { return true; }

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Upload(Frame frame, DType type,
                                                       std::string_view item) override;
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Create(const MatrixForm& form,
                                                       std::string_view item) override {
    return NewMatrix(form, item);
  }
  absl::StatusOr<Frame> Download(const DeviceMatrix& matrix, DType type,
                                 std::string_view item) override;
  uint64_t WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                          const MatrixForm& b) const override;
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Multiply(const Multiplication& multiplication,
                                                         const DeviceMatrix& a,
                                                         const DeviceMatrix& b,
                                                         std::string_view item) override;
  absl::Status CheckFinite(const DeviceMatrix& matrix, std::string_view item) override {
    if (matrix.form().modulus != 0) return absl::OkStatus();
    return offload::CheckFinite(Of(matrix).view<float>(), item);
  }
  absl::Status Add(DeviceMatrix& sum, const DeviceMatrix& addend) override;
  absl::Status Update(const SgdStep& step, const KeyShift& shift, const DeviceMatrix& gradient,
                      DeviceMatrix& velocity, DeviceMatrix& weights) override;

 private:
  absl::Status MultiplyFloats(const Multiplication& multiplication, const CpuMatrix& a,
                              const CpuMatrix& b, std::string_view item, CpuMatrix& out) const;
  absl::Status MultiplyResidues(Operation operation, ViewOf<const int8_t> a, ViewOf<const int8_t> b,
                                int modulus, std::string_view item, ViewOf<int8_t> out) const;
  absl::Status ConvolveFloats(const Multiplication& multiplication, MatrixView a, MatrixView b,
                              std::string_view item, MutableMatrixView out) const;
  absl::Status ConvolveResidues(const Multiplication& multiplication, const CpuMatrix& a,
                                const CpuMatrix& b, std::string_view item, CpuMatrix& out) const;
  // What operands are converted to before they are multiplied.
  DType OperandType(const Multiplication& multiplication) const {
    return multiplication.operand_type == DType::kBf16 && products_->multiplies_bf16()
               ? DType::kBf16
               : DType::kFp32;
  }
  // The convolution as the products may do it.
  std::optional<HostConvolution> ConvolutionOf(const Multiplication& multiplication,
                                               const MatrixForm& a, const MatrixForm& b) const {
    if (!multiplication.convolution.has_value() || a.modulus != 0) return std::nullopt;
    return HostConvolution{multiplication.operation, OperandType(multiplication),
                           *multiplication.convolution, b.columns};
  }

  const std::unique_ptr<HostProducts> products_;
  const std::string name_;
};

bool NeedsCopy(const MatrixForm& form, DType type, DType operand_type) {
  return form.type != type || (operand_type == DType::kBf16 && form.type != DType::kBf16);
}

// A matrix as an operand: itself, or a copy in another type.
class Operand {
 public:
  static absl::StatusOr<Operand> Create(const CpuMatrix& matrix, DType type, DType operand_type,
                                        std::string_view item) {
    Operand operand;
    operand.matrix_ = &matrix;
    const MatrixForm& form = matrix.form();
    if (!NeedsCopy(form, type, operand_type)) return operand;
    const bool round_to_bf16 = operand_type == DType::kBf16 && form.type != DType::kBf16;
    PAVISE_ASSIGN_OR_RETURN(operand.copy_, NewMatrix({type, 0, form.rows, form.columns}, item));
    operand.matrix_ = operand.copy_.get();
    const size_t count = matrix.elements();
    if (type == DType::kFp32) {
      float* const to = operand.copy_->view<float>().data;
      Widen(matrix.view<uint8_t>().data, form.type, count, to);
      // In place: what leaves bf16's range becomes an infinity, which the result shows.
      for (size_t i = 0; round_to_bf16 && i < count; ++i) to[i] = FloatFromBf16(RoundToBf16(to[i]));
      return operand;
    }
    uint16_t* const to = operand.copy_->view<uint16_t>().data;
    if (form.type == DType::kFp32) {
      const float* const from = matrix.view<float>().data;
      for (size_t i = 0; i < count; ++i) to[i] = RoundToBf16(from[i]);
    } else {
      const uint16_t* const from = matrix.view<uint16_t>().data;
      for (size_t i = 0; i < count; ++i) to[i] = RoundToBf16(WidenFp16(from[i]));
    }
    return operand;
  }

  template <typename T>
  ViewOf<const T> view() const {
    return matrix_->view<T>();
  }

 private:
  const CpuMatrix* matrix_ = nullptr;
  std::unique_ptr<CpuMatrix> copy_;
};

absl::StatusOr<std::unique_ptr<DeviceMatrix>> CpuDevice::Upload(Frame frame, DType type,
                                                                std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, FrameSizeBytes(frame, item));
  if (frame.bytes.size() != size_bytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat(frame.bytes.size(), " bytes where its shape takes ", size_bytes));
  }
  MatrixForm form = {type, frame.modulus, frame.rows, frame.columns};
  const size_t count = frame.rows * frame.columns;
  if (frame.modulus != 0) {
    form.type = DType::kFp32;
    const int limit = frame.modulus / 2;
    bool are_residues = true;
    for (const uint8_t byte : frame.bytes) {
      const int value = static_cast<int8_t>(byte);
      are_residues &= value <= limit && value >= -limit;
    }
    if (!are_residues) {
      return Refuse(Reason::kMalformed, item, StrCat("no residues modulo ", frame.modulus));
    }
    return std::make_unique<CpuMatrix>(form, std::move(frame.bytes));
  }
  if (frame.type == DType::kBf16 || frame.type == DType::kFp16) {
    const uint16_t exponent = frame.type == DType::kBf16 ? kBf16Exponent : kFp16Exponent;
    if (!AreFinite(reinterpret_cast<const uint16_t*>(frame.bytes.data()), count, exponent)) {
      return Refuse(Reason::kMalformed, item, "there is a NaN or an infinity");
    }
  }
  std::unique_ptr<CpuMatrix> matrix;
  if (frame.type == type) {
    matrix = std::make_unique<CpuMatrix>(form, std::move(frame.bytes));
  } else {
    PAVISE_ASSIGN_OR_RETURN(matrix, NewMatrix(form, item));
    float* const to = matrix->view<float>().data;
    if (frame.type == DType::kInt8) {
      const float step = std::bit_cast<float>(LoadLittleEndian32(frame.bytes, 0));
      if (!std::isfinite(step) || step < 0) {
        return Refuse(Reason::kMalformed, item, "the int8 scale is negative or not finite");
      }
      const uint8_t* const from = frame.bytes.data() + sizeof step;
      for (size_t i = 0; i < count; ++i) to[i] = step * static_cast<int8_t>(from[i]);
    } else {
      Widen(frame.bytes.data(), frame.type, count, to);
    }
  }
  if (form.type == DType::kFp32) {
    PAVISE_RETURN_IF_ERROR(offload::CheckFinite(matrix->view<float>(), item));
  }
  return matrix;
}

absl::StatusOr<Frame> CpuDevice::Download(const DeviceMatrix& matrix, DType type,
                                          std::string_view item) {
  const CpuMatrix& from = Of(matrix);
  const MatrixForm& form = matrix.form();
  Frame frame = {type, form.modulus, form.rows, form.columns, {}};
  const MatrixView values = from.view<float>();
  if (form.modulus == 0) PAVISE_RETURN_IF_ERROR(offload::CheckFinite(values, item));
  if (form.modulus == 0 && (type == DType::kFp16 || type == DType::kInt8)) {
    PAVISE_ASSIGN_OR_RETURN(frame.bytes, PackMatrix(values, type, item));
    return frame;
  }
  PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, FrameSizeBytes(frame, item));
  PAVISE_ASSIGN_OR_RETURN(frame.bytes, NewBytes(size_bytes, item));
  if (form.modulus == 0 && type == DType::kBf16) {
    auto* const to = reinterpret_cast<uint16_t*>(frame.bytes.data());
    for (size_t i = 0; i < from.elements(); ++i) to[i] = RoundToBf16(values.data[i]);
    if (!AreFinite(to, from.elements(), kBf16Exponent)) {
      return Refuse(Reason::kLimitExceeded, item, "a value is too large for bf16", "ask for fp32");
    }
    return frame;
  }
  std::memcpy(frame.bytes.data(), values.data, frame.bytes.size());
  return frame;
}

uint64_t CpuDevice::WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                                   const MatrixForm& b) const {
  const uint64_t outputs =
      multiplication.operation == Operation::kTransposeRight ? b.rows : b.columns;
  uint64_t size_bytes = 0;
  DType type = OperandType(multiplication);
  if (multiplication.convolution.has_value()) {
    const std::optional<HostConvolution> whole = ConvolutionOf(multiplication, a, b);
    const std::optional<uint64_t> whole_bytes =
        whole.has_value() ? products_->ConvolutionWorkspaceBytes(*whole) : std::nullopt;
    if (whole_bytes.has_value()) {
      size_bytes += *whole_bytes;
    } else {
      // One sample's columns, in residues twice (as floats, too), and its image.
      const ConvolutionShape& shape = *multiplication.convolution;
      const uint64_t columns = shape.output_height() * shape.output_width() * shape.taps();
      size_bytes += (2 * columns + shape.height * shape.width) * shape.channels * sizeof(float);
      type = DType::kFp32;
    }
  }
  if (a.modulus != 0) {
    // Sums, of one row at least, and a sample's weight gradients.
    size_bytes +=
        std::max<uint64_t>(kSumElements, std::max<uint64_t>(outputs, b.columns)) * sizeof(int32_t);
    if (multiplication.convolution.has_value()) {
      size_bytes += multiplication.convolution->taps() * a.columns * b.columns;
    }
    return size_bytes;
  }
  for (const MatrixForm* form : {&a, &b}) {
    if (NeedsCopy(*form, type, multiplication.operand_type)) {
      size_bytes += MatrixForm{type, 0, form->rows, form->columns}.size_bytes();
    }
  }
  return size_bytes;
}

absl::StatusOr<std::unique_ptr<DeviceMatrix>> CpuDevice::Multiply(
    const Multiplication& multiplication, const DeviceMatrix& a, const DeviceMatrix& b,
    std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const MatrixForm form,
                          ResultForm(multiplication, a.form(), b.form(), item));
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<CpuMatrix> out, NewMatrix(form, item));
  if (form.modulus == 0) {
    PAVISE_RETURN_IF_ERROR(MultiplyFloats(multiplication, Of(a), Of(b), item, *out));
  } else if (multiplication.convolution.has_value()) {
    PAVISE_RETURN_IF_ERROR(ConvolveResidues(multiplication, Of(a), Of(b), item, *out));
  } else {
    PAVISE_RETURN_IF_ERROR(MultiplyResidues(multiplication.operation, Of(a).view<int8_t>(),
                                            Of(b).view<int8_t>(), form.modulus, item,
                                            out->view<int8_t>()));
  }
  return out;
}

absl::Status CpuDevice::MultiplyFloats(const Multiplication& multiplication, const CpuMatrix& a,
                                       const CpuMatrix& b, std::string_view item,
                                       CpuMatrix& out) const {
  if (!multiplies(multiplication.operand_type)) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("this device multiplies no ", DTypeName(multiplication.operand_type)),
                  "ask for fp32 or bf16 operands");
  }
  const std::optional<HostConvolution> whole = ConvolutionOf(multiplication, a.form(), b.form());
  const bool is_whole =
      whole.has_value() && products_->ConvolutionWorkspaceBytes(*whole).has_value();
  const bool is_im2col = whole.has_value() && !is_whole;
  const DType type = is_im2col ? DType::kFp32 : OperandType(multiplication);
  PAVISE_ASSIGN_OR_RETURN(const Operand left,
                          Operand::Create(a, type, multiplication.operand_type, item));
  PAVISE_ASSIGN_OR_RETURN(const Operand right,
                          Operand::Create(b, type, multiplication.operand_type, item));
  const MutableMatrixView to = out.view<float>();
  if (is_whole) {
    return products_->Convolve(*whole, left.view<uint8_t>().data, right.view<uint8_t>().data,
                               to.data);
  }
  const MatrixView x = left.view<float>();
  const MatrixView y = right.view<float>();
  if (is_im2col) return ConvolveFloats(multiplication, x, y, item, to);
  if (type == DType::kBf16) {
    return products_->Bf16(multiplication.operation, left.view<uint16_t>(), right.view<uint16_t>(),
                           to);
  }
  return products_->Floats(multiplication.operation, x, y, /*add=*/false, to);
}

absl::Status CpuDevice::MultiplyResidues(Operation operation, ViewOf<const int8_t> a,
                                         ViewOf<const int8_t> b, int modulus, std::string_view item,
                                         ViewOf<int8_t> out) const {
  const size_t rows_at_once = std::clamp<size_t>(kSumElements / out.columns, size_t{1}, out.rows);
  PAVISE_ASSIGN_OR_RETURN(Bytes memory,
                          NewBytes(rows_at_once * out.columns * sizeof(int32_t), item));
  for (size_t first = 0; first < out.rows; first += rows_at_once) {
    const size_t count = std::min(rows_at_once, out.rows - first);
    const ViewOf<const int8_t> part =
        operation == Operation::kTransposeLeft
            ? ViewOf<const int8_t>{a.data + first, a.rows, count, a.stride}
            : RowsOf(a, first, count);
    const ViewOf<int32_t> sums = {reinterpret_cast<int32_t*>(memory.data()), count, out.columns,
                                  out.columns};
    PAVISE_RETURN_IF_ERROR(products_->Residues(operation, part, b, sums));
    Reduce(sums, modulus, RowsOf(out, first, count));
  }
  return absl::OkStatus();
}

absl::Status CpuDevice::ConvolveFloats(const Multiplication& multiplication, MatrixView a,
                                       MatrixView b, std::string_view item,
                                       MutableMatrixView out) const {
  ConvolutionShape one = *multiplication.convolution;
  const size_t samples = std::exchange(one.samples, 1);
  const size_t inputs = one.height * one.width;
  const size_t outputs = one.output_height() * one.output_width();
  for (size_t s = 0; s < samples; ++s) {
    if (multiplication.operation == Operation::kTransposeRight) {
      PAVISE_ASSIGN_OR_RETURN(Matrix columns,
                              Matrix::Create(outputs, one.taps() * one.channels, item));
      PAVISE_RETURN_IF_ERROR(products_->Floats(
          Operation::kTransposeRight, RowsOf(a, s * outputs, outputs), b, false, columns.view()));
      PAVISE_ASSIGN_OR_RETURN(const Matrix image, ColumnsToImage(one, columns, item));
      std::copy(image.values().begin(), image.values().end(), out.Row(s * inputs));
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(const Matrix columns,
                            ImageToColumns(one, RowsOf(a, s * inputs, inputs), item));
    if (multiplication.operation == Operation::kPlain) {
      PAVISE_RETURN_IF_ERROR(products_->Floats(Operation::kPlain, columns, b, false,
                                               RowsOf(out, s * outputs, outputs)));
    } else {
      PAVISE_RETURN_IF_ERROR(products_->Floats(Operation::kTransposeLeft, columns,
                                               RowsOf(b, s * outputs, outputs), /*add=*/s != 0,
                                               out));
    }
  }
  return absl::OkStatus();
}

absl::Status CpuDevice::ConvolveResidues(const Multiplication& multiplication, const CpuMatrix& a,
                                         const CpuMatrix& b, std::string_view item,
                                         CpuMatrix& out) const {
  ConvolutionShape one = *multiplication.convolution;
  const size_t samples = std::exchange(one.samples, 1);
  const size_t inputs = one.height * one.width;
  const size_t outputs = one.output_height() * one.output_width();
  const int modulus = a.form().modulus;
  const ViewOf<const int8_t> left = a.view<int8_t>();
  const ViewOf<const int8_t> right = b.view<int8_t>();
  const ViewOf<int8_t> to = out.view<int8_t>();
  for (size_t s = 0; s < samples; ++s) {
    if (multiplication.operation == Operation::kTransposeRight) {
      PAVISE_ASSIGN_OR_RETURN(ResidueMatrix columns,
                              ResidueMatrix::Create(outputs, one.taps() * one.channels, item));
      PAVISE_RETURN_IF_ERROR(MultiplyResidues(Operation::kTransposeRight,
                                              RowsOf(left, s * outputs, outputs), right, modulus,
                                              item, columns.view()));
      // Sums of at most 2^16 taps are exact in floats below 2^24.
      PAVISE_ASSIGN_OR_RETURN(Matrix floats,
                              Matrix::Create(columns.rows(), columns.columns(), item));
      std::copy(columns.values().begin(), columns.values().end(), floats.values().begin());
      PAVISE_ASSIGN_OR_RETURN(const Matrix image, ColumnsToImage(one, floats, item));
      std::transform(image.values().begin(), image.values().end(), to.Row(s * inputs),
                     [modulus](float sum) { return Centered(static_cast<int64_t>(sum), modulus); });
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(const ResidueMatrix columns,
                            ImageToColumns(one, RowsOf(left, s * inputs, inputs), item));
    if (multiplication.operation == Operation::kPlain) {
      PAVISE_RETURN_IF_ERROR(MultiplyResidues(Operation::kPlain, columns, right, modulus, item,
                                              RowsOf(to, s * outputs, outputs)));
      continue;
    }
    PAVISE_ASSIGN_OR_RETURN(ResidueMatrix gradient,
                            ResidueMatrix::Create(to.rows, to.columns, item));
    PAVISE_RETURN_IF_ERROR(MultiplyResidues(Operation::kTransposeLeft, columns,
                                            RowsOf(right, s * outputs, outputs), modulus, item,
                                            gradient.view()));
    for (size_t i = 0; i < out.elements(); ++i) {
      to.data[i] = Centered(to.data[i] + gradient.values()[i], modulus);
    }
  }
  return absl::OkStatus();
}

absl::Status CpuDevice::Add(DeviceMatrix& sum, const DeviceMatrix& addend) {
  const int modulus = sum.form().modulus;
  const size_t count = Of(sum).elements();
  if (modulus == 0) {
    float* const to = Of(sum).view<float>().data;
    const float* const from = Of(addend).view<float>().data;
    for (size_t i = 0; i < count; ++i) to[i] += from[i];
    return absl::OkStatus();
  }
  int8_t* const to = Of(sum).view<int8_t>().data;
  const int8_t* const from = Of(addend).view<int8_t>().data;
  for (size_t i = 0; i < count; ++i) to[i] = Centered(to[i] + from[i], modulus);
  return absl::OkStatus();
}

absl::Status CpuDevice::Update(const SgdStep& step, const KeyShift& shift,
                               const DeviceMatrix& gradient, DeviceMatrix& velocity,
                               DeviceMatrix& weights) {
  const MatrixView g = Of(gradient).view<float>();
  const MutableMatrixView v = Of(velocity).view<float>();
  const MutableMatrixView w = Of(weights).view<float>();
  for (size_t i = 0; i < w.rows; ++i) {
    const float row = shift.rows.empty() ? 1.0f : shift.rows[i % shift.rows.size()];
    for (size_t j = 0; j < w.columns; ++j) {
      const float column = shift.columns.empty() ? row : row * shift.columns[j];
      v(i, j) = step.momentum * v(i, j) + g(i, j) * column + step.weight_decay * w(i, j);
      w(i, j) -= step.learning_rate * v(i, j);
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::shared_ptr<ComputeDevice> NewCpuDevice(std::unique_ptr<HostProducts> products) {
  return std::make_shared<CpuDevice>(std::move(products));
}

std::shared_ptr<ComputeDevice> OpenCpuDevice(int threads) {
  std::unique_ptr<HostProducts> products = NewOneDnnProducts(threads);
  return NewCpuDevice(products != nullptr ? std::move(products) : NewPlainProducts());
}

}  // namespace pavise::offload
