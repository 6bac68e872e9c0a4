#include "pavise/cli/evidence_arguments.h"

#include "pavise/base/status.h"
#include "pavise/cli/options.h"

namespace pavise::cli {
namespace {

constexpr const char* kEvidenceGroup = "What is collected";

}  // namespace

void EvidenceArguments::Declare(CLI::App& app) {
  AddOption(app, "--tcti", tcti_, "TCTI",
            "which TPM: device:/dev/tpmrm0, tabrmd, swtpm:path=SOCKET [device:/dev/tpmrm0]",
            kEvidenceGroup);
  AddOption(app, "--ak", ak_, "ecc|ecc384|rsa|rsapss", "the kind of attestation key [ecc]",
            kEvidenceGroup);
  AddFlag(app, "--no-tpm", no_tpm_, "leave the TPM out", kEvidenceGroup);
  AddFlag(app, "--no-event-log", no_event_log_, "leave the firmware's event log out",
          kEvidenceGroup);
  AddFlag(app, "--no-ima-log", no_ima_log_, "leave the kernel's IMA log out", kEvidenceGroup);
  AddOption(app, "--event-log", options_.logs.event_log, "FILE",
            "the firmware's event log [of securityfs]", kEvidenceGroup);
  AddOption(app, "--ima-log", options_.logs.ima_log, "FILE", "the IMA log [of securityfs]",
            kEvidenceGroup);
  AddFlag(app, "--tee", options_.tee, "add the report of a confidential guest (SEV-SNP, TDX)",
          kEvidenceGroup);
  AddOption(app, "--tsm-report", options_.tsm_request, "DIRECTORY",
            "a report request of configfs-tsm that exists already and this user may write to [a "
            "new one, which root may make]",
            kEvidenceGroup);
  AddFlag(app, "--gpu", options_.gpus, "add the reports of NVIDIA GPUs", kEvidenceGroup);
}

absl::StatusOr<evidence::CollectionOptions> EvidenceArguments::Resolve() const {
  evidence::CollectionOptions options = options_;
  if (no_tpm_) options.tcti.reset();
  if (!tcti_.empty()) {
    if (no_tpm_) return UsageError("--tcti and --no-tpm contradict each other");
    options.tcti = tcti_;
  }
  if (!options.tsm_request.empty() && !options.tee) return UsageError("--tsm-report needs --tee");
  options.event_log = !no_event_log_;
  options.ima_log = !no_ima_log_;
  options.ak_kind = ak_ == "ecc384"   ? evidence::AkKind::kEcdsaP384
                    : ak_ == "rsa"    ? evidence::AkKind::kRsaSsa2048
                    : ak_ == "rsapss" ? evidence::AkKind::kRsaPss2048
                                      : evidence::AkKind::kEcdsaP256;
  if (!options.tcti.has_value() && !options.tee && !options.gpus) {
    return UsageError("nothing is left to collect: name --tee or --gpu beside --no-tpm");
  }
  return options;
}

}  // namespace pavise::cli
