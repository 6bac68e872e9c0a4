#include "pavise/loading/testing/hooked_device.h"

#include <algorithm>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/hash/cpu/cpu_device.h"

namespace pavise::loading {

using hash::Buffer;
using hash::ChainingValue;
using hash::Range;
using hash::RangeTag;
using hash::Stream;

class HookedDevice::Held final : public Buffer {
 public:
  Held(HookedDevice& owner, std::unique_ptr<Buffer> memory)
      : owner_(owner), memory_(std::move(memory)) {
    ++owner_.live_buffers_;
  }
  ~Held() override { --owner_.live_buffers_; }
  uint64_t size_bytes() const override { return memory_->size_bytes(); }
  const hash::Device& device() const override { return owner_; }
  std::span<uint8_t> host_bytes() override {
    if (owner_.memory_ == Memory::kHidden) return {};
    return memory_->host_bytes();
  }
  // What the CPU device takes; tests write through it, so it is never const underneath.
  Buffer& memory() const { return *memory_; }

 private:
  HookedDevice& owner_;
  std::unique_ptr<Buffer> memory_;
};

class HookedDevice::Reader final : public hash::DirectReader {
 public:
  explicit Reader(HookedDevice& device) : device_(device) {}
  std::string_view name() const override { return "hooked reader"; }
  bool bypasses_host() const override { return device_.hooks.direct_bypasses_host; }
  absl::StatusOr<std::unique_ptr<hash::DirectFile>> Open(const FileDescriptor& file) override {
    if (device_.hooks.open_direct) PAVISE_RETURN_IF_ERROR(device_.hooks.open_direct());
    return std::make_unique<File>(device_, file);
  }

 private:
  class File final : public hash::DirectFile {
   public:
    File(HookedDevice& device, const FileDescriptor& file) : device_(device), file_(file) {}
    absl::StatusOr<uint64_t> Read(uint64_t offset_bytes, Buffer& buffer, Range range) override {
      ++device_.direct_reads_;
      return device_.hooks.direct_read(
          file_, offset_bytes, Resident(buffer).subspan(range.offset_bytes, range.size_bytes));
    }

   private:
    HookedDevice& device_;
    const FileDescriptor& file_;
  };
  HookedDevice& device_;
};

HookedDevice::HookedDevice(Memory memory, Hooks the_hooks)
    : hooks(std::move(the_hooks)), memory_(memory), cpu_(hash::NewCpuDevice(2)) {}

Buffer& HookedDevice::Inner(const Buffer& buffer) {
  return dynamic_cast<const Held&>(buffer).memory();
}

std::span<uint8_t> HookedDevice::Resident(const Buffer& buffer) {
  return Inner(buffer).host_bytes();
}

bool HookedDevice::supports(hash::Algorithm algorithm) const {
  return cpu_->supports(algorithm) && (hooks.blake3 || algorithm != hash::Algorithm::kBlake3);
}

hash::MemoryLink HookedDevice::memory_link() const {
  return memory_ == Memory::kHost ? cpu_->memory_link() : hooks.link;
}

absl::StatusOr<std::unique_ptr<Stream>> HookedDevice::NewStream() { return cpu_->NewStream(); }

absl::StatusOr<std::unique_ptr<Buffer>> HookedDevice::Upload(ByteSpan host) {
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> memory, cpu_->Upload(host));
  return std::make_unique<Held>(*this, std::move(memory));
}

absl::StatusOr<std::unique_ptr<Buffer>> HookedDevice::Allocate(uint64_t size_bytes) {
  if (hooks.allocate) PAVISE_RETURN_IF_ERROR(hooks.allocate());
  PAVISE_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> memory, cpu_->Allocate(size_bytes));
  // Else what an earlier load left there may be what a copy that does nothing should have brought.
  std::ranges::fill(memory->host_bytes(), uint8_t{0xEE});
  return std::make_unique<Held>(*this, std::move(memory));
}

