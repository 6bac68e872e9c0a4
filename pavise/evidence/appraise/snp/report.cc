#include "pavise/evidence/appraise/snp/report.h"

#include <algorithm>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

constexpr uint32_t kMinVersion = 2;
constexpr uint32_t kMaxVersion = 5;
constexpr uint32_t kEcdsaP384Sha384 = 1;
constexpr uint64_t kPolicyReservedOne = 1u << 17;
constexpr uint64_t kPolicyKnownBits = (1u << 26) - 1;
constexpr size_t kCoordinateBytes = 48;
constexpr size_t kSignatureFieldBytes = 72;

template <size_t kSize>
absl::Status Copy(ByteReader& reader, std::string_view field, std::array<uint8_t, kSize>& out) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(kSize, field));
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return absl::OkStatus();
}

absl::Status SkipZeros(ByteReader& reader, size_t size_bytes, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(size_bytes, field));
  if (std::any_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte != 0; })) {
    return reader.Malformed(StrCat("the ", field, " are not zero"));
  }
  return absl::OkStatus();
}

absl::StatusOr<SnpPolicy> DecodePolicy(uint64_t bits, const ByteReader& reader) {
  if ((bits & kPolicyReservedOne) == 0) {
    return reader.Malformed("bit 17 of the guest policy is not set");
  }
  // A bit that this version does not know may allow what nobody here would.
  if ((bits & ~kPolicyKnownBits) != 0) {
    return Refuse(Reason::kUnsupported, reader.item(), "the guest policy has unknown bits set",
                  "launch the guest with a policy of ABI revision 1.58 or before");
  }
  const auto bit = [&](int number) { return (bits >> number & 1) != 0; };
  return SnpPolicy{.abi_minor = static_cast<uint8_t>(bits),
                   .abi_major = static_cast<uint8_t>(bits >> 8),
                   .smt_allowed = bit(16),
                   .migration_agent_allowed = bit(18),
                   .debug_allowed = bit(19),
                   .single_socket_required = bit(20),
                   .cxl_allowed = bit(21),
                   .aes_256_xts_required = bit(22),
                   .rapl_disabled = bit(23),
                   .ciphertext_hiding_required = bit(24),
                   .page_swap_disabled = bit(25)};
}

absl::Status DecodeFlags(uint32_t flags, const ByteReader& reader, SnpReport& report) {
  if (flags >> 5 != 0) return reader.Malformed("reserved bits of the key flags are set");
  report.author_key_enabled = (flags & 1) != 0;
  if ((flags & 2) != 0) {
    return Refuse(Reason::kUnsupported, reader.item(),
                  "the host masks the chip key, so the report carries no signature",
                  "have the host's MASK_CHIP_KEY switched off");
  }
  switch (flags >> 2) {
    case 0:
      report.signing_key = SnpReport::SigningKey::kVcek;
      return absl::OkStatus();
    case 1:
      report.signing_key = SnpReport::SigningKey::kVlek;
      return absl::OkStatus();
    case 7:
      return Refuse(Reason::kUnsupported, reader.item(), "the report says that it is not signed",
                    "request a report that the VCEK or VLEK signs");
    default:
      return Refuse(Reason::kUnsupported, reader.item(),
                    StrCat("signed by an unknown kind of key (", flags >> 2, ")"));
  }
}

// CPUID families and models, as AMD's guides list them for SEV-SNP.
absl::StatusOr<SnpProduct> ProductOf(uint8_t family, uint8_t model, const ByteReader& reader) {
  const int model_row = model >> 4;
  if (family == 0x19 && model_row == 0x0) return SnpProduct::kMilan;
  if (family == 0x19 && (model_row == 0x1 || model_row == 0xa)) return SnpProduct::kGenoa;
  if (family == 0x1a && (model_row == 0x0 || model_row == 0x1)) return SnpProduct::kTurin;
  return Refuse(Reason::kUnsupported, reader.item(),
                StrCat("made by an unknown CPU (family ", family, ", model ", model, ")"),
                "Milan, Genoa (with Bergamo and Siena) and Turin are known");
}

absl::StatusOr<SnpFirmwareVersion> ReadFirmware(ByteReader& reader, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(3, field));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 1, "reserved bytes after a firmware version"));
  return SnpFirmwareVersion{bytes[0], bytes[1], bytes[2]};
}

// Little-endian, in a field that is wider than the curve's.
absl::Status ReadCoordinate(ByteReader& reader, std::string_view field, uint8_t* out) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(kCoordinateBytes, field));
  std::reverse_copy(bytes.begin(), bytes.end(), out);
  return SkipZeros(reader, kSignatureFieldBytes - kCoordinateBytes,
                   "bytes of the signature beyond P-384");
}

}  // namespace

std::string_view SnpProductName(SnpProduct product) {
  switch (product) {
    case SnpProduct::kMilan:
      return "Milan";
    case SnpProduct::kGenoa:
      return "Genoa";
    case SnpProduct::kTurin:
      break;
  }
  return "Turin";
}

bool SnpTcb::IsAtLeast(const SnpTcb& floor) const {
  return fmc >= floor.fmc && boot_loader >= floor.boot_loader && tee >= floor.tee &&
         snp >= floor.snp && microcode >= floor.microcode;
}

