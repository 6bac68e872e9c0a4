#ifndef PAVISE_EVIDENCE_APPRAISE_INTEL_PCK_CERTIFICATE_H_
#define PAVISE_EVIDENCE_APPRAISE_INTEL_PCK_CERTIFICATE_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "pavise/crypto/x509.h"

#include "absl/status/statusor.h"

namespace pavise::evidence {

// What Intel says of a platform in its provisioning certification key's certificate, extension
// 1.2.840.113741.1.13.1 (Intel SGX PCK certificate and CRL profile specification, rev. 1.5, 1.3.5).
struct PckPlatform {
  std::array<uint8_t, 16> ppid{};
  std::array<uint8_t, 16> tcb_component_svns{};
  uint16_t pce_svn = 0;
  std::array<uint8_t, 16> cpu_svn{};
  std::array<uint8_t, 2> pce_id{};
  std::array<uint8_t, 6> fmspc{};
  // Of multi-package platforms (certificates of the Platform CA).
  std::optional<std::array<uint8_t, 16>> platform_instance_id;
};

// kCertificateInvalid: no such extension; kMalformed: its form, a field that is missing or stands
// twice. Fields that the list above lacks (SGX type, configuration) are passed over.
absl::StatusOr<PckPlatform> ReadPckPlatform(const crypto::Certificate& certificate,
                                            std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_INTEL_PCK_CERTIFICATE_H_
