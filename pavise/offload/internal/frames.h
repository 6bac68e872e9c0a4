#ifndef PAVISE_OFFLOAD_INTERNAL_FRAMES_H_
#define PAVISE_OFFLOAD_INTERNAL_FRAMES_H_

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/offload/fused_pass.h"
#include "pavise/offload/scheme.h"
#include "pavise/offload/worker.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::offload::internal {

// A share as it travels: floats as `type`, or residues. kMalformed, kLimitExceeded: PackMatrix'.
absl::StatusOr<Frames> FramesOf(const Share& share, DType type, std::span<const int> moduli,
                                std::string_view item);

// Whether frames of floats can be read and written where they lie: fp32 and bf16, on a machine that
// lays numbers out as they travel. What follows is for these.
bool ReadsInPlace(DType type);
// Of any content, to be written whole: in memory of `spare` where there is enough, which is then
// taken from it and not filled with zeros first. As Matrix::Create.
absl::StatusOr<Frame> NewFrame(DType type, size_t rows, size_t columns, std::string_view item,
                               std::vector<Bytes>& spare);
// Keeps the memory of an answer that was read for NewFrame: of the last eight.
void KeepMemory(Frame frame, std::vector<Bytes>& spare);
WireView ValuesOf(const Frame& frame);
// The frame as the pass' input, or output. What bf16 cannot hold becomes infinite.
void DecodeFrom(const Frame& frame, const WireKeys& keys, FusedPass& pass);
void EncodeInto(Frame& frame, const WireKeys& keys, FusedPass& pass);
// A worker's answer: one frame, of that form. kMalformed. Its values are not looked at.
absl::Status CheckFrame(std::span<const Frame> frames, DType type, size_t rows, size_t columns,
                        std::string_view item);

// The reverse of FramesOf, of a worker's answer or of what was sent. kMalformed: another number of
// frames than one, or than moduli; another type, modulus, shape or length; NaN, infinities, no
// residues.
absl::StatusOr<Share> ShareOf(std::span<const Frame> frames, DType type,
                              std::span<const int> moduli, size_t rows, size_t columns,
                              std::string_view item);

uint64_t SizeBytes(std::span<const Frame> frames);

// kMalformed: the answer to another request.
absl::Status CheckEcho(const Request& request, const Reply& reply);

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_FRAMES_H_
