// The lower levels of BLAKE3's tree: a work-group of 2^k items hashes 2^k consecutive chunks of a
// subtree (a tile), one an item, and joins their chaining values to one in local memory. A launch
// covers the subtrees from `first_subtree` on, `tiles_per_subtree` groups each, also where a subtree
// has fewer tiles; blake3_parents.cl joins what this leaves in `tiles`.
//
// `subtrees`: offset, size, number of the first chunk, and whether the subtree is a whole input, so
// that its top is finalised as a root.

static inline void pavise_blake3_chunk(__global const uint* buffer, ulong offset, uint size_bytes,
                                       ulong chunk, uint root_flag, uint* chaining) {
  uint words[16];
  uint flags = PAVISE_BLAKE3_CHUNK_START;
  pavise_blake3_start(chaining);
  // The last block, which is the only one of an empty input, comes after the loop.
  uint at = 0;
  for (; size_bytes - at > 64u; at += 64u) {
    pavise_load_words(buffer, offset + at, words, 16);
    pavise_blake3_compress(chaining, words, chunk, 64u, flags);
    flags = 0u;
  }
  const uint rest = size_bytes - at;
  pavise_load_words(buffer, offset + at, words, 16);
  pavise_keep_bytes(words, 16, rest);
  pavise_blake3_compress(chaining, words, chunk, rest,
                         flags | PAVISE_BLAKE3_CHUNK_END | root_flag);
}

__kernel void pavise_blake3_chunks(__global const uint* buffer, __global const ulong4* subtrees,
                                   uint first_subtree, uint tiles_per_subtree,
                                   __global uint* tiles, __local uint* values) {
  // Value i has its word w at values[w * width + i]: neighbouring items touch neighbouring banks.
  const uint width = (uint)get_local_size(0);
  const uint item = (uint)get_local_id(0);
  const uint group = (uint)get_group_id(0);
  const ulong4 subtree = subtrees[first_subtree + group / tiles_per_subtree];
  const uint size_bytes = (uint)subtree.y;  // at most kSubtreeBytes
  const uint chunks = size_bytes == 0u ? 1u : (size_bytes - 1u) / 1024u + 1u;
  const uint first = group % tiles_per_subtree * width;
  const uint root_flag = subtree.w != 0ul ? PAVISE_BLAKE3_ROOT : 0u;
  // Chunks of this tile, the same number for every item of the group.
  uint count = first < chunks ? min(width, chunks - first) : 0u;

  uint chaining[8];
  if (item < count) {
    const uint begin = (first + item) * 1024u;
    pavise_blake3_chunk(buffer, subtree.x + begin, min(1024u, size_bytes - begin),
                        subtree.z + first + item, chunks == 1u ? root_flag : 0u, chaining);
    for (uint w = 0; w < 8u; ++w) values[w * width + item] = chaining[w];
  }
  // Level by level; what has no right neighbour goes up as it is, which builds the left-complete
  // trees that BLAKE3 wants.
  while (count > 1u) {
    const uint pairs = count / 2u;
    const uint next = count - pairs;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < pairs) {
      uint words[16];
      for (uint w = 0; w < 8u; ++w) {
        words[w] = values[w * width + 2u * item];
        words[8u + w] = values[w * width + 2u * item + 1u];
      }
      pavise_blake3_start(chaining);
      pavise_blake3_compress(
          chaining, words, 0ul, 64u,
          PAVISE_BLAKE3_PARENT | (next == 1u && chunks <= width ? root_flag : 0u));
    } else if (item < next) {
      for (uint w = 0; w < 8u; ++w) chaining[w] = values[w * width + count - 1u];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < next) {
      for (uint w = 0; w < 8u; ++w) values[w * width + item] = chaining[w];
    }
    count = next;
  }
  // The top is in item 0's registers.
  if (item == 0u && first < chunks) {
    for (uint w = 0; w < 8u; ++w) tiles[8 * (size_t)group + w] = chaining[w];
  }
}
