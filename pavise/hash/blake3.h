#ifndef PAVISE_HASH_BLAKE3_H_
#define PAVISE_HASH_BLAKE3_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "pavise/base/bytes.h"

// BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020), the tree laid open: the chaining values
// of complete subtrees are what ranges of a file are verified by (as in Bao).
//
// Vocabulary: a chunk is 1,024 bytes; a subtree covers a power-of-two number of chunks (or the
// last, shorter part of the input); its chaining value (32 bytes) is what its parent hashes. A
// *root* digest is finalised with the ROOT flag and is never a chaining value.
namespace pavise::hash {

inline constexpr size_t kBlake3ChunkBytes = 1024;
// The range that outboard trees store a chaining value for.
inline constexpr size_t kSubtreeBytes = size_t{1} << 20;

using ChainingValue = std::array<uint8_t, 32>;

// The BLAKE3 digest of `bytes` (32 bytes of output). Single-threaded, the best SIMD target of this
// CPU (chosen at run time by Highway).
Digest32 Blake3(ByteSpan bytes);

// The chaining value (not root) of the subtree over `bytes`, whose first chunk is number
// `first_chunk` of its input. `bytes` is not empty; its length in chunks may be any number that is
// a subtree of the whole (a power of two, or the tail of the input). Single-threaded.
ChainingValue Blake3Subtree(ByteSpan bytes, uint64_t first_chunk);

// The parent of two chaining values; the root digest when they are the whole tree's two halves.
ChainingValue Blake3Parent(const ChainingValue& left, const ChainingValue& right);
Digest32 Blake3RootParent(const ChainingValue& left, const ChainingValue& right);

// The root digest over the chaining values of consecutive kSubtreeBytes ranges (the last may be
// shorter), in order. At least two: an input of up to kSubtreeBytes is its own root (Blake3()).
Digest32 Blake3RootFromSubtrees(std::span<const ChainingValue> subtrees);

// Keyed BLAKE3 (a MAC under a 32-byte key).
Digest32 Blake3Keyed(const std::array<uint8_t, 32>& key, ByteSpan bytes);
// BLAKE3 derive_key mode: 32 bytes of key from a context string and key material.
Digest32 Blake3DeriveKey(std::string_view context, ByteSpan key_material);

// Incremental, in order, for streams. Not thread-safe; copyable (a copy continues on its own).
// Allocates nothing; a keyed state is wiped when it goes.
class Blake3Hasher {
 public:
  Blake3Hasher();
  // Hashes under a key, as Blake3Keyed.
  static Blake3Hasher Keyed(const std::array<uint8_t, 32>& key);
  // Takes key material, as Blake3DeriveKey.
  static Blake3Hasher DeriveKey(std::string_view context);
  ~Blake3Hasher();
  Blake3Hasher(const Blake3Hasher&) = default;
  Blake3Hasher& operator=(const Blake3Hasher&) = default;

  // At most 2^64 - 1 bytes in all.
  void Update(ByteSpan bytes);
  // The digest of what was given so far; the hasher may go on.
  Digest32 Finish() const;
  // `out.size()` bytes of extendable output, the first 32 of which are Finish().
  void FinishExtended(std::span<uint8_t> out) const;

 private:
  Blake3Hasher(const ChainingValue& key, uint32_t flags);
  // Adds a complete subtree of `chunks` chunks after the `chunks_` before it.
  void Push(const ChainingValue& value, uint64_t chunks);

  ChainingValue key_;
  uint32_t flags_;
  // 2^64 bytes are 2^54 chunks: one value for each bit of their count, and one not yet joined.
  std::array<ChainingValue, 55> stack_ = {};
  uint8_t stack_size_ = 0;
  uint64_t chunks_ = 0;  // on the stack
  std::array<uint8_t, kBlake3ChunkBytes> chunk_ = {};
  uint16_t chunk_size_bytes_ = 0;
};

// Name of the SIMD target in use: "AVX3", "AVX2", "SSE4", "NEON", "EMU128", ... (Highway's names).
std::string_view Blake3Target();

namespace reference {
// Plain scalar code written for reading, straight from the paper; what tests hold every device to.
Digest32 Blake3(ByteSpan bytes);
ChainingValue Blake3Subtree(ByteSpan bytes, uint64_t first_chunk);
ChainingValue Blake3Parent(const ChainingValue& left, const ChainingValue& right);
Digest32 Blake3RootParent(const ChainingValue& left, const ChainingValue& right);
}  // namespace reference

}  // namespace pavise::hash

#endif  // PAVISE_HASH_BLAKE3_H_
