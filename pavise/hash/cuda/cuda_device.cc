#include "pavise/hash/cuda/cuda_device.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/cuda/cufile_library.h"
#include "pavise/hash/cuda/kernels.h"
#include "pavise/hash/cuda/launch_plan.h"
#include "pavise/hash/cuda/nvml_library.h"
#include "pavise/hash/cuda/tag_kernel.h"
#include "pavise/hash/internal/batch_checks.h"

namespace pavise::hash {
namespace {

using cuda::Blake3Plan;
using cuda::RangeDescriptor;

// Below this, kernels for the device's instruction set are not built.
constexpr int kOldestMajor = 7;
constexpr int kOldestMinor = 5;
// Of what is put one after the other into an arena: cudaMalloc's own, and a multiple of 16.
constexpr uint64_t kArenaAlignment = 256;
constexpr uint64_t kSmallestArenaBlock = uint64_t{1} << 20;
// Eight chunks a lane leave a multiprocessor's 640 lanes (blake3.cu) without work below this; one
// chunk a lane spreads the same bytes over eight times as many.
constexpr uint64_t kWantedLanesPerMultiprocessor = 640;
constexpr size_t kPiecesInFlight = 3;
// One core copies about 10 GB/s into pinned memory, the bus takes 25 to 50.
constexpr unsigned kCopyThreads = 4;
constexpr uint64_t kLeastBytesPerCopyThread = uint64_t{4} << 20;

std::string ErrorText(cudaError_t error) {
  return StrCat(cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

// Errors after which CUDA goes on as if the call had not been made. Any other leaves its context in
// an unknown state, or is one that this code does not know: the device counts as lost.
bool IsRecoverable(cudaError_t error) {
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorMemoryAllocation:
    case cudaErrorInvalidConfiguration:
    case cudaErrorInvalidResourceHandle:
    case cudaErrorInvalidDevicePointer:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorHostMemoryAlreadyRegistered:
    case cudaErrorNotSupported:
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureImplicit:
      return true;
    default:
      return false;
  }
}

std::string VersionText(int version) { return StrCat(version / 1000, ".", version % 1000 / 10); }

// The number of GPUs, at least 1; or why there is none.
absl::StatusOr<int> CountDevices(std::string_view item) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (error == cudaSuccess && count > 0) return count;
  if (error == cudaErrorInsufficientDriver || error == cudaErrorStubLibrary) {
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaGetLastError();
    const std::string needed =
        StrCat("this build needs an NVIDIA driver for CUDA ", VersionText(CUDART_VERSION));
    return Refuse(Reason::kUnsupported, item,
                  driver == 0 ? StrCat("no NVIDIA driver (libcuda.so.1); ", needed)
                              : StrCat("the NVIDIA driver is one for CUDA ", VersionText(driver),
                                       "; ", needed),
                  "install a newer NVIDIA driver, or name another device");
  }
  if (error == cudaSuccess || error == cudaErrorNoDevice) {
    return Refuse(Reason::kUnsupported, item, "no NVIDIA GPU is visible to this process",
                  "check nvidia-smi and CUDA_VISIBLE_DEVICES, or name another device");
  }
  return MachineFailure(item, StrCat("cudaGetDeviceCount: ", ErrorText(error)));
}

absl::StatusOr<CudaDeviceInfo> InfoOf(int ordinal) {
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, ordinal);
      error != cudaSuccess) {
    (void)cudaGetLastError();
    return MachineFailure(StrCat("cuda:", ordinal),
                          StrCat("cudaGetDeviceProperties: ", ErrorText(error)));
  }
  return CudaDeviceInfo{.ordinal = ordinal,
                        .name = properties.name,
                        .compute_capability_major = properties.major,
                        .compute_capability_minor = properties.minor,
                        .multiprocessors = properties.multiProcessorCount,
                        .memory_bytes = properties.totalGlobalMem};
}

// One GPU, and whether it is lost. Thread-safe.
class Gpu {
 public:
  explicit Gpu(CudaDeviceInfo info) : info_(std::move(info)) {}

  const CudaDeviceInfo& info() const { return info_; }
  std::string name() const { return StrCat("cuda:", info_.ordinal); }

  // What a CUDA call's result means; `call` as the reader should see it.
  absl::Status Check(int result, std::string_view call) {
    const auto error = static_cast<cudaError_t>(result);
    if (error == cudaSuccess) return absl::OkStatus();
    (void)cudaGetLastError();  // else the next call would return it again
    const std::string detail = StrCat(call, " on ", info_.name, ": ", ErrorText(error));
    if (!IsRecoverable(error)) {
      const std::lock_guard lock(mutex_);
      if (loss_.empty()) loss_ = detail;
    }
    return MachineFailure(name(), detail);
  }

  // A failure once the device is lost.
  absl::Status CheckUsable() {
    const std::lock_guard lock(mutex_);
    if (loss_.empty()) return absl::OkStatus();
    return MachineFailure(name(), StrCat("the device is lost to this process since ", loss_));
  }

 private:
  const CudaDeviceInfo info_;
  std::mutex mutex_;
  std::string loss_;
};

// Makes a GPU the calling thread's current one, for as long as this lives.
class CurrentDevice {
 public:
  static absl::StatusOr<CurrentDevice> Enter(Gpu& gpu) {
    PAVISE_RETURN_IF_ERROR(gpu.CheckUsable());
    int previous = 0;
    PAVISE_RETURN_IF_ERROR(gpu.Check(cudaGetDevice(&previous), "cudaGetDevice"));
    PAVISE_RETURN_IF_ERROR(gpu.Check(cudaSetDevice(gpu.info().ordinal), "cudaSetDevice"));
    return CurrentDevice(previous);
  }
  ~CurrentDevice() {
    if (previous_.has_value()) (void)cudaSetDevice(*previous_);
  }
  CurrentDevice(CurrentDevice&& other) noexcept
      : previous_(std::exchange(other.previous_, std::nullopt)) {}
  CurrentDevice& operator=(CurrentDevice&&) = delete;

 private:
  explicit CurrentDevice(int previous) : previous_(previous) {}
  std::optional<int> previous_;
};

