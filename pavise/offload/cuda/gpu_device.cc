#include "pavise/offload/cuda/gpu_device.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload::cuda {
namespace {

// Of addresses, in bytes, for int8 matrix units.
constexpr uintptr_t kUnitAlignment = 16;
constexpr uint64_t kPieceElements = GpuStream::kPieceBytes / sizeof(float);

class DeviceMemory {
 public:
  DeviceMemory() = default;
  static absl::StatusOr<DeviceMemory> Allocate(const std::shared_ptr<GpuRuntime>& runtime,
                                               uint64_t size_bytes, std::string_view item) {
    DeviceMemory memory;
    if (size_bytes == 0) return memory;
    PAVISE_ASSIGN_OR_RETURN(memory.data_, runtime->Allocate(size_bytes, item));
    memory.runtime_ = runtime;
    return memory;
  }
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(runtime_, other.runtime_);
    std::swap(data_, other.data_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_ != nullptr) runtime_->Free(data_);
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  std::shared_ptr<GpuRuntime> runtime_;
  void* data_ = nullptr;
};

class GpuMatrix final : public DeviceMatrix {
 public:
  GpuMatrix(const MatrixForm& form, DeviceMemory memory)
      : DeviceMatrix(form), memory_(std::move(memory)) {}
  template <typename T>
  T* as() const {
    return memory_.as<T>();
  }
  uint64_t elements() const { return uint64_t{form().rows} * form().columns; }

 private:
  const DeviceMemory memory_;
};

const GpuMatrix& Of(const DeviceMatrix& matrix) { return static_cast<const GpuMatrix&>(matrix); }

uint64_t ElementBytes(const MatrixForm& form) {
  return form.modulus != 0 ? 1 : DTypeSizeBytes(form.type);
}

absl::Status NotFinite(const MatrixForm& form, uint64_t index, std::string_view item) {
  return Refuse(Reason::kMalformed, item,
                StrCat("row ", index / form.columns, ", column ", index % form.columns,
                       " is not a finite number"));
}

GemmType GemmTypeOf(DType type) {
  return type == DType::kBf16   ? GemmType::kBf16
         : type == DType::kFp16 ? GemmType::kFp16
                                : GemmType::kFp32;
}

// What floats are multiplied as. Products of 16-bit numbers are exact in fp32, so that two matrices
// that came as such are multiplied as such whatever is asked.
DType ProductType(const Multiplication& multiplication, const MatrixForm& a, const MatrixForm& b) {
  if (multiplication.operand_type == DType::kFp32 && a.type == b.type) return a.type;
  return multiplication.operand_type;
}

// As for oneDNN: what nobody builds is not tried on a library for networks as they are, since
// shapes come from strangers. cuDNN counts elements in 31 bits.
bool IsUsual(const ConvolutionShape& s, const MatrixForm& a, const MatrixForm& b,
             const MatrixForm& result) {
  constexpr size_t kLargest = 16;
  constexpr uint64_t kMostElements = (uint64_t{1} << 31) - 1;
  const auto is_small = [](const MatrixForm& form) {
    return uint64_t{form.rows} * form.columns <= kMostElements;
  };
  return s.kernel_height <= kLargest && s.kernel_width <= kLargest && s.stride <= kLargest &&
         s.padding < std::min(s.kernel_height, s.kernel_width) && is_small(a) && is_small(b) &&
         is_small(result);
}

Window WindowOf(const ConvolutionShape& s) {
  const auto narrow = [](size_t size) { return static_cast<uint32_t>(size); };
  return {narrow(s.height),          narrow(s.width),          narrow(s.channels),
          narrow(s.output_height()), narrow(s.output_width()), narrow(s.kernel_height),
          narrow(s.kernel_width),    narrow(s.stride),         narrow(s.padding)};
}

// A convolution's sizes of one sample, and how many samples' columns are in memory at a time.
struct Samples {
  Samples(const ConvolutionShape& shape, uint64_t column_elements)
      : inputs(shape.height * shape.width),
        outputs(shape.output_height() * shape.output_width()),
        column_count(shape.taps() * shape.channels),
        at_once(
            std::clamp<uint64_t>(column_elements / (outputs * column_count), 1, shape.samples)) {}
  uint64_t inputs;        // rows
  uint64_t outputs;       // rows
  uint64_t column_count;  // of im2col
  uint64_t at_once;
};

// What a multiplication allocates besides its result, in bytes.
struct Scratch {
  DType type = DType::kFp32;  // of products of floats
  bool is_whole = false;      // the runtime does the convolution
  uint64_t a = 0;             // operands in another type
  uint64_t b = 0;
  uint64_t weights = 0;  // as Convolve takes them; of residues a gradient that is added
  uint64_t columns = 0;
  uint64_t library = 0;
  ResidueGemm residues;
  uint64_t total_bytes() const {
    return a + b + weights + columns + library + residues.total_bytes();
  }
};

struct Buffers {
  DeviceMemory a, b, weights, columns, library, left, right, sums;
};

class GpuDevice final : public ComputeDevice {
 public:
  GpuDevice(std::shared_ptr<GpuRuntime> runtime, const GpuLimits& limits)
      : runtime_(std::move(runtime)), limits_(limits) {
    idle_.reserve(kStreams);
  }

