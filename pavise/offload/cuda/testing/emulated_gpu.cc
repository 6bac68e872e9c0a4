#include "pavise/offload/cuda/testing/emulated_gpu.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::offload::testing {
namespace {

using cuda::Findings;
using cuda::Gemm;
using cuda::GemmType;
using cuda::GpuStream;

// What cudaMalloc promises.
constexpr uint64_t kAlignment = 256;
constexpr uint64_t kLibraryBytes = 40;

template <typename Element, typename Sum, typename Widen>
void MultiplyAs(const Gemm& g, const void* first, const void* second, bool add, void* result,
                const Widen& widen) {
  const auto* const x = static_cast<const Element*>(first);
  const auto* const y = static_cast<const Element*>(second);
  auto* const out = static_cast<Sum*>(result);
  for (uint64_t j = 0; j < g.n; ++j) {
    for (uint64_t i = 0; i < g.m; ++i) {
      Sum sum = 0;
      for (uint64_t l = 0; l < g.k; ++l) {
        const uint64_t a = g.first_transposed ? i * g.first_stride + l : l * g.first_stride + i;
        const uint64_t b = g.second_transposed ? l * g.second_stride + j : j * g.second_stride + l;
        sum += static_cast<Sum>(widen(x[a])) * static_cast<Sum>(widen(y[b]));
      }
      Sum& to = out[j * g.result_stride + i];
      to = add ? to + sum : sum;
    }
  }
}

bool IsAligned(const void* pointer, uint64_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// As cuBLASLt's documentation has it for int8 in plain layouts, and n as others found it.
bool IsOfInt8Units(const Gemm& g, const void* first, const void* second, const void* result) {
  return g.first_transposed && !g.second_transposed && g.m % 4 == 0 && g.k % 4 == 0 && g.n > 16 &&
         g.first_stride % 4 == 0 && g.second_stride % 4 == 0 && g.result_stride % 4 == 0 &&
         IsAligned(first, 16) && IsAligned(second, 16) && IsAligned(result, 16);
}

void ConvolveAs(const HostConvolution& convolution, const float* a, const float* b, float* out) {
  const ConvolutionShape& s = convolution.shape;
  const size_t k = convolution.outputs;
  const size_t out_height = s.output_height(), out_width = s.output_width();
  const bool forward = convolution.operation == Operation::kPlain;
  const bool to_images = convolution.operation == Operation::kTransposeRight;
  const size_t results = forward     ? s.samples * out_height * out_width * k
                         : to_images ? s.samples * s.height * s.width * s.channels
                                     : k * s.taps() * s.channels;
  std::fill_n(out, results, 0.0f);
  for (size_t n = 0; n < s.samples; ++n) {
    for (size_t y = 0; y < out_height * out_width; ++y) {
      for (size_t o = 0; o < k; ++o) {
        const size_t output = (n * out_height * out_width + y) * k + o;
        for (size_t tap = 0; tap < s.taps(); ++tap) {
          const int64_t row =
              static_cast<int64_t>(y / out_width * s.stride + tap / s.kernel_width) -
              static_cast<int64_t>(s.padding);
          const int64_t column =
              static_cast<int64_t>(y % out_width * s.stride + tap % s.kernel_width) -
              static_cast<int64_t>(s.padding);
          if (row < 0 || column < 0 || row >= static_cast<int64_t>(s.height) ||
              column >= static_cast<int64_t>(s.width)) {
            continue;
          }
          for (size_t c = 0; c < s.channels; ++c) {
            const size_t pixel = ((n * s.height + static_cast<size_t>(row)) * s.width +
                                  static_cast<size_t>(column)) *
                                     s.channels +
                                 c;
            const size_t weight = (o * s.taps() + tap) * s.channels + c;
            if (forward) {
              out[output] += a[pixel] * b[weight];
            } else if (to_images) {
              out[pixel] += a[output] * b[weight];
            } else {
              out[weight] += a[pixel] * b[output];
            }
          }
        }
      }
    }
  }
}

}  // namespace

class EmulatedStream final : public GpuStream {
 public:
  explicit EmulatedStream(EmulatedGpu& gpu) : gpu_(gpu) {}
  ~EmulatedStream() override { Finish(0); }

  uint8_t* pinned(int piece) override { return pinned_[static_cast<size_t>(piece)].data(); }
  uint8_t* device_piece(int piece) override { return pieces_[static_cast<size_t>(piece)].data(); }
  Findings* device_findings() override { return &device_findings_; }
  const Findings& findings() const override { return findings_; }

