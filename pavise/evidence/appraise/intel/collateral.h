#ifndef PAVISE_EVIDENCE_APPRAISE_INTEL_COLLATERAL_H_
#define PAVISE_EVIDENCE_APPRAISE_INTEL_COLLATERAL_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace pavise::evidence {

// Intel's endorsements of a platform, as its provisioning certification service (PCS) serves them.
// Bytes as they came, nothing checked; empty: not there.
struct IntelCollateral {
  Bytes tcb_info;                  // JSON: /sgx or /tdx/certification/v4/tcb?fmspc=...
  Bytes tcb_info_issuer_chain;     // PEM: TCB signing certificate first, then the root
  Bytes qe_identity;               // JSON: /sgx or /tdx/certification/v4/qe/identity
  Bytes qe_identity_issuer_chain;  // PEM; empty: the same as tcb_info_issuer_chain
  Bytes root_crl;                  // DER or PEM, of the root CA
  Bytes pck_crl;                   // DER or PEM, of the PCK Platform or Processor CA
};

// Intel's verdict on a TCB level.
enum class IntelTcbStatus {
  kUpToDate,
  kSwHardeningNeeded,
  kConfigurationNeeded,
  kConfigurationAndSwHardeningNeeded,
  kOutOfDate,
  kOutOfDateConfigurationNeeded,
  kRevoked,
};
// Intel's spelling: "UpToDate", "SWHardeningNeeded", ...
std::string_view IntelTcbStatusName(IntelTcbStatus status);

// A level's status, and what Intel says to it.
struct IntelTcbVerdict {
  IntelTcbStatus status = IntelTcbStatus::kRevoked;
  absl::Time date;
  std::vector<std::string> advisory_ids;
};

// A document "{"<member>": {...}, "signature": "<128 hex digits>"}" taken apart, its inside not
// looked at: `body` is the exact text of the member's value, which is what Intel signed.
struct SignedCollateral {
  Bytes body;
  std::array<uint8_t, 64> signature{};  // r || s, P-256, SHA-256
};
// kMalformed: other members, not strict JSON, a signature that is none. kLimitExceeded: over 1 MiB.
absl::StatusOr<SignedCollateral> SplitSignedCollateral(ByteSpan document, std::string_view member,
                                                       std::string_view item);

// Common to TCB info and identities.
struct CollateralHeader {
  std::string id;  // "SGX", "TDX", "QE", "TD_QE"; "" in TCB info of version 2, which is SGX's
  uint32_t version = 0;
  absl::Time issue_date;
  absl::Time next_update;
  uint32_t tcb_evaluation_data_number = 0;
};

struct IsvSvnLevel {
  uint32_t isv_svn = 0;
  IntelTcbVerdict verdict;
};

// The TDX module that a platform may run: of version 1.0 (`id` empty), or of a later one.
struct TdxModuleIdentity {
  std::string id;  // "TDX_01", "TDX_03"
  std::array<uint8_t, 48> mr_signer{};
  std::array<uint8_t, 8> attributes{};
  std::array<uint8_t, 8> attributes_mask{};
  std::vector<IsvSvnLevel> levels;  // in the document's order: newest first
};

struct IntelTcbLevel {
  std::array<uint8_t, 16> sgx_components{};
  uint16_t pce_svn = 0;
  std::array<uint8_t, 16> tdx_components{};  // zero in SGX's TCB info
  IntelTcbVerdict verdict;
};

// TCB info of version 2 (SGX) or 3 (Intel PCS API v3 and v4, "Get TCB Info").
struct IntelTcbInfo {
  CollateralHeader header;
  std::array<uint8_t, 6> fmspc{};
  std::array<uint8_t, 2> pce_id{};
  std::optional<TdxModuleIdentity> tdx_module;
  std::vector<TdxModuleIdentity> tdx_module_identities;
  std::vector<IntelTcbLevel> levels;  // in the document's order: newest first

  bool is_tdx() const { return header.id == "TDX"; }
};
// Of the signed body. kMalformed, kLimitExceeded (more than 256 levels or 64 modules), kUnsupported
// (another version, TCB type or status). Members that are not listed here are passed over: Intel
// signed them, and the version says what they may not change.
absl::StatusOr<IntelTcbInfo> ParseIntelTcbInfo(ByteSpan body, std::string_view item);

// The identity of a quoting enclave (Intel PCS API v4, "Get Quoting Enclave Identity"), version 2.
struct IntelEnclaveIdentity {
  CollateralHeader header;
  uint32_t misc_select = 0;
  uint32_t misc_select_mask = 0;
  std::array<uint8_t, 16> attributes{};
  std::array<uint8_t, 16> attributes_mask{};
  std::array<uint8_t, 32> mr_signer{};
  uint16_t isv_product_id = 0;
  std::vector<IsvSvnLevel> levels;  // in the document's order: newest first
};
// As ParseIntelTcbInfo.
absl::StatusOr<IntelEnclaveIdentity> ParseIntelEnclaveIdentity(ByteSpan body,
                                                               std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_INTEL_COLLATERAL_H_
