#ifndef PAVISE_HASH_CUDA_TESTING_HOST_WARP_H_
#define PAVISE_HASH_CUDA_TESTING_HOST_WARP_H_

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pavise/hash/cuda/descriptors.h"

namespace pavise::hash::cuda {

// A warp of the host (warp.h): its lanes take turns. Two choices that hardware makes freely are
// the test's here, so that a body that depends on one of them gives a wrong answer under the other.
class HostWarp {
 public:
  enum class Order { kAscending, kDescending };
  // When a copy takes place: as it is started, or as it is waited for.
  enum class Copies { kEarly, kLate };

  HostWarp(Order order, Copies copies) : order_(order), copies_(copies) {}

  template <class T>
  struct PerLane {
    std::array<T, kLanes> values = {};
    T& operator[](uint32_t lane) { return values[lane]; }
    const T& operator[](uint32_t lane) const { return values[lane]; }
  };

  template <class Function>
  void ForEachLane(Function function) {
    for (uint32_t i = 0; i < kLanes; ++i) {
      function(order_ == Order::kAscending ? i : kLanes - 1 - i);
    }
  }
  void Sync() { ++syncs_; }

  bool All(const PerLane<bool>& values) {
    for (const bool value : values.values) {
      if (!value) return false;
    }
    return true;
  }
  uint64_t Min(const PerLane<uint64_t>& values) {
    uint64_t least = values.values[0];
    for (const uint64_t value : values.values) least = value < least ? value : least;
    return least;
  }
  uint64_t Max(const PerLane<uint64_t>& values) {
    uint64_t most = values.values[0];
    for (const uint64_t value : values.values) most = value > most ? value : most;
    return most;
  }
  uint64_t First(const PerLane<uint64_t>& values) { return values.values[0]; }

  void StartCopy(uint8_t* shared, const uint8_t* source) {
    ++copies_started_;
    if (copies_ == Copies::kEarly) {
      std::memcpy(shared, source, 16);
    } else {
      open_.push_back({shared, source});
    }
  }
  void CommitCopies() {
    committed_.push_back(open_);
    open_.clear();
  }
  // All groups but the newest.
  void WaitForCopies() {
    while (committed_.size() > 1) {
      for (const auto& [shared, source] : committed_.front()) std::memcpy(shared, source, 16);
      committed_.erase(committed_.begin());
    }
  }

  uint64_t copies_started() const { return copies_started_; }
  uint64_t syncs() const { return syncs_; }

 private:
  struct Copy {
    uint8_t* shared;
    const uint8_t* source;
  };
  const Order order_;
  const Copies copies_;
  std::vector<Copy> open_;
  std::vector<std::vector<Copy>> committed_;
  uint64_t copies_started_ = 0;
  uint64_t syncs_ = 0;
};

}  // namespace pavise::hash::cuda

#endif  // PAVISE_HASH_CUDA_TESTING_HOST_WARP_H_
