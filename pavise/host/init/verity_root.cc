#include "pavise/host/init/verity_root.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "pavise/hash/arithmetic/sha256.h"

// Part of the first process, which links nothing but the C++ library.
namespace pavise::host {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kSaltSizeOffset = 80;
constexpr size_t kSaltOffset = 88;
constexpr size_t kMostSaltBytes = 256;

using Block = std::array<uint8_t, kBlockBytes>;

bool ReadBlock(int disk, uint64_t index, Block& block) {
  constexpr uint64_t kMostBlocks = uint64_t{1} << 50;
  return index < kMostBlocks && pread(disk, block.data(), block.size(),
                                      static_cast<off_t>(index * kBlockBytes)) == kBlockBytes;
}

std::string Hex(const uint8_t* bytes, size_t size) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    text += kDigits[bytes[i] >> 4];
    text += kDigits[bytes[i] & 15];
  }
  return text;
}

std::string Sha256Hex(std::vector<uint8_t> message) {
  const uint64_t bits = uint64_t{message.size()} * 8;
  message.push_back(0x80);
  while (message.size() % 64 != 56) message.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8) {
    message.push_back(static_cast<uint8_t>(bits >> shift));
  }
  pavise_u32 state[8];
  pavise_sha256_start(state);
  for (size_t at = 0; at < message.size(); at += 64) {
    pavise_u32 words[16];
    std::memcpy(words, message.data() + at, sizeof(words));
    for (pavise_u32& word : words) word = pavise_swap_bytes_32(word);
    pavise_sha256_compress(state, words);
  }
  uint8_t digest[32];
  for (pavise_u32& word : state) word = pavise_swap_bytes_32(word);
  std::memcpy(digest, state, sizeof(digest));
  return Hex(digest, sizeof(digest));
}

}  // namespace

bool HoldsVerityRoot(int disk, const VerityRoot& root) {
  const uint64_t data_blocks = std::strtoull(root.data_blocks.c_str(), nullptr, 10);
  const uint64_t tree = std::strtoull(root.hash_block.c_str(), nullptr, 10);
  Block super;
  // The superblock stands in the block before the tree.
  if (data_blocks == 0 || tree == 0 || !ReadBlock(disk, tree - 1, super) ||
      std::memcmp(super.data(), "verity\0\0", 8) != 0) {
    return false;
  }
  const size_t salt_bytes = super[kSaltSizeOffset] | (super[kSaltSizeOffset + 1] << 8);
  if (salt_bytes > kMostSaltBytes || Hex(&super[kSaltOffset], salt_bytes) != root.salt) {
    return false;
  }
  // The top of the tree comes first. Over a single block of data there is no tree.
  Block top;
  if (!ReadBlock(disk, data_blocks == 1 ? 0 : tree, top)) return false;
  std::vector<uint8_t> message(&super[kSaltOffset], &super[kSaltOffset] + salt_bytes);
  message.insert(message.end(), top.begin(), top.end());
  return Sha256Hex(std::move(message)) == root.root_hash;
}

}  // namespace pavise::host