  std::string_view name() const override { return runtime_->name(); }
  bool multiplies(DType type) const override { return type != DType::kInt8; }
  bool multiplies_residues() const override { return true; }
  bool convolves() const override { return true; }

  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Upload(Frame frame, DType type,
                                                       std::string_view item) override;
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Create(const MatrixForm& form,
                                                       std::string_view item) override;
  absl::StatusOr<Frame> Download(const DeviceMatrix& matrix, DType type,
                                 std::string_view item) override;
  uint64_t WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                          const MatrixForm& b) const override;
  absl::StatusOr<std::unique_ptr<DeviceMatrix>> Multiply(const Multiplication& multiplication,
                                                         const DeviceMatrix& a,
                                                         const DeviceMatrix& b,
                                                         std::string_view item) override;
  absl::Status CheckFinite(const DeviceMatrix& matrix, std::string_view item) override;
  absl::Status Add(DeviceMatrix& sum, const DeviceMatrix& addend) override;
  absl::Status Update(const SgdStep& step, const KeyShift& shift, const DeviceMatrix& gradient,
                      DeviceMatrix& velocity, DeviceMatrix& weights) override;

 private:
  using Work = std::function<absl::Status(GpuStream&)>;
  // On a stream that nobody else has meanwhile. What was queued is done when this returns, so that
  // memory may be freed then, also after an error. `findings`: what the stream's are then.
  absl::Status OnStream(const Work& work, Findings* findings = nullptr);

  absl::StatusOr<std::unique_ptr<GpuMatrix>> NewMatrix(const MatrixForm& form,
                                                       std::string_view item) {
    PAVISE_ASSIGN_OR_RETURN(DeviceMemory memory,
                            DeviceMemory::Allocate(runtime_, form.size_bytes(), item));
    return std::make_unique<GpuMatrix>(form, std::move(memory));
  }
  HostConvolution ConvolutionOf(const Multiplication& multiplication, DType type,
                                const MatrixForm& b) const {
    return {multiplication.operation, type, *multiplication.convolution, b.columns};
  }
  Scratch ScratchOf(const Multiplication& multiplication, const MatrixForm& a, const MatrixForm& b,
                    const MatrixForm& result) const;
  absl::StatusOr<Buffers> Allocate(const Scratch& scratch, std::string_view item) const;

  absl::Status MultiplyFloats(GpuStream& stream, const Multiplication& multiplication,
                              const Scratch& scratch, const Buffers& buffers, const GpuMatrix& a,
                              const GpuMatrix& b, const GpuMatrix& out) const;
  absl::Status ConvolveWhole(GpuStream& stream, const Multiplication& multiplication,
                             const Scratch& scratch, const Buffers& buffers, const GpuMatrix& a,
                             const GpuMatrix& b, const GpuMatrix& out) const;
  absl::Status ConvolveResidues(GpuStream& stream, const Multiplication& multiplication,
                                const Buffers& buffers, const GpuMatrix& a, const GpuMatrix& b,
                                const GpuMatrix& out) const;
  // Matrices of residues without gaps.
  struct Residues {
    const int8_t* data = nullptr;
    uint64_t rows = 0;
    uint64_t columns = 0;
  };
  absl::Status MultiplyResidues(GpuStream& stream, Operation operation, const Buffers& buffers,
                                const Residues& a, const Residues& b, int modulus,
                                int8_t* out) const;

  const std::shared_ptr<GpuRuntime> runtime_;
  const GpuLimits limits_;
  std::mutex mutex_;
  std::condition_variable stream_is_idle_;
  std::vector<std::unique_ptr<GpuStream>> idle_;
  size_t streams_ = 0;
};

