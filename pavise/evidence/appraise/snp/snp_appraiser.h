#ifndef PAVISE_EVIDENCE_APPRAISE_SNP_SNP_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_SNP_SNP_APPRAISER_H_

#include <map>
#include <string>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/certificate_memory.h"
#include "pavise/crypto/x509.h"
#include "pavise/evidence/appraise/accepted_values.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/snp/report.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// An AMD root key (ARK) certificate that is trusted for a product, by the lower-case hex SHA-256 of
// its DER.
struct SnpRoot {
  SnpProduct product;
  std::string fingerprint;
};
// The self-signed certificates ARK-Milan, ARK-Genoa and ARK-Turin that AMD's key distribution
// service serves (https://kdsintf.amd.com/vcek/v1/{product}/cert_chain, second certificate). VCEK
// and VLEK chains end at the same ones.
const std::vector<SnpRoot>& PinnedSnpRoots();

// What comes with a report, from the host or from a folder of the user's: nothing of it is trusted.
struct SnpEndorsements {
  crypto::Certificate signing_certificate;       // VCEK or VLEK
  std::vector<crypto::Certificate> authorities;  // ASK (or ASVK) and ARK, in any order
  // AMD's revocation lists, which the ARK signs and which speak of ASK and ASVK. Empty: not looked
  // at, and the report says so. Given: one must cover the ASK.
  std::vector<crypto::RevocationList> revocation_lists;
};

// What the relying party asks of a guest. The defaults ask for all that needs no knowledge of the
// guest; a debug-enabled guest is refused whatever stands here.
struct SnpExpectations {
  Bytes report_data;  // 64 bytes: the challenge
  // Accepted products with the floor of each under the reported, committed, current and launch TCB.
  // A product that is not listed is refused.
  std::map<SnpProduct, SnpTcb> tcb_floors = {
      {SnpProduct::kMilan, {}}, {SnpProduct::kGenoa, {}}, {SnpProduct::kTurin, {}}};
  uint32_t max_vmpl = 0;
  uint32_t min_guest_svn = 0;
  // Of the firmware interface that the guest's policy asks for, and of the firmware committed.
  uint8_t min_abi_major = 0;
  uint8_t min_abi_minor = 0;
  bool allow_smt = true;  // most hosts run with it; sibling threads share caches
  bool allow_migration_agent = false;
  bool require_single_socket = false;
  bool require_ciphertext_hiding = false;
  AcceptedValues measurement;        // 48 bytes
  AcceptedValues host_data;          // 32 bytes
  AcceptedValues id_key_digest;      // 48 bytes
  AcceptedValues author_key_digest;  // 48 bytes
  AcceptedValues family_id;          // 16 bytes
  AcceptedValues image_id;           // 16 bytes
  AcceptedValues chip_id;            // 64 bytes
};

struct SnpClaims {
  SnpReport report;
  SnpProduct product = SnpProduct::kMilan;
  SnpTcb reported_tcb;
  SnpTcb committed_tcb;
  SnpTcb current_tcb;
  SnpTcb launch_tcb;
  std::string provider_id;  // of a VLEK: the cloud provider it was made for (CSP_ID)
  bool revocation_checked = false;
};

class SnpAppraiser;
using VerifiedSnpReport = Verified<SnpClaims, SnpAppraiser>;

// Appraises AMD SEV-SNP evidence (AMD 56860, firmware ABI rev. 1.58, chapter "Attestation"; AMD
// 57230, VCEK certificate and KDS interface specification rev. 1.00, 3.1: the extensions of VCEK
// and VLEK). A pure function of its arguments; thread-safe.
class SnpAppraiser {
 public:
  // Every check is recorded in `checks`; one that fails does not end the appraisal, unless the
  // report cannot be read. `at`: what validity periods are held against. Refusals: as
  // ParseSnpReport; kCertificateInvalid (chain, pin, a certificate for something else), kRevoked,
  // kEvidenceMissing (no list for the ASK where lists are given), kSignatureInvalid,
  // kBindingMismatch (a VCEK of another chip, TCB, product or key kind), kPlatformInsecure (debug,
  // VMPL, SMT, migration), kPlatformOutOfDate (TCB, guest SVN, ABI), kNonceMismatch,
  // kMeasurementMismatch, kMeasurementUnknown. `roots` is another list than the pinned one in tests
  // only. `memory`: may be nullptr; changes what an appraisal costs, and no verdict.
  static absl::StatusOr<VerifiedSnpReport> Appraise(
      ByteSpan report, const SnpEndorsements& endorsements, const SnpExpectations& expectations,
      absl::Time at, CheckList& checks, const std::vector<SnpRoot>& roots = PinnedSnpRoots(),
      crypto::CertificateMemory* memory = nullptr);
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_SNP_SNP_APPRAISER_H_
