#ifndef PAVISE_OFFLOAD_INTERNAL_MIXING_H_
#define PAVISE_OFFLOAD_INTERNAL_MIXING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "pavise/offload/internal/axis_key.h"

namespace pavise::offload::internal {

inline constexpr size_t kMixingBlock = 64;

// A secret orthogonal matrix T of one dimension (docs/decisions/0020):
//
//   size < 64    one block, dense: the Q of Gram and Schmidt on secret Gaussians (Haar measure)
//   features     two or more rounds, each: a secret permutation of all elements, secret signs, and
//                orthonormal Hadamard matrices on blocks of 64. Where 64 does not divide the size,
//                a last block ends with the dimension and overlaps the one before.
//   samples      the samples are cut into groups of 32 to 64 at random, the rounds stay within a
//                group, and a last secret permutation of all samples hides the groups. So a group
//                of rows can be decoded, worked on and encoded while it lies in a cache. A group
//                that is smaller than 64 has two blocks of 32 that overlap.
//
// An overlapping block has secret signs of its own before it: without them the second Hadamard
// matrix would gather again what the first one spread.
//
// As T^-T = T, both variants are the same.
class Mixing final : public AxisKey {
 public:
  // A Hadamard matrix on the elements [begin, begin + size); size is 64 or 32.
  struct Block {
    uint32_t begin = 0;
    uint32_t size = 0;
    bool overlaps = false;  // the block before it
  };
  // y_i = sign_i x_{order_i}, then the blocks, one after the other; elements of one
  // that overlaps take their overlap_sign before it.
  struct Round {
    std::vector<uint32_t> order;
    std::vector<float> signs;
    std::vector<float> overlap_signs;
  };

  ~Mixing() override;
  static absl::StatusOr<std::unique_ptr<Mixing>> DrawForFeatures(size_t size, size_t rounds,
                                                                 SecretStream& stream);
  // `grouping` decides the groups alone: keys with the same one can be decoded and encoded in one
  // pass. It is a permutation of the samples; group g is its elements from GroupBegin(g) on.
  static absl::StatusOr<std::unique_ptr<Mixing>> DrawForSamples(std::vector<uint32_t> grouping,
                                                                size_t rounds,
                                                                SecretStream& stream);

  void Encode(Variant variant, const AxisLayout& layout, std::span<float> values) const override;
  void Decode(Variant variant, const AxisLayout& layout, std::span<float> values) const override;

  size_t size() const override { return size_; }
  // What is done first: x_i = plain_{grouping_i}; empty for features.
  const std::vector<uint32_t>& grouping() const { return grouping_; }
  bool is_dense() const { return !dense_.empty(); }
  const std::vector<Round>& rounds() const { return rounds_; }
  const std::vector<Block>& blocks() const { return blocks_; }
  // Where element i goes after the rounds; empty for features, where the next matrix would undo it.
  const std::vector<uint32_t>& destination() const { return destination_; }

 private:
  size_t size_ = 0;
  std::vector<uint32_t> grouping_;
  std::vector<Round> rounds_;
  std::vector<Block> blocks_;
  std::vector<uint32_t> destination_;
  std::vector<float> dense_;  // size x size, row by row
};

// Groups of `samples` rows, at least kMixingBlock of them: as few as can be, of nearly equal sizes.
size_t GroupCount(size_t samples);
size_t GroupBegin(size_t samples, size_t group);

}  // namespace pavise::offload::internal

#endif  // PAVISE_OFFLOAD_INTERNAL_MIXING_H_
