#ifndef PAVISE_CRYPTO_CERTIFICATE_MEMORY_H_
#define PAVISE_CRYPTO_CERTIFICATE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/x509.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::crypto {

// What whoever meets the same certificates again and again keeps of them: certificates that were
// read, and chains that were verified. It changes what an answer costs and no answer
// (docs/decisions/0014-verified-chains-are-remembered.md): what is kept is found by the SHA-256 of
// everything that the answer depends on, whole certificates and roots, and a chain is given back
// only where no period of any certificate that was given has begun or ended in between. Refusals
// are not kept. Revocation is not looked at here: callers do so each time, as they must after
// VerifyChain.
//
// Bounded; the entry that was used longest ago makes room. Thread-safe.
class CertificateMemory {
 public:
  static constexpr size_t kMaxTexts = 1024;
  static constexpr size_t kMaxTextBytes = 8 << 10;  // longer ones are read each time
  static constexpr size_t kMaxChains = 1024;

  using Reader = absl::StatusOr<std::vector<Certificate>> (*)(ByteSpan);
  // What `reader`, a pure function, makes of `text`.
  absl::StatusOr<std::vector<Certificate>> Read(ByteSpan text, Reader reader);
  // As crypto::VerifyChain.
  absl::StatusOr<std::vector<Certificate>> Verify(const Certificate& leaf,
                                                  const std::vector<Certificate>& intermediates,
                                                  const std::vector<Certificate>& roots,
                                                  absl::Time at, bool partial_chain = false);

 private:
  // The most recently used entries, at most `kMost` of them.
  template <typename Key, typename Value, size_t kMost>
  class Recent {
   public:
    const Value* Find(const Key& key) {
      const auto found = by_key_.find(key);
      if (found == by_key_.end()) return nullptr;
      entries_.splice(entries_.begin(), entries_, found->second);
      return &found->second->second;
    }
    void Keep(const Key& key, Value value) {
      if (const auto found = by_key_.find(key); found != by_key_.end()) {
        entries_.erase(found->second);
        by_key_.erase(found);
      } else if (entries_.size() == kMost) {
        by_key_.erase(entries_.back().first);
        entries_.pop_back();
      }
      entries_.emplace_front(key, std::move(value));
      by_key_[key] = entries_.begin();
    }

   private:
    std::list<std::pair<Key, Value>> entries_;
    std::map<Key, typename std::list<std::pair<Key, Value>>::iterator> by_key_;
  };
  struct VerifiedChain {
    std::vector<Certificate> certificates;
    int64_t from_seconds;   // the answer is this one
    int64_t until_seconds;  // and here no more
  };

  std::mutex mutex_;
  Recent<std::pair<Reader, Digest32>, std::vector<Certificate>, kMaxTexts> texts_;
  Recent<Digest32, VerifiedChain, kMaxChains> chains_;
};

// `memory`, or without it (nullptr) crypto::VerifyChain itself.
absl::StatusOr<std::vector<Certificate>> VerifyChain(CertificateMemory* memory,
                                                     const Certificate& leaf,
                                                     const std::vector<Certificate>& intermediates,
                                                     const std::vector<Certificate>& roots,
                                                     absl::Time at, bool partial_chain = false);

}  // namespace pavise::crypto

#endif  // PAVISE_CRYPTO_CERTIFICATE_MEMORY_H_
