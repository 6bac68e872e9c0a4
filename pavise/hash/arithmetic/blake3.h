// The compression function of BLAKE3 (O'Connor, Aumasson, Neves, Wilcox-O'Hearn, 2020) for host and
// devices (see portable.h). The tree is the caller's part: chunks of sixteen blocks, then parents.
#ifndef PAVISE_HASH_ARITHMETIC_BLAKE3_H_
#define PAVISE_HASH_ARITHMETIC_BLAKE3_H_

#if !defined(__OPENCL_C_VERSION__)
#include "pavise/hash/arithmetic/portable.h"
#endif

// Domain flags (table 3).
#define PAVISE_BLAKE3_CHUNK_START 1u
#define PAVISE_BLAKE3_CHUNK_END 2u
#define PAVISE_BLAKE3_PARENT 4u
#define PAVISE_BLAKE3_ROOT 8u
#define PAVISE_BLAKE3_KEYED_HASH 16u

// The initialisation vector (table 1): the chaining value that plain hashing begins with.
PAVISE_ARITHMETIC void pavise_blake3_start(pavise_u32* chaining) {
  chaining[0] = 0x6a09e667u;
  chaining[1] = 0xbb67ae85u;
  chaining[2] = 0x3c6ef372u;
  chaining[3] = 0xa54ff53au;
  chaining[4] = 0x510e527fu;
  chaining[5] = 0x9b05688cu;
  chaining[6] = 0x1f83d9abu;
  chaining[7] = 0x5be0cd19u;
}

// The quarter round G (section 2.2).
#define PAVISE_BLAKE3_G(a, b, c, d, x, y) \
  a += b + (x);                           \
  d = pavise_rotate_right_32(d ^ a, 16);  \
  c += d;                                 \
  b = pavise_rotate_right_32(b ^ c, 12);  \
  a += b + (y);                           \
  d = pavise_rotate_right_32(d ^ a, 8);   \
  c += d;                                 \
  b = pavise_rotate_right_32(b ^ c, 7)

// Replaces `chaining` (8 words) by the output's first eight words. `message` are the block's
// sixteen little-endian words, zero after `block_size_bytes`. `counter` is the chunk's number, 0
// for parents and roots of more than a chunk.
PAVISE_ARITHMETIC void pavise_blake3_compress(pavise_u32* chaining, const pavise_u32* message,
                                              pavise_u64 counter, pavise_u32 block_size_bytes,
                                              pavise_u32 flags) {
  pavise_u32 v0 = chaining[0];
  pavise_u32 v1 = chaining[1];
  pavise_u32 v2 = chaining[2];
  pavise_u32 v3 = chaining[3];
  pavise_u32 v4 = chaining[4];
  pavise_u32 v5 = chaining[5];
  pavise_u32 v6 = chaining[6];
  pavise_u32 v7 = chaining[7];
  pavise_u32 v8 = 0x6a09e667u;
  pavise_u32 v9 = 0xbb67ae85u;
  pavise_u32 v10 = 0x3c6ef372u;
  pavise_u32 v11 = 0xa54ff53au;
  pavise_u32 v12 = (pavise_u32)counter;
  pavise_u32 v13 = (pavise_u32)(counter >> 32);
  pavise_u32 v14 = block_size_bytes;
  pavise_u32 v15 = flags;
  // The seven rounds; the message's order is the permutation (table 2), applied once more in each.
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[0], message[1]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[2], message[3]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[4], message[5]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[6], message[7]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[8], message[9]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[10], message[11]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[12], message[13]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[14], message[15]);
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[2], message[6]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[3], message[10]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[7], message[0]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[4], message[13]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[1], message[11]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[12], message[5]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[9], message[14]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[15], message[8]);
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[3], message[4]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[10], message[12]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[13], message[2]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[7], message[14]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[6], message[5]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[9], message[0]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[11], message[15]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[8], message[1]);
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[10], message[7]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[12], message[9]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[14], message[3]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[13], message[15]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[4], message[0]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[11], message[2]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[5], message[8]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[1], message[6]);
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[12], message[13]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[9], message[11]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[15], message[10]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[14], message[8]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[7], message[2]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[5], message[3]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[0], message[1]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[6], message[4]);
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[9], message[14]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[11], message[5]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[8], message[12]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[15], message[1]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[13], message[3]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[0], message[10]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[2], message[6]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[4], message[7]);
  PAVISE_BLAKE3_G(v0, v4, v8, v12, message[11], message[15]);
  PAVISE_BLAKE3_G(v1, v5, v9, v13, message[5], message[0]);
  PAVISE_BLAKE3_G(v2, v6, v10, v14, message[1], message[9]);
  PAVISE_BLAKE3_G(v3, v7, v11, v15, message[8], message[6]);
  PAVISE_BLAKE3_G(v0, v5, v10, v15, message[14], message[10]);
  PAVISE_BLAKE3_G(v1, v6, v11, v12, message[2], message[12]);
  PAVISE_BLAKE3_G(v2, v7, v8, v13, message[3], message[4]);
  PAVISE_BLAKE3_G(v3, v4, v9, v14, message[7], message[13]);
  chaining[0] = v0 ^ v8;
  chaining[1] = v1 ^ v9;
  chaining[2] = v2 ^ v10;
  chaining[3] = v3 ^ v11;
  chaining[4] = v4 ^ v12;
  chaining[5] = v5 ^ v13;
  chaining[6] = v6 ^ v14;
  chaining[7] = v7 ^ v15;
}

#endif  // PAVISE_HASH_ARITHMETIC_BLAKE3_H_
