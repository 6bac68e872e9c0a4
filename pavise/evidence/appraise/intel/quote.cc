#include "pavise/evidence/appraise/intel/quote.h"

#include <algorithm>
#include <string>

#include "pavise/base/byte_reader.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::evidence {
namespace {

constexpr size_t kMaxQuoteBytes = 64 << 10;
constexpr size_t kMaxCertificateDataBytes = 16 << 10;
constexpr size_t kMaxCertificates = 8;
constexpr uint16_t kEcdsaP256 = 2;
constexpr uint32_t kTeeSgx = 0x00;
constexpr uint32_t kTeeTdx = 0x81;
constexpr uint16_t kBodySgx = 1;
constexpr uint16_t kBodyTdx10 = 2;
constexpr uint16_t kBodyTdx15 = 3;
constexpr size_t kHeaderBytes = 48;
constexpr size_t kSgxBodyBytes = 384;
constexpr size_t kTdx10BodyBytes = 584;
constexpr size_t kTdx15BodyBytes = 648;
constexpr uint16_t kCertificationPckChain = 5;
constexpr uint16_t kCertificationQuotingEnclave = 6;
// "Intel SGX" quoting enclaves: 939a7233-f79c-4ca9-940a-0db3957f0607.
constexpr uint8_t kIntelVendor[16] = {0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9,
                                      0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07};

template <size_t kSize>
absl::Status Copy(ByteReader& reader, std::string_view field, std::array<uint8_t, kSize>& out) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(kSize, field));
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return absl::OkStatus();
}

bool IsZero(ByteSpan bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t byte) { return byte == 0; });
}

absl::Status SkipZeros(ByteReader& reader, size_t size_bytes, std::string_view field) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan bytes, reader.Take(size_bytes, field));
  if (!IsZero(bytes)) return reader.Malformed(StrCat("the ", field, " are not zero"));
  return absl::OkStatus();
}

absl::StatusOr<SgxReportBody> ReadSgxBody(ByteReader& reader) {
  SgxReportBody body;
  PAVISE_RETURN_IF_ERROR(Copy(reader, "CPUSVN", body.cpu_svn));
  PAVISE_ASSIGN_OR_RETURN(body.misc_select, reader.LittleEndian32("MISCSELECT"));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 12, "reserved bytes after MISCSELECT"));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "ISVEXTPRODID", body.isv_extended_product_id));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "ATTRIBUTES", body.attributes));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MRENCLAVE", body.mr_enclave));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 32, "reserved bytes after MRENCLAVE"));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MRSIGNER", body.mr_signer));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 32, "reserved bytes after MRSIGNER"));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "CONFIGID", body.config_id));
  PAVISE_ASSIGN_OR_RETURN(body.isv_product_id, reader.LittleEndian16("ISVPRODID"));
  PAVISE_ASSIGN_OR_RETURN(body.isv_svn, reader.LittleEndian16("ISVSVN"));
  PAVISE_ASSIGN_OR_RETURN(body.config_svn, reader.LittleEndian16("CONFIGSVN"));
  PAVISE_RETURN_IF_ERROR(SkipZeros(reader, 42, "reserved bytes after CONFIGSVN"));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "ISVFAMILYID", body.isv_family_id));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "REPORTDATA", body.report_data));
  return body;
}

