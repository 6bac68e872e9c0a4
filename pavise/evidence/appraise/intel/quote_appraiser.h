#ifndef PAVISE_EVIDENCE_APPRAISE_INTEL_QUOTE_APPRAISER_H_
#define PAVISE_EVIDENCE_APPRAISE_INTEL_QUOTE_APPRAISER_H_

#include <array>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/crypto/certificate_memory.h"
#include "pavise/evidence/appraise/accepted_values.h"
#include "pavise/evidence/appraise/check_list.h"
#include "pavise/evidence/appraise/intel/collateral.h"
#include "pavise/evidence/appraise/intel/pck_certificate.h"
#include "pavise/evidence/appraise/intel/quote.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// Lower-case hex SHA-256 of the DER of "Intel SGX Root CA" (serial 22650cd6...26ac), which is
// served at
// https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.cer
// and stands at the end of the PCK chain of every quote.
inline constexpr std::string_view kIntelRootFingerprint =
    "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3";

// What is asked of a trust domain. DEBUG and the rest of the TUD byte are refused whatever stands
// here.
struct TdExpectations {
  // Bits of TDATTRIBUTES. Without SEPT_VE_DISABLE the host can inject #VE exceptions into a guest
  // that accesses pages which are not there; what MIGRATABLE protects rests on another domain.
  uint64_t attributes_required = TdReportBody::kSeptVeDisable;
  uint64_t attributes_forbidden = TdReportBody::kMigratable;
  AcceptedValues xfam;   // 8 bytes, little-endian
  AcceptedValues mr_td;  // 48 bytes each
  AcceptedValues mr_config_id;
  AcceptedValues mr_owner;
  AcceptedValues mr_owner_config;
  std::array<AcceptedValues, 4> rtmr;
  AcceptedValues mr_seam;
};

// What is asked of an enclave. DEBUG is refused whatever stands here.
struct SgxExpectations {
  uint64_t flags_required = SgxReportBody::kInit | SgxReportBody::kMode64Bit;
  // Enclaves with the provisioning or launch key are the platform's own.
  uint64_t flags_forbidden = SgxReportBody::kProvisionKey | SgxReportBody::kLaunchKey;
  AcceptedValues mr_enclave;  // 32 bytes
  // MRSIGNER says who may have built the enclave, not which: with product and version together.
  AcceptedValues mr_signer;  // 32 bytes
  AcceptedValues config_id;  // 64 bytes
  std::optional<uint16_t> isv_product_id;
  uint16_t min_isv_svn = 0;
};

struct IntelExpectations {
  Bytes report_data;  // 64 bytes: the challenge
  // Of platform, quoting enclave and TDX module. Intel's other statuses say what is known to be
  // wrong with a platform; whoever accepts one reads its advisories first.
  std::set<IntelTcbStatus> accepted_statuses = {IntelTcbStatus::kUpToDate};
  // Of TCB info and QE identity: refuses collateral that is within its dates, and yet older than
  // what the relying party knows of.
  uint32_t min_tcb_evaluation_data_number = 0;
  bool accept_sgx = true;
  bool accept_tdx = true;
  TdExpectations td;
  SgxExpectations sgx;
};

struct IntelQuoteClaims {
  IntelQuote quote;
  PckPlatform platform;
  IntelTcbVerdict platform_tcb;
  IntelTcbVerdict quoting_enclave_tcb;
  std::optional<IntelTcbVerdict> tdx_module_tcb;  // of TDX modules after 1.0
  uint32_t tcb_evaluation_data_number = 0;        // the lower one of TCB info's and QE identity's
  absl::Time collateral_expires;                  // the earliest nextUpdate of the two
};

class IntelQuoteAppraiser;
using VerifiedIntelQuote = Verified<IntelQuoteClaims, IntelQuoteAppraiser>;

// Appraises SGX and TDX quotes (Intel SGX ECDSA quote library API and TDX DCAP quoting library API,
// "Quote verification"; Intel PCS API v4, the algorithms under "Get TCB Info" and "Get Quoting
// Enclave Identity"). A pure function of its arguments; thread-safe.
class IntelQuoteAppraiser {
 public:
  // Every check is recorded in `checks`; one that fails does not end the appraisal, unless the
  // quote cannot be read. `at`: what certificates, lists and collateral are held against. Refusals:
  // as ParseIntelQuote and the parsers of collateral; kEvidenceMissing (collateral that is not
  // there), kCertificateInvalid (chain, pin, purpose, collateral or list outside its dates),
  // kRevoked, kSignatureInvalid, kBindingMismatch (attestation key of another QE, collateral of
  // another platform or TEE), kMeasurementMismatch, kMeasurementUnknown, kPlatformInsecure (debug,
  // attributes), kPlatformOutOfDate (a status that is not accepted, no matching level, evaluation
  // data number), kNonceMismatch. `root_fingerprint` is another one than Intel's in tests only.
  // `memory`: may be nullptr; changes what an appraisal costs, and no verdict.
  static absl::StatusOr<VerifiedIntelQuote> Appraise(
      ByteSpan quote, const IntelCollateral& collateral, const IntelExpectations& expectations,
      absl::Time at, CheckList& checks, std::string_view root_fingerprint = kIntelRootFingerprint,
      crypto::CertificateMemory* memory = nullptr);
};

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_INTEL_QUOTE_APPRAISER_H_