std::string ShowTcb(SnpProduct product, const SnpTcb& tcb) {
  const std::string fmc = product == SnpProduct::kTurin ? StrCat("FMC ", tcb.fmc, ", ") : "";
  return StrCat(fmc, "boot loader ", tcb.boot_loader, ", TEE ", tcb.tee, ", SNP ", tcb.snp,
                ", microcode ", tcb.microcode);
}

SnpTcb DecodeTcb(SnpProduct product, uint64_t tcb_version) {
  const auto byte = [&](int index) { return static_cast<uint8_t>(tcb_version >> (8 * index)); };
  if (product == SnpProduct::kTurin) {
    return {.fmc = byte(0),
            .boot_loader = byte(1),
            .tee = byte(2),
            .snp = byte(3),
            .microcode = byte(7)};
  }
  return {.boot_loader = byte(0), .tee = byte(1), .snp = byte(6), .microcode = byte(7)};
}

absl::StatusOr<SnpReport> ParseSnpReport(ByteSpan bytes, std::string_view item) {
  ByteReader reader(bytes, item);
  if (bytes.size() != kSnpReportBytes) {
    return reader.Malformed(
        StrCat("a report has ", kSnpReportBytes, " bytes, this has ", bytes.size()));
  }
  SnpReport report;
  PAVISE_ASSIGN_OR_RETURN(report.version, reader.LittleEndian32("VERSION"));
  if (report.version < kMinVersion || report.version > kMaxVersion) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("a report of version ", report.version, "; ", kMinVersion, " to ",
                         kMaxVersion, " are read"));
  }
  PAVISE_ASSIGN_OR_RETURN(report.guest_svn, reader.LittleEndian32("GUEST_SVN"));
  PAVISE_ASSIGN_OR_RETURN(const uint64_t policy, reader.LittleEndian64("POLICY"));
  PAVISE_ASSIGN_OR_RETURN(report.policy, DecodePolicy(policy, reader));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "FAMILY_ID", report.family_id));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "IMAGE_ID", report.image_id));
  PAVISE_ASSIGN_OR_RETURN(report.vmpl, reader.LittleEndian32("VMPL"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t algorithm, reader.LittleEndian32("SIGNATURE_ALGO"));
  if (algorithm != kEcdsaP384Sha384) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("signature algorithm ", algorithm, " is not ECDSA P-384 with SHA-384"));
  }
  PAVISE_ASSIGN_OR_RETURN(report.current_tcb, reader.LittleEndian64("CURRENT_TCB"));
  PAVISE_ASSIGN_OR_RETURN(report.platform_info, reader.LittleEndian64("PLATFORM_INFO"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t flags, reader.LittleEndian32("key flags"));
  PAVISE_RETURN_IF_ERROR(DecodeFlags(flags, reader, report));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 4, "reserved bytes after the key flags"));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "REPORT_DATA", report.report_data));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MEASUREMENT", report.measurement));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "HOST_DATA", report.host_data));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "ID_KEY_DIGEST", report.id_key_digest));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "AUTHOR_KEY_DIGEST", report.author_key_digest));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "REPORT_ID", report.report_id));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "REPORT_ID_MA", report.report_id_migration_agent));
  PAVISE_ASSIGN_OR_RETURN(report.reported_tcb, reader.LittleEndian64("REPORTED_TCB"));
  if (report.version >= 3) {
    PAVISE_ASSIGN_OR_RETURN(const ByteSpan cpuid, reader.Take(3, "CPUID"));
    PAVISE_ASSIGN_OR_RETURN(report.product, ProductOf(cpuid[0], cpuid[1], reader));
    PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 21, "reserved bytes after CPUID"));
  } else {
    PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 24, "reserved bytes before CHIP_ID"));
  }
  PAVISE_RETURN_IF_ERROR(Copy(reader, "CHIP_ID", report.chip_id));
  PAVISE_ASSIGN_OR_RETURN(report.committed_tcb, reader.LittleEndian64("COMMITTED_TCB"));
  PAVISE_ASSIGN_OR_RETURN(report.current_firmware, ReadFirmware(reader, "CURRENT_VERSION"));
  PAVISE_ASSIGN_OR_RETURN(report.committed_firmware, ReadFirmware(reader, "COMMITTED_VERSION"));
  PAVISE_ASSIGN_OR_RETURN(report.launch_tcb, reader.LittleEndian64("LAUNCH_TCB"));
  if (report.version >= 5) {
    PAVISE_ASSIGN_OR_RETURN(report.launch_mitigations, reader.LittleEndian64("LAUNCH_MIT_VECTOR"));
    PAVISE_ASSIGN_OR_RETURN(report.current_mitigations,
                            reader.LittleEndian64("CURRENT_MIT_VECTOR"));
  }
  PAVISE_RETURN_IF_ERROR(
      SkipZeros(reader, kSnpSignedBytes - reader.offset(), "reserved bytes before the signature"));
  PAVISE_RETURN_IF_ERROR(ReadCoordinate(reader, "signature R", report.signature.data()));
  PAVISE_RETURN_IF_ERROR(
      ReadCoordinate(reader, "signature S", report.signature.data() + kCoordinateBytes));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, reader.left(), "bytes after the signature"));
  return report;
}

}  // namespace pavise::evidence