absl::Status GpuDevice::OnStream(const Work& work, Findings* findings) {
  std::unique_ptr<GpuStream> stream;
  {
    std::unique_lock lock(mutex_);
    stream_is_idle_.wait(lock, [this] { return !idle_.empty() || streams_ < kStreams; });
    if (idle_.empty()) {
      PAVISE_ASSIGN_OR_RETURN(stream, runtime_->NewStream());
      ++streams_;
    } else {
      stream = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  absl::Status status = work(*stream);
  status.Update(stream->Wait());
  if (findings != nullptr) *findings = stream->findings();
  {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(stream));
  }
  stream_is_idle_.notify_one();
  return status;
}

absl::StatusOr<std::unique_ptr<DeviceMatrix>> GpuDevice::Upload(Frame frame, DType type,
                                                                std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, FrameSizeBytes(frame, item));
  if (frame.bytes.size() != size_bytes) {
    return Refuse(Reason::kMalformed, item,
                  StrCat(frame.bytes.size(), " bytes where its shape takes ", size_bytes));
  }
  const MatrixForm sent = {frame.type, frame.modulus, frame.rows, frame.columns};
  MatrixForm form = sent;
  form.type = frame.modulus != 0 ? DType::kFp32 : type;
  const uint8_t* from = frame.bytes.data();
  float step = 0;
  if (frame.modulus == 0 && frame.type == DType::kInt8) {
    step = FloatOf(LoadLittleEndian32(frame.bytes, 0));
    if (!IsFinite(step) || step < 0) {
      return Refuse(Reason::kMalformed, item, "the int8 scale is negative or not finite");
    }
    from += sizeof step;
  }
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<GpuMatrix> matrix, NewMatrix(form, item));
  Findings findings;
  const auto work = [&](GpuStream& stream) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(stream.ClearFindings());
    const bool is_converted = form.modulus == 0 && frame.type != type;
    const uint64_t element_bytes = ElementBytes(sent);
    int piece = 0;
    for (uint64_t first = 0; first < matrix->elements();
         first += kPieceElements, piece = (piece + 1) % GpuStream::kPieces) {
      const uint64_t count = std::min(kPieceElements, matrix->elements() - first);
      uint8_t* const place = matrix->as<uint8_t>() + first * ElementBytes(form);
      uint8_t* const arrival = is_converted ? stream.device_piece(piece) : place;
      PAVISE_RETURN_IF_ERROR(stream.WaitForTransfer(piece));
      std::memcpy(stream.pinned(piece), from + first * element_bytes, count * element_bytes);
      PAVISE_RETURN_IF_ERROR(
          stream.CopyToDevice(arrival, stream.pinned(piece), count * element_bytes));
      if (form.modulus != 0) {
        PAVISE_RETURN_IF_ERROR(
            stream.Run(CheckResiduesKernel{reinterpret_cast<const int8_t*>(arrival), form.modulus,
                                           first, count, stream.device_findings()}));
      } else {
        PAVISE_RETURN_IF_ERROR(stream.Run(ConvertKernel{.from = arrival,
                                                        .from_type = frame.type,
                                                        .to = is_converted ? place : nullptr,
                                                        .to_type = type,
                                                        .step = step,
                                                        .first = first,
                                                        .count = count,
                                                        .findings = stream.device_findings()}));
      }
      PAVISE_RETURN_IF_ERROR(stream.MarkTransfer(piece));
    }
    return absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(OnStream(work, &findings));
  if (findings.first_unfit != kNowhere) {
    if (form.modulus == 0) return NotFinite(form, findings.first_unfit, item);
    return Refuse(Reason::kMalformed, item, StrCat("no residues modulo ", form.modulus));
  }
  return matrix;
}

absl::StatusOr<std::unique_ptr<DeviceMatrix>> GpuDevice::Create(const MatrixForm& form,
                                                                std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<GpuMatrix> matrix, NewMatrix(form, item));
  PAVISE_RETURN_IF_ERROR(OnStream(
      [&](GpuStream& stream) { return stream.Clear(matrix->as<void>(), form.size_bytes()); }));
  return matrix;
}

