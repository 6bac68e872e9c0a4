#include "pavise/evidence/appraise/nvidia/gpu_appraiser.h"

#include <algorithm>
#include <map>
#include <utility>

#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/nettle/p384_signature.h"
#include "pavise/evidence/appraise/nvidia/device_certificate.h"
#include "pavise/evidence/appraise/nvidia/spdm_report.h"

#include "absl/strings/ascii.h"

namespace pavise::evidence {
namespace {

constexpr std::string_view kReport = "GPU report";
constexpr size_t kChainLength = 5;
constexpr uint32_t kNvdec0Index = 35;

// One appraisal: what has been read of the evidence, and the claims so far.
struct Appraisal {
  const GpuTrust& trust;
  absl::Time at;
  CheckList& checks;
  SpdmReport report;
  GpuClaims claims;
};

absl::Status VerifyDeviceChain(const std::vector<crypto::Certificate>& given, const GpuTrust& trust,
                               absl::Time at, crypto::CertificateMemory* memory) {
  constexpr std::string_view kItem = "GPU certificate chain";
  if (given.empty()) {
    return Refuse(Reason::kEvidenceMissing, kItem, "no certificates",
                  "send the attestation certificate chain with the report");
  }
  std::vector<crypto::Certificate> roots, intermediates;
  for (size_t i = 1; i < given.size(); ++i) {
    (given[i].Fingerprint() == trust.device_root ? roots : intermediates).push_back(given[i]);
  }
  for (const crypto::Certificate& certificate : trust.endorsements) {
    if (certificate.Fingerprint() == trust.device_root) roots.push_back(certificate);
  }
  if (roots.empty()) {
    return Refuse(Reason::kCertificateInvalid, kItem,
                  StrCat("the root certificate ", trust.device_root, " is not in the chain"),
                  "send the whole chain, or add NVIDIA's root to the trusted certificates");
  }
  PAVISE_ASSIGN_OR_RETURN(
      const std::vector<crypto::Certificate> chain,
      crypto::VerifyChain(memory, given.front(), intermediates, {roots.front()}, at));
  if (chain.size() != kChainLength) {
    return Refuse(Reason::kCertificateInvalid, kItem,
                  StrCat("a chain of ", chain.size(), " certificates, a GPU has ", kChainLength));
  }
  if (!given.front().MaySignModels()) {  // the same rule: digitalSignature
    return Refuse(Reason::kCertificateInvalid, kItem,
                  StrCat("the certificate of ", given.front().subject(), " may not sign"));
  }
  return absl::OkStatus();
}

absl::Status ReadDevice(const crypto::Certificate& leaf, GpuClaims& claims) {
  PAVISE_ASSIGN_OR_RETURN(GpuIdentity identity, GpuIdentityOf(leaf));
  claims.product = std::move(identity.product);
  claims.serial = std::move(identity.serial);
  claims.device_certificate = leaf.Fingerprint();
  if (claims.product.starts_with("GH")) {
    claims.architecture = GpuArchitecture::kHopper;
  } else if (claims.product.starts_with("GB")) {
    claims.architecture = GpuArchitecture::kBlackwell;
  } else {
    return Refuse(Reason::kUnsupported, StrCat("GPU ", claims.serial),
                  StrCat(claims.product, " is neither Hopper nor Blackwell"));
  }
  return absl::OkStatus();
}

absl::Status VerifyReportSignature(const crypto::Certificate& leaf, const SpdmReport& report) {
  PAVISE_ASSIGN_OR_RETURN(const crypto::PublicKey key, leaf.public_key());
  if (key.type() != crypto::KeyType::kEcP384) {
    return Refuse(
        Reason::kKeyUnsupported, kReport,
        StrCat("the attestation key is of type ", KeyTypeName(key.type()), ", not P-384"));
  }
  return VerifyP384(key, report.signed_bytes, report.signature, kReport);
}

absl::Status CheckFirmwareId(const crypto::Certificate& leaf, Appraisal& appraisal) {
  constexpr std::string_view kName = "GPU firmware ID";
  const Bytes* reported = appraisal.report.opaque.Find(GpuField::kFirmwareId);
  if (reported == nullptr) {
    appraisal.checks.Pass(kName, "the report of this driver has none to compare");
    return absl::OkStatus();
  }
  appraisal.claims.firmware_id = *reported;
  const auto certified = FirmwareIdOf(leaf);
  if (!certified.ok()) return appraisal.checks.Record(kName, "", certified.status());
  if (*certified != *reported) {
    appraisal.checks.Fail(
        kName, Reason::kBindingMismatch, kReport,
        StrCat("firmware ", ToHex(*reported), ", and the certificate was issued for ",
               certified->has_value() ? ToHex(**certified) : "none"),
        "send the certificate chain that belongs to the report");
  } else {
    appraisal.checks.Pass(kName, ToHex(*reported));
  }
  return absl::OkStatus();
}

absl::Status ReadReport(const SpdmReport& report, GpuClaims& claims) {
  const GpuOpaqueData& opaque = report.opaque;
  claims.nonce = report.request_nonce;
  PAVISE_ASSIGN_OR_RETURN(claims.driver_version, opaque.Text(GpuField::kDriverVersion));
  PAVISE_ASSIGN_OR_RETURN(claims.vbios_version, opaque.VbiosVersion());
  PAVISE_ASSIGN_OR_RETURN(claims.protected_pcie, opaque.Switch(GpuField::kProtectedPcieStatus));
  const std::pair<GpuField, std::string*> texts[] = {{GpuField::kProject, &claims.project},
                                                     {GpuField::kProjectSku, &claims.project_sku},
                                                     {GpuField::kChipSku, &claims.chip_sku}};
  for (const auto& [field, text] : texts) {
    if (opaque.Find(field) == nullptr) continue;
    PAVISE_ASSIGN_OR_RETURN(*text, opaque.Text(field));
  }
  if (const Bytes* board = opaque.Find(GpuField::kBoardId)) claims.board_id = ToHex(*board);
  return absl::OkStatus();
}

// nullopt where the manifest cannot be used; `checks` says why.
absl::StatusOr<std::optional<VerifiedRim>> VerifyRim(std::string_view name, ByteSpan xml,
                                                     std::string_view version,
                                                     const Appraisal& appraisal) {
  if (xml.empty()) {
    appraisal.checks.Fail(name, Reason::kEvidenceMissing, name, "no manifest is given",
                          StrCat("give the ", name, " of version ", version));
    return std::nullopt;
  }
  absl::StatusOr<VerifiedRim> rim = RimVerifier::Verify(
      xml, name, appraisal.at, appraisal.trust.rim_root, appraisal.trust.endorsements);
  if (!rim.ok()) {
    PAVISE_RETURN_IF_ERROR(appraisal.checks.Record(name, "", rim.status()));
    return std::nullopt;
  }
  // NVIDIA publishes manifests of one version for several chips. Without a device certificate the
  // verdict is settled already.
  const std::string& product = appraisal.claims.product;
  if (!product.empty() && (*rim)->name != product) {
    appraisal.checks.Fail(
        name, Reason::kMeasurementMismatch, name,
        StrCat("it is for ", Printable((*rim)->name), ", the GPU is a ", Printable(product)),
        StrCat("give the ", name, " for ", Printable(product)));
    return std::nullopt;
  }
  // VBIOS versions are written in both cases.
  const std::string rim_version = absl::AsciiStrToLower((*rim)->version);
  if (rim_version != absl::AsciiStrToLower(std::string(version))) {
    appraisal.checks.Fail(
        name, Reason::kMeasurementMismatch, name,
        StrCat("it is of version ", Printable((*rim)->version), ", the GPU runs ", version),
        StrCat("give the manifest of version ", version, ", or run ", Printable((*rim)->version)));
    return std::nullopt;
  }
  appraisal.checks.Pass(name, StrCat("version ", Printable((*rim)->version), ", signed by ",
                                     Printable((*rim)->signer)));
  return std::optional<VerifiedRim>(*std::move(rim));
}

absl::Status CompareMeasurements(const Rim& driver, const Rim& vbios, Appraisal& appraisal) {
  constexpr std::string_view kName = "GPU measurements";
  CheckList& checks = appraisal.checks;
  std::map<uint32_t, const GoldenMeasurement*> golden;
  bool all_equal = true;
  const auto fail = [&](uint32_t index, const std::string& measured_by, const std::string& detail,
                        std::string_view remedy) {
    all_equal = false;
    checks.Fail(kName, Reason::kMeasurementMismatch,
                StrCat("GPU measurement ", index, " (", Printable(measured_by), ")"), detail,
                remedy);
  };
  for (const Rim* rim : {&driver, &vbios}) {
    for (const auto& [index, measurement] : rim->measurements) {
      if (!measurement.active) continue;
      if (!golden.emplace(index, &measurement).second) {
        fail(index, measurement.name, "driver RIM and VBIOS RIM both have a value for it",
             "give the manifests that NVIDIA publishes for these versions");
      }
    }
  }

  const auto nvdec0_on = appraisal.report.opaque.Switch(GpuField::kNvdec0Status);
  if (golden.contains(kNvdec0Index)) {
    if (!nvdec0_on.ok()) return checks.Record("GPU NVDEC0", "", nvdec0_on.status());
    if (!nvdec0_on->has_value()) {
      checks.Fail("GPU NVDEC0", Reason::kEvidenceMissing, kReport,
                  "it does not say whether NVDEC0 is on, on which measurement 35 depends");
      return absl::OkStatus();
    }
  }

  const std::vector<SpdmMeasurement>& measured = appraisal.report.measurements;
  for (const auto& [index, measurement] : golden) {
    if (index == kNvdec0Index && !**nvdec0_on) continue;
    if (index >= measured.size()) {
      fail(index, measurement->name, "the report has no such measurement", "");
      continue;
    }
    const Bytes& value = measured[index].value;
    if (std::find(measurement->alternatives.begin(), measurement->alternatives.end(), value) ==
        measurement->alternatives.end()) {
      fail(index, measurement->name,
           StrCat("it is ", ToHex(value), ", none of ", measurement->alternatives.size(),
                  " golden values (the first is ", ToHex(measurement->alternatives.front()), ")"),
           "run the driver and VBIOS that the manifests describe, in confidential mode");
      continue;
    }
    appraisal.claims.matched.push_back(index);
  }
  for (uint32_t index = 0; index < measured.size(); ++index) {
    if (!golden.contains(index)) appraisal.claims.uncovered.push_back(index);
  }
  if (appraisal.claims.matched.empty()) {
    checks.Fail(kName, Reason::kMeasurementUnknown, kReport,
                "the manifests have no golden value to hold it against");
  } else if (all_equal) {
    checks.Pass(kName, StrCat(appraisal.claims.matched.size(), " golden values match, ",
                              appraisal.claims.uncovered.size(), " measurements have none"));
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view GpuArchitectureName(GpuArchitecture architecture) {
  return architecture == GpuArchitecture::kHopper ? "Hopper" : "Blackwell";
}

absl::StatusOr<VerifiedGpu> GpuAppraiser::Appraise(const GpuEvidence& evidence,
                                                   const GpuReferences& references,
                                                   const Digest32& nonce, absl::Time at,
                                                   const GpuTrust& trust, CheckList& checks,
                                                   crypto::CertificateMemory* memory) {
  Appraisal appraisal{trust, at, checks, {}, {}};
  absl::StatusOr<SpdmReport> report = ParseSpdmReport(evidence.report, kReport);
  PAVISE_RETURN_IF_ERROR(checks.Add(
      kReport, report.ok() ? StrCat(report->measurements.size(), " measurements") : std::string(),
      report.status()));
  appraisal.report = *std::move(report);
  const absl::Status readable = ReadReport(appraisal.report, appraisal.claims);
  PAVISE_RETURN_IF_ERROR(checks.Add("GPU versions",
                                    StrCat("driver ", appraisal.claims.driver_version, ", VBIOS ",
                                           appraisal.claims.vbios_version),
                                    readable));
  if (appraisal.report.request_nonce == nonce) {
    checks.Pass("GPU nonce", ToHex(nonce));
  } else {
    checks.Fail("GPU nonce", Reason::kNonceMismatch, kReport,
                StrCat("it answers ", ToHex(appraisal.report.request_nonce), ", the challenge was ",
                       ToHex(nonce)),
                "collect the report anew, for this challenge");
  }

  PAVISE_RETURN_IF_ERROR(
      checks.Record("GPU certificate chain", "five certificates to the pinned root",
                    VerifyDeviceChain(evidence.certificates, trust, at, memory)));
  if (!evidence.certificates.empty()) {
    const crypto::Certificate& leaf = evidence.certificates.front();
    const absl::Status device = ReadDevice(leaf, appraisal.claims);
    PAVISE_RETURN_IF_ERROR(checks.Record(
        "GPU device", StrCat(appraisal.claims.product, " ", appraisal.claims.serial), device));
    PAVISE_RETURN_IF_ERROR(checks.Record("GPU signature", "ECDSA P-384 with SHA-384",
                                         VerifyReportSignature(leaf, appraisal.report)));
    PAVISE_RETURN_IF_ERROR(CheckFirmwareId(leaf, appraisal));
  }

  PAVISE_ASSIGN_OR_RETURN(
      const std::optional<VerifiedRim> driver,
      VerifyRim("driver RIM", references.driver_rim, appraisal.claims.driver_version, appraisal));
  PAVISE_ASSIGN_OR_RETURN(
      const std::optional<VerifiedRim> vbios,
      VerifyRim("VBIOS RIM", references.vbios_rim, appraisal.claims.vbios_version, appraisal));
  if (driver.has_value() && vbios.has_value()) {
    appraisal.claims.driver_rim = (*driver)->tag_id;
    appraisal.claims.vbios_rim = (*vbios)->tag_id;
    PAVISE_RETURN_IF_ERROR(CompareMeasurements(**driver, **vbios, appraisal));
  }
  PAVISE_RETURN_IF_ERROR(checks.Verdict());
  return VerifiedGpu(std::move(appraisal.claims));
}

}  // namespace pavise::evidence
