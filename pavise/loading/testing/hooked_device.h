#ifndef PAVISE_LOADING_TESTING_HOOKED_DEVICE_H_
#define PAVISE_LOADING_TESTING_HOOKED_DEVICE_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/file.h"
#include "pavise/hash/device.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::loading {

// The CPU behind the face of another device, which goes wrong where the test says so. Hooks may be
// changed between calls; they run on the threads that call the device.
class HookedDevice final : public hash::Device {
 public:
  // Each may be empty. A status that is not OK is the call's.
  struct Hooks {
    std::function<absl::Status()> allocate;
    // May change the bytes that reach the device, and where.
    std::function<absl::Status(Bytes& bytes, uint64_t& offset_bytes)> copy_in;
    // What the host is told the device holds.
    std::function<void(std::span<uint8_t>)> after_copy_out;
    // Of Digest and Blake3Subtrees.
    std::function<absl::Status(hash::Buffer&)> before_digests;
    std::function<absl::Status(std::span<uint8_t>)> after_digests;
    std::function<absl::Status(std::span<hash::ChainingValue>)> after_subtrees;
    std::function<absl::Status(hash::Buffer&)> before_tag;
    // Between the readings for the first and the second key.
    std::function<void(hash::Buffer&)> between_keys;
    std::function<absl::Status(hash::Buffer&, std::span<hash::RangeTag>)> after_tag;
    // Reads without staging: the bytes that the reader says it read, of those asked for at that
    // offset of the file. May change both, and the place in `memory`. Without one the device has
    // no direct reader.
    std::function<absl::StatusOr<uint64_t>(const FileDescriptor& file, uint64_t offset_bytes,
                                           std::span<uint8_t> memory)>
        direct_read;
    std::function<absl::Status()> start_direct;  // of NewDirectReader
    std::function<absl::Status()> open_direct;   // of DirectReader::Open
    bool direct_bypasses_host = true;
    bool tags = true;
    bool blake3 = true;
    uint64_t memory_bytes = uint64_t{1} << 40;
    hash::MemoryLink link = {};  // in the clear
  };
  // kHidden: memory that the host does not see, so that bytes are copied there; kHost: its own.
  enum class Memory { kHost, kHidden };

  explicit HookedDevice(Memory memory = Memory::kHost) : HookedDevice(memory, Hooks()) {}
  HookedDevice(Memory memory, Hooks the_hooks);

  Hooks hooks;
  // The BLAKE3 keys of all calls of Tag, in order, those of one call together.
  std::vector<std::vector<std::string>> keys;

  // What lies in the device's memory, also where the host does not see it.
  static std::span<uint8_t> Resident(const hash::Buffer& buffer);
  int live_buffers() const { return live_buffers_; }
  uint64_t direct_reads() const { return direct_reads_; }
  uint64_t copies_in() const { return copies_in_; }

  std::string name() const override { return "hooked:0"; }
  std::string description() const override { return "a hooked device"; }
  bool supports(hash::Algorithm algorithm) const override;
  hash::MemoryLink memory_link() const override;
  absl::StatusOr<std::unique_ptr<hash::Stream>> NewStream() override;
  absl::StatusOr<std::unique_ptr<hash::Buffer>> Upload(ByteSpan host) override;
  uint64_t memory_bytes() const override { return hooks.memory_bytes; }
  absl::StatusOr<std::unique_ptr<hash::Buffer>> Allocate(uint64_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<hash::Staging>> AllocateStaging(size_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<hash::DirectReader>> NewDirectReader() override;
  absl::Status CopyIn(ByteSpan host, hash::Buffer& buffer, uint64_t offset_bytes,
                      hash::Stream& stream) override;
  absl::Status CopyOut(const hash::Buffer& buffer, hash::Range range, hash::Stream& stream,
                       std::span<uint8_t> host) override;
  absl::Status Digest(hash::Algorithm algorithm, const hash::Buffer& buffer,
                      std::span<const hash::Range> ranges, hash::Stream& stream,
                      std::span<uint8_t> out) override;
  absl::Status Blake3Subtrees(const hash::Buffer& buffer,
                              std::span<const hash::SubtreeRange> ranges, hash::Stream& stream,
                              std::span<hash::ChainingValue> out) override;
  bool supports_tags() const override { return hooks.tags; }
  absl::Status Tag(std::span<const hash::TagKey* const> tag_keys, const hash::Buffer& buffer,
                   hash::Range range, uint64_t first_range, hash::Stream& stream,
                   std::span<hash::RangeTag> out) override;

 private:
  class Held;
  class Reader;
  static hash::Buffer& Inner(const hash::Buffer& buffer);

  const Memory memory_;
  const std::unique_ptr<hash::Device> cpu_;
  std::mutex mutex_;
  std::atomic<int> live_buffers_{0};
  std::atomic<uint64_t> direct_reads_{0};
  std::atomic<uint64_t> copies_in_{0};
};

}  // namespace pavise::loading

#endif  // PAVISE_LOADING_TESTING_HOOKED_DEVICE_H_