absl::StatusOr<Frame> GpuDevice::Download(const DeviceMatrix& matrix, DType type,
                                          std::string_view item) {
  const GpuMatrix& from = Of(matrix);
  const MatrixForm& form = matrix.form();
  Frame frame = {type, form.modulus, form.rows, form.columns, {}};
  PAVISE_ASSIGN_OR_RETURN(const uint64_t size_bytes, FrameSizeBytes(frame, item));
  try {
    frame.bytes.resize(size_bytes);
  } catch (const std::exception&) {
    return MachineFailure(item, StrCat("no memory for ", size_bytes, " bytes"));
  }
  uint8_t* to = frame.bytes.data();
  const MatrixForm sent = {type, form.modulus, form.rows, form.columns};
  const uint64_t element_bytes = ElementBytes(sent);
  const bool is_int8 = form.modulus == 0 && type == DType::kInt8;
  Findings findings;
  const auto work = [&](GpuStream& stream) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(stream.ClearFindings());
    float step = 0;
    if (is_int8) {
      PAVISE_RETURN_IF_ERROR(stream.Run(
          LargestKernel{from.as<const float>(), from.elements(), stream.device_findings()}));
      PAVISE_RETURN_IF_ERROR(stream.Wait());
      step = FloatOf(stream.findings().largest_bits) / 127;
      std::memcpy(to, &step, sizeof step);
      to += sizeof step;
    }
    const bool is_converted = form.modulus == 0 && type != form.type;
    const auto queue = [&](uint64_t first, uint64_t count, int piece) -> absl::Status {
      const uint8_t* departure = from.as<const uint8_t>() + first * ElementBytes(form);
      if (form.modulus == 0) {
        PAVISE_RETURN_IF_ERROR(
            stream.Run(ConvertKernel{.from = departure,
                                     .from_type = form.type,
                                     .to = is_converted ? stream.device_piece(piece) : nullptr,
                                     .to_type = type,
                                     .step = step,
                                     .first = first,
                                     .count = count,
                                     .findings = stream.device_findings()}));
        if (is_converted) departure = stream.device_piece(piece);
      }
      PAVISE_RETURN_IF_ERROR(
          stream.CopyToHost(stream.pinned(piece), departure, count * element_bytes));
      return stream.MarkTransfer(piece);
    };
    // While one piece travels, the one before it is copied out of pinned memory.
    uint64_t arrived = 0;
    int piece = 0;
    const auto arrive = [&]() -> absl::Status {
      const uint64_t count = std::min(kPieceElements, from.elements() - arrived);
      PAVISE_RETURN_IF_ERROR(stream.WaitForTransfer(piece));
      std::memcpy(to + arrived * element_bytes, stream.pinned(piece), count * element_bytes);
      arrived += count;
      piece = (piece + 1) % GpuStream::kPieces;
      return absl::OkStatus();
    };
    int next_piece = 0;
    for (uint64_t first = 0; first < from.elements();
         first += kPieceElements, next_piece = (next_piece + 1) % GpuStream::kPieces) {
      PAVISE_RETURN_IF_ERROR(
          queue(first, std::min(kPieceElements, from.elements() - first), next_piece));
      if (first != 0) PAVISE_RETURN_IF_ERROR(arrive());
    }
    return arrived < from.elements() ? arrive() : absl::OkStatus();
  };
  PAVISE_RETURN_IF_ERROR(OnStream(work, &findings));
  if (findings.first_unfit != kNowhere) return NotFinite(form, findings.first_unfit, item);
  if (findings.first_too_large != kNowhere) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a value is too large for ", DTypeName(type)), "ask for fp32");
  }
  return frame;
}

Scratch GpuDevice::ScratchOf(const Multiplication& multiplication, const MatrixForm& a,
                             const MatrixForm& b, const MatrixForm& result) const {
  Scratch scratch;
  const bool left = multiplication.operation == Operation::kTransposeLeft;
  const bool right = multiplication.operation == Operation::kTransposeRight;
  const uint64_t inner = left ? a.rows : a.columns;
  const auto bytes_as = [](const MatrixForm& form, DType type) {
    return MatrixForm{type, 0, form.rows, form.columns}.size_bytes();
  };
  const auto residue_gemm = [this](uint64_t rows, uint64_t sum_inner, uint64_t columns) {
    return ResidueGemmOf(rows, sum_inner, columns, limits_.sum_elements);
  };
  if (!multiplication.convolution.has_value()) {
    if (a.modulus != 0) {
      scratch.residues = residue_gemm(result.rows, inner, result.columns);
      return scratch;
    }
    scratch.type = ProductType(multiplication, a, b);
  } else {
    const ConvolutionShape& shape = *multiplication.convolution;
    const Samples samples(shape, limits_.column_elements);
    const uint64_t rows = samples.at_once * samples.outputs;
    scratch.columns = rows * samples.column_count;
    if (a.modulus != 0) {
      scratch.residues = left    ? residue_gemm(samples.column_count, rows, b.columns)
                         : right ? residue_gemm(rows, b.columns, samples.column_count)
                                 : residue_gemm(rows, samples.column_count, b.columns);
      if (left) scratch.weights = result.size_bytes();
      return scratch;
    }
    scratch.type = ProductType(multiplication, a, b);
    scratch.columns *= right ? sizeof(float) : DTypeSizeBytes(scratch.type);
    if (IsUsual(shape, a, b, result)) {
      const std::optional<uint64_t> library_bytes =
          runtime_->ConvolutionWorkspaceBytes(ConvolutionOf(multiplication, scratch.type, b));
      if (library_bytes.has_value()) {
        scratch.is_whole = true;
        scratch.columns = 0;
        scratch.library = *library_bytes;
        scratch.weights = bytes_as(left ? result : b, DType::kFp32);
        const bool is_rounded = scratch.type != DType::kFp32;
        if (is_rounded || a.type != DType::kFp32) scratch.a = bytes_as(a, DType::kFp32);
        if (is_rounded || b.type != DType::kFp32) scratch.b = bytes_as(b, DType::kFp32);
        return scratch;
      }
    }
  }
  if (a.type != scratch.type) scratch.a = bytes_as(a, scratch.type);
  if (b.type != scratch.type) scratch.b = bytes_as(b, scratch.type);
  return scratch;
}

