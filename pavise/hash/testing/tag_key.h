#ifndef PAVISE_HASH_TESTING_TAG_KEY_H_
#define PAVISE_HASH_TESTING_TAG_KEY_H_

#include <utility>

#include "pavise/base/secret_bytes.h"
#include "pavise/hash/tag.h"

namespace pavise::hash {

// Keys whose rows the test chooses (extremes, say); nothing else may make a key but by derivation.
struct TagKeyForTest {
  // `rows`: kTagRows x kTagBlockBytes, two's complement, row after row. `blake3_key`: 32 bytes.
  static TagKey Make(Bytes rows, Bytes blake3_key, uint64_t total_size_bytes) {
    return TagKey(SecretBytes(std::move(rows)), SecretBytes(std::move(blake3_key)),
                  total_size_bytes);
  }
};

}  // namespace pavise::hash

#endif  // PAVISE_HASH_TESTING_TAG_KEY_H_
