#include "pavise/offload/internal/mixing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/offload/internal/wipe.h"

namespace pavise::offload::internal {
namespace {

// In place on `size` rows of `inner` elements; its own inverse.
void Hadamard(size_t size, size_t inner, float* rows) {
  for (size_t half = 1; half < size; half *= 2) {
    for (size_t i = 0; i < size; i += 2 * half) {
      for (size_t j = i * inner; j < (i + half) * inner; ++j) {
        const float a = rows[j];
        const float b = rows[j + half * inner];
        rows[j] = a + b;
        rows[j + half * inner] = a - b;
      }
    }
  }
  const float scale = static_cast<float>(1 / std::sqrt(static_cast<double>(size)));
  for (size_t j = 0; j < size * inner; ++j) rows[j] *= scale;
}

void TakeSigns(const Mixing::Block& block, const Mixing::Round& round, size_t inner,
               float* values) {
  for (size_t i = block.begin; block.overlaps && i < block.begin + block.size; ++i) {
    for (size_t j = 0; j < inner; ++j) values[i * inner + j] *= round.overlap_signs[i];
  }
}

// Rows of a Haar-distributed orthogonal matrix: Gram and Schmidt, twice for the rounding, in
// float64. Rows that are nearly dependent are drawn again.
absl::StatusOr<std::vector<float>> DrawDense(size_t size, SecretStream& stream) {
  std::vector<double> q(size * size);
  for (size_t i = 0; i < size; ++i) {
    double* const row = &q[i * size];
    double norm = 0;
    do {
      PAVISE_ASSIGN_OR_RETURN(const auto drawn, stream.Gaussians(size));
      std::copy(drawn.begin(), drawn.end(), row);
      for (int pass = 0; pass < 2; ++pass) {
        for (size_t k = 0; k < i; ++k) {
          const double* const other = &q[k * size];
          const double dot = std::inner_product(row, row + size, other, 0.0);
          for (size_t j = 0; j < size; ++j) row[j] -= dot * other[j];
        }
      }
      norm = std::sqrt(std::inner_product(row, row + size, row, 0.0));
    } while (norm < 1e-3);
    for (size_t j = 0; j < size; ++j) row[j] /= norm;
  }
  return std::vector<float>(q.begin(), q.end());
}

// 64 where that many are left; else two of 32 that overlap and cover the group.
void AppendBlocks(size_t begin, size_t size, std::vector<Mixing::Block>& blocks) {
  const uint32_t first = static_cast<uint32_t>(begin);
  if (size == kMixingBlock) {
    blocks.push_back({first, 64, false});
    return;
  }
  blocks.push_back({first, 32, false});
  if (size > 32) blocks.push_back({static_cast<uint32_t>(begin + size - 32), 32, true});
}

}  // namespace

size_t GroupCount(size_t samples) { return (samples + kMixingBlock - 1) / kMixingBlock; }

size_t GroupBegin(size_t samples, size_t group) { return samples * group / GroupCount(samples); }

absl::StatusOr<std::unique_ptr<Mixing>> Mixing::DrawForFeatures(size_t size, size_t rounds,
                                                                SecretStream& stream) {
  auto key = std::make_unique<Mixing>();
  key->size_ = size;
  if (size < kMixingBlock) {
    PAVISE_ASSIGN_OR_RETURN(key->dense_, DrawDense(size, stream));
    return key;
  }
  for (size_t i = 0; i < rounds; ++i) {
    Round round;
    PAVISE_ASSIGN_OR_RETURN(round.order, stream.Permutation(size));
    PAVISE_ASSIGN_OR_RETURN(round.signs, stream.Signs(size));
    PAVISE_ASSIGN_OR_RETURN(round.overlap_signs, stream.Signs(size));
    key->rounds_.push_back(std::move(round));
  }
  for (size_t begin = 0; begin + kMixingBlock <= size; begin += kMixingBlock) {
    key->blocks_.push_back({static_cast<uint32_t>(begin), kMixingBlock, false});
  }
  if (size % kMixingBlock != 0) {
    key->blocks_.push_back({static_cast<uint32_t>(size - kMixingBlock), kMixingBlock, true});
  }
  return key;
}

absl::StatusOr<std::unique_ptr<Mixing>> Mixing::DrawForSamples(std::vector<uint32_t> grouping,
                                                               size_t rounds,
                                                               SecretStream& stream) {
  const size_t size = grouping.size();
  if (size < kMixingBlock) return DrawForFeatures(size, rounds, stream);
  auto key = std::make_unique<Mixing>();
  key->size_ = size;
  for (size_t g = 0; g < GroupCount(size); ++g) {
    const size_t begin = GroupBegin(size, g);
    AppendBlocks(begin, GroupBegin(size, g + 1) - begin, key->blocks_);
  }
  for (size_t i = 0; i < rounds; ++i) {
    Round round;
    round.order.reserve(size);
    for (size_t g = 0; g < GroupCount(size); ++g) {
      const size_t begin = GroupBegin(size, g);
      PAVISE_ASSIGN_OR_RETURN(const auto local,
                              stream.Permutation(GroupBegin(size, g + 1) - begin));
      for (const uint32_t j : local) round.order.push_back(static_cast<uint32_t>(begin + j));
    }
    PAVISE_ASSIGN_OR_RETURN(round.signs, stream.Signs(size));
    PAVISE_ASSIGN_OR_RETURN(round.overlap_signs, stream.Signs(size));
    key->rounds_.push_back(std::move(round));
  }
  PAVISE_ASSIGN_OR_RETURN(key->destination_, stream.Permutation(size));
  key->grouping_ = std::move(grouping);
  return key;
}

Mixing::~Mixing() {
  for (Round& round : rounds_) {
    Wipe(round.order);
    Wipe(round.signs);
    Wipe(round.overlap_signs);
  }
  Wipe(grouping_);
  Wipe(destination_);
  Wipe(dense_);
}

void Mixing::Encode(Variant, const AxisLayout& layout, std::span<float> values) const {
  const size_t inner = layout.inner;
  std::vector<float> plain(size_ * inner);
  for (size_t o = 0; o < layout.outer; ++o) {
    float* const block = &values[o * plain.size()];
    if (is_dense()) {
      std::copy_n(block, plain.size(), plain.data());
      std::fill_n(block, plain.size(), 0.0f);
      for (size_t i = 0; i < size_; ++i) {
        for (size_t k = 0; k < size_; ++k) {
          const float factor = dense_[i * size_ + k];
          for (size_t j = 0; j < inner; ++j) block[i * inner + j] += factor * plain[k * inner + j];
        }
      }
      continue;
    }
    if (!grouping_.empty()) {
      std::copy_n(block, plain.size(), plain.data());
      for (size_t i = 0; i < size_; ++i) {
        std::copy_n(&plain[grouping_[i] * inner], inner, &block[i * inner]);
      }
    }
    for (const Round& round : rounds_) {
      std::copy_n(block, plain.size(), plain.data());
      for (size_t i = 0; i < size_; ++i) {
        const float* const from = &plain[round.order[i] * inner];
        for (size_t j = 0; j < inner; ++j) block[i * inner + j] = round.signs[i] * from[j];
      }
      for (const Block& b : blocks_) {
        TakeSigns(b, round, inner, block);
        Hadamard(b.size, inner, &block[b.begin * inner]);
      }
    }
    if (destination_.empty()) continue;
    std::copy_n(block, plain.size(), plain.data());
    for (size_t i = 0; i < size_; ++i) {
      std::copy_n(&plain[i * inner], inner, &block[destination_[i] * inner]);
    }
  }
}

void Mixing::Decode(Variant, const AxisLayout& layout, std::span<float> values) const {
  const size_t inner = layout.inner;
  std::vector<float> encoded(size_ * inner);
  for (size_t o = 0; o < layout.outer; ++o) {
    float* const block = &values[o * encoded.size()];
    std::copy_n(block, encoded.size(), encoded.data());
    if (is_dense()) {
      std::fill_n(block, encoded.size(), 0.0f);
      for (size_t i = 0; i < size_; ++i) {
        for (size_t k = 0; k < size_; ++k) {
          const float factor = dense_[i * size_ + k];
          for (size_t j = 0; j < inner; ++j) {
            block[k * inner + j] += factor * encoded[i * inner + j];
          }
        }
      }
      continue;
    }
    if (!destination_.empty()) {
      for (size_t i = 0; i < size_; ++i) {
        std::copy_n(&encoded[destination_[i] * inner], inner, &block[i * inner]);
      }
    }
    for (size_t r = rounds_.size(); r-- > 0;) {
      const Round& round = rounds_[r];
      for (size_t b = blocks_.size(); b-- > 0;) {
        Hadamard(blocks_[b].size, inner, &block[blocks_[b].begin * inner]);
        TakeSigns(blocks_[b], round, inner, block);
      }
      std::copy_n(block, encoded.size(), encoded.data());
      for (size_t i = 0; i < size_; ++i) {
        float* const to = &block[round.order[i] * inner];
        for (size_t j = 0; j < inner; ++j) to[j] = round.signs[i] * encoded[i * inner + j];
      }
    }
    if (grouping_.empty()) continue;
    std::copy_n(block, encoded.size(), encoded.data());
    for (size_t i = 0; i < size_; ++i) {
      std::copy_n(&encoded[i * inner], inner, &block[grouping_[i] * inner]);
    }
  }
}

}  // namespace pavise::offload::internal