absl::StatusOr<Buffers> GpuDevice::Allocate(const Scratch& scratch, std::string_view item) const {
  Buffers buffers;
  for (const auto& [buffer, size_bytes] :
       {std::pair{&buffers.a, scratch.a}, std::pair{&buffers.b, scratch.b},
        std::pair{&buffers.weights, scratch.weights}, std::pair{&buffers.columns, scratch.columns},
        std::pair{&buffers.library, scratch.library},
        std::pair{&buffers.left, scratch.residues.left_bytes()},
        std::pair{&buffers.right, scratch.residues.right_bytes()},
        std::pair{&buffers.sums, scratch.residues.sums_bytes()}}) {
    PAVISE_ASSIGN_OR_RETURN(*buffer, DeviceMemory::Allocate(runtime_, size_bytes, item));
  }
  return buffers;
}

uint64_t GpuDevice::WorkspaceBytes(const Multiplication& multiplication, const MatrixForm& a,
                                   const MatrixForm& b) const {
  const absl::StatusOr<MatrixForm> result = ResultForm(multiplication, a, b, "");
  return result.ok() ? ScratchOf(multiplication, a, b, *result).total_bytes() : 0;
}

absl::StatusOr<std::unique_ptr<DeviceMatrix>> GpuDevice::Multiply(
    const Multiplication& multiplication, const DeviceMatrix& a, const DeviceMatrix& b,
    std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const MatrixForm form,
                          ResultForm(multiplication, a.form(), b.form(), item));
  if (form.modulus == 0 && !multiplies(multiplication.operand_type)) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("this device multiplies no ", DTypeName(multiplication.operand_type)),
                  "ask for fp32, bf16 or fp16 operands");
  }
  const Scratch scratch = ScratchOf(multiplication, a.form(), b.form(), form);
  PAVISE_ASSIGN_OR_RETURN(const Buffers buffers, Allocate(scratch, item));
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<GpuMatrix> out, NewMatrix(form, item));
  const auto work = [&](GpuStream& stream) -> absl::Status {
    if (form.modulus == 0) {
      return MultiplyFloats(stream, multiplication, scratch, buffers, Of(a), Of(b), *out);
    }
    if (multiplication.convolution.has_value()) {
      return ConvolveResidues(stream, multiplication, buffers, Of(a), Of(b), *out);
    }
    const auto view = [](const DeviceMatrix& matrix) -> Residues {
      return {Of(matrix).as<const int8_t>(), matrix.form().rows, matrix.form().columns};
    };
    return MultiplyResidues(stream, multiplication.operation, buffers, view(a), view(b),
                            form.modulus, out->as<int8_t>());
  };
  PAVISE_RETURN_IF_ERROR(OnStream(work));
  return out;
}

// The matrix in another type, or for fp32 rounded to `round_to`; itself where there is no buffer.
absl::StatusOr<const void*> Converted(GpuStream& stream, const GpuMatrix& matrix,
                                      const DeviceMemory& buffer, DType type, DType round_to) {
  if (buffer.as<void>() == nullptr) return matrix.as<const void>();
  PAVISE_RETURN_IF_ERROR(stream.Run(ConvertKernel{.from = matrix.as<const void>(),
                                                  .from_type = matrix.form().type,
                                                  .to = buffer.as<void>(),
                                                  .to_type = type,
                                                  .round_to = round_to,
                                                  .count = matrix.elements()}));
  return buffer.as<const void>();
}

