// The tags of ranges (pavise/hash/tag.h, docs/formats/tag.md). OpenCL C 1.2. Built after
// arithmetic/portable.h, arithmetic/blake3.h and arithmetic/tag.h, for little-endian devices.
//
// A work-group is a range, in dimension 0. Both kernels take
//   data, offset_bytes, size_bytes   the call's bytes, whole ranges but for the object's last
//   first_range                      the number in the object of the call's first range
//   first_group, range_count         the first of this launch's ranges among the call's, and how
//                                    many the call has
//   keys, key_count                  1 or 2, PAVISE_TAG_KEY_BYTES each; the host wipes them after
//   tags                             8 words for each range of the call under keys[0], then under
//                                    keys[1]
// Sums exist in private and local memory only; local memory is wiped.

// The word at byte `at` of the range, of which only `left` bytes exist: zeros after them.
static inline uint pavise_tag_data_word(__global const uchar* range, uint at, uint left,
                                        int is_aligned) {
  if (is_aligned && at + 4u <= left) return *(__global const uint*)(range + at);
  uint word = 0;
  for (uint i = 0; i < 4u; ++i) {
    if (at + i < left) word |= (uint)range[at + i] << (8u * i);
  }
  return word;
}

// The end of both kernels, by every item of a group: hashes the sums in `sums`, and wipes them.
static inline void pavise_tag_finish(__local int* sums, uint left, ulong range, ulong first_range,
                                     ulong range_count, __global const uchar* keys, uint key_count,
                                     __global uint* tags) {
  barrier(CLK_LOCAL_MEM_FENCE);
  const uint item = get_local_id(0);
  if (item < key_count) {
    __global const uint* key =
        (__global const uint*)(keys + (size_t)item * PAVISE_TAG_KEY_BYTES +
                               PAVISE_TAG_ROWS * PAVISE_TAG_BLOCK_BYTES);
    const uint blocks = (left - 1u) / PAVISE_TAG_BLOCK_BYTES + 1u;
    uint chaining[8];
    for (uint w = 0; w < 8u; ++w) chaining[w] = key[w];
    for (uint block = 0; block < blocks; ++block) {
      uint message[16];
      for (uint row = 0; row < 16u; ++row) {
        message[row] = (uint)sums[pavise_tag_sum_index(item, block, row)];
      }
      const uint flags = PAVISE_BLAKE3_KEYED_HASH | (block == 0u ? PAVISE_BLAKE3_CHUNK_START : 0u) |
                         (block + 1u == blocks ? PAVISE_BLAKE3_CHUNK_END : 0u);
      pavise_blake3_compress(chaining, message, first_range + range, 64u, flags);
    }
    __global uint* tag = tags + ((ulong)item * range_count + range) * 8u;
    for (uint w = 0; w < 8u; ++w) tag[w] = chaining[w];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  volatile __local int* wiped = sums;
  for (uint i = item; i < key_count * PAVISE_TAG_SUMS; i += get_local_size(0)) wiped[i] = 0;
}

static inline uint pavise_tag_left(ulong size_bytes, ulong range) {
  const ulong left = size_bytes - range * PAVISE_TAG_RANGE_BYTES;
  return left < PAVISE_TAG_RANGE_BYTES ? (uint)left : PAVISE_TAG_RANGE_BYTES;
}

static inline void pavise_tag_zero(__local int* sums, uint key_count) {
  for (uint i = get_local_id(0); i < key_count * PAVISE_TAG_SUMS; i += get_local_size(0)) {
    sums[i] = 0;
  }
  barrier(CLK_LOCAL_MEM_FENCE);
}

// sums += the dot products of a word of data with a word of eight rows. The host defines
// PAVISE_TAG_DOT_PRODUCT for a device that has cl_khr_integer_dot_product.
#if defined(PAVISE_TAG_DOT_PRODUCT)
#define PAVISE_TAG_DOT(s) sums->s += dot_4x8packed_us_int(data, rows.s)
static inline void pavise_tag_dot(int8* sums, uint data, uint8 rows) {
  PAVISE_TAG_DOT(s0);
  PAVISE_TAG_DOT(s1);
  PAVISE_TAG_DOT(s2);
  PAVISE_TAG_DOT(s3);
  PAVISE_TAG_DOT(s4);
  PAVISE_TAG_DOT(s5);
  PAVISE_TAG_DOT(s6);
  PAVISE_TAG_DOT(s7);
}
#else
// Each of the rows' bytes with its sign, without shifts of negative numbers.
#define PAVISE_TAG_ROW_BYTES(i) \
  (as_int8((rows >> (8u * i)) & 127u) - as_int8((rows >> (8u * i)) & 128u))
static inline void pavise_tag_dot(int8* sums, uint data, uint8 rows) {
  *sums += PAVISE_TAG_ROW_BYTES(0u) * pavise_tag_data_byte(data, 0u);
  *sums += PAVISE_TAG_ROW_BYTES(1u) * pavise_tag_data_byte(data, 1u);
  *sums += PAVISE_TAG_ROW_BYTES(2u) * pavise_tag_data_byte(data, 2u);
  *sums += PAVISE_TAG_ROW_BYTES(3u) * pavise_tag_data_byte(data, 3u);
}
#endif

// Work-groups of any size of at least 4 x key_count items; 128 or 256 suit most GPUs.
__kernel void pavise_tag(__global const uchar* data, ulong offset_bytes, ulong size_bytes,
                         ulong first_range, ulong first_group, ulong range_count,
                         __global const uchar* keys, uint key_count, __global uint* tags) {
  __local int sums[PAVISE_TAG_MAX_KEYS * PAVISE_TAG_SUMS];
  pavise_tag_zero(sums, key_count);
  const ulong range = first_group + get_group_id(0);
  const uint left = pavise_tag_left(size_bytes, range);
  __global const uchar* bytes = data + offset_bytes + range * PAVISE_TAG_RANGE_BYTES;
  const int is_aligned = ((size_t)bytes & 3u) == 0u;

  const uint lanes = (uint)get_local_size(0) / (PAVISE_TAG_PARTS * key_count);
  const uint part = (uint)get_local_id(0) / lanes;
  if (part < PAVISE_TAG_PARTS * key_count) {
    const uint lane = (uint)get_local_id(0) % lanes;
    const uint key = pavise_tag_part_key(part);
    const uint first_row = pavise_tag_part_row(part);
    const uint first_block = pavise_tag_part_block(part);
    __global const uchar* rows =
        keys + (size_t)key * PAVISE_TAG_KEY_BYTES + first_row * PAVISE_TAG_BLOCK_BYTES;
    int8 sum[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (uint k = 4u * lane; k < PAVISE_TAG_BLOCK_BYTES; k += 4u * lanes) {
      __global const uint* at = (__global const uint*)(rows + k);
      const uint stride = PAVISE_TAG_BLOCK_BYTES / 4u;
      const uint8 row = (uint8)(at[0], at[stride], at[2u * stride], at[3u * stride],
                                at[4u * stride], at[5u * stride], at[6u * stride], at[7u * stride]);
      for (uint b = 0; b < 8u; ++b) {
        const uint begin = (first_block + b) * PAVISE_TAG_BLOCK_BYTES + k;
        pavise_tag_dot(&sum[b], pavise_tag_data_word(bytes, begin, left, is_aligned), row);
      }
    }
    for (uint b = 0; b < 8u; ++b) {
      __local int* to = &sums[pavise_tag_sum_index(key, first_block + b, first_row)];
      atomic_add(to, sum[b].s0);
      atomic_add(to + 1, sum[b].s1);
      atomic_add(to + 2, sum[b].s2);
      atomic_add(to + 3, sum[b].s3);
      atomic_add(to + 4, sum[b].s4);
      atomic_add(to + 5, sum[b].s5);
      atomic_add(to + 6, sum[b].s6);
      atomic_add(to + 7, sum[b].s7);
    }
  }
  pavise_tag_finish(sums, left, range, first_range, range_count, keys, key_count, tags);
}

// On Intel's matrix engines. PAVISE_TAG_MATRIX_LANES: the device's smallest sub-group size, 8 or 16,
// which the host defines when the device has cl_intel_subgroup_matrix_multiply_accumulate and
// cl_intel_required_subgroup_size (tag_paths.cc). Work-groups of 8 sub-groups, which take 32 bytes in turn.
#if defined(PAVISE_TAG_MATRIX_LANES)
#define PAVISE_TAG_SUB_GROUPS 8u
#define PAVISE_TAG_HALVES (PAVISE_TAG_BLOCKS / PAVISE_TAG_MATRIX_LANES)
#if PAVISE_TAG_MATRIX_LANES == 16
typedef short pavise_tag_row_part;
typedef short8 pavise_tag_row_parts;
#else
typedef int pavise_tag_row_part;
typedef int8 pavise_tag_row_parts;
#endif

// Eight rows from `row` on, at k.
static inline pavise_tag_row_parts pavise_tag_matrix_rows(__global const uchar* rows, uint row,
                                                          uint k, uint lane) {
  __global const pavise_tag_row_part* at =
      (__global const pavise_tag_row_part*)(rows + pavise_tag_matrix_row_offset(
                                                       row, k, lane, PAVISE_TAG_MATRIX_LANES));
  const uint stride = PAVISE_TAG_BLOCK_BYTES / sizeof(pavise_tag_row_part);
  return (pavise_tag_row_parts)(at[0], at[stride], at[2u * stride], at[3u * stride],
                                at[4u * stride], at[5u * stride], at[6u * stride], at[7u * stride]);
}

__attribute__((intel_reqd_sub_group_size(PAVISE_TAG_MATRIX_LANES)))
__attribute__((reqd_work_group_size(PAVISE_TAG_SUB_GROUPS * PAVISE_TAG_MATRIX_LANES, 1, 1)))
__kernel void
pavise_tag_matrix(__global const uchar* data, ulong offset_bytes, ulong size_bytes,
                  ulong first_range, ulong first_group, ulong range_count,
                  __global const uchar* keys, uint key_count, __global uint* tags) {
  __local int sums[PAVISE_TAG_MAX_KEYS * PAVISE_TAG_SUMS];
  pavise_tag_zero(sums, key_count);
  const ulong range = first_group + get_group_id(0);
  const uint left = pavise_tag_left(size_bytes, range);
  __global const uchar* bytes = data + offset_bytes + range * PAVISE_TAG_RANGE_BYTES;
  const int is_aligned = ((size_t)bytes & 3u) == 0u;
  const uint lane = get_sub_group_local_id();
  // Rows 0 to 7 and 8 to 15 of each key and half.
  int8 sum[PAVISE_TAG_MAX_KEYS * PAVISE_TAG_HALVES * 2u];
  for (uint i = 0; i < PAVISE_TAG_MAX_KEYS * PAVISE_TAG_HALVES * 2u; ++i) sum[i] = (int8)(0);
  for (uint k = 32u * get_sub_group_id(); k < PAVISE_TAG_BLOCK_BYTES;
       k += 32u * PAVISE_TAG_SUB_GROUPS) {
    for (uint half_number = 0; half_number < PAVISE_TAG_HALVES; ++half_number) {
      const uint begin =
          pavise_tag_matrix_data_offset(half_number, k, lane, PAVISE_TAG_MATRIX_LANES);
      uint8 b;
      if (is_aligned && begin + 32u <= left) {
        b = vload8(0, (__global const uint*)(bytes + begin));
      } else {
        b = (uint8)(pavise_tag_data_word(bytes, begin, left, 0),
                    pavise_tag_data_word(bytes, begin + 4u, left, 0),
                    pavise_tag_data_word(bytes, begin + 8u, left, 0),
                    pavise_tag_data_word(bytes, begin + 12u, left, 0),
                    pavise_tag_data_word(bytes, begin + 16u, left, 0),
                    pavise_tag_data_word(bytes, begin + 20u, left, 0),
                    pavise_tag_data_word(bytes, begin + 24u, left, 0),
                    pavise_tag_data_word(bytes, begin + 28u, left, 0));
      }
      for (uint key = 0; key < key_count; ++key) {
        __global const uchar* rows = keys + (size_t)key * PAVISE_TAG_KEY_BYTES;
        const uint to = (key * PAVISE_TAG_HALVES + half_number) * 2u;
        sum[to] = intel_sub_group_i8_u8_matrix_mad_k32(pavise_tag_matrix_rows(rows, 0u, k, lane),
                                                       b, sum[to]);
        sum[to + 1u] = intel_sub_group_i8_u8_matrix_mad_k32(
            pavise_tag_matrix_rows(rows, 8u, k, lane), b, sum[to + 1u]);
      }
    }
  }
  for (uint i = 0; i < key_count * PAVISE_TAG_HALVES * 2u; ++i) {
    const uint block = i / 2u % PAVISE_TAG_HALVES * PAVISE_TAG_MATRIX_LANES + lane;
    __local int* to =
        &sums[pavise_tag_sum_index(i / 2u / PAVISE_TAG_HALVES, block, i % 2u * 8u)];
    atomic_add(to, sum[i].s0);
    atomic_add(to + 1, sum[i].s1);
    atomic_add(to + 2, sum[i].s2);
    atomic_add(to + 3, sum[i].s3);
    atomic_add(to + 4, sum[i].s4);
    atomic_add(to + 5, sum[i].s5);
    atomic_add(to + 6, sum[i].s6);
    atomic_add(to + 7, sum[i].s7);
  }
  pavise_tag_finish(sums, left, range, first_range, range_count, keys, key_count, tags);
}
#endif
