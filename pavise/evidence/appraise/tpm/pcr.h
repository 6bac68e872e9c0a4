#ifndef PAVISE_EVIDENCE_APPRAISE_TPM_PCR_H_
#define PAVISE_EVIDENCE_APPRAISE_TPM_PCR_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/crypto/digest.h"

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pavise::evidence {

// A bank of platform configuration registers: every PCR once for each digest algorithm that the TPM
// has enabled. The values are in the order of TPM_ALG_ID.
enum class PcrBank { kSha1, kSha256, kSha384, kSha512 };

// PCRs of a PC Client TPM (PC Client Platform TPM Profile 1.06, 4.6).
inline constexpr uint32_t kPcrCount = 24;

// "sha1", "sha256", "sha384", "sha512".
std::string_view PcrBankName(PcrBank bank);
crypto::DigestAlgorithm PcrBankDigest(PcrBank bank);
size_t PcrSizeBytes(PcrBank bank);
// TPM_ALG_ID (TPM 2.0 Library Part 2, 6.3); nullopt for algorithms that are none of the four.
std::optional<PcrBank> PcrBankOfAlgorithm(uint16_t tpm_algorithm);
uint16_t AlgorithmOfPcrBank(PcrBank bank);
// "PCR 10 (sha256)", as findings name it.
std::string PcrName(PcrBank bank, uint32_t index);

// What a PCR holds after TPM2_Startup(CLEAR): zeros; 0xff in 17 to 22, which only a dynamic root of
// trust resets to zero (PC Client Platform TPM Profile 1.06, 4.6.3).
Bytes InitialPcrValue(PcrBank bank, uint32_t index);

// Bank -> index -> digest, ordered.
using PcrBanks = std::map<PcrBank, std::map<uint32_t, Bytes>>;
// Bank -> indices: which PCRs are asked for.
using PcrIndices = std::map<PcrBank, std::set<uint32_t>>;

// Values of PCRs, in any banks: those that a machine reported, or those that a log replays to. A
// value type. Indices are below kPcrCount and digests as long as their bank's; other arguments are
// refused (kMalformed).
class PcrValues {
 public:
  // nullptr: there is none.
  const Bytes* Get(PcrBank bank, uint32_t index) const;
  absl::Status Set(PcrBank bank, uint32_t index, ByteSpan digest);
  // new = H(old || digest) (TPM 2.0 Library Part 1, 17.1); a PCR without a value starts at
  // InitialPcrValue.
  absl::Status Extend(PcrBank bank, uint32_t index, ByteSpan digest);

  const PcrBanks& banks() const { return banks_; }
  bool empty() const { return banks_.empty(); }

  friend bool operator==(const PcrValues&, const PcrValues&) = default;

 private:
  PcrBanks banks_;
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_TPM_PCR_H_