absl::StatusOr<TdReportBody> ReadTdBody(ByteReader& reader, bool is_15) {
  TdReportBody body;
  PAVISE_RETURN_IF_ERROR(Copy(reader, "TEE_TCB_SVN", body.tee_tcb_svn));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MRSEAM", body.mr_seam));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MRSIGNERSEAM", body.mr_signer_seam));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "SEAMATTRIBUTES", body.seam_attributes));
  PAVISE_ASSIGN_OR_RETURN(body.td_attributes, reader.LittleEndian64("TDATTRIBUTES"));
  PAVISE_ASSIGN_OR_RETURN(body.xfam, reader.LittleEndian64("XFAM"));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MRTD", body.mr_td));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MRCONFIGID", body.mr_config_id));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MROWNER", body.mr_owner));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "MROWNERCONFIG", body.mr_owner_config));
  for (auto& rtmr : body.rtmr) PAVISE_RETURN_IF_ERROR(Copy(reader, "RTMR", rtmr));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "REPORTDATA", body.report_data));
  if (is_15) {
    PAVISE_RETURN_IF_ERROR(Copy(reader, "TEE_TCB_SVN_2", body.tee_tcb_svn_2.emplace()));
    PAVISE_RETURN_IF_ERROR(Copy(reader, "MRSERVICETD", body.mr_service_td.emplace()));
  }
  return body;
}