enum class MemoryKind { kDevice, kPinned };

// A piece of memory, freed when it goes. The GPU must have finished with it.
class Memory {
 public:
  // With the GPU current.
  static absl::StatusOr<Memory> Allocate(Gpu& gpu, MemoryKind kind, uint64_t size_bytes) {
    void* pointer = nullptr;
    if (kind == MemoryKind::kDevice) {
      PAVISE_RETURN_IF_ERROR(gpu.Check(cudaMalloc(&pointer, size_bytes),
                                       StrCat("cudaMalloc of ", HumanBytes(size_bytes))));
    } else {
      PAVISE_RETURN_IF_ERROR(gpu.Check(cudaHostAlloc(&pointer, size_bytes, cudaHostAllocDefault),
                                       StrCat("cudaHostAlloc of ", HumanBytes(size_bytes))));
    }
    return Memory(kind, static_cast<uint8_t*>(pointer), size_bytes);
  }
  ~Memory() {
    if (data_ == nullptr) return;
    // Both find the device by themselves; their errors are ones that an earlier call had.
    (void)(kind_ == MemoryKind::kDevice ? cudaFree(data_) : cudaFreeHost(data_));
    (void)cudaGetLastError();
  }
  Memory(Memory&& other) noexcept
      : kind_(other.kind_),
        data_(std::exchange(other.data_, nullptr)),
        size_bytes_(other.size_bytes_) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(kind_, other.kind_);
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }

  uint8_t* data() const { return data_; }
  uint64_t size_bytes() const { return size_bytes_; }

 private:
  Memory(MemoryKind kind, uint8_t* data, uint64_t size_bytes)
      : kind_(kind), data_(data), size_bytes_(size_bytes) {}
  MemoryKind kind_;
  uint8_t* data_;
  uint64_t size_bytes_;
};

// Memory handed out piece by piece and taken back all at once, so that a stream in steady use
// allocates nothing.
class Arena {
 public:
  Arena(Gpu& gpu, MemoryKind kind) : gpu_(gpu), kind_(kind) {}

  // With the GPU current.
  absl::StatusOr<uint8_t*> Take(uint64_t size_bytes) {
    const uint64_t rounded = (size_bytes + kArenaAlignment - 1) / kArenaAlignment * kArenaAlignment;
    if (blocks_.empty() || blocks_.back().size_bytes() - used_bytes_ < rounded) {
      const uint64_t wanted = std::max(
          {rounded, kSmallestArenaBlock, blocks_.empty() ? 0 : blocks_.back().size_bytes()});
      PAVISE_ASSIGN_OR_RETURN(Memory block, Memory::Allocate(gpu_, kind_, wanted));
      blocks_.push_back(std::move(block));
      used_bytes_ = 0;
    }
    uint8_t* taken = blocks_.back().data() + used_bytes_;
    used_bytes_ += rounded;
    return taken;
  }

  // The GPU has finished with all that was taken.
  void TakeBack() {
    if (blocks_.size() > 1) {
      const auto largest = std::max_element(
          blocks_.begin(), blocks_.end(),
          [](const Memory& a, const Memory& b) { return a.size_bytes() < b.size_bytes(); });
      std::swap(*largest, blocks_.front());
      blocks_.erase(blocks_.begin() + 1, blocks_.end());
    }
    used_bytes_ = 0;
  }

 private:
  Gpu& gpu_;
  const MemoryKind kind_;
  std::vector<Memory> blocks_;
  uint64_t used_bytes_ = 0;  // of the last block
};

class CudaStream final : public Stream {
 public:
  CudaStream(const Device& device, std::shared_ptr<Gpu> gpu, cudaStream_t stream, bool owns)
      : device_(device),
        gpu_(std::move(gpu)),
        stream_(stream),
        owns_(owns),
        device_arena_(*gpu_, MemoryKind::kDevice),
        pinned_arena_(*gpu_, MemoryKind::kPinned) {}
  ~CudaStream() override {
    Wait().IgnoreError();
    if (owns_) (void)cudaStreamDestroy(stream_);
    (void)cudaGetLastError();
  }

  absl::Status Wait() override {
    std::vector<Result> results = std::exchange(results_, {});
    absl::Status status;
    {
      // Wiped while the memory is still the arena's.
      const Wiping wiping{std::exchange(secrets_, {})};
      PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
      status = Finish();
    }
    PAVISE_RETURN_IF_ERROR(status);
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    for (const Result& result : results) {
      std::memcpy(result.out.data(), result.pinned, result.out.size());
    }
    device_arena_.TakeBack();
    pinned_arena_.TakeBack();
    return absl::OkStatus();
  }

