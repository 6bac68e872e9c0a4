// SHA-256 (FIPS 180-4), one block at a time, for host and devices (see portable.h).
#ifndef PAVISE_HASH_ARITHMETIC_SHA256_H_
#define PAVISE_HASH_ARITHMETIC_SHA256_H_

#if !defined(__OPENCL_C_VERSION__)
#include "pavise/hash/arithmetic/portable.h"
#endif

// The initial hash value (section 5.3.3).
PAVISE_ARITHMETIC void pavise_sha256_start(pavise_u32* state) {
  state[0] = 0x6a09e667u;
  state[1] = 0xbb67ae85u;
  state[2] = 0x3c6ef372u;
  state[3] = 0xa54ff53au;
  state[4] = 0x510e527fu;
  state[5] = 0x9b05688cu;
  state[6] = 0x1f83d9abu;
  state[7] = 0x5be0cd19u;
}

// One round (section 6.2.2, step 3) with the names of the eight variables turned instead of their
// values. `k` is the round's constant, `w` its word of the message schedule.
#define PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, k, w)              \
  h += (pavise_rotate_right_32(e, 6) ^ pavise_rotate_right_32(e, 11) ^ \
        pavise_rotate_right_32(e, 25)) +                               \
       (g ^ (e & (f ^ g))) + (k) + (w);                                \
  d += h;                                                              \
  h += (pavise_rotate_right_32(a, 2) ^ pavise_rotate_right_32(a, 13) ^ \
        pavise_rotate_right_32(a, 22)) +                               \
       ((a & b) | (c & (a | b)))

// The message schedule (step 1) in sixteen words: word i becomes word i + 16. The other indices are
// i + 1, i + 9 and i + 14, modulo 16.
#define PAVISE_SHA256_EXTEND(w, i, i1, i9, i14)                                                    \
  (w[i] +=                                                                                         \
   (pavise_rotate_right_32(w[i1], 7) ^ pavise_rotate_right_32(w[i1], 18) ^ (w[i1] >> 3)) + w[i9] + \
   (pavise_rotate_right_32(w[i14], 17) ^ pavise_rotate_right_32(w[i14], 19) ^ (w[i14] >> 10)))

// The compression function (section 6): `words` are the block's sixteen words as numbers
// (big-endian bytes already swapped), and are overwritten.
PAVISE_ARITHMETIC void pavise_sha256_compress(pavise_u32* state, pavise_u32* words) {
  pavise_u32 a = state[0];
  pavise_u32 b = state[1];
  pavise_u32 c = state[2];
  pavise_u32 d = state[3];
  pavise_u32 e = state[4];
  pavise_u32 f = state[5];
  pavise_u32 g = state[6];
  pavise_u32 h = state[7];
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0x428a2f98u, words[0]);
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0x71374491u, words[1]);
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0xb5c0fbcfu, words[2]);
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0xe9b5dba5u, words[3]);
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0x3956c25bu, words[4]);
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0x59f111f1u, words[5]);
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0x923f82a4u, words[6]);
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0xab1c5ed5u, words[7]);
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0xd807aa98u, words[8]);
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0x12835b01u, words[9]);
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0x243185beu, words[10]);
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0x550c7dc3u, words[11]);
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0x72be5d74u, words[12]);
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0x80deb1feu, words[13]);
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0x9bdc06a7u, words[14]);
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0xc19bf174u, words[15]);
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0xe49b69c1u,
                      PAVISE_SHA256_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0xefbe4786u,
                      PAVISE_SHA256_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0x0fc19dc6u,
                      PAVISE_SHA256_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0x240ca1ccu,
                      PAVISE_SHA256_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0x2de92c6fu,
                      PAVISE_SHA256_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0x4a7484aau,
                      PAVISE_SHA256_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0x5cb0a9dcu,
                      PAVISE_SHA256_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0x76f988dau, PAVISE_SHA256_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0x983e5152u, PAVISE_SHA256_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0xa831c66du,
                      PAVISE_SHA256_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0xb00327c8u,
                      PAVISE_SHA256_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0xbf597fc7u,
                      PAVISE_SHA256_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0xc6e00bf3u,
                      PAVISE_SHA256_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0xd5a79147u,
                      PAVISE_SHA256_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0x06ca6351u,
                      PAVISE_SHA256_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0x14292967u,
                      PAVISE_SHA256_EXTEND(words, 15, 0, 8, 13));
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0x27b70a85u,
                      PAVISE_SHA256_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0x2e1b2138u,
                      PAVISE_SHA256_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0x4d2c6dfcu,
                      PAVISE_SHA256_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0x53380d13u,
                      PAVISE_SHA256_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0x650a7354u,
                      PAVISE_SHA256_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0x766a0abbu,
                      PAVISE_SHA256_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0x81c2c92eu,
                      PAVISE_SHA256_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0x92722c85u, PAVISE_SHA256_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0xa2bfe8a1u, PAVISE_SHA256_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0xa81a664bu,
                      PAVISE_SHA256_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0xc24b8b70u,
                      PAVISE_SHA256_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0xc76c51a3u,
                      PAVISE_SHA256_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0xd192e819u,
                      PAVISE_SHA256_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0xd6990624u,
                      PAVISE_SHA256_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0xf40e3585u,
                      PAVISE_SHA256_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0x106aa070u,
                      PAVISE_SHA256_EXTEND(words, 15, 0, 8, 13));
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0x19a4c116u,
                      PAVISE_SHA256_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0x1e376c08u,
                      PAVISE_SHA256_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0x2748774cu,
                      PAVISE_SHA256_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0x34b0bcb5u,
                      PAVISE_SHA256_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0x391c0cb3u,
                      PAVISE_SHA256_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0x4ed8aa4au,
                      PAVISE_SHA256_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0x5b9cca4fu,
                      PAVISE_SHA256_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0x682e6ff3u, PAVISE_SHA256_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA256_ROUND(a, b, c, d, e, f, g, h, 0x748f82eeu, PAVISE_SHA256_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA256_ROUND(h, a, b, c, d, e, f, g, 0x78a5636fu,
                      PAVISE_SHA256_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA256_ROUND(g, h, a, b, c, d, e, f, 0x84c87814u,
                      PAVISE_SHA256_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA256_ROUND(f, g, h, a, b, c, d, e, 0x8cc70208u,
                      PAVISE_SHA256_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA256_ROUND(e, f, g, h, a, b, c, d, 0x90befffau,
                      PAVISE_SHA256_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA256_ROUND(d, e, f, g, h, a, b, c, 0xa4506cebu,
                      PAVISE_SHA256_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA256_ROUND(c, d, e, f, g, h, a, b, 0xbef9a3f7u,
                      PAVISE_SHA256_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA256_ROUND(b, c, d, e, f, g, h, a, 0xc67178f2u,
                      PAVISE_SHA256_EXTEND(words, 15, 0, 8, 13));
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

#endif  // PAVISE_HASH_ARITHMETIC_SHA256_H_