absl::Status GpuDevice::MultiplyFloats(GpuStream& stream, const Multiplication& multiplication,
                                       const Scratch& scratch, const Buffers& buffers,
                                       const GpuMatrix& a, const GpuMatrix& b,
                                       const GpuMatrix& out) const {
  if (scratch.is_whole) return ConvolveWhole(stream, multiplication, scratch, buffers, a, b, out);
  const Operation operation = multiplication.operation;
  const GemmType type = GemmTypeOf(scratch.type);
  PAVISE_ASSIGN_OR_RETURN(const void* const x,
                          Converted(stream, a, buffers.a, scratch.type, DType::kFp32));
  PAVISE_ASSIGN_OR_RETURN(const void* const y,
                          Converted(stream, b, buffers.b, scratch.type, DType::kFp32));
  float* const to = out.as<float>();
  if (!multiplication.convolution.has_value()) {
    const uint64_t inner =
        operation == Operation::kTransposeLeft ? a.form().rows : a.form().columns;
    return stream.Multiply(GemmOf(operation, type, out.form().rows, inner, out.form().columns), y,
                           x,
                           /*add=*/false, to);
  }
  const ConvolutionShape& shape = *multiplication.convolution;
  const Samples samples(shape, limits_.column_elements);
  const Window window = WindowOf(shape);
  const uint64_t channels = shape.channels;
  const uint64_t outputs = b.form().columns;
  const uint64_t element_bytes = DTypeSizeBytes(scratch.type);
  const auto at = [&](const void* matrix, uint64_t element) {
    return static_cast<const uint8_t*>(matrix) + element * element_bytes;
  };
  for (uint64_t first = 0; first < shape.samples; first += samples.at_once) {
    const uint64_t count = std::min<uint64_t>(samples.at_once, shape.samples - first);
    const uint64_t rows = count * samples.outputs;
    const uint64_t first_input = first * samples.inputs * channels;
    const uint64_t first_output = first * samples.outputs * outputs;
    void* const columns = buffers.columns.as<void>();
    if (operation == Operation::kTransposeRight) {
      PAVISE_RETURN_IF_ERROR(
          stream.Multiply(GemmOf(operation, type, rows, outputs, samples.column_count), y,
                          at(x, first_output), /*add=*/false, columns));
      PAVISE_RETURN_IF_ERROR(stream.Run(
          ColumnsToImageKernel<float, float>{static_cast<const float*>(columns), to + first_input,
                                             window, 0, count * samples.inputs * channels}));
      continue;
    }
    const uint64_t elements = rows * samples.column_count;
    if (element_bytes == sizeof(float)) {
      PAVISE_RETURN_IF_ERROR(stream.Run(
          ImageToColumnsKernel<uint32_t>{reinterpret_cast<const uint32_t*>(at(x, first_input)),
                                         static_cast<uint32_t*>(columns), window, elements}));
    } else {
      PAVISE_RETURN_IF_ERROR(stream.Run(
          ImageToColumnsKernel<uint16_t>{reinterpret_cast<const uint16_t*>(at(x, first_input)),
                                         static_cast<uint16_t*>(columns), window, elements}));
    }
    if (operation == Operation::kPlain) {
      PAVISE_RETURN_IF_ERROR(
          stream.Multiply(GemmOf(operation, type, rows, samples.column_count, outputs), y, columns,
                          /*add=*/false, to + first_output));
    } else {
      PAVISE_RETURN_IF_ERROR(
          stream.Multiply(GemmOf(operation, type, samples.column_count, rows, outputs),
                          at(y, first_output), columns, /*add=*/first != 0, to));
    }
  }
  return absl::OkStatus();
}

absl::Status GpuDevice::ConvolveWhole(GpuStream& stream, const Multiplication& multiplication,
                                      const Scratch& scratch, const Buffers& buffers,
                                      const GpuMatrix& a, const GpuMatrix& b,
                                      const GpuMatrix& out) const {
  PAVISE_ASSIGN_OR_RETURN(const void* const x,
                          Converted(stream, a, buffers.a, DType::kFp32, scratch.type));
  PAVISE_ASSIGN_OR_RETURN(const void* const y,
                          Converted(stream, b, buffers.b, DType::kFp32, scratch.type));
  float* const weights = buffers.weights.as<float>();
  const bool makes_weights = multiplication.operation == Operation::kTransposeLeft;
  // What the library has a row of for each output channel has a column for each here.
  const auto transpose = [&](const float* from, uint64_t rows, uint64_t columns, float* to) {
    return stream.Run(PackKernel<float>{from, rows, columns, /*is_transposed=*/true, to, columns,
                                        rows, PackKernel<float>::SizeOf(columns, rows)});
  };
  const float* right = static_cast<const float*>(y);
  if (!makes_weights) {
    PAVISE_RETURN_IF_ERROR(transpose(right, b.form().rows, b.form().columns, weights));
    right = weights;
  }
  PAVISE_RETURN_IF_ERROR(stream.Convolve(
      ConvolutionOf(multiplication, scratch.type, b.form()), static_cast<const float*>(x), right,
      makes_weights ? weights : out.as<float>(), buffers.library.as<void>(), scratch.library));
  if (!makes_weights) return absl::OkStatus();
  return transpose(weights, out.form().columns, out.form().rows, out.as<float>());
}

