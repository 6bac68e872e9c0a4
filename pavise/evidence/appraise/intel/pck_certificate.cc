#include "pavise/evidence/appraise/intel/pck_certificate.h"

#include <algorithm>
#include <set>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/der_reader.h"

namespace pavise::evidence {
namespace {

constexpr char kSgxExtensionOid[] = "1.2.840.113741.1.13.1";
constexpr uint8_t kSgxPrefix[] = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};
constexpr uint8_t kPpid = 1;
constexpr uint8_t kTcb = 2;
constexpr uint8_t kPceId = 3;
constexpr uint8_t kFmspc = 4;
constexpr uint8_t kPlatformInstance = 6;
constexpr uint8_t kTcbComponents = 16;
constexpr uint8_t kTcbPceSvn = 17;
constexpr uint8_t kTcbCpuSvn = 18;

// One SEQUENCE { OBJECT IDENTIFIER, value } of the extension: the number that the identifier adds
// to `prefix`, and a reader at the value. Each number once.
struct Field {
  uint8_t number;
  DerReader value;
};

absl::StatusOr<Field> NextField(DerReader& list, ByteSpan prefix, std::set<uint8_t>& seen,
                                std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan content, list.Next(DerTag::kSequence, "a field"));
  DerReader reader(content, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan oid, reader.Next(DerTag::kObjectIdentifier, "a name"));
  if (oid.size() != prefix.size() + 1 || !std::equal(prefix.begin(), prefix.end(), oid.begin()) ||
      oid.back() >= 0x80) {
    return Refuse(Reason::kMalformed, item, "the SGX extension holds a foreign field");
  }
  if (!seen.insert(oid.back()).second) {
    return Refuse(Reason::kMalformed, item,
                  StrCat("field ", oid.back(), " of the SGX extension stands twice"));
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan element, reader.NextElement("a value"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return Field{oid.back(), DerReader(element, item)};
}

template <size_t kSize>
absl::Status ReadOctets(DerReader& reader, std::string_view field, std::string_view item,
                        std::array<uint8_t, kSize>& out) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Next(DerTag::kOctetString, field));
  if (bytes.size() != kSize) {
    return Refuse(Reason::kMalformed, item,
                  StrCat(field, " has ", bytes.size(), " bytes where ", kSize, " are due"));
  }
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return absl::OkStatus();
}

absl::Status RequireFields(const std::set<uint8_t>& seen, std::initializer_list<uint8_t> numbers,
                           std::string_view item) {
  for (const uint8_t number : numbers) {
    if (!seen.contains(number)) {
      return Refuse(Reason::kMalformed, item,
                    StrCat("field ", number, " of the SGX extension is missing"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTcb(DerReader& reader, std::string_view item, PckPlatform& platform) {
  Bytes prefix(std::begin(kSgxPrefix), std::end(kSgxPrefix));
  prefix.push_back(kTcb);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan content, reader.Next(DerTag::kSequence, "TCB"));
  DerReader list(content, item);
  std::set<uint8_t> seen;
  while (!list.done()) {
    PAVISE_ASSIGN_OR_RETURN(Field field, NextField(list, prefix, seen, item));
    if (field.number >= 1 && field.number <= kTcbComponents) {
      PAVISE_ASSIGN_OR_RETURN(const uint32_t svn, field.value.NextUint(255, "a component's SVN"));
      platform.tcb_component_svns[field.number - 1u] = static_cast<uint8_t>(svn);
    } else if (field.number == kTcbPceSvn) {
      PAVISE_ASSIGN_OR_RETURN(const uint32_t svn, field.value.NextUint(65535, "PCESVN"));
      platform.pce_svn = static_cast<uint16_t>(svn);
    } else if (field.number == kTcbCpuSvn) {
      PAVISE_RETURN_IF_ERROR(ReadOctets(field.value, "CPUSVN", item, platform.cpu_svn));
    }
  }
  return RequireFields(
      seen, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, kTcbPceSvn, kTcbCpuSvn}, item);
}

}  // namespace

absl::StatusOr<PckPlatform> ReadPckPlatform(const crypto::Certificate& certificate,
                                            std::string_view item) {
  const std::optional<Bytes> extension = certificate.Extension(kSgxExtensionOid);
  if (!extension.has_value()) {
    return Refuse(Reason::kCertificateInvalid, item,
                  "it has no SGX extension, so it is no PCK certificate");
  }
  DerReader whole(*extension, item);
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan content, whole.Next(DerTag::kSequence, "SGX extension"));
  PAVISE_RETURN_IF_ERROR(whole.RequireEnd());
  DerReader list(content, item);
  PckPlatform platform;
  std::set<uint8_t> seen;
  while (!list.done()) {
    PAVISE_ASSIGN_OR_RETURN(Field field, NextField(list, kSgxPrefix, seen, item));
    absl::Status status;
    switch (field.number) {
      case kPpid:
        status = ReadOctets(field.value, "PPID", item, platform.ppid);
        break;
      case kTcb:
        status = ReadTcb(field.value, item, platform);
        break;
      case kPceId:
        status = ReadOctets(field.value, "PCEID", item, platform.pce_id);
        break;
      case kFmspc:
        status = ReadOctets(field.value, "FMSPC", item, platform.fmspc);
        break;
      case kPlatformInstance:
        status = ReadOctets(field.value, "platform instance", item,
                            platform.platform_instance_id.emplace());
        break;
      default:
        break;
    }
    PAVISE_RETURN_IF_ERROR(status);
  }
  PAVISE_RETURN_IF_ERROR(RequireFields(seen, {kPpid, kTcb, kPceId, kFmspc}, item));
  return platform;
}

}  // namespace pavise::evidence
