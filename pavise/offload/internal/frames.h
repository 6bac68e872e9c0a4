#ifndef PAVISE_OFFLOAD_INTERNAL_FRAMES_H_
#define PAVISE_OFFLOAD_INTERNAL_FRAMES_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/offload/scheme.h"
#include "pavise/offload/worker.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload::internal {

// A share as it travels: floats as `type`, or residues. kMalformed, kLimitExceeded: PackMatrix'.
absl::StatusOr<Frames> FramesOf(const Share& share, DType type, std::span<const int> moduli,
                                std::string_view item);

// The reverse, of a worker's answer or of what was sent. kMalformed: another number of frames than
// one, or than moduli; another type, modulus, shape or length; NaN, infinities, no residues.
absl::StatusOr<Share> ShareOf(std::span<const Frame> frames, DType type,
                              std::span<const int> moduli, size_t rows, size_t columns,
                              std::string_view item);

uint64_t SizeBytes(std::span<const Frame> frames);

// kMalformed: the answer to another request.
absl::Status CheckEcho(const Request& request, const Reply& reply);

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_FRAMES_H_
