#ifndef PAVISE_CLI_UNSEALING_H_
#define PAVISE_CLI_UNSEALING_H_

#include <string>

#include "pavise/base/progress.h"
#include "pavise/base/secret_bytes.h"
#include "pavise/cli/verb.h"
#include "pavise/vault/sealed_asset.h"

#include "absl/status/statusor.h"

namespace pavise::cli {

// Where an asset is unsealed to, as options say it.
struct UnsealingOptions {
  std::string directory;  // new
  std::string signature;  // for the asset's OMS signature; "": beside the directory
  std::string threads;
};

// Everything in the asset, or nothing (vault::UnlockedAsset::Unseal). kBindingMismatch: its
// signature signs another statement than its header names.
absl::StatusOr<Outcome> UnsealAsset(const vault::SealedAsset& asset, const SecretBytes& content_key,
                                    const UnsealingOptions& options, Progress& progress);

}  // namespace pavise::cli

#endif  // PAVISE_CLI_UNSEALING_H_
