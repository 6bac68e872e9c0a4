#ifndef PAVISE_HASH_OPENCL_OPENCL_DEVICE_H_
#define PAVISE_HASH_OPENCL_OPENCL_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "pavise/hash/device.h"

#include "absl/status/statusor.h"

// GPUs (and whatever else there is a driver for) through OpenCL 1.2. The loader, libOpenCL.so.1, is
// found when it is asked for: a program starts without it.
namespace pavise::hash {

struct OpenClDeviceInfo {
  enum class Kind { kGpu, kCpu, kOther };
  std::string name;
  std::string platform;
  Kind kind = Kind::kOther;
  uint64_t memory_bytes = 0;
};

// Limits below those of the device; for tests.
struct OpenClOptions {
  // Chunks a work-group joins at most: 1 to 1,024; rounded down to a power of two.
  size_t group_chunks = 256;
  // Bytes of a SHA-2 chain, and MiB of a BLAKE3 batch or of tags, that one launch takes at most, so
  // that none holds a display's device for seconds. A multiple of 128; not 0.
  uint64_t serial_slice_bytes = uint64_t{16} << 20;
  size_t subtrees_a_launch = 1024;
};

// The devices of all platforms in the order in which "opencl:N" counts them. Empty where there are
// none; NewOpenClDevice says why.
std::vector<OpenClDeviceInfo> ListOpenClDevices();

// Device `index` of ListOpenClDevices(), its kernels built: SHA-256, SHA-384, BLAKE3 and tags. Tags
// come from matrix engines, integer dot products or plain code, the first of these that the device
// has and whose tags of a short object, computed here, are right; description() names it, and
// those passed over.
//
// kUnsupported: no OpenCL loader or driver, no device of that number, or one that OpenCL 1.2's full
// profile with a compiler and little-endian words does not describe; and of Upload, bytes that are
// more than the device takes in one piece. kInternal: whatever a call of OpenCL answers with an
// error, at once or found by Stream::Wait; kernels that do not build, memory that does not
// suffice, and a device whose tags are wrong among them. After an error the outputs of that stream
// since its last Wait are not written.
//
// The device must outlive its buffers and streams. A buffer must outlive the Wait that follows the
// work that reads it.
absl::StatusOr<std::unique_ptr<Device>> NewOpenClDevice(unsigned index,
                                                        const OpenClOptions& options = {});

// The device behind the caller's cl_command_queue, as NewOpenClDevice's in all else: its streams
// queue on that queue, after what is already there, and its own memory is of the queue's context.
// It keeps both. Opening it waits for what the caller has queued. kUnsupported for what
// NewOpenClDevice refuses and for a queue that runs out of order, on which the steps of a hash
// would run so too; kInvalidArgument for no queue.
absl::StatusOr<std::unique_ptr<Device>> WrapOpenClQueue(void* command_queue,
                                                        const OpenClOptions& options = {});

// Kernels load whole blocks: so many bytes after the last one that is hashed are read, never used.
inline constexpr uint64_t kOpenClPaddingBytes = 256;
// The first `size_bytes` bytes of the caller's cl_mem, without a copy; it is kept, and never
// written. `device` is WrapOpenClQueue's, of a queue of the same context. kUnsupported where the
// object does not go on for kOpenClPaddingBytes after them. kInvalidArgument where `device` is no
// OpenCL device or the object is no buffer, of another context, or not readable by kernels.
absl::StatusOr<std::unique_ptr<Buffer>> WrapOpenClBuffer(Device& device, void* memory,
                                                         uint64_t size_bytes);

}  // namespace pavise::hash

#endif  // PAVISE_HASH_OPENCL_OPENCL_DEVICE_H_