  const Device& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }

  // With the GPU current. Waits as Wait does, and keeps what was taken and queued.
  absl::Status Finish() {
    return gpu_->Check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

  // With the GPU current, as all below. Device memory that stays until Wait.
  absl::StatusOr<uint8_t*> Scratch(uint64_t size_bytes) { return device_arena_.Take(size_bytes); }
  // The same, cleared on the stream: a kernel that writes nothing must not deliver what an earlier
  // call left there.
  absl::StatusOr<uint8_t*> ClearedScratch(uint64_t size_bytes) {
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const taken, Scratch(size_bytes));
    PAVISE_RETURN_IF_ERROR(
        gpu_->Check(cudaMemsetAsync(taken, 0, size_bytes, stream_), "cudaMemsetAsync"));
    return taken;
  }

  // A copy of `values` in device memory, on its way on the stream. Gone through pinned memory, so
  // that it neither waits for what is queued nor needs `values` later.
  template <class T>
  absl::StatusOr<const T*> Upload(const std::vector<T>& values) {
    const uint64_t size_bytes = values.size() * sizeof(T);
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const pinned, pinned_arena_.Take(size_bytes));
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const copy, device_arena_.Take(size_bytes));
    std::memcpy(pinned, values.data(), size_bytes);
    PAVISE_RETURN_IF_ERROR(
        gpu_->Check(cudaMemcpyAsync(copy, pinned, size_bytes, cudaMemcpyHostToDevice, stream_),
                    "cudaMemcpyAsync to the device"));
    return reinterpret_cast<const T*>(copy);
  }

  // Pinned memory for secrets, wiped in Wait.
  absl::StatusOr<std::span<uint8_t>> SecretPinned(uint64_t size_bytes) {
    secrets_.reserve(secrets_.size() + 1);
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const pinned, pinned_arena_.Take(size_bytes));
    secrets_.push_back({pinned, size_bytes});
    return secrets_.back();
  }

  // Wait fills `out` from `result`, device memory that earlier work on the stream writes.
  absl::Status Fetch(const uint8_t* result, std::span<uint8_t> out) {
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const pinned, pinned_arena_.Take(out.size()));
    PAVISE_RETURN_IF_ERROR(
        gpu_->Check(cudaMemcpyAsync(pinned, result, out.size(), cudaMemcpyDeviceToHost, stream_),
                    "cudaMemcpyAsync to the host"));
    results_.push_back({pinned, out});
    return absl::OkStatus();
  }

 private:
  struct Result {
    const uint8_t* pinned;
    std::span<uint8_t> out;
  };
  // Wipes when Wait returns, whether or not the GPU got that far.
  struct Wiping {
    std::vector<std::span<uint8_t>> secrets;
    ~Wiping() {
      for (const std::span<uint8_t> secret : secrets) WipeMemory(secret);
    }
  };
  const Device& device_;
  const std::shared_ptr<Gpu> gpu_;
  const cudaStream_t stream_;
  const bool owns_;
  Arena device_arena_;
  Arena pinned_arena_;
  std::vector<Result> results_;
  std::vector<std::span<uint8_t>> secrets_;  // in pinned_arena_
};

class CudaStaging final : public Staging {
 public:
  CudaStaging(Memory memory, size_t size_bytes)
      : memory_(std::move(memory)), size_bytes_(size_bytes) {}
  std::span<uint8_t> bytes() override { return {memory_.data(), size_bytes_}; }

 private:
  Memory memory_;
  size_t size_bytes_;
};

