// The upper levels of each subtree, one work-item a subtree: joins the tiles that blake3_chunks.cl
// left (`width` chunks each) to the subtree's value, in place and level by level. A few parents for
// the 1,024 chunks of a full subtree.
__kernel void pavise_blake3_parents(__global const ulong4* subtrees, uint first_subtree, uint count,
                                    uint tiles_per_subtree, uint width, __global uint* tiles,
                                    __global uint* results) {
  const uint i = (uint)get_global_id(0);
  if (i >= count) return;
  const ulong4 subtree = subtrees[first_subtree + i];
  const uint size_bytes = (uint)subtree.y;
  const uint chunks = size_bytes == 0u ? 1u : (size_bytes - 1u) / 1024u + 1u;
  const uint root_flag = subtree.w != 0ul ? PAVISE_BLAKE3_ROOT : 0u;
  __global uint* values = tiles + 8 * (size_t)i * tiles_per_subtree;
  uint chaining[8];
  for (uint left = (chunks - 1u) / width + 1u; left > 1u; left = (left + 1u) / 2u) {
    for (uint pair = 0; pair < left / 2u; ++pair) {
      uint words[16];
      for (uint w = 0; w < 16u; ++w) words[w] = values[16u * pair + w];
      pavise_blake3_start(chaining);
      pavise_blake3_compress(chaining, words, 0ul, 64u,
                             PAVISE_BLAKE3_PARENT | (left == 2u ? root_flag : 0u));
      for (uint w = 0; w < 8u; ++w) values[8u * pair + w] = chaining[w];
    }
    if (left % 2u == 1u) {
      for (uint w = 0; w < 8u; ++w) values[8u * (left / 2u) + w] = values[8u * (left - 1u) + w];
    }
  }
  for (uint w = 0; w < 8u; ++w) results[8 * (size_t)(first_subtree + i) + w] = values[w];
}
