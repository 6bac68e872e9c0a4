#include "pavise/train/internal/inflate.h"

#include <zlib.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "pavise/base/status.h"

namespace pavise::train::internal {
namespace {

// Deflate gives at most 258 bytes for two bits.
constexpr uint64_t kMostBytesABit = 129;
constexpr int kRaw = -MAX_WBITS;
constexpr int kGzip = 16 + MAX_WBITS;

// A stream that gives `exact_bytes`, or where that is nullopt, at most `max_bytes`.
absl::StatusOr<Bytes> Run(ByteSpan compressed, int window_bits, std::optional<uint64_t> exact_bytes,
                          uint64_t max_bytes, std::string_view item) {
  if (compressed.size() > std::numeric_limits<uInt>::max() ||
      max_bytes >= std::numeric_limits<uInt>::max()) {
    return Refuse(Reason::kLimitExceeded, item, "too long to be unpacked (4 GiB)");
  }
  const uint64_t possible = compressed.size() * 8 * kMostBytesABit;
  if (exact_bytes.has_value() && *exact_bytes > possible) {
    return Refuse(Reason::kMalformed, item, "claims more bytes than its compressed bytes can give");
  }
  // One byte more than may come, so that too much is noticed.
  Bytes out(exact_bytes.has_value() ? *exact_bytes + 1
                                    : std::min(max_bytes, 4 * compressed.size()) + 1);
  z_stream stream = {};
  if (inflateInit2(&stream, window_bits) != Z_OK) {
    return MachineFailure(item, "zlib could not be started");
  }
  stream.next_in = const_cast<Bytef*>(compressed.data());
  stream.avail_in = static_cast<uInt>(compressed.size());
  size_t size = 0;
  int result = Z_OK;
  while (true) {
    stream.next_out = out.data() + size;
    stream.avail_out = static_cast<uInt>(out.size() - size);
    result = inflate(&stream, Z_NO_FLUSH);
    size = out.size() - stream.avail_out;
    if (result != Z_OK || stream.avail_out != 0 || size > max_bytes) break;
    if (exact_bytes.has_value()) break;
    out.resize(std::min(max_bytes, 2 * out.size()) + 1);
  }
  const bool ends_with_input = stream.avail_in == 0;
  inflateEnd(&stream);
  if (result == Z_MEM_ERROR) return MachineFailure(item, "no memory");
  if (exact_bytes.has_value() && size > *exact_bytes) {
    return Refuse(Reason::kMalformed, item, "unpacks to more bytes than it claims");
  }
  if (size > max_bytes) {
    return Refuse(Reason::kLimitExceeded, item, "unpacks to more bytes than are read");
  }
  if (result != Z_STREAM_END) {
    return Refuse(Reason::kMalformed, item, "the compressed stream is cut short or broken");
  }
  if (!ends_with_input) {
    return Refuse(Reason::kMalformed, item, "bytes after the compressed stream");
  }
  if (exact_bytes.has_value() && size != *exact_bytes) {
    return Refuse(Reason::kMalformed, item, "unpacks to fewer bytes than it claims");
  }
  out.resize(size);
  return out;
}

}  // namespace

absl::StatusOr<Bytes> Inflate(ByteSpan compressed, uint64_t size_bytes, std::string_view item) {
  return Run(compressed, kRaw, size_bytes, size_bytes, item);
}

bool IsGzip(ByteSpan file) { return file.size() > 2 && file[0] == 0x1f && file[1] == 0x8b; }

absl::StatusOr<Bytes> Gunzip(ByteSpan file, uint64_t max_bytes, std::string_view item) {
  return Run(file, kGzip, std::nullopt, max_bytes, item);
}

uint32_t Crc32(ByteSpan bytes) {
  return static_cast<uint32_t>(crc32_z(0, bytes.data(), bytes.size()));
}

}  // namespace pavise::train::internal