// Device memory, its own or borrowed.
class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(const Device& device, int ordinal, const uint8_t* data, uint64_t size_bytes)
      : device_(device), ordinal_(ordinal), data_(data), size_bytes_(size_bytes) {}
  CudaBuffer(const Device& device, int ordinal, Memory memory, uint64_t size_bytes)
      : device_(device),
        ordinal_(ordinal),
        owned_(std::move(memory)),
        data_(owned_->data()),
        size_bytes_(size_bytes) {}

  uint64_t size_bytes() const override { return size_bytes_; }
  const Device& device() const override { return device_; }
  const uint8_t* data() const { return data_; }
  // nullptr for borrowed memory.
  uint8_t* owned_data() { return owned_.has_value() ? owned_->data() : nullptr; }
  NativeMemory native_memory() const override {
    return {NativeMemory::Kind::kCuda, const_cast<uint8_t*>(data_), ordinal_};
  }

 private:
  const Device& device_;
  int ordinal_;
  std::optional<Memory> owned_;
  const uint8_t* data_;
  uint64_t size_bytes_;
};

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(CudaDeviceInfo info) : gpu_(std::make_shared<Gpu>(std::move(info))) {}

  std::string name() const override { return gpu_->name(); }

  std::string description() const override {
    const CudaDeviceInfo& info = gpu_->info();
    int driver = 0;
    (void)cudaDriverGetVersion(&driver);
    return StrCat(info.name, ", compute capability ", info.compute_capability_major, ".",
                  info.compute_capability_minor, ", ", info.multiprocessors, " multiprocessors, ",
                  HumanBytes(info.memory_bytes), ", driver for CUDA ", VersionText(driver));
  }

  bool supports(Algorithm algorithm) const override {
    return algorithm == Algorithm::kSha256 || algorithm == Algorithm::kSha384 ||
           algorithm == Algorithm::kBlake3;
  }

  MemoryLink memory_link() const override {
    static const absl::StatusOr<cuda::NvmlLibrary> nvml = cuda::OpenNvml();
    std::array<char, 32> pci_bus_id = {};
    const absl::Status status =
        gpu_->Check(cudaDeviceGetPCIBusId(pci_bus_id.data(), static_cast<int>(pci_bus_id.size()),
                                          gpu_->info().ordinal),
                    "cudaDeviceGetPCIBusId");
    if (!status.ok()) return {MemoryLink::Kind::kPlain, std::string(status.message())};
    return cuda::LinkOfGpu(nvml, pci_bus_id.data());
  }

  absl::StatusOr<std::unique_ptr<DirectReader>> NewDirectReader() override;

  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<CudaStream> stream, NewCudaStream());
    return stream;
  }

  absl::StatusOr<std::unique_ptr<Stream>> NewBackgroundStream() override {
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    int least = 0;
    int greatest = 0;
    PAVISE_RETURN_IF_ERROR(gpu_->Check(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                                       "cudaDeviceGetStreamPriorityRange"));
    cudaStream_t stream = nullptr;
    PAVISE_RETURN_IF_ERROR(
        gpu_->Check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, least),
                    "cudaStreamCreateWithPriority"));
    return std::make_unique<CudaStream>(*this, gpu_, stream, true);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Upload(ByteSpan host) override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, Allocate(host.size()));
    if (host.empty()) return buffer;
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const target, Writable(*buffer));
    PAVISE_RETURN_IF_ERROR(
        gpu_->Check(cudaMemcpy(target, host.data(), host.size(), cudaMemcpyHostToDevice),
                    StrCat("cudaMemcpy of ", HumanBytes(host.size()))));
    // A copy from pageable memory may return before its last bytes arrived, and our streams do not
    // wait for the default one.
    PAVISE_RETURN_IF_ERROR(
        gpu_->Check(cudaStreamSynchronize(cudaStreamLegacy), "cudaStreamSynchronize"));
    return buffer;
  }

  uint64_t memory_bytes() const override { return gpu_->info().memory_bytes; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(uint64_t size_bytes) override {
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    PAVISE_ASSIGN_OR_RETURN(Memory memory, Memory::Allocate(*gpu_, MemoryKind::kDevice,
                                                            std::max<uint64_t>(size_bytes, 1)));
    return std::make_unique<CudaBuffer>(*this, gpu_->info().ordinal, std::move(memory), size_bytes);
  }

  absl::StatusOr<std::unique_ptr<Staging>> AllocateStaging(size_t size_bytes) override {
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    PAVISE_ASSIGN_OR_RETURN(Memory memory, Memory::Allocate(*gpu_, MemoryKind::kPinned,
                                                            std::max<uint64_t>(size_bytes, 1)));
    return std::make_unique<CudaStaging>(std::move(memory), size_bytes);
  }

  absl::Status CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                      Stream& stream) override {
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const target, Writable(buffer));
    PAVISE_ASSIGN_OR_RETURN(CudaStream* const queue, Own(stream));
    PAVISE_RETURN_IF_ERROR(
        CheckCopy(name(), {offset_bytes, host.size()}, buffer.size_bytes(), host.size()));
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    if (host.empty()) return absl::OkStatus();
    return gpu_->Check(cudaMemcpyAsync(target + offset_bytes, host.data(), host.size(),
                                       cudaMemcpyHostToDevice, queue->stream()),
                       "cudaMemcpyAsync to the device");
  }

  absl::Status CopyOut(const Buffer& buffer, Range range, Stream& stream,
                       std::span<uint8_t> host) override {
    PAVISE_ASSIGN_OR_RETURN(const CudaBuffer* const bytes, Own(buffer));
    PAVISE_ASSIGN_OR_RETURN(CudaStream* const queue, Own(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name(), range, bytes->size_bytes(), host.size()));
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    if (host.empty()) return absl::OkStatus();
    return WithoutExceptions(
        [&] { return queue->Fetch(bytes->data() + range.offset_bytes, host); });
  }

  absl::Status CopyWithin(const Buffer& from, Range range, Buffer& to, uint64_t offset_bytes,
                          Stream& stream) override {
    PAVISE_ASSIGN_OR_RETURN(const CudaBuffer* const source, Own(from));
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const target, Writable(to));
    PAVISE_ASSIGN_OR_RETURN(CudaStream* const queue, Own(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopyWithin(name(), from, range, to, offset_bytes));
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    if (range.size_bytes == 0) return absl::OkStatus();
    return gpu_->Check(cudaMemcpyAsync(target + offset_bytes, source->data() + range.offset_bytes,
                                       range.size_bytes, cudaMemcpyDeviceToDevice, queue->stream()),
                       "cudaMemcpyAsync within the device");
  }

  bool supports_tags() const override { return true; }

  absl::Status Tag(std::span<const TagKey* const> keys, const Buffer& buffer, Range range,
                   uint64_t first_range, Stream& stream, std::span<RangeTag> out) override {
    PAVISE_ASSIGN_OR_RETURN(const CudaBuffer* const bytes, Own(buffer));
    PAVISE_ASSIGN_OR_RETURN(CudaStream* const queue, Own(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name(), range, bytes->size_bytes(), range.size_bytes));
    PAVISE_RETURN_IF_ERROR(CheckTagCall(keys, range.size_bytes, first_range, out.size()).status());
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    if (out.empty()) return absl::OkStatus();
    return WithoutExceptions([&]() -> absl::Status {
      // The kernel wipes the device's copy of the keys, Wait the pinned one.
      PAVISE_ASSIGN_OR_RETURN(const std::span<uint8_t> pinned,
                              queue->SecretPinned(keys.size() * cuda::kTagKeyDeviceBytes));
      for (size_t i = 0; i < keys.size(); ++i) {
        cuda::PackTagKey(
            keys[i]->rows(), keys[i]->blake3_key(),
            pinned.subspan(i * cuda::kTagKeyDeviceBytes).first<cuda::kTagKeyDeviceBytes>());
      }
      PAVISE_ASSIGN_OR_RETURN(uint8_t* const device_keys, queue->Scratch(pinned.size()));
      const std::span<uint8_t> values(reinterpret_cast<uint8_t*>(out.data()),
                                      out.size() * sizeof(RangeTag));
      PAVISE_ASSIGN_OR_RETURN(uint8_t* const tags, queue->ClearedScratch(values.size()));
      PAVISE_RETURN_IF_ERROR(gpu_->Check(cudaMemcpyAsync(device_keys, pinned.data(), pinned.size(),
                                                         cudaMemcpyHostToDevice, queue->stream()),
                                         "cudaMemcpyAsync to the device"));
      const cuda::TagLaunch launch = {.data = bytes->data() + range.offset_bytes,
                                      .size_bytes = range.size_bytes,
                                      .first_range = first_range,
                                      .keys = device_keys,
                                      .key_count = static_cast<uint32_t>(keys.size()),
                                      .tags = tags};
      PAVISE_RETURN_IF_ERROR(
          gpu_->Check(cuda::LaunchTag(launch, queue->stream()), "launch of the tag kernel"));
      return queue->Fetch(tags, values);
    });
  }

  absl::Status Digest(Algorithm algorithm, const Buffer& buffer, std::span<const Range> ranges,
                      Stream& stream, std::span<uint8_t> out) override {
    PAVISE_RETURN_IF_ERROR(CheckSupported(algorithm));
    PAVISE_ASSIGN_OR_RETURN(const CudaBuffer* const bytes, Own(buffer));
    PAVISE_ASSIGN_OR_RETURN(CudaStream* const queue, Own(stream));
    PAVISE_RETURN_IF_ERROR(CheckRanges(algorithm, ranges, bytes->size_bytes(), out.size()));
    PAVISE_RETURN_IF_ERROR(gpu_->CheckUsable());
    if (ranges.empty()) return absl::OkStatus();
    return WithoutExceptions([&]() -> absl::Status {
      std::vector<RangeDescriptor> descriptors = RootsOf(ranges);
      PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
      PAVISE_ASSIGN_OR_RETURN(uint8_t* const digests, queue->ClearedScratch(out.size()));
      if (algorithm == Algorithm::kBlake3) {
        PAVISE_RETURN_IF_ERROR(QueueBlake3(bytes->data(), descriptors, *queue, digests));
      } else {
        cuda::SortForSha2(descriptors);
        PAVISE_RETURN_IF_ERROR(QueueSha2(algorithm, bytes->data(), descriptors, *queue, digests));
      }
      return queue->Fetch(digests, out);
    });
  }

  absl::Status Blake3Subtrees(const Buffer& buffer, std::span<const SubtreeRange> ranges,
                              Stream& stream, std::span<ChainingValue> out) override {
    PAVISE_ASSIGN_OR_RETURN(const CudaBuffer* const bytes, Own(buffer));
    PAVISE_ASSIGN_OR_RETURN(CudaStream* const queue, Own(stream));
    PAVISE_RETURN_IF_ERROR(CheckSubtreeBatch(name(), ranges, bytes->size_bytes(), out.size()));
    PAVISE_RETURN_IF_ERROR(CheckCount(ranges.size()));
    PAVISE_RETURN_IF_ERROR(gpu_->CheckUsable());
    if (ranges.empty()) return absl::OkStatus();
    return WithoutExceptions([&]() -> absl::Status {
      std::vector<RangeDescriptor> descriptors;
      descriptors.reserve(ranges.size());
      for (const SubtreeRange& subtree : ranges) {
        descriptors.push_back({.offset_bytes = subtree.range.offset_bytes,
                               .size_bytes = subtree.range.size_bytes,
                               .first_chunk = subtree.first_chunk,
                               .out = descriptors.size(),
                               .flags = 0,
                               .reserved = 0});
      }
      const std::span<uint8_t> values(reinterpret_cast<uint8_t*>(out.data()),
                                      out.size() * sizeof(ChainingValue));
      PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
      PAVISE_ASSIGN_OR_RETURN(uint8_t* const nodes, queue->ClearedScratch(values.size()));
      PAVISE_RETURN_IF_ERROR(QueueBlake3(bytes->data(), descriptors, *queue, nodes));
      return queue->Fetch(nodes, values);
    });
  }

  absl::StatusOr<std::unique_ptr<Stream>> Wrap(void* stream) {
    PAVISE_RETURN_IF_ERROR(gpu_->CheckUsable());
    return std::make_unique<CudaStream>(*this, gpu_, static_cast<cudaStream_t>(stream), false);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Wrap(const void* pointer, uint64_t size_bytes) {
    if (size_bytes != 0) {
      PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
      // Its first byte and its last: a kernel that reads elsewhere would lose the device.
      for (const uint64_t at : {uint64_t{0}, size_bytes - 1}) {
        cudaPointerAttributes attributes;
        PAVISE_RETURN_IF_ERROR(gpu_->Check(
            cudaPointerGetAttributes(&attributes, static_cast<const uint8_t*>(pointer) + at),
            "cudaPointerGetAttributes"));
        const bool is_device =
            attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
        if (!is_device || attributes.device != gpu_->info().ordinal) {
          return UsageError(StrCat(name(), ": the memory to hash is not this device's"));
        }
      }
    }
    return std::make_unique<CudaBuffer>(*this, gpu_->info().ordinal,
                                        static_cast<const uint8_t*>(pointer), size_bytes);
  }

  absl::Status DigestHost(Algorithm algorithm, ByteSpan host, std::span<const Range> ranges,
                          std::span<uint8_t> out, const HostDigestOptions& options);

  // As DirectFile::Read.
  absl::StatusOr<uint64_t> ReadDirectly(const cuda::CuFileHandle& file, uint64_t offset_bytes,
                                        Buffer& buffer, Range range) const {
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const target, Writable(buffer));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name(), range, buffer.size_bytes(), range.size_bytes));
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    return file.Read(offset_bytes, target, range.offset_bytes, range.size_bytes);
  }

 private:
  // An allocation on the host that fails is the machine's failure.
  template <class Function>
  absl::Status WithoutExceptions(Function function) const {
    try {
      return function();
    } catch (const std::exception& error) {
      return MachineFailure(name(), error.what());
    }
  }

  absl::StatusOr<std::unique_ptr<CudaStream>> NewCudaStream() {
    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    cudaStream_t stream = nullptr;
    PAVISE_RETURN_IF_ERROR(gpu_->Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
                                       "cudaStreamCreateWithFlags"));
    return std::make_unique<CudaStream>(*this, gpu_, stream, true);
  }

  absl::StatusOr<const CudaBuffer*> Own(const Buffer& buffer) const {
    const auto* own = dynamic_cast<const CudaBuffer*>(&buffer);
    if (own == nullptr || &own->device() != this) {
      return UsageError(StrCat(name(), ": the buffer belongs to another device"));
    }
    return own;
  }
  // Where CopyIn may write: memory of our own, not the caller's.
  absl::StatusOr<uint8_t*> Writable(Buffer& buffer) const {
    PAVISE_RETURN_IF_ERROR(Own(std::as_const(buffer)).status());
    uint8_t* const data = static_cast<CudaBuffer&>(buffer).owned_data();
    if (data == nullptr) return UsageError(StrCat(name(), ": the buffer is borrowed"));
    return data;
  }
  absl::StatusOr<CudaStream*> Own(Stream& stream) const {
    auto* own = dynamic_cast<CudaStream*>(&stream);
    if (own == nullptr || &own->device() != this) {
      return UsageError(StrCat(name(), ": the stream belongs to another device"));
    }
    return own;
  }

  absl::Status CheckSupported(Algorithm algorithm) const {
    if (supports(algorithm)) return absl::OkStatus();
    return Refuse(Reason::kUnsupported, name(),
                  StrCat("this device does not compute ", AlgorithmName(algorithm)),
                  "name another device or another algorithm");
  }
  absl::Status CheckCount(size_t count) const {
    if (count < std::numeric_limits<uint32_t>::max()) return absl::OkStatus();
    return UsageError(StrCat(name(), ": ", count, " ranges in one batch"));
  }
  absl::Status CheckRanges(Algorithm algorithm, std::span<const Range> ranges,
                           uint64_t buffer_bytes, size_t out_bytes) const {
    PAVISE_RETURN_IF_ERROR(
        CheckDigestBatch(name(), ranges, buffer_bytes, DigestSizeBytes(algorithm), out_bytes));
    return CheckCount(ranges.size());
  }

  static std::vector<RangeDescriptor> RootsOf(std::span<const Range> ranges) {
    std::vector<RangeDescriptor> descriptors;
    descriptors.reserve(ranges.size());
    for (const Range& range : ranges) {
      descriptors.push_back({.offset_bytes = range.offset_bytes,
                             .size_bytes = range.size_bytes,
                             .first_chunk = 0,
                             .out = descriptors.size(),
                             .flags = cuda::kRangeIsRoot,
                             .reserved = 0});
    }
    return descriptors;
  }

  // The launches; with the GPU current, and at least one range.
  absl::Status QueueSha2(Algorithm algorithm, const uint8_t* base,
                         const std::vector<RangeDescriptor>& sorted, CudaStream& stream,
                         uint8_t* digests) {
    PAVISE_ASSIGN_OR_RETURN(const RangeDescriptor* const ranges, stream.Upload(sorted));
    const cuda::Sha2Arguments arguments = {.base = base,
                                           .ranges = ranges,
                                           .range_count = static_cast<uint32_t>(sorted.size()),
                                           .out = digests};
    if (algorithm == Algorithm::kSha256) {
      return gpu_->Check(cuda::LaunchSha256(arguments, cuda::kDefaultLoads, stream.stream()),
                         "launch of the SHA-256 kernel");
    }
    return gpu_->Check(cuda::LaunchSha384(arguments, cuda::kDefaultLoads, stream.stream()),
                       "launch of the SHA-384 kernel");
  }

  absl::Status QueueLeaves(const uint8_t* base, const RangeDescriptor* ranges, size_t range_count,
                           const std::vector<uint64_t>& first_item, uint32_t chunks_per_lane,
                           CudaStream& stream, uint8_t* nodes, uint8_t* out) {
    PAVISE_ASSIGN_OR_RETURN(const uint64_t* const first, stream.Upload(first_item));
    const cuda::Blake3LeafArguments arguments = {.base = base,
                                                 .ranges = ranges,
                                                 .first_item = first,
                                                 .item_count = first_item.back(),
                                                 .range_count = static_cast<uint32_t>(range_count),
                                                 .nodes = nodes,
                                                 .out = out};
    return gpu_->Check(
        cuda::LaunchBlake3Leaves(arguments, chunks_per_lane, cuda::kDefaultLoads, stream.stream()),
        "launch of BLAKE3's leaf kernel");
  }

  // Levels 1 and up of `plan`; `nodes` are level 0's.
  absl::Status QueueTree(const RangeDescriptor* ranges, size_t range_count, const Blake3Plan& plan,
                         CudaStream& stream, const uint8_t* nodes, uint8_t* out) {
    const uint64_t* first_node = nullptr;
    for (size_t level = 1; level < plan.levels.size(); ++level) {
      if (level == 1) {
        PAVISE_ASSIGN_OR_RETURN(first_node, stream.Upload(plan.levels[0]));
      }
      PAVISE_ASSIGN_OR_RETURN(const uint64_t* const first_group, stream.Upload(plan.levels[level]));
      PAVISE_ASSIGN_OR_RETURN(uint8_t* const out_nodes,
                              stream.ClearedScratch(plan.count(level) * cuda::kNodeBytes));
      const cuda::Blake3TreeArguments arguments = {
          .nodes = nodes,
          .ranges = ranges,
          .first_node = first_node,
          .first_group = first_group,
          .group_count = plan.count(level),
          .range_count = static_cast<uint32_t>(range_count),
          .out_nodes = out_nodes,
          .out = out};
      PAVISE_RETURN_IF_ERROR(gpu_->Check(cuda::LaunchBlake3Tree(arguments, stream.stream()),
                                         "launch of BLAKE3's tree kernel"));
      first_node = first_group;
      nodes = out_nodes;
    }
    return absl::OkStatus();
  }

  absl::Status QueueBlake3(const uint8_t* base, const std::vector<RangeDescriptor>& descriptors,
                           CudaStream& stream, uint8_t* out) {
    const uint64_t wanted_lanes =
        kWantedLanesPerMultiprocessor * static_cast<uint64_t>(gpu_->info().multiprocessors);
    const Blake3Plan plan = cuda::PlanBlake3(descriptors, wanted_lanes);
    PAVISE_ASSIGN_OR_RETURN(const RangeDescriptor* const ranges, stream.Upload(descriptors));
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const nodes,
                            stream.ClearedScratch(plan.count(0) * cuda::kNodeBytes));
    PAVISE_RETURN_IF_ERROR(QueueLeaves(base, ranges, descriptors.size(), plan.levels[0],
                                       plan.chunks_per_lane, stream, nodes, out));
    return QueueTree(ranges, descriptors.size(), plan, stream, nodes, out);
  }

  const std::shared_ptr<Gpu> gpu_;
};

