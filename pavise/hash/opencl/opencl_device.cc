#include "pavise/hash/opencl/opencl_device.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <string_view>
#include <utility>

#include "pavise/base/secret_bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/hash/internal/batch_checks.h"
#include "pavise/hash/internal/plain_staging.h"
#include "pavise/hash/opencl/internal/kernel_sources.h"
#include "pavise/hash/opencl/internal/opencl_library.h"
#include "pavise/hash/opencl/internal/tag_paths.h"

namespace pavise::hash {
namespace opencl {
namespace {

// Kernels leave words; their bytes are read here as they lie.
static_assert(std::endian::native == std::endian::little);

// Kernels load whole blocks, and a word more where a range is not aligned (load_words.cl): up to
// 132 bytes from the last byte on.
static_assert(kOpenClPaddingBytes >= 132);
constexpr size_t kStateWords = 8;
// From cl_khr_icd: the loader found no platform.
constexpr cl_int kPlatformNotFound = -1001;
constexpr size_t kMostSerialItems = 64;  // a work-group of SHA-2

// An OpenCL object that is released when it goes.
template <typename T>
class Owned {
 public:
  using Release = cl_int(CL_API_CALL*)(T);
  Owned() = default;
  Owned(T object, Release release) : object_(object), release_(release) {}
  Owned(Owned&& other) noexcept
      : object_(std::exchange(other.object_, nullptr)), release_(other.release_) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(object_, other.object_);
    std::swap(release_, other.release_);
    return *this;
  }
  ~Owned() {
    if (object_ != nullptr) release_(object_);
  }
  T get() const { return object_; }

 private:
  T object_ = nullptr;
  Release release_ = nullptr;
};

struct Chosen {
  cl_platform_id platform = nullptr;
  cl_device_id device = nullptr;
};

absl::StatusOr<std::vector<Chosen>> AllDevices(const Library& cl) {
  cl_uint platform_count = 0;
  cl_int code = cl.clGetPlatformIDs(0, nullptr, &platform_count);
  if (code == kPlatformNotFound) return std::vector<Chosen>();
  if (code != CL_SUCCESS) return Failure("opencl", "clGetPlatformIDs", code);
  std::vector<cl_platform_id> platforms(platform_count);
  if (platforms.empty()) return std::vector<Chosen>();
  code = cl.clGetPlatformIDs(platform_count, platforms.data(), nullptr);
  if (code != CL_SUCCESS) return Failure("opencl", "clGetPlatformIDs", code);
  std::vector<Chosen> all;
  for (cl_platform_id platform : platforms) {
    cl_uint count = 0;
    code = cl.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 0, nullptr, &count);
    if (code == CL_DEVICE_NOT_FOUND || (code == CL_SUCCESS && count == 0)) continue;
    if (code != CL_SUCCESS) return Failure("opencl", "clGetDeviceIDs", code);
    std::vector<cl_device_id> devices(count);
    code = cl.clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, count, devices.data(), nullptr);
    if (code != CL_SUCCESS) return Failure("opencl", "clGetDeviceIDs", code);
    for (cl_device_id device : devices) all.push_back({platform, device});
  }
  return all;
}

template <typename Function, typename Object>
absl::StatusOr<std::string> TextInfo(Function function, Object object, cl_uint what,
                                     std::string_view call) {
  size_t size_bytes = 0;
  cl_int code = function(object, what, 0, nullptr, &size_bytes);
  std::string text(size_bytes, '\0');
  if (code == CL_SUCCESS && size_bytes > 0) {
    code = function(object, what, size_bytes, text.data(), nullptr);
  }
  if (code != CL_SUCCESS) return Failure("opencl", call, code);
  text.resize(std::strlen(text.c_str()));
  return text;
}

template <typename T>
absl::StatusOr<T> DeviceNumber(const Library& cl, cl_device_id device, cl_device_info what) {
  T value = {};
  const cl_int code = cl.clGetDeviceInfo(device, what, sizeof(value), &value, nullptr);
  if (code != CL_SUCCESS) return Failure("opencl", "clGetDeviceInfo", code);
  return value;
}

absl::StatusOr<OpenClDeviceInfo> Describe(const Library& cl, const Chosen& chosen) {
  OpenClDeviceInfo info;
  PAVISE_ASSIGN_OR_RETURN(
      info.name, TextInfo(cl.clGetDeviceInfo, chosen.device, CL_DEVICE_NAME, "clGetDeviceInfo"));
  PAVISE_ASSIGN_OR_RETURN(info.platform, TextInfo(cl.clGetPlatformInfo, chosen.platform,
                                                  CL_PLATFORM_NAME, "clGetPlatformInfo"));
  PAVISE_ASSIGN_OR_RETURN(const auto type,
                          DeviceNumber<cl_device_type>(cl, chosen.device, CL_DEVICE_TYPE));
  if ((type & CL_DEVICE_TYPE_GPU) != 0) {
    info.kind = OpenClDeviceInfo::Kind::kGpu;
  } else if ((type & CL_DEVICE_TYPE_CPU) != 0) {
    info.kind = OpenClDeviceInfo::Kind::kCpu;
  }
  PAVISE_ASSIGN_OR_RETURN(info.memory_bytes,
                          DeviceNumber<cl_ulong>(cl, chosen.device, CL_DEVICE_GLOBAL_MEM_SIZE));
  return info;
}

// What the kernels rely on.
absl::Status CheckUsable(const Library& cl, cl_device_id device, const std::string& name) {
  const auto refuse = [&](std::string_view why) {
    return Refuse(Reason::kUnsupported, name, why,
                  "name another device (pavise doctor lists them)");
  };
  PAVISE_ASSIGN_OR_RETURN(
      const std::string version,
      TextInfo(cl.clGetDeviceInfo, device, CL_DEVICE_VERSION, "clGetDeviceInfo"));
  int major = 0;
  int minor = 0;
  if (std::sscanf(version.c_str(), "OpenCL %d.%d", &major, &minor) != 2 ||
      std::pair(major, minor) < std::pair(1, 2)) {
    return refuse(StrCat("OpenCL 1.2 is needed, not ", version));
  }
  PAVISE_ASSIGN_OR_RETURN(
      const std::string profile,
      TextInfo(cl.clGetDeviceInfo, device, CL_DEVICE_PROFILE, "clGetDeviceInfo"));
  if (profile != "FULL_PROFILE") return refuse("OpenCL's full profile is needed");
  for (const auto& [what, why] : {
           std::pair{CL_DEVICE_AVAILABLE, "the device is not available"},
           std::pair{CL_DEVICE_COMPILER_AVAILABLE, "its driver has no compiler"},
           std::pair{CL_DEVICE_ENDIAN_LITTLE, "its words are big-endian"},
       }) {
    PAVISE_ASSIGN_OR_RETURN(const cl_bool yes,
                            DeviceNumber<cl_bool>(cl, device, static_cast<cl_device_info>(what)));
    if (yes == CL_FALSE) return refuse(why);
  }
  return absl::OkStatus();
}

