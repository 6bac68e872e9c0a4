#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "pavise/hash/blake3.h"

// BLAKE3 as the paper defines it (sections 2.1 to 2.4), one byte at a time where that is clearer.
// Shares nothing with the SIMD code, not even its constants.
namespace pavise::hash::reference {
namespace {

using Words8 = std::array<uint32_t, 8>;
using Words16 = std::array<uint32_t, 16>;

constexpr size_t kBlockBytes = 64;
constexpr size_t kChunkBytes = 1024;

// Table 1.
constexpr Words8 kInitialisationVector = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                          0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
// Table 2.
constexpr std::array<size_t, 16> kMessagePermutation = {2, 6,  3,  10, 7, 0,  4,  13,
                                                        1, 11, 12, 5,  9, 14, 15, 8};
// Table 3.
enum Flag : uint32_t { kChunkStart = 1, kChunkEnd = 2, kParent = 4, kRoot = 8 };

void G(Words16& v, size_t a, size_t b, size_t c, size_t d, uint32_t x, uint32_t y) {
  v[a] = v[a] + v[b] + x;
  v[d] = std::rotr(v[d] ^ v[a], 16);
  v[c] = v[c] + v[d];
  v[b] = std::rotr(v[b] ^ v[c], 12);
  v[a] = v[a] + v[b] + y;
  v[d] = std::rotr(v[d] ^ v[a], 8);
  v[c] = v[c] + v[d];
  v[b] = std::rotr(v[b] ^ v[c], 7);
}

// Section 2.2; the first eight words of the output, which is all that a tree needs.
Words8 Compress(const Words8& chaining, Words16 message, uint64_t counter, uint32_t block_length,
                uint32_t flags) {
  Words16 v = {};
  std::copy(chaining.begin(), chaining.end(), v.begin());
  std::copy_n(kInitialisationVector.begin(), 4, v.begin() + 8);
  v[12] = static_cast<uint32_t>(counter);
  v[13] = static_cast<uint32_t>(counter >> 32);
  v[14] = block_length;
  v[15] = flags;
  for (int round = 0; round < 7; ++round) {
    G(v, 0, 4, 8, 12, message[0], message[1]);
    G(v, 1, 5, 9, 13, message[2], message[3]);
    G(v, 2, 6, 10, 14, message[4], message[5]);
    G(v, 3, 7, 11, 15, message[6], message[7]);
    G(v, 0, 5, 10, 15, message[8], message[9]);
    G(v, 1, 6, 11, 12, message[10], message[11]);
    G(v, 2, 7, 8, 13, message[12], message[13]);
    G(v, 3, 4, 9, 14, message[14], message[15]);
    Words16 permuted;
    for (size_t i = 0; i < 16; ++i) permuted[i] = message[kMessagePermutation[i]];
    message = permuted;
  }
  Words8 out;
  for (size_t i = 0; i < 8; ++i) out[i] = v[i] ^ v[i + 8];
  return out;
}

Words16 MessageOf(ByteSpan block) {
  Words16 message = {};
  for (size_t i = 0; i < block.size(); ++i) message[i / 4] |= uint32_t{block[i]} << (8 * (i % 4));
  return message;
}

ChainingValue BytesOf(const Words8& words) {
  ChainingValue bytes;
  for (size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)));
  }
  return bytes;
}

ChainingValue Parent(const ChainingValue& left, const ChainingValue& right, uint32_t root) {
  std::array<uint8_t, kBlockBytes> block;
  std::copy(left.begin(), left.end(), block.begin());
  std::copy(right.begin(), right.end(), block.begin() + 32);
  return BytesOf(Compress(kInitialisationVector, MessageOf(block), 0, kBlockBytes, kParent | root));
}

// Section 2.1 (the shape of the tree) and 2.4 (chunks); `root` is kRoot for the topmost node.
ChainingValue Tree(ByteSpan bytes, uint64_t first_chunk, uint32_t root) {
  if (bytes.size() <= kChunkBytes) {
    Words8 chaining = kInitialisationVector;
    size_t offset = 0;
    do {
      const ByteSpan block = bytes.subspan(offset, std::min(kBlockBytes, bytes.size() - offset));
      const bool is_last = offset + block.size() == bytes.size();
      uint32_t flags = 0;
      if (offset == 0) flags |= kChunkStart;
      if (is_last) flags |= kChunkEnd | root;
      chaining = Compress(chaining, MessageOf(block), first_chunk,
                          static_cast<uint32_t>(block.size()), flags);
      offset += block.size();
    } while (offset < bytes.size());
    return BytesOf(chaining);
  }
  // The left subtree is the largest power of two of chunks that leaves at least one byte.
  size_t left_bytes = kChunkBytes;
  while (left_bytes * 2 < bytes.size()) left_bytes *= 2;
  return Parent(Tree(bytes.first(left_bytes), first_chunk, 0),
                Tree(bytes.subspan(left_bytes), first_chunk + left_bytes / kChunkBytes, 0), root);
}

}  // namespace

Digest32 Blake3(ByteSpan bytes) { return Tree(bytes, 0, kRoot); }

ChainingValue Blake3Subtree(ByteSpan bytes, uint64_t first_chunk) {
  return Tree(bytes, first_chunk, 0);
}

ChainingValue Blake3Parent(const ChainingValue& left, const ChainingValue& right) {
  return Parent(left, right, 0);
}

Digest32 Blake3RootParent(const ChainingValue& left, const ChainingValue& right) {
  return Parent(left, right, kRoot);
}

}  // namespace pavise::hash::reference