// ---- GPUDirect Storage ----

struct CuFile {
  cuda::CuFileLibrary library;
  bool has_nvidia_fs = false;
};

absl::StatusOr<CuFile> StartTheCuFile() {
  CuFile started;
  PAVISE_ASSIGN_OR_RETURN(started.library, cuda::OpenCuFile());
  PAVISE_ASSIGN_OR_RETURN(started.has_nvidia_fs, cuda::StartCuFile(started.library));
  return started;
}

class CuFileReader final : public DirectReader {
 public:
  CuFileReader(const CudaDevice& device, const CuFile& cufile) : device_(device), cufile_(cufile) {}
  std::string_view name() const override {
    return cufile_.has_nvidia_fs ? "cuFile" : "cuFile, compatibility mode";
  }
  bool bypasses_host() const override { return cufile_.has_nvidia_fs; }
  absl::StatusOr<std::unique_ptr<DirectFile>> Open(const FileDescriptor& file) override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<cuda::CuFileHandle> handle,
                            cuda::CuFileHandle::Register(cufile_.library, file.get()));
    return std::make_unique<File>(device_, std::move(handle));
  }

 private:
  class File final : public DirectFile {
   public:
    File(const CudaDevice& device, std::unique_ptr<cuda::CuFileHandle> handle)
        : device_(device), handle_(std::move(handle)) {}
    absl::StatusOr<uint64_t> Read(uint64_t offset_bytes, Buffer& buffer, Range range) override {
      return device_.ReadDirectly(*handle_, offset_bytes, buffer, range);
    }

   private:
    const CudaDevice& device_;
    const std::unique_ptr<cuda::CuFileHandle> handle_;
  };
  const CudaDevice& device_;
  const CuFile cufile_;
};

