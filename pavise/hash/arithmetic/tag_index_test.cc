#include <algorithm>
#include <array>
#include <cstdint>
#include <set>
#include <vector>

#include "pavise/hash/arithmetic/tag.h"
#include "pavise/hash/tag.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

// The index arithmetic of opencl/tag.cl on the host.
namespace pavise::hash {
namespace {

static_assert(PAVISE_TAG_ROWS == kTagRows && PAVISE_TAG_BLOCK_BYTES == kTagBlockBytes &&
              PAVISE_TAG_BLOCKS == kTagBlocksPerRange && PAVISE_TAG_RANGE_BYTES == kTagRangeBytes &&
              PAVISE_TAG_MAX_KEYS == kMaxTagKeys);

TEST(TagIndexTest, PartsCoverEverySumOnce) {
  std::set<uint32_t> taken;
  for (uint32_t part = 0; part < PAVISE_TAG_PARTS * kMaxTagKeys; ++part) {
    for (uint32_t block = 0; block < 8; ++block) {
      for (uint32_t row = 0; row < 8; ++row) {
        EXPECT_TRUE(taken
                        .insert(pavise_tag_sum_index(pavise_tag_part_key(part),
                                                     pavise_tag_part_block(part) + block,
                                                     pavise_tag_part_row(part) + row))
                        .second);
      }
    }
  }
  EXPECT_EQ(taken.size(), kMaxTagKeys * PAVISE_TAG_SUMS);
  EXPECT_EQ(*taken.rbegin(), kMaxTagKeys * PAVISE_TAG_SUMS - 1);
}

TEST(TagIndexTest, BytesOfWords) {
  for (uint32_t byte = 0; byte < 256; ++byte) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t word = (byte << (8 * i)) | (~(0xFFu << (8 * i)) & 0xA5C3E187u);
      EXPECT_EQ(pavise_tag_data_byte(word, i), static_cast<int>(byte));
      EXPECT_EQ(pavise_tag_row_byte(word, i), static_cast<int8_t>(byte));
    }
  }
}

// intel_sub_group_i8_u8_matrix_mad_k32 as the extension documents it: `a` has 32 / lanes bytes of
// each of eight rows for each lane, `b` 32 bytes of a column for each lane.
void MatrixMad(const std::vector<std::array<std::vector<int8_t>, 8>>& a,
               const std::vector<std::array<uint8_t, 32>>& b,
               std::vector<std::array<int32_t, 8>>& sums) {
  const size_t lanes = a.size();
  const size_t bytes = 32 / lanes;
  for (size_t column = 0; column < lanes; ++column) {
    for (size_t row = 0; row < 8; ++row) {
      for (size_t k = 0; k < 32; ++k) {
        sums[column][row] += a[k / bytes][row][k % bytes] * b[column][k];
      }
    }
  }
}

TEST(TagIndexTest, MatrixEngineSumsAreTheRangesSums) {
  const TagKey key = TagKey::Derive(std::array<uint8_t, 32>{5}, 1, kTagRangeBytes);
  Bytes range(kTagRangeBytes);
  for (size_t i = 0; i < range.size(); ++i) range[i] = static_cast<uint8_t>(i % 251 ^ (i >> 16));
  std::vector<int32_t> expected(PAVISE_TAG_SUMS, 0);
  for (uint32_t block = 0; block < PAVISE_TAG_BLOCKS; ++block) {
    for (uint32_t row = 0; row < PAVISE_TAG_ROWS; ++row) {
      int32_t& sum = expected[pavise_tag_sum_index(0, block, row)];
      for (size_t k = 0; k < kTagBlockBytes; ++k) {
        sum += key.rows()[row * kTagBlockBytes + k] * range[block * kTagBlockBytes + k];
      }
    }
  }
  for (uint32_t lanes : {8u, 16u}) {
    std::vector<int32_t> sums(PAVISE_TAG_SUMS, 0);
    for (uint32_t half = 0; half < PAVISE_TAG_BLOCKS / lanes; ++half) {
      for (uint32_t first_row : {0u, 8u}) {
        std::vector<std::array<int32_t, 8>> result(lanes);
        for (uint32_t k = 0; k < PAVISE_TAG_BLOCK_BYTES; k += 32) {
          std::vector<std::array<std::vector<int8_t>, 8>> a(lanes);
          std::vector<std::array<uint8_t, 32>> b(lanes);
          for (uint32_t lane = 0; lane < lanes; ++lane) {
            for (uint32_t row = 0; row < 8; ++row) {
              // The kernel steps from row to row by PAVISE_TAG_BLOCK_BYTES.
              const int8_t* at =
                  &key.rows()[pavise_tag_matrix_row_offset(first_row, k, lane, lanes) +
                              row * PAVISE_TAG_BLOCK_BYTES];
              a[lane][row].assign(at, at + 32 / lanes);
            }
            std::copy_n(&range[pavise_tag_matrix_data_offset(half, k, lane, lanes)], 32,
                        b[lane].begin());
          }
          MatrixMad(a, b, result);
        }
        for (uint32_t lane = 0; lane < lanes; ++lane) {
          for (uint32_t row = 0; row < 8; ++row) {
            sums[pavise_tag_sum_index(0, half * lanes + lane, first_row + row)] = result[lane][row];
          }
        }
      }
    }
    EXPECT_EQ(sums, expected) << lanes;
  }
}

}  // namespace
}  // namespace pavise::hash