std::string_view KindName(OpenClDeviceInfo::Kind kind) {
  switch (kind) {
    case OpenClDeviceInfo::Kind::kGpu:
      return "GPU";
    case OpenClDeviceInfo::Kind::kCpu:
      return "CPU";
    case OpenClDeviceInfo::Kind::kOther:
      break;
  }
  return "accelerator";
}

// The kernels of one stream: their arguments are set and used call by call, which two threads must
// not do with one kernel object.
struct Kernels {
  Owned<cl_kernel> sha256;
  Owned<cl_kernel> sha384;
  Owned<cl_kernel> blake3_chunks;
  Owned<cl_kernel> blake3_parents;
  Owned<cl_kernel> tag;
};

// What a queued call needs until Wait: device memory, events, and where its results land before
// they are known to be right.
struct Operation {
  struct Command {
    Owned<cl_event> event;
    std::string_view name;
  };
  std::vector<Owned<cl_mem>> memories;
  std::vector<Command> commands;
  Bytes landing;
  SecretBytes keys;  // on their way to the device
  // Writes the caller's output from `landing`.
  std::function<void(const Bytes& landing)> deliver;
};

class OpenClStream final : public Stream {
 public:
  // `queue` is the device's and outlives this.
  OpenClStream(const Device& device, const Library& cl, cl_command_queue queue, Kernels kernels)
      : device_(device), cl_(cl), kernels_(std::move(kernels)), queue_(queue) {}
  ~OpenClStream() override {
    Wait().IgnoreError();
    // clFinish failed, so that the driver may still write to what these hold: their memory is left
    // to it, for good, but for what is in it that must be secret.
    for (std::unique_ptr<Operation>& operation : abandoned_) {
      const ByteSpan keys = operation->keys.Reveal();
      WipeMemory({const_cast<uint8_t*>(keys.data()), keys.size()});
      (void)operation.release();
    }
  }

  absl::Status Wait() override {
    absl::Status status = std::exchange(failure_, absl::OkStatus());
    if (queued_.empty() && abandoned_.empty()) return status;
    const cl_int code = cl_.clFinish(queue_);
    std::vector<std::unique_ptr<Operation>> done = std::exchange(queued_, {});
    if (code != CL_SUCCESS) {
      // Whether the device still writes is not known.
      for (auto& operation : done) abandoned_.push_back(std::move(operation));
      status.Update(Failure(device_.name(), "clFinish", code));
      return status;
    }
    abandoned_.clear();
    for (const auto& operation : done) status.Update(CheckEvents(*operation));
    if (!status.ok()) return status;
    try {
      for (const auto& operation : done) operation->deliver(operation->landing);
    } catch (const std::exception& error) {
      return MachineFailure(device_.name(), error.what());
    }
    return absl::OkStatus();
  }

  // Takes over what `enqueue` puts in the queue. After a failure in the middle the memory stays
  // until the queue is known to be empty, and Wait reports the failure too and delivers nothing.
  absl::Status Queue(std::unique_ptr<Operation> operation,
                     const std::function<absl::Status(Operation&)>& enqueue) {
    // Room first: a failure to remember would free memory that the device writes to.
    queued_.reserve(queued_.size() + 1);
    abandoned_.reserve(abandoned_.size() + queued_.size() + 1);
    absl::Status status;
    try {
      status = enqueue(*operation);
    } catch (const std::exception& error) {
      status = MachineFailure(device_.name(), error.what());
    }
    if (status.ok()) {
      const cl_int code = cl_.clFlush(queue_);
      if (code != CL_SUCCESS) status = Failure(device_.name(), "clFlush", code);
    }
    failure_.Update(status);
    (status.ok() ? queued_ : abandoned_).push_back(std::move(operation));
    return status;
  }

  const Device& device() const { return device_; }
  cl_command_queue queue() const { return queue_; }
  const Kernels& kernels() const { return kernels_; }

 private:
  absl::Status CheckEvents(const Operation& operation) const {
    for (const Operation::Command& command : operation.commands) {
      cl_int state = CL_QUEUED;
      const cl_int code = cl_.clGetEventInfo(command.event.get(), CL_EVENT_COMMAND_EXECUTION_STATUS,
                                             sizeof(state), &state, nullptr);
      if (code != CL_SUCCESS) return Failure(device_.name(), "clGetEventInfo", code);
      if (state < 0) return Failure(device_.name(), command.name, state);
      if (state != CL_COMPLETE) {
        return MachineFailure(device_.name(), StrCat(command.name, " did not complete"));
      }
    }
    return absl::OkStatus();
  }

  const Device& device_;
  const Library& cl_;
  const Kernels kernels_;
  absl::Status failure_;  // of Queue
  std::vector<std::unique_ptr<Operation>> queued_;
  std::vector<std::unique_ptr<Operation>> abandoned_;
  const cl_command_queue queue_;  // shared with the device's other streams
};

class OpenClBuffer final : public Buffer {
 public:
  OpenClBuffer(const Device& device, int index, Owned<cl_mem> memory, uint64_t size_bytes,
               bool is_borrowed)
      : device_(device),
        index_(index),
        memory_(std::move(memory)),
        size_bytes_(size_bytes),
        is_borrowed_(is_borrowed) {}
  uint64_t size_bytes() const override { return size_bytes_; }
  const Device& device() const override { return device_; }
  cl_mem memory() const { return memory_.get(); }
  NativeMemory native_memory() const override {
    if (index_ < 0) return {};
    return {NativeMemory::Kind::kOpenCl, memory_.get(), index_};
  }
  bool is_borrowed() const { return is_borrowed_; }

 private:
  const Device& device_;
  int index_;  // below zero: of a queue that the caller brought
  Owned<cl_mem> memory_;
  uint64_t size_bytes_;
  bool is_borrowed_;
};

// A row of blake3_chunks.cl's table.
struct SubtreeRow {
  uint64_t offset_bytes;
  uint64_t size_bytes;
  uint64_t first_chunk;
  uint64_t is_root;
};
static_assert(sizeof(SubtreeRow) == sizeof(cl_ulong4));
// A row of the SHA-2 kernels' table is a Range.
static_assert(sizeof(Range) == sizeof(cl_ulong2));

class OpenClDevice final : public Device {
 public:
  static absl::StatusOr<std::unique_ptr<Device>> Create(const Library& library, unsigned index,
                                                        const OpenClOptions& options) {
    auto device =
        std::unique_ptr<OpenClDevice>(new OpenClDevice(library, StrCat("opencl:", index), options));
    PAVISE_RETURN_IF_ERROR(device->OpenNumber(index));
    return device;
  }

  static absl::StatusOr<std::unique_ptr<Device>> Create(const Library& library,
                                                        cl_command_queue queue,
                                                        const OpenClOptions& options) {
    auto device = std::unique_ptr<OpenClDevice>(new OpenClDevice(library, "opencl:queue", options));
    PAVISE_RETURN_IF_ERROR(device->OpenQueue(queue));
    return device;
  }

