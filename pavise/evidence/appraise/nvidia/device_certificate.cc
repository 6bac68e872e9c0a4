#include "pavise/evidence/appraise/nvidia/device_certificate.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

// Tags of X.690 that occur in the two extensions.
constexpr uint8_t kInteger = 0x02;
constexpr uint8_t kOctetString = 0x04;
constexpr uint8_t kObjectIdentifier = 0x06;
constexpr uint8_t kUtf8String = 0x0c;
constexpr uint8_t kSequence = 0x30;
constexpr uint8_t kContext0 = 0xa0;
constexpr uint8_t kFirmwareIds = 0xa6;  // DiceTcbInfo.fwids [6] IMPLICIT

constexpr uint8_t kDeviceInfo[] = {0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0x1c, 0x82, 0x12, 0x01};
constexpr uint8_t kSha384[] = {0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02};
constexpr size_t kSha384Bytes = 48;

struct Element {
  uint8_t tag;
  ByteReader content;
};

// One element in DER: a tag of one byte, a definite length in its shortest form.
absl::StatusOr<Element> TakeElement(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(const uint8_t tag, reader.Uint8("DER tag"));
  PAVISE_ASSIGN_OR_RETURN(const uint8_t first, reader.Uint8("DER length"));
  uint64_t size_bytes = first;
  if (first == 0x81) {
    PAVISE_ASSIGN_OR_RETURN(size_bytes, reader.Uint8("DER length"));
    if (size_bytes < 0x80) return reader.Malformed("a DER length in a longer form than needed");
  } else if (first == 0x82) {
    PAVISE_ASSIGN_OR_RETURN(size_bytes, reader.BigEndian16("DER length"));
    if (size_bytes < 0x100) return reader.Malformed("a DER length in a longer form than needed");
  } else if (first >= 0x80) {
    return reader.Malformed("a DER length in a form that does not occur here");
  }
  if ((tag & 0x1f) == 0x1f) return reader.Malformed("a DER tag of several bytes");
  PAVISE_ASSIGN_OR_RETURN(const ByteReader content, reader.Sub(size_bytes, "DER element"));
  return Element{tag, content};
}

absl::StatusOr<ByteReader> TakeTagged(ByteReader& reader, uint8_t tag, std::string_view what) {
  PAVISE_ASSIGN_OR_RETURN(const Element element, TakeElement(reader));
  if (element.tag != tag)
    return reader.Malformed(StrCat("another element where ", what, " stands"));
  return element.content;
}

bool Is(ByteReader content, ByteSpan bytes) {
  const auto taken = content.Take(content.left(), "element");
  return taken.ok() && std::equal(taken->begin(), taken->end(), bytes.begin(), bytes.end());
}

// FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }
absl::StatusOr<Bytes> TakeFirmwareId(ByteReader& reader) {
  PAVISE_ASSIGN_OR_RETURN(ByteReader fields, TakeTagged(reader, kSequence, "a firmware ID"));
  PAVISE_ASSIGN_OR_RETURN(const ByteReader algorithm,
                          TakeTagged(fields, kObjectIdentifier, "a digest algorithm"));
  PAVISE_ASSIGN_OR_RETURN(ByteReader digest, TakeTagged(fields, kOctetString, "a digest"));
  PAVISE_RETURN_IF_ERROR(fields.RequireEnd());
  if (!Is(algorithm, kSha384) || digest.left() != kSha384Bytes) {
    return reader.Malformed("the firmware ID is no SHA-384 digest");
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan value, digest.Take(kSha384Bytes, "digest"));
  return Bytes(value.begin(), value.end());
}

