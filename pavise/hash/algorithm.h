#ifndef PAVISE_HASH_ALGORITHM_H_
#define PAVISE_HASH_ALGORITHM_H_

#include <optional>
#include <string_view>

#include "pavise/base/bytes.h"

namespace pavise::hash {

// Bulk digests. kBlake2b is BLAKE2b-512 (RFC 7693), as OMS uses it.
enum class Algorithm { kSha256, kSha384, kBlake2b, kBlake3 };

// "sha256", "sha384", "blake2b", "blake3".
std::string_view AlgorithmName(Algorithm algorithm);
std::optional<Algorithm> AlgorithmFromName(std::string_view name);
size_t DigestSizeBytes(Algorithm algorithm);

}  // namespace pavise::hash

#endif  // PAVISE_HASH_ALGORITHM_H_
