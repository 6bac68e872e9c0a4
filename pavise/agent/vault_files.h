#ifndef PAVISE_AGENT_VAULT_FILES_H_
#define PAVISE_AGENT_VAULT_FILES_H_

#include <string>

#include "pavise/agent/run.h"

namespace pavise::agent {

// SHA-256 of a file, read in pieces.
absl::StatusOr<Digest32> DigestOfFile(const std::string& path);

// Sealed files of docs/formats/sealed.md. Stateless; thread-safe.
class VaultFiles final : public RunVault {
 public:
  // kContentMismatch: another asset, another statement, another key; else as of
  // SealedAsset.
  absl::Status Unseal(const std::string& sealed, const SecretBytes& key,
                      const policy::Asset& expected, const std::string& directory,
                      const std::string& signature) override;
  // To no recipient: the content key goes to the broker. Names and sizes hidden. kFileTypeRefused:
  // a link, pipe, socket or device anywhere below; kLimitExceeded: more than 100,000 files or 64
  // levels; kFileMissing: no file; else as of vault::Seal.
  absl::StatusOr<SealedOutput> Seal(const std::string& path, const std::string& sealed) override;
};

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_VAULT_FILES_H_