absl::StatusOr<std::unique_ptr<DirectReader>> CudaDevice::NewDirectReader() {
  PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
  // Once for the process, as cuFile's driver is.
  static const absl::StatusOr<CuFile> cufile = StartTheCuFile();
  PAVISE_RETURN_IF_ERROR(cufile.status());
  return std::make_unique<CuFileReader>(*this, *cufile);
}

// ---- Host memory ----

// What kernels read 16 bytes at a time.
constexpr uint64_t kPartAlignment = 16;

// What travels together: ranges, or parts of them under BLAKE3, at places of their own.
struct Piece {
  struct Part {
    uint64_t host_offset_bytes;
    RangeDescriptor range;  // its offset is in the piece
  };
  std::vector<Part> parts;
  uint64_t size_bytes = 0;
  uint64_t first_item = 0;  // BLAKE3: the number of the first part's first item in the whole
};

// Cuts ranges into pieces of up to `piece_bytes`, in order; a range that must stay whole and is
// larger has a piece to itself. `item_bytes` is where BLAKE3 may cut, 0 where nothing may.
std::vector<Piece> CutIntoPieces(std::span<const Range> ranges, uint64_t piece_bytes,
                                 uint64_t item_bytes) {
  std::vector<Piece> pieces(1);
  uint64_t items = 0;
  const auto open_piece = [&] {
    if (pieces.back().parts.empty()) return;
    pieces.emplace_back();
    pieces.back().first_item = items;
  };
  for (size_t i = 0; i < ranges.size(); ++i) {
    uint64_t done = 0;
    do {
      const uint64_t left = ranges[i].size_bytes - done;
      uint64_t room = piece_bytes - std::min(piece_bytes, pieces.back().size_bytes);
      uint64_t size = left;
      if (left > room) {
        const uint64_t cut = item_bytes == 0 ? 0 : room / item_bytes * item_bytes;
        if (cut == 0 && !pieces.back().parts.empty()) {
          open_piece();
          continue;
        }
        if (cut != 0) size = cut;
      }
      const bool is_part = size != ranges[i].size_bytes;
      Piece& piece = pieces.back();
      piece.parts.push_back(
          {.host_offset_bytes = ranges[i].offset_bytes + done,
           .range = {.offset_bytes = piece.size_bytes,
                     .size_bytes = size,
                     .first_chunk = done / kBlake3ChunkBytes,
                     .out = i,
                     .flags = cuda::kRangeIsRoot | (is_part ? cuda::kRangeIsPart : 0u),
                     .reserved = 0}});
      piece.size_bytes += (size + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
      if (item_bytes != 0) items += cuda::Blake3ItemsOf(size, cuda::kNodesPerLane);
      done += size;
    } while (done < ranges[i].size_bytes);
  }
  return pieces;
}

// Copies each part to its place, large ones on several threads.
void Gather(const Piece& piece, ByteSpan host, uint8_t* pinned) {
  for (const Piece::Part& part : piece.parts) {
    const uint8_t* const from = host.data() + part.host_offset_bytes;
    uint8_t* const to = pinned + part.range.offset_bytes;
    const uint64_t size = part.range.size_bytes;
    if (size == 0) continue;
    const uint64_t threads = std::clamp<uint64_t>(size / kLeastBytesPerCopyThread, 1, kCopyThreads);
    const uint64_t share = size / threads;
    std::vector<std::jthread> others;
    uint64_t done = 0;
    for (; done + share < size && others.size() + 1 < threads; done += share) {
      others.emplace_back([=] { std::memcpy(to + done, from + done, share); });
    }
    std::memcpy(to + done, from + done, size - done);
  }
}

absl::Status CudaDevice::DigestHost(Algorithm algorithm, ByteSpan host,
                                    std::span<const Range> ranges, std::span<uint8_t> out,
                                    const HostDigestOptions& options) {
  PAVISE_RETURN_IF_ERROR(CheckSupported(algorithm));
  PAVISE_RETURN_IF_ERROR(CheckRanges(algorithm, ranges, host.size(), out.size()));
  constexpr uint64_t kItemBytes = uint64_t{cuda::kNodesPerLane} * cuda::kChunkBytes;
  if (options.piece_bytes < kItemBytes) {
    return UsageError(
        StrCat(name(), ": pieces of ", options.piece_bytes, " bytes, below ", kItemBytes));
  }
  PAVISE_RETURN_IF_ERROR(gpu_->CheckUsable());
  if (ranges.empty()) return absl::OkStatus();
  const bool is_blake3 = algorithm == Algorithm::kBlake3;
  return WithoutExceptions([&]() -> absl::Status {
    const std::vector<Piece> pieces =
        CutIntoPieces(ranges, options.piece_bytes, is_blake3 ? kItemBytes : 0);
    uint64_t largest = 1;
    for (const Piece& piece : pieces) largest = std::max(largest, piece.size_bytes);

    PAVISE_ASSIGN_OR_RETURN(const CurrentDevice current, CurrentDevice::Enter(*gpu_));
    // Results and nodes of all pieces stay until the last has come; the stream that has them is
    // declared first, so that it goes after those that write them.
    PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<CudaStream> whole, NewCudaStream());
    PAVISE_ASSIGN_OR_RETURN(uint8_t* const digests, whole->ClearedScratch(out.size()));
    const std::vector<RangeDescriptor> roots = RootsOf(ranges);
    const Blake3Plan plan = is_blake3 ? cuda::PlanBlake3(roots, 0) : Blake3Plan{};
    uint8_t* nodes = nullptr;
    if (is_blake3) {
      PAVISE_ASSIGN_OR_RETURN(nodes, whole->ClearedScratch(plan.count(0) * cuda::kNodeBytes));
    }

    // Cleared before the other streams write there.
    PAVISE_RETURN_IF_ERROR(whole->Finish());

    struct Slot {
      // The memory goes after the stream, which waits for what uses it.
      Memory pinned;
      Memory device;
      std::unique_ptr<CudaStream> stream;
    };
    std::vector<Slot> slots;
    while (slots.size() < std::min(kPiecesInFlight, pieces.size())) {
      PAVISE_ASSIGN_OR_RETURN(Memory pinned, Memory::Allocate(*gpu_, MemoryKind::kPinned, largest));
      PAVISE_ASSIGN_OR_RETURN(Memory memory, Memory::Allocate(*gpu_, MemoryKind::kDevice, largest));
      PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<CudaStream> stream, NewCudaStream());
      slots.push_back({std::move(pinned), std::move(memory), std::move(stream)});
    }
    for (size_t i = 0; i < pieces.size(); ++i) {
      const Piece& piece = pieces[i];
      const Slot& slot = slots[i % slots.size()];
      PAVISE_RETURN_IF_ERROR(slot.stream->Wait());
      Gather(piece, host, slot.pinned.data());
      if (piece.size_bytes != 0) {
        PAVISE_RETURN_IF_ERROR(
            gpu_->Check(cudaMemcpyAsync(slot.device.data(), slot.pinned.data(), piece.size_bytes,
                                        cudaMemcpyHostToDevice, slot.stream->stream()),
                        "cudaMemcpyAsync to the device"));
      }
      std::vector<RangeDescriptor> parts;
      parts.reserve(piece.parts.size());
      for (const Piece::Part& part : piece.parts) parts.push_back(part.range);
      if (!is_blake3) {
        cuda::SortForSha2(parts);
        PAVISE_RETURN_IF_ERROR(
            QueueSha2(algorithm, slot.device.data(), parts, *slot.stream, digests));
        continue;
      }
      std::vector<uint64_t> first_item = {0};
      first_item.reserve(parts.size() + 1);
      for (const RangeDescriptor& part : parts) {
        first_item.push_back(first_item.back() +
                             cuda::Blake3ItemsOf(part.size_bytes, cuda::kNodesPerLane));
      }
      PAVISE_ASSIGN_OR_RETURN(const RangeDescriptor* const on_device, slot.stream->Upload(parts));
      PAVISE_RETURN_IF_ERROR(QueueLeaves(slot.device.data(), on_device, parts.size(), first_item,
                                         cuda::kNodesPerLane, *slot.stream,
                                         nodes + piece.first_item * cuda::kNodeBytes, digests));
    }
    for (const Slot& slot : slots) PAVISE_RETURN_IF_ERROR(slot.stream->Wait());
    if (is_blake3) {
      PAVISE_ASSIGN_OR_RETURN(const RangeDescriptor* const on_device, whole->Upload(roots));
      PAVISE_RETURN_IF_ERROR(QueueTree(on_device, roots.size(), plan, *whole, nodes, digests));
    }
    PAVISE_RETURN_IF_ERROR(whole->Fetch(digests, out));
    return whole->Wait();
  });
}

