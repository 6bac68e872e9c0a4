#ifndef PAVISE_EVIDENCE_APPRAISE_NVIDIA_SPDM_REPORT_H_
#define PAVISE_EVIDENCE_APPRAISE_NVIDIA_SPDM_REPORT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/base/bytes.h"

#include "absl/status/statusor.h"

// The attestation report of an NVIDIA GPU (Hopper and Blackwell): the GET_MEASUREMENTS request that
// the driver sent on the caller's behalf (37 bytes), followed by the GPU's MEASUREMENTS response.
// Both are messages of SPDM 1.1 (DMTF DSP0274 1.1.1, section 10.11, tables 35 to 38); integers are
// little-endian. What stands in the opaque data is NVIDIA's own. Values, immutable once parsed;
// nothing here is verified.
namespace pavise::evidence {

// Field IDs of the opaque data, as NVIDIA's verifier names them (OPAQUE_FIELD_ID_...).
enum class GpuField : uint16_t {
  kDriverVersion = 3,
  kGpuInfo = 4,
  kVbiosVersion = 6,
  kNvdec0Status = 11,
  kMeasurementCounts = 12,
  kBoardId = 14,
  kChipSku = 15,
  kChipSkuModifier = 16,
  kProject = 17,
  kProjectSku = 18,
  kProjectSkuModifier = 19,
  kFirmwareId = 20,
  kProtectedPcieStatus = 21,
  kOpaqueDataVersion = 34,
};

// The opaque data: fields of a 2-byte ID, a 2-byte length and that many bytes.
class GpuOpaqueData {
 public:
  // kMalformed: a field that does not fit, an ID that stands twice, bytes left over. IDs that are
  // not named above are kept: they are signed, and nothing is read from them. kUnsupported: a
  // version of the opaque data above 1.
  static absl::StatusOr<GpuOpaqueData> Parse(ByteSpan bytes, std::string_view item);

  const std::map<uint16_t, Bytes>& fields() const { return fields_; }
  // nullptr when absent.
  const Bytes* Find(GpuField field) const;
  // Text up to its padding of NUL bytes. kEvidenceMissing, kMalformed (not printable ASCII).
  absl::StatusOr<std::string> Text(GpuField field) const;
  // "96.00.5e.00.01": how RIM files spell the eight bytes. kEvidenceMissing, kMalformed.
  absl::StatusOr<std::string> VbiosVersion() const;
  // 0x55 (off) and 0xaa (on); nullopt when absent. kMalformed: another value.
  absl::StatusOr<std::optional<bool>> Switch(GpuField field) const;

 private:
  std::string item_;
  std::map<uint16_t, Bytes> fields_;
};

// One measurement block whose measurement follows DMTF's specification (table 38).
struct SpdmMeasurement {
  uint8_t value_type = 0;  // bit 7: raw bytes and no digest; bits 6 to 0: what was measured
  Bytes value;
};

struct SpdmReport {
  Digest32 request_nonce;  // the challenge
  uint8_t request_slot = 0;
  Digest32 response_nonce;  // the GPU's own
  // By index less one, which is how RIM files count. Blocks stand in the order of their indices.
  std::vector<SpdmMeasurement> measurements;
  Bytes opaque_bytes;
  GpuOpaqueData opaque;
  Bytes signed_bytes;  // request || response up to the signature
  Bytes signature;     // r || s of P-384, 96 bytes
};

// Reads a report. The request must ask for a signature over all measurements (Param1 0x01, Param2
// 0xff). The signature lies where the lengths say; one byte may follow it (captures from the driver
// carry one), and it means nothing. kMalformed: a field that does not fit, lengths that contradict
// each other, indices other than 1, 2, 3 ...; kUnsupported: another SPDM version, message or
// measurement specification; kLimitExceeded: over 64 KiB.
absl::StatusOr<SpdmReport> ParseSpdmReport(ByteSpan bytes, std::string_view item);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_NVIDIA_SPDM_REPORT_H_
