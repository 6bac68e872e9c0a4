#ifndef PAVISE_EVIDENCE_APPRAISE_IMA_IMA_REPLAY_H_
#define PAVISE_EVIDENCE_APPRAISE_IMA_IMA_REPLAY_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/ima/ima_log.h"
#include "pavise/evidence/appraise/tpm/pcr.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// The PCR that IMA extends (CONFIG_IMA_MEASURE_PCR_IDX).
inline constexpr uint32_t kImaRegister = 10;

// What Linux extends into a bank that is not SHA-1.
enum class ImaBankRule {
  kOwnHash,     // the bank's own hash of the template data (Linux 5.8 on)
  kPaddedSha1,  // the SHA-1 template hash, padded with zeros: no stronger than SHA-1
};
std::string_view ImaBankRuleName(ImaBankRule rule);

// PCR 10 after the first `entries()` entries of a log. A value: copy it to keep a point of the log,
// from which the log can be continued.
class ImaReplay {
 public:
  // Of no entries.
  ImaReplay() = default;

  // Extends by entries that follow those before, until PCR 10 in each bank that is quoted has the
  // quoted value; the result is how many were taken. The log goes on past the quote where that is
  // less than all. Each entry's template hash is recomputed from its data.
  // kEvidenceMissing: no PCR 10 of `bank` is quoted, or it is zero (nothing was measured);
  // kMeasurementMismatch: no prefix leads to the quoted values, an entry's template hash is not
  // that of its data, or two quoted banks stop at different entries; kUnsupported: an entry of
  // another PCR. The replay is to be thrown away then.
  absl::StatusOr<size_t> Continue(std::span<const ImaEntry> entries, PcrBank bank,
                                  const PcrValues& quoted, std::string_view item);

  uint64_t entries() const { return entries_; }
  // Which the replay found; nullopt while only SHA-1 was quoted.
  std::optional<ImaBankRule> rule() const { return rule_; }

 private:
  // Digests at hand for one call.
  class Hasher;
  absl::StatusOr<size_t> ContinueUnder(ImaBankRule rule, std::span<const ImaEntry> entries,
                                       PcrBank bank, const PcrValues& quoted, Hasher& hasher,
                                       std::string_view item);
  absl::Status Extend(const ImaEntry& entry, ImaBankRule rule, Hasher& hasher,
                      std::string_view item);

  uint64_t entries_ = 0;
  std::optional<ImaBankRule> rule_;
  std::vector<std::pair<PcrBank, Bytes>> values_;  // of PCR 10
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_IMA_IMA_REPLAY_H_
