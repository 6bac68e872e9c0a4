// SHA-256 of many ranges, one work-item a range: a digest is a serial chain. A launch takes each of
// the first `count` ranges from `first_byte` up to `slice_bytes` further, so that no launch holds a
// display's device longer than its watchdog allows; between launches the chains lie in `states`
// (eight words a range), where the last launch of a range leaves the digest's bytes.
//
// `ranges`: offset and size, the longest first.
__kernel void pavise_sha256(__global const uint* buffer, __global const ulong2* ranges, uint count,
                            ulong first_byte, ulong slice_bytes, __global uint* states) {
  const uint range = (uint)get_global_id(0);
  if (range >= count) return;
  const ulong offset = ranges[range].x;
  const ulong size = ranges[range].y;
  __global uint* kept = states + 8 * (size_t)range;
  uint state[8];
  uint words[16];
  if (first_byte == 0) {
    pavise_sha256_start(state);
  } else {
    for (int i = 0; i < 8; ++i) state[i] = kept[i];
  }
  const bool is_last = size - first_byte <= slice_bytes;
  const ulong end = is_last ? size : first_byte + slice_bytes;
  ulong at = first_byte;
  for (; end - at >= 64; at += 64) {
    pavise_load_words(buffer, offset + at, words, 16);
    for (int i = 0; i < 16; ++i) words[i] = pavise_swap_bytes_32(words[i]);
    pavise_sha256_compress(state, words);
  }
  if (is_last) {
    const uint rest = (uint)(end - at);
    pavise_load_words(buffer, offset + at, words, 16);
    pavise_keep_bytes(words, 16, rest);
    pavise_add_padding_bit(words, 16, rest);
    for (int i = 0; i < 16; ++i) words[i] = pavise_swap_bytes_32(words[i]);
    if (rest >= 56) {
      pavise_sha256_compress(state, words);
      for (int i = 0; i < 16; ++i) words[i] = 0u;
    }
    words[14] = (uint)(size >> 29);
    words[15] = (uint)(size << 3);
    pavise_sha256_compress(state, words);
    for (int i = 0; i < 8; ++i) state[i] = pavise_swap_bytes_32(state[i]);
  }
  for (int i = 0; i < 8; ++i) kept[i] = state[i];
}
