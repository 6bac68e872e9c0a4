#include "pavise/evidence/appraise/nvidia/spdm_report.h"

#include <algorithm>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise::evidence {
namespace {

constexpr size_t kMaxReportBytes = 64 << 10;
constexpr size_t kNonceBytes = 32;
constexpr size_t kSignatureBytes = 96;
constexpr uint8_t kSpdm11 = 0x11;
constexpr uint8_t kGetMeasurements = 0xe0;
constexpr uint8_t kMeasurements = 0x60;
constexpr uint8_t kSignatureRequested = 0x01;
constexpr uint8_t kAllMeasurements = 0xff;
constexpr uint8_t kDmtfSpecification = 0x01;
constexpr uint64_t kMaxOpaqueDataVersion = 1;
constexpr uint8_t kOff = 0x55;
constexpr uint8_t kOn = 0xaa;

Bytes Copy(ByteSpan bytes) { return Bytes(bytes.begin(), bytes.end()); }

absl::StatusOr<Digest32> TakeNonce(ByteReader& reader, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(kNonceBytes, field));
  Digest32 nonce;
  std::copy(bytes.begin(), bytes.end(), nonce.begin());
  return nonce;
}

// The four bytes that every SPDM message begins with: version, code, Param1, Param2.
absl::StatusOr<ByteSpan> TakeHeader(ByteReader& reader, std::string_view message, uint8_t code) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan header, reader.Take(4, message));
  if (header[0] != kSpdm11) {
    return Refuse(
        Reason::kUnsupported, reader.item(),
        StrCat("the ", message, " is of SPDM ", header[0] >> 4, ".", header[0] & 15, ", not 1.1"));
  }
  if (header[1] != code) {
    return Refuse(Reason::kUnsupported, reader.item(),
                  StrCat("message code ", absl::StrFormat("0x%02x", header[1]), " where a ",
                         message, " stands"));
  }
  return header;
}

absl::StatusOr<SpdmMeasurement> TakeBlock(ByteReader& record, size_t number) {
  PAVISE_ASSIGN_OR_RETURN(const uint8_t index, record.Uint8("block index"));
  if (index != number) {
    return record.Malformed(
        StrCat("measurement index ", int{index}, " where ", number, " follows"));
  }
  PAVISE_ASSIGN_OR_RETURN(const uint8_t specification, record.Uint8("measurement specification"));
  if (specification != kDmtfSpecification) {
    return Refuse(Reason::kUnsupported, record.item(),
                  StrCat("measurement ", number, " follows specification ", int{specification},
                         ", not DMTF's"));
  }
  PAVISE_ASSIGN_OR_RETURN(const uint16_t size_bytes, record.LittleEndian16("measurement size"));
  PAVISE_ASSIGN_OR_RETURN(ByteReader block, record.Sub(size_bytes, "measurement"));
  SpdmMeasurement measurement;
  PAVISE_ASSIGN_OR_RETURN(measurement.value_type, block.Uint8("value type"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t value_bytes, block.LittleEndian16("value size"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan value, block.Take(value_bytes, "measurement value"));
  PAVISE_RETURN_IF_ERROR(block.RequireEnd());
  measurement.value = Copy(value);
  return measurement;
}

}  // namespace

absl::StatusOr<GpuOpaqueData> GpuOpaqueData::Parse(ByteSpan bytes, std::string_view item) {
  GpuOpaqueData data;
  data.item_ = item;
  ByteReader reader(bytes, item);
  while (reader.left() > 0) {
    PAVISE_ASSIGN_OR_RETURN(const uint16_t id, reader.LittleEndian16("opaque field ID"));
    PAVISE_ASSIGN_OR_RETURN(const uint16_t size_bytes, reader.LittleEndian16("opaque field size"));
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan value, reader.Take(size_bytes, "opaque field"));
    if (!data.fields_.emplace(id, Copy(value)).second) {
      return reader.Malformed(StrCat("opaque field ", id, " stands twice"));
    }
  }
  if (const Bytes* version = data.Find(GpuField::kOpaqueDataVersion)) {
    uint64_t value = 0;
    for (size_t i = 0; i < version->size() && i < 8; ++i) value |= uint64_t{(*version)[i]} << 8 * i;
    if (version->size() > 8 || value > kMaxOpaqueDataVersion) {
      return Refuse(Reason::kUnsupported, item,
                    StrCat("opaque data of version ", ToHex(*version), ", newer than ",
                           kMaxOpaqueDataVersion),
                    "use a version of Pavise that knows it");
    }
  }
  return data;
}

const Bytes* GpuOpaqueData::Find(GpuField field) const {
  const auto it = fields_.find(static_cast<uint16_t>(field));
  return it == fields_.end() ? nullptr : &it->second;
}

