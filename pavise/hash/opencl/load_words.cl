// Reading bytes that begin anywhere, for every kernel here. The buffer is an array of little-endian
// words that goes on for at least kPaddingBytes (opencl_device.cc) after the caller's last byte: what
// lies beyond a range is loaded and masked, never used.

// The `count` words (a multiple of four) at byte `offset`.
static inline void pavise_load_words(__global const uint* buffer, ulong offset, uint* words,
                                     int count) {
  __global const uint* from = buffer + (offset >> 2);
  if (((uint)offset & 15u) == 0u) {
    // Work-items read far apart from each other, so that every load of 16 bytes saves three.
    __global const uint4* wide = (__global const uint4*)from;
    for (int i = 0; i < count; i += 4) {
      const uint4 four = wide[i / 4];
      words[i] = four.x;
      words[i + 1] = four.y;
      words[i + 2] = four.z;
      words[i + 3] = four.w;
    }
  } else {
    const uint shift = ((uint)offset & 3u) * 8u;
    uint low = from[0];
    for (int i = 0; i < count; ++i) {
      const uint high = from[i + 1];
      words[i] = (uint)((((ulong)high << 32) | low) >> shift);
      low = high;
    }
  }
}

// Keeps the first `size_bytes` bytes of the `count` words and clears the others.
static inline void pavise_keep_bytes(uint* words, int count, uint size_bytes) {
  for (int i = 0; i < count; ++i) {
    const uint begin = 4u * (uint)i;
    if (size_bytes <= begin) {
      words[i] = 0u;
    } else if (size_bytes < begin + 4u) {
      words[i] &= (1u << (8u * (size_bytes - begin))) - 1u;
    }
  }
}

// SHA-2's padding bit after `size_bytes` bytes; nothing where it belongs to a later block.
static inline void pavise_add_padding_bit(uint* words, int count, uint size_bytes) {
  for (int i = 0; i < count; ++i) {
    if ((size_bytes >> 2) == (uint)i) words[i] |= 0x80u << (8u * (size_bytes & 3u));
  }
}