absl::StatusOr<std::unique_ptr<hash::Staging>> HookedDevice::AllocateStaging(size_t size_bytes) {
  return cpu_->AllocateStaging(size_bytes);
}

absl::StatusOr<std::unique_ptr<hash::DirectReader>> HookedDevice::NewDirectReader() {
  if (!hooks.direct_read) return Device::NewDirectReader();
  if (hooks.start_direct) PAVISE_RETURN_IF_ERROR(hooks.start_direct());
  return std::make_unique<Reader>(*this);
}

absl::Status HookedDevice::CopyIn(ByteSpan host, Buffer& buffer, uint64_t offset_bytes,
                                  Stream& stream) {
  ++copies_in_;
  Bytes bytes(host.begin(), host.end());
  if (hooks.copy_in) PAVISE_RETURN_IF_ERROR(hooks.copy_in(bytes, offset_bytes));
  PAVISE_RETURN_IF_ERROR(cpu_->CopyIn(bytes, Inner(buffer), offset_bytes, stream));
  return stream.Wait();  // `bytes` goes
}

absl::Status HookedDevice::CopyOut(const Buffer& buffer, Range range, Stream& stream,
                                   std::span<uint8_t> host) {
  PAVISE_RETURN_IF_ERROR(cpu_->CopyOut(Inner(buffer), range, stream, host));
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  if (hooks.after_copy_out) hooks.after_copy_out(host);
  return absl::OkStatus();
}

absl::Status HookedDevice::Digest(hash::Algorithm algorithm, const Buffer& buffer,
                                  std::span<const Range> ranges, Stream& stream,
                                  std::span<uint8_t> out) {
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  if (hooks.before_digests) PAVISE_RETURN_IF_ERROR(hooks.before_digests(Inner(buffer)));
  PAVISE_RETURN_IF_ERROR(cpu_->Digest(algorithm, Inner(buffer), ranges, stream, out));
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  return hooks.after_digests ? hooks.after_digests(out) : absl::OkStatus();
}

absl::Status HookedDevice::Blake3Subtrees(const Buffer& buffer,
                                          std::span<const hash::SubtreeRange> ranges,
                                          Stream& stream, std::span<ChainingValue> out) {
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  if (hooks.before_digests) PAVISE_RETURN_IF_ERROR(hooks.before_digests(Inner(buffer)));
  PAVISE_RETURN_IF_ERROR(cpu_->Blake3Subtrees(Inner(buffer), ranges, stream, out));
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  return hooks.after_subtrees ? hooks.after_subtrees(out) : absl::OkStatus();
}

absl::Status HookedDevice::Tag(std::span<const hash::TagKey* const> tag_keys, const Buffer& buffer,
                               Range range, uint64_t first_range, Stream& stream,
                               std::span<RangeTag> out) {
  {
    const std::lock_guard lock(mutex_);
    keys.emplace_back();
    for (const hash::TagKey* key : tag_keys) keys.back().emplace_back(AsText(key->blake3_key()));
  }
  Buffer& memory = Inner(buffer);
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  if (hooks.before_tag) PAVISE_RETURN_IF_ERROR(hooks.before_tag(memory));
  if (tag_keys.size() == 2 && hooks.between_keys) {
    const size_t half = out.size() / 2;
    PAVISE_RETURN_IF_ERROR(
        cpu_->Tag(tag_keys.first(1), memory, range, first_range, stream, out.first(half)));
    PAVISE_RETURN_IF_ERROR(stream.Wait());
    hooks.between_keys(memory);
    PAVISE_RETURN_IF_ERROR(
        cpu_->Tag(tag_keys.subspan(1), memory, range, first_range, stream, out.subspan(half)));
  } else {
    PAVISE_RETURN_IF_ERROR(cpu_->Tag(tag_keys, memory, range, first_range, stream, out));
  }
  PAVISE_RETURN_IF_ERROR(stream.Wait());
  return hooks.after_tag ? hooks.after_tag(memory, out) : absl::OkStatus();
}

}  // namespace pavise::loading