  std::string name() const override { return name_; }
  std::string description() const override {
    return StrCat("OpenCL ", KindName(info_.kind), ", ", info_.name, " (", info_.platform, "), ",
                  HumanBytes(info_.memory_bytes), ", tags by ", tag_path_.name, unused_tag_paths_);
  }
  bool supports(Algorithm algorithm) const override {
    return algorithm == Algorithm::kSha256 || algorithm == Algorithm::kSha384 ||
           algorithm == Algorithm::kBlake3;
  }

  absl::StatusOr<std::unique_ptr<Stream>> NewStream() override {
    PAVISE_ASSIGN_OR_RETURN(Kernels kernels, NewKernels());
    return std::make_unique<OpenClStream>(*this, cl_, queue_.get(), std::move(kernels));
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Upload(ByteSpan host) override {
    PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, Allocate(host.size()));
    if (!host.empty()) {
      PAVISE_ASSIGN_OR_RETURN(const cl_mem memory, OwnMemory(*buffer));
      const cl_int code = cl_.clEnqueueWriteBuffer(queue_.get(), memory, CL_TRUE, 0, host.size(),
                                                   host.data(), 0, nullptr, nullptr);
      if (code != CL_SUCCESS) return Failure(name_, "clEnqueueWriteBuffer", code);
    }
    return buffer;
  }

  uint64_t memory_bytes() const override { return info_.memory_bytes; }

  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(uint64_t size_bytes) override {
    if (size_bytes > most_buffer_bytes_ || kOpenClPaddingBytes > most_buffer_bytes_ - size_bytes) {
      return Refuse(Reason::kUnsupported, name_,
                    StrCat("this device takes ", HumanBytes(most_buffer_bytes_),
                           " in one piece, not ", HumanBytes(size_bytes)),
                    "hash it in smaller pieces or on another device");
    }
    PAVISE_ASSIGN_OR_RETURN(Owned<cl_mem> memory,
                            NewMemory(CL_MEM_READ_ONLY, size_bytes + kOpenClPaddingBytes, nullptr));
    return std::make_unique<OpenClBuffer>(*this, index_, std::move(memory), size_bytes,
                                          /*is_borrowed=*/false);
  }

  absl::StatusOr<std::unique_ptr<Buffer>> Wrap(cl_mem memory, uint64_t size_bytes) {
    cl_mem_object_type type = 0;
    cl_context context = nullptr;
    cl_mem_flags flags = 0;
    size_t memory_bytes = 0;
    const auto ask = [&](cl_mem_info what, auto& value) {
      return cl_.clGetMemObjectInfo(memory, what, sizeof(value), &value, nullptr);
    };
    if (memory == nullptr) return UsageError(StrCat(name_, ": no memory to hash"));
    cl_int code = ask(CL_MEM_TYPE, type);
    if (code == CL_SUCCESS) code = ask(CL_MEM_CONTEXT, context);
    if (code == CL_SUCCESS) code = ask(CL_MEM_FLAGS, flags);
    if (code == CL_SUCCESS) code = ask(CL_MEM_SIZE, memory_bytes);
    if (code != CL_SUCCESS) return Failure(name_, "clGetMemObjectInfo", code);
    if (type != CL_MEM_OBJECT_BUFFER || context != context_.get() ||
        (flags & CL_MEM_WRITE_ONLY) != 0) {
      return UsageError(
          StrCat(name_, ": the memory to hash is no buffer of this context that kernels may read"));
    }
    if (size_bytes > memory_bytes || kOpenClPaddingBytes > memory_bytes - size_bytes) {
      return Refuse(Reason::kUnsupported, name_,
                    StrCat("the buffer has ", memory_bytes, " bytes, and kernels read up to ",
                           kOpenClPaddingBytes, " after the ", size_bytes, " to hash"),
                    "allocate more, or hash less of it");
    }
    code = cl_.clRetainMemObject(memory);
    if (code != CL_SUCCESS) return Failure(name_, "clRetainMemObject", code);
    return std::make_unique<OpenClBuffer>(*this, index_,
                                          Owned<cl_mem>(memory, cl_.clReleaseMemObject), size_bytes,
                                          /*is_borrowed=*/true);
  }

  // Plain pages: OpenCL 1.2 pins memory only by mapping a buffer of its own.
  absl::StatusOr<std::unique_ptr<Staging>> AllocateStaging(size_t size_bytes) override {
    std::unique_ptr<Staging> staging = NewPlainStaging(size_bytes);
    if (staging == nullptr) {
      return MachineFailure(name_, StrCat("no memory for ", HumanBytes(size_bytes)));
    }
    return staging;
  }

