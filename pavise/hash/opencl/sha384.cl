// SHA-384 of many ranges: sha256.cl with blocks of 128 bytes and words of 64 bits. The digest is the
// first 48 of a range's 64 bytes of `states`.

static inline void pavise_join_words(const uint* halves, ulong* words) {
  for (int i = 0; i < 16; ++i) {
    words[i] = ((ulong)pavise_swap_bytes_32(halves[2 * i]) << 32) |
               pavise_swap_bytes_32(halves[2 * i + 1]);
  }
}

__kernel void pavise_sha384(__global const uint* buffer, __global const ulong2* ranges, uint count,
                            ulong first_byte, ulong slice_bytes, __global ulong* states) {
  const uint range = (uint)get_global_id(0);
  if (range >= count) return;
  const ulong offset = ranges[range].x;
  const ulong size = ranges[range].y;
  __global ulong* kept = states + 8 * (size_t)range;
  ulong state[8];
  uint halves[32];
  ulong words[16];
  if (first_byte == 0) {
    pavise_sha384_start(state);
  } else {
    for (int i = 0; i < 8; ++i) state[i] = kept[i];
  }
  const bool is_last = size - first_byte <= slice_bytes;
  const ulong end = is_last ? size : first_byte + slice_bytes;
  ulong at = first_byte;
  for (; end - at >= 128; at += 128) {
    pavise_load_words(buffer, offset + at, halves, 32);
    pavise_join_words(halves, words);
    pavise_sha512_compress(state, words);
  }
  if (is_last) {
    const uint rest = (uint)(end - at);
    pavise_load_words(buffer, offset + at, halves, 32);
    pavise_keep_bytes(halves, 32, rest);
    pavise_add_padding_bit(halves, 32, rest);
    pavise_join_words(halves, words);
    if (rest >= 112) {
      pavise_sha512_compress(state, words);
      for (int i = 0; i < 16; ++i) words[i] = 0ul;
    }
    words[14] = size >> 61;
    words[15] = size << 3;
    pavise_sha512_compress(state, words);
    for (int i = 0; i < 8; ++i) state[i] = pavise_swap_bytes_64(state[i]);
  }
  for (int i = 0; i < 8; ++i) kept[i] = state[i];
}
