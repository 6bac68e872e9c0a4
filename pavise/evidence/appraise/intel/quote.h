#ifndef PAVISE_EVIDENCE_APPRAISE_INTEL_QUOTE_H_
#define PAVISE_EVIDENCE_APPRAISE_INTEL_QUOTE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/crypto/x509.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// REPORTBODY of an SGX enclave, 384 bytes (Intel SDM volume 3D, 38.15, REPORT; ECDSA quote library
// API, A.4, "Enclave Report Body").
struct SgxReportBody {
  static constexpr uint64_t kInit = 1u << 0;
  static constexpr uint64_t kDebug = 1u << 1;
  static constexpr uint64_t kMode64Bit = 1u << 2;
  static constexpr uint64_t kProvisionKey = 1u << 4;
  static constexpr uint64_t kLaunchKey = 1u << 5;

  std::array<uint8_t, 16> cpu_svn{};
  uint32_t misc_select = 0;
  std::array<uint8_t, 16> isv_extended_product_id{};
  std::array<uint8_t, 16> attributes{};  // flags, then XFRM, 8 bytes each
  std::array<uint8_t, 32> mr_enclave{};
  std::array<uint8_t, 32> mr_signer{};
  std::array<uint8_t, 64> config_id{};
  uint16_t isv_product_id = 0;
  uint16_t isv_svn = 0;
  uint16_t config_svn = 0;
  std::array<uint8_t, 16> isv_family_id{};
  std::array<uint8_t, 64> report_data{};

  uint64_t flags() const { return LoadLittleEndian64(attributes, 0); }
};

// TDREPORT's body as a quote carries it: 584 bytes, or 648 for TDX 1.5 (TDX DCAP quoting library
// API, rev. 0.9, A.3.2 and A.3.3).
struct TdReportBody {
  // TDATTRIBUTES (TDX module ABI, "ATTRIBUTES"). The lowest byte, TUD, must be zero of a domain
  // that keeps secrets; bit 0 of it is DEBUG.
  static constexpr uint64_t kUnderDebug = 0xff;
  static constexpr uint64_t kSeptVeDisable = 1u << 28;
  static constexpr uint64_t kMigratable = 1u << 29;

  std::array<uint8_t, 16> tee_tcb_svn{};
  std::array<uint8_t, 48> mr_seam{};
  std::array<uint8_t, 48> mr_signer_seam{};
  std::array<uint8_t, 8> seam_attributes{};
  uint64_t td_attributes = 0;
  uint64_t xfam = 0;
  std::array<uint8_t, 48> mr_td{};
  std::array<uint8_t, 48> mr_config_id{};
  std::array<uint8_t, 48> mr_owner{};
  std::array<uint8_t, 48> mr_owner_config{};
  std::array<std::array<uint8_t, 48>, 4> rtmr{};
  std::array<uint8_t, 64> report_data{};
  // TDX 1.5 only.
  std::optional<std::array<uint8_t, 16>> tee_tcb_svn_2;
  std::optional<std::array<uint8_t, 48>> mr_service_td;
};

// A quote of Intel's quoting enclave: version 3 (SGX: SGX ECDSA quote library API, appendix A), 4
// (SGX and TDX 1.0) and 5 (with a body descriptor; TDX 1.5). Integers are little-endian, keys and
// signatures big-endian.
struct IntelQuote {
  uint16_t version = 0;
  std::array<uint8_t, 20> user_data{};
  std::variant<SgxReportBody, TdReportBody> body;

  Bytes signed_bytes;                         // header and body, as signed
  std::array<uint8_t, 64> signature{};        // r || s
  std::array<uint8_t, 64> attestation_key{};  // x || y on P-256
  SgxReportBody quoting_enclave;
  Bytes quoting_enclave_report;                         // its 384 bytes, as signed
  std::array<uint8_t, 64> quoting_enclave_signature{};  // by the PCK
  Bytes authentication_data;
  std::vector<crypto::Certificate> certificates;  // PCK, its CA, the root; as they came

  bool is_tdx() const { return std::holds_alternative<TdReportBody>(body); }
};

// Form only. Zero bytes after the quote are padding of the buffer that it came in; anything else
// there is refused. kMalformed; kLimitExceeded: over 64 KiB, over 16 KiB of certificates or more
// than 8 of them; kUnsupported: a version, key type, TEE, body or vendor of the quoting enclave
// that is not listed above, certification data other than a PCK chain in PEM form (type 5, in
// version 4 and later inside type 6).
absl::StatusOr<IntelQuote> ParseIntelQuote(ByteSpan bytes, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_INTEL_QUOTE_H_
