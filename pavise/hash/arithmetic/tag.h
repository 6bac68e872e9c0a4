// Sums of tags (pavise/hash/tag.h) for host and OpenCL devices (see portable.h): which bytes a work
// item takes. The kernels are in opencl/tag.cl.
#ifndef PAVISE_HASH_ARITHMETIC_TAG_H_
#define PAVISE_HASH_ARITHMETIC_TAG_H_

#if !defined(__OPENCL_C_VERSION__)
#include "pavise/hash/arithmetic/portable.h"
#endif

#define PAVISE_TAG_ROWS 16u
#define PAVISE_TAG_BLOCK_BYTES 65536u
#define PAVISE_TAG_BLOCKS 16u  // of a range
#define PAVISE_TAG_RANGE_BYTES 1048576u
#define PAVISE_TAG_SUMS 256u  // of a range under a key
#define PAVISE_TAG_MAX_KEYS 2u
// A key in device memory: the rows, row after row, the BLAKE3 key, padding.
#define PAVISE_TAG_KEY_BYTES (1048576u + 256u)

// Where the sum of `block` and `row` is among a range's sums: as keyed BLAKE3 takes them.
PAVISE_ARITHMETIC pavise_u32 pavise_tag_sum_index(pavise_u32 key, pavise_u32 block,
                                                  pavise_u32 row) {
  return key * PAVISE_TAG_SUMS + block * PAVISE_TAG_ROWS + row;
}

// ---- Plain kernel: a work item sums eight rows with eight blocks ----
// The work items of a range are divided among 4 parts a key: rows 0 to 7 or 8 to 15, blocks 0 to 7
// or 8 to 15. All items of a part read neighbouring words.

#define PAVISE_TAG_PARTS 4u
PAVISE_ARITHMETIC pavise_u32 pavise_tag_part_key(pavise_u32 part) { return part / 4u; }
PAVISE_ARITHMETIC pavise_u32 pavise_tag_part_row(pavise_u32 part) { return part / 2u % 2u * 8u; }
PAVISE_ARITHMETIC pavise_u32 pavise_tag_part_block(pavise_u32 part) { return part % 2u * 8u; }

// Byte `i` of a word, unsigned as data and signed as a key's.
PAVISE_ARITHMETIC pavise_s32 pavise_tag_data_byte(pavise_u32 word, pavise_u32 i) {
  return (pavise_s32)((word >> (8u * i)) & 255u);
}
PAVISE_ARITHMETIC pavise_s32 pavise_tag_row_byte(pavise_u32 word, pavise_u32 i) {
  // Bit 7 down to the sign without a shift of a negative number: 128..255 become -128..-1.
  return (pavise_s32)((word >> (8u * i)) & 127u) - (pavise_s32)((word >> (8u * i)) & 128u);
}

// ---- Matrix kernel: intel_sub_group_i8_u8_matrix_mad_k32 ----
// Of cl_intel_subgroup_matrix_multiply_accumulate: an 8 x 32 matrix a (s8) times a 32 x N matrix b
// (u8), N the sub-group's size, 8 or 16. Component m of a lane's `a` holds 32 / N bytes of row m,
// those from column lane x 32 / N on; component i of its `b` bytes 4i to 4i + 3 of column `lane`;
// component m of its result is row m, column `lane`. Columns are data blocks.

// Where the part of `row` that a lane gives begins, in a key's rows; `k`: the first of 32 bytes.
PAVISE_ARITHMETIC pavise_u32 pavise_tag_matrix_row_offset(pavise_u32 row, pavise_u32 k,
                                                          pavise_u32 lane, pavise_u32 lanes) {
  return row * PAVISE_TAG_BLOCK_BYTES + k + lane * (32u / lanes);
}
// Where the 32 bytes that a lane gives begin, in the range; `half_number`: which `lanes` blocks of
// the 16.
PAVISE_ARITHMETIC pavise_u32 pavise_tag_matrix_data_offset(pavise_u32 half_number, pavise_u32 k,
                                                           pavise_u32 lane, pavise_u32 lanes) {
  return (half_number * lanes + lane) * PAVISE_TAG_BLOCK_BYTES + k;
}

#endif  // PAVISE_HASH_ARITHMETIC_TAG_H_