// CompositeDeviceID ::= SEQUENCE { version INTEGER, deviceID SubjectPublicKeyInfo, fwid FWID }
absl::StatusOr<Bytes> FromCompositeDeviceId(ByteReader reader) {
  PAVISE_ASSIGN_OR_RETURN(ByteReader fields, TakeTagged(reader, kSequence, "a device ID"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  PAVISE_RETURN_IF_ERROR(TakeTagged(fields, kInteger, "its version").status());
  PAVISE_RETURN_IF_ERROR(TakeTagged(fields, kSequence, "its key").status());
  PAVISE_ASSIGN_OR_RETURN(Bytes firmware_id, TakeFirmwareId(fields));
  PAVISE_RETURN_IF_ERROR(fields.RequireEnd());
  return firmware_id;
}

absl::StatusOr<Bytes> FromTcbInfo(ByteReader reader) {
  PAVISE_ASSIGN_OR_RETURN(ByteReader fields, TakeTagged(reader, kSequence, "a DiceTcbInfo"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  while (fields.left() > 0) {
    PAVISE_ASSIGN_OR_RETURN(Element field, TakeElement(fields));
    if (field.tag == kFirmwareIds) return TakeFirmwareId(field.content);
  }
  return reader.Malformed("the DiceTcbInfo lists no firmware ID");
}

bool IsWord(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  });
}

}  // namespace

absl::StatusOr<GpuIdentity> GpuIdentityOf(const crypto::Certificate& certificate) {
  const std::string item = StrCat("certificate ", certificate.subject());
  const std::optional<Bytes> extension = certificate.Extension("2.5.29.17");
  if (extension.has_value()) {
    ByteReader reader(*extension, item);
    PAVISE_ASSIGN_OR_RETURN(ByteReader names, TakeTagged(reader, kSequence, "a list of names"));
    PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
    while (names.left() > 0) {
      PAVISE_ASSIGN_OR_RETURN(Element name, TakeElement(names));
      if (name.tag != kContext0) continue;  // not an otherName
      PAVISE_ASSIGN_OR_RETURN(const ByteReader type,
                              TakeTagged(name.content, kObjectIdentifier, "a name's type"));
      if (!Is(type, kDeviceInfo)) continue;
      PAVISE_ASSIGN_OR_RETURN(ByteReader value, TakeTagged(name.content, kContext0, "a value"));
      PAVISE_RETURN_IF_ERROR(name.content.RequireEnd());
      PAVISE_ASSIGN_OR_RETURN(ByteReader text, TakeTagged(value, kUtf8String, "a text"));
      PAVISE_RETURN_IF_ERROR(value.RequireEnd());
      PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, text.Take(text.left(), "device name"));
      const std::string_view device = AsText(bytes);
      const size_t first = device.find(':');
      const size_t second = first == device.npos ? first : device.find(':', first + 1);
      if (second == device.npos || device.substr(0, first) != "NVIDIA" ||
          !IsWord(device.substr(first + 1, second - first - 1)) ||
          !IsWord(device.substr(second + 1))) {
        return Refuse(
            Reason::kMalformed, item,
            StrCat("its device name is \"", Printable(device), "\" and not NVIDIA:product:serial"));
      }
      return GpuIdentity{std::string(device.substr(first + 1, second - first - 1)),
                         std::string(device.substr(second + 1))};
    }
  }
  return Refuse(Reason::kEvidenceMissing, item, "it names no device (id-DMTF-device-info)",
                "give the attestation certificate of a GPU, leaf first");
}

absl::StatusOr<std::optional<Bytes>> FirmwareIdOf(const crypto::Certificate& certificate) {
  const std::string item = StrCat("certificate ", certificate.subject());
  const std::optional<Bytes> composite = certificate.Extension("2.23.133.5.4.1");
  const std::optional<Bytes> tcb_info = certificate.Extension("2.23.133.5.4.1.1");
  if (composite.has_value() && tcb_info.has_value()) {
    return Refuse(Reason::kMalformed, item, "it names its firmware in two ways");
  }
  if (composite.has_value()) return FromCompositeDeviceId(ByteReader(*composite, item));
  if (tcb_info.has_value()) return FromTcbInfo(ByteReader(*tcb_info, item));
  return std::nullopt;
}

}  // namespace pavise::evidence