absl::Status GpuDevice::MultiplyResidues(GpuStream& stream, Operation operation,
                                         const Buffers& buffers, const Residues& a,
                                         const Residues& b, int modulus, int8_t* out) const {
  const bool left = operation == Operation::kTransposeLeft;
  const bool right = operation == Operation::kTransposeRight;
  const uint64_t rows = left ? a.columns : a.rows;
  const uint64_t columns = right ? b.rows : b.columns;
  const ResidueGemm gemm =
      ResidueGemmOf(rows, left ? a.rows : a.columns, columns, limits_.sum_elements);
  const auto packed = [&](const Residues& from, bool is_transposed, int8_t* to,
                          uint64_t to_rows) -> absl::StatusOr<const int8_t*> {
    if (!is_transposed && from.rows == to_rows && from.columns == gemm.padded_inner &&
        reinterpret_cast<uintptr_t>(from.data) % kUnitAlignment == 0) {
      return from.data;
    }
    PAVISE_RETURN_IF_ERROR(stream.Run(PackKernel<int8_t>{
        from.data, from.rows, from.columns, is_transposed, to, to_rows, gemm.padded_inner,
        PackKernel<int8_t>::SizeOf(to_rows, gemm.padded_inner)}));
    return to;
  };
  PAVISE_ASSIGN_OR_RETURN(const int8_t* const x,
                          packed(a, left, buffers.left.as<int8_t>(), gemm.padded_rows));
  PAVISE_ASSIGN_OR_RETURN(const int8_t* const y,
                          packed(b, !right, buffers.right.as<int8_t>(), gemm.padded_columns));
  int32_t* const sums = buffers.sums.as<int32_t>();
  for (uint64_t first = 0; first < rows; first += gemm.rows_at_once) {
    const uint64_t padded_count = std::min(gemm.rows_at_once, gemm.padded_rows - first);
    const uint64_t count = std::min(padded_count, rows - first);
    PAVISE_RETURN_IF_ERROR(stream.Multiply(gemm.ForRows(padded_count), y,
                                           x + first * gemm.padded_inner, /*add=*/false, sums));
    PAVISE_RETURN_IF_ERROR(stream.Run(ReduceKernel{sums, gemm.padded_columns, out + first * columns,
                                                   columns, modulus, count * columns}));
  }
  return absl::OkStatus();
}

absl::Status GpuDevice::ConvolveResidues(GpuStream& stream, const Multiplication& multiplication,
                                         const Buffers& buffers, const GpuMatrix& a,
                                         const GpuMatrix& b, const GpuMatrix& out) const {
  const ConvolutionShape& shape = *multiplication.convolution;
  const Samples samples(shape, limits_.column_elements);
  const Window window = WindowOf(shape);
  const Operation operation = multiplication.operation;
  const int modulus = out.form().modulus;
  const uint64_t outputs = b.form().columns;
  int8_t* const to = out.as<int8_t>();
  int8_t* const columns = buffers.columns.as<int8_t>();
  for (uint64_t first = 0; first < shape.samples; first += samples.at_once) {
    const uint64_t count = std::min<uint64_t>(samples.at_once, shape.samples - first);
    const uint64_t rows = count * samples.outputs;
    const uint64_t first_input = first * samples.inputs * shape.channels;
    const uint64_t first_output = first * samples.outputs * outputs;
    const Residues weights = {b.as<const int8_t>(), b.form().rows, outputs};
    if (operation == Operation::kTransposeRight) {
      const Residues gradients = {a.as<const int8_t>() + first_output, rows, outputs};
      PAVISE_RETURN_IF_ERROR(
          MultiplyResidues(stream, operation, buffers, gradients, weights, modulus, columns));
      PAVISE_RETURN_IF_ERROR(stream.Run(ColumnsToImageKernel<int8_t, int32_t>{
          columns, to + first_input, window, modulus, count * samples.inputs * shape.channels}));
      continue;
    }
    PAVISE_RETURN_IF_ERROR(stream.Run(ImageToColumnsKernel<uint8_t>{
        a.as<const uint8_t>() + first_input, buffers.columns.as<uint8_t>(), window,
        rows * samples.column_count}));
    const Residues images = {columns, rows, samples.column_count};
    if (operation == Operation::kPlain) {
      PAVISE_RETURN_IF_ERROR(MultiplyResidues(stream, operation, buffers, images, weights, modulus,
                                              to + first_output));
      continue;
    }
    const Residues gradients = {b.as<const int8_t>() + first_output, rows, outputs};
    int8_t* const part = first == 0 ? to : buffers.weights.as<int8_t>();
    PAVISE_RETURN_IF_ERROR(
        MultiplyResidues(stream, operation, buffers, images, gradients, modulus, part));
    if (first != 0) {
      PAVISE_RETURN_IF_ERROR(stream.Run(AddResiduesKernel{to, part, modulus, out.elements()}));
    }
  }
  return absl::OkStatus();
}

