#ifndef PAVISE_EVIDENCE_APPRAISE_NVIDIA_DEVICE_CERTIFICATE_H_
#define PAVISE_EVIDENCE_APPRAISE_NVIDIA_DEVICE_CERTIFICATE_H_

#include <optional>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/crypto/x509.h"

#include "absl/status/statusor.h"

// What the attestation certificate of an NVIDIA GPU says in extensions. Pure functions; nothing
// here is verified.
namespace pavise::evidence {

// The device that a certificate names: "GH100", "48B02D7A7CD27FC3".
struct GpuIdentity {
  std::string product;
  std::string serial;
};

// From the subject alternative name of type id-DMTF-device-info (1.3.6.1.4.1.412.274.1, DSP0274
// 1.1.1, section 10.6.1.2): "NVIDIA:product:serial". kEvidenceMissing: no such name; kMalformed:
// not DER, not three parts, another manufacturer, or not letters and digits.
absl::StatusOr<GpuIdentity> GpuIdentityOf(const crypto::Certificate& certificate);

// The digest (SHA-384) of the GPU's firmware that the certificate was issued for. TCG's "DICE
// Attestation Architecture" 1.1: Hopper carries a CompositeDeviceID under 2.23.133.5.4.1 (version,
// key, FWID), Blackwell a DiceTcbInfo under 2.23.133.5.4.1.1, of whose list of FWIDs the first is
// meant. nullopt: neither extension. kMalformed: both, not DER, no FWID, not SHA-384.
absl::StatusOr<std::optional<Bytes>> FirmwareIdOf(const crypto::Certificate& certificate);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_NVIDIA_DEVICE_CERTIFICATE_H_
