// The compression function of SHA-384 and SHA-512 (FIPS 180-4) for host and devices (see
// portable.h).
#ifndef PAVISE_HASH_ARITHMETIC_SHA512_H_
#define PAVISE_HASH_ARITHMETIC_SHA512_H_

#if !defined(__OPENCL_C_VERSION__)
#include "pavise/hash/arithmetic/portable.h"
#endif

// SHA-384's initial hash value (section 5.3.4); its digest is the first six words.
PAVISE_ARITHMETIC void pavise_sha384_start(pavise_u64* state) {
  state[0] = 0xcbbb9d5dc1059ed8ul;
  state[1] = 0x629a292a367cd507ul;
  state[2] = 0x9159015a3070dd17ul;
  state[3] = 0x152fecd8f70e5939ul;
  state[4] = 0x67332667ffc00b31ul;
  state[5] = 0x8eb44a8768581511ul;
  state[6] = 0xdb0c2e0d64f98fa7ul;
  state[7] = 0x47b5481dbefa4fa4ul;
}

// One round (section 6.4.2, step 3) with the names of the eight variables turned instead of their
// values. `k` is the round's constant, `w` its word of the message schedule.
#define PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, k, w)               \
  h += (pavise_rotate_right_64(e, 14) ^ pavise_rotate_right_64(e, 18) ^ \
        pavise_rotate_right_64(e, 41)) +                                \
       (g ^ (e & (f ^ g))) + (k) + (w);                                 \
  d += h;                                                               \
  h += (pavise_rotate_right_64(a, 28) ^ pavise_rotate_right_64(a, 34) ^ \
        pavise_rotate_right_64(a, 39)) +                                \
       ((a & b) | (c & (a | b)))

// The message schedule (section 6.4.2, step 1) in sixteen words: word i becomes word i + 16. The
// other indices are i + 1, i + 9 and i + 14, modulo 16.
#define PAVISE_SHA512_EXTEND(w, i, i1, i9, i14)                                                   \
  (w[i] +=                                                                                        \
   (pavise_rotate_right_64(w[i1], 1) ^ pavise_rotate_right_64(w[i1], 8) ^ (w[i1] >> 7)) + w[i9] + \
   (pavise_rotate_right_64(w[i14], 19) ^ pavise_rotate_right_64(w[i14], 61) ^ (w[i14] >> 6)))

