#include "pavise/cli/signature_file.h"

#include "pavise/base/clock.h"
#include "pavise/base/file.h"

namespace pavise::cli {

absl::StatusOr<SignatureFile> ReadSignatureFile(const std::string& path,
                                                const TrustOptions& trust) {
  std::optional<signing::TrustPolicy> policy;
  if (trust.AnyGiven()) {
    PAVISE_ASSIGN_OR_RETURN(policy, trust.Resolve("", ""));
  } else if (!trust.model_name.empty() || trust.accept_expired_certificates) {
    return UsageError("--model-name and --accept-expired-certificates need a signer to trust");
  }
  SignatureFile file;
  PAVISE_ASSIGN_OR_RETURN(const Bytes text, ReadFile(path, signing::kMaxBundleBytes));
  PAVISE_ASSIGN_OR_RETURN(file.bundle, signing::ParseBundle(text, path));
  if (policy.has_value()) {
    PAVISE_ASSIGN_OR_RETURN(
        const signing::VerifiedStatement verified,
        signing::StatementVerifier::Verify(file.bundle, path, *policy, SystemClock()));
    file.statement = verified->statement;
    file.signer = verified->signer;
  } else {
    PAVISE_ASSIGN_OR_RETURN(file.statement, signing::ParseStatement(file.bundle.payload, path));
  }
  return file;
}

}  // namespace pavise::cli
