#ifndef PAVISE_HASH_DEVICE_H_
#define PAVISE_HASH_DEVICE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/hash/algorithm.h"
#include "pavise/hash/blake3.h"
#include "pavise/hash/tag.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Where hashing happens. A device, its memory (Buffer) and its queues (Stream) are kept apart, so
// that a caller can hash what already lies in device memory, on its own stream, without a copy.
// Results come from the device that was asked, or there are none: nothing here ever falls back.
namespace pavise::hash {

class Device;

// A buffer's memory as its vendor's interface names it, for code that works on it there. Borrowed:
// valid as long as the buffer.
struct NativeMemory {
  enum class Kind {
    kNone,    // no such name
    kHost,    // a pointer of this process
    kCuda,    // a device pointer
    kOpenCl,  // a cl_mem, which knows its context
  };
  Kind kind = Kind::kNone;
  void* handle = nullptr;
  int ordinal = 0;  // N of "cuda:N", "opencl:N"
};

// Bytes in a device's memory. Owned by the caller; must outlive the work that reads it.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual const Device& device() const = 0;
  // The bytes themselves where the device's memory is the host's own; else empty.
  virtual std::span<uint8_t> host_bytes() { return {}; }
  virtual NativeMemory native_memory() const { return {}; }
};

// Host memory that copies to and from a device are made through. Page-aligned, and pinned where
// that lets a copy run beside other work.
class Staging {
 public:
  virtual ~Staging() = default;
  virtual std::span<uint8_t> bytes() = 0;
};

// An ordered queue of work on one device. Not thread-safe; one per thread.
class Stream {
 public:
  virtual ~Stream() = default;
  // Waits for everything queued; the first failure of any of it (kInternal) is returned here.
  virtual absl::Status Wait() = 0;
};

// A byte range of a buffer.
struct Range {
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
};

// The way from the CPU to a device's memory, as far as the device can say.
struct MemoryLink {
  enum class Kind {
    kHost,   // none: the memory is the process's own
    kPlain,  // bytes cross a bus in the clear, or nothing says otherwise
    // The device's driver says that it encrypts them. Its word only: nobody attested the device or
    // the driver, and a compromised driver says the same.
    kEncryptedUnattested,
  };
  Kind kind = Kind::kPlain;
  // Who says so, or what is missing; for people.
  std::string because = "nothing says that the way to this device is encrypted";
};

// A file that a device reads into its memory by itself. Thread-safe for ranges that do not overlap.
// The file must outlive it.
class DirectFile {
 public:
  virtual ~DirectFile() = default;
  // Reads range.size_bytes bytes at `offset_bytes` of the file to `range` of the buffer, which no
  // queued work may use; they are there when this returns. The number of bytes, fewer only where
  // the file ends. kInternal for a failure, after which the range holds anything;
  // kInvalidArgument for a range outside the buffer.
  virtual absl::StatusOr<uint64_t> Read(uint64_t offset_bytes, Buffer& buffer, Range range) = 0;
};

// Reading from storage to a device's memory without staging (GPUDirect Storage). Thread-safe; must
// not outlive the device.
class DirectReader {
 public:
  virtual ~DirectReader() = default;
  // For results to print; lives as long as the program.
  virtual std::string_view name() const = 0;
  // Whether bytes go past the host's memory; else the reader stages them itself.
  virtual bool bypasses_host() const = 0;
  // kUnsupported where the reader does not do files of this kind or file system, and nothing was
  // read; kInternal for any other failure.
  virtual absl::StatusOr<std::unique_ptr<DirectFile>> Open(const FileDescriptor& file) = 0;
};

// A range that is a subtree of a larger BLAKE3 input: at most kSubtreeBytes, starting at chunk
// `first_chunk` of that input, not its root.
struct SubtreeRange {
  Range range;
  uint64_t first_chunk = 0;
};

// Thread-safe; its buffers and streams are not.
class Device {
 public:
  virtual ~Device() = default;
  // "cpu", "cuda:0", ... as --device names it, and a line for people ("CPU, AVX3, 2 threads").
  virtual std::string name() const = 0;
  virtual std::string description() const = 0;
  virtual bool supports(Algorithm algorithm) const = 0;

  // Asked anew in each call.
  virtual MemoryLink memory_link() const { return {}; }

