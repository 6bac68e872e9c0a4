#include "pavise/evidence/collect/session.h"

#include <algorithm>
#include <array>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/evidence/appraise/tpm/pcr_json.h"
#include "pavise/evidence/collect/linux/tsm_report.h"
#include "pavise/evidence/collect/nvml/gpu_reports.h"

namespace pavise::evidence {
namespace {

Bytes BytesOf(std::string_view text) {
  const ByteSpan bytes = AsBytes(text);
  return Bytes(bytes.begin(), bytes.end());
}

// In the order in which one is preferred.
constexpr EkTemplate kEkTemplates[] = {EkTemplate::kEccP256, EkTemplate::kEccP384,
                                       EkTemplate::kRsa2048};

absl::StatusOr<EvidencePart> CollectTpm(const CollectionOptions& options, const Digest32& bound) {
  EvidencePart part;
  part.format = "tpm-2.0";
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<TpmContext> tpm, TpmContext::Open(*options.tcti));
  PAVISE_ASSIGN_OR_RETURN(const TpmKey ak, tpm->CreateAk(options.ak_kind));
  PAVISE_ASSIGN_OR_RETURN(QuoteEvidence quote, tpm->Quote(ak, bound, options.pcrs));
  part.items["attestation_key"] = std::move(quote.ak_public);
  part.items["quote"] = std::move(quote.quote);
  part.items["signature"] = std::move(quote.signature);
  part.items["pcr_values"] = BytesOf(FormatPcrValues(quote.pcrs));
  // Who the TPM is, for enrolment: not every TPM has its certificates in its own memory.
  std::string certificates;
  for (const EkTemplate kind : {EkTemplate::kEccP256, EkTemplate::kEccP384, EkTemplate::kRsa2048}) {
    PAVISE_ASSIGN_OR_RETURN(const std::optional<Bytes> certificate, tpm->ReadEkCertificate(kind));
    if (!certificate.has_value()) continue;
    PAVISE_ASSIGN_OR_RETURN(const crypto::Certificate parsed,
                            crypto::Certificate::FromDer(*certificate, "EK certificate"));
    if (certificates.empty()) {
      PAVISE_ASSIGN_OR_RETURN(const TpmKey ek, tpm->CreateEk(kind));
      part.items["endorsement_key"] = ek.public_area();
    }
    certificates += parsed.ToPem();
  }
  if (!certificates.empty()) part.items["endorsement_certificates"] = BytesOf(certificates);
  if (options.event_log) {
    PAVISE_ASSIGN_OR_RETURN(part.items["event_log"], ReadKernelLog(options.logs.event_log));
  }
  if (options.ima_log) {
    PAVISE_ASSIGN_OR_RETURN(part.items["ima_log"], ReadKernelLog(options.logs.ima_log));
  }
  return part;
}

absl::StatusOr<EvidencePart> CollectTee(const CollectionOptions& options, const Digest32& bound) {
  std::array<uint8_t, 64> report_data = {};
  std::copy(bound.begin(), bound.end(), report_data.begin());
  PAVISE_ASSIGN_OR_RETURN(TsmReport report, options.tsm_request.empty()
                                                ? CollectTsmReport(report_data)
                                                : ReadTsmRequest(report_data, options.tsm_request));
  EvidencePart part;
  if (report.provider == "sev_guest") {
    part.format = "amd-sev-snp";
    part.items["report"] = std::move(report.report);
    if (!report.auxiliary.empty()) part.items["certificates"] = std::move(report.auxiliary);
    return part;
  }
  if (report.provider == "tdx_guest") {
    part.format = "intel-tdx";
    part.items["quote"] = std::move(report.report);
    if (options.event_log) {
      PAVISE_ASSIGN_OR_RETURN(part.items["event_log"],
                              ReadKernelLog(options.logs.confidential_event_log));
    }
    return part;
  }
  return Refuse(Reason::kUnsupported, Printable(report.provider),
                "is a kind of confidential guest that is not known here", "leave TEE evidence out");
}

}  // namespace

PcrIndices CollectionOptions::DefaultPcrs() {
  PcrIndices pcrs;
  for (uint32_t index = 0; index <= 14; ++index) pcrs[PcrBank::kSha256].insert(index);
  return pcrs;
}

absl::StatusOr<CompositeEvidence> CollectEvidence(const CollectionOptions& options,
                                                  const Digest32& nonce,
                                                  const crypto::PublicKey& session_key) {
  CompositeEvidence evidence;
  evidence.nonce = nonce;
  evidence.session_key = session_key.der();
  std::vector<Digest32> collected;
  const auto binding = [&](PartKind role) {
    return BindingValue(role, nonce, evidence.session_key, collected);
  };
  const auto add = [&](EvidencePart part) {
    evidence.parts.push_back(std::move(part));
    return PartDigest(evidence.parts.back());
  };
  if (options.gpus) {
    PAVISE_ASSIGN_OR_RETURN(const NvmlLibrary library, OpenNvml());
    const auto add_gpu = [&](const CollectedGpu& gpu) -> absl::Status {
      EvidencePart part;
      part.format = "nvidia-spdm-1.1";
      part.items["report"] = gpu.report;
      part.items["certificates"] = BytesOf(gpu.certificate_chain_pem);
      PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, add(std::move(part)));
      collected.push_back(digest);
      return absl::OkStatus();
    };
    // Each GPU signs for those before it.
    const auto next_nonce =
        [&](const std::vector<CollectedGpu>& before) -> absl::StatusOr<Digest32> {
      if (!before.empty()) PAVISE_RETURN_IF_ERROR(add_gpu(before.back()));
      return binding(PartKind::kGpu);
    };
    PAVISE_ASSIGN_OR_RETURN(const std::vector<CollectedGpu> gpus,
                            CollectGpuReports(library, next_nonce));
    PAVISE_RETURN_IF_ERROR(add_gpu(gpus.back()));
  }
  if (options.tcti.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 bound, binding(PartKind::kTpm));
    PAVISE_ASSIGN_OR_RETURN(EvidencePart part, CollectTpm(options, bound));
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, add(std::move(part)));
    collected.push_back(digest);
  }
  if (options.tee) {
    PAVISE_ASSIGN_OR_RETURN(const Digest32 bound, binding(PartKind::kTee));
    PAVISE_ASSIGN_OR_RETURN(EvidencePart part, CollectTee(options, bound));
    PAVISE_RETURN_IF_ERROR(add(std::move(part)).status());
  }
  PAVISE_RETURN_IF_ERROR(CheckForm(evidence));
  return evidence;
}

absl::StatusOr<SecretBytes> ActivateCredential(const CollectionOptions& options,
                                               const CredentialChallenge& challenge) {
  PAVISE_ASSIGN_OR_RETURN(const std::unique_ptr<TpmContext> tpm, TpmContext::Open(*options.tcti));
  for (const EkTemplate kind : kEkTemplates) {
    PAVISE_ASSIGN_OR_RETURN(const std::optional<Bytes> certificate, tpm->ReadEkCertificate(kind));
    if (!certificate.has_value()) continue;
    PAVISE_ASSIGN_OR_RETURN(const TpmKey ek, tpm->CreateEk(kind));
    PAVISE_ASSIGN_OR_RETURN(const TpmKey ak, tpm->CreateAk(options.ak_kind));
    return tpm->ActivateCredential(ak, ek, challenge);
  }
  return Refuse(Reason::kEvidenceMissing, "endorsement key", "this TPM holds no certificate of one",
                "enrol by the name of its attestation key, in an environment that you trust");
}

}  // namespace pavise::evidence