absl::StatusOr<CudaDevice*> AsCudaDevice(Device& device) {
  auto* own = dynamic_cast<CudaDevice*>(&device);
  if (own == nullptr) return UsageError(StrCat(device.name(), " is no CUDA device"));
  return own;
}

}  // namespace

absl::StatusOr<std::vector<CudaDeviceInfo>> ListCudaDevices() {
  PAVISE_ASSIGN_OR_RETURN(const int count, CountDevices("cuda"));
  std::vector<CudaDeviceInfo> devices;
  for (int ordinal = 0; ordinal < count; ++ordinal) {
    PAVISE_ASSIGN_OR_RETURN(CudaDeviceInfo info, InfoOf(ordinal));
    devices.push_back(std::move(info));
  }
  return devices;
}

absl::StatusOr<std::unique_ptr<Device>> NewCudaDevice(int ordinal) {
  const std::string item = StrCat("cuda:", ordinal);
  PAVISE_ASSIGN_OR_RETURN(const int count, CountDevices(item));
  if (ordinal < 0 || ordinal >= count) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("there is no such GPU; this process sees ", count),
                  StrCat("name cuda:0", count > 1 ? StrCat(" to cuda:", count - 1) : ""));
  }
  PAVISE_ASSIGN_OR_RETURN(CudaDeviceInfo info, InfoOf(ordinal));
  if (std::pair(info.compute_capability_major, info.compute_capability_minor) <
      std::pair(kOldestMajor, kOldestMinor)) {
    return Refuse(
        Reason::kUnsupported, item,
        StrCat(info.name, " has compute capability ", info.compute_capability_major, ".",
               info.compute_capability_minor, ", below ", kOldestMajor, ".", kOldestMinor),
        "name another device");
  }
  return std::make_unique<CudaDevice>(std::move(info));
}

absl::StatusOr<std::unique_ptr<Stream>> WrapCudaStream(Device& device, void* stream) {
  PAVISE_ASSIGN_OR_RETURN(CudaDevice* const own, AsCudaDevice(device));
  return own->Wrap(stream);
}

absl::StatusOr<std::unique_ptr<Buffer>> WrapDeviceMemory(Device& device, const void* device_pointer,
                                                         uint64_t size_bytes) {
  PAVISE_ASSIGN_OR_RETURN(CudaDevice* const own, AsCudaDevice(device));
  return own->Wrap(device_pointer, size_bytes);
}

absl::Status DigestHostMemory(Device& device, Algorithm algorithm, ByteSpan host,
                              std::span<const Range> ranges, std::span<uint8_t> out,
                              const HostDigestOptions& options) {
  PAVISE_ASSIGN_OR_RETURN(CudaDevice* const own, AsCudaDevice(device));
  return own->DigestHost(algorithm, host, ranges, out, options);
}

}  // namespace pavise::hash
