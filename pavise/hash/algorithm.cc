#include "pavise/hash/algorithm.h"

namespace pavise::hash {

std::string_view AlgorithmName(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kSha256:
      return "sha256";
    case Algorithm::kSha384:
      return "sha384";
    case Algorithm::kBlake2b:
      return "blake2b";
    case Algorithm::kBlake3:
      return "blake3";
  }
  return "unknown";
}

std::optional<Algorithm> AlgorithmFromName(std::string_view name) {
  for (Algorithm algorithm :
       {Algorithm::kSha256, Algorithm::kSha384, Algorithm::kBlake2b, Algorithm::kBlake3}) {
    if (name == AlgorithmName(algorithm)) return algorithm;
  }
  return std::nullopt;
}

size_t DigestSizeBytes(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kSha256:
    case Algorithm::kBlake3:
      return 32;
    case Algorithm::kSha384:
      return 48;
    case Algorithm::kBlake2b:
      return 64;
  }
  return 0;
}

}  // namespace pavise::hash
