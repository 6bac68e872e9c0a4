#ifndef PAVISE_EVIDENCE_APPRAISE_IMA_IMA_POLICY_H_
#define PAVISE_EVIDENCE_APPRAISE_IMA_IMA_POLICY_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/keys.h"
#include "pavise/evidence/appraise/ima/ima_log.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::evidence {

// A key that file signatures (security.ima) are made with.
struct ImaKey {
  crypto::PublicKey key;  // RSA or ECDSA
  // Its id in signatures, where that is not the usual one: the last four bytes of the SHA-1 of the
  // public key's bits, as evmctl computes it.
  std::optional<uint32_t> key_id;
};

// Before the names of measured buffers (kexec-cmdline, keyrings, dm_table_load), so that no buffer
// passes for a file.
inline constexpr std::string_view kBufferPrefix = "buffer:";

struct ImaRules {
  // Path (or kBufferPrefix and a buffer's name) to digests as ImaEntry::DigestText spells them.
  std::map<std::string, std::set<std::string>> files;
  // Patterns (GlobMatches) of paths whose content does not matter.
  std::vector<std::string> excludes;
  // Patterns of paths that may have violations. The path of a violation is not measured: with any
  // pattern here, whoever gives the log can call a violation of any file by such a path.
  std::vector<std::string> violations;
  std::vector<ImaKey> keys;
};

// What an entry may be. Immutable, thread-safe; copies are deep.
//
// A path that is listed is held to its digests, and to nothing else. Any other path is accepted
// with a signature of one of the keys (which signs the content and not the path), or where a
// pattern excludes it.
class ImaPolicy {
 public:
  enum class Verdict { kListed, kSigned, kExcluded, kViolationAllowed };
  struct Answer {
    Verdict verdict;
    size_t rule;  // which, for Unused
  };

  // kMalformed: an empty path or pattern, a digest that is not "algorithm:hex"; kKeyUnsupported.
  static absl::StatusOr<ImaPolicy> Create(const ImaRules& rules);

  // kMeasurementMismatch: a listed path with another digest, a violation that nothing allows;
  // kMeasurementUnknown: no rule covers the entry; kSignatureInvalid: a signature of a known key
  // that does not verify. `log` names the log.
  absl::StatusOr<Answer> Appraise(const ImaEntry& entry, std::string_view log) const;

  size_t rule_count() const { return names_.size(); }
  // "/bin/x sha256:...", "exclude /tmp/*", ...
  const std::string& RuleName(size_t rule) const { return names_[rule]; }
  // SHA-256 over the rules: two policies with the same rules are the same policy.
  const Digest32& fingerprint() const { return fingerprint_; }

 private:
  struct Listed {
    std::string prefix;  // "sha256:", "verity:sha256:"
    Bytes digest;
    size_t rule;
  };
  struct Pattern {
    std::string text;
    size_t rule;
  };
  struct Key {
    ImaKey key;
    uint32_t id;
    size_t rule;
  };
  struct TextHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  ImaPolicy() = default;
  absl::StatusOr<Answer> AppraiseSignature(const ImaEntry& entry, const std::string& item) const;

  std::unordered_map<std::string, std::vector<Listed>, TextHash, std::equal_to<>> files_;
  std::vector<Pattern> excludes_;
  std::vector<Pattern> violations_;
  std::vector<Key> keys_;
  std::vector<std::string> names_;
  Digest32 fingerprint_{};
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_IMA_IMA_POLICY_H_