// The compression function (section 6): `words` are the block's sixteen words as numbers
// (big-endian bytes already swapped), and are overwritten.
PAVISE_ARITHMETIC void pavise_sha512_compress(pavise_u64* state, pavise_u64* words) {
  pavise_u64 a = state[0];
  pavise_u64 b = state[1];
  pavise_u64 c = state[2];
  pavise_u64 d = state[3];
  pavise_u64 e = state[4];
  pavise_u64 f = state[5];
  pavise_u64 g = state[6];
  pavise_u64 h = state[7];
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0x428a2f98d728ae22ul, words[0]);
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0x7137449123ef65cdul, words[1]);
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0xb5c0fbcfec4d3b2ful, words[2]);
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0xe9b5dba58189dbbcul, words[3]);
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x3956c25bf348b538ul, words[4]);
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x59f111f1b605d019ul, words[5]);
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x923f82a4af194f9bul, words[6]);
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0xab1c5ed5da6d8118ul, words[7]);
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0xd807aa98a3030242ul, words[8]);
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0x12835b0145706fbeul, words[9]);
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0x243185be4ee4b28cul, words[10]);
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0x550c7dc3d5ffb4e2ul, words[11]);
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x72be5d74f27b896ful, words[12]);
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x80deb1fe3b1696b1ul, words[13]);
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x9bdc06a725c71235ul, words[14]);
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0xc19bf174cf692694ul, words[15]);
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0xe49b69c19ef14ad2ul,
                      PAVISE_SHA512_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0xefbe4786384f25e3ul,
                      PAVISE_SHA512_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0x0fc19dc68b8cd5b5ul,
                      PAVISE_SHA512_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0x240ca1cc77ac9c65ul,
                      PAVISE_SHA512_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x2de92c6f592b0275ul,
                      PAVISE_SHA512_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x4a7484aa6ea6e483ul,
                      PAVISE_SHA512_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x5cb0a9dcbd41fbd4ul,
                      PAVISE_SHA512_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x76f988da831153b5ul,
                      PAVISE_SHA512_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0x983e5152ee66dfabul,
                      PAVISE_SHA512_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0xa831c66d2db43210ul,
                      PAVISE_SHA512_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0xb00327c898fb213ful,
                      PAVISE_SHA512_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0xbf597fc7beef0ee4ul,
                      PAVISE_SHA512_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0xc6e00bf33da88fc2ul,
                      PAVISE_SHA512_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0xd5a79147930aa725ul,
                      PAVISE_SHA512_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x06ca6351e003826ful,
                      PAVISE_SHA512_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x142929670a0e6e70ul,
                      PAVISE_SHA512_EXTEND(words, 15, 0, 8, 13));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0x27b70a8546d22ffcul,
                      PAVISE_SHA512_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0x2e1b21385c26c926ul,
                      PAVISE_SHA512_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0x4d2c6dfc5ac42aedul,
                      PAVISE_SHA512_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0x53380d139d95b3dful,
                      PAVISE_SHA512_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x650a73548baf63deul,
                      PAVISE_SHA512_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x766a0abb3c77b2a8ul,
                      PAVISE_SHA512_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x81c2c92e47edaee6ul,
                      PAVISE_SHA512_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x92722c851482353bul,
                      PAVISE_SHA512_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0xa2bfe8a14cf10364ul,
                      PAVISE_SHA512_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0xa81a664bbc423001ul,
                      PAVISE_SHA512_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0xc24b8b70d0f89791ul,
                      PAVISE_SHA512_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0xc76c51a30654be30ul,
                      PAVISE_SHA512_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0xd192e819d6ef5218ul,
                      PAVISE_SHA512_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0xd69906245565a910ul,
                      PAVISE_SHA512_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0xf40e35855771202aul,
                      PAVISE_SHA512_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x106aa07032bbd1b8ul,
                      PAVISE_SHA512_EXTEND(words, 15, 0, 8, 13));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0x19a4c116b8d2d0c8ul,
                      PAVISE_SHA512_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0x1e376c085141ab53ul,
                      PAVISE_SHA512_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0x2748774cdf8eeb99ul,
                      PAVISE_SHA512_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0x34b0bcb5e19b48a8ul,
                      PAVISE_SHA512_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x391c0cb3c5c95a63ul,
                      PAVISE_SHA512_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x4ed8aa4ae3418acbul,
                      PAVISE_SHA512_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x5b9cca4f7763e373ul,
                      PAVISE_SHA512_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x682e6ff3d6b2b8a3ul,
                      PAVISE_SHA512_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0x748f82ee5defb2fcul,
                      PAVISE_SHA512_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0x78a5636f43172f60ul,
                      PAVISE_SHA512_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0x84c87814a1f0ab72ul,
                      PAVISE_SHA512_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0x8cc702081a6439ecul,
                      PAVISE_SHA512_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x90befffa23631e28ul,
                      PAVISE_SHA512_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0xa4506cebde82bde9ul,
                      PAVISE_SHA512_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0xbef9a3f7b2c67915ul,
                      PAVISE_SHA512_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0xc67178f2e372532bul,
                      PAVISE_SHA512_EXTEND(words, 15, 0, 8, 13));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0xca273eceea26619cul,
                      PAVISE_SHA512_EXTEND(words, 0, 1, 9, 14));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0xd186b8c721c0c207ul,
                      PAVISE_SHA512_EXTEND(words, 1, 2, 10, 15));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0xeada7dd6cde0eb1eul,
                      PAVISE_SHA512_EXTEND(words, 2, 3, 11, 0));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0xf57d4f7fee6ed178ul,
                      PAVISE_SHA512_EXTEND(words, 3, 4, 12, 1));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x06f067aa72176fbaul,
                      PAVISE_SHA512_EXTEND(words, 4, 5, 13, 2));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x0a637dc5a2c898a6ul,
                      PAVISE_SHA512_EXTEND(words, 5, 6, 14, 3));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x113f9804bef90daeul,
                      PAVISE_SHA512_EXTEND(words, 6, 7, 15, 4));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x1b710b35131c471bul,
                      PAVISE_SHA512_EXTEND(words, 7, 8, 0, 5));
  PAVISE_SHA512_ROUND(a, b, c, d, e, f, g, h, 0x28db77f523047d84ul,
                      PAVISE_SHA512_EXTEND(words, 8, 9, 1, 6));
  PAVISE_SHA512_ROUND(h, a, b, c, d, e, f, g, 0x32caab7b40c72493ul,
                      PAVISE_SHA512_EXTEND(words, 9, 10, 2, 7));
  PAVISE_SHA512_ROUND(g, h, a, b, c, d, e, f, 0x3c9ebe0a15c9bebcul,
                      PAVISE_SHA512_EXTEND(words, 10, 11, 3, 8));
  PAVISE_SHA512_ROUND(f, g, h, a, b, c, d, e, 0x431d67c49c100d4cul,
                      PAVISE_SHA512_EXTEND(words, 11, 12, 4, 9));
  PAVISE_SHA512_ROUND(e, f, g, h, a, b, c, d, 0x4cc5d4becb3e42b6ul,
                      PAVISE_SHA512_EXTEND(words, 12, 13, 5, 10));
  PAVISE_SHA512_ROUND(d, e, f, g, h, a, b, c, 0x597f299cfc657e2aul,
                      PAVISE_SHA512_EXTEND(words, 13, 14, 6, 11));
  PAVISE_SHA512_ROUND(c, d, e, f, g, h, a, b, 0x5fcb6fab3ad6faecul,
                      PAVISE_SHA512_EXTEND(words, 14, 15, 7, 12));
  PAVISE_SHA512_ROUND(b, c, d, e, f, g, h, a, 0x6c44198c4a475817ul,
                      PAVISE_SHA512_EXTEND(words, 15, 0, 8, 13));
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

#endif  // PAVISE_HASH_ARITHMETIC_SHA512_H_
