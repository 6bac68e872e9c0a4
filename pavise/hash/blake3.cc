#include "pavise/hash/blake3.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#include "pavise/base/secret_bytes.h"
#include "pavise/hash/cpu/blake3_highway.h"

namespace pavise::hash {
namespace {

using internal::ChildPair;
using internal::Mode;

// The initialisation vector as the key of plain hashing.
constexpr ChainingValue kInitialChainingValue = {
    0x67, 0xE6, 0x09, 0x6A, 0x85, 0xAE, 0x67, 0xBB, 0x72, 0xF3, 0x6E, 0x3C, 0x3A, 0xF5, 0x4F, 0xA5,
    0x7F, 0x52, 0x0E, 0x51, 0x8C, 0x68, 0x05, 0x9B, 0xAB, 0xD9, 0x83, 0x1F, 0x19, 0xCD, 0xE0, 0x5B};
constexpr Mode kPlain = {kInitialChainingValue, 0};

constexpr uint64_t ChunksIn(uint64_t size_bytes) {
  return size_bytes / kBlake3ChunkBytes + (size_bytes % kBlake3ChunkBytes != 0 ? 1 : 0);
}

// The topmost node's block: what its two children are to it.
std::array<uint8_t, internal::kBlockBytes> BlockOf(const ChildPair& children) {
  std::array<uint8_t, internal::kBlockBytes> block;
  std::memcpy(block.data(), children[0].data(), children[0].size());
  std::memcpy(block.data() + children[0].size(), children[1].data(), children[1].size());
  return block;
}

ChainingValue Parent(const Mode& mode, const ChildPair& children, uint32_t final_flags) {
  auto block = BlockOf(children);
  internal::CompressBlock(mode.key, block.data(), internal::kBlockBytes, 0,
                          mode.flags | internal::kParentFlag | final_flags, block.data());
  ChainingValue value;
  std::memcpy(value.data(), block.data(), value.size());
  return value;
}

ChildPair PairOver(const Mode& mode, ByteSpan bytes, uint64_t first_chunk);

ChainingValue Subtree(const Mode& mode, ByteSpan bytes, uint64_t first_chunk) {
  if (bytes.size() <= kBlake3ChunkBytes) return internal::HashChunk(mode, bytes, first_chunk, 0);
  return Parent(mode, PairOver(mode, bytes, first_chunk), 0);
}

// The children of the node over more than one chunk. Recursion is at most 44 deep: the left child
// is the largest complete subtree that leaves something for the right one.
ChildPair PairOver(const Mode& mode, ByteSpan bytes, uint64_t first_chunk) {
  if (bytes.size() <= kSubtreeBytes) return internal::PairOfChunks(mode, bytes, first_chunk);
  const uint64_t left_chunks = std::bit_floor(ChunksIn(bytes.size()) - 1);
  const size_t left_bytes = left_chunks * kBlake3ChunkBytes;
  return {Subtree(mode, bytes.first(left_bytes), first_chunk),
          Subtree(mode, bytes.subspan(left_bytes), first_chunk + left_chunks)};
}

Digest32 Root(const Mode& mode, ByteSpan bytes) {
  if (bytes.size() <= kBlake3ChunkBytes) {
    return internal::HashChunk(mode, bytes, 0, internal::kRootFlag);
  }
  return Parent(mode, PairOver(mode, bytes, 0), internal::kRootFlag);
}

ChildPair PairOver(std::span<const ChainingValue> subtrees) {
  if (subtrees.size() <= internal::kMaxPairInputs) {
    return internal::PairOfSubtrees(kPlain, subtrees);
  }
  const size_t left = std::bit_floor(subtrees.size() - 1);
  const auto join = [](std::span<const ChainingValue> half) {
    return half.size() == 1 ? half[0] : Parent(kPlain, PairOver(half), 0);
  };
  return {join(subtrees.first(left)), join(subtrees.subspan(left))};
}

}  // namespace

Digest32 Blake3(ByteSpan bytes) { return Root(kPlain, bytes); }

ChainingValue Blake3Subtree(ByteSpan bytes, uint64_t first_chunk) {
  assert(!bytes.empty());
  return Subtree(kPlain, bytes, first_chunk);
}

ChainingValue Blake3Parent(const ChainingValue& left, const ChainingValue& right) {
  return Parent(kPlain, {left, right}, 0);
}

Digest32 Blake3RootParent(const ChainingValue& left, const ChainingValue& right) {
  return Parent(kPlain, {left, right}, internal::kRootFlag);
}

Digest32 Blake3RootFromSubtrees(std::span<const ChainingValue> subtrees) {
  assert(subtrees.size() >= 2);
  return Parent(kPlain, PairOver(subtrees), internal::kRootFlag);
}

Digest32 Blake3Keyed(const std::array<uint8_t, 32>& key, ByteSpan bytes) {
  Mode mode = {key, internal::kKeyedHashFlag};
  const Digest32 tag = Root(mode, bytes);
  WipeMemory(mode.key);
  return tag;
}

Digest32 Blake3DeriveKey(std::string_view context, ByteSpan key_material) {
  const Mode context_mode = {kInitialChainingValue, internal::kDeriveKeyContextFlag};
  return Root({Root(context_mode, AsBytes(context)), internal::kDeriveKeyMaterialFlag},
              key_material);
}

std::string_view Blake3Target() { return internal::Target(); }

Blake3Hasher::Blake3Hasher() : Blake3Hasher(kInitialChainingValue, 0) {}

Blake3Hasher::Blake3Hasher(const ChainingValue& key, uint32_t flags) : key_(key), flags_(flags) {}

Blake3Hasher Blake3Hasher::Keyed(const std::array<uint8_t, 32>& key) {
  return Blake3Hasher(key, internal::kKeyedHashFlag);
}

Blake3Hasher Blake3Hasher::DeriveKey(std::string_view context) {
  const Mode context_mode = {kInitialChainingValue, internal::kDeriveKeyContextFlag};
  return Blake3Hasher(Root(context_mode, AsBytes(context)), internal::kDeriveKeyMaterialFlag);
}

// The stack holds the chaining values of complete subtrees, largest first. Two of equal size are
// joined only when something follows them: until then their parent might be the root, which is
// finalised differently.
void Blake3Hasher::Push(const ChainingValue& value, uint64_t chunks) {
  const Mode mode = {key_, flags_};
  while (stack_size_ > std::popcount(chunks_)) {
    stack_[stack_size_ - 2] = Parent(mode, {stack_[stack_size_ - 2], stack_[stack_size_ - 1]}, 0);
    --stack_size_;
  }
  stack_[stack_size_++] = value;
  chunks_ += chunks;
}

void Blake3Hasher::Update(ByteSpan bytes) {
  const Mode mode = {key_, flags_};
  // A begun chunk is filled first; a full one stays until more comes, because the last chunk of an
  // input of one chunk is the root.
  if (chunk_size_bytes_ > 0) {
    const size_t taken = std::min(bytes.size(), kBlake3ChunkBytes - chunk_size_bytes_);
    if (taken > 0) std::memcpy(chunk_.data() + chunk_size_bytes_, bytes.data(), taken);
    chunk_size_bytes_ = static_cast<uint16_t>(chunk_size_bytes_ + taken);
    bytes = bytes.subspan(taken);
    if (bytes.empty()) return;
    Push(internal::HashChunk(mode, chunk_, chunks_, 0), 1);
    chunk_size_bytes_ = 0;
  }
  // The largest complete subtrees that start where we are and leave something for later.
  while (bytes.size() > kBlake3ChunkBytes) {
    uint64_t subtree_chunks = std::bit_floor<uint64_t>((bytes.size() - 1) / kBlake3ChunkBytes);
    subtree_chunks = std::min<uint64_t>(subtree_chunks, internal::kMaxPairInputs);
    if (chunks_ != 0) {
      subtree_chunks = std::min(subtree_chunks, chunks_ & (~chunks_ + 1));
    }
    const size_t subtree_bytes = subtree_chunks * kBlake3ChunkBytes;
    Push(Subtree(mode, bytes.first(subtree_bytes), chunks_), subtree_chunks);
    bytes = bytes.subspan(subtree_bytes);
  }
  if (!bytes.empty()) std::memcpy(chunk_.data(), bytes.data(), bytes.size());
  chunk_size_bytes_ = static_cast<uint16_t>(bytes.size());
}

namespace {

// The root node before its last compression: from it comes as much output as is wanted.
struct RootNode {
  ChainingValue chaining;
  std::array<uint8_t, internal::kBlockBytes> block = {};
  uint32_t block_size_bytes = internal::kBlockBytes;
  uint32_t flags = 0;
};

RootNode RootOfOneChunk(const Mode& mode, ByteSpan bytes) {
  RootNode node = {.chaining = mode.key};
  uint32_t flags = mode.flags | internal::kChunkStartFlag;
  std::array<uint8_t, internal::kBlockBytes> output;
  while (bytes.size() > internal::kBlockBytes) {
    internal::CompressBlock(node.chaining, bytes.data(), internal::kBlockBytes, 0, flags,
                            output.data());
    std::memcpy(node.chaining.data(), output.data(), node.chaining.size());
    bytes = bytes.subspan(internal::kBlockBytes);
    flags = mode.flags;
  }
  if (!bytes.empty()) std::memcpy(node.block.data(), bytes.data(), bytes.size());
  node.block_size_bytes = static_cast<uint32_t>(bytes.size());
  node.flags = flags | internal::kChunkEndFlag | internal::kRootFlag;
  if (mode.flags != 0) WipeMemory(output);
  return node;
}

}  // namespace

void Blake3Hasher::FinishExtended(std::span<uint8_t> out) const {
  Mode mode = {key_, flags_};
  const ByteSpan last_chunk = ByteSpan(chunk_).first(chunk_size_bytes_);
  RootNode root;
  if (stack_size_ == 0) {
    root = RootOfOneChunk(mode, last_chunk);
  } else {
    // What Push has not joined yet is joined now: the last chunk follows it.
    size_t top = stack_size_;
    ChainingValue left = stack_[--top];
    for (int joined = std::popcount(chunks_); joined < stack_size_; ++joined) {
      left = Parent(mode, {stack_[--top], left}, 0);
    }
    ChainingValue right = internal::HashChunk(mode, last_chunk, chunks_, 0);
    while (top > 0) {
      right = Parent(mode, {left, right}, 0);
      left = stack_[--top];
    }
    root = {.chaining = mode.key,
            .block = BlockOf({left, right}),
            .flags = mode.flags | internal::kParentFlag | internal::kRootFlag};
    if (flags_ != 0) {
      WipeMemory(left);
      WipeMemory(right);
    }
  }
  std::array<uint8_t, internal::kBlockBytes> output;
  for (uint64_t counter = 0; !out.empty(); ++counter) {
    internal::CompressBlock(root.chaining, root.block.data(), root.block_size_bytes, counter,
                            root.flags, output.data());
    const size_t taken = std::min(out.size(), output.size());
    std::memcpy(out.data(), output.data(), taken);
    out = out.subspan(taken);
  }
  if (flags_ == 0) return;
  // From the root's state comes every further byte of output; the last block may hold some.
  WipeMemory(mode.key);
  WipeMemory(root.chaining);
  WipeMemory(root.block);
  WipeMemory(output);
}

Digest32 Blake3Hasher::Finish() const {
  Digest32 digest;
  FinishExtended(digest);
  return digest;
}

Blake3Hasher::~Blake3Hasher() {
  // A keyed state allows whoever reads it to forge.
  if (flags_ == 0) return;
  WipeMemory(key_);
  WipeMemory(chunk_);
  for (ChainingValue& value : stack_) WipeMemory(value);
}

}  // namespace pavise::hash