absl::Status GpuDevice::CheckFinite(const DeviceMatrix& matrix, std::string_view item) {
  if (matrix.form().modulus != 0) return absl::OkStatus();
  Findings findings;
  const auto work = [&](GpuStream& stream) -> absl::Status {
    PAVISE_RETURN_IF_ERROR(stream.ClearFindings());
    return stream.Run(ConvertKernel{.from = Of(matrix).as<const void>(),
                                    .from_type = matrix.form().type,
                                    .count = Of(matrix).elements(),
                                    .findings = stream.device_findings()});
  };
  PAVISE_RETURN_IF_ERROR(OnStream(work, &findings));
  if (findings.first_unfit == kNowhere) return absl::OkStatus();
  return NotFinite(matrix.form(), findings.first_unfit, item);
}

absl::Status GpuDevice::Add(DeviceMatrix& sum, const DeviceMatrix& addend) {
  const uint64_t count = Of(sum).elements();
  const int modulus = sum.form().modulus;
  return OnStream([&](GpuStream& stream) {
    if (modulus == 0) {
      return stream.Run(AddFloatsKernel{Of(sum).as<float>(), Of(addend).as<const float>(), count});
    }
    return stream.Run(
        AddResiduesKernel{Of(sum).as<int8_t>(), Of(addend).as<const int8_t>(), modulus, count});
  });
}

absl::Status GpuDevice::Update(const SgdStep& step, const KeyShift& shift,
                               const DeviceMatrix& gradient, DeviceMatrix& velocity,
                               DeviceMatrix& weights) {
  // A number for each row and column, beside as many numbers as both multiplied.
  const auto allocate = [&](const std::vector<float>& factors) {
    return DeviceMemory::Allocate(runtime_, factors.size() * sizeof(float), "key shift");
  };
  PAVISE_ASSIGN_OR_RETURN(const DeviceMemory rows, allocate(shift.rows));
  PAVISE_ASSIGN_OR_RETURN(const DeviceMemory columns, allocate(shift.columns));
  return OnStream([&](GpuStream& stream) -> absl::Status {
    int piece = 0;
    const auto copy = [&](const std::vector<float>& factors, float* to) -> absl::Status {
      for (uint64_t first = 0; first < factors.size();
           first += kPieceElements, piece = (piece + 1) % GpuStream::kPieces) {
        const uint64_t size_bytes =
            std::min<uint64_t>(kPieceElements, factors.size() - first) * sizeof(float);
        PAVISE_RETURN_IF_ERROR(stream.WaitForTransfer(piece));
        std::memcpy(stream.pinned(piece), factors.data() + first, size_bytes);
        PAVISE_RETURN_IF_ERROR(stream.CopyToDevice(to + first, stream.pinned(piece), size_bytes));
        PAVISE_RETURN_IF_ERROR(stream.MarkTransfer(piece));
      }
      return absl::OkStatus();
    };
    PAVISE_RETURN_IF_ERROR(copy(shift.rows, rows.as<float>()));
    PAVISE_RETURN_IF_ERROR(copy(shift.columns, columns.as<float>()));
    return stream.Run(SgdKernel{.gradient = Of(gradient).as<const float>(),
                                .velocity = Of(velocity).as<float>(),
                                .weights = Of(weights).as<float>(),
                                .columns = weights.form().columns,
                                .count = Of(weights).elements(),
                                .row_factors = rows.as<const float>(),
                                .row_factor_count = std::max<uint64_t>(shift.rows.size(), 1),
                                .column_factors = columns.as<const float>(),
                                .learning_rate = step.learning_rate,
                                .momentum = step.momentum,
                                .weight_decay = step.weight_decay});
  });
}

}  // namespace

std::shared_ptr<ComputeDevice> NewGpuDevice(std::shared_ptr<GpuRuntime> runtime,
                                            const GpuLimits& limits) {
  return std::make_shared<GpuDevice>(std::move(runtime), limits);
}

}  // namespace pavise::offload::cuda