  absl::Status CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                      Stream& stream) override {
    PAVISE_ASSIGN_OR_RETURN(const cl_mem memory, OwnMemory(buffer));
    if (static_cast<const OpenClBuffer&>(buffer).is_borrowed()) {
      return UsageError(StrCat(name_, ": the buffer is borrowed"));
    }
    PAVISE_ASSIGN_OR_RETURN(OpenClStream * own_stream, OwnStream(stream));
    PAVISE_RETURN_IF_ERROR(
        CheckCopy(name_, {offset_bytes, host.size()}, buffer.size_bytes(), host.size()));
    if (host.empty()) return absl::OkStatus();
    auto operation = std::make_unique<Operation>();
    operation->deliver = [](const Bytes&) {};
    return own_stream->Queue(std::move(operation), [&](Operation& queued) {
      return Remember(queued, "clEnqueueWriteBuffer", [&](cl_event* event) {
        return cl_.clEnqueueWriteBuffer(own_stream->queue(), memory, CL_FALSE, offset_bytes,
                                        host.size(), host.data(), 0, nullptr, event);
      });
    });
  }

  absl::Status CopyOut(const Buffer& buffer, Range range, Stream& stream,
                       std::span<uint8_t> host) override {
    PAVISE_ASSIGN_OR_RETURN(const cl_mem memory, OwnMemory(buffer));
    PAVISE_ASSIGN_OR_RETURN(OpenClStream * own_stream, OwnStream(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name_, range, buffer.size_bytes(), host.size()));
    if (host.empty()) return absl::OkStatus();
    auto operation = std::make_unique<Operation>();
    operation->landing.resize(host.size());
    operation->deliver = [host](const Bytes& landing) {
      std::copy(landing.begin(), landing.end(), host.begin());
    };
    return own_stream->Queue(std::move(operation), [&](Operation& queued) {
      return Read(*own_stream, queued, memory, range.offset_bytes);
    });
  }

  absl::Status CopyWithin(const Buffer& from, Range range, Buffer& to, uint64_t offset_bytes,
                          Stream& stream) override {
    PAVISE_ASSIGN_OR_RETURN(const cl_mem source, OwnMemory(from));
    PAVISE_ASSIGN_OR_RETURN(const cl_mem target, OwnMemory(to));
    PAVISE_ASSIGN_OR_RETURN(OpenClStream * own_stream, OwnStream(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopyWithin(name_, from, range, to, offset_bytes));
    if (range.size_bytes == 0) return absl::OkStatus();
    auto operation = std::make_unique<Operation>();
    operation->deliver = [](const Bytes&) {};
    return own_stream->Queue(std::move(operation), [&](Operation& queued) {
      return Remember(queued, "clEnqueueCopyBuffer", [&](cl_event* event) {
        return cl_.clEnqueueCopyBuffer(own_stream->queue(), source, target, range.offset_bytes,
                                       offset_bytes, range.size_bytes, 0, nullptr, event);
      });
    });
  }

  absl::Status Digest(Algorithm algorithm, const Buffer& buffer, std::span<const Range> ranges,
                      Stream& stream, std::span<uint8_t> out) override {
    if (!supports(algorithm)) {
      return Refuse(Reason::kUnsupported, name_,
                    StrCat("this device does not compute ", AlgorithmName(algorithm)),
                    "name another device or another algorithm");
    }
    PAVISE_ASSIGN_OR_RETURN(const cl_mem bytes, OwnMemory(buffer));
    PAVISE_ASSIGN_OR_RETURN(OpenClStream * own_stream, OwnStream(stream));
    PAVISE_RETURN_IF_ERROR(CheckDigestBatch(name_, ranges, buffer.size_bytes(),
                                            DigestSizeBytes(algorithm), out.size()));
    if (ranges.empty()) return absl::OkStatus();
    try {
      return algorithm == Algorithm::kBlake3
                 ? QueueBlake3(bytes, ranges, *own_stream, out)
                 : QueueSerial(algorithm, bytes, ranges, *own_stream, out);
    } catch (const std::exception& error) {
      return MachineFailure(name_, error.what());
    }
  }

  bool supports_tags() const override { return true; }
  absl::Status Tag(std::span<const TagKey* const> keys, const Buffer& buffer, Range range,
                   uint64_t first_range, Stream& stream, std::span<RangeTag> out) override {
    PAVISE_ASSIGN_OR_RETURN(const cl_mem bytes, OwnMemory(buffer));
    PAVISE_ASSIGN_OR_RETURN(OpenClStream * own_stream, OwnStream(stream));
    PAVISE_RETURN_IF_ERROR(CheckCopy(name_, range, buffer.size_bytes(), range.size_bytes));
    PAVISE_ASSIGN_OR_RETURN(const uint64_t range_count,
                            CheckTagCall(keys, range.size_bytes, first_range, out.size()));
    if (range_count == 0) return absl::OkStatus();
    try {
      // One after the other in the queue: a launch for two would read for them in any order.
      for (size_t i = 0; i < keys.size(); ++i) {
        PAVISE_RETURN_IF_ERROR(QueueTags(keys.subspan(i, 1), bytes, range, first_range, range_count,
                                         *own_stream, out.subspan(i * range_count, range_count)));
      }
      return absl::OkStatus();
    } catch (const std::exception& error) {
      return MachineFailure(name_, error.what());
    }
  }

  absl::Status Blake3Subtrees(const Buffer& buffer, std::span<const SubtreeRange> ranges,
                              Stream& stream, std::span<ChainingValue> out) override {
    PAVISE_ASSIGN_OR_RETURN(const cl_mem bytes, OwnMemory(buffer));
    PAVISE_ASSIGN_OR_RETURN(OpenClStream * own_stream, OwnStream(stream));
    PAVISE_RETURN_IF_ERROR(CheckSubtreeBatch(name_, ranges, buffer.size_bytes(), out.size()));
    if (ranges.empty()) return absl::OkStatus();
    try {
      std::vector<SubtreeRow> rows;
      rows.reserve(ranges.size());
      for (const SubtreeRange& subtree : ranges) {
        rows.push_back({subtree.range.offset_bytes, subtree.range.size_bytes, subtree.first_chunk,
                        /*is_root=*/0});
      }
      return QueueSubtrees(bytes, rows, *own_stream, [out](const Bytes& landing) {
        std::memcpy(out.data(), landing.data(), landing.size());
      });
    } catch (const std::exception& error) {
      return MachineFailure(name_, error.what());
    }
  }

 private:
  OpenClDevice(const Library& library, std::string name, const OpenClOptions& options)
      : cl_(library), options_(options), name_(std::move(name)) {}

  absl::Status OpenNumber(unsigned index) {
    index_ = static_cast<int>(index);
    PAVISE_ASSIGN_OR_RETURN(const std::vector<Chosen> all, AllDevices(cl_));
    if (index >= all.size()) {
      return Refuse(Reason::kUnsupported, name_,
                    all.empty() ? std::string("this machine's OpenCL has no device")
                                : StrCat("the last OpenCL device is opencl:", all.size() - 1),
                    "install the driver of the device (Debian: intel-opencl-icd, mesa-opencl-icd, "
                    "nvidia-opencl-icd, pocl-opencl-icd), or name another one");
    }
    PAVISE_RETURN_IF_ERROR(Examine(all[index]));
    cl_int code = CL_SUCCESS;
    const cl_context context = cl_.clCreateContext(nullptr, 1, &device_, nullptr, nullptr, &code);
    if (context == nullptr || code != CL_SUCCESS) return Failure(name_, "clCreateContext", code);
    context_ = {context, cl_.clReleaseContext};
    PAVISE_ASSIGN_OR_RETURN(queue_, NewQueue());
    return BuildKernels();
  }

  absl::Status OpenQueue(cl_command_queue queue) {
    cl_context context = nullptr;
    Chosen chosen;
    cl_command_queue_properties properties = 0;
    const auto ask = [&](cl_command_queue_info what, auto& value) {
      return cl_.clGetCommandQueueInfo(queue, what, sizeof(value), &value, nullptr);
    };
    cl_int code = ask(CL_QUEUE_CONTEXT, context);
    if (code == CL_SUCCESS) code = ask(CL_QUEUE_DEVICE, chosen.device);
    if (code == CL_SUCCESS) code = ask(CL_QUEUE_PROPERTIES, properties);
    if (code != CL_SUCCESS) return Failure(name_, "clGetCommandQueueInfo", code);
    if ((properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE) != 0) {
      return Refuse(Reason::kUnsupported, name_, "the command queue runs out of order",
                    "hand in one that runs in order");
    }
    PAVISE_ASSIGN_OR_RETURN(chosen.platform,
                            DeviceNumber<cl_platform_id>(cl_, chosen.device, CL_DEVICE_PLATFORM));
    PAVISE_RETURN_IF_ERROR(Examine(chosen));
    code = cl_.clRetainContext(context);
    if (code != CL_SUCCESS) return Failure(name_, "clRetainContext", code);
    context_ = {context, cl_.clReleaseContext};
    code = cl_.clRetainCommandQueue(queue);
    if (code != CL_SUCCESS) return Failure(name_, "clRetainCommandQueue", code);
    queue_ = {queue, cl_.clReleaseCommandQueue};
    return BuildKernels();
  }

  // That the kernels can run there, and with which limits.
  absl::Status Examine(const Chosen& chosen) {
    device_ = chosen.device;
    PAVISE_ASSIGN_OR_RETURN(info_, Describe(cl_, chosen));
    PAVISE_RETURN_IF_ERROR(CheckUsable(cl_, device_, name_));
    PAVISE_ASSIGN_OR_RETURN(most_buffer_bytes_,
                            DeviceNumber<cl_ulong>(cl_, device_, CL_DEVICE_MAX_MEM_ALLOC_SIZE));
    PAVISE_ASSIGN_OR_RETURN(compute_units_,
                            DeviceNumber<cl_uint>(cl_, device_, CL_DEVICE_MAX_COMPUTE_UNITS));
    return absl::OkStatus();
  }

  absl::Status BuildKernels() {
    PAVISE_ASSIGN_OR_RETURN(sha256_, Build("sha256.cl", kSha256Source));
    PAVISE_ASSIGN_OR_RETURN(sha384_, Build("sha384.cl", kSha384Source));
    PAVISE_ASSIGN_OR_RETURN(blake3_chunks_, Build("blake3_chunks.cl", kBlake3ChunksSource));
    PAVISE_ASSIGN_OR_RETURN(blake3_parents_, Build("blake3_parents.cl", kBlake3ParentsSource));
    PAVISE_RETURN_IF_ERROR(ChooseTagPath());
    return ChooseGroups();
  }

  // The first path that the driver builds and whose tags are right. Plain code must be both; why
  // another one is passed over, description() says.
  absl::Status ChooseTagPath() {
    PAVISE_ASSIGN_OR_RETURN(
        const std::string extensions,
        TextInfo(cl_.clGetDeviceInfo, device_, CL_DEVICE_EXTENSIONS, "clGetDeviceInfo"));
    PAVISE_ASSIGN_OR_RETURN(const std::vector<size_t> sub_group_sizes, SubGroupSizes(extensions));
    const std::vector<TagPath> paths = TagPathsOf(extensions, sub_group_sizes);
    for (const TagPath& path : paths) {
      const bool is_last = &path == &paths.back();
      const absl::StatusOr<TagCheck> check = TryTagPath(path);
      if (check.ok() && *check == TagCheck::kRight) return absl::OkStatus();
      if (is_last && !check.ok()) return check.status();
      StrAppend(&unused_tag_paths_, " (not by ", path.name,
                check.ok() ? ", whose tags are wrong here)" : ", which fail here)");
    }
    return MachineFailure(name_, "this device or its driver computes wrong tags");
  }

  absl::StatusOr<TagCheck> TryTagPath(const TagPath& path) {
    PAVISE_RETURN_IF_ERROR(OpenTagPath(path));
    return CheckTagsOf(*this);
  }

  // Builds tag.cl for Tag to use in that way.
  absl::Status OpenTagPath(const TagPath& path) {
    PAVISE_ASSIGN_OR_RETURN(tag_, Build("tag.cl", kTagSource, path.build_options.c_str()));
    PAVISE_ASSIGN_OR_RETURN(const Owned<cl_kernel> kernel, NewKernel(tag_, path.kernel_name));
    PAVISE_ASSIGN_OR_RETURN(const size_t most_items, MostItems(kernel.get()));
    const size_t items = std::bit_floor(std::min(path.group_items, most_items));
    if (items < (path.has_fixed_group ? path.group_items : kLeastTagItems)) {
      return MachineFailure(name_, StrCat("the driver allows ", path.kernel_name,
                                          " work-groups of ", most_items, " items only"));
    }
    tag_path_ = path;
    tag_path_.group_items = items;
    return absl::OkStatus();
  }

  // Those of cl_intel_required_subgroup_size, if `extensions` has it.
  absl::StatusOr<std::vector<size_t>> SubGroupSizes(std::string_view extensions) const {
    constexpr cl_device_info kSubGroupSizes = 0x4108;  // CL_DEVICE_SUB_GROUP_SIZES_INTEL
    std::vector<size_t> sizes;
    if (!HasExtension(extensions, kSubGroupSizeExtension)) return sizes;
    size_t size_bytes = 0;
    cl_int code = cl_.clGetDeviceInfo(device_, kSubGroupSizes, 0, nullptr, &size_bytes);
    sizes.resize(size_bytes / sizeof(size_t));
    if (code == CL_SUCCESS && !sizes.empty()) {
      code = cl_.clGetDeviceInfo(device_, kSubGroupSizes, sizes.size() * sizeof(size_t),
                                 sizes.data(), nullptr);
    }
    if (code != CL_SUCCESS) return Failure(name_, "clGetDeviceInfo", code);
    return sizes;
  }

  // How many items of each kernel the device takes in a work-group.
  absl::Status ChooseGroups() {
    PAVISE_ASSIGN_OR_RETURN(const Kernels kernels, NewKernels());
    size_t chunks = std::min<size_t>(options_.group_chunks, kSubtreeBytes / kBlake3ChunkBytes);
    PAVISE_ASSIGN_OR_RETURN(const size_t most_chunks, MostItems(kernels.blake3_chunks.get()));
    PAVISE_ASSIGN_OR_RETURN(const auto local_bytes,
                            DeviceNumber<cl_ulong>(cl_, device_, CL_DEVICE_LOCAL_MEM_SIZE));
    chunks = std::min(
        {chunks, most_chunks, static_cast<size_t>(local_bytes / (2 * sizeof(ChainingValue)))});
    group_chunks_ = std::bit_floor(chunks);
    most_serial_items_ = kMostSerialItems;
    for (const cl_kernel kernel :
         {kernels.sha256.get(), kernels.sha384.get(), kernels.blake3_parents.get()}) {
      PAVISE_ASSIGN_OR_RETURN(const size_t most, MostItems(kernel));
      most_serial_items_ = std::min(most_serial_items_, std::bit_floor(most));
    }
    if (group_chunks_ == 0 || most_serial_items_ == 0) {
      return MachineFailure(name_, "the driver allows the kernels no work-group");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<size_t> MostItems(cl_kernel kernel) const {
    size_t most = 0;
    const cl_int code = cl_.clGetKernelWorkGroupInfo(kernel, device_, CL_KERNEL_WORK_GROUP_SIZE,
                                                     sizeof(most), &most, nullptr);
    if (code != CL_SUCCESS) return Failure(name_, "clGetKernelWorkGroupInfo", code);
    return most;
  }

  absl::StatusOr<Owned<cl_program>> Build(std::string_view file, const char* source,
                                          const char* build_options = "-cl-std=CL1.2") const {
    cl_int code = CL_SUCCESS;
    Owned<cl_program> program(
        cl_.clCreateProgramWithSource(context_.get(), 1, &source, nullptr, &code),
        cl_.clReleaseProgram);
    if (program.get() == nullptr || code != CL_SUCCESS) {
      return Failure(name_, "clCreateProgramWithSource", code);
    }
    code = cl_.clBuildProgram(program.get(), 1, &device_, build_options, nullptr, nullptr);
    if (code == CL_SUCCESS) return program;
    std::string log(2000, '\0');
    size_t log_bytes = 0;
    if (cl_.clGetProgramBuildInfo(program.get(), device_, CL_PROGRAM_BUILD_LOG, 0, nullptr,
                                  &log_bytes) == CL_SUCCESS &&
        log_bytes > 0) {
      log.resize(log_bytes);
      if (cl_.clGetProgramBuildInfo(program.get(), device_, CL_PROGRAM_BUILD_LOG, log_bytes,
                                    log.data(), nullptr) != CL_SUCCESS) {
        log.clear();
      }
    } else {
      log.clear();
    }
    log.resize(std::min<size_t>(std::strlen(log.c_str()), 1000));
    return MachineFailure(name_, StrCat("clBuildProgram of ", file, ": ", ErrorText(code),
                                        log.empty() ? "" : ": ", log));
  }

  absl::StatusOr<Owned<cl_command_queue>> NewQueue() const {
    cl_int code = CL_SUCCESS;
    Owned<cl_command_queue> queue(cl_.clCreateCommandQueue(context_.get(), device_, 0, &code),
                                  cl_.clReleaseCommandQueue);
    if (queue.get() == nullptr || code != CL_SUCCESS) {
      return Failure(name_, "clCreateCommandQueue", code);
    }
    return queue;
  }

  absl::StatusOr<Owned<cl_kernel>> NewKernel(const Owned<cl_program>& program,
                                             const char* kernel_name) const {
    cl_int code = CL_SUCCESS;
    Owned<cl_kernel> kernel(cl_.clCreateKernel(program.get(), kernel_name, &code),
                            cl_.clReleaseKernel);
    if (kernel.get() == nullptr || code != CL_SUCCESS) {
      return Failure(name_, StrCat("clCreateKernel of ", kernel_name), code);
    }
    return kernel;
  }

  absl::StatusOr<Kernels> NewKernels() const {
    Kernels kernels;
    PAVISE_ASSIGN_OR_RETURN(kernels.sha256, NewKernel(sha256_, "pavise_sha256"));
    PAVISE_ASSIGN_OR_RETURN(kernels.sha384, NewKernel(sha384_, "pavise_sha384"));
    PAVISE_ASSIGN_OR_RETURN(kernels.blake3_chunks,
                            NewKernel(blake3_chunks_, "pavise_blake3_chunks"));
    PAVISE_ASSIGN_OR_RETURN(kernels.blake3_parents,
                            NewKernel(blake3_parents_, "pavise_blake3_parents"));
    PAVISE_ASSIGN_OR_RETURN(kernels.tag, NewKernel(tag_, tag_path_.kernel_name));
    return kernels;
  }

  // `initial`, where there is one, is copied before this returns.
  absl::StatusOr<Owned<cl_mem>> NewMemory(cl_mem_flags flags, size_t size_bytes,
                                          const void* initial) const {
    cl_int code = CL_SUCCESS;
    if (initial != nullptr) flags |= CL_MEM_COPY_HOST_PTR;
    Owned<cl_mem> memory(
        cl_.clCreateBuffer(context_.get(), flags, size_bytes, const_cast<void*>(initial), &code),
        cl_.clReleaseMemObject);
    if (memory.get() == nullptr || code != CL_SUCCESS) {
      return Failure(name_, StrCat("clCreateBuffer of ", HumanBytes(size_bytes)), code);
    }
    return memory;
  }

  // For results that land in `landing`, zeros so far: a kernel that writes nothing must not deliver
  // what lay in this memory before.
  absl::StatusOr<Owned<cl_mem>> NewClearedMemory(const Bytes& landing) const {
    return NewMemory(CL_MEM_READ_WRITE, landing.size(), landing.data());
  }

  // Queues zeros over the whole of `memory`.
  absl::Status Clear(OpenClStream& stream, Operation& operation, cl_mem memory,
                     size_t size_bytes) const {
    return Remember(operation, "clEnqueueFillBuffer", [&](cl_event* event) {
      constexpr cl_uint kZero = 0;
      return cl_.clEnqueueFillBuffer(stream.queue(), memory, &kZero, sizeof(kZero), 0, size_bytes,
                                     0, nullptr, event);
    });
  }

  absl::StatusOr<cl_mem> OwnMemory(const Buffer& buffer) const {
    const auto* own = dynamic_cast<const OpenClBuffer*>(&buffer);
    if (own == nullptr || &own->device() != this) {
      return UsageError(StrCat(name_, ": the buffer belongs to another device"));
    }
    return own->memory();
  }

  absl::StatusOr<OpenClStream*> OwnStream(Stream& stream) const {
    auto* own = dynamic_cast<OpenClStream*>(&stream);
    if (own == nullptr || &own->device() != this) {
      return UsageError(StrCat(name_, ": the stream belongs to another device"));
    }
    return own;
  }

  struct LocalMemory {
    size_t size_bytes;
  };
  template <typename T>
  cl_int SetArgument(cl_kernel kernel, cl_uint i, const T& value) const {
    if constexpr (std::is_same_v<T, LocalMemory>) {
      return cl_.clSetKernelArg(kernel, i, value.size_bytes, nullptr);
    } else {
      return cl_.clSetKernelArg(kernel, i, sizeof(value), &value);
    }
  }

  // Queues `groups` work-groups of `group_items` items.
  template <typename... Arguments>
  absl::Status Launch(OpenClStream& stream, Operation& operation, cl_kernel kernel,
                      std::string_view kernel_name, size_t groups, size_t group_items,
                      const Arguments&... arguments) const {
    cl_int code = CL_SUCCESS;
    cl_uint i = 0;
    ((code = code == CL_SUCCESS ? SetArgument(kernel, i++, arguments) : code), ...);
    if (code != CL_SUCCESS) return Failure(name_, StrCat("clSetKernelArg of ", kernel_name), code);
    const size_t items = groups * group_items;
    return Remember(operation, kernel_name, [&](cl_event* event) {
      return cl_.clEnqueueNDRangeKernel(stream.queue(), kernel, 1, nullptr, &items, &group_items, 0,
                                        nullptr, event);
    });
  }

  // Queues the reading of the operation's results.
  absl::Status Read(OpenClStream& stream, Operation& operation, cl_mem memory,
                    uint64_t offset_bytes = 0) const {
    return Remember(operation, "clEnqueueReadBuffer", [&](cl_event* event) {
      return cl_.clEnqueueReadBuffer(stream.queue(), memory, CL_FALSE, offset_bytes,
                                     operation.landing.size(), operation.landing.data(), 0, nullptr,
                                     event);
    });
  }

  template <typename Enqueue>
  absl::Status Remember(Operation& operation, std::string_view command,
                        const Enqueue& enqueue) const {
    Operation::Command& entry = operation.commands.emplace_back();
    entry.name = command;
    cl_event event = nullptr;
    const cl_int code = enqueue(&event);
    if (event != nullptr) entry.event = {event, cl_.clReleaseEvent};
    if (code != CL_SUCCESS || event == nullptr) {
      return Failure(name_, StrCat("queueing ", command), code);
    }
    return absl::OkStatus();
  }

  // As few items a group as spread `items` over all compute units, so that few long chains do not
  // share one.
  size_t SerialGroupItems(size_t items) const {
    const size_t a_unit = items / std::max<size_t>(compute_units_, 1);
    return std::clamp<size_t>(std::bit_floor(a_unit), 1, most_serial_items_);
  }

  absl::Status QueueSerial(Algorithm algorithm, cl_mem bytes, std::span<const Range> ranges,
                           OpenClStream& stream, std::span<uint8_t> out) const {
    const bool is_sha256 = algorithm == Algorithm::kSha256;
    const size_t state_bytes = kStateWords * (is_sha256 ? sizeof(cl_uint) : sizeof(cl_ulong));
    const size_t digest_bytes = DigestSizeBytes(algorithm);
    // The longest first: items of a group end together, and each launch takes a prefix.
    std::vector<size_t> order(ranges.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return ranges[a].size_bytes > ranges[b].size_bytes;
    });
    std::vector<Range> rows;
    rows.reserve(ranges.size());
    for (size_t i : order) rows.push_back(ranges[i]);

    auto operation = std::make_unique<Operation>();
    operation->landing.resize(ranges.size() * state_bytes);
    operation->deliver = [order, out, digest_bytes, state_bytes](const Bytes& landing) {
      for (size_t row = 0; row < order.size(); ++row) {
        std::memcpy(&out[order[row] * digest_bytes], &landing[row * state_bytes], digest_bytes);
      }
    };
    return stream.Queue(std::move(operation), [&](Operation& queued) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(
          Owned<cl_mem> table,
          NewMemory(CL_MEM_READ_ONLY, rows.size() * sizeof(Range), rows.data()));
      PAVISE_ASSIGN_OR_RETURN(Owned<cl_mem> states, NewClearedMemory(queued.landing));
      const cl_mem table_memory = table.get();
      const cl_mem states_memory = states.get();
      queued.memories.push_back(std::move(table));
      queued.memories.push_back(std::move(states));
      const cl_kernel kernel =
          is_sha256 ? stream.kernels().sha256.get() : stream.kernels().sha384.get();
      const cl_ulong slice_bytes = options_.serial_slice_bytes;
      size_t left = rows.size();
      for (cl_ulong first_byte = 0; left > 0; first_byte += slice_bytes) {
        const size_t group_items = SerialGroupItems(left);
        PAVISE_RETURN_IF_ERROR(
            Launch(stream, queued, kernel, is_sha256 ? "pavise_sha256" : "pavise_sha384",
                   (left - 1) / group_items + 1, group_items, bytes, table_memory,
                   static_cast<cl_uint>(left), first_byte, slice_bytes, states_memory));
        // What goes on has bytes after this slice.
        while (left > 0 && rows[left - 1].size_bytes - first_byte <= slice_bytes) --left;
      }
      return Read(stream, queued, states_memory);
    });
  }

  absl::Status QueueBlake3(cl_mem bytes, std::span<const Range> ranges, OpenClStream& stream,
                           std::span<uint8_t> out) const {
    std::vector<SubtreeRow> rows;
    std::vector<size_t> first_row;
    first_row.reserve(ranges.size() + 1);
    for (const Range& range : ranges) {
      first_row.push_back(rows.size());
      const bool is_root = range.size_bytes <= kSubtreeBytes;
      uint64_t at = 0;
      do {
        rows.push_back({range.offset_bytes + at,
                        std::min<uint64_t>(kSubtreeBytes, range.size_bytes - at),
                        at / kBlake3ChunkBytes, is_root ? uint64_t{1} : 0});
        at += kSubtreeBytes;
      } while (at < range.size_bytes);
    }
    first_row.push_back(rows.size());
    return QueueSubtrees(bytes, rows, stream, [first_row, out](const Bytes& landing) {
      for (size_t i = 0; i + 1 < first_row.size(); ++i) {
        std::vector<ChainingValue> values(first_row[i + 1] - first_row[i]);
        std::memcpy(values.data(), &landing[first_row[i] * sizeof(ChainingValue)],
                    values.size() * sizeof(ChainingValue));
        const Digest32 digest = values.size() == 1 ? values[0] : Blake3RootFromSubtrees(values);
        std::memcpy(&out[i * digest.size()], digest.data(), digest.size());
      }
    });
  }

  // `deliver` gets the value of each row.
  absl::Status QueueSubtrees(cl_mem bytes, const std::vector<SubtreeRow>& rows,
                             OpenClStream& stream,
                             std::function<void(const Bytes&)> deliver) const {
    constexpr uint64_t kSubtreeChunks = kSubtreeBytes / kBlake3ChunkBytes;
    uint64_t most_bytes = 1;
    for (const SubtreeRow& row : rows) most_bytes = std::max(most_bytes, row.size_bytes);
    const uint64_t most_chunks = (most_bytes - 1) / kBlake3ChunkBytes + 1;
    static_assert(kSubtreeChunks == 1024, "blake3_chunks.cl counts on it");
    // A batch of small inputs gets groups of their size.
    const size_t width = std::min<size_t>(group_chunks_, std::bit_ceil(most_chunks));
    const size_t tiles_a_subtree = (most_chunks - 1) / width + 1;
    const size_t rows_a_launch =
        std::min(std::max<size_t>(options_.subtrees_a_launch, 1), rows.size());

    auto operation = std::make_unique<Operation>();
    operation->landing.resize(rows.size() * sizeof(ChainingValue));
    operation->deliver = std::move(deliver);
    return stream.Queue(std::move(operation), [&](Operation& queued) -> absl::Status {
      PAVISE_ASSIGN_OR_RETURN(
          Owned<cl_mem> table,
          NewMemory(CL_MEM_READ_ONLY, rows.size() * sizeof(SubtreeRow), rows.data()));
      // The queue is in order, so that every launch may use the same tiles.
      const size_t tiles_bytes = rows_a_launch * tiles_a_subtree * sizeof(ChainingValue);
      PAVISE_ASSIGN_OR_RETURN(Owned<cl_mem> tiles,
                              NewMemory(CL_MEM_READ_WRITE, tiles_bytes, nullptr));
      PAVISE_ASSIGN_OR_RETURN(Owned<cl_mem> results, NewClearedMemory(queued.landing));
      const cl_mem table_memory = table.get();
      const cl_mem tiles_memory = tiles.get();
      const cl_mem results_memory = results.get();
      queued.memories.push_back(std::move(table));
      queued.memories.push_back(std::move(tiles));
      queued.memories.push_back(std::move(results));
      for (size_t first = 0; first < rows.size(); first += rows_a_launch) {
        const size_t count = std::min(rows_a_launch, rows.size() - first);
        PAVISE_RETURN_IF_ERROR(Clear(stream, queued, tiles_memory, tiles_bytes));
        PAVISE_RETURN_IF_ERROR(Launch(stream, queued, stream.kernels().blake3_chunks.get(),
                                      "pavise_blake3_chunks", count * tiles_a_subtree, width, bytes,
                                      table_memory, static_cast<cl_uint>(first),
                                      static_cast<cl_uint>(tiles_a_subtree), tiles_memory,
                                      LocalMemory{width * sizeof(ChainingValue)}));
        const size_t group_items = SerialGroupItems(count);
        PAVISE_RETURN_IF_ERROR(Launch(
            stream, queued, stream.kernels().blake3_parents.get(), "pavise_blake3_parents",
            (count - 1) / group_items + 1, group_items, table_memory, static_cast<cl_uint>(first),
            static_cast<cl_uint>(count), static_cast<cl_uint>(tiles_a_subtree),
            static_cast<cl_uint>(width), tiles_memory, results_memory));
      }
      return Read(stream, queued, results_memory);
    });
  }

  absl::Status QueueTags(std::span<const TagKey* const> keys, cl_mem bytes, const Range& range,
                         uint64_t first_range, uint64_t range_count, OpenClStream& stream,
                         std::span<RangeTag> out) const {
    auto operation = std::make_unique<Operation>();
    operation->keys = PackTagKeys(keys);
    operation->landing.resize(out.size_bytes());
    operation->deliver = [out](const Bytes& landing) {
      std::memcpy(out.data(), landing.data(), landing.size());
    };
    const uint64_t ranges_a_launch = std::min<uint64_t>(options_.subtrees_a_launch, range_count);
    // Writing, launches, wiping, reading: nothing is allocated between the first two and the third.
    operation->commands.reserve((range_count - 1) / ranges_a_launch + 4);
    return stream.Queue(std::move(operation), [&](Operation& queued) -> absl::Status {
      const size_t key_bytes = queued.keys.size_bytes();
      PAVISE_ASSIGN_OR_RETURN(Owned<cl_mem> device_keys,
                              NewMemory(CL_MEM_READ_ONLY, key_bytes, nullptr));
      const cl_mem keys_memory = device_keys.get();
      queued.memories.push_back(std::move(device_keys));
      PAVISE_ASSIGN_OR_RETURN(Owned<cl_mem> tags, NewClearedMemory(queued.landing));
      const cl_mem tags_memory = tags.get();
      queued.memories.push_back(std::move(tags));

      absl::Status status = Remember(queued, "clEnqueueWriteBuffer", [&](cl_event* event) {
        return cl_.clEnqueueWriteBuffer(stream.queue(), keys_memory, CL_FALSE, 0, key_bytes,
                                        queued.keys.Reveal().data(), 0, nullptr, event);
      });
      for (uint64_t first = 0; status.ok() && first < range_count; first += ranges_a_launch) {
        status = Launch(stream, queued, stream.kernels().tag.get(), tag_path_.kernel_name,
                        std::min(ranges_a_launch, range_count - first), tag_path_.group_items,
                        bytes, static_cast<cl_ulong>(range.offset_bytes),
                        static_cast<cl_ulong>(range.size_bytes), static_cast<cl_ulong>(first_range),
                        static_cast<cl_ulong>(first), static_cast<cl_ulong>(range_count),
                        keys_memory, static_cast<cl_uint>(keys.size()), tags_memory);
      }
      // After any failure too.
      status.Update(Clear(stream, queued, keys_memory, key_bytes));
      PAVISE_RETURN_IF_ERROR(status);
      return Read(stream, queued, tags_memory);
    });
  }

  const Library cl_;
  int index_ = -1;  // as opencl:N counts
  const OpenClOptions options_;
  const std::string name_;
  OpenClDeviceInfo info_;
  cl_device_id device_ = nullptr;
  uint64_t most_buffer_bytes_ = 0;
  size_t compute_units_ = 1;
  size_t group_chunks_ = 1;
  size_t most_serial_items_ = 1;
  Owned<cl_context> context_;
  // One for all streams: what several queues do to one memory object at a time, even to different
  // parts of it, is undefined (OpenCL 1.2, appendix A.1).
  Owned<cl_command_queue> queue_;
  Owned<cl_program> sha256_;
  Owned<cl_program> sha384_;
  Owned<cl_program> blake3_chunks_;
  Owned<cl_program> blake3_parents_;
  Owned<cl_program> tag_;
  TagPath tag_path_;
  std::string unused_tag_paths_;
};

}  // namespace