  absl::Status CopyToDevice(void* device, const uint8_t* pinned, uint64_t size_bytes) override {
    return Copy(device, pinned, size_bytes);
  }
  absl::Status CopyToHost(uint8_t* pinned, const void* device, uint64_t size_bytes) override {
    return Copy(pinned, device, size_bytes);
  }
  absl::Status MarkTransfer(int piece) override {
    marks_[static_cast<size_t>(piece)] = queued_;
    return absl::OkStatus();
  }
  absl::Status WaitForTransfer(int piece) override {
    const uint64_t mark = marks_[static_cast<size_t>(piece)];
    Finish(queued_ - std::min(mark, queued_));
    return absl::OkStatus();
  }
  absl::Status Clear(void* device, uint64_t size_bytes) override {
    return Queue([=] { std::memset(device, 0, size_bytes); });
  }
  absl::Status ClearFindings() override {
    return Queue([this] { device_findings_ = {}; });
  }
  absl::Status Run(const cuda::Kernel& kernel) override {
    return Queue([kernel] {
      std::visit(
          [](const auto& body) {
            // Backwards: an order that no kernel may count on.
            for (uint64_t i = body.count; i-- > 0;) body(i);
          },
          kernel);
    });
  }
  absl::Status Multiply(const Gemm& gemm, const void* first, const void* second, bool add,
                        void* result) override {
    if (gemm.type == GemmType::kInt8 && !IsOfInt8Units(gemm, first, second, result)) {
      return MachineFailure("emulated GPU", "no such product of int8");
    }
    return Queue([=] {
      switch (gemm.type) {
        case GemmType::kFp32:
          MultiplyAs<float, float>(gemm, first, second, add, result, [](float v) { return v; });
          break;
        case GemmType::kBf16:
          MultiplyAs<uint16_t, float>(gemm, first, second, add, result, cuda::WidenBf16);
          break;
        case GemmType::kFp16:
          MultiplyAs<uint16_t, float>(gemm, first, second, add, result, cuda::WidenFp16);
          break;
        case GemmType::kInt8:
          MultiplyAs<int8_t, int32_t>(gemm, first, second, add, result, [](int8_t v) { return v; });
          break;
      }
    });
  }
  absl::Status Convolve(const HostConvolution& convolution, const float* a, const float* b,
                        float* out, void* workspace, uint64_t workspace_bytes) override {
    if (workspace == nullptr || workspace_bytes != kLibraryBytes) {
      return MachineFailure("emulated GPU", "no workspace");
    }
    ++gpu_.convolutions_;
    return Queue([=] {
      std::memset(workspace, 0x5A, workspace_bytes);
      ConvolveAs(convolution, a, b, out);
    });
  }
  absl::Status Wait() override {
    Finish(0);
    findings_ = device_findings_;
    return absl::OkStatus();
  }

 private:
  absl::Status Queue(std::function<void()> work) {
    work_.push_back(std::move(work));
    ++queued_;
    return absl::OkStatus();
  }
  absl::Status Copy(void* to, const void* from, uint64_t size_bytes) {
    if (size_bytes > kPieceBytes) return MachineFailure("emulated GPU", "too large a piece");
    return Queue([=] { std::memcpy(to, from, size_bytes); });
  }
  void Finish(uint64_t left) {
    while (work_.size() > left) {
      work_.front()();
      work_.pop_front();
    }
  }

  EmulatedGpu& gpu_;
  std::array<std::vector<uint8_t>, kPieces> pinned_{std::vector<uint8_t>(kPieceBytes, 0xAB),
                                                    std::vector<uint8_t>(kPieceBytes, 0xAB)};
  std::array<std::vector<uint8_t>, kPieces> pieces_ = pinned_;
  std::array<uint64_t, kPieces> marks_ = {};
  Findings device_findings_;
  Findings findings_;
  std::deque<std::function<void()>> work_;
  uint64_t queued_ = 0;
};

absl::StatusOr<void*> EmulatedGpu::Allocate(uint64_t size_bytes, std::string_view item) {
  const uint64_t allocated = allocated_bytes_ += size_bytes;
  if (allocated > memory_bytes_) {
    allocated_bytes_ -= size_bytes;
    return MachineFailure(item, StrCat("no memory for ", size_bytes, " bytes"));
  }
  uint64_t peak = peak_bytes_;
  while (allocated > peak && !peak_bytes_.compare_exchange_weak(peak, allocated)) {
  }
  // The size is kept in front.
  auto* const memory = static_cast<uint8_t*>(std::aligned_alloc(
      kAlignment, kAlignment + (size_bytes + kAlignment - 1) / kAlignment * kAlignment));
  if (memory == nullptr) return MachineFailure(item, "no memory");
  std::memcpy(memory, &size_bytes, sizeof size_bytes);
  std::memset(memory + kAlignment, 0xAB, size_bytes);
  return memory + kAlignment;
}

void EmulatedGpu::Free(void* device) {
  uint8_t* const memory = static_cast<uint8_t*>(device) - kAlignment;
  uint64_t size_bytes;
  std::memcpy(&size_bytes, memory, sizeof size_bytes);
  // What reads it later is seen to.
  std::memset(device, 0xCD, size_bytes);
  allocated_bytes_ -= size_bytes;
  std::free(memory);
}

absl::StatusOr<std::unique_ptr<cuda::GpuStream>> EmulatedGpu::NewStream() {
  return std::make_unique<EmulatedStream>(*this);
}

std::optional<uint64_t> EmulatedGpu::ConvolutionWorkspaceBytes(const HostConvolution&) {
  if (!convolves_) return std::nullopt;
  return kLibraryBytes;
}

}  // namespace pavise::offload::testing
