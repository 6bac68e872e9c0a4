// The arithmetic that devices run, on the host: against OpenSSL and the BLAKE3 written for reading.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "pavise/crypto/digest.h"
#include "pavise/hash/arithmetic/blake3.h"
#include "pavise/hash/arithmetic/sha256.h"
#include "pavise/hash/arithmetic/sha512.h"
#include "pavise/hash/blake3.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::hash {
namespace {

// Repeats every 251 bytes, so that no two blocks are alike.
Bytes Pattern(size_t size_bytes) {
  Bytes bytes(size_bytes);
  for (size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<uint8_t>(i % 251);
  return bytes;
}

// FIPS 180-4, section 5.1: a one bit, zeros, and the length in bits as the last `length_bytes`.
Bytes Padded(Bytes message, size_t block_bytes, size_t length_bytes) {
  const uint64_t bits = uint64_t{message.size()} * 8;
  message.push_back(0x80);
  while (message.size() % block_bytes != block_bytes - length_bytes) message.push_back(0);
  message.resize(message.size() + length_bytes - 8);
  for (int shift = 56; shift >= 0; shift -= 8) {
    message.push_back(static_cast<uint8_t>(bits >> shift));
  }
  return message;
}

Bytes Sha256ByArithmetic(const Bytes& message) {
  const Bytes padded = Padded(message, 64, 8);
  uint32_t state[8];
  pavise_sha256_start(state);
  for (size_t offset = 0; offset < padded.size(); offset += 64) {
    uint32_t words[16];
    std::memcpy(words, &padded[offset], sizeof(words));
    for (uint32_t& word : words) word = pavise_swap_bytes_32(word);
    pavise_sha256_compress(state, words);
  }
  Bytes digest(32);
  for (size_t i = 0; i < 8; ++i) {
    const uint32_t word = pavise_swap_bytes_32(state[i]);
    std::memcpy(&digest[4 * i], &word, 4);
  }
  return digest;
}

Bytes Sha384ByArithmetic(const Bytes& message) {
  const Bytes padded = Padded(message, 128, 16);
  uint64_t state[8];
  pavise_sha384_start(state);
  for (size_t offset = 0; offset < padded.size(); offset += 128) {
    uint64_t words[16];
    std::memcpy(words, &padded[offset], sizeof(words));
    for (uint64_t& word : words) word = pavise_swap_bytes_64(word);
    pavise_sha512_compress(state, words);
  }
  Bytes digest(48);
  for (size_t i = 0; i < 6; ++i) {
    const uint64_t word = pavise_swap_bytes_64(state[i]);
    std::memcpy(&digest[8 * i], &word, 8);
  }
  return digest;
}

// Lengths around every border of SHA-2's blocks and padding.
const std::vector<size_t> kLengths = {0,   1,   3,   55,  56,  57,  63,  64,  65,   111,
                                      112, 113, 119, 120, 127, 128, 129, 239, 1000, 4096};

TEST(Arithmetic, Sha256AgreesWithOpenSsl) {
  for (const size_t length : kLengths) {
    const Bytes message = Pattern(length);
    const auto expected = crypto::Digest(crypto::DigestAlgorithm::kSha256, message);
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(Sha256ByArithmetic(message), *expected) << length;
  }
}

TEST(Arithmetic, Sha384AgreesWithOpenSsl) {
  for (const size_t length : kLengths) {
    const Bytes message = Pattern(length);
    const auto expected = crypto::Digest(crypto::DigestAlgorithm::kSha384, message);
    ASSERT_TRUE(expected.ok()) << expected.status();
    EXPECT_EQ(Sha384ByArithmetic(message), *expected) << length;
  }
}

TEST(Arithmetic, Blake3ChunkAgreesWithTheReference) {
  for (const uint64_t chunk : {uint64_t{0}, uint64_t{1}, uint64_t{0x100000002}}) {
    const Bytes bytes = Pattern(1000);
    uint32_t chaining[8];
    pavise_blake3_start(chaining);
    for (size_t offset = 0; offset < bytes.size(); offset += 64) {
      uint32_t message[16] = {};
      const auto size = static_cast<uint32_t>(std::min<size_t>(64, bytes.size() - offset));
      std::memcpy(message, &bytes[offset], size);
      uint32_t flags = 0;
      if (offset == 0) flags |= PAVISE_BLAKE3_CHUNK_START;
      if (offset + size == bytes.size()) flags |= PAVISE_BLAKE3_CHUNK_END;
      pavise_blake3_compress(chaining, message, chunk, size, flags);
    }
    ChainingValue value;
    std::memcpy(value.data(), chaining, value.size());
    EXPECT_EQ(value, reference::Blake3Subtree(bytes, chunk)) << chunk;
  }
}

TEST(Arithmetic, Blake3ParentAgreesWithTheReference) {
  const Bytes bytes = Pattern(2048);
  const ChainingValue left = reference::Blake3Subtree(ByteSpan(bytes).first(1024), 0);
  const ChainingValue right = reference::Blake3Subtree(ByteSpan(bytes).subspan(1024), 1);
  uint32_t message[16];
  std::memcpy(message, left.data(), 32);
  std::memcpy(message + 8, right.data(), 32);
  uint32_t chaining[8];
  pavise_blake3_start(chaining);
  pavise_blake3_compress(chaining, message, 0, 64, PAVISE_BLAKE3_PARENT | PAVISE_BLAKE3_ROOT);
  EXPECT_EQ(std::memcmp(chaining, reference::Blake3RootParent(left, right).data(), 32), 0);
}

}  // namespace
}  // namespace pavise::hash