namespace {

// `which`: a number or a queue.
template <class Which>
absl::StatusOr<std::unique_ptr<Device>> Open(const Library& library, Which which,
                                             const OpenClOptions& options) {
  if (options.group_chunks == 0 || options.subtrees_a_launch == 0 ||
      options.serial_slice_bytes == 0 || options.serial_slice_bytes % 128 != 0) {
    return UsageError("opencl: impossible limits");
  }
  try {
    return OpenClDevice::Create(library, which, options);
  } catch (const std::exception& error) {
    return MachineFailure("opencl", error.what());
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> NewDevice(const Library& library, unsigned index,
                                                  const OpenClOptions& options) {
  return Open(library, index, options);
}

absl::StatusOr<std::unique_ptr<Device>> WrapQueue(const Library& library, cl_command_queue queue,
                                                  const OpenClOptions& options) {
  if (queue == nullptr) return UsageError("opencl: no command queue");
  return Open(library, queue, options);
}

absl::StatusOr<std::unique_ptr<Buffer>> WrapBuffer(Device& device, cl_mem memory,
                                                   uint64_t size_bytes) {
  auto* own = dynamic_cast<OpenClDevice*>(&device);
  if (own == nullptr) return UsageError(StrCat(device.name(), " is no OpenCL device"));
  return own->Wrap(memory, size_bytes);
}

absl::StatusOr<std::vector<OpenClDeviceInfo>> ListDevices(const Library& library) {
  PAVISE_ASSIGN_OR_RETURN(const std::vector<Chosen> all, AllDevices(library));
  std::vector<OpenClDeviceInfo> devices;
  for (const Chosen& chosen : all) {
    PAVISE_ASSIGN_OR_RETURN(OpenClDeviceInfo info, Describe(library, chosen));
    devices.push_back(std::move(info));
  }
  return devices;
}

}  // namespace opencl

std::vector<OpenClDeviceInfo> ListOpenClDevices() {
  const auto library = opencl::OpenLibrary();
  if (!library.ok()) return {};
  auto devices = opencl::ListDevices(*library);
  if (!devices.ok()) return {};
  return *std::move(devices);
}

absl::StatusOr<std::unique_ptr<Device>> NewOpenClDevice(unsigned index,
                                                        const OpenClOptions& options) {
  PAVISE_ASSIGN_OR_RETURN(const opencl::Library library, opencl::OpenLibrary());
  return opencl::NewDevice(library, index, options);
}

absl::StatusOr<std::unique_ptr<Device>> WrapOpenClQueue(void* command_queue,
                                                        const OpenClOptions& options) {
  PAVISE_ASSIGN_OR_RETURN(const opencl::Library library, opencl::OpenLibrary());
  return opencl::WrapQueue(library, static_cast<cl_command_queue>(command_queue), options);
}

absl::StatusOr<std::unique_ptr<Buffer>> WrapOpenClBuffer(Device& device, void* memory,
                                                         uint64_t size_bytes) {
  return opencl::WrapBuffer(device, static_cast<cl_mem>(memory), size_bytes);
}

}  // namespace pavise::hash
