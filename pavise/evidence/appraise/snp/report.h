#ifndef PAVISE_EVIDENCE_APPRAISE_SNP_REPORT_H_
#define PAVISE_EVIDENCE_APPRAISE_SNP_REPORT_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// The CPU families whose keys AMD certifies under a root each. Genoa stands for Bergamo and Siena
// too, which share its root.
enum class SnpProduct { kMilan, kGenoa, kTurin };
// "Milan", "Genoa", "Turin".
std::string_view SnpProductName(SnpProduct product);

// Security versions of the firmware's parts. `fmc` exists on Turin only and is 0 elsewhere.
struct SnpTcb {
  uint8_t fmc = 0;
  uint8_t boot_loader = 0;
  uint8_t tee = 0;
  uint8_t snp = 0;
  uint8_t microcode = 0;

  friend bool operator==(const SnpTcb&, const SnpTcb&) = default;
  // True where no part is below that of `floor`.
  bool IsAtLeast(const SnpTcb& floor) const;
};
// "boot loader 2, TEE 0, SNP 5, microcode 68", with "FMC 1, " before it on Turin.
std::string ShowTcb(SnpProduct product, const SnpTcb& tcb);

// What the guest's owner allowed (ABI table 10, POLICY).
struct SnpPolicy {
  uint8_t abi_minor = 0;
  uint8_t abi_major = 0;
  bool smt_allowed = false;
  bool migration_agent_allowed = false;
  bool debug_allowed = false;
  bool single_socket_required = false;
  bool cxl_allowed = false;
  bool aes_256_xts_required = false;
  bool rapl_disabled = false;
  bool ciphertext_hiding_required = false;
  bool page_swap_disabled = false;
};

struct SnpFirmwareVersion {
  uint8_t build = 0;
  uint8_t minor = 0;
  uint8_t major = 0;
};

// An ATTESTATION_REPORT structure (AMD 56860, SEV Secure Nested Paging Firmware ABI, rev. 1.58,
// table 23). Integers are little-endian in the file; TCB_VERSION values stay as they came, since
// their layout depends on the product (DecodeTcb).
struct SnpReport {
  enum class SigningKey { kVcek, kVlek };

  uint32_t version = 0;  // 2 to 5
  uint32_t guest_svn = 0;
  SnpPolicy policy;
  std::array<uint8_t, 16> family_id{};
  std::array<uint8_t, 16> image_id{};
  uint32_t vmpl = 0;
  uint64_t current_tcb = 0;
  uint64_t platform_info = 0;
  bool author_key_enabled = false;
  SigningKey signing_key = SigningKey::kVcek;
  std::array<uint8_t, 64> report_data{};
  std::array<uint8_t, 48> measurement{};
  std::array<uint8_t, 32> host_data{};
  std::array<uint8_t, 48> id_key_digest{};
  std::array<uint8_t, 48> author_key_digest{};
  std::array<uint8_t, 32> report_id{};
  std::array<uint8_t, 32> report_id_migration_agent{};
  uint64_t reported_tcb = 0;
  std::optional<SnpProduct> product;  // of the CPUID fields; from version 3 on
  std::array<uint8_t, 64> chip_id{};
  uint64_t committed_tcb = 0;
  SnpFirmwareVersion current_firmware;
  SnpFirmwareVersion committed_firmware;
  uint64_t launch_tcb = 0;
  uint64_t launch_mitigations = 0;      // from version 5 on
  uint64_t current_mitigations = 0;     // from version 5 on
  std::array<uint8_t, 96> signature{};  // r || s, big-endian

  bool smt_enabled() const { return (platform_info & 1) != 0; }
};

inline constexpr size_t kSnpReportBytes = 1184;
// The signature is over the bytes before it.
inline constexpr size_t kSnpSignedBytes = 0x2a0;

// Form only. kMalformed: another length than 1,184 bytes, reserved bits or bytes set, a signature
// that does not fit P-384. kUnsupported: a version, signature algorithm, signing key, policy bit or
// CPU that this version does not know; the report of a chip whose key is masked (it is unsigned).
absl::StatusOr<SnpReport> ParseSnpReport(ByteSpan bytes, std::string_view item);

// ABI table 3 (TCB_VERSION), which differs on Turin. Reserved bytes are passed over: they are held
// against nothing.
SnpTcb DecodeTcb(SnpProduct product, uint64_t tcb_version);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_SNP_REPORT_H_
