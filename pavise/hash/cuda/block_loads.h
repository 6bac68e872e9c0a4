// Bringing a block of a hashed range into a lane's registers: from any address, with zeros after
// the range's end; and, for lanes that walk long ranges side by side, through shared memory.
#ifndef PAVISE_HASH_CUDA_BLOCK_LOADS_H_
#define PAVISE_HASH_CUDA_BLOCK_LOADS_H_

#include <cstdint>

#include "pavise/hash/cuda/warp.h"

namespace pavise::hash::cuda {

// ---- Each lane for itself ----

// The block of kBytes at `bytes`, of which `left` are the range's; the rest become zeros.
// `readable` bytes from `bytes` on belong to the same memory, at least `left`. An address that is
// no multiple of 16 is read as the aligned pieces around it: up to 15 bytes before it, which must
// be readable, as they are in anything that cudaMalloc gave (aligned to 256).
template <uint32_t kBytes>
PAVISE_KERNEL_LOGIC void LoadBlock(const uint8_t* bytes, uint64_t left, uint64_t readable,
                                   uint32_t* words) {
  const uint32_t misaligned = static_cast<uint32_t>(AddressOf(bytes)) % kPieceBytes;
  if (left >= kBytes && misaligned == 0) {
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i < kBytes / kPieceBytes; ++i) {
      const Piece piece = LoadPiece(bytes + i * kPieceBytes);
      PAVISE_KERNEL_UNROLL
      for (uint32_t j = 0; j < 4; ++j) words[4 * i + j] = piece.words[j];
    }
    return;
  }
  if (left >= kBytes && readable >= kBytes + kPieceBytes) {
    // One piece more, moved down by whole words (two selections, so that every register has a
    // fixed number) and then by bytes.
    uint32_t raw[kBytes / 4 + 4];
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i <= kBytes / kPieceBytes; ++i) {
      const Piece piece = LoadPiece(bytes - misaligned + i * kPieceBytes);
      PAVISE_KERNEL_UNROLL
      for (uint32_t j = 0; j < 4; ++j) raw[4 * i + j] = piece.words[j];
    }
    const bool by_two = (misaligned & 8) != 0;
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i < kBytes / 4 + 2; ++i) raw[i] = by_two ? raw[i + 2] : raw[i];
    const bool by_one = (misaligned & 4) != 0;
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i < kBytes / 4 + 1; ++i) raw[i] = by_one ? raw[i + 1] : raw[i];
    const uint32_t shift = misaligned % 4 * 8;
    PAVISE_KERNEL_UNROLL
    for (uint32_t i = 0; i < kBytes / 4; ++i) words[i] = FunnelRight(raw[i], raw[i + 1], shift);
    return;
  }
  PAVISE_KERNEL_UNROLL
  for (uint32_t i = 0; i < kBytes / 4; ++i) {
    uint32_t word = 0;
    PAVISE_KERNEL_UNROLL
    for (uint32_t j = 0; j < 4; ++j) {
      if (4 * i + j < left) word |= static_cast<uint32_t>(bytes[4 * i + j]) << (8 * j);
    }
    words[i] = word;
  }
}

// ---- A warp together ----

// A step is 128 bytes of each lane's row: whole lines of the cache, so that a warp's copies are
// coalesced and a page is asked for once a line (rows of different ranges lie in different pages).
inline constexpr uint32_t kStepBytes = 128;
inline constexpr uint32_t kPiecesPerStep = kStepBytes / kPieceBytes;
inline constexpr uint32_t kRowsPerCopy = kLanes / kPiecesPerStep;
inline constexpr uint32_t kCopiesPerStep = kPiecesPerStep;

// Two steps: one being read while the next arrives. Row r's piece p is at place p ^ (r % 8) of the
// row, so that eight lanes, which the hardware serves together, find their pieces in different
// banks when each reads its own row, as they do when they write one.
struct StagedRows {
  alignas(16) uint8_t bytes[2][kLanes * kStepBytes];
};

PAVISE_KERNEL_LOGIC uint32_t StagedOffset(uint32_t row, uint32_t piece) {
  return row * kStepBytes + (piece ^ (row % kPiecesPerStep)) * kPieceBytes;
}

// The part of a step's copy that is `lane`'s: piece lane % 8 of rows lane / 8, that plus 4, plus
// 8, ... `source_of(i)` is where the i-th of them lies.
template <class Warp, class SourceOf>
PAVISE_KERNEL_LOGIC void StartStep(Warp& warp, uint32_t lane, uint8_t* step, SourceOf source_of) {
  const uint32_t row = lane / kPiecesPerStep;
  const uint32_t piece = lane % kPiecesPerStep;
  // Row numbers modulo 8 alternate between two values, so two places serve all copies.
  uint8_t* const even = step + StagedOffset(row, piece);
  uint8_t* const odd = step + StagedOffset(row + kRowsPerCopy, piece);
  PAVISE_KERNEL_UNROLL
  for (uint32_t i = 0; i < kCopiesPerStep; ++i) {
    warp.StartCopy((i % 2 == 0 ? even : odd) + (i / 2) * (2 * kRowsPerCopy * kStepBytes),
                   source_of(i));
  }
}

// Block `block` (in units of kBytes) of `lane`'s row of a step.
template <uint32_t kBytes>
PAVISE_KERNEL_LOGIC void ReadStagedBlock(const uint8_t* step, uint32_t lane, uint32_t block,
                                         uint32_t* words) {
  PAVISE_KERNEL_UNROLL
  for (uint32_t i = 0; i < kBytes / kPieceBytes; ++i) {
    const Piece piece = ReadPiece(step + StagedOffset(lane, block * (kBytes / kPieceBytes) + i));
    PAVISE_KERNEL_UNROLL
    for (uint32_t j = 0; j < 4; ++j) words[4 * i + j] = piece.words[j];
  }
}

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_BLOCK_LOADS_H_
