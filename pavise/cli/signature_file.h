#ifndef PAVISE_CLI_SIGNATURE_FILE_H_
#define PAVISE_CLI_SIGNATURE_FILE_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pavise/cli/options.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/statement.h"
#include "pavise/signing/trust_policy.h"

#include "absl/status/statusor.h"

// Reading a signature file without the model (`inspect`, `diff`).
namespace pavise::cli {

struct SignatureFile {
  signing::Bundle bundle;
  signing::Statement statement;
  // Set when the signature was verified under the trust options; else the statement is hearsay.
  std::optional<signing::SignerIdentity> signer;
};

// With trust options the signature is verified before its statement is looked at; without any, form
// is all that is checked.
absl::StatusOr<SignatureFile> ReadSignatureFile(const std::string& path, const TrustOptions& trust);

// The lines above an unverified result.
inline constexpr std::string_view kNotVerified =
    "NOT VERIFIED: anybody can write such a file\n"
    "  give --public-key, --certificate-chain, --identity or --trust to have the signature "
    "checked\n";

}  // namespace pavise::cli

#endif  // PAVISE_CLI_SIGNATURE_FILE_H_