// The kind of body that follows the header; reads version 5's descriptor.
absl::StatusOr<uint16_t> ReadBodyKind(ByteReader& reader, uint16_t version, uint32_t tee) {
  if (tee != kTeeSgx && (tee != kTeeTdx || version == 3)) {
    return Refuse(Reason::kUnsupported, reader.item(),
                  StrCat("a quote of version ", version, " for TEE type ", tee));
  }
  if (version < 5) return tee == kTeeTdx ? kBodyTdx10 : kBodySgx;
  PAVISE_ASSIGN_OR_RETURN(const uint16_t kind, reader.LittleEndian16("body type"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, reader.LittleEndian32("body size"));
  if (kind != kBodySgx && kind != kBodyTdx10 && kind != kBodyTdx15) {
    return Refuse(Reason::kUnsupported, reader.item(), StrCat("a body of type ", kind));
  }
  if ((kind == kBodySgx) != (tee == kTeeSgx)) {
    return reader.Malformed(StrCat("body type ", kind, " is not of TEE type ", tee));
  }
  const size_t due_bytes = kind == kBodySgx     ? kSgxBodyBytes
                           : kind == kBodyTdx10 ? kTdx10BodyBytes
                                                : kTdx15BodyBytes;
  if (size_bytes != due_bytes) {
    return reader.Malformed(
        StrCat("a body of type ", kind, " has ", due_bytes, " bytes, not ", size_bytes));
  }
  return kind;
}

absl::StatusOr<ByteReader> ReadCertification(ByteReader& reader, uint16_t kind) {
  PAVISE_ASSIGN_OR_RETURN(const uint16_t found, reader.LittleEndian16("certification data type"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes,
                          reader.LittleEndian32("certification data size"));
  if (found != kind) {
    return Refuse(Reason::kUnsupported, reader.item(),
                  StrCat("certification data of type ", found, " where type ", kind, " is due"),
                  "have the quoting service put the PCK certificate chain into the quote");
  }
  PAVISE_ASSIGN_OR_RETURN(ByteReader data, reader.Sub(size_bytes, "certification data"));
  PAVISE_RETURN_IF_ERROR(reader.RequireEnd());
  return data;
}

absl::Status ReadQuotingEnclave(ByteReader& reader, IntelQuote& quote) {
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan report, reader.Take(kSgxBodyBytes, "QE report"));
  quote.quoting_enclave_report.assign(report.begin(), report.end());
  ByteReader report_reader(report, reader.item(), reader.offset() - kSgxBodyBytes);
  PAVISE_ASSIGN_OR_RETURN(quote.quoting_enclave, ReadSgxBody(report_reader));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "QE report signature", quote.quoting_enclave_signature));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t size_bytes,
                          reader.LittleEndian16("QE authentication data size"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan data, reader.Take(size_bytes, "QE authentication data"));
  quote.authentication_data.assign(data.begin(), data.end());

  PAVISE_ASSIGN_OR_RETURN(ByteReader chain, ReadCertification(reader, kCertificationPckChain));
  if (chain.left() > kMaxCertificateDataBytes) {
    return Refuse(Reason::kLimitExceeded, reader.item(),
                  StrCat("more than ", kMaxCertificateDataBytes, " bytes of certificates"));
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan chain_bytes, chain.Take(chain.left(), "PCK chain"));
  std::string_view pem = AsText(chain_bytes);
  // Intel's library counts the string's NUL in.
  if (pem.ends_with('\0')) pem.remove_suffix(1);
  PAVISE_ASSIGN_OR_RETURN(quote.certificates, crypto::Certificate::ListFromPem(
                                                  pem, StrCat(reader.item(), ": PCK chain")));
  if (quote.certificates.size() > kMaxCertificates) {
    return Refuse(Reason::kLimitExceeded, reader.item(),
                  StrCat("more than ", kMaxCertificates, " certificates"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<IntelQuote> ParseIntelQuote(ByteSpan bytes, std::string_view item) {
  if (bytes.size() > kMaxQuoteBytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("larger than ", kMaxQuoteBytes, " bytes (", bytes.size(), ")"));
  }
  ByteReader reader(bytes, item);
  IntelQuote quote;
  PAVISE_ASSIGN_OR_RETURN(quote.version, reader.LittleEndian16("version"));
  PAVISE_ASSIGN_OR_RETURN(const uint16_t key_type, reader.LittleEndian16("attestation key type"));
  PAVISE_ASSIGN_OR_RETURN(const uint32_t tee, reader.LittleEndian32("TEE type"));
  // Versions 3 and 5 hold informative SVNs here, which nothing rests on.
  PAVISE_RETURN_IF_ERROR(reader.Take(4, "QE and PCE SVN").status());
  std::array<uint8_t, 16> vendor{};
  PAVISE_RETURN_IF_ERROR(Copy(reader, "QE vendor", vendor));
  PAVISE_RETURN_IF_ERROR(Copy(reader, "user data", quote.user_data));
  if (quote.version < 3 || quote.version > 5) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("a quote of version ", quote.version, "; 3, 4 and 5 are read"));
  }
  if (key_type != kEcdsaP256) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("an attestation key of type ", key_type, "; ECDSA P-256 (2) is read"));
  }
  if (!std::ranges::equal(vendor, kIntelVendor)) {
    return Refuse(Reason::kUnsupported, item,
                  StrCat("made by the quoting enclave of another vendor (", ToHex(vendor), ")"));
  }
  PAVISE_ASSIGN_OR_RETURN(const uint16_t kind, ReadBodyKind(reader, quote.version, tee));
  if (kind == kBodySgx) {
    PAVISE_ASSIGN_OR_RETURN(quote.body, ReadSgxBody(reader));
  } else {
    PAVISE_ASSIGN_OR_RETURN(quote.body, ReadTdBody(reader, kind == kBodyTdx15));
  }
  const ByteSpan signed_bytes = bytes.first(reader.offset());
  quote.signed_bytes.assign(signed_bytes.begin(), signed_bytes.end());

  PAVISE_ASSIGN_OR_RETURN(const uint32_t size_bytes, reader.LittleEndian32("signature data size"));
  PAVISE_ASSIGN_OR_RETURN(ByteReader data, reader.Sub(size_bytes, "signature data"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan padding, reader.Take(reader.left(), "padding"));
  if (!IsZero(padding)) return reader.Malformed("bytes after the quote");

  PAVISE_RETURN_IF_ERROR(Copy(data, "signature", quote.signature));
  PAVISE_RETURN_IF_ERROR(Copy(data, "attestation key", quote.attestation_key));
  if (quote.version == 3) {
    PAVISE_RETURN_IF_ERROR(ReadQuotingEnclave(data, quote));
  } else {
    PAVISE_ASSIGN_OR_RETURN(ByteReader enclave,
                            ReadCertification(data, kCertificationQuotingEnclave));
    PAVISE_RETURN_IF_ERROR(ReadQuotingEnclave(enclave, quote));
  }
  return quote;
}

}  // namespace pavise::evidence
