#ifndef PAVISE_TRAIN_INTERNAL_INFLATE_H_
#define PAVISE_TRAIN_INTERNAL_INFLATE_H_

#include <cstdint>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::train::internal {

// A raw deflate stream (RFC 1951) of exactly `size_bytes`. kMalformed: a broken stream, another
// length, bytes after the end; a length that so few compressed bytes cannot give, before anything
// is allocated.
absl::StatusOr<Bytes> Inflate(ByteSpan compressed, uint64_t size_bytes, std::string_view item);

bool IsGzip(ByteSpan file);
// A gzip file of one member (RFC 1952). kMalformed as above; kLimitExceeded.
absl::StatusOr<Bytes> Gunzip(ByteSpan file, uint64_t max_bytes, std::string_view item);

// CRC-32 of ZIP.
uint32_t Crc32(ByteSpan bytes);

}  // namespace pavise::train::internal

#endif  // PAVISE_TRAIN_INTERNAL_INFLATE_H_
