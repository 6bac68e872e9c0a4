#include "pavise/offload/internal/frames.h"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/offload/fused_pass.h"

namespace pavise::offload::internal {

absl::StatusOr<Frames> FramesOf(const Share& share, DType type, std::span<const int> moduli,
                                std::string_view item) {
  Frames frames;
  if (moduli.empty()) {
    Frame& frame = frames.emplace_back();
    frame = {type, 0, share.values.rows(), share.values.columns(), {}};
    PAVISE_ASSIGN_OR_RETURN(frame.bytes, PackMatrix(share.values, type, item));
    return frames;
  }
  for (size_t p = 0; p < moduli.size(); ++p) {
    const ResidueMatrix& residues = share.residues[p];
    Frame& frame = frames.emplace_back();
    frame = {DType::kFp32, moduli[p], residues.rows(), residues.columns(), {}};
    const auto* const first = reinterpret_cast<const uint8_t*>(residues.values().data());
    try {
      frame.bytes.assign(first, first + residues.values().size());
    } catch (const std::bad_alloc&) {
      return MachineFailure(item, "no memory for a message");
    }
  }
  return frames;
}

bool ReadsInPlace(DType type) {
  return std::endian::native == std::endian::little &&
         (type == DType::kFp32 || type == DType::kBf16);
}

absl::StatusOr<Frame> NewFrame(DType type, size_t rows, size_t columns, std::string_view item,
                               std::vector<Bytes>& spare) {
  Frame frame = {type, 0, rows, columns, {}};
  PAVISE_RETURN_IF_ERROR(CheckShape(rows, columns, item));
  const size_t size_bytes = rows * columns * DTypeSizeBytes(type);
  // The smallest that will do.
  auto found = spare.end();
  for (auto bytes = spare.begin(); bytes != spare.end(); ++bytes) {
    if (bytes->size() >= size_bytes && (found == spare.end() || bytes->size() < found->size())) {
      found = bytes;
    }
  }
  if (found != spare.end()) {
    frame.bytes = std::move(*found);
    spare.erase(found);
  }
  try {
    frame.bytes.resize(size_bytes);
  } catch (const std::bad_alloc&) {
    return MachineFailure(item, "no memory for a message");
  }
  return frame;
}

void KeepMemory(Frame frame, std::vector<Bytes>& spare) {
  constexpr size_t kMost = 8;
  if (spare.size() == kMost) spare.erase(spare.begin());
  spare.push_back(std::move(frame.bytes));
}

WireView ValuesOf(const Frame& frame) {
  WireView view;
  if (frame.type == DType::kBf16) {
    view.bf16 = {reinterpret_cast<const uint16_t*>(frame.bytes.data()), frame.rows, frame.columns,
                 frame.columns};
  } else {
    view.fp32 = {reinterpret_cast<const float*>(frame.bytes.data()), frame.rows, frame.columns,
                 frame.columns};
  }
  return view;
}

void DecodeFrom(const Frame& frame, const WireKeys& keys, FusedPass& pass) {
  const WireView values = ValuesOf(frame);
  pass.in = values.fp32;
  pass.in_bf16 = values.bf16;
  pass.decode = keys;
}

void EncodeInto(Frame& frame, const WireKeys& keys, FusedPass& pass) {
  if (frame.type == DType::kBf16) {
    pass.out_bf16 = {reinterpret_cast<uint16_t*>(frame.bytes.data()), frame.rows, frame.columns,
                     frame.columns};
  } else {
    pass.out = {reinterpret_cast<float*>(frame.bytes.data()), frame.rows, frame.columns,
                frame.columns};
  }
  pass.encode = keys;
}

absl::Status CheckFrame(std::span<const Frame> frames, DType type, size_t rows, size_t columns,
                        std::string_view item) {
  const auto malformed = [&](std::string_view detail) {
    return Refuse(Reason::kMalformed, item, detail);
  };
  if (frames.size() != 1) return malformed(StrCat(frames.size(), " frames, not 1"));
  const Frame& frame = frames[0];
  if (frame.modulus != 0) return malformed(StrCat("residues modulo ", frame.modulus, ", not 0"));
  if (frame.rows != rows || frame.columns != columns) {
    return malformed(StrCat(frame.rows, " x ", frame.columns, " is not ", rows, " x ", columns));
  }
  if (frame.type != type) {
    return malformed(StrCat(DTypeName(frame.type), ", not ", DTypeName(type)));
  }
  PAVISE_RETURN_IF_ERROR(CheckShape(rows, columns, item));
  if (frame.bytes.size() != rows * columns * DTypeSizeBytes(type)) {
    return malformed(StrCat(frame.bytes.size(), " bytes are not ", rows, " x ", columns, " of ",
                            DTypeName(type)));
  }
  return absl::OkStatus();
}

absl::StatusOr<Share> ShareOf(std::span<const Frame> frames, DType type,
                              std::span<const int> moduli, size_t rows, size_t columns,
                              std::string_view item) {
  const auto malformed = [&](std::string_view detail) {
    return Refuse(Reason::kMalformed, item, detail);
  };
  const size_t expected = std::max<size_t>(moduli.size(), 1);
  if (frames.size() != expected) {
    return malformed(StrCat(frames.size(), " frames, not ", expected));
  }
  Share share;
  for (size_t p = 0; p < frames.size(); ++p) {
    const Frame& frame = frames[p];
    const int modulus = moduli.empty() ? 0 : moduli[p];
    if (frame.modulus != modulus) {
      return malformed(StrCat("residues modulo ", frame.modulus, ", not ", modulus));
    }
    if (frame.rows != rows || frame.columns != columns) {
      return malformed(StrCat(frame.rows, " x ", frame.columns, " is not ", rows, " x ", columns));
    }
    if (moduli.empty()) {
      if (frame.type != type) {
        return malformed(StrCat(DTypeName(frame.type), ", not ", DTypeName(type)));
      }
      PAVISE_ASSIGN_OR_RETURN(share.values, UnpackMatrix(frame.bytes, type, rows, columns, item));
      continue;
    }
    PAVISE_RETURN_IF_ERROR(CheckShape(rows, columns, item));
    if (frame.bytes.size() != rows * columns) {
      return malformed(StrCat(frame.bytes.size(), " bytes are not ", rows, " x ", columns));
    }
    PAVISE_ASSIGN_OR_RETURN(auto residues, ResidueMatrix::Create(rows, columns, item));
    for (size_t i = 0; i < frame.bytes.size(); ++i) {
      const auto residue = static_cast<int8_t>(frame.bytes[i]);
      if (std::abs(residue) > modulus / 2) {
        return malformed(StrCat(static_cast<int>(residue), " is no residue modulo ", modulus));
      }
      residues.values()[i] = residue;
    }
    share.residues.push_back(std::move(residues));
  }
  return share;
}

uint64_t SizeBytes(std::span<const Frame> frames) {
  uint64_t size_bytes = 0;
  for (const Frame& frame : frames) size_bytes += frame.bytes.size();
  return size_bytes;
}

absl::Status CheckEcho(const Request& request, const Reply& reply) {
  const bool is_next = request.command == Command::kUpdate && request.sgd.has_value();
  if (reply.command == request.command && reply.layer == request.layer &&
      reply.step == request.step && reply.version == request.version + (is_next ? 1 : 0)) {
    return absl::OkStatus();
  }
  return Refuse(Reason::kMalformed, StrCat("layer ", request.layer, ", step ", request.step),
                "the answer is to another request (stale, replayed, or of another layer)");
}

}  // namespace pavise::offload::internal