  virtual absl::StatusOr<std::unique_ptr<Stream>> NewStream() = 0;
  // One whose work stands back behind that of other streams where the device can order them; else
  // as NewStream.
  virtual absl::StatusOr<std::unique_ptr<Stream>> NewBackgroundStream() { return NewStream(); }
  // A buffer of its own, filled from host memory.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Upload(ByteSpan host) = 0;

  // What all its buffers together can hold at most.
  virtual uint64_t memory_bytes() const = 0;
  // A buffer of undefined content. kUnsupported where the device cannot have one so large.
  virtual absl::StatusOr<std::unique_ptr<Buffer>> Allocate(uint64_t size_bytes) = 0;
  virtual absl::StatusOr<std::unique_ptr<Staging>> AllocateStaging(size_t size_bytes) = 0;
  // kUnsupported where there is none, for whichever reason; kInternal for one that fails to start.
  virtual absl::StatusOr<std::unique_ptr<DirectReader>> NewDirectReader() {
    return Refuse(Reason::kUnsupported, name(), "this device reads no files by itself",
                  "read through the host's memory (--gds auto or off)");
  }
  // Queue a copy; `host` must stay as it is until Stream::Wait. Copies into ranges of one buffer
  // that do not overlap may be queued by several threads, each on its own stream. kInvalidArgument
  // for a range outside the buffer, or of another length than `host`.
  virtual absl::Status CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                              Stream& stream) = 0;
  virtual absl::Status CopyOut(const Buffer& buffer, Range range, Stream& stream,
                               std::span<uint8_t> host) = 0;

  // Queues a copy from one buffer of this device to another: what its memory alone can do, for a
  // measurement to stand beside. The buffers must outlive the work. kUnsupported where the device
  // has no such copy; kInvalidArgument for one buffer twice and for a range outside its buffer.
  virtual absl::Status CopyWithin(const Buffer& from, Range range, Buffer& to,
                                  uint64_t offset_bytes, Stream& stream) {
    (void)from, (void)range, (void)to, (void)offset_bytes, (void)stream;
    return Refuse(Reason::kUnsupported, name(), "this device copies nothing within its memory",
                  "name another device");
  }

  // Queues the digest of each range; `out` holds one digest a range, each
  // DigestSizeBytes(algorithm) long, back to back. `out` is valid after Stream::Wait. kUnsupported
  // when !supports(algorithm); kInvalidArgument for a range outside the buffer or a wrong size of
  // `out`.
  virtual absl::Status Digest(Algorithm algorithm, const Buffer& buffer,
                              std::span<const Range> ranges, Stream& stream,
                              std::span<uint8_t> out) = 0;
  // Queues the BLAKE3 chaining value of each subtree range; `out` holds one a range.
  // kInvalidArgument as above, and for a range that is no subtree: empty, above kSubtreeBytes, or
  // beginning at a chunk at which no subtree of so many chunks begins.
  virtual absl::Status Blake3Subtrees(const Buffer& buffer, std::span<const SubtreeRange> ranges,
                                      Stream& stream, std::span<ChainingValue> out) = 0;

  // Whether Tag is offered.
  virtual bool supports_tags() const { return false; }
  // Queues the tags (tag.h) under each of `keys` (one or two: the guard commits the next pass's and
  // checks the old one's) of the ranges that `range` covers, of which the first is number
  // `first_range` of the object: whole ranges, but for the object's last. No byte is read for
  // keys[1] before it was read for keys[0]; where the device can, it is read once for both. `out`
  // holds the tags under keys[0], then those under keys[1]. Keys and `out` must stay until Wait.
  // The keys' device copies and the sums are wiped before Wait returns. kUnsupported without
  // supports_tags(); kInvalidArgument for a range outside the buffer and for what CheckTagCall
  // (tag.h) refuses: a range that does not fit the keys' total length, a wrong size of `out`.
  virtual absl::Status Tag(std::span<const TagKey* const> keys, const Buffer& buffer, Range range,
                           uint64_t first_range, Stream& stream, std::span<RangeTag> out) {
    (void)keys, (void)buffer, (void)range, (void)first_range, (void)stream, (void)out;
    return Refuse(Reason::kUnsupported, name(), "this device computes no tags",
                  "name another device");
  }
};

}  // namespace pavise::hash

#endif  // PAVISE_HASH_DEVICE_H_
