#ifndef PAVISE_EVIDENCE_APPRAISE_IMA_IMA_PREFIXES_H_
#define PAVISE_EVIDENCE_APPRAISE_IMA_IMA_PREFIXES_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/evidence/appraise/ima/ima_appraiser.h"

namespace pavise::evidence {

// The beginning of a machine's IMA log that one policy accepted, by the SHA-256 of its bytes.
struct ImaPrefix {
  uint64_t size_bytes = 0;
  Digest32 digest{};
  Bytes
      begin;  // its first bytes: after a reboot these are others, and no digest is needed to see it
  ImaState state;  // after it
};

// What whoever appraises many machines by one policy keeps of their logs, so that a machine that
// comes again costs a SHA-256 of what is known, and the appraisal of what was added.
//
// Nothing is accepted on the strength of it that a whole appraisal would refuse: the bytes are the
// same, so that ImaState is what appraising them again gives, and all that the quote says (PCR 10
// after the last entry that it covers, boot_aggregate from PCR 0 to 9) is held against this quote.
// What does not fit is no finding either: the caller appraises the whole log then. Kept after
// accepted appraisals only, one a machine, so that no machine displaces another's. Thread-safe.
class ImaPrefixes {
 public:
  // Of more machines than that, one is forgotten for each new one.
  static constexpr size_t kMaxMachines = 1024;
  static constexpr size_t kBeginBytes = 1024;

  // `machine`: the name of its attestation key. nullopt: `log` does not begin with what is kept.
  std::optional<ImaPrefix> Find(const std::string& machine, ByteSpan log) const;
  // `log`: all of what `state` stands for.
  void Keep(const std::string& machine, ByteSpan log, ImaState state);

 private:
  mutable std::mutex mutex_;
  std::map<std::string, ImaPrefix> kept_;
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_IMA_IMA_PREFIXES_H_