absl::StatusOr<std::string> GpuOpaqueData::Text(GpuField field) const {
  const Bytes* value = Find(field);
  if (value == nullptr) {
    return Refuse(Reason::kEvidenceMissing, item_,
                  StrCat("the report has no opaque field ", static_cast<int>(field)));
  }
  const auto end = std::find(value->begin(), value->end(), uint8_t{0});
  const bool is_text =
      std::all_of(value->begin(), end, [](uint8_t c) { return c > 0x20 && c < 0x7f; }) &&
      std::all_of(end, value->end(), [](uint8_t c) { return c == 0; });
  if (!is_text) {
    return Refuse(Reason::kMalformed, item_,
                  StrCat("opaque field ", static_cast<int>(field), " is no text: ", ToHex(*value)));
  }
  return std::string(value->begin(), end);
}

absl::StatusOr<std::string> GpuOpaqueData::VbiosVersion() const {
  const Bytes* value = Find(GpuField::kVbiosVersion);
  if (value == nullptr) {
    return Refuse(Reason::kEvidenceMissing, item_, "the report names no VBIOS version");
  }
  if (value->size() != 8) {
    return Refuse(Reason::kMalformed, item_,
                  StrCat("a VBIOS version of ", value->size(), " bytes where 8 belong"));
  }
  const Bytes& bytes = *value;
  return absl::StrFormat("%02x.%02x.%02x.%02x.%02x", bytes[3], bytes[2], bytes[1], bytes[0],
                         bytes[4]);
}

absl::StatusOr<std::optional<bool>> GpuOpaqueData::Switch(GpuField field) const {
  const Bytes* value = Find(field);
  if (value == nullptr) return std::nullopt;
  if (value->size() != 1 || (value->front() != kOff && value->front() != kOn)) {
    return Refuse(Reason::kMalformed, item_,
                  StrCat("opaque field ", static_cast<int>(field), " is ", ToHex(*value),
                         ", neither 55 (off) nor aa (on)"));
  }
  return value->front() == kOn;
}

absl::StatusOr<SpdmReport> ParseSpdmReport(ByteSpan bytes, std::string_view item) {
  if (bytes.size() > kMaxReportBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("a report of ", HumanBytes(bytes.size()), ", the limit is ",
                         HumanBytes(kMaxReportBytes)));
  }
  SpdmReport report;
  ByteReader reader(bytes, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan request,
                          TakeHeader(reader, "GET_MEASUREMENTS request", kGetMeasurements));
  if (request[2] != kSignatureRequested || request[3] != kAllMeasurements) {
    return Refuse(Reason::kUnsupported, item,
                  "the request does not ask for a signature over all measurements",
                  "collect the report with NVIDIA's library");
  }
  PAVISE_ASSIGN_OR_RETURN(report.request_nonce, TakeNonce(reader, "request nonce"));
  PAVISE_ASSIGN_OR_RETURN(report.request_slot, reader.Uint8("slot"));

  PAVISE_ASSIGN_OR_RETURN(const ByteSpan response,
                          TakeHeader(reader, "MEASUREMENTS response", kMeasurements));
  if ((response[3] & 15) != (report.request_slot & 15)) {
    return reader.Malformed(StrCat("the response is signed with slot ", response[3] & 15, ", slot ",
                                   report.request_slot & 15, " was asked"));
  }
  PAVISE_ASSIGN_OR_RETURN(const uint8_t blocks, reader.Uint8("number of blocks"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t record_low, reader.LittleEndian16("record length"));
  PAVISE_ASSIGN_OR_RETURN(const uint8_t record_high, reader.Uint8("record length"));
  const uint32_t record_bytes = record_low | uint32_t{record_high} << 16;
  PAVISE_ASSIGN_OR_RETURN(ByteReader record, reader.Sub(record_bytes, "measurement record"));
  if (blocks == 0) return reader.Malformed("no measurements");
  for (size_t number = 1; number <= blocks; ++number) {
    PAVISE_ASSIGN_OR_RETURN(SpdmMeasurement measurement, TakeBlock(record, number));
    report.measurements.push_back(std::move(measurement));
  }
  PAVISE_RETURN_IF_ERROR(record.RequireEnd());
  PAVISE_ASSIGN_OR_RETURN(report.response_nonce, TakeNonce(reader, "response nonce"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t opaque_bytes, reader.LittleEndian16("opaque length"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan opaque, reader.Take(opaque_bytes, "opaque data"));
  report.opaque_bytes = Copy(opaque);
  PAVISE_ASSIGN_OR_RETURN(report.opaque, GpuOpaqueData::Parse(opaque, item));
  report.signed_bytes = Copy(bytes.first(reader.offset()));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan signature, reader.Take(kSignatureBytes, "signature"));
  report.signature = Copy(signature);
  if (reader.left() > 1) PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return report;
}

}  // namespace pavise::evidence
